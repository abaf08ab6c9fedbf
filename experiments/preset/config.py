"""The settings of the search for a preset, and the pieces of which one may be made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments.contest import Pair
from experiments.methods import ROLORA
from experiments.places import (
    EQUAL,
    SKEWED,
    Place,
    changed,
    digits,
    partition_in_words,
    quickstart,
    reviews,
    topics,
)
from experiments.tuning import SearchedRates, check_different
from rolora.config import (
    Config,
    DataConfig,
    PartitionConfig,
)
from rolora.core.errors import nearest
from rolora.core.section import Positive
from rolora.methods.rolora import RoLoRAOptions

Piece = Literal["gauge", "carried", "loss", "information", "bba"]
PIECES: tuple[Piece, ...] = ("gauge", "carried", "loss", "information")
"""Those that are combined; the schedule is looked at by itself."""
WORDS = {
    "loss": "calibrated loss",
    "information": "information weights",
    "bba": "schedule BBA",
}
QUICKSTART = ("dirichlet0.5", "dirichlet0.1", "iid", "dirichlet1")
"""The quickstart's labels, as they may lie with its clients."""
SHORT = (
    *("digits2-10", "digits1-10", "topics-10", "reviews-10"),
    *("topics-10-iid", "reviews-10-iid"),
)
"""Places of the arena, where a run takes seconds: with skewed labels, then with equal shares."""

SHIPPED: Mapping[frozenset[Piece], str] = {
    frozenset(): ROLORA,
    frozenset({"gauge", "carried"}): "recommended",
    frozenset(PIECES): "calibrated",
}


@dataclass(frozen=True)
class Recipe:
    """RoLoRA with some of the pieces; with none it is the paper's."""

    pieces: frozenset[Piece]

    @property
    def key(self) -> str:
        """What names it in files and settings: the shipped preset's name where it is one, so that
        its runs are the arena's too.
        """
        return SHIPPED.get(self.pieces) or "+".join(p for p in (*PIECES, "bba") if p in self.pieces)

    @property
    def label(self) -> str:
        """For people."""
        named = [WORDS.get(piece, piece) for piece in (*PIECES, "bba") if piece in self.pieces]
        words = ", ".join(named)
        return words[0].upper() + words[1:] if named else "RoLoRA"

    def of(self, run: Config) -> Config:
        """Its run, made of a base run."""
        has = self.pieces
        return changed(
            run,
            method=RoLoRAOptions(
                gauge="orthonormal" if "gauge" in has else "none",
                schedule="BBA" if "bba" in has else "BA",
            ),
            objective={"logit_adjustment": 1.0 if "loss" in has else 0.0},
            optimizer={"state": "transport" if "carried" in has else "reset"},
            server={"weighting": "information" if "information" in has else "examples"},
        )


PLAIN, FULL = Recipe(frozenset()), Recipe(frozenset(PIECES))
RECOMMENDED = Recipe(frozenset({"gauge", "carried"}))
"""What was recommended before."""
BBA = Recipe(frozenset({"bba"}))
"""The default start with two rounds of B to one of A."""


def recipes() -> list[Recipe]:
    """All sixteen and the schedule, the most telling first: both ends, what was recommended, all
    pieces but one, one piece alone, the schedule, the other pairs.
    """
    sizes = (0, 4, 3, 1, 2)
    every = [Recipe(frozenset(some)) for n in sizes for some in combinations(PIECES, n)]
    return list(dict.fromkeys([PLAIN, FULL, RECOMMENDED, *every, BBA]))


class PresetConfig(SearchedRates):
    """The experiment: every recipe in every place.

    The places are the quickstart's shape with its labels in four splits, and six of the arena's:
    MNIST's two splits; topics, of many labels, and reviews, of two, with skewed and with equal
    shares. Each recipe has its own rate in each place
    (:class:`SearchedRates`; the arena's places have grids of their own). `recipes` (None: all) and
    `places` are those that are run and told of. `model`, `layers`, `data`, `clients`, `rounds`,
    `local_steps` and `batch_size` are the quickstart's; `digits` is where MNIST comes from. With
    `finished` nothing is run: the report tells of what is there. `workers` runs are made at a time,
    each on one thread.
    """

    recipes: tuple[str, ...] | None = None
    places: Annotated[tuple[str, ...], Field(min_length=1)] = (*SHORT, *QUICKSTART)
    digits: str = "auto"
    model: str = "minilm"
    layers: str = "3-5"
    data: DataConfig = DataConfig(name="rotten_tomatoes")
    clients: Positive = 10
    rounds: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    local_steps: Positive = 10
    batch_size: Positive = 8
    finished: bool = False
    workers: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> PresetConfig:
        check_different(self, "places")
        known = {"recipes": [r.key for r in recipes()], "places": [*SHORT, *QUICKSTART]}
        for name, keys in known.items():
            for key in getattr(self, name) or ():
                if key not in keys:
                    raise ValueError(f"{name} = {key!r}: unknown{nearest(key, keys)}")
        return self

    def compared(self) -> list[Recipe]:
        """RoLoRA, and the recipes that are asked for."""
        asked = self.recipes
        return [r for r in recipes() if asked is None or r is PLAIN or r.key in asked]

    def known_places(self) -> dict[str, Place]:
        """By key."""
        short = (
            digits(self.digits, 2, 10, self.rounds, None),
            digits(self.digits, 1, 10, self.rounds, None),
            *(
                place(10, self.rounds, split)
                for place in (topics, reviews)
                for split in (SKEWED, EQUAL)
            ),
        )
        found = (*short, *(self.quickstart(key) for key in QUICKSTART))
        return {place.key: place for place in found}

    def quickstart(self, key: str) -> Place:
        """The quickstart with its labels dealt so, and what else is set."""
        split = partition_of(key)
        shipped = quickstart(self.clients, self.rounds, split)
        base = changed(
            shipped.base,
            model={"name": self.model},
            lora={"layers": self.layers},
            data=self.data,
            optimizer={"local_steps": self.local_steps, "batch_size": self.batch_size},
        )
        return Place(key, f"the quickstart, {partition_in_words(split)}", base, self.grid)

    def waves(self) -> Iterator[list[Pair]]:
        """What is run together, the most telling first: both ends where labels are skewed, then
        where they are not, then step by step what lies between them; at each step the places first
        whose runs take seconds.
        """
        ends = [recipe for recipe in self.compared() if recipe in (PLAIN, FULL)]
        near = [r for r in self.compared() if r == RECOMMENDED or len(r.pieces) == 3]
        ones = [r for r in self.compared() if len(r.pieces) == 1]
        rest = [r for r in self.compared() if r not in (*ends, *near, *ones)]
        skewed, others = QUICKSTART[:2], QUICKSTART[2:]
        for some in (ends, near, ones, rest):
            yield from self._wave(some, SHORT)
        for some, places in (
            (ends, skewed),
            (ends, others[:1]),
            (near, skewed),
            (ends, others[1:]),
            (ones, skewed),
            ([*near, *ones], others),
            (rest, (*skewed, *others)),
        ):
            yield from self._wave(some, places)

    def _wave(self, some: Iterable[Recipe], places: Iterable[str]) -> Iterator[list[Pair]]:
        known = self.known_places()
        asked = [known[key] for key in self.places if key in places]
        found: list[Pair] = [(recipe, place) for place in asked for recipe in some]
        if found:
            yield found


def partition_of(split: str) -> PartitionConfig:
    """How the labels lie with the clients."""
    if split == "iid":
        return PartitionConfig(name="iid")
    return PartitionConfig(name="dirichlet", dirichlet_alpha=float(split.removeprefix("dirichlet")))
