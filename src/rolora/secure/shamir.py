"""A secret shared among many, of whom any `threshold` can put it together, and fewer know nothing.

Shamir, How to Share a Secret, CACM 22(11), 1979, over the integers modulo the prime 2^255 - 19.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping

PRIME = 2**255 - 19
BYTES = 32
"""Of a secret, and of a share."""


def fresh() -> int:
    """A new secret, of the operating system's randomness."""
    return secrets.randbelow(PRIME)


def deal(secret: int, threshold: int, holders: Collection[int]) -> dict[int, int]:
    """A share for each holder: the value at its number of a polynomial of degree `threshold` - 1
    that is random but for its value at 0, the secret.

    Args:
        holders: their numbers, none of them 0.
    """
    coefficients = [secret, *(fresh() for _ in range(threshold - 1))]
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * holder + coefficient) % PRIME
        shares[holder] = value
    return shares


def at(point: int, shares: Mapping[int, int]) -> int:
    """The value at `point` of the polynomial through `shares`: at 0 it is the secret."""
    total = 0
    for holder, value in shares.items():
        above, below = 1, 1
        for other in shares:
            if other != holder:
                above = above * (point - other) % PRIME
                below = below * (holder - other) % PRIME
        total += value * above * pow(below, -1, PRIME)
    return total % PRIME


def together(
    shares: Mapping[int, int], threshold: int, fits: Callable[[int], bool]
) -> tuple[int, list[int]] | None:
    """The secret, and the holders whose share is not of it; None where it cannot be had.

    Where some shares are false, others are tried: `threshold` neighbours among the holders, from
    each on.

    Args:
        shares: by holder.
        threshold: how many it takes.
        fits: whether a secret is the right one.
    """
    holders = sorted(shares)
    for first in range(len(holders) if len(holders) >= threshold else 0):
        some = {holder: shares[holder] for holder in (holders * 2)[first : first + threshold]}
        secret = at(0, some)
        if fits(secret):
            return secret, [h for h in holders if at(h, some) != shares[h]] if first else []
    return None
