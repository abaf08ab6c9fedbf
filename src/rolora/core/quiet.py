"""The one place that keeps what other libraries say to a terminal off it."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partialmethod
from typing import Any

_TALKATIVE = (
    *("transformers", "peft", "datasets", "huggingface_hub", "accelerate"),
    *("lm_eval", "absl"),
)


class _Together:
    """A context that threads share: the first to come enters it, the last to go leaves it.

    What it changes is the process's. If each thread put back what it had found, one that came
    while another was inside would put back what the other had changed, for good.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]):
        self.make, self.lock, self.inside = make, threading.Lock(), 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.context = self.make()
                self.context.__enter__()
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    self.context.__exit__(None, None, None)


@contextmanager
def _muted() -> Iterator[None]:
    from tqdm import tqdm
    from transformers.utils import logging as transformers_logging

    bar: Any = tqdm  # which some draw without asking anybody's switch
    drawn = bar.__init__
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    datasets = sys.modules.get("datasets")  # slow to import, and mute until somebody has
    data_bars = datasets is not None and not datasets.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        transformers_logging.disable_progress_bar()
        if datasets is not None:
            datasets.disable_progress_bars()
        bar.__init__ = partialmethod(drawn, disable=True)
        try:
            yield
        finally:
            bar.__init__ = drawn
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars:
                transformers_logging.enable_progress_bar()
            if datasets is not None and data_bars:
                datasets.enable_progress_bars()


_together = _Together(_muted)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars, warnings and load reports of other libraries off the terminal.

    What they raise is raised, and what they log as an error is shown. It goes around calls of
    theirs alone, so that no warning of ours is lost. Threads may be inside at the same time.
    """
    with _together():
        yield
