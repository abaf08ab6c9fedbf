"""FedIT: FedAvg of LoRA, both factors averaged (Zhang et al., 2023)."""

from __future__ import annotations

from collections.abc import Iterable

from rolora.core.algebra import weighted_mean
from rolora.core.types import ClientInfo, Plan, ServerState, Update
from rolora.methods.base import Method, written


class FedIT(Method):
    """Clients train both factors; ``A <- mean_i A_i`` and ``B <- mean_i B_i``.

    Inexact: ``mean(B_i) mean(A_i) != mean(B_i A_i)``. The paper's "LoRA" baseline.

    Source: Zhang et al., Towards Building the Federated GPT: Federated Instruction Tuning, 2023
    (arXiv 2305.05644).
    """

    title = "FedIT (FedAvg of LoRA)"
    travels = "A and B (both ways)"
    exact = "no"
    citation = "Zhang et al., ICASSP 2024 (arXiv 2305.05644)"

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Train and upload both factors."""
        return self.assign(state, client, train={"A", "B"}, upload={"A", "B"})

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """The mean of each factor by itself."""
        return written(state, weighted_mean(updates))
