"""The settings of the attacks' table, and the defences that stand in its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from experiments.tuning import check_different
from rolora.attacks import ATTACKS
from rolora.config import (
    Config,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    FederationConfig,
    LoraSettings,
    ModelConfig,
    OptimizerConfig,
    PartitionConfig,
    ServerConfig,
)
from rolora.core.errors import nearest
from rolora.core.section import Positive, Rate, Section, Seed
from rolora.core.types import EMPTY
from rolora.reducers import REDUCERS, ReducerOptions


@dataclass(frozen=True)
class Defence:
    """A column of the table.

    Args:
        label: for people.
        reducer: ``server.reducer``.
        told: whether it is told which share of the clients lies: here always the true one.
        max_jump: ``federation.max_jump``.
    """

    label: str
    reducer: str
    told: bool = False
    max_jump: float | None = None

    def options(self, fraction: float) -> ReducerOptions:
        """The reducer's, in a run in which `fraction` of the clients is hostile."""
        given = {"byzantine": fraction} if self.told else {}
        return REDUCERS[self.reducer].Options(name=self.reducer, **given)

    def possible(self, fraction: float, clients: int) -> bool:
        """Whether so many clients are enough for the rule."""
        made = REDUCERS[self.reducer].of(self.options(fraction), clients, EMPTY)
        return made.least <= clients


NONE = "mean"
DEFENCES: Mapping[str, Defence] = {
    NONE: Defence("mean", "mean"),
    "judged": Defence("mean, judged", "mean", max_jump=10.0),
    "median": Defence("median", "median"),
    "trimmed_mean": Defence("trimmed mean", "trimmed_mean", told=True),
    "geometric_median": Defence("geometric median", "geometric_median"),
    "krum": Defence("Krum", "krum", told=True),
    "multi_krum": Defence("multi-Krum", "multi_krum", told=True),
    "norm_bound": Defence("norm bound", "norm_bound"),
    "neighbour_mixing": Defence("neighbour mixing", "neighbour_mixing", told=True),
}
"""By name; the first is none."""


@dataclass(frozen=True)
class Case:
    """One run: an attack (None: nobody is hostile), what share of the clients, a defence, a seed.

    Without an attack `fraction` is what the defence is told.
    """

    attack: str | None
    fraction: float
    defence: str
    seed: int


class AttacksConfig(Section):
    """The experiment: every attack by every fraction of the clients against every defence.

    The adapters sit in BERT's pooler, so that what lies below is computed once a text. `lr` was
    chosen on the validation examples of a seed that is not judged, with nobody hostile. With
    `finished` nothing is run: the report tells of what is there. `workers` runs are made at a time,
    each on one thread.
    """

    attacks: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(ATTACKS)
    defences: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(DEFENCES)
    fractions: Annotated[tuple[float, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4)
    model: str = "minilm"
    data: DataConfig = DataConfig(
        name="rotten_tomatoes", validation=0.05, max_length=40, limit=2000
    )
    clients: Positive = 10
    rounds: Annotated[int, Field(ge=2, multiple_of=2)] = 24
    local_steps: Positive = 5
    batch_size: Positive = 8
    lr: Rate = 5e-3
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    finished: bool = False
    workers: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> AttacksConfig:
        check_different(self, "attacks", "defences", "fractions", "seeds")
        for field, known in (("attacks", ATTACKS), ("defences", DEFENCES)):
            for name in getattr(self, field):
                if name not in known:
                    raise ValueError(f"{field} = {name!r}: unknown{nearest(name, known)}")
        if not all(0.0 < fraction < 0.5 for fraction in self.fractions):
            raise ValueError(f"fractions = {list(self.fractions)}: each above 0 and below a half")
        return self

    def waves(self) -> Iterator[list[Case]]:
        """What is run together, the most telling first: seed by seed the plain mean with a fifth of
        the clients hostile and with two, and every defence with a fifth; then fraction by fraction
        every defence, the largest first.
        """
        near = [f for f in self.fractions if f in (0.2, 0.4)]
        first = (([NONE], near), (list(self.defences), near[:1]))
        blocks = [(*some, seed) for seed in self.seeds for some in first]
        for fraction in sorted(self.fractions, reverse=True):
            blocks += [(list(self.defences), [fraction], seed) for seed in self.seeds]
        done: set[Case] = set()
        for defences, fractions, seed in blocks:
            block = [
                case
                for defence in defences
                for fraction in fractions
                for case in self._beside(defence, fraction, seed)
                if case not in done
            ]
            done |= set(block)
            if block:
                yield block

    def _beside(self, defence: str, fraction: float, seed: int) -> Iterator[Case]:
        """A defence with nobody hostile and under every attack, where it can be had."""
        if defence not in self.defences or not DEFENCES[defence].possible(fraction, self.clients):
            return
        for attack in (None, *self.attacks):
            yield Case(attack, fraction, defence, seed)

    def run_of(self, case: Case) -> Config:
        """A case as a run."""
        defence = DEFENCES[case.defence]
        return Config(
            seed=case.seed,
            rounds=self.rounds,
            model=ModelConfig(name=self.model),
            lora=LoraSettings(target_modules=("pooler.dense",)),
            data=self.data,
            partition=PartitionConfig(name="iid"),
            federation=FederationConfig(clients=self.clients, max_jump=defence.max_jump),
            optimizer=OptimizerConfig(
                lr=self.lr, local_steps=self.local_steps, batch_size=self.batch_size
            ),
            server=ServerConfig(reducer=defence.options(case.fraction)),
            evaluation=EvaluationConfig(every=self.rounds, batch_size=256),
            engine=EngineConfig(workers=1, stack=self.clients),
        )
