"""Rounds over an engine that is a fake: its clients answer what a test wants them to."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

import small
from rolora.core.types import Adapter, ClientInfo, Evaluation, RoundNotes, Update
from rolora.server.ledger import Ledger
from rolora.server.round import run_rounds


@dataclass
class FakeEngine:
    """Clients whose update is the part sent or held plus one; `answer` spoils some.

    Args:
        count: number of clients.
        answer: from a plan and a sound update to what really comes back (a list).
    """

    count: int = 4
    answer: object = lambda plan, update: [update]
    plans: list = field(default_factory=list)
    evaluated: list = field(default_factory=list)
    notes: RoundNotes = field(default_factory=RoundNotes)
    ranks: dict = field(default_factory=dict)

    @property
    def clients(self):
        return [ClientInfo(i, self.ranks.get(i, 2), 10 * (i + 1)) for i in range(self.count)]

    @property
    def names(self):
        return ("no", "yes")

    def registered(self, client):
        return 10 * (client + 1)

    def train(self, plans):
        self.plans.append(list(plans))
        for plan in plans:
            yield from self.answer(plan, self.sound(plan))

    def sound(self, plan):
        parts = {
            ("m", part): torch.full({"A": (2, 5), "B": (3, 2)}[part], float(plan.client + 1))
            for part in plan.upload
        }
        metrics = {"train_loss": 0.5 * (plan.client + 1)}
        return Update(plan.client, 10 * (plan.client + 1), Adapter.of(parts), metrics)

    def evaluate(self, plan, split):
        self.evaluated.append((plan.round - 1, split))
        return [
            Evaluation(0, 10, {"loss": (5.0, 10.0), "confusion": (2.0, 2.0, 2.0, 4.0)}),
            Evaluation(1, 30, {"loss": (3.0, 30.0), "confusion": (7.0, 3.0, 3.0, 17.0)}),
        ]

    def take_notes(self):
        return self.notes

    def tensors(self, round_number):
        return {}

    def restore(self, tensors, state):
        pass


def start():
    return Adapter.of({("m", "A"): torch.randn(2, 5), ("m", "B"): torch.zeros(3, 2)})


def play(engine, answered=lambda answer: None, ledger=None, **sections):
    federation = {"clients": engine.count, **sections.pop("federation", {})}
    settings = small.config(federation=federation, **sections)
    method, record = small.method(settings), small.Memory()
    ledger = ledger or Ledger()
    state = run_rounds(
        settings,
        method,
        small.CLASSIFICATION,
        engine,
        method.init(start()),
        ledger,
        record,
        answered,
    )
    return state, record


def one_bad(bad, client=2):
    """Client `client` sends `bad(update)`, the others what is right."""
    return lambda plan, update: [bad(update) if plan.client == client else update]


def swapped(engine):
    """The engine, whose clients answer in the opposite order."""
    train = engine.train
    engine.train = lambda plans: reversed(list(train(plans)))
    return engine
