"""RoLoRA: alternate the factor that trains (Chen et al., 2025, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from rolora.algebra import orthonormalise, weighted_mean
from rolora.methods.base import Method, written
from rolora.types import ClientInfo, Plan, ServerState, Update

Factor = Literal["A", "B"]


class RoLoRA(Method):
    """Odd rounds freeze A and train B, even rounds freeze B and train A.

    The server writes the mean of the factor that came back over the old one. Since the other
    factor is frozen and shared, ``mean(B_i) A = mean(B_i A)``: exact. B goes first, because with
    ``B = 0`` the gradient of A is zero.

    Options beyond the paper: ``gauge: orthonormal`` gives the frozen factor an orthonormal basis
    at each switch (:func:`rolora.algebra.orthonormalise`), computed by every client for itself;
    ``schedule`` is another order than ``BA``; after ``switch_at`` of the rounds the run goes on
    as FFA-LoRA (the paper's mixing experiment).

    Source: Chen et al., Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA,
    NeurIPS 2025 (arXiv 2502.01755), Algorithm 1.
    """

    title = "RoLoRA"
    travels = "B in odd rounds, A in even rounds (both ways)"
    exact = "yes"
    citation = "Chen et al., NeurIPS 2025 (arXiv 2502.01755)"
    options = frozenset({"gauge", "schedule", "switch_at"})

    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """Train and upload the active factor; the other is frozen."""
        active = self.active(state)
        gauge = frozen_beside(active) if self.setting.gauge == "orthonormal" else None
        return self.assign(state, client, train={active}, upload={active}, gauge=gauge)

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """``B <- mean_i B_i`` in a B-round, ``A <- mean_i A_i`` in an A-round."""
        return written(self.start(state), weighted_mean(updates))

    def start(self, state: ServerState) -> ServerState:
        """With the frozen factor made orthonormal, where the gauge asks for it."""
        if self.setting.gauge == "none":
            return state
        frozen = frozen_beside(self.active(state))
        factors = orthonormalise(state.parts.select({"A", "B"}), frozen)
        return replace(
            state,
            parts=state.parts.overwrite(factors),
            versions={**state.versions, frozen: state.round + 1},
        )

    def active(self, state: ServerState) -> Factor:
        """The factor that trains in round ``state.round + 1``."""
        upcoming = state.round + 1
        if upcoming > self.setting.switch_at * self.setting.rounds:
            return "B"
        schedule = self.setting.schedule
        return "B" if schedule[(upcoming - 1) % len(schedule)] == "B" else "A"


def frozen_beside(active: Factor) -> Factor:
    """The other factor."""
    return "A" if active == "B" else "B"
