"""Learning rates: chosen at some seeds on validation data, judged at others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Annotated, Generic, Protocol, TypeVar

from pydantic import Field, model_validator

from experiments.short_runs import Ending
from rolora.core.search import Found, Grid, search
from rolora.core.section import Rate, Section, Seed

K = TypeVar("K")
R = TypeVar("R", bound=Ending)
WHOLE = 1
"""The one rung of a search in which every run is whole, so that its cell is."""
Runs = Mapping[tuple[K, float, int], R]
"""By what is tuned, rate and seed."""
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


class SearchedRates(Section):
    """The settings of rates that are searched: the one with the best mean validation accuracy at
    `tuning_seeds`, none of which is judged; of `rates`, and beyond an end of them by `widen_by` as
    long as the best lies there, within `bounds`.
    """

    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (2.5e-3, 5e-3, 1e-2)
    widen_by: Annotated[float, Field(gt=1.0)] = 2.0
    bounds: tuple[Rate, Rate] = (6e-4, 4e-2)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    tuning_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (100, 101)

    @model_validator(mode="after")
    def _fair(self) -> SearchedRates:
        check_different(self, "rates", "seeds", "tuning_seeds")
        if set(self.tuning_seeds) & set(self.seeds):
            raise ValueError("tuning_seeds: must not be among seeds, which are judged")
        check_ascending(self.rates)
        return self

    @property
    def grid(self) -> Grid:
        """What is searched, by whole runs."""
        return Grid(self.rates, (WHOLE,), self.widen_by, self.bounds)


@dataclass(frozen=True)
class Tuned(Generic[K, R]):
    """Finished runs.

    Args:
        grid: of each key, rate and seed, the tuning seed among them.
        chosen: each key's rate.
        final: each key's runs at its rate, one a seed.
    """

    grid: Runs[K, R]
    chosen: Mapping[K, float]
    final: Mapping[K, Sequence[R]]


def tune_and_judge(budget: Budget, keys: Sequence[K], run: Run[K, R]) -> Tuned[K, R]:
    """Run every key with every rate at the tuning seed, then at its best one with every seed."""
    grid = Grid(tuple(budget.rates), (WHOLE,))
    return search_and_judge(grid, [budget.tuning_seed], budget.seeds, keys, run)


def search_and_judge(
    grid: Grid,
    tuning_seeds: Sequence[int],
    seeds: Sequence[int],
    keys: Sequence[K],
    run: Run[K, R],
) -> Tuned[K, R]:
    """Search a rate for every key at the tuning seeds, then run it with every seed."""
    runs, found = searched(grid, tuning_seeds, keys, run)
    return judged(seeds, runs, {key: found[key].rate for key in keys}, run)


def judged(
    seeds: Sequence[int], grid: Runs[K, R], chosen: Mapping[K, float], run: Run[K, R]
) -> Tuned[K, R]:
    """Run every key at its rate with every seed."""
    wanted = [(key, rate, seed) for seed in seeds for key, rate in chosen.items()]
    final: dict[K, list[R]] = {key: [] for key in chosen}
    for (key, *_), found in zip(wanted, run("runs", wanted, True), strict=True):
        final[key].append(found)
    return Tuned(grid, chosen, final)


def over_rates(
    what: str, rates: Sequence[float], keys: Sequence[K], seeds: Iterable[int], run: Run[K, R]
) -> dict[tuple[K, float, int], R]:
    """Run every key with every rate at every seed."""
    wanted = [(key, rate, seed) for seed in seeds for key in keys for rate in rates]
    return dict(zip(wanted, run(what, wanted, False), strict=True))


def searched(
    grid: Grid, seeds: Sequence[int], keys: Sequence[K], run: Run[K, R]
) -> tuple[dict[tuple[K, float, int], R], dict[K, Found]]:
    """Search a rate for every key by the mean validation accuracy at the end of runs at some seeds,
    all of them whole (:func:`rolora.core.search.search`); the runs, and what was found.
    """
    runs: dict[tuple[K, float, int], R] = {}

    def scored(pairs: Sequence[tuple[K, float]], rung: int) -> list[float]:
        wanted = [(key, rate, seed) for seed in seeds for key, rate in pairs]
        runs.update(zip(wanted, run("tuning", wanted, False), strict=True))
        return [fmean(runs[key, rate, n]["accuracy"][-1] for n in seeds) for key, rate in pairs]

    return runs, search(keys, grid, scored)


def rate_in_words(rates: Sequence[float], rate: float) -> str:
    """The rate, marked where a better one may lie beyond the grid."""
    at_end = len(rates) > 1 and rate in (rates[0], rates[-1])
    return f"{rate:g}" + (" (end of the grid)" if at_end else "")


def check_budget(budget: Budget) -> None:
    """Refuse rates and seeds that would not make a fair choice.

    Raises:
        ValueError: rates that do not ascend; seeds that are the same, or a tuning seed among them.
    """
    check_ascending(budget.rates)
    check_different(budget, "seeds")
    if budget.tuning_seed in budget.seeds:
        raise ValueError(
            f"tuning_seed = {budget.tuning_seed}: must not be one of seeds, on which the chosen "
            "rate is judged"
        )


def check_ascending(rates: Sequence[float]) -> None:
    """Refuse rates that do not ascend, with ValueError."""
    if any(after <= before for before, after in pairwise(rates)):
        raise ValueError(f"rates = {list(rates)}: must ascend")


def check_different(settings: object, *names: str) -> None:
    """Refuse settings that hold a value twice.

    Raises:
        ValueError: the first of `names` that does.
    """
    for name in names:
        values = getattr(settings, name)
        if len(set(values)) < len(values):
            raise ValueError(f"{name} = {list(values)}: must differ from each other")
