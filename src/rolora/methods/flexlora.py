"""FlexLoRA: average the products, then take a low-rank SVD (Bai et al., 2024)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rolora.core.algebra import principal_factors
from rolora.core.types import Adapter, ClientInfo, Key, Plan, ServerState
from rolora.methods.base import Method, written
from rolora.reducers.products import Products, ReducedProducts


class FlexLoRA(Method):
    """``dW = sum_k p_k s_k B_k A_k``; its SVD at the global rank gives the next factors.

    ``A = V_r^T`` and ``B = U_r S_r / s``: all the singular values on B. A client of rank ``r_k``
    gets the first ``r_k`` singular triplets, with B rescaled to its own ``s_k``. Exact before the
    truncation. The SVD goes through QR of the stacked factors
    (:func:`rolora.core.algebra.low_rank_svd`), never through a dense product.

    Source: Bai et al., Federated Fine-tuning of Large Language Models under Heterogeneous Tasks
    and Client Resources, NeurIPS 2024 (arXiv 2402.11505).
    """

    title = "FlexLoRA"
    travels = "A and B at the client's rank (both ways)"
    exactness = "before truncation"
    citation = "Bai et al., NeurIPS 2024 (arXiv 2402.11505)"
    mixed_ranks = True
    reduction = "each"

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Train and upload both factors at the client's own rank."""
        plan = self.assign(state, client, train={"A", "B"}, upload={"A", "B"})
        if client.rank == self.setting.max_rank:
            return plan
        return replace(plan, send=self.truncated(state.parts, client.rank))

    def reducer(self) -> Products:
        """The mean product, and the mean head where one is shared."""
        return Products(self.scaling, averaged={"head"})

    def combine(self, start: ServerState, reduced: ReducedProducts) -> ServerState:
        """The truncated SVD of the mean product."""
        rank, new = self.setting.max_rank, dict(reduced.parts)
        for module, (U, V) in reduced.products.items():
            A, B = principal_factors(U, V, rank, start.parts[module, "A"])
            new[module, "A"], new[module, "B"] = A, B / self.scaling(rank)
        return written(start, Adapter.of(new))

    def truncated(self, parts: Adapter, rank: int) -> Adapter:
        """The first `rank` components, with B rescaled from the global to the client's s."""
        rescale = self.scaling(self.setting.max_rank) / self.scaling(rank)
        cut: dict[Key, Tensor] = {}
        for (module, part), tensor in parts.items():
            if part == "A":
                tensor = tensor[:rank]
            elif part == "B":
                tensor = tensor[:, :rank] * rescale
            cut[module, part] = tensor
        return Adapter.of(cut)
