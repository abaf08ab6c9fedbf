"""What comes back from clients: sound updates go on to the aggregate, the others are named."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from rolora.core.types import (
    Failure,
    Part,
    Plan,
    ServerState,
    Update,
)
from rolora.records.wire import payload_bytes
from rolora.server.ledger import planned_layout


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
        plans: Sequence[Plan],
        state: ServerState,
        weighting: str,
        answered: Callable[[Update | Failure], None],
    ):
        self.plans = {plan.client: plan for plan in plans}
        self.state, self.weighting, self.answered = state, weighting, answered
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
                self.bytes_up += payload_bytes(answer.parts.layout)
                answer = self.judge(answer)
            self.answered(answer)
            if isinstance(answer, Failure):
                self.failures.append(answer)
                continue
            loss = answer.metrics.get("train_loss", math.nan)
            self.losses[answer.client] = (loss, answer.num_examples)
            yield answer if self.weighting == "examples" else replace(answer, num_examples=1)

    def judge(self, update: Update) -> Update | Failure:
        """The update, or why it is refused."""
        client = update.client
        if client not in self.plans:
            return Failure(client, "foreign_client", "it was not asked")
        if client in self.losses:
            return Failure(client, "repeated", "it has answered this round already")
        if update.num_examples < 1:
            return Failure(client, "num_examples", f"{update.num_examples}, must be at least 1")
        wanted = planned_layout(self.state.parts, self.plans[client])
        if update.parts.layout != wanted:
            return wrong_layout(update, dict(wanted.entries))
        if not torch.isfinite(update.parts.flat).all():
            bad = [k for k, t in update.parts.items() if not torch.isfinite(t).all()]
            value = "nan" if update.parts.flat.isnan().any() else "inf"
            return Failure(client, value, f"in {bad[0][0]} {bad[0][1]} ({len(bad)} tensors)")
        return update

    def train_loss(self) -> float:
        """The mean of the clients' training losses, weighted by examples."""
        total = sum(n for _, n in self.losses.values())
        return sum(loss * n for loss, n in self.losses.values()) / total


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
