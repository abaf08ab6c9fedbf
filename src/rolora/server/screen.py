"""What comes back from clients: sound updates go on to the aggregate, the others are named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf, isfinite, nan
from operator import mul

import torch

from rolora.core.shares import cap
from rolora.core.types import Failure, Layout, Part, Plan, ServerState, Update, is_side
from rolora.records.bounds import MOST_LOSS, sound
from rolora.records.detail import UpdateRecord
from rolora.records.wire import update_bytes
from rolora.server.judge import distances
from rolora.server.ledger import planned_layout
from rolora.stages import BadMessage, Chain, changed


class Screen:
    """Lets sound updates through to the aggregate and names the others.

    Attributes:
        updates: per client whose update was sound, what is written down of it.
        distances: per such client, how far it went in each part.
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
        up: Chain,
        answered: Callable[[Update | Failure], None],
    ):
        self.plans = {plan.client: plan for plan in plans}
        self.registered = registered  # asked when an answer comes: a client may join meanwhile
        self.start, self.weighting, self.up = start, weighting, up
        self.answered = answered
        self.updates: dict[int, UpdateRecord] = {}
        self.distances: dict[int, dict[Part, float]] = {}
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
                answer = sound(answer.client, partial(self.taken, answer))
            self.answered(answer)
            if isinstance(answer, Failure):
                self.failures.append(answer)
            else:
                yield answer

    def taken(self, update: Update) -> Update | Failure:
        """The update as it goes into the aggregate, noted; or why it is refused."""
        self.bytes_up += update_bytes(update)
        judged = self.judge(update)
        if isinstance(judged, Failure):
            return judged
        judged = self.weighed(judged)
        self.note(judged)
        return judged

    def note(self, update: Update) -> None:
        """Write down what is kept of a sound update."""
        moved = distances(update.parts, self.plans[update.client].send)
        self.updates[update.client] = recorded(update, moved)
        self.distances[update.client] = moved

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
        coded = self.up.layout(wanted)
        if update.parts.layout != coded:
            return wrong_layout(update, dict(coded.entries))
        return not_finite(update) or no_loss(update) or self.decoded(update, wanted)

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
            if self.up:
                update = self.up.decode(update, wanted)
        except BadMessage as error:
            return Failure(update.client, "malformed", str(error))
        if update.side or update.parts.flat.dtype != torch.float32:
            return Failure(
                update.client, "malformed", "it is encoded, and the run has no such stage"
            )
        if not self.up:
            return update
        update = replace(update, parts=changed(self.start.parts, update.parts))
        return not_finite(update) or update

    def train_loss(self, share: float) -> float:
        """The mean of the clients' training losses, weighted by examples, no one above `share`; nan
        where nobody tells one.
        """
        updates = self.written()
        most = cap([update.examples for update in updates], share)
        weights = [min(update.examples, most) for update in updates]
        losses = [nan if update.train_loss is None else update.train_loss for update in updates]
        total: float = sum(map(mul, losses, weights))
        return total / sum(weights) if weights else nan

    def written(self, limit: float = inf) -> tuple[UpdateRecord, ...]:
        """What is written down of the sound updates, by client, in whatever order they came.

        Args:
            limit: the most that a weight counted in the reduction.
        """
        records = [self.updates[client] for client in sorted(self.updates)]
        return tuple(
            record
            if record.weight is None or record.weight <= limit
            else record.model_copy(update={"weight": limit})
            for record in records
        )


def recorded(update: Update, moved: Mapping[Part, float]) -> UpdateRecord:
    """What is written down of an update; its tensors are not held.

    Args:
        update: as the client had it.
        moved: how far it went in each part.
    """
    return UpdateRecord(
        client=update.client,
        examples=update.num_examples,
        weight=float(update.mass),
        train_loss=float(update.metrics.get("train_loss", nan)),
        # A line of metrics has one for every client, hence so few digits.
        norms={part: float(f"{norm:.6g}") for part, norm in moved.items() if not is_side(part)},
    )


def no_loss(update: Update) -> Failure | None:
    """A training loss that no batch has."""
    loss = update.metrics.get("train_loss", 0.0)
    if isfinite(loss) and abs(loss) <= MOST_LOSS:
        return None
    return Failure(update.client, "train_loss", f"{loss:g} is no loss of a batch")


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
