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


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion seen as `share` of `n` trials (Wilson, 1927)."""
    from scipy import stats

    low, high = stats.binomtest(round(share * n), n).proportion_ci(0.95, method="wilson")
    return float(low), float(high)
