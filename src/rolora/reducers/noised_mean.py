"""The clipped sum with noise, over a fixed number: ``privacy`` with ``noise: server``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rolora.core.clipping import clipped, units
from rolora.core.types import Adapter, Layout, Part, Update, laid_out
from rolora.reducers.base import Reduced, Reducer

STEPS = 2**40
"""Of a clip. Whole numbers of steps add to the same sum in any order."""


class NoisedMean(Reducer[Reduced]):
    """``x_0 + c (sum_k clip((x_k - x_0) / c) + n) / m``, whatever the weights.

    What is clipped is cut to whole steps, towards zero, so that its length stays within 1.

    Args:
        start: x_0.
        layout: of the updates; nobody need send one.
        clip: c, for all parts or by part.
        expected: m, which does not depend on who came.
        noise: n, for the sum that it goes over; both in clips, float64 ``[size]``.
    """

    title = "clipped mean with noise"
    weighted = False

    def __init__(
        self,
        start: Adapter,
        layout: Layout,
        clip: float | Mapping[Part, float],
        expected: float,
        noise: Callable[[Tensor], Tensor],
    ):
        self.layout, self.expected, self.noise = layout, expected, noise
        self.origin = laid_out(start, layout).double()
        self.unit = units(layout, clip)
        self.steps = torch.zeros(layout.size, dtype=torch.int64)
        self.clients = 0

    @property
    def least(self) -> int:
        """An empty round is one, too."""
        return 0

    def add(self, update: Update) -> None:
        """Add one update."""
        if update.parts.layout != self.layout:
            raise ValueError("an update of another layout cannot be added")
        change = (update.parts.flat.double() - self.origin) / self.unit
        self.steps += (clipped(change[None])[0] * STEPS).trunc().long()
        self.clients += 1

    @property
    def total(self) -> Tensor:
        """The sum without noise, in clips."""
        return self.steps.double() / STEPS

    def result(self) -> Reduced:
        """The mean with noise."""
        total = self.total
        mean = self.origin + self.unit * (total + self.noise(total)) / self.expected
        return Reduced(Adapter(self.layout, mean.float()), self.clients)
