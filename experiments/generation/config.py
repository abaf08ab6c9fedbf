"""The settings that the experiments with generating models share, and what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from experiments.methods import (
    FFA,
    FLEXLORA,
    LORA,
    RECOMMENDED,
    RECOMMENDED_TITLE,
    ROLORA,
    options_of_line,
    state_of_line,
    title_of,
)
from experiments.tuning import check_budget, check_different
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
    TaskConfig,
)
from rolora.core.section import Positive, Rate, Section, Seed

LINES = (ROLORA, RECOMMENDED, FFA, LORA, FLEXLORA)
"""What is compared."""


def line_title(line: str) -> str:
    """What tables and figures call it."""
    return RECOMMENDED_TITLE if line == RECOMMENDED else title_of(line)


@dataclass(frozen=True)
class Subject:
    """A model that is fine-tuned.

    Args:
        name: as the section ``model`` has it.
        title: for people, and of its cells.
        seeds: at which its runs are judged.
        layers: that are adapted.
        rates: of which each line's is chosen; a single one needs no choice.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    layers: str
    rates: tuple[float, ...]


class GenerationConfig(Section):
    """The settings of an experiment.

    The paper's size is the default: Llama-2-7B by hub name or directory, 50 clients, rank 8. The
    paper does not publish its other settings; these are the presets'. `small` takes SmolLM2-135M
    and what two cores do in minutes.

    Of `rates` each line gets the one with the lowest validation loss at `tuning_seed`, after
    `tuning_share` of the rounds. A final run looks at the validation examples `evaluations` times.
    `strata` is a column by whose values examples are dealt, or ``length``, the number of learned
    tokens. The benchmark is asked `questions` questions a task (0: not asked; null: all), of the
    runs at `scored_seeds`; base model and adapters answer `generations` held-out questions in at
    most `answer_tokens` tokens. With `finished` nothing is run: the report tells of what is there.
    `workers` runs are made at a time, each on one thread; by default one a core.
    """

    SMALL: ClassVar[Mapping[str, Any]] = {
        "model": "smollm2",
        "dtype": "bfloat16",
        "layers": "20-29",
        "lora_alpha": 16.0,
        "dropout": 0.0,
        "clients": 10,
        "local_steps": 2,
        "batch_size": 2,
        "rounds": 6,
        "rates": (3e-3, 1e-2, 3e-2),
        "seeds": (0, 1, 2),
        "tuning_share": 0.5,
        "evaluations": 3,
        "validation": 0.05,
        "partition": "dirichlet",
        "generations": 2,
        "answer_tokens": 48,
        "template": "auto",
        "scored_seeds": (0,),
    }
    """What `small` sets before the user's own settings; an experiment adds to it."""

    small: bool = False
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = LINES
    model: str = "meta-llama/Llama-2-7b-hf"
    dtype: Literal["auto", "float32", "bfloat16"] = "bfloat16"
    device: str = "auto"
    r: Positive = 8
    lora_alpha: Rate = 32.0
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    layers: str = "all"
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    max_length: Annotated[int, Field(ge=4)] = 1000
    limit: Positive | None = None
    validation: Annotated[float, Field(gt=0.0, lt=0.9)] = 0.1
    clients: Positive = 50
    partition: Literal["iid", "dirichlet"] = "iid"
    dirichlet_alpha: Rate = 0.5
    strata: str = "length"
    template: Literal["auto", "chat", "plain"] = "plain"
    rounds: Annotated[int, Field(ge=2, multiple_of=2)] = 30
    local_steps: Positive = 30
    batch_size: Positive = 1
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (3e-4, 1e-3, 3e-3)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    tuning_seed: Seed = 100
    tuning_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    evaluations: Positive = 3
    questions: Annotated[int, Field(ge=0)] | None = None
    scored_seeds: tuple[Seed, ...] = (0, 1, 2)
    generations: Annotated[int, Field(ge=0, le=100)] = 5
    answer_tokens: Positive = 256
    finished: bool = False
    workers: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("small") is True:
            return {**cls.SMALL, **given}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> GenerationConfig:
        check_budget(self)
        check_different(self, "methods", "scored_seeds")
        if ROLORA not in self.methods or not set(self.methods) <= set(LINES):
            known = ", ".join(LINES)
            raise ValueError(f"methods = {list(self.methods)}: must be rolora and some of {known}")
        if not set(self.scored_seeds) <= set(self.seeds):
            raise ValueError(f"scored_seeds = {list(self.scored_seeds)}: must be among seeds")
        return self

    def records(self, **where: Any) -> DataConfig:
        """The section ``data`` of a run, by where the records are."""
        return DataConfig(
            max_length=self.max_length, limit=self.limit, validation=self.validation, **where
        )

    @property
    def task(self) -> TaskConfig:
        """The section ``task`` of a run."""
        return TaskConfig.model_validate(
            {"name": "causal_lm", "template": self.template, "strata": self.strata}
        )

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The models that are fine-tuned, one after the other."""
        title = self.model.rstrip("/").rpartition("/")[2]
        return (Subject(self.model, title, self.seeds, self.layers, self.rates),)

    @property
    def tuning_rounds(self) -> int:
        """Rounds of a run that chooses the rate; even, so that both factors are trained."""
        return max(2, 2 * round(self.tuning_share * self.rounds / 2))


def run_of(
    config: GenerationConfig,
    subject: Subject,
    data: DataConfig,
    line: str,
    rate: float,
    seed: int,
    test: bool,
) -> Config:
    """A line on a model, as a run; without `test` it is one that chooses the rate."""
    rounds = config.rounds if test else config.tuning_rounds
    return Config(
        seed=seed,
        rounds=rounds,
        model=ModelConfig(name=subject.name, dtype=config.dtype, device=config.device),
        lora=LoraSettings(
            r=config.r,
            lora_alpha=config.lora_alpha,
            target_modules=config.target_modules,
            layers=subject.layers,
            dropout=config.dropout,
        ),
        data=data,
        task=config.task,
        partition=PartitionConfig(name=config.partition, dirichlet_alpha=config.dirichlet_alpha),
        federation=FederationConfig(clients=config.clients, quorum=1.0),
        method=options_of_line(line),
        optimizer=OptimizerConfig(
            lr=rate,
            state=state_of_line(line),
            local_steps=config.local_steps,
            batch_size=config.batch_size,
        ),
        evaluation=EvaluationConfig(
            every=max(1, rounds // config.evaluations) if test else rounds, batch_size=8
        ),
        engine=EngineConfig(workers=1),
    )
