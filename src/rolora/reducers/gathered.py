"""What the robust rules share: a round's updates side by side, and distances between them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from rolora.core.shares import count_of
from rolora.core.types import Adapter, Layout, Update
from rolora.reducers.base import Reduced, Reducer, ReducerOptions

COLUMNS = 1 << 16
"""Coordinates that are computed with in double precision at a time."""


class Gathered(Reducer[Reduced]):
    """A rule over all updates of a round, which it holds: ``[n, d]`` in float32.

    Each client counts once, whatever its weight: one that claims many examples gets no more say.
    Rows lie in the order of the clients' numbers, in whatever order they came, so that the result
    is the same bit for bit. All uploaded parts lie in one row, the active factor's and a trained
    head's. With one active factor the rule is over the products in the basis of the frozen and
    shared one, which is multiplied after it.
    """

    weighted = False

    def __init__(self) -> None:
        self.updates: list[Update] = []

    def add(self, update: Update) -> None:
        """Take one update."""
        if self.updates and update.parts.layout != self.updates[0].parts.layout:
            raise ValueError("adapters of different layouts have no common coordinates")
        self.updates.append(update)

    def result(self) -> Reduced:
        """What the rule makes of them."""
        if len(self.updates) < self.least:
            raise ValueError(
                f"no updates to reduce: the {self.title} needs {self.least}, "
                f"{len(self.updates)} came"
            )
        rows = torch.stack([update.parts.flat for update in self.ordered])
        return Reduced(Adapter(self.layout, self.reduced(rows)), len(rows))

    @property
    def ordered(self) -> list[Update]:
        """The updates in the order of their rows."""
        return sorted(self.updates, key=lambda update: update.client)

    @property
    def layout(self) -> Layout:
        """Of every update."""
        return self.updates[0].parts.layout

    @abstractmethod
    def reduced(self, rows: Tensor) -> Tensor:
        """The rule: ``[n, d]`` to ``[d]``, in float32."""


class ByzantineOptions(ReducerOptions):
    """`byzantine` is the share of a round's clients that may send whatever they like: of n that are
    asked, ``f = ceil(byzantine n)``. Fewer honest updates than the rule needs are no round.
    """

    byzantine: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.2

    def among(self, clients: int) -> int:
        """How many of `clients` that are."""
        return count_of(self.byzantine, clients)


class Withstanding(Gathered):
    """A rule that is told how many clients to withstand.

    Args:
        f: that many.
    """

    Options: ClassVar[type[ReducerOptions]] = ByzantineOptions

    def __init__(self, f: int):
        super().__init__()
        self.f = f

    @classmethod
    def of(cls, options: Any, clients: int, start: Adapter) -> Self:
        """For a round in which `clients` are asked."""
        return cls(options.among(clients))

    @property
    def least(self) -> int:
        """More honest ones than others."""
        return 2 * self.f + 1


def columnwise(rows: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
    """`rule` over some columns of ``[n, d]`` at a time, in double precision, in which no sum of
    float32 overflows.

    Args:
        rule: ``[n, c]`` to ``[..., c]``.
    """
    pieces = [rule(piece.double()).float() for piece in rows.split(COLUMNS, dim=1)]
    return torch.cat(pieces, dim=-1)


def mean(rows: Tensor) -> Tensor:
    """The plain mean of ``[n, d]``."""
    return columnwise(rows, lambda piece: piece.mean(0))


def squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """``|x_i - y_j|^2`` of ``[n, d]`` and ``[m, d]``, float64 ``[n, m]``, from the differences
    themselves: a liar's length takes no digits from the others' distances.
    """
    total = torch.zeros(len(rows), len(others), dtype=torch.float64)
    exact = "donot_use_mm_for_euclid_dist"
    for x, y in zip(rows.split(COLUMNS, dim=1), others.split(COLUMNS, dim=1), strict=True):
        total += torch.cdist(x.double(), y.double(), compute_mode=exact).square()
    return total


def distances(rows: Tensor, point: Tensor) -> Tensor:
    """From each of ``[n, d]`` to ``[d]``, float64 ``[n]``."""
    return torch.sqrt(squared_distances(rows, point[None])[:, 0])
