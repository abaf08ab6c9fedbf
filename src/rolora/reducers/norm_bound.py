"""The mean of changes that are cut to the median length (Sun et al., 2019)."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from rolora.core.types import EMPTY, Adapter, laid_out
from rolora.reducers.gathered import Gathered, columnwise, distances


class NormBound(Gathered):
    """The weighted mean of the changes since the round's start, each at most as long as their
    median (the lower of two): ``x_0 + sum_k w_k min(1, m / |x_k - x_0|) (x_k - x_0) / sum_k w_k``.

    The median counts every client once, and the mean weighs by ``server.weighting``: it stays the
    run's own mean where nobody stands out. What it bounds is a client's length times its weight, so
    ``federation.max_share`` goes with it.

    Source: Sun et al., Can You Really Backdoor Federated Learning?, 2019 (arXiv 1911.07963),
    section 5, with the threshold taken from the round itself.

    Args:
        start: what the clients started from.
    """

    title = "norm bounding"
    weighted = True

    def __init__(self, start: Adapter = EMPTY):
        super().__init__()
        self.start = start

    @classmethod
    def of(cls, options: Any, clients: int, start: Adapter) -> Self:
        """For a round that starts from `start`."""
        return cls(start)

    def reduced(self, rows: Tensor) -> Tensor:
        """The mean."""
        origin = laid_out(self.start, self.layout)
        lengths = distances(rows, origin)
        cut = (lengths.median() / lengths.clamp_min(1e-300)).clamp_max(1.0)
        weights = torch.tensor([update.mass for update in self.ordered], dtype=torch.float64)
        shares = cut * weights / weights.sum()
        both, shares = torch.cat([rows, origin[None]]), torch.cat([shares, 1 - shares.sum()[None]])
        return columnwise(both, shares.matmul)
