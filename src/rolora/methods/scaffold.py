"""SCAFFOLD on RoLoRA's active factor: correct what sets the clients apart."""

from __future__ import annotations

from dataclasses import replace

import torch

from rolora.core.errors import BadInput
from rolora.core.rules import ClientRule, Job, Stack, Steps, Trained
from rolora.core.types import (
    Adapter,
    ClientInfo,
    Factor,
    Plan,
    ServerState,
    base_part,
    is_side,
    kept_by_part,
    named_by_part,
    side_part,
)
from rolora.methods.base import written
from rolora.methods.rolora import RoLoRA
from rolora.reducers import Reduced

CONTROL = "control"


class Scaffold(RoLoRA):
    """RoLoRA whose clients train with ``g - c_i + c`` in place of their gradient ``g``.

    ``c_i`` is client i's own mean gradient of its last round with this factor, ``c`` the mean of
    the clients', so that a client moves as all would together and not towards its own optimum. Each
    factor, and the head where it is shared, has control variates of its own: ``control.B`` and
    ``control.A``, zero at the start. After its local steps a client sets ``c_i`` to the mean of
    the gradients it saw and uploads by how much ``c_i`` changed beside the factor; the server adds
    the mean change, times the share of clients that took part. With SGD without momentum the new
    ``c_i`` is option II of the paper's Algorithm 1, ``c_i - c + (x - y_i) / (K eta)``; with another
    optimiser, whose steps are no gradients, it is taken from the gradients themselves.

    Source: Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning,
    ICML 2020 (arXiv 1910.06378), Algorithm 1; on one factor at a time as in RoLoRA, Algorithm 1.
    """

    title = "SCAFFOLD on RoLoRA"
    reduction = "mean"
    travels = "the active factor and its control variate (both ways)"
    citation = "Karimireddy et al., ICML 2020 (arXiv 1910.06378); Chen et al., NeurIPS 2025"

    def check(self) -> None:
        """Control variates add up in one basis."""
        super().check()
        if self.options.gauge != "none":
            raise BadInput(
                f"method.gauge = {self.options.gauge!r}: the gauge changes the basis in which "
                "SCAFFOLD's control variates live; use none"
            )

    def init(self, adapter: Adapter) -> ServerState:
        """With control variates of zero for everything that is shared and trained."""
        state = super().init(adapter)
        zeros = {
            (module, side_part(CONTROL, part)): torch.zeros_like(tensor)
            for (module, part), tensor in state.parts.items()
        }
        parts = state.parts.overwrite(zeros)
        return replace(state, parts=parts, versions=dict.fromkeys(parts.parts, 0))

    def plan_with(self, active: Factor, state: ServerState, client: ClientInfo) -> Plan:
        """RoLoRA's plan, and the control variates of what trains and is shared."""
        plan = super().plan_with(active, state, client)
        controls = frozenset(side_part(CONTROL, part) for part in plan.upload)
        return replace(
            plan,
            send=plan.send.overwrite(state.parts.select(controls)),
            versions={**plan.versions, **{part: state.versions[part] for part in controls}},
            upload=plan.upload | controls,
        )

    def combine(self, start: ServerState, reduced: Reduced) -> ServerState:
        """The mean factor, and ``c <- c + |S| / N mean_i (c_i' - c_i)``."""
        side = {part for part in reduced.parts.parts if is_side(part)}
        change = reduced.parts.select(side)
        share = reduced.clients / self.setting.clients
        before = start.parts.select(side)
        controls = Adapter(before.layout, before.flat + share * change.flat)
        factors = Reduced(reduced.parts.without(side), reduced.clients)
        new = super().combine(start, factors)
        return written(replace(new, round=start.round), controls)

    def rules(self) -> tuple[ClientRule, ...]:
        """The correction, before anything that changes the gradient otherwise."""
        return (Correction(), *super().rules())


class Correction(ClientRule):
    """``g <- g - c_i + c`` at every step, and the new ``c_i`` after the last."""

    def steps(self, stack: Stack, optimizer: torch.optim.Optimizer) -> Steps:
        """With the variates of the stack's clients side by side."""
        return _Corrected(stack)


class _Corrected(Steps):
    def __init__(self, stack: Stack):
        self.stack, self.taken = stack, 0
        self.own = [held(job) for job in stack.jobs]
        own = stack.gather([_whole(job, of) for job, of in zip(stack.jobs, self.own, strict=True)])
        given = stack.gather([_whole(job, _variates(job.given)) for job in stack.jobs])
        self.difference = given - own
        self.seen = torch.zeros_like(stack.gradients)

    def gradient(self) -> None:
        self.taken += 1
        self.seen += self.stack.gradients
        self.stack.gradients += self.difference

    def finish(self, k: int, trained: Trained) -> Trained:
        """The update with the change of ``c_i``, which is kept."""
        new = self.stack.own(self.seen / self.taken, k).select(trained.update.parts.parts)
        old = self.own[k]
        change = {
            (module, side_part(CONTROL, part)): tensor - old[module, part]
            for (module, part), tensor in new.items()
        }
        update = replace(trained.update, parts=trained.update.parts.overwrite(change))
        kept = {**trained.kept, **named_by_part(CONTROL, new)}
        return replace(trained, update=update, kept=kept)


def _variates(given: Adapter) -> Adapter:
    """The variates among side parts, under the names of the parts that they are for."""
    return Adapter.of(
        {(module, base_part(part)): tensor for (module, part), tensor in given.items()}
    )


def held(job: Job) -> Adapter:
    """Client i's own variates of what it uploads in this round: zero before its first."""
    return kept_by_part(CONTROL, job.kept, job.start.layout.select(job.plan.upload))


def _whole(job: Job, variates: Adapter) -> Adapter:
    """Variates for all trained parts: zero for those that are not shared."""
    layout = job.start.layout.select(job.plan.train)
    return Adapter(layout, torch.zeros(layout.size)).overwrite(variates)
