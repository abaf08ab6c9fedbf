"""FedSA-LoRA: share A, keep B (Guo et al., 2025)."""

from __future__ import annotations

from rolora.core.types import ClientInfo, Part, Plan, ServerState
from rolora.methods.base import Method, written
from rolora.reducers import Reduced


class FedSALoRA(Method):
    """Clients train both factors and upload A only; every client keeps its own B.

    Personalised: ``B_i mean(A)`` is client i's model, there is no global one, and evaluation runs
    each client's model on its own held-out examples. Meant to be run with ``model.head: local``.

    Source: Guo et al., Selective Aggregation for Low-Rank Adaptation in Federated Learning,
    ICLR 2025 (arXiv 2410.01463).
    """

    title = "FedSA-LoRA"
    travels = "A (both ways); B stays with the client"
    exactness = "personalised"
    personal = True
    citation = "Guo et al., ICLR 2025 (arXiv 2410.01463)"

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Train both factors, upload A."""
        return self.assign(state, client, train={"A", "B"}, upload={"A"})

    def combine(self, start: ServerState, reduced: Reduced) -> ServerState:
        """``A <- mean_i A_i``."""
        return written(start, reduced.parts)

    def local(self) -> frozenset[Part]:
        """B, and the head where it is local."""
        return super().local() | {"B"}
