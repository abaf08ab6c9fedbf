"""The settings of the map: which points are looked at, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from experiments.methods import LORA, ROLORA
from experiments.places import EQUAL, Place, changed, digits, reviews
from experiments.tuning import check_ascending, check_different
from rolora.config import Config, PartitionConfig
from rolora.core.section import Positive, Rate, Section, Seed
from rolora.methods import options_of

Depth = Literal["pooler", "net", "upper", "all"]
DEPTHS: Mapping[Depth, str] = {
    "pooler": "MiniLM's pooler",
    "net": "two-layer net on MNIST",
    "upper": "MiniLM's upper three layers",
    "all": "MiniLM's six layers",
}
Split = Literal["iid", "dirichlet0.5", "dirichlet0.1", "shards1"]
SPLITS: Mapping[Split, str] = {
    "iid": "equal shares",
    "dirichlet0.5": "Dirichlet 0.5",
    "dirichlet0.1": "Dirichlet 0.1",
    "shards1": "one shard of the sorted labels each",
}
METHODS = (LORA, ROLORA)
"""Those that are compared: the mean of both factors, and RoLoRA."""
Axis = Literal["clients", "local_steps", "r", "split"]


@dataclass(frozen=True)
class Point:
    """Where the two are compared, but for the rate."""

    depth: Depth = "pooler"
    clients: int = 10
    local_steps: int = 5
    r: int = 8
    split: Split = "dirichlet0.5"

    @property
    def key(self) -> str:
        """What names it in files."""
        return f"{self.depth} K={self.clients} steps={self.local_steps} r={self.r} {self.split}"

    def words(self) -> str:
        """For people."""
        steps = f"{self.local_steps} step" + ("s" if self.local_steps > 1 else "")
        what = f"{DEPTHS[self.depth]}, {self.clients} clients, {steps}, r {self.r}"
        return f"{what}, {SPLITS[self.split]}"


CENTRE = Point()
WORST = Point(clients=50, local_steps=20, split="shards1")
AXES: Mapping[Axis, tuple[Any, ...]] = {
    "clients": (3, 10, 50),
    "local_steps": (1, 5, 20),
    "r": (2, 8, 32),
    "split": tuple(SPLITS),
}
"""What is gone along through the centre, and the values from mild to hard."""
CORNERS: tuple[Mapping[str, Any], ...] = (
    {"split": "dirichlet0.1"},
    {"clients": 10},
    {"split": "iid"},
    {"local_steps": 1},
    {"r": 2},
)
"""In what a corner is other than the worst."""
CHEAP = ("pooler", "net")
"""Depths whose runs take seconds."""


class BreakdownConfig(Section):
    """The experiment: FedAvg of LoRA and RoLoRA at every point with every rate.

    A point lies on one of `axes` through :data:`CENTRE`, or at a corner: with many clients, many
    local steps and skewed labels at once, or all but one of them (`corners`). All runs of a depth
    have the same number of local steps in all (`steps`, of `deep_steps` in more than the pooler),
    so that few of them a round mean many rounds. Of a depth's rates each method's own is that with
    the best validation accuracy at `tuning_seed`; both are also compared at every rate. `digits` is
    where MNIST comes from. With `finished` nothing is run: the report tells of what is there.
    `workers` runs are made at a time, each on one thread.
    """

    axes: tuple[Axis, ...] = tuple(AXES)
    corners: bool = True
    depths: Annotated[tuple[Depth, ...], Field(min_length=1)] = ("pooler", "net")
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (5e-3, 2e-2, 8e-2)
    deep_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (2e-3, 5e-3, 2e-2)
    net_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (2.5e-2, 1e-1, 4e-1)
    steps: Annotated[int, Field(multiple_of=40)] = 160
    deep_steps: Annotated[int, Field(multiple_of=40)] = 80
    digits: str = "auto"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    tuning_seed: Seed = 100
    finished: bool = False
    workers: Positive = 1

    @model_validator(mode="after")
    def _fair(self) -> BreakdownConfig:
        check_different(self, "axes", "depths", "seeds", "rates", "deep_rates", "net_rates")
        for rates in (self.rates, self.deep_rates, self.net_rates):
            check_ascending(rates)
        if self.tuning_seed in self.seeds:
            raise ValueError(f"tuning_seed = {self.tuning_seed}: must not be one of seeds")
        return self

    def rates_of(self, point: Point) -> tuple[float, ...]:
        """The rates that are tried there."""
        if point.depth == "net":
            return self.net_rates
        return self.rates if point.depth == "pooler" else self.deep_rates

    def points(self) -> list[Point]:
        """All, the most telling first: each depth's worst corner and centre; then, of the depths
        whose runs take seconds, the axes and the other corners.
        """
        found = [replace(point, depth=depth) for depth in self.depths for point in (WORST, CENTRE)]
        for depth in (depth for depth in self.depths if depth in CHEAP):
            found += [
                replace(CENTRE, depth=depth, **{axis: value})
                for axis in self.axes
                for value in AXES[axis]
            ]
            corners = CORNERS if self.corners else ()
            found += [replace(WORST, depth=depth, **mild) for mild in corners]
        return list(dict.fromkeys(found))

    def place_of(self, point: Point) -> Place:
        """The point as a place: its data, model, shares and length of a run."""
        deep = point.depth in ("upper", "all")
        rounds = (self.deep_steps if deep else self.steps) // point.local_steps
        if point.depth == "net":
            place = digits(self.digits, 2, point.clients, rounds, None)
        else:
            place = reviews(point.clients, rounds, EQUAL)
        lora: dict[str, Any] = {"r": point.r}
        if deep:
            layers = "0-5" if point.depth == "all" else "3-5"
            lora |= {"target_modules": ("query", "value"), "layers": layers}
        base = changed(
            place.base,
            lora=lora,
            partition=shares(point.split),
            optimizer={"local_steps": point.local_steps},
            evaluation={"every": rounds},
        )
        task = None if deep else place.task
        return replace(place, key=point.key, words=point.words(), base=base, task=task)


def shares(split: Split) -> PartitionConfig:
    """How the labels lie with the clients."""
    if split == "iid":
        return EQUAL
    if split == "shards1":
        return PartitionConfig(name="shards", shards_per_client=1)
    alpha = float(split.removeprefix("dirichlet"))
    return PartitionConfig(name="dirichlet", dirichlet_alpha=alpha)


@dataclass(frozen=True)
class Case:
    """One run."""

    point: Point
    method: str
    rate: float
    seed: int


def cases(config: BreakdownConfig, point: Point) -> Iterator[Case]:
    """All runs at a point, seed by seed, the one that tunes first."""
    for seed in (config.tuning_seed, *config.seeds):
        for method in METHODS:
            for rate in config.rates_of(point):
                yield Case(point, method, rate, seed)


def with_method(method: str) -> Any:
    """Makes the method's run of a base run."""

    def of(run: Config) -> Config:
        return changed(run, method=options_of(method))

    return of
