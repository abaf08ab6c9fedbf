"""The round: the one place where rounds are counted. Both engines are driven from here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol, TypeVar

from rolora.config import Config
from rolora.core.errors import RunFailed
from rolora.core.shares import count_of
from rolora.core.types import (
    Failure,
    Part,
    Plan,
    RoundNotes,
    ServerState,
    Update,
)
from rolora.methods import Method
from rolora.privacy.noising import chain_of
from rolora.records.schema import FailureRecord, RoundRecord
from rolora.records.shield import shielded
from rolora.records.wire import plan_bytes
from rolora.reducers import Reduced
from rolora.server.budget import affordable
from rolora.server.engine import Engine
from rolora.server.gathering import Gathering
from rolora.server.judge import Judge, all_finite, distances, mean_distances
from rolora.server.ledger import Ledger
from rolora.server.optimizer import server_step
from rolora.server.pooling import validated
from rolora.server.protection import Protection, unprotected
from rolora.server.screen import Screen
from rolora.stages import make_chain
from rolora.stages.downlink import coded_down
from rolora.tasks import Task

Result = TypeVar("Result")

MOST_SPOILT = 3
"""Rounds in a row that a client may spoil; then it is asked no more."""
ATTEMPTS = 3
"""How often a round is tried, each time with another cohort, before the run ends."""


class Record(Protocol):
    """Where the run is written down (:class:`rolora.records.rundir.RunDirectory`)."""

    def round_finished(self, metrics: RoundRecord) -> None:
        """Append one line to the metrics."""

    def checkpoint(
        self,
        state: ServerState,
        ledger: Ledger,
        engine: Engine,
        unseen: RoundRecord | None = None,
    ) -> None:
        """Make the state the one that a restart goes on from, with what is known so far of its
        round where that has not been evaluated yet.
        """


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
    protection: Protection | None = None,
    unseen: RoundRecord | None = None,
) -> Generator[RoundRecord, None, ServerState]:
    """Run the rounds that are left, one at a time, as far as ``server.byte_budget`` and
    ``privacy.target_epsilon`` go; the value at the end is the final state.

    Where privacy is counted a round is checkpointed before its model is shown to anybody, with the
    evaluation still to come: were it made anew after a kill, of other answers, that would be one
    release more than is counted.

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
        protection: what privacy changes; None: nothing, and the config asks for none.
        unseen: the record of the round of `state`, where that is still to be evaluated.

    Yields:
        the record of a round, once it is finished: its metrics are written.

    Raises:
        BadInput: a budget does not even allow round 1.
        RunFailed: the quorum was lost in every attempt at a round.

    Whatever ends the run, an interrupt or a closed generator too, is passed on after the last
    finished round has been checkpointed.
    """
    saved, held = state.round, Ledger(ledger.held)
    guard = protection or unprotected(config)

    def goes_on(state: ServerState) -> bool:
        if state.round >= config.rounds or not guard.allows(state.round + 1):
            return False
        given = (config, method, engine.clients, state, ledger)
        return affordable(*given, spent, guard.cohort)

    going = goes_on(state)
    try:
        while going or unseen is not None:
            clock = Clock()
            if unseen is None:
                given = (config, method, engine, state, ledger, clock, answered, guard)
                new, metrics = one_round(*given)
                if guard.counts:
                    with shielded():
                        state, held = new, Ledger(ledger.held)
                        record.checkpoint(state, held, engine, metrics)
                        saved = state.round
            else:
                new, metrics, unseen = state, unseen, None
            guard.note(metrics)
            spent += metrics.bytes_up + metrics.bytes_down
            going, seen = goes_on(new), {}
            if not going or new.round % config.evaluation.every == 0:
                with clock("evaluate"):
                    results = engine.evaluate(method.evaluation_plan(new), "validation")
                    seen = validated(task, results, engine.names, config.largest_share)
            notes = engine.take_notes()
            spent += notes.bytes_down
            metrics = completed(metrics, seen, notes, clock, guard.epsilon)
            with shielded():
                record.round_finished(metrics)
                state, held = new, Ledger(ledger.held)
                due = not going or state.round % config.checkpoint.every == 0
                if due and saved != state.round:
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
    guard: Protection,
) -> tuple[ServerState, RoundRecord]:
    """Sample, plan, train, screen, aggregate, judge; again with another cohort if the quorum is
    lost, and again without those who spoiled it if the aggregate must not stand.
    """
    spent, attempt, barred = Spent(), 0, set[int]()
    with clock("plan"):
        start = method.start(state)
    size = len(guard.cohort(engine.clients, state.round + 1, attempt))
    least = config.least_sum or guard.reducer(method, start).least
    enough = max(least, count_of(config.federation.quorum, size))
    out = left_out(state, len(engine.clients), enough)
    # Where all are asked, or a sum is opened, others would not make another round of it.
    final = size == len(engine.clients) or config.least_sum is not None
    while attempt < ATTEMPTS:
        with clock("plan"):
            known = [client for client in engine.clients if client.id not in barred | out]
            cohort = guard.cohort(known, state.round + 1, attempt)
            whole = [method.plan(state, one) for one in cohort if one.id not in spent.spoilers]
        given = (config, method, engine, start, whole, enough, answered, guard)
        gathering, error = gathering_of(*given), None
        if whole and len(whole) >= enough:
            error = asked(gathering, ledger, clock, spent)
        made: ServerState | Spoilt | None = None
        if gathering.complete:
            with clock("aggregate"):
                made = aggregated(config, method, start, gathering, error)
        if isinstance(made, ServerState):
            with clock("aggregate"):
                made = coded_down(make_chain(config.server.stages), config.seed, state, made)
            made = replace(
                made, spoilt=spoilt_after(state, spent.spoilers, gathering.screen.updates)
            )
            for plan in whole:
                ledger.finished(plan, made)
            newly = left_out(made, len(engine.clients), enough) - out
            return made, RoundRecord(
                round=made.round,
                phase=phase(method.plan(state, engine.clients[0]).train),
                cohort=size,
                attempts=attempt + 1,
                faults=asked_no_more(newly),
                **counted(config, gathering, spent),
            )
        if made is not None and made.blamed:
            spent.spoilt(made.blamed, ledger)
            if len(whole) - len(made.blamed) < enough:
                barred = set(spent.spoilers)  # others take their places
        elif made is not None and (attempt + 1 == ATTEMPTS or final):
            raise made.error
        else:
            attempt, barred = attempt + 1, set(spent.spoilers)
    raise quorum_lost(config, state.round + 1, enough, spent.failures)


def left_out(state: ServerState, clients: int, enough: int) -> set[int]:
    """The clients that are asked no more, as they spoiled :data:`MOST_SPOILT` rounds in a row;
    nobody where too few would be left for a round.

    Args:
        state: before the round.
        clients: how many there are.
        enough: so many a round needs.
    """
    out = {client for client, rounds in state.spoilt.items() if rounds >= MOST_SPOILT}
    return out if clients - len(out) >= enough else set()


def spoilt_after(
    state: ServerState, spoilers: Collection[int], sound: Collection[int]
) -> dict[int, int]:
    """How many rounds in a row each client has spoiled, after one more.

    Args:
        state: before the round.
        spoilers: who spoiled this one.
        sound: whose updates it was made of.
    """
    counts = {client: n for client, n in state.spoilt.items() if client not in sound}
    return counts | {client: counts.get(client, 0) + 1 for client in spoilers}


def asked_no_more(clients: Collection[int]) -> tuple[str, ...]:
    """What is said of clients that are asked no more."""
    said = f"its updates spoiled {MOST_SPOILT} rounds in a row; it is asked no more"
    return tuple(f"client {client}: {said}" for client in sorted(clients))


def counted(config: Config, gathering: Gathering, spent: Spent) -> dict[str, Any]:
    """What a round's record says of its updates, and of what all attempts took."""
    screen = gathering.screen
    return {
        "train_loss": screen.train_loss(config.largest_share),
        "updates": screen.written(gathering.reducer.limit()),
        "clients": len(screen.updates),
        "failures": written(spent.failures),
        "bytes_up": spent.up,
        "bytes_down": spent.down,
    }


def asked(gathering: Gathering, ledger: Ledger, clock: Clock, spent: Spent) -> Exception | None:
    """Have a gathering's plans carried out; what its reducer could not take, if so."""
    screen = gathering.screen
    with clock("plan"):
        plans = [ledger.narrow(plan) for plan in screen.plans.values()]
    with clock("aggregate"):
        error = gathering.gather(plans)
    clock.seconds["aggregate"] -= screen.seconds
    clock.seconds["train"] = clock.seconds.get("train", 0.0) + screen.seconds
    spent.add(plans, gathering)
    for plan in plans:
        ledger.replied(plan) if plan.client in screen.updates else ledger.failed(plan.client)
    return error


@dataclass
class Spent:
    """What all attempts at a round took.

    Attributes:
        failures: clients without a usable update, of every attempt.
        spoilers: clients that are not asked again in this round.
        up, down: bytes.
    """

    failures: list[Failure] = field(default_factory=list)
    spoilers: set[int] = field(default_factory=set)
    up: int = 0
    down: int = 0

    def add(self, plans: Sequence[Plan], gathering: Gathering) -> None:
        """One attempt more."""
        self.down += sum(map(plan_bytes, plans)) + gathering.down
        self.up += gathering.screen.bytes_up + gathering.up
        self.failures += gathering.screen.failures

    def spoilt(self, blamed: Sequence[Failure], ledger: Ledger) -> None:
        """The round is rolled back, and done again without these."""
        self.failures += blamed
        self.spoilers |= {failure.client for failure in blamed}
        for client in self.spoilers:
            ledger.failed(client)


@dataclass(frozen=True)
class Spoilt:
    """A round that must not stand.

    Args:
        blamed: the clients whose updates did it; nobody where none stands out.
        error: what is wrong with it.
    """

    blamed: list[Failure]
    error: Exception


def aggregated(
    config: Config,
    method: Method,
    start: ServerState,
    gathering: Gathering,
    error: Exception | None,
) -> ServerState | Spoilt:
    """The state after a round, or why it must not stand (:class:`Judge`).

    Args:
        error: what the reducer could not take.
    """
    screen, reducer = gathering.screen, gathering.reducer
    went: Mapping[Part, float] = dict.fromkeys(chain(*screen.distances.values()), math.inf)
    try:
        if error is not None:
            raise error
        reduced = reducer.result()
        new = server_step(config.server, start, method.combine(start, reduced), method.stepped)
        if all_finite(new):
            went = travelled(reduced, start, screen, reducer.limit())
        else:
            error = not_finite(start.round + 1, len(screen.updates))
    except Exception as raised:  # what a method cannot do with these updates
        error = raised
    blamed = Judge(start, screen.distances, config.largest_jump).blamed(went)
    if blamed or error is not None:
        return Spoilt(blamed, error or RunFailed(blamed[0].detail))
    return new


def not_finite(number: int, updates: int) -> RunFailed:
    """What is said of a round that nobody in particular spoilt."""
    return RunFailed(
        f"round {number}: what {updates} updates make together is not finite, and none of them "
        "stands out; the run diverges; try a lower optimizer.lr"
    )


def travelled(
    reduced: Any, start: ServerState, screen: Screen, limit: float
) -> Mapping[Part, float]:
    """How far the aggregate is from the start, by part: as measured where it is one adapter in
    place of the clients', else at most, by the mean of their distances.
    """
    if isinstance(reduced, Reduced):
        return distances(reduced.parts, start.parts)
    weights = {update.client: update.weight or 0.0 for update in screen.written(limit)}
    return mean_distances(screen.distances, weights)


def quorum_lost(config: Config, number: int, enough: int, failures: Sequence[Failure]) -> RunFailed:
    """What is said of a round that nobody could finish, as fewer than `enough` updates came."""
    how = f"server.reducer {config.server.reducer.name}"
    if config.least_sum is not None:
        how = f"secure_sum.threshold {config.secure_sum.threshold:g}"
    return RunFailed(
        f"round {number}: the quorum of {config.federation.quorum:.0%} of "
        f"{config.federation.cohort_size} clients, {enough} updates with {how}, was lost "
        f"{ATTEMPTS} times; last failures: "
        + "; ".join(f"client {f.client}: {f.reason} {f.detail}".strip() for f in failures[-3:])
    )


def gathering_of(
    config: Config,
    method: Method,
    engine: Engine,
    start: ServerState,
    plans: Sequence[Plan],
    enough: int,
    answered: Callable[[Update | Failure], None],
    guard: Protection,
) -> Gathering:
    """One attempt at a round: its updates one by one, or as a secure sum."""
    weighting = config.server.weighting
    given = (engine.registered, plans, start, weighting, chain_of(config), answered)
    if config.least_sum is None:
        return Gathering(engine, Screen(*given), guard.reducer(method, start), enough)
    from rolora.secure.tally import Tally
    from rolora.server.summed import Summed, SummedGathering, SummedScreen

    tally = Tally(config.sum_terms(start.round + 1), config.largest_share)
    screen, told = SummedScreen(*given), not config.noised_by_clients
    return SummedGathering(engine, screen, Summed(tally, start.parts), enough, losses=told)


def completed(
    metrics: RoundRecord,
    seen: Mapping[str, Any],
    notes: RoundNotes,
    clock: Clock,
    epsilon: float | None,
) -> RoundRecord:
    """A round's record with what came after the aggregate."""
    return metrics.changed(
        **seen,
        eval_failures=written(notes.eval_failures),
        faults=(*metrics.faults, *notes.faults),
        bytes_down=metrics.bytes_down + notes.bytes_down,
        seconds=rounded(clock.seconds),
        epsilon=epsilon,
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
