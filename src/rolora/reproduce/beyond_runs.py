"""The runs of what comes after RoLoRA: every variant tuned in every place, then judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

from rolora.reproduce.beyond_variants import Variant


class Ending(TypedDict):
    """What is looked at of a run, on either task (:class:`~rolora.reproduce.mnist_train.Result`,
    :class:`~rolora.reproduce.trials.TrialResult`).
    """

    accuracy: list[float]
    test_accuracy: float | None
    diverged: bool
    bytes_up: int
    bytes_down: int
    seconds: float


@dataclass(frozen=True)
class Place:
    """Where variants are compared, in a word and in words, with the data in words."""

    key: str
    words: str
    data: str


Wanted = tuple[Place, Variant, float, int]
"""A place, a variant, a learning rate and a seed."""


class Grid(Protocol):
    """What both experiments' settings have."""

    @property
    def rates(self) -> Sequence[float]:
        """Learning rates, ascending; with two rates A's."""

    @property
    def seeds(self) -> Sequence[int]:
        """On which variants are judged."""

    @property
    def tuning_seed(self) -> int:
        """At which each variant gets its rate."""


class Half(Protocol):
    """One task: its settings, its places, and how to make runs there."""

    @property
    def config(self) -> Grid:
        """The experiment's settings."""

    @property
    def places(self) -> Sequence[Place]:
        """Where variants are compared."""

    def run(self, what: str, wanted: Sequence[Wanted], test: bool) -> Sequence[Ending]:
        """The runs, in order; with `test` judged on the test examples."""


@dataclass(frozen=True)
class Line:
    """A variant in a place.

    Args:
        rate: the learning rate with the best validation accuracy at the tuning seed.
        at_edge: it is the least or the greatest of several.
        grid: the runs at the tuning seed, by rate.
        final: the runs at `rate`, one a seed.
    """

    place: Place
    variant: Variant
    rate: float
    at_edge: bool
    grid: Mapping[float, Ending]
    final: Sequence[Ending]

    @property
    def test(self) -> list[float]:
        """Test accuracy, one a seed."""
        return [end["test_accuracy"] for end in self.final if end["test_accuracy"] is not None]


Lines = Mapping[tuple[str, str], Line]
"""By the keys of a place and a variant."""


def run_all(halves: Sequence[Half], compared: Sequence[Variant]) -> dict[tuple[str, str], Line]:
    """Every variant in every place: tuned at the tuning seed, then run with every seed."""
    return {
        (line.place.key, line.variant.key): line
        for half in halves
        for line in run_half(half, compared)
    }


def run_half(half: Half, compared: Sequence[Variant]) -> list[Line]:
    """The lines of one task."""
    pairs = [(place, variant) for place in half.places for variant in compared]
    rates, seed = half.config.rates, half.config.tuning_seed
    tuned = [(*pair, rate, seed) for pair in pairs for rate in rates]
    grids: dict[tuple[Place, str], dict[float, Ending]] = {}
    for (place, variant, rate, _), end in zip(tuned, half.run("tuning", tuned, False), strict=True):
        grids.setdefault((place, variant.key), {})[rate] = end
    chosen = {key: best_rate(grid) for key, grid in grids.items()}
    judged = [(p, v, chosen[p, v.key], seed) for seed in half.config.seeds for p, v in pairs]
    finals: dict[tuple[Place, str], list[Ending]] = {}
    for (place, variant, *_), end in zip(judged, half.run("runs", judged, True), strict=True):
        finals.setdefault((place, variant.key), []).append(end)
    ends = (rates[0], rates[-1]) if len(rates) > 1 else ()
    return [
        Line(place, variant, chosen[key], chosen[key] in ends, grids[key], finals[key])
        for place, variant in pairs
        for key in [(place, variant.key)]
    ]


def best_rate(grid: Mapping[float, Ending]) -> float:
    """The rate whose run ends with the best validation accuracy."""
    return max(grid, key=lambda rate: grid[rate]["accuracy"][-1])


def named(place: Place, variant: Variant, rate: float, seed: int, test: bool) -> str:
    """What a run is called."""
    kind = "test" if test else "validation"
    return f"{place.key} {variant.key} lr={rate:g} seed={seed} {kind}"
