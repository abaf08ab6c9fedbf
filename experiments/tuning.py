"""Learning rates: chosen at one seed on validation data, judged at others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Generic, Protocol, TypeVar

from experiments.short_runs import Ending

K = TypeVar("K")
R = TypeVar("R", bound=Ending)
Grid = Mapping[tuple[K, float, int], R]
"""Runs by what is tuned, rate and seed."""
Run = Callable[[str, Sequence[tuple[K, float, int]], bool], Sequence[R]]
"""Makes the runs, in order; with True they are judged on the test examples. What they are for is
said in a word."""


class Budget(Protocol):
    """What an experiment's settings say of its rates and seeds."""

    @property
    def rates(self) -> Sequence[float]:
        """Learning rates, ascending."""

    @property
    def seeds(self) -> Sequence[int]:
        """At which the chosen rate is judged."""

    @property
    def tuning_seed(self) -> int:
        """At which the rate is chosen."""


@dataclass(frozen=True)
class Tuned(Generic[K, R]):
    """Finished runs.

    Args:
        grid: of each key, rate and seed, the tuning seed among them.
        chosen: each key's rate.
        final: each key's runs at its rate, one a seed.
    """

    grid: Grid[K, R]
    chosen: Mapping[K, float]
    final: Mapping[K, Sequence[R]]


def tune_and_judge(budget: Budget, keys: Sequence[K], run: Run[K, R]) -> Tuned[K, R]:
    """Run every key with every rate at the tuning seed, then at its best one with every seed."""
    grid = over_rates("tuning", budget.rates, keys, [budget.tuning_seed], run)
    chosen = {key: best_rate(budget, grid, key) for key in keys}
    judged = [(key, chosen[key], seed) for seed in budget.seeds for key in keys]
    final: dict[K, list[R]] = {key: [] for key in keys}
    for (key, *_), found in zip(judged, run("runs", judged, True), strict=True):
        final[key].append(found)
    return Tuned(grid, chosen, final)


def over_rates(
    what: str, rates: Sequence[float], keys: Sequence[K], seeds: Iterable[int], run: Run[K, R]
) -> dict[tuple[K, float, int], R]:
    """Run every key with every rate at every seed."""
    wanted = [(key, rate, seed) for seed in seeds for key in keys for rate in rates]
    return dict(zip(wanted, run(what, wanted, False), strict=True))


def best_rate(budget: Budget, grid: Grid[K, R], key: K) -> float:
    """The rate whose run at the tuning seed ends with the best validation accuracy; of several the
    lowest.
    """
    return max(budget.rates, key=lambda rate: grid[key, rate, budget.tuning_seed]["accuracy"][-1])


class WideBudget(Protocol):
    """What an experiment's settings say of a grid of rates that widens by itself."""

    @property
    def rates(self) -> Sequence[float]:
        """The learning rates to begin with, ascending."""

    @property
    def widen_by(self) -> float:
        """The next rate beyond an end, as a multiple of it."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest rate that is tried."""

    @property
    def tuning_seeds(self) -> Sequence[int]:
        """At which the rate is chosen."""


def widening_grid(
    budget: WideBudget, keys: Sequence[K], run: Run[K, R]
) -> dict[tuple[K, float, int], R]:
    """Run every key with every rate at the tuning seeds, and with further rates as long as its best
    lies at an end of those that it has been run with.
    """
    grid: dict[tuple[K, float, int], R] = {}
    new = {key: list(budget.rates) for key in keys}
    while any(new.values()):
        wanted = [(k, rate, seed) for seed in budget.tuning_seeds for k in keys for rate in new[k]]
        grid.update(zip(wanted, run("tuning", wanted, False), strict=True))
        new = {key: _beyond(budget, grid, key) if new[key] else [] for key in keys}
    return grid


def _beyond(budget: WideBudget, grid: Grid[K, R], key: K) -> list[float]:
    """The next rate where the best is at an end and the bounds allow one more."""
    rates, best = rates_of(grid, key), steadiest_rate(budget, grid, key)
    further = {rates[0]: best / budget.widen_by, rates[-1]: best * budget.widen_by}
    low, high = budget.bounds
    return [rate for end, rate in further.items() if end == best and low <= rate <= high]


def steadiest_rate(budget: WideBudget, grid: Grid[K, R], key: K) -> float:
    """The rate with the best mean validation accuracy at the end of the runs at the tuning seeds;
    of several the lowest.
    """

    def mean_end(rate: float) -> float:
        return fmean(grid[key, rate, seed]["accuracy"][-1] for seed in budget.tuning_seeds)

    return max(rates_of(grid, key), key=mean_end)


def rates_of(grid: Grid[K, R], key: K) -> list[float]:
    """The rates with which a key was run, ascending."""
    return sorted({rate for of, rate, _ in grid if of == key})


def rate_in_words(rates: Sequence[float], rate: float) -> str:
    """The rate, marked where a better one may lie beyond the grid."""
    at_end = len(rates) > 1 and rate in (rates[0], rates[-1])
    return f"{rate:g}" + (" (end of the grid)" if at_end else "")


def check_budget(budget: Budget) -> None:
    """Refuse rates and seeds that would not make a fair choice.

    Raises:
        ValueError: rates that do not ascend; seeds that are the same, or a tuning seed among them.
    """
    if any(after <= before for before, after in pairwise(budget.rates)):
        raise ValueError(f"rates = {list(budget.rates)}: must ascend")
    check_different(budget, "seeds")
    if budget.tuning_seed in budget.seeds:
        raise ValueError(
            f"tuning_seed = {budget.tuning_seed}: must not be one of seeds, on which the chosen "
            "rate is judged"
        )


def check_different(settings: object, *names: str) -> None:
    """Refuse settings that hold a value twice.

    Raises:
        ValueError: the first of `names` that does.
    """
    for name in names:
        values = getattr(settings, name)
        if len(set(values)) < len(values):
            raise ValueError(f"{name} = {list(values)}: must differ from each other")
