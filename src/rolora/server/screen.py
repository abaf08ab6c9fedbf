"""What comes back from clients: sound updates go on to the aggregate, the others are named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import nan

import torch

from rolora.core.types import Failure, Layout, Part, Plan, ServerState, Update, is_side
from rolora.records.detail import UpdateRecord
from rolora.records.wire import update_bytes
from rolora.server.ledger import planned_layout
from rolora.stages import BadMessage, Stage, changed


class Screen:
    """Lets sound updates through to the aggregate and names the others.

    Attributes:
        updates: per client whose update was sound, what is written down of it.
        failures: clients without a sound update.
        bytes_up: size of everything that came back.
        seconds: time spent waiting for clients.
    """

    def __init__(
        self,
        registered: Callable[[int], int],
        plans: Sequence[Plan],
        start: ServerState,
        weighting: str,
        stages: Sequence[Stage],
        answered: Callable[[Update | Failure], None],
    ):
        self.plans = {plan.client: plan for plan in plans}
        self.registered = registered  # asked when an answer comes: a client may join meanwhile
        self.start, self.weighting, self.stages = start, weighting, stages
        self.answered = answered
        self.updates: dict[int, UpdateRecord] = {}
        self.failures: list[Failure] = []
        self.bytes_up = 0
        self.seconds = 0.0

    def sound(self, answers: Iterable[Update | Failure]) -> Iterator[Update]:
        """The sound updates among `answers`, one by one."""
        iterator = iter(answers)
        while True:
            begin = time.perf_counter()
            answer = next(iterator, None)
            self.seconds += time.perf_counter() - begin
            if answer is None:
                return
            if isinstance(answer, Update):
                self.bytes_up += update_bytes(answer)
                answer = self.judge(answer)
            self.answered(answer)
            if isinstance(answer, Failure):
                self.failures.append(answer)
                continue
            answer = self.weighed(answer)
            self.updates[answer.client] = recorded(answer, self.plans[answer.client])
            yield answer

    def judge(self, update: Update) -> Update | Failure:
        """The update, or why it is refused."""
        client = update.client
        if client not in self.plans:
            return Failure(client, "foreign_client", "it was not asked")
        if client in self.updates:
            return Failure(client, "repeated", "it has answered this round already")
        registered = self.registered(client)
        if not 1 <= update.num_examples <= registered:
            detail = f"{update.num_examples}, must be 1 to the {registered} that it registered"
            return Failure(client, "num_examples", detail)
        weight = update.weight or 0.0
        if self.weighting == "information" and not 0.0 < weight <= registered:
            detail = f"{update.weight}, must be above 0 and at most the {registered} examples that "
            return Failure(client, "weight", detail + "it registered")
        wanted = planned_layout(self.start.parts, self.plans[client])
        if update.parts.layout != wanted:
            return wrong_layout(update, dict(wanted.entries))
        return not_finite(update) or self.decoded(update, wanted)

    def weighed(self, update: Update) -> Update:
        """The update with the run's weight; what a client says of its own counts where it is asked
        for, and nowhere else.
        """
        if self.weighting == "information":
            return update
        return replace(update, weight=1.0 if self.weighting == "uniform" else None)

    def decoded(self, update: Update, wanted: Layout) -> Update | Failure:
        """The update as the client had it, up to what the stages lose."""
        try:
            for stage in reversed(self.stages):
                update = stage.decode(update, wanted)
        except BadMessage as error:
            return Failure(update.client, "malformed", str(error))
        if update.side or update.parts.flat.dtype != torch.float32:
            return Failure(
                update.client, "malformed", "it is encoded, and the run has no such stage"
            )
        if not self.stages:
            return update
        update = replace(update, parts=changed(self.start.parts, update.parts))
        return not_finite(update) or update

    def train_loss(self) -> float:
        """The mean of the clients' training losses, weighted by examples."""
        updates = self.written()
        total = sum(update.examples for update in updates)
        losses = (nan if u.train_loss is None else u.train_loss * u.examples for u in updates)
        return sum(losses) / total

    def written(self) -> tuple[UpdateRecord, ...]:
        """What is written down of the sound updates, by client, in whatever order they came."""
        return tuple(self.updates[client] for client in sorted(self.updates))


def recorded(update: Update, plan: Plan) -> UpdateRecord:
    """What is written down of an update; its tensors are not held.

    Args:
        update: as the client had it.
        plan: with all that the client starts from, held or sent.
    """
    return UpdateRecord(
        client=update.client,
        examples=update.num_examples,
        weight=float(update.mass),
        train_loss=float(update.metrics.get("train_loss", nan)),
        norms={
            part: moved(update, plan, part)
            for part in sorted(update.parts.parts)
            if not is_side(part)
        },
    )


def moved(update: Update, plan: Plan, part: Part) -> float:
    """How far the client went in `part`; from zero where it drew its start by itself."""
    begin, end = update.parts.layout.extent(part)
    change = update.parts.flat[begin:end]
    if part in plan.send.parts:
        begin, end = plan.send.layout.extent(part)
        change = change - plan.send.flat[begin:end]
    norm = float(torch.linalg.vector_norm(change, dtype=torch.float64))
    return float(f"{norm:.6g}")  # a line of metrics has one for every client


def not_finite(update: Update) -> Failure | None:
    """Which value is not a number, or infinite."""
    if torch.isfinite(update.parts.flat).all():
        return None
    bad = [k for k, t in update.parts.items() if not torch.isfinite(t).all()]
    value = "nan" if update.parts.flat.isnan().any() else "inf"
    return Failure(update.client, value, f"in {bad[0][0]} {bad[0][1]} ({len(bad)} tensors)")


def wrong_layout(update: Update, wanted: Mapping[tuple[str, Part], tuple[int, ...]]) -> Failure:
    """Which part is foreign, missing or misshapen."""
    given = dict(update.parts.layout.entries)
    for (module, part), shape in given.items():
        if (module, part) not in wanted:
            detail = f"{module} {part} was not asked for"
            return Failure(update.client, "foreign_part", detail)
        if shape != wanted[module, part]:
            detail = f"{module} {part} is {list(shape)}, must be {list(wanted[module, part])}"
            return Failure(update.client, "wrong_shape", detail)
    module, part = next(key for key in wanted if key not in given)
    return Failure(update.client, "missing_part", f"{module} {part}")
