"""The settings of the search for a preset, and the pieces of which one may be made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments.tuning import SearchedRates, check_different
from rolora.config import (
    Config,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    FederationConfig,
    LoraSettings,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PartitionConfig,
    ServerConfig,
)
from rolora.core.section import Positive
from rolora.methods.rolora import RoLoRAOptions

Piece = Literal["gauge", "carried", "calibrated", "information"]
PIECES: tuple[Piece, ...] = ("gauge", "carried", "calibrated", "information")
WORDS = {"calibrated": "calibrated loss", "information": "information weights"}
Split = Literal["iid", "dirichlet1", "dirichlet0.5", "dirichlet0.1"]
SPLITS: tuple[Split, ...] = ("dirichlet0.5", "dirichlet0.1", "iid", "dirichlet1")
SKEWED: tuple[Split, ...] = ("dirichlet0.5", "dirichlet0.1")


@dataclass(frozen=True)
class Recipe:
    """RoLoRA with some of the pieces; with none it is the paper's."""

    pieces: frozenset[Piece]

    @property
    def key(self) -> str:
        """What names it in files."""
        return "+".join(piece for piece in PIECES if piece in self.pieces) or "rolora"

    @property
    def label(self) -> str:
        """For people."""
        named = [WORDS.get(piece, piece) for piece in PIECES if piece in self.pieces]
        return ", ".join(named).capitalize() if named else "RoLoRA"


PLAIN, FULL = Recipe(frozenset()), Recipe(frozenset(PIECES))
RECOMMENDED = Recipe(frozenset({"gauge", "carried"}))
"""What was recommended before."""


def recipes() -> list[Recipe]:
    """All sixteen, the most telling first: both ends, what was recommended, all pieces but one,
    one piece alone, the other pairs.
    """
    sizes = (0, 4, 3, 1, 2)
    every = [Recipe(frozenset(some)) for n in sizes for some in combinations(PIECES, n)]
    return list(dict.fromkeys([PLAIN, FULL, RECOMMENDED, *every]))


class PresetConfig(SearchedRates):
    """The experiment: the quickstart's shape, `splits` of its labels, and every `recipe` in each.

    Each has its own rate (:class:`SearchedRates`). `recipes` (None: all) and `splits` are those
    that are run and told of. With `finished` nothing is run: the report tells of what is there.
    `workers` runs are made at a time, each on one thread.
    """

    recipes: tuple[str, ...] | None = None
    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = SPLITS
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
        check_different(self, "splits")
        known = [recipe.key for recipe in recipes()]
        unknown = [key for key in self.recipes or () if key not in known]
        if unknown:
            raise ValueError(f"recipes = {unknown}: known are {', '.join(known)}")
        return self

    def compared(self) -> list[Recipe]:
        """RoLoRA, and the recipes that are asked for."""
        asked = self.recipes
        return [r for r in recipes() if asked is None or r is PLAIN or r.key in asked]

    def waves(self) -> Iterator[list[tuple[Recipe, Split]]]:
        """What is run together, the most telling first: both ends where labels are skewed, then
        where they are not, then step by step what lies between them.
        """
        ends = [recipe for recipe in self.compared() if recipe in (PLAIN, FULL)]
        near = [r for r in self.compared() if r == RECOMMENDED or len(r.pieces) in (1, 3)]
        rest = [r for r in self.compared() if r not in ends and r not in near]
        others: tuple[tuple[Split, ...], ...] = (("iid",), ("dirichlet1",))
        yield from self._wave(ends, SKEWED)
        yield from self._wave(ends, ("iid",))
        yield from self._wave([r for r in near if len(r.pieces) > 1], SKEWED)
        yield from self._wave(ends, ("dirichlet1",))
        yield from self._wave([r for r in near if len(r.pieces) == 1], SKEWED)
        for splits in others:
            yield from self._wave(near, splits)
        for splits in (SKEWED, *others):
            yield from self._wave(rest, splits)

    def _wave(
        self, some: Iterable[Recipe], splits: Iterable[str]
    ) -> Iterator[list[tuple[Recipe, Split]]]:
        asked = [split for split in self.splits if split in splits]
        found = [(recipe, split) for split in asked for recipe in some]
        if found:
            yield found


def run_of(
    config: PresetConfig, recipe: Recipe, split: Split, rate: float, seed: int, test: bool
) -> Config:
    """A recipe on a split, as a run: the quickstart with the recipe's changes. Without `test` only
    its end is looked at.
    """
    has = recipe.pieces
    return Config(
        seed=seed,
        rounds=config.rounds,
        model=ModelConfig(name=config.model),
        lora=LoraSettings(
            r=4, lora_alpha=16, target_modules=("query", "value"), layers=config.layers
        ),
        data=config.data,
        partition=partition_of(split),
        federation=FederationConfig(clients=config.clients, clients_per_round=config.clients),
        method=RoLoRAOptions(gauge="orthonormal" if "gauge" in has else "none"),
        objective=ObjectiveConfig(logit_adjustment=1.0 if "calibrated" in has else 0.0),
        optimizer=OptimizerConfig(
            lr=rate,
            state="transport" if "carried" in has else "reset",
            local_steps=config.local_steps,
            batch_size=config.batch_size,
        ),
        server=ServerConfig(weighting="information" if "information" in has else "examples"),
        evaluation=EvaluationConfig(every=4 if test else config.rounds),
        engine=EngineConfig(workers=1),
    )


def partition_of(split: Split) -> PartitionConfig:
    """How the labels lie with the clients."""
    if split == "iid":
        return PartitionConfig(name="iid")
    return PartitionConfig(name="dirichlet", dirichlet_alpha=float(split.removeprefix("dirichlet")))


def split_in_words(split: Split) -> str:
    """For people."""
    return "equal shares" if split == "iid" else f"Dirichlet {split.removeprefix('dirichlet')}"
