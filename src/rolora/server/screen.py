"""What comes back from clients: sound updates go on to the aggregate, the others are named."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from rolora.core.types import Failure, Layout, Part, Plan, ServerState, Update
from rolora.records.wire import update_bytes
from rolora.server.ledger import planned_layout
from rolora.stages import BadMessage, Stage, changed


class Screen:
    """Lets sound updates through to the aggregate and names the others.

    Attributes:
        losses: per client whose update was sound, its training loss and number of examples.
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
        self.losses: dict[int, tuple[float, int]] = {}
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
            loss = answer.metrics.get("train_loss", math.nan)
            self.losses[answer.client] = (loss, answer.num_examples)
            yield self.weighed(answer)

    def judge(self, update: Update) -> Update | Failure:
        """The update, or why it is refused."""
        client = update.client
        if client not in self.plans:
            return Failure(client, "foreign_client", "it was not asked")
        if client in self.losses:
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
        total = sum(n for _, n in self.losses.values())
        return sum(loss * n for loss, n in self.losses.values()) / total


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
