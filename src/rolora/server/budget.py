"""How many bytes rounds take, before they are run: the next one, and a whole run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from rolora.config import Config
from rolora.core.errors import BadInput
from rolora.core.types import (
    Adapter,
    ClientInfo,
    Increment,
    Layout,
    Part,
    Plan,
    ServerState,
    Update,
)
from rolora.methods import Method
from rolora.records.wire import payload_bytes, plan_bytes, update_bytes
from rolora.secure.fixed import MASKED
from rolora.secure.forms import beside
from rolora.server.cohort import sample_cohort
from rolora.server.ledger import Ledger, planned_layout
from rolora.stages import At, Chain, make_chain
from rolora.stages.downlink import remembered

Draw = Callable[[Sequence[ClientInfo], int, int], Sequence[ClientInfo]]
"""Who takes part, of these clients, in a round of this number at this attempt."""


@dataclass(frozen=True)
class Bytes:
    """What travels to the server and from it."""

    up: int = 0
    down: int = 0

    @property
    def both(self) -> int:
        """Both ways."""
        return self.up + self.down

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.up + other.up, self.down + other.down)


def next_round(
    config: Config,
    method: Method,
    clients: Sequence[ClientInfo],
    state: ServerState,
    ledger: Ledger,
    draw: Draw | None = None,
) -> Bytes:
    """The bytes of round ``state.round + 1`` if its first cohort answers.

    Args:
        config: of the run.
        method: plans it.
        clients: all of them.
        state: before the round; of its numbers only the shapes count.
        ledger: what clients hold.
        draw: the cohort; None: as a run without privacy does.
    """
    shapes = _shapes(state)
    return _bytes(config, shapes, _plans(config, method, clients, shapes, ledger, draw))


def whole_run(
    config: Config, method: Method, clients: Sequence[ClientInfo], state: ServerState
) -> Bytes | None:
    """The bytes of all rounds from `state` on, if every client answers; evaluation is not counted.

    None where the plans of later rounds depend on what is learned, or what travels grows: methods
    that change the base's weights, and RoLoRA's adaptive schedule.
    """
    if method.merges or getattr(method.options, "schedule", None) == "adaptive":
        return None
    state, ledger, total = _shapes(state), Ledger(), Bytes()
    down = make_chain(config.server.stages)
    for _ in range(state.round, config.rounds):
        plans = _plans(config, method, clients, state, ledger)
        total += _bytes(config, state, plans)
        changed = method.rewrites.union(*(plan.upload | plan.derives for plan in plans))
        state = replace(
            state,
            round=state.round + 1,
            versions={**state.versions, **dict.fromkeys(changed, state.round + 1)},
            increments=_foreseen(down, state, changed),
        )
        for plan in plans:
            ledger.replied(plan)
            ledger.finished(plan, state)
    return total


def affordable(
    config: Config,
    method: Method,
    clients: Sequence[ClientInfo],
    state: ServerState,
    ledger: Ledger,
    spent: int,
    draw: Draw | None = None,
) -> bool:
    """Whether the next round stays within ``server.byte_budget``.

    Args:
        config, method, clients, state, ledger, draw: as for :func:`next_round`.
        spent: bytes both ways in the rounds that are finished.

    Raises:
        BadInput: not even the first does.
    """
    most = config.server.byte_budget
    if most is None:
        return True
    upcoming = next_round(config, method, clients, state, ledger, draw).both
    if state.round == 0 and upcoming > most:
        raise BadInput(
            f"server.byte_budget = {most}: round 1 alone takes {upcoming} bytes both ways; allow "
            "more, or take fewer clients a round or a smaller adapter"
        )
    return spent + upcoming <= most


def encoded_bytes(config: Config, layout: Layout) -> int:
    """Bytes of an update of this layout after the run's stages."""
    if config.least_sum is not None:
        return payload_bytes(layout, torch.int32, MASKED)
    up = make_chain(config.stages)
    return update_bytes(_coded(up, layout)) if up else payload_bytes(layout)


def _coded(chain: Chain, layout: Layout) -> Update:
    """A message of the form that every change of this layout has."""
    nothing = Update(client=0, num_examples=1, parts=Adapter(layout, torch.zeros(layout.size)))
    return chain.encode(nothing, {}, At(seed=0, round=0, client=0))[0]


def _foreseen(down: Chain, state: ServerState, changed: Collection[Part]) -> list[Increment]:
    """Increments of the form of those after round ``state.round + 1``."""
    steps = list(state.increments)
    for part in changed if down else ():
        layout = state.parts.layout.select({part})
        sent = _coded(down, layout)
        new = (state.versions[part], state.round + 1)
        steps.append(Increment(part, *new, sent.parts.flat, sent.side))
        steps = remembered(steps, part, layout)
    return steps


def _plans(
    config: Config,
    method: Method,
    clients: Sequence[ClientInfo],
    state: ServerState,
    ledger: Ledger,
    draw: Draw | None = None,
) -> list[Plan]:
    draw = draw or partial(sample_cohort, config)
    cohort = draw(clients, state.round + 1, 0)
    return [ledger.narrow(method.plan(state, client)) for client in cohort]


def _bytes(config: Config, state: ServerState, plans: Sequence[Plan]) -> Bytes:
    up: dict[Layout, int] = {}
    for plan in plans:
        layout = planned_layout(state.parts, plan)
        up.setdefault(layout, encoded_bytes(config, layout))
    asked = (planned_layout(state.parts, plan) for plan in plans)
    sums = Bytes(sum(up[x] for x in asked), sum(map(plan_bytes, plans)))
    if config.least_sum is None:
        return sums
    each_up, each_down = beside(len(plans))
    return sums + Bytes(len(plans) * each_up, len(plans) * each_down)


def _shapes(state: ServerState) -> ServerState:
    """The state with the shapes of its parts alone."""
    return replace(state, parts=Adapter(state.parts.layout, state.parts.flat.to("meta")))
