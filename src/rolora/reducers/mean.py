"""The weighted mean, streamed."""

from __future__ import annotations

import torch

from rolora.core.types import Adapter, Layout, Update
from rolora.reducers.base import Reduced, Reducer


class Mean(Reducer[Reduced]):
    """``sum_k w_k x_k / sum_k w_k``: one flat accumulator, however many updates are added."""

    title = "weighted mean"

    def __init__(self) -> None:
        self.weight = 0.0
        self.clients = 0
        self.layout: Layout | None = None
        self.total = torch.zeros(0)

    def add(self, update: Update) -> None:
        """Add one update, by its weight."""
        self.add_parts(update.parts, update.mass)

    def add_parts(self, parts: Adapter, weight: float) -> None:
        """Add one adapter.

        Raises:
            ValueError: its layout is not that of the first.
        """
        if self.layout is None:
            self.layout, self.total = parts.layout, torch.zeros_like(parts.flat)
        elif parts.layout != self.layout:
            raise ValueError("adapters of different layouts cannot be averaged")
        self.total.add_(parts.flat, alpha=weight)
        self.weight += weight
        self.clients += 1

    def result(self) -> Reduced:
        """The mean."""
        if self.layout is None:
            raise ValueError("no updates to average")
        return Reduced(Adapter(self.layout, self.total / self.weight), self.clients)
