"""The few statistics a report needs, from scipy, with what it leaves open decided.

scipy.stats is imported where it is used: it takes as long as all of rolora's own files together,
and most commands draw no report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Description:
    """Mean and standard deviation (``ddof = 1``; None below two values) of `n` values."""

    mean: float | None
    std: float | None
    n: int


def describe(values: Sequence[float]) -> Description:
    """Mean, standard deviation and number of `values`."""
    n = len(values)
    return Description(
        mean=float(np.mean(values)) if n else None,
        std=float(np.std(values, ddof=1)) if n > 1 else None,
        n=n,
    )


@dataclass(frozen=True)
class PairedDifference:
    """Paired differences: mean, standard deviation, 95 % interval and p-value of the t-test.

    Interval and p-value are None below two pairs, or where all differences are equal: then the
    spread from seed to seed, which they rest on, is not known.
    """

    mean: float
    std: float | None
    n: int
    low: float | None
    high: float | None
    p_value: float | None


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Student's paired t-test of `differences` (at least one) against zero, two-sided."""
    from scipy import stats

    n, mean = len(differences), float(np.mean(differences))
    std = float(np.std(differences, ddof=1)) if n > 1 else None
    if std is None or std <= 1e-12 * max(1.0, abs(mean)):
        return PairedDifference(mean, std, n, None, None, None)
    test = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(0.95)
    return PairedDifference(mean, std, n, float(low), float(high), float(test.pvalue))


FEWEST_SEEDS = 5
"""With fewer nothing is decided: a t-test on two or three pairs rests on their spread's luck."""


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values after Holm's correction for their number; None, a test without a result, counts
    as one that was made.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics, 1979.
    """
    left, least = len(p_values), 0.0
    corrected: list[float | None] = [None] * left
    known = [(p, place) for place, p in enumerate(p_values) if p is not None]
    for p, place in sorted(known):
        least = max(least, min(1.0, left * p))
        corrected[place], left = least, left - 1
    return corrected


@dataclass(frozen=True)
class Curve:
    """Scores as they were measured, and the bytes sent until then, ascending; one at least."""

    sent: Sequence[float]
    scores: Sequence[float]

    def mean_between(self, low: float, high: float) -> float:
        """The area under the scores, linear between measurements, over its width."""
        inside = [at for at in self.sent if low < at < high]
        at = np.array([low, *inside, high])
        heights = np.interp(at, self.sent, self.scores)
        return float(np.trapezoid(heights, at) / (high - low))

    def at(self, sent: float) -> float:
        """The score when so many bytes were sent, linear between measurements; before the first
        and after the last one theirs.
        """
        return float(np.interp(sent, self.sent, self.scores))

    def first_at(self, score: float, higher_is_better: bool = True) -> float | None:
        """The bytes at the first measurement that is as good; None: it never was."""
        sign = 1.0 if higher_is_better else -1.0
        pairs = zip(self.sent, self.scores, strict=True)
        return next((at for at, seen in pairs if sign * seen >= sign * score), None)


def mean_over_bytes(curves: Sequence[Curve]) -> list[float | None]:
    """Each curve's mean score over the bytes that all of them cover, so that they compare: from
    the last one's first measurement to the first one's last. None where that is no stretch.
    """
    low = max(curve.sent[0] for curve in curves)
    high = min(curve.sent[-1] for curve in curves)
    return [curve.mean_between(low, high) if low < high else None for curve in curves]


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion seen as `share` of `n` trials (Wilson, 1927)."""
    from scipy import stats

    low, high = stats.binomtest(round(share * n), n).proportion_ci(0.95, method="wilson")
    return float(low), float(high)
