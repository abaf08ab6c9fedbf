"""The runs of what comes after RoLoRA: every variant tuned in every place, then judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from experiments.beyond.variants import Variant
from experiments.short_runs import Ending
from experiments.tuning import Budget, tune_and_judge


@dataclass(frozen=True)
class Place:
    """Where variants are compared, in a word and in words, with the data in words."""

    key: str
    words: str
    data: str


Wanted = tuple[Place, Variant, float, int]
"""A place, a variant, a learning rate and a seed."""


class Half(Protocol):
    """One task: its settings, its places, and how to make runs there."""

    @property
    def config(self) -> Budget:
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
        grid: the runs at the tuning seed, by rate, ascending.
        final: the runs at `rate`, one a seed.
    """

    place: Place
    variant: Variant
    rate: float
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
    pairs = {
        (place, variant.key): (place, variant) for place in half.places for variant in compared
    }

    def run(
        what: str, wanted: Sequence[tuple[tuple[Place, str], float, int]], test: bool
    ) -> Sequence[Ending]:
        return half.run(what, [(*pairs[key], rate, seed) for key, rate, seed in wanted], test)

    config = half.config
    runs = tune_and_judge(config, list(pairs), run)
    return [
        Line(
            *pair,
            rate=runs.chosen[key],
            grid={rate: runs.grid[key, rate, config.tuning_seed] for rate in config.rates},
            final=runs.final[key],
        )
        for key, pair in pairs.items()
    ]


def named(place: Place, variant: Variant, rate: float, seed: int, test: bool) -> str:
    """What a run is called."""
    kind = "test" if test else "validation"
    return f"{place.key} {variant.key} lr={rate:g} seed={seed} {kind}"
