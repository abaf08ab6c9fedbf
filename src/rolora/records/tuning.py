"""What a search for learning rates found, as it is written down."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rolora.records.base import FileRecord, Record, Score
from rolora.records.schema import TaskRecord


class TriedRate(Record):
    """A learning rate: by number of rounds, the validation score at every tuning seed by the task's
    first metric; None where the run failed.
    """

    rate: float
    scores: dict[str, dict[str, Score]]

    @property
    def rounds(self) -> int:
        """How far it was run."""
        return max(map(int, self.scores))

    def mean(self, rung: int) -> float | None:
        """Over the seeds, after `rung` rounds; None where it did not get there, or a run failed."""
        values = list(self.scores.get(str(rung), {}).values())
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known and len(known) == len(values) else None


class TunedMethod(Record):
    """A method's learning rate.

    Args:
        title: of the method.
        rate: the best; None: every run failed.
        rung: the rounds after which it was chosen.
        at_end: whether it lies at an end of what was tried.
        tried: ascending.
    """

    title: str
    rate: float | None
    rung: int
    at_end: bool
    tried: tuple[TriedRate, ...]

    @property
    def best(self) -> TriedRate | None:
        """The best rate with its scores."""
        return next((one for one in self.tried if one.rate == self.rate), None)

    def curves(self) -> Iterator[tuple[int, list[float], list[float]]]:
        """The mean score over the rates that got there, for each number of rounds, ascending."""
        for rung in sorted({int(rung) for one in self.tried for rung in one.scores}):
            seen = [(one.rate, mean) for one in self.tried if (mean := one.mean(rung)) is not None]
            yield rung, [rate for rate, _ in seen], [mean for _, mean in seen]


class Tuning(FileRecord):
    """``tuning.json``.

    Args:
        data, model, task: what was tuned on.
        rounds: of a whole run.
        seeds: at which rates were compared.
        methods: by name.
        trained: rounds that were run for it, over methods, rates and seeds.
        full: rounds of all rates to the end.
    """

    data: str
    model: str
    task: TaskRecord
    rounds: int
    seeds: tuple[int, ...]
    methods: dict[str, TunedMethod]
    trained: int
    full: int
