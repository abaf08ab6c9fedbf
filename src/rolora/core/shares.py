"""How much of a whole one may have: weights cut so that nobody's share is above a limit."""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate
from math import ceil, inf


def cap(weights: Collection[float], share: float) -> float:
    """The largest c with which no ``min(w_i, c)`` is more than `share` of their sum.

    Found as water is let out: the heaviest k are cut to ``c = share R / (1 - k share)`` with R the
    sum of the others, for the least k at which no other is above c. Where there are so few that one
    must have more than `share`, all are cut to the lightest, and count alike.

    Args:
        weights: above 0.
        share: in (0, 1].

    Returns:
        inf where nobody is above it: the weights stay as they are.
    """
    ordered = sorted(weights)
    sums = list(accumulate(ordered))  # of the lightest, which a heavy one's rounding does not touch
    if not ordered or ordered[-1] <= share * sums[-1] * (1 + 1e-9):
        return inf
    for k in range(1, len(ordered)):
        left = 1 - k * share
        if left <= 1e-9:
            break
        most = share * sums[-1 - k] / left
        if ordered[-1 - k] <= most * (1 + 1e-9):
            return most
    return ordered[0]


def count_of(share: float, n: int) -> int:
    """How many of `n` a share of them is, rounded up."""
    return ceil(round(share * n, 6))  # 0.28 * 25 is 7, but 7.000000000000001 in floats
