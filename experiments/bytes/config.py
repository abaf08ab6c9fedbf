"""The settings of the experiment with fewer bytes, and the codings that it compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from experiments.tuning import check_different
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
    parse_config,
)
from rolora.core.errors import nearest
from rolora.core.section import Positive, Rate, Section, Seed


@dataclass(frozen=True)
class Coding:
    """What becomes of what travels.

    Args:
        key: what names it in files.
        label: for people.
        up, down: the stages.
    """

    key: str
    label: str
    up: tuple[Any, ...] = ()
    down: tuple[Any, ...] = ()


def _both(key: str, label: str, *stages: Any) -> Coding:
    return Coding(key, label, stages, stages)


def _top(share: float) -> Coding:
    return _both(
        f"top{100 * share:g}",
        f"top {100 * share:g} %, 8 bits",
        {"name": "top_k", "share": share},
        "int8",
    )


PLAIN = Coding("plain", "RoLoRA")
CODINGS = {
    coding.key: coding
    for coding in (
        PLAIN,
        _both("int4", "4 bits", "int4"),
        _top(0.1),
        _both("int8", "8 bits", "int8"),
        _top(0.02),
        Coding("int8-up", "8 bits, up only", ("int8",)),
        _both("int4-forgetful", "4 bits, no feedback", {"name": "int4", "feedback": False}),
    )
}
"""By key; both ways unless they say otherwise."""


class BytesConfig(Section):
    """The experiment: the preset ``paper``, RoLoRA at its rate, with adapters in the top
    layer alone and half of its steps, so that a run takes seconds; and each of `codings` (None:
    all) with nothing else changed. `workers` runs are made at a time, each on one thread.
    """

    codings: tuple[str, ...] | None = None
    model: str = "minilm"
    layers: str = "5"
    data: DataConfig = DataConfig(name="rotten_tomatoes")
    clients: Positive = 10
    rounds: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    local_steps: Positive = 5
    batch_size: Positive = 8
    rate: Rate = 5e-3
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    workers: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> BytesConfig:
        check_different(self, "seeds")
        for key in self.codings or ():
            if key not in CODINGS:
                raise ValueError(f"codings: {key!r} is none{nearest(key, CODINGS)}")
        return self

    def compared(self) -> list[Coding]:
        """Plain RoLoRA, and the codings that are asked for."""
        asked = self.codings
        return [c for c in CODINGS.values() if asked is None or c is PLAIN or c.key in asked]


def run_of(config: BytesConfig, coding: Coding, seed: int) -> Config:
    """Plain RoLoRA with a coding, as a run."""
    stages = {"stages": coding.up, "server": {"stages": coding.down}}
    coded = parse_config({**stages, "data": {"name": "rotten_tomatoes"}}, f"coding {coding.key}")
    return Config(
        seed=seed,
        rounds=config.rounds,
        model=ModelConfig(name=config.model),
        lora=LoraSettings(
            r=4, lora_alpha=16, target_modules=("query", "value"), layers=config.layers
        ),
        data=config.data,
        partition=PartitionConfig(name="dirichlet", dirichlet_alpha=0.5),
        federation=FederationConfig(clients=config.clients, clients_per_round=config.clients),
        stages=coded.stages,
        optimizer=OptimizerConfig(
            lr=config.rate, local_steps=config.local_steps, batch_size=config.batch_size
        ),
        server=ServerConfig(stages=coded.server.stages),
        evaluation=EvaluationConfig(every=4),
        engine=EngineConfig(workers=1),
    )
