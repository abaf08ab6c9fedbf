"""Each label's counts, and the scores that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rolora.core.types import Sums
from rolora.records.detail import ClassRecord
from rolora.tasks.base import ratio


@dataclass(frozen=True)
class ByLabel:
    """How often each label was predicted, was true, and both."""

    both: Sequence[float]
    predicted: Sequence[float]
    actual: Sequence[float]

    @staticmethod
    def of(sums: Sums) -> ByLabel:
        """What sums of these three names say."""
        return ByLabel(sums["both"], sums["predicted"], sums["actual"])

    @property
    def marked(self) -> list[float]:
        """For each label, how often it was predicted and how often true, together."""
        return [p + a for p, a in zip(self.predicted, self.actual, strict=True)]

    def records(self, names: Sequence[str], n: float) -> tuple[ClassRecord, ...]:
        """The scores of each of `names` over `n` rows."""
        columns = zip(names, self.both, self.predicted, self.actual, strict=True)
        return tuple(
            ClassRecord(
                name=name,
                precision=ratio(both, predicted),
                recall=ratio(both, actual),
                f1=ratio(2 * both, predicted + actual),
                support=round(actual),
                predicted_share=ratio(predicted, n),
            )
            for name, both, predicted, actual in columns
        )


def f1(both: float, marked: float) -> float:
    """Twice what is right of what was predicted and what was true together; 0 of nothing."""
    return 2 * both / marked if marked else 0.0
