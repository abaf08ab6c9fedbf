"""The coordinate median: what no minority of clients can move far (Yin et al., 2018)."""

from __future__ import annotations

from torch import Tensor

from rolora.reducers.gathered import Gathered, columnwise


class Median(Gathered):
    """Every coordinate by itself: the middle of the clients' values, or the mean of the two middle.

    Source: Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
    ICML 2018 (arXiv 1803.01498), Algorithm 1, option I.
    """

    title = "coordinate median"

    def reduced(self, rows: Tensor) -> Tensor:
        """The median."""
        return median(rows)


def median(rows: Tensor) -> Tensor:
    """The coordinate median of ``[n, d]``."""

    def middle(piece: Tensor) -> Tensor:
        ordered, n = piece.sort(dim=0).values, len(piece)
        return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2

    return columnwise(rows, middle)
