"""A learning rate for each of several things, by successive halving on a grid that widens itself.

Rates are compared after the first of several rungs, numbers of rounds; the best third of them goes
on to the next. Runs go on where they stopped, so that a rate costs the rounds of the last rung that
it reached. Source: Jamieson and Talwalkar, Non-stochastic Best Arm Identification and
Hyperparameter Optimization, AISTATS 2016 (arXiv 1502.07943), Figure 3, with a share of a third.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf
from typing import TypeVar

from rolora.core.errors import BadInput

K = TypeVar("K")
Scores = dict[float, dict[int, float]]
"""By rate and rung: higher is better, -inf where a run failed."""
Asked = tuple[Sequence[float], int]
"""Rates, and the rung up to which they are to be run."""
SHARE = 3
"""One in so many rates goes on, and a search costs at most one in so many of all rounds."""


@dataclass(frozen=True)
class Grid:
    """What is searched.

    Args:
        rates: to begin with, ascending.
        rungs: numbers of rounds, ascending, at which rates are compared; the last is a whole run.
        widen_by: the next rate beyond an end, as a multiple of it.
        bounds: the lowest and the highest rate that is tried; None: `rates` are all.

    Raises:
        BadInput: no rates, or some that do not ascend.
    """

    rates: tuple[float, ...]
    rungs: tuple[int, ...]
    widen_by: float = 2.0
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        ascend = all(before < after < inf for before, after in pairwise((0, *self.rates)))
        if not self.rates or not ascend:
            raise BadInput(f"rates = {list(self.rates)}: must be above 0 and ascend")

    def beyond(self, tried: Scores, rung: int) -> list[float]:
        """The next rate where one alone is best at `rung` and lies at an end of those tried, and
        the bounds and the cost allow one more.
        """
        best, *others = leading(tried, rung)
        low, high = min(tried), max(tried)
        if self.bounds is None or (len(self.rungs) > 1 and not self.affordable(tried, rung, 1)):
            return []
        if others and tried[others[0]][rung] == tried[best][rung]:
            return []  # where several do alike, as before anything is learned, no side is better
        further = ([best / self.widen_by] if best == low else []) + (
            [best * self.widen_by] if best == high else []
        )
        least, most = self.bounds
        return [rate for rate in further if least <= rate <= most]

    def affordable(self, tried: Scores, more: int, new: int = 0) -> bool:
        """Whether `more` rounds keep the cost within a third of a full grid's, with `new` rates."""
        return SHARE * (trained(tried) + more) <= (len(tried) + new) * self.rungs[-1]

    def surviving(self, tried: Scores, rung: int, after: int) -> list[float]:
        """The best third at `rung`, or as many of them as can go on to the rung `after`; no run
        that failed.
        """
        ranked = leading(tried, rung)
        found = [r for r in ranked[: ceil(len(ranked) / SHARE)] if tried[r][rung] > -inf]
        while found and not self.affordable(tried, len(found) * (after - rung)):
            found.pop()
        return found


@dataclass(frozen=True)
class Found:
    """What a search ends with.

    Args:
        rate: the best.
        rung: the rounds after which it was chosen.
        scores: by rate and rung, of all that was tried.
    """

    rate: float
    rung: int
    scores: Mapping[float, Mapping[int, float]]

    @property
    def at_end(self) -> bool:
        """Whether a better rate may lie beyond those tried."""
        return len(self.scores) > 1 and self.rate in (min(self.scores), max(self.scores))


def rungs_of(rounds: int) -> tuple[int, ...]:
    """A ninth, a third and all of the rounds; even numbers, where there are enough, so that methods
    that alternate have trained both factors equally often.
    """
    third = rounds // SHARE
    whole = third - third % 2 if third > 1 else third
    ninth = rounds // SHARE**2
    first = min(max(ninth - ninth % 2, 2), whole)
    return tuple(sorted({rung for rung in (first, whole, rounds) if rung > 0}))


def leading(tried: Scores, rung: int) -> list[float]:
    """The rates that reached `rung`, the best first; of equal ones the lower."""
    return sorted((r for r in tried if rung in tried[r]), key=lambda r: (-tried[r][rung], r))


def trained(tried: Mapping[float, Mapping[int, float]]) -> int:
    """The rounds that were run, in all."""
    return sum(max(rungs) for rungs in tried.values())


def search(
    keys: Sequence[K],
    grid: Grid,
    run: Callable[[Sequence[tuple[K, float]], int], Sequence[float]],
) -> dict[K, Found]:
    """The best rate for every key.

    Args:
        keys: what wants a rate.
        grid: what is tried.
        run: makes runs up to a number of rounds, and scores them in order, higher is better; -inf:
            the run failed.
    """
    hunts = {key: hunt(grid) for key in keys}
    asked = {key: next(one) for key, one in hunts.items()}
    found: dict[K, Found] = {}
    while asked:
        rung = min(up_to for _, up_to in asked.values())
        now = {key: rates for key, (rates, up_to) in asked.items() if up_to == rung}
        wanted = [(key, rate) for key, rates in now.items() for rate in rates]
        scores = dict(zip(wanted, run(wanted, rung), strict=True))
        for key, rates in now.items():
            try:
                asked[key] = hunts[key].send([scores[key, rate] for rate in rates])
            except StopIteration as end:
                found[key] = end.value
                del asked[key]
    return {key: found[key] for key in keys}


def hunt(grid: Grid) -> Generator[Asked, Sequence[float], Found]:
    """One search: yields what it wants run, is sent the scores, ends with what it found."""
    tried: Scores = {}
    alive: Sequence[float] = grid.rates
    for rung, after in zip(grid.rungs, [*grid.rungs[1:], 0], strict=True):
        asked = alive
        while asked:
            for rate, score in zip(asked, (yield asked, rung), strict=True):
                tried.setdefault(rate, {})[rung] = score
            asked = grid.beyond(tried, rung)
        alive = grid.surviving(tried, rung, after) if after else []
        if not alive:
            break
    return Found(leading(tried, rung)[0], rung, tried)
