"""Signals that ask a process to end: turned into one exception, and held back while files change.

Python runs signal handlers in the main thread alone; elsewhere nothing here has an effect.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], None]


class Interrupted(KeyboardInterrupt):
    """One of :data:`ENDING` came.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise :class:`Interrupted` at the first signal to end; what follows does not disturb the end.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored.
    """
    came: list[int] = []

    def first(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append(number)
            raise Interrupted(number)

    with _handled_by(first):
        yield


@contextmanager
def shielded() -> Iterator[None]:
    """Hold signals to end back until the block is through; then they have their effect."""
    came: list[int] = []
    with _handled_by(lambda number, frame: came.append(number)):
        yield
    for number in came:
        signal.raise_signal(number)


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in ENDING}
    # None: the handler was not installed from Python, and could not be put back.
    changed = {n: old for n, old in before.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in changed:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in changed.items():
            signal.signal(number, old)
