"""Where methods are compared: a task, how it lies with the clients, and how long a run is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from experiments.mnist.data import Mnist, load_mnist
from experiments.mnist.task import WhichDigit
from experiments.pooled import TARGET, PooledTexts
from experiments.topics import Topics
from experiments.trials import OwnTask, Trial
from experiments.tuning import WHOLE
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
)
from rolora.core.search import Grid
from rolora.core.section import Section
from rolora.tasks import Task

WIDTH = 784
"""Hidden units of the net for MNIST: as many as pixels, so that A and B are of one size, and
every method that sends one of them sends as many bytes whichever it is.
"""
LOOKS = 8
"""How often a judged run looks at the validation examples."""


@dataclass(frozen=True)
class Place:
    """Where methods are compared.

    Args:
        key: what names it in files and settings.
        words: for people.
        base: a run there, but for method, rate and seed.
        grid: of learning rates.
        task: what is learned, where it is not as the config says.
    """

    key: str
    words: str
    base: Config = field(compare=False, repr=False)
    grid: Grid = field(compare=False, repr=False)
    task: OwnTask | None = field(compare=False, repr=False, default=None)

    def trial(
        self, name: str, change: Callable[[Config], Config], rate: float, seed: int, test: bool
    ) -> Trial:
        """A run there, with what a method changes. Without `test` only its end is looked at.

        Args:
            name: of the method, for people.
            change: makes the method's run of a base run.
            rate: learning rate.
            seed: of the run.
            test: whether the final model is judged on the test examples.
        """
        every = self.base.evaluation.every if test else self.base.rounds
        run = changed(
            self.base,
            seed=seed,
            optimizer={"lr": rate},
            evaluation={"every": every},
        )
        kind = "test" if test else "validation"
        title = f"{self.key} {name} lr={rate:g} seed={seed} {kind}"
        return Trial(title, change(run), test, task=self.task)


def changed(config: Config, **sections: Any) -> Config:
    """The config with other values in some sections, checked like the first.

    Args:
        config: to change.
        sections: by name; a mapping changes some of a section's values, anything else is its value.
    """
    new = dict(config)
    for name, value in sections.items():
        old = new[name]
        mixed = isinstance(value, Mapping) and isinstance(old, Section)
        new[name] = {**old.model_dump(exclude_unset=True), **value} if mixed else value
    return Config(**new)


# -- MNIST --------------------------------------------------------------------------------------


def digits(source: str, each: int, clients: int, rounds: int, limit: int | None) -> Place:
    """The two-layer net, whose clients hold `each` of the shards into which the digits, sorted by
    label, are cut: with ten clients and one shard each, a digit each. SGD has momentum, as in the
    experiment ``beyond``, so that there is a state to carry.

    Args:
        source: of the digits (:func:`experiments.mnist.data.load_mnist`).
        each: shards a client.
        clients: how many.
        rounds: of a run.
        limit: of the training digits, where not all are taken.
    """
    exact = each == 1 and clients == 10
    own = PartitionConfig(name="field", field="digit", merge=True, min_examples=1)
    cut = PartitionConfig(name="shards", shards_per_client=each)
    base = Config(
        rounds=rounds,
        lora=LoraSettings(r=16, lora_alpha=16.0, target_modules=("hidden",)),
        data=DataConfig(name="mnist", limit=limit),
        partition=own if exact else cut,
        federation=FederationConfig(clients=clients, quorum=1.0),
        optimizer=OptimizerConfig(
            name="sgd", momentum=0.9, local_steps=20, batch_size=64 if clients <= 10 else 16
        ),
        evaluation=EvaluationConfig(every=max(1, rounds // LOOKS), batch_size=2000),
        engine=EngineConfig(workers=1, stack=min(clients, 25)),
    )
    shards = {1: "one shard", 2: "two shards"}[each]
    held = "one digit" if exact else f"{shards} of the sorted digits"
    task = OwnTask(partial(_which_digit, source), partial(_digit_facts, source))
    return Place(
        f"digits{each}-{clients}",
        f"MNIST, {clients} clients, {held} each",
        base,
        Grid((2.5e-2, 5e-2, 1e-1), (WHOLE,), bounds=(1.5e-3, 3.2)),
        task,
    )


@lru_cache(maxsize=1)
def _mnist(source: str) -> Mnist:
    return load_mnist(source)


def _which_digit(source: str) -> Task:
    return WhichDigit(_mnist(source), WIDTH, "base")


def _digit_facts(source: str) -> Mapping[str, Any]:
    return {"digits": _mnist(source).digest, "width": WIDTH}


# -- text ---------------------------------------------------------------------------------------


def reviews(clients: int, rounds: int, split: PartitionConfig) -> Place:
    """Two labels: Rotten Tomatoes, by adapters in the pooler."""
    data = DataConfig(name="rotten_tomatoes", max_length=40)
    words = f"Rotten Tomatoes, {clients} clients, {partition_in_words(split)}"
    return _pooled("reviews", words, data, clients, rounds, split, PooledTexts)


def topics(clients: int, rounds: int, split: PartitionConfig) -> Place:
    """Many labels: MMLU's questions and their topics, by adapters in the pooler."""
    data = DataConfig(
        name="topics", text="question", label="topic", max_length=48, validation=0.15, test=0.2
    )
    words = f"MMLU's 26 topics, {clients} clients, {partition_in_words(split)}"
    return _pooled("topics", words, data, clients, rounds, split, Topics)


def quickstart(clients: int, rounds: int, split: PartitionConfig) -> Place:
    """The shipped quickstart, with its labels dealt so: adapters in MiniLM's upper three layers,
    two minutes of one core a run.
    """
    base = Config(
        rounds=rounds,
        model=ModelConfig(name="minilm"),
        lora=LoraSettings(target_modules=("query", "value"), layers="3-5"),
        data=DataConfig(name="rotten_tomatoes"),
        partition=split,
        federation=FederationConfig(clients=clients, clients_per_round=clients),
        optimizer=OptimizerConfig(local_steps=10, batch_size=8),
        evaluation=EvaluationConfig(every=4),
        engine=EngineConfig(workers=1),
    )
    grid = Grid((2.5e-3, 5e-3, 1e-2), (WHOLE,), bounds=(6e-4, 4e-2))
    words = f"the quickstart, {clients} clients, {partition_in_words(split)}"
    return Place(f"quickstart-{clients}-{partition_key(split)}", words, base, grid)


def _pooled(
    name: str,
    words: str,
    data: DataConfig,
    clients: int,
    rounds: int,
    split: PartitionConfig,
    task: type[PooledTexts],
) -> Place:
    base = Config(
        rounds=rounds,
        model=ModelConfig(name="minilm"),
        lora=LoraSettings(target_modules=(TARGET,)),
        data=data,
        partition=split,
        federation=FederationConfig(clients=clients, quorum=1.0),
        optimizer=OptimizerConfig(local_steps=10, batch_size=8),
        evaluation=EvaluationConfig(every=max(1, rounds // LOOKS), batch_size=512),
        engine=EngineConfig(workers=1, stack=min(clients, 50)),
    )
    key = f"{name}-{clients}" + ("" if split == SKEWED else f"-{partition_key(split)}")
    grid = Grid((5e-3, 1e-2, 2e-2), (WHOLE,), bounds=(6e-4, 0.17))
    return Place(key, words, base, grid, OwnTask(task, task.facts))


SKEWED = PartitionConfig(name="dirichlet", dirichlet_alpha=0.5)
EQUAL = PartitionConfig(name="iid")


def partition_key(split: PartitionConfig) -> str:
    """What names equal shares, or a Dirichlet draw."""
    return "iid" if split.name == "iid" else f"dirichlet{split.dirichlet_alpha:g}"


def partition_in_words(split: PartitionConfig) -> str:
    """The same for people."""
    return "equal shares" if split.name == "iid" else f"Dirichlet {split.dirichlet_alpha:g}"
