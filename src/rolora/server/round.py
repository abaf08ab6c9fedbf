"""The round: the one place where rounds are counted. Both engines are driven from here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor

from rolora.config import Config
from rolora.core.errors import RunFailed
from rolora.core.types import (
    ClientInfo,
    Evaluation,
    Failure,
    Part,
    Plan,
    RoundNotes,
    ServerState,
    Update,
)
from rolora.methods import Method
from rolora.records.schema import FailureRecord, RoundRecord, Scores
from rolora.records.shield import shielded
from rolora.records.wire import payload_bytes
from rolora.reducers import Reducer, make_reducer
from rolora.server.budget import affordable
from rolora.server.cohort import sample_cohort
from rolora.server.ledger import Ledger
from rolora.server.optimizer import server_step
from rolora.server.screen import Screen
from rolora.stages import make_stage
from rolora.tasks import Task, added

Result = TypeVar("Result")

ATTEMPTS = 3
"""How often a round is tried, each time with another cohort, before the run ends."""


class Engine(Protocol):
    """Where clients run: in this process, or across machines."""

    @property
    def clients(self) -> Sequence[ClientInfo]:
        """All clients, by id."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the model's outputs stand for."""

    def registered(self, client: int) -> int:
        """The number of training examples that the client has said it holds; 0: not known."""

    def train(self, plans: Sequence[Plan]) -> Iterator[Update | Failure]:
        """Carry out the plans; one answer for each, as they come."""

    def evaluate(self, plan: Plan, split: str) -> list[Evaluation]:
        """Evaluate the model of `plan` on every client's held-out examples of `split`."""

    def take_notes(self) -> RoundNotes:
        """What else is to be written down since this was last asked."""

    def tensors(self, round_number: int) -> dict[str, Tensor]:
        """What the engine must find again to go on after a round, by ``KIND/CLIENT/NAME``: the last
        one finished, though the next may have begun.
        """

    def restore(self, tensors: Mapping[str, Tensor], state: ServerState) -> None:
        """Take up :meth:`tensors` of an earlier process."""


class Record(Protocol):
    """Where the run is written down (:class:`rolora.records.rundir.RunDirectory`)."""

    def round_finished(self, metrics: RoundRecord) -> None:
        """Append one line to the metrics."""

    def checkpoint(self, state: ServerState, ledger: Ledger, engine: Engine) -> None:
        """Make the state the one that a restart goes on from."""


@dataclass
class Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of the block to `stage`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


def rounds(
    config: Config,
    method: Method,
    task: Task,
    engine: Engine,
    state: ServerState,
    ledger: Ledger,
    record: Record,
    answered: Callable[[Update | Failure], None] = lambda answer: None,
    spent: int = 0,
) -> Generator[RoundRecord, None, ServerState]:
    """Run the rounds that are left, one at a time, as far as ``server.byte_budget`` goes; the value
    at the end is the final state.

    Args:
        config: the run's settings.
        method: plans and aggregates.
        task: how a round's model is scored.
        engine: where clients run.
        state: the state to go on from; ``method.init(...)`` for a new run.
        ledger: what clients hold.
        record: the run's files.
        answered: told of every client's answer.
        spent: bytes both ways in the rounds before.

    Yields:
        the record of a round, once it is finished: its metrics are written.

    Raises:
        BadInput: the byte budget does not even allow round 1.
        RunFailed: the quorum was lost in every attempt at a round.

    Whatever ends the run, an interrupt or a closed generator too, is passed on after the last
    finished round has been checkpointed.
    """
    saved, held = state.round, Ledger(ledger.held)

    def goes_on(state: ServerState) -> bool:
        return state.round < config.rounds and affordable(
            config, method, engine.clients, state, ledger, spent
        )

    going = goes_on(state)
    try:
        while going:
            clock = Clock()
            new, metrics = one_round(config, method, engine, state, ledger, clock, answered)
            spent += metrics.bytes_up + metrics.bytes_down
            going, seen = goes_on(new), {}
            if not going or new.round % config.evaluation.every == 0:
                with clock("evaluate"):
                    results = engine.evaluate(method.evaluation_plan(new), "validation")
                    seen = validated(task, results, engine.names)
            notes = engine.take_notes()
            spent += notes.bytes_down
            metrics = completed(metrics, seen, notes, clock)
            with shielded():
                record.round_finished(metrics)
                state, held = new, Ledger(ledger.held)
                if not going or state.round % config.checkpoint.every == 0:
                    record.checkpoint(state, held, engine)
                    saved = state.round
            yield metrics
    finally:
        if saved != state.round:
            with shielded():
                record.checkpoint(state, held, engine)
    return state


def run_rounds(
    config: Config,
    method: Method,
    task: Task,
    engine: Engine,
    state: ServerState,
    ledger: Ledger,
    record: Record,
    answered: Callable[[Update | Failure], None] = lambda answer: None,
) -> ServerState:
    """All of :func:`rounds`; the final state."""
    return finished(rounds(config, method, task, engine, state, ledger, record, answered))


def finished(steps: Generator[RoundRecord, None, Result]) -> Result:
    """Take every step; the value at the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def one_round(
    config: Config,
    method: Method,
    engine: Engine,
    state: ServerState,
    ledger: Ledger,
    clock: Clock,
    answered: Callable[[Update | Failure], None],
) -> tuple[ServerState, RoundRecord]:
    """Sample, plan, train, screen, aggregate; again with another cohort if the quorum is lost."""
    failures: list[Failure] = []
    down = up = 0
    with clock("plan"):
        start, stages = method.start(state), [make_stage(options) for options in config.stages]
    for attempt in range(ATTEMPTS):
        with clock("plan"):
            cohort = sample_cohort(config, engine.clients, state.round + 1, attempt)
            whole = [method.plan(state, client) for client in cohort]
            plans = [ledger.narrow(plan) for plan in whole]
        screen = Screen(engine.registered, whole, start, config.server.weighting, stages, answered)
        with clock("aggregate"):
            reducer = reducer_of(config, method)
            for update in screen.sound(engine.train(plans)):
                reducer.add(update)
        clock.seconds["aggregate"] -= screen.seconds
        clock.seconds["train"] = clock.seconds.get("train", 0.0) + screen.seconds
        down += sum(payload_bytes(plan.send.layout) for plan in plans)
        up, failures = up + screen.bytes_up, failures + screen.failures
        for plan in plans:
            ledger.replied(plan) if plan.client in screen.updates else ledger.failed(plan.client)
        if len(screen.updates) < max(1, needed(config.federation.quorum, len(plans))):
            continue
        with clock("aggregate"):
            new = method.combine(start, reducer.result())
            new = server_step(config.server, start, new, method.stepped)
        for plan in plans:
            ledger.finished(plan, new)
        return new, RoundRecord(
            round=new.round,
            phase=phase(plans[0].train),
            train_loss=screen.train_loss(),
            updates=screen.written(),
            clients=len(screen.updates),
            cohort=len(plans),
            attempts=attempt + 1,
            failures=written(failures),
            bytes_up=up,
            bytes_down=down,
        )
    raise quorum_lost(config, state.round + 1, failures)


def quorum_lost(config: Config, number: int, failures: Sequence[Failure]) -> RunFailed:
    """What is said of a round that nobody could finish."""
    return RunFailed(
        f"round {number}: the quorum of {config.federation.quorum:.0%} of "
        f"{config.federation.cohort_size} clients was lost {ATTEMPTS} times; last failures: "
        + "; ".join(f"client {f.client}: {f.reason} {f.detail}".strip() for f in failures[-3:])
    )


def reducer_of(config: Config, method: Method) -> Reducer[Any]:
    """A new reducer: the method's own where it needs each client's factors, else the run's."""
    return (
        method.reducer()
        if method.reduction == "each"
        else make_reducer(config.server.reducer, config.federation.cohort_size, start)
    )


def needed(quorum: float, cohort: int) -> int:
    """How many updates a round needs: the share `quorum` of `cohort`, rounded up."""
    return math.ceil(round(quorum * cohort, 6))  # 0.28 * 25 is 7, but 7.000000000000001 in floats


def scored(task: Task, results: Iterable[Evaluation]) -> Scores:
    """The scores of evaluations put together."""
    sums = added(result.sums for result in results)
    if not sums:
        return {metric.name: None for metric in task.metrics}
    return dict(task.scores(sums))


def validated(task: Task, results: Sequence[Evaluation], names: Sequence[str]) -> dict[str, Any]:
    """What a round's record says of its evaluations."""
    sums = added(result.sums for result in results)
    if not sums:
        return {"validation": scored(task, ())}
    return {
        "validation": dict(task.scores(sums)),
        "prediction_shares": task.prediction_shares(sums),
        "detail": task.detail(sums, names),
        "collapsed": task.collapsed(sums, names),
    }


def completed(
    metrics: RoundRecord, seen: Mapping[str, Any], notes: RoundNotes, clock: Clock
) -> RoundRecord:
    """A round's record with what came after the aggregate."""
    return metrics.changed(
        **seen,
        eval_failures=written(notes.eval_failures),
        faults=tuple(notes.faults),
        bytes_down=metrics.bytes_down + notes.bytes_down,
        seconds=rounded(clock.seconds),
    )


def written(failures: Sequence[Failure]) -> tuple[FailureRecord, ...]:
    """Failures as they are written down."""
    return tuple(FailureRecord(**vars(failure)) for failure in failures)


def phase(train: frozenset[Part]) -> str:
    """``A``, ``B`` or ``AB``, with ``+head`` where the head trains too."""
    factors = "".join(sorted(train - {"head"}))
    return factors + ("+head" if "head" in train else "")


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds are enough."""
    total = sum(seconds.values())
    return {name: round(value, 4) for name, value in {**seconds, "total": total}.items()}
