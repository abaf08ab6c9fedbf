"""The gauge: give the factor about to be frozen an orthonormal basis, at no cost in bytes."""

from __future__ import annotations

from typing import cast

import torch

from rolora.core.algebra import orthonormalise
from rolora.core.rules import ClientRule
from rolora.core.types import Adapter, Factor, Plan


class Gauge(ClientRule):
    """Every client, and the server, makes the frozen factor orthonormal by itself.

    Two of them that ask for the same factors, as the server and the clients of one process do, get
    one decomposition.
    """

    def __init__(self) -> None:
        self._last: tuple[Factor, Adapter, Adapter] | None = None

    def shared(self, plan: Plan, parts: Adapter) -> Adapter:
        """The parts with the factor that `plan` derives made orthonormal."""
        (frozen,) = plan.derives
        return parts.overwrite(self.fixed(parts.select({"A", "B"}), cast(Factor, frozen)))

    def fixed(self, factors: Adapter, frozen: Factor) -> Adapter:
        """:func:`rolora.core.algebra.orthonormalise`, once for the same factors."""
        last = self._last
        if last is None or last[0] != frozen or not _same(last[1], factors):
            last = self._last = (frozen, factors, orthonormalise(factors, frozen))
        return last[2]


def _same(a: Adapter, b: Adapter) -> bool:
    return a.layout == b.layout and torch.equal(a.flat, b.flat)
