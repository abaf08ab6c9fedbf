"""The few statistics a report needs, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, cos, pi, sin, sqrt

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
    n, mean = len(differences), float(np.mean(differences))
    std = float(np.std(differences, ddof=1)) if n > 1 else None
    if std is None or std <= 1e-12 * max(1.0, abs(mean)):
        return PairedDifference(mean, std, n, None, None, None)
    error = std / sqrt(n)
    margin = t_quantile(0.95, n - 1) * error
    p_value = 1 - t_within(abs(mean) / error, n - 1)
    return PairedDifference(mean, std, n, mean - margin, mean + margin, p_value)


def t_within(t: float, degrees: int) -> float:
    """Probability that Student's t with `degrees` degrees of freedom lies in ``[-t, t]``.

    Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even): a finite sum for whole degrees.
    """
    theta = atan2(t, sqrt(degrees))
    odd = degrees % 2
    term = cos(theta) if odd else 1.0
    total = 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cos(theta) ** 2 * (k - 1) / k
    return 2 / pi * (theta + sin(theta) * total) if odd else sin(theta) * total


def t_quantile(probability: float, degrees: int) -> float:
    """The t with ``t_within(t, degrees) = probability``, by bisection."""
    low, high = 0.0, 1.0
    while t_within(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, degrees) < probability else (low, middle)
    return high


def wilson_interval(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion seen as `share` of `n` trials (Wilson, 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    margin = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - margin), min(1.0, centre + margin)
