"""What is told of a run while it goes on: the terminal, trackers, and whatever a person adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rolora.config import Config
from rolora.core.types import Failure, Update
from rolora.records.schema import RoundRecord, Start, Summary


@dataclass(frozen=True)
class Begun:
    """A run of which everything is loaded.

    Args:
        directory: where it is written down.
        config: of the run.
        start: what ``start.json`` holds.
        data: the name of its data.
        sizes: each client's number of training examples.
        finished: rounds that an earlier process has done.
    """

    directory: Path
    config: Config
    start: Start
    data: str
    sizes: tuple[int, ...]
    finished: int


class Callback:
    """Told of a run; each method does nothing unless it is overridden.

    The calls come in the order ``begin``, then for every round ``answer`` of each client and
    ``round``, then ``end``; ``notice`` at any time, and ``close`` in any case as the last, also
    when the run is interrupted. An exception in one is told as a notice and ends the telling, not
    the run; it is closed at once. What is handed over is not to be changed.
    """

    def begin(self, run: Begun) -> None:
        """Everything is loaded, and the first round is next."""

    def answer(self, answer: Update | Failure) -> None:
        """A client answered."""

    def round(self, record: RoundRecord) -> None:
        """A round is done and written down."""

    def notice(self, text: str) -> None:
        """Something that a person should know."""

    def end(self, summary: Summary) -> None:
        """The run is finished, its test and all files with it."""

    def close(self) -> None:
        """There is nothing more to come from this process."""


class Callbacks(Callback):
    """Several callbacks as one; one that fails is told nothing more."""

    def __init__(self, callbacks: Iterable[Callback]):
        self._told = list(callbacks)

    def begin(self, run: Begun) -> None:
        """Tell all."""
        self._tell(lambda callback: callback.begin(run))

    def answer(self, answer: Update | Failure) -> None:
        """Tell all."""
        self._tell(lambda callback: callback.answer(answer))

    def round(self, record: RoundRecord) -> None:
        """Tell all."""
        self._tell(lambda callback: callback.round(record))

    def notice(self, text: str) -> None:
        """Tell all."""
        self._tell(lambda callback: callback.notice(text))

    def end(self, summary: Summary) -> None:
        """Tell all."""
        self._tell(lambda callback: callback.end(summary))

    def close(self) -> None:
        """Tell all."""
        self._tell(lambda callback: callback.close())

    def _tell(self, tell: Callable[[Callback], None]) -> None:
        for callback in list(self._told):
            try:
                tell(callback)
            except Exception as error:  # whatever it is, the run is worth more
                self._told.remove(callback)
                with suppress(Exception):
                    callback.close()
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                self.notice(f"{type(callback).__name__} is told no more of this run ({reason})")
