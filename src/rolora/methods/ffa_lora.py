"""FFA-LoRA: freeze A for good, train B (Sun et al., 2024)."""

from __future__ import annotations

from rolora.core.types import ClientInfo, Plan, ServerState
from rolora.methods.base import Method, written
from rolora.reducers import Reduced


class FFALoRA(Method):
    """A keeps its random initial value; clients train and upload B; ``B <- mean_i B_i``.

    Exact, since ``mean(B_i) A = mean(B_i A)``, but the update cannot leave A's random subspace.

    Source: Sun et al., Improving LoRA in Privacy-preserving Federated Learning, ICLR 2024
    (arXiv 2403.12313).
    """

    title = "FFA-LoRA"
    travels = "B (both ways)"
    exactness = "yes"
    citation = "Sun et al., ICLR 2024 (arXiv 2403.12313)"

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Train and upload B."""
        return self.assign(state, client, train={"B"}, upload={"B"})

    def combine(self, start: ServerState, reduced: Reduced) -> ServerState:
        """``B <- mean_i B_i``."""
        return written(start, reduced.parts)
