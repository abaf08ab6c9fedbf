"""One attempt at a round: its plans are carried out, and what comes is aggregated and judged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rolora.config import Config
from rolora.core.errors import RunFailed
from rolora.core.types import Failure, Part, Plan, ServerState, Update
from rolora.methods import Method
from rolora.privacy.noising import chain_of
from rolora.records.wire import plan_bytes
from rolora.reducers import Reduced
from rolora.server.engine import Engine
from rolora.server.gathering import Gathering
from rolora.server.judge import Judge, all_finite, distances, mean_distances
from rolora.server.ledger import Ledger
from rolora.server.optimizer import server_step
from rolora.server.protection import Protection
from rolora.server.screen import Screen


@dataclass(frozen=True)
class Run:
    """What all rounds of a run have in common.

    Args:
        config: the run's settings.
        method: plans and aggregates.
        engine: where clients run.
        ledger: what clients hold.
        guard: what privacy changes.
        answered: told of every client's answer.
    """

    config: Config
    method: Method
    engine: Engine
    ledger: Ledger
    guard: Protection
    answered: Callable[[Update | Failure], None]


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


def attempted(
    run: Run, start: ServerState, plans: Sequence[Plan], enough: int, clock: Clock, spent: Spent
) -> tuple[Gathering, ServerState | Spoilt | None]:
    """Have the plans carried out, and aggregate what came.

    Args:
        start: what the round is made on.
        enough: so many updates are a round.

    Returns:
        what came, and the state that it makes, or why that must not stand; None of too few.
    """
    gathering, error = gathering_of(run, start, plans, enough), None
    if plans and len(plans) >= enough:
        error = asked(gathering, run.ledger, clock, spent)
    if not gathering.complete:
        return gathering, None
    with clock("aggregate"):
        return gathering, aggregated(run, start, gathering, error)


def gathering_of(run: Run, start: ServerState, plans: Sequence[Plan], enough: int) -> Gathering:
    """The updates of an attempt, one by one or as a secure sum."""
    config, engine = run.config, run.engine
    weighting = config.server.weighting
    given = (engine.registered, plans, start, weighting, chain_of(config), run.answered)
    if config.least_sum is None:
        return Gathering(engine, Screen(*given), run.guard.reducer(run.method, start), enough)
    from rolora.secure.tally import Tally
    from rolora.server.summed import Summed, SummedGathering, SummedScreen

    tally = Tally(config.sum_terms(start.round + 1), config.largest_share)
    screen, told = SummedScreen(*given), not config.noised_by_clients
    return SummedGathering(engine, screen, Summed(tally, start.parts), enough, losses=told)


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


def aggregated(
    run: Run, start: ServerState, gathering: Gathering, error: Exception | None
) -> ServerState | Spoilt:
    """The state after a round, or why it must not stand (:class:`Judge`).

    Args:
        error: what the reducer could not take.
    """
    config, method = run.config, run.method
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
