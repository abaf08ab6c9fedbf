"""Rolora's side of a workload: whole rounds on the simulator."""

from __future__ import annotations

from torch import Tensor

from benchmarks.measure import Work
from rolora.core.types import Adapter
from rolora.engines.in_process import InProcess
from rolora.server.attempt import Clock, Run
from rolora.server.ledger import Ledger
from rolora.server.protection import Protection
from rolora.server.round import one_round


class Simulation:
    """``config.rounds`` rounds on an engine, from an initial adapter; may be run again.

    Attributes:
        stages: seconds of the last run by stage.
    """

    def __init__(self, engine: InProcess, initial: Adapter):
        self.engine, self.config = engine, engine.config
        self.method = engine.method
        self.initial = self.method.init(initial)
        self.stages: dict[str, float] = {}

    def reset(self) -> None:
        """Forget what clients hold and what is cached."""
        self.engine.replicas.clear()
        prefix = self.engine.model.prefix
        if prefix is not None:
            prefix.cache.held.clear()
            prefix.cache.size = 0

    def run(self) -> Tensor:
        """A and B after all rounds, in one vector."""
        clock, state, guard = Clock(), self.initial, Protection(self.config)
        parts = (self.config, self.method, self.engine, Ledger(), guard)
        run = Run(*parts, answered=lambda answer: None)
        for _ in range(self.config.rounds):
            state, _ = one_round(run, state, clock)
        self.stages = clock.seconds
        return state.parts.select({"A", "B"}).flat

    def one_stack(self) -> None:
        """The local training of the first stack in round 1, in this thread."""
        self.reset()
        clients = self.engine.clients[: self.engine.stack]
        jobs = [self.engine.job(self.method.plan(self.initial, client)) for client in clients]
        train = self.engine.splits["train"].examples
        self.engine.runtime.train(self.engine.model, train, jobs)

    def work(self) -> Work:
        """This, to be measured."""
        return Work(self.run, self.reset, self.one_stack, lambda: self.stages)
