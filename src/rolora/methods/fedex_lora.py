"""FedEx-LoRA: average both factors, add the residual to the base (Singhal et al., 2025)."""

from __future__ import annotations

import torch

from rolora.core.types import ClientInfo, Plan, ServerState
from rolora.methods.base import Method, with_increment, written
from rolora.reducers.products import Products, ReducedProducts


class FedExLoRA(Method):
    """``A <- mean_i A_i``, ``B <- mean_i B_i``, ``W <- W + s (mean(B_i A_i) - mean(B) mean(A))``.

    The residual makes the aggregate exact. It is the product of the clients' factors stacked
    beside minus the means', and travels so, or as the whole ``D = W - W_0`` where that is smaller
    or the client missed a round.

    Source: Singhal et al., FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning
    of Foundation Models, ACL 2025 (arXiv 2410.09432).
    """

    title = "FedEx-LoRA"
    travels = "up: A and B; down: A and B and the residual's factors"
    exactness = "yes"
    merges = True
    reduction = "each"
    citation = "Singhal et al., ACL 2025 (arXiv 2410.09432)"

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Train and upload both factors."""
        return self.assign(state, client, train={"A", "B"}, upload={"A", "B"})

    def reducer(self) -> Products:
        """The mean product, and the mean of everything sent."""
        return Products(self.scaling, averaged={"A", "B", "head"})

    def combine(self, start: ServerState, reduced: ReducedProducts) -> ServerState:
        """The means, and the residual merged into the base."""
        s, mean = self.scaling(self.setting.max_rank), reduced.parts
        residual = {
            module: (
                torch.cat([U, -s * mean[module, "B"]], dim=1),
                torch.cat([V, mean[module, "A"]], dim=0),
            )
            for module, (U, V) in reduced.products.items()
        }
        return with_increment(written(start, mean), residual)
