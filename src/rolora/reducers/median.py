"""The coordinate median: what no minority of clients can move far (Yin et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from rolora.core.types import Adapter, Layout, Update
from rolora.reducers.base import Reduced, Reducer


class Median(Reducer[Reduced]):
    """Every coordinate by itself: the middle of the clients' values, or the mean of the two middle.

    Each client counts once, whatever its weight: a client that claims many examples gets no more
    say. It holds all updates of a round. Of a frozen and shared factor the product is taken
    after it, so that with one active factor the median is of the products' coordinates in that
    factor's basis.

    Source: Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
    ICML 2018 (arXiv 1803.01498), Algorithm 1, option I.
    """

    title = "coordinate median"
    weighted = False

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.rows: list[Tensor] = []

    def add(self, update: Update) -> None:
        """Take one update; its weight has no part in it."""
        if self.layout is None:
            self.layout = update.parts.layout
        elif update.parts.layout != self.layout:
            raise ValueError("adapters of different layouts have no median")
        self.rows.append(update.parts.flat)

    def result(self) -> Reduced:
        """The median."""
        if self.layout is None:
            raise ValueError("no updates to take the median of")
        ordered = torch.stack(self.rows).sort(dim=0).values
        n = len(ordered)
        middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
        return Reduced(Adapter(self.layout, middle), n)
