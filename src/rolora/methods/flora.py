"""FLoRA: stack the factors, merge them into the base, start anew (Wang et al., 2024)."""

from __future__ import annotations

from dataclasses import replace

from rolora.core.errors import BadInput
from rolora.core.rules import ClientRule, Draw, Job
from rolora.core.types import ClientInfo, Part, Plan, ServerState
from rolora.methods.base import Method, with_increment, written
from rolora.reducers.products import Products, ReducedProducts


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
    exactness = "yes"
    citation = "Wang et al., NeurIPS 2024 (arXiv 2409.05976)"
    mixed_ranks = True
    merges = True
    reduction = "each"
    stepped = frozenset({"D", "head"})

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Merge what came, draw anew, train and upload both factors at the client's rank."""
        plan = self.assign(state, client, train={"A", "B"}, upload={"A", "B"})
        drawn: tuple[Part, Part] = ("A", "B")
        return replace(
            plan,
            send=plan.send.without(drawn),
            versions={p: v for p, v in plan.versions.items() if p not in drawn},
        )

    def reducer(self) -> Products:
        """The mean product, and the mean head where one is shared."""
        return Products(self.scaling, averaged={"head"})

    def combine(self, start: ServerState, reduced: ReducedProducts) -> ServerState:
        """Add the stacked factors to the base."""
        return with_increment(written(start, reduced.parts), reduced.products)

    def check(self) -> None:
        """Moments of an A that is drawn anew belong to nothing."""
        super().check()
        state = self.setting.optimizer_state
        if state != "reset":
            raise BadInput(
                f"optimizer.state = {state!r}: FLoRA draws A anew in every round and starts from "
                "B = 0, so that kept moments belong to other factors; use reset"
            )

    def rules(self) -> tuple[ClientRule, ...]:
        """Every client draws its factors anew."""
        return (*super().rules(), Redraw())


class Redraw(ClientRule):
    """A drawn from the run's seed, the round and the client, and ``B = 0``."""

    def start(self, job: Job, draw: Draw) -> Job:
        """The job with new factors."""
        plan = job.plan
        drawn = draw(plan.rank, plan.round, plan.client).select({"A", "B"})
        return replace(job, start=job.start.overwrite(drawn))
