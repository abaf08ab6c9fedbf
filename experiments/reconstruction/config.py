"""The settings of the reconstruction's table, and the defences in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments.tuning import check_different
from rolora.config import (
    Config,
    DataConfig,
    EngineConfig,
    FederationConfig,
    LoraSettings,
    ModelConfig,
    OptimizerConfig,
    PartitionConfig,
    TaskConfig,
)
from rolora.core.errors import nearest
from rolora.core.section import Positive, Section, Seed
from rolora.stages.rounding import Int8


@dataclass(frozen=True)
class Defence:
    """What stands between a site's batch and who reads.

    Args:
        label: for people.
        optimizer: the site's.
        steps: that it takes, each on a batch of its own.
        int8: whether its update is sent in eight bits.
        noise: the standard deviation of what is added to each number of the update, as a multiple
            of the length of the whole.
        sites: how many updates are seen in their sum alone.
    """

    label: str
    optimizer: Literal["sgd", "adamw"] = "sgd"
    steps: int = 1
    int8: bool = False
    noise: float = 0.0
    sites: int = 1


CLIENTS = 10
NONE = "none"
DEFENCES: Mapping[str, Defence] = {
    NONE: Defence("one step of SGD"),
    "steps": Defence("five steps of SGD", steps=5),
    "adamw": Defence("one step of AdamW", optimizer="adamw"),
    "adamw_steps": Defence("five steps of AdamW", optimizer="adamw", steps=5),
    "int8": Defence("int8", int8=True),
    "noise_0.001": Defence("noise, multiplier 0.001", noise=0.001),
    "noise_0.01": Defence("noise, multiplier 0.01", noise=0.01),
    "noise_0.1": Defence("noise, multiplier 0.1", noise=0.1),
    "sum_2": Defence("secure sum of 2 sites", sites=2),
    "sum_5": Defence("secure sum of 5 sites", sites=5),
}
"""By name; the first is none: the update of one batch, as it is."""

Factor = Literal["A", "B"]


@dataclass(frozen=True)
class Case:
    """One reading: of which factor's update, at which rank, of a batch of how many sentences,
    behind which defence, at which seed.
    """

    factor: Factor
    rank: int
    batch: int
    defence: str
    seed: int

    @property
    def name(self) -> str:
        """For people."""
        where = f"{self.factor} r={self.rank} batch={self.batch}"
        return f"{where} {self.defence} seed={self.seed}"


class ReconstructionConfig(Section):
    """The experiment: what comes back of a site's batch, undefended at every one of `ranks`, and of
    the factors `defended` behind every defence at the first.

    The run that is attacked has gone on for `before` rounds of AdamW, or one more so that the
    factor that is looked at trains next. Texts are cut to `length` tokens. At a seed, the batches
    of `sites` sites are read, each by itself. With `finished` nothing is run: the report tells of
    what is there. `workers` readings are made at a time, each on one thread.
    """

    factors: tuple[Factor, ...] = ("A", "B")
    ranks: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4, 64)
    defended: tuple[Factor, ...] = ("A",)
    batches: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 4, 16)
    defences: tuple[str, ...] = tuple(DEFENCES)
    model: ModelConfig = ModelConfig(name="minilm")
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig(name="rotten_tomatoes")
    length: Annotated[int, Field(ge=4)] = 28
    before: Annotated[int, Field(ge=2, multiple_of=2)] = 2
    sites: Positive = 1
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    finished: bool = False
    workers: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> ReconstructionConfig:
        check_different(self, "factors", "ranks", "batches", "defences", "seeds")
        for name in self.defences:
            if name not in DEFENCES:
                raise ValueError(f"defences = {name!r}: unknown{nearest(name, DEFENCES)}")
        return self

    def cases(self) -> Iterator[Case]:
        """Seed by seed, so that data and model are loaded once a seed."""
        for seed in self.seeds:
            for rank in self.ranks:
                for factor in self.factors:
                    behind = rank == self.ranks[0] and factor in self.defended
                    for defence in self.defences if behind else (NONE,):
                        for batch in self.batches:
                            yield Case(factor, rank, batch, defence, seed)

    def run_of(self, case: Case) -> Config:
        """The run in the round that is attacked."""
        defence = DEFENCES[case.defence]
        return Config(
            seed=case.seed,
            rounds=self.before + 2,
            model=self.model,
            task=self.task,
            lora=LoraSettings(r=case.rank, lora_alpha=4.0 * case.rank),
            data=self.data.model_copy(update={"max_length": self.length}),
            partition=PartitionConfig(name="iid"),
            federation=FederationConfig(clients=CLIENTS, clients_per_round=2),
            stages=(Int8.Options(name="int8"),) if defence.int8 else (),
            optimizer=OptimizerConfig(
                name=defence.optimizer,
                lr=0.5 if defence.optimizer == "sgd" else 5e-3,
                local_steps=defence.steps,
                batch_size=case.batch,
            ),
            engine=EngineConfig(workers=1),
        )
