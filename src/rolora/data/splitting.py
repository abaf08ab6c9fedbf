"""What is held out, and what a limit keeps: drawn from the seed, label by label."""

from __future__ import annotations

from typing import Any

import numpy as np

from rolora.config import PartitionConfig
from rolora.core.errors import BadInput
from rolora.core.seeds import numpy_generator
from rolora.data.raw import RawRows


def hold_out(
    data: RawRows, by: PartitionConfig, fraction: float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that stay and the rows held out: `fraction` of each stratum, at least one text.

    Rows of identical text (and pair) are one group, held out or not as a whole, in the stratum
    of the first. No stratum loses its last group, and no value of the partition's field the rows
    that its client needs.
    """
    rng = numpy_generator(seed, name)
    ids: dict[tuple[Any, ...], int] = {}
    group = np.array([ids.setdefault(key, len(ids)) for key in data.identities])
    size = np.bincount(group)
    rows = np.split(np.argsort(group, kind="stable"), size.cumsum()[:-1])
    stratum = data.strata[np.unique(group, return_index=True)[1]]
    value, least = _values(data, by)
    spare = np.bincount(value) - least
    held = np.zeros(len(size), dtype=bool)
    for c in np.unique(stratum):
        groups = rng.permutation(np.flatnonzero(stratum == c))
        target, taken, left = max(1, round(fraction * size[groups].sum())), 0, len(groups)
        for g in groups:
            if taken >= target or left == 1:
                break
            loss = np.bincount(value[rows[g]], minlength=len(spare))
            if (loss <= spare).all():
                held[g], spare, taken, left = True, spare - loss, taken + size[g], left - 1
    if not held.any():
        raise BadInput(
            f"data: {len(data)} examples are too few to split {name} off: no label has two texts"
            + (f", or no value of {by.by!r} can spare one" if by.by else "")
        )
    return np.flatnonzero(~held[group]), np.flatnonzero(held[group])


def _values(data: RawRows, by: PartitionConfig) -> tuple[np.ndarray, int]:
    """The number of each row's value of the partition's field, and how many rows of each value
    are to be trained on.
    """
    if by.by is None:
        return np.zeros(len(data), dtype=np.int64), 0
    numbers: dict[Any, int] = {}
    value = [numbers.setdefault(v, len(numbers)) for v in data.fields[by.by]]
    return np.array(value), by.min_examples


def draw(data: RawRows, by: PartitionConfig, limit: int, seed: int) -> np.ndarray:
    """`limit` rows, each stratum's share kept to within one; first those that every value of the
    partition's field needs.
    """
    value, least = _values(data, by)
    order = numpy_generator(seed, "limit", "field").permutation(len(data))
    needed = [order[value[order] == v][:least] for v in range(value.max() + 1)] if least else []
    first = np.concatenate([*needed, np.zeros(0, np.int64)])
    if len(first) > limit:
        raise BadInput(
            f"data.limit = {limit}: too few for the {len(needed)} values of partition.field = "
            f"{by.by!r}, of each of which partition.min_examples = {least} are trained on"
        )
    rest = np.setdiff1d(np.arange(len(data)), first)
    rng, strata, limit = numpy_generator(seed, "limit"), data.strata[rest], limit - len(first)
    exact = np.bincount(strata) * limit / len(strata)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: limit - quota.sum()]] += 1
    drawn = [rest[rng.permutation(np.flatnonzero(strata == c))[:q]] for c, q in enumerate(quota)]
    return np.sort(np.concatenate([first, *drawn]))
