"""FLoRA: stack the factors, merge them into the base, start anew (Wang et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rolora.core.algebra import WeightedMean, WeightedProducts
from rolora.core.types import ClientInfo, Part, Plan, ServerState, Update
from rolora.methods.base import Method, rank_of, with_increment, written


class FLoRA(Method):
    """``W <- W + sum_k p_k s_k B_k A_k``, then every client draws a new A and sets ``B = 0``.

    The clients' factors are stacked side by side, so the sum is exact and clients may differ in
    rank; the stack travels down, or the whole ``D = W - W_0`` where that is smaller or the client
    missed a round. Each client draws its A from the run's seed, the round and its id.

    Source: Wang et al., FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous
    Low-Rank Adaptations, NeurIPS 2024 (arXiv 2409.05976).
    """

    title = "FLoRA"
    travels = "up: A and B at the client's rank; down: all clients' A and B stacked"
    exact = "yes"
    citation = "Wang et al., NeurIPS 2024 (arXiv 2409.05976)"
    mixed_ranks = True
    stepped = frozenset({"D", "head"})

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Merge what came, draw anew, train and upload both factors at the client's rank."""
        plan = self.assign(state, client, train={"A", "B"}, upload={"A", "B"}, redraw=True)
        drawn: tuple[Part, Part] = ("A", "B")
        return replace(
            plan,
            send=plan.send.without(drawn),
            versions={p: v for p, v in plan.versions.items() if p not in drawn},
        )

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """Add the stacked factors to the base."""
        products, heads = WeightedProducts(), WeightedMean()
        for update in updates:
            weight = update.num_examples
            products.add(update.parts, weight, self.scaling(rank_of(update.parts)))
            heads.add(update.parts.select({"head"}), weight)
        return with_increment(written(state, heads.result()), products.result())
