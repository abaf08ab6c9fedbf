"""Common sense, answered by letters: ``python -m experiments commonsense [--small]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from experiments.commonsense.records import (
    STAND_INS,
    archive,
    bigbench_tasks,
    write_letters,
    write_stand_ins,
)
from experiments.generation.config import GenerationConfig, Subject
from experiments.generation.experiment import experiment_of
from experiments.generation.study import Benchmark, Study
from experiments.workspace import Workspace
from rolora.config import DataConfig, ModelConfig
from rolora.core.section import Positive
from rolora.model.loading import load_tokenizer
from rolora.scoring.harness import Asking
from rolora.tasks import make_task
from rolora.tasks.causal_lm import CausalLM

Dataset = Literal[
    "boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"
]


class CommonsenseConfig(GenerationConfig):
    """The experiment. `dataset` is one of the paper's eight, from the hub, or in `data`, a file or
    directory in its format. With `small` eight tasks of BIG-bench stand in for them, together,
    `train_rows` of each to train on and `test_rows` to be asked; clients are dealt by task.
    """

    SMALL: ClassVar[Mapping[str, Any]] = {
        **GenerationConfig.SMALL,
        "max_length": 192,
        "strata": "task",
        "generations": 0,
    }

    dataset: Dataset = "boolq"
    data: Path | None = None
    train_rows: Positive = 120
    test_rows: Positive = 40


def data(config: CommonsenseConfig, workspace: Workspace) -> DataConfig:
    """The records; the stand-ins are written once."""
    if config.data is not None:
        return config.records(path=config.data)
    if not config.small:
        return config.records(name=config.dataset)
    place = workspace.directory / "data" / f"bigbench-{config.train_rows}-{config.test_rows}"
    if not (place / "test.jsonl").is_file() or not (place / "train.jsonl").is_file():
        tasks = bigbench_tasks(archive())
        write_stand_ins(place, tasks, config.train_rows, config.test_rows)
    return config.records(path=place)


def letters(config: CommonsenseConfig, workspace: Workspace, subject: Subject) -> Benchmark | None:
    """The test questions, answered by the likeliest letter."""
    if config.questions == 0:
        return None
    task = make_task(config.task)
    assert isinstance(task, CausalLM)
    test = task.load(data(config, workspace), config.seeds[0]).test
    tokenizer = load_tokenizer(ModelConfig(name=subject.name))
    place = workspace.directory / "data" / "letters" / subject.title
    names = write_letters(place, test, config.dataset, tokenizer, config.template)
    return Benchmark("Questions answered by letters", "acc", Asking(names, place, config.questions))


def words(config: CommonsenseConfig) -> str:
    """What was trained on and what is asked."""
    asked = "The likeliest of a question's letters is the answer."
    if config.data is not None:
        return f"The records are those of {config.data.name}. {asked}"
    if not config.small:
        return f"The records are {config.dataset}. {asked}"
    return (
        f"The files of the paper's eight data sets are in no package, so eight tasks of BIG-bench "
        f"stand in for them: {', '.join(STAND_INS)}; {config.train_rows} questions of each to "
        f"train on, {config.test_rows} others to test. {asked} Before training the model is asked "
        "in the same words."
    )


EXPERIMENT = experiment_of(
    Study(
        name="commonsense",
        title="Common sense: answers by letters, before and after",
        config=CommonsenseConfig,
        data=data,
        benchmark=letters,
        source="the paper's table of commonsense tasks",
        words=words,
    )
)
