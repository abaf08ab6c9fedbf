"""The round: the one place where rounds are counted. Both engines are driven from here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from rolora.config import Config
from rolora.core.errors import RunFailed
from rolora.core.shares import count_of
from rolora.core.types import Failure, Part, Plan, RoundNotes, ServerState, Update
from rolora.methods import Method
from rolora.records.schema import FailureRecord, RoundRecord
from rolora.records.shield import shielded
from rolora.server.attempt import Clock, Run, Spent, attempted
from rolora.server.budget import affordable
from rolora.server.engine import Engine
from rolora.server.gathering import Gathering
from rolora.server.ledger import Ledger
from rolora.server.pooling import validated
from rolora.server.protection import Protection, unprotected
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
class Kept:
    """The newest state that stands, and how much of a run is in its checkpoint.

    Args:
        record: the run's files.
        engine: its clients keep something too.
        state: the newest that stands.
        held: what clients hold since then.
        saved: the round of the newest checkpoint.
    """

    record: Record
    engine: Engine
    state: ServerState
    held: Ledger
    saved: int

    def stands(self, state: ServerState, ledger: Ledger) -> None:
        """A restart may go on from here."""
        self.state, self.held = state, Ledger(ledger.held)

    def checkpoint(self, unseen: RoundRecord | None = None) -> None:
        """Write down what stands, unless it is.

        Args:
            unseen: what is known of its round, where that has not been evaluated yet.
        """
        if self.saved != self.state.round:
            with shielded():
                self.record.checkpoint(self.state, self.held, self.engine, unseen)
                self.saved = self.state.round


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
    run = Run(config, method, engine, ledger, protection or unprotected(config), answered)
    kept = Kept(record, engine, state, Ledger(ledger.held), saved=state.round)
    going = goes_on(run, state, spent)
    try:
        while going or unseen is not None:
            clock = Clock()
            if unseen is None:
                new, metrics = one_round(run, state, clock)
                if run.guard.counts:
                    with shielded():
                        kept.stands(new, ledger)
                        kept.checkpoint(unseen=metrics)
            else:
                new, metrics, unseen = state, unseen, None
            run.guard.note(metrics)
            spent += metrics.bytes_up + metrics.bytes_down
            going = goes_on(run, new, spent)
            scored = not going or new.round % config.evaluation.every == 0
            seen = evaluated(run, task, new, clock) if scored else {}
            notes = engine.take_notes()
            spent += notes.bytes_down
            metrics = completed(metrics, seen, notes, clock, run.guard.epsilon)
            with shielded():
                record.round_finished(metrics)
                kept.stands(new, ledger)
                if not going or new.round % config.checkpoint.every == 0:
                    kept.checkpoint()
            state = new
            yield metrics
    finally:
        kept.checkpoint()
    return state


def goes_on(run: Run, state: ServerState, spent: int) -> bool:
    """Whether there is another round, and its budgets allow it.

    Args:
        spent: bytes both ways so far.
    """
    if state.round >= run.config.rounds or not run.guard.allows(state.round + 1):
        return False
    given = (run.config, run.method, run.engine.clients, state, run.ledger)
    return affordable(*given, spent, run.guard.cohort)


def evaluated(run: Run, task: Task, state: ServerState, clock: Clock) -> Mapping[str, Any]:
    """What a round's record says of its model on the validation examples."""
    with clock("evaluate"):
        results = run.engine.evaluate(run.method.evaluation_plan(state), "validation")
        return validated(task, results, run.engine.names, run.config.largest_share)


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


def one_round(run: Run, state: ServerState, clock: Clock) -> tuple[ServerState, RoundRecord]:
    """Sample, plan, train, screen, aggregate, judge; again with another cohort if the quorum is
    lost, and again without those who spoiled it if the aggregate must not stand.
    """
    guard, clients = run.guard, run.engine.clients
    with clock("plan"):
        start = run.method.start(state)
    size = len(guard.cohort(clients, state.round + 1, 0))
    enough = enough_of(run, start, size)
    out = left_out(state, len(clients), enough)
    # Where all are asked, or a sum is opened, others would not make another round of it.
    final = size == len(clients) or run.config.least_sum is not None
    spent, attempt, barred = Spent(), 0, set[int]()
    while attempt < ATTEMPTS:
        with clock("plan"):
            known = [client for client in clients if client.id not in barred | out]
            cohort = guard.cohort(known, state.round + 1, attempt)
            plans = [run.method.plan(state, c) for c in cohort if c.id not in spent.spoilers]
        gathering, made = attempted(run, start, plans, enough, clock, spent)
        if isinstance(made, ServerState):
            with clock("aggregate"):
                new = closed(run, state, made, plans, spent.spoilers, gathering)
            newly = left_out(new, len(clients), enough) - out
            record = recorded(run, state, gathering, spent, size, attempt + 1, newly)
            return new, record
        if made is not None and made.blamed:
            spent.spoilt(made.blamed, run.ledger)
            if len(plans) - len(made.blamed) < enough:
                barred = set(spent.spoilers)  # others take their places
        elif made is not None and (attempt + 1 == ATTEMPTS or final):
            raise made.error
        else:
            attempt, barred = attempt + 1, set(spent.spoilers)
    raise quorum_lost(run.config, state.round + 1, enough, spent.failures)


def enough_of(run: Run, start: ServerState, size: int) -> int:
    """How many updates a round needs.

    Args:
        size: of its cohort.
    """
    least = run.config.least_sum or run.guard.reducer(run.method, start).least
    return max(least, count_of(run.config.federation.quorum, size))


def closed(
    run: Run,
    state: ServerState,
    made: ServerState,
    plans: Sequence[Plan],
    spoilers: Collection[int],
    gathering: Gathering,
) -> ServerState:
    """The state that all go on from: of the bits that clients can decode, with who spoiled rounds.

    Args:
        state: before the round.
        made: of its updates.
    """
    made = coded_down(make_chain(run.config.server.stages), run.config.seed, state, made)
    made = replace(made, spoilt=spoilt_after(state, spoilers, gathering.screen.updates))
    for plan in plans:
        run.ledger.finished(plan, made)
    return made


def recorded(
    run: Run,
    state: ServerState,
    gathering: Gathering,
    spent: Spent,
    size: int,
    attempts: int,
    newly: Collection[int],
) -> RoundRecord:
    """The record of a round that stands, before it is evaluated.

    Args:
        state: before the round.
        size: of its cohort.
        newly: the clients that are asked no more after it.
    """
    screen = gathering.screen
    return RoundRecord(
        round=state.round + 1,
        phase=phase(run.method.plan(state, run.engine.clients[0]).train),
        cohort=size,
        attempts=attempts,
        faults=asked_no_more(newly),
        train_loss=screen.train_loss(run.config.largest_share),
        updates=screen.written(gathering.reducer.limit()),
        clients=len(screen.updates),
        failures=written(spent.failures),
        bytes_up=spent.up,
        bytes_down=spent.down,
    )


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
