"""FedSVD: train B, and give A the right singular vectors of BA (Lee et al., 2025)."""

from __future__ import annotations

from torch import Tensor

from rolora.core.algebra import principal_factors
from rolora.core.errors import BadInput
from rolora.core.types import ClientInfo, Key, Plan, ServerState
from rolora.methods.base import Method, refuse_persist, written
from rolora.reducers import Reduced


class FedSVD(Method):
    """Clients train B alone; the server takes the SVD of ``mean_i(B_i) A = U S V^T``, and
    ``A <- V^T``, ``B <- U S``.

    Exact: A is frozen and shared in a round, and the SVD at the rank of its factors changes no
    product. A's rows are orthonormal from round 2 on, which bounds B's gradient: that is what the
    method is for under differential privacy. The row space of A is that of its random start for
    ever, as in FFA-LoRA, for the rows of ``B A`` lie in it; where the product has a smaller rank,
    the rows of A that it leaves open are taken from that space too, while the published code takes
    whatever LAPACK has of the whole space.

    Both factors travel down, as their signs and, where singular values are close, their basis are
    not the same on every machine.

    Source: Lee et al., FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA,
    NeurIPS 2025 (arXiv 2505.12805): the abstract, and the authors' code, whose settings are an SVD
    in every round and an optimiser that begins anew; the algorithm in the paper was not at hand.
    """

    title = "FedSVD"
    travels = "up: B; down: A and B"
    exactness = "yes"
    citation = "Lee et al., NeurIPS 2025 (arXiv 2505.12805)"
    rewrites = frozenset({"A"})

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Train and upload B."""
        return self.assign(state, client, train={"B"}, upload={"B"})

    def combine(self, start: ServerState, reduced: Reduced) -> ServerState:
        """``B <- mean_i B_i``, then both factors from the SVD of the product."""
        new: dict[Key, Tensor] = {}
        for module in reduced.parts.select({"B"}).modules:
            B, A = reduced.parts[module, "B"], start.parts[module, "A"]
            factors = principal_factors(B.double(), A.double(), A.shape[0], A.double())
            new[module, "A"], new[module, "B"] = factors
        return written(start, reduced.parts.overwrite(new))

    def turns(self) -> bool:
        """At the end of every round."""
        return True

    def check(self) -> None:
        """Moments live in a basis."""
        super().check()
        setting = self.setting
        refuse_persist(setting.optimizer_state, "FedSVD changes the basis in")
        for field, value, plain in (
            ("optimizer", setting.server_optimizer, "fedavg"),
            ("lr", setting.server_lr, 1.0),
        ):
            if value != plain:
                raise BadInput(
                    f"server.{field} = {value!r}: FedSVD changes the basis of both factors, so "
                    f"that no step leads from the old to the new; use {plain}"
                )
