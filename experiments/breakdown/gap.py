"""How far the mean factors' product is from the mean of the clients' products."""

from __future__ import annotations

import math

import torch

from rolora.core.types import Failure, Update
from rolora.reducers.mean import Mean
from rolora.reducers.products import WeightedProducts


class Gap:
    """Watches the updates of a run whose clients upload both factors.

    After a round of updates ``(A_i, B_i)`` with weights w_i it notes
    ``|mean(B) mean(A) - mean(B A)|_F / |mean(B A)|_F`` over all modules together, means by weight;
    the scaling cancels. Where one factor travels there is no gap, and nothing is noted.

    Attributes:
        rounds: what was noted, one a round; NaN where the mean product is zero.
    """

    def __init__(self) -> None:
        self.rounds: list[float] = []
        self.seen: set[int] = set()
        self.mean, self.products = Mean(), WeightedProducts()

    def __call__(self, answer: Update | Failure) -> None:
        """Take one client's answer. A client that answers again opens the next round."""
        if isinstance(answer, Failure) or not {"A", "B"} <= answer.parts.parts:
            return
        if answer.client in self.seen:
            self.close()
        self.seen.add(answer.client)
        self.mean.add(answer)
        self.products.add(answer.parts, answer.mass, 1.0)

    def close(self) -> None:
        """The round is over; the last one needs to be told."""
        if not self.seen:
            return
        parts, off, size = self.mean.result().parts, 0.0, 0.0
        for module, (U, V) in self.products.result().items():
            product = U.double() @ V.double()
            of_means = parts[module, "B"].double() @ parts[module, "A"].double()
            off += float(torch.sum((of_means - product) ** 2))
            size += float(torch.sum(product**2))
        self.rounds.append(math.sqrt(off / size) if size > 0 else math.nan)
        self.seen, self.mean, self.products = set(), Mean(), WeightedProducts()
