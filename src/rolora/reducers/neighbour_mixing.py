"""Nearest-neighbour mixing before another rule (Allouah et al., 2023)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from rolora.core.types import Adapter
from rolora.reducers.base import ReducerOptions
from rolora.reducers.gathered import (
    ByzantineOptions,
    Gathered,
    Withstanding,
    columnwise,
    squared_distances,
)
from rolora.reducers.geometric_median import GeometricMedian
from rolora.reducers.krum import Krum, MultiKrum
from rolora.reducers.median import Median
from rolora.reducers.trimmed_mean import TrimmedMean

THEN: dict[str, type[Gathered]] = {
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "geometric_median": GeometricMedian,
    "krum": Krum,
    "multi_krum": MultiKrum,
}


class MixingOptions(ByzantineOptions):
    """`then` names the rule for the mixed updates, which withstands as many clients."""

    then: Literal["median", "trimmed_mean", "geometric_median", "krum", "multi_krum"] = (
        "trimmed_mean"
    )


class NeighbourMixing(Withstanding):
    """Each update is replaced by the mean of its ``n - f`` nearest, itself among them; then another
    rule. With data that differ from client to client that is what makes the rule's error optimal.

    Source: Allouah et al., Fixing by Mixing: A Recipe for Optimal Byzantine ML under
    Heterogeneity, AISTATS 2023 (arXiv 2302.01772), Algorithm 2.

    Args:
        f: how many clients to withstand.
        then: the rule for the mixed updates.
    """

    Options: ClassVar[type[ReducerOptions]] = MixingOptions
    title = "nearest-neighbour mixing"

    def __init__(self, f: int, then: Gathered):
        super().__init__(f)
        self.then = then

    @classmethod
    def of(cls, options: Any, clients: int, start: Adapter) -> Self:
        """For a round in which `clients` are asked."""
        return cls(options.among(clients), THEN[options.then].of(options, clients, start))

    @property
    def least(self) -> int:
        """What both need."""
        return max(super().least, self.then.least)

    def reduced(self, rows: Tensor) -> Tensor:
        """The other rule over the mixed updates."""
        return self.then.reduced(mixed(rows, self.f))


def mixed(rows: Tensor, f: int) -> Tensor:
    """The mean of the ``n - f`` nearest of each of ``[n, d]``; of several as near, the first."""
    nearest = squared_distances(rows, rows).argsort(dim=1, stable=True)[:, : len(rows) - f]
    share = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    share.scatter_(1, nearest, 1 / nearest.shape[1])
    return columnwise(rows, share.matmul)
