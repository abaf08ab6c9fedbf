"""RoLoRA: alternate the factor that trains (Chen et al., 2025, Algorithm 1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field

from rolora.core.algebra import product_norm
from rolora.core.errors import BadInput
from rolora.core.rules import ClientRule
from rolora.core.section import Fraction
from rolora.core.types import BESIDE, ClientInfo, Factor, Plan, ServerState
from rolora.methods.base import Method, Setting, refuse_persist, written
from rolora.methods.gauge import Gauge
from rolora.methods.options import Options
from rolora.reducers import Reduced

LONGEST_WAIT = 4
"""Rounds after which an adaptive schedule comes back to a factor, whatever the other one does."""


class RoLoRAOptions(Options):
    """`schedule` names the factor that trains in each round and repeats, and is ``BA`` in the paper
    (in the first round of ``AB`` nothing is learned, since ``B = 0`` stops A); with ``adaptive``
    the factor whose last update moved the model more trains next. After `switch_at` of the rounds
    (1: never) the run goes on as FFA-LoRA. `gauge` gives the frozen factor an orthonormal basis.
    """

    gauge: Literal["none", "orthonormal"] = "none"
    schedule: str = Field(default="BA", pattern=r"^(adaptive|[AB]+)$")
    switch_at: Fraction = 1.0


class RoLoRA(Method):
    """Odd rounds freeze A and train B, even rounds freeze B and train A.

    The server writes the mean of the factor that came back over the old one. Since the other
    factor is frozen and shared, ``mean(B_i) A = mean(B_i A)``: exact. B goes first, because with
    ``B = 0`` the gradient of A is zero.

    Options beyond the paper: ``gauge: orthonormal`` gives the frozen factor an orthonormal basis
    at each switch (:func:`rolora.core.algebra.orthonormalise`), computed by every client itself;
    ``schedule`` is another order than ``BA``, where ``AB`` wastes its first round, or ``adaptive``
    (:func:`most_moving`); after ``switch_at`` of the rounds the run goes on as FFA-LoRA (the
    paper's mixing experiment).

    Source: Chen et al., Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA,
    NeurIPS 2025 (arXiv 2502.01755), Algorithm 1.
    """

    Options = RoLoRAOptions
    title = "RoLoRA"
    travels = "B in odd rounds, A in even rounds (both ways)"
    exactness = "yes"
    citation = "Chen et al., NeurIPS 2025 (arXiv 2502.01755)"

    def __init__(self, setting: Setting | None = None, options: Any = None):
        super().__init__(setting, options)
        self.gauge = Gauge() if self.options.gauge == "orthonormal" else None

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Train and upload the active factor; the other is frozen."""
        return self.plan_with(self.active(state), state, client)

    def plans(self, state: ServerState, client: ClientInfo) -> list[Plan]:
        """With an adaptive schedule, either factor's."""
        if self.options.schedule != "adaptive" or self.switched(state):
            return [self.plan(state, client)]
        return [self.plan_with("B", state, client), self.plan_with("A", state, client)]

    def plan_with(self, active: Factor, state: ServerState, client: ClientInfo) -> Plan:
        """The plan of a round in which `active` trains."""
        plan = self.assign(state, client, train={active}, upload={active})
        return plan if self.gauge is None else replace(plan, derives=frozenset({BESIDE[active]}))

    def combine(self, start: ServerState, reduced: Reduced) -> ServerState:
        """``B <- mean_i B_i`` in a B-round, ``A <- mean_i A_i`` in an A-round."""
        new = written(start, reduced.parts)
        if self.options.schedule != "adaptive":
            return new
        return with_movement(start, new, self.active(start))

    def start(self, state: ServerState) -> ServerState:
        """With the frozen factor made orthonormal, where the gauge asks for it."""
        if self.gauge is None:
            return state
        frozen = BESIDE[self.active(state)]
        factors = self.gauge.fixed(state.parts.select({"A", "B"}), frozen)
        return replace(
            state,
            parts=state.parts.overwrite(factors),
            versions={**state.versions, frozen: state.round + 1},
        )

    def rules(self) -> tuple[ClientRule, ...]:
        """The gauge, where it is set."""
        return super().rules() if self.gauge is None else (*super().rules(), self.gauge)

    def turns(self) -> bool:
        """With the gauge, at every switch."""
        return self.gauge is not None

    def check(self) -> None:
        """The gauge changes the basis in which moments live."""
        super().check()
        if self.options.gauge == "none":
            return
        refuse_persist(self.setting.optimizer_state, "method.gauge changes the basis in")
        if self.setting.server_optimizer != "fedavg":
            raise BadInput(
                f"server.optimizer = {self.setting.server_optimizer!r}: the gauge changes the "
                "basis in which its moments live; use fedavg, or method.gauge: none"
            )

    def switched(self, state: ServerState) -> bool:
        """Whether round ``state.round + 1`` is one of FFA-LoRA."""
        return bool(state.round + 1 > self.options.switch_at * self.setting.rounds)

    def active(self, state: ServerState) -> Factor:
        """The factor that trains in round ``state.round + 1``."""
        upcoming = state.round + 1
        if self.switched(state):
            return "B"
        schedule = self.options.schedule
        if schedule == "adaptive":
            return most_moving(state)
        return "B" if schedule[(upcoming - 1) % len(schedule)] == "B" else "A"


def with_movement(start: ServerState, new: ServerState, active: Factor) -> ServerState:
    """`new` with how far, and in which round, the active factor's mean update moved the product.

    The measure is ``|dB A|_F``, or ``|B dA|_F``, over all modules.

    Args:
        start: the state from which the round's clients started; new: after the round.
        active: the factor that trained.
    """
    squares = 0.0
    for module in new.parts.select({active}).modules:
        factors = {"A": new.parts[module, "A"], "B": new.parts[module, "B"]}
        factors[active] = factors[active] - start.parts[module, active]
        squares += product_norm(factors["B"], factors["A"]) ** 2
    note = torch.tensor([squares**0.5, new.round], dtype=torch.float64)
    return replace(new, optimizer={**new.optimizer, f"schedule/{active}": note})


def most_moving(state: ServerState) -> Factor:
    """The factor that trains next: the one whose last update moved the product more.

    B, then A at the start; a factor that has not trained for :data:`LONGEST_WAIT` rounds comes
    next, so that its measure does not grow stale. A function of the state alone.
    """
    notes = {}
    for factor in ("B", "A"):
        note = state.optimizer.get(f"schedule/{factor}")
        if note is None or state.round + 1 - float(note[1]) >= LONGEST_WAIT:
            return factor
        notes[factor] = float(note[0])
    return "B" if notes["B"] >= notes["A"] else "A"
