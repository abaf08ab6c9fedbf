"""FedIT: FedAvg of LoRA, both factors averaged (Zhang et al., 2023)."""

from __future__ import annotations

from rolora.core.types import ClientInfo, Plan, ServerState
from rolora.methods.base import Method, written
from rolora.reducers import Reduced


class FedIT(Method):
    """Clients train both factors; ``A <- mean_i A_i`` and ``B <- mean_i B_i``.

    Inexact: ``mean(B_i) mean(A_i) != mean(B_i A_i)``. The paper's "LoRA" baseline.

    Source: Zhang et al., Towards Building the Federated GPT: Federated Instruction Tuning, 2023
    (arXiv 2305.05644).
    """

    title = "FedIT (FedAvg of LoRA)"
    travels = "A and B (both ways)"
    exactness = "no"
    citation = "Zhang et al., ICASSP 2024 (arXiv 2305.05644)"

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Train and upload both factors."""
        return self.assign(state, client, train={"A", "B"}, upload={"A", "B"})

    def combine(self, start: ServerState, reduced: Reduced) -> ServerState:
        """The mean of each factor by itself."""
        return written(start, reduced.parts)
