"""The weighted mean of the clients' products ``s_k B_k A_k``, streamed as stacked factors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor

from rolora.core.algebra import compress, stacked_factors
from rolora.core.types import Adapter, Part, Update
from rolora.reducers.base import Reducer
from rolora.reducers.mean import Mean


class WeightedProducts:
    """The streaming weighted mean of ``s_k B_k A_k`` per module, as stacked factors.

    The factors may differ in rank. A stack wider than the matrix itself is compressed, so memory
    stays bounded by two dense matrices a module.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self.stacks: dict[str, list[tuple[float, Tensor, Tensor]]] = {}

    def add(self, parts: Adapter, weight: float, scaling: float) -> None:
        """Add one client's products."""
        self.weight += weight
        for module in parts.select({"A"}).modules:
            B, A = parts[module, "B"], parts[module, "A"]
            stack = self.stacks.setdefault(module, [])
            stack.append((weight * scaling, B, A))
            width = sum(item[1].shape[1] for item in stack)
            if width > 2 * min(B.shape[0], A.shape[1]):
                self.stacks[module] = [(1.0, *compress(*stacked_factors(stack)))]

    def result(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Per module ``U [d_out, q]`` and ``V [q, d_in]`` with ``U V`` the weighted mean.

        Raises:
            ValueError: nothing was added.
        """
        if not self.stacks:
            raise ValueError("no updates to average")
        means = {}
        for module, stack in self.stacks.items():
            U, V = stacked_factors(stack)
            means[module] = (U / self.weight, V)
        return means


@dataclass(frozen=True)
class ReducedProducts:
    """The mean product of every module, and the mean of other parts.

    Args:
        products: per module ``U [d_out, q]`` and ``V [q, d_in]`` with ``U V`` the weighted mean.
        parts: the plain mean of the parts that were asked for.
    """

    products: dict[str, tuple[Tensor, Tensor]]
    parts: Adapter


class Products(Reducer[ReducedProducts]):
    """The mean of ``s_k B_k A_k``, for methods that need each client's factors.

    Args:
        scaling: of a rank, ``lora_alpha / r``.
        averaged: parts of which the plain mean is wanted too.
    """

    title = "mean of products"

    def __init__(self, scaling: Callable[[int], float], averaged: Collection[Part]):
        self.scaling, self.averaged = scaling, frozenset(averaged)
        self.products, self.mean = WeightedProducts(), Mean()

    def add(self, update: Update) -> None:
        """Add one update, whose factors may be of another rank than the others'."""
        rank = rank_of(update.parts)
        self.products.add(update.parts, update.mass, self.scaling(rank))
        self.mean.add_parts(update.parts.select(self.averaged), update.mass)

    def result(self) -> ReducedProducts:
        """The means."""
        return ReducedProducts(self.products.result(), self.mean.result().parts)


def rank_of(parts: Adapter) -> int:
    """The LoRA rank of an adapter that holds A.

    Raises:
        ValueError: it holds no A.
    """
    for (_, part), tensor in parts.items():
        if part == "A":
            return tensor.shape[0]
    raise ValueError("the adapter holds no factor A")
