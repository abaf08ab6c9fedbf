"""The GLUE tasks: where their examples come from, at the paper's size and at a laptop's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.glue.config import GlueConfig
from experiments.glue.stand_ins import STAND_INS, write_stand_in
from rolora.config import DataConfig, TaskConfig
from rolora.data.sources import source_of
from rolora.tasks import make_task

TITLES = {"sst2": "SST-2", "qnli": "QNLI", "mnli": "MNLI", "qqp": "QQP", "rte": "RTE"}
ROUNDS = {"sst2": 500, "qnli": 500, "mnli": 500, "qqp": 500, "rte": 200}
BATCH_SIZES = {"sst2": 64, "qnli": 32, "mnli": 32, "qqp": 32, "rte": 32}
"""The paper's, with 3 clients (Table 6)."""
VALIDATION = {"sst2": 0.03, "qnli": 0.02, "mnli": 0.005, "qqp": 0.005, "rte": 0.1}
"""The share of GLUE's training examples held back: about 2,000, of RTE 250."""
SMALL_VALIDATION = 0.05


@dataclass(frozen=True)
class TaskData:
    """A task and its examples.

    Args:
        name: GLUE's.
        title: for people.
        data: of the runs.
        source: where the examples come from, in words.
    """

    name: str
    title: str
    data: DataConfig
    source: str


def tasks_of(config: GlueConfig, directory: Path, say: Callable[[str], None]) -> list[TaskData]:
    """The tasks with their examples.

    Args:
        config: of the experiment.
        directory: where stand-ins are written in the form in which runs read them.
        say: told of tasks that are left out.

    Raises:
        BadInput: a stand-in's file is damaged.
    """
    if not config.small:
        return [_glue(config, name) for name in config.tasks]
    found = [_small(config, name, directory) for name in config.tasks]
    for name, task in zip(config.tasks, found, strict=True):
        if task is None:
            say(f"{TITLES[name]} is left out: {missing(config, name)}")
    there = [task for task in found if task is not None]
    if there:
        return there
    say(f"{ROTTEN_TOMATOES} take the place of {TITLES[config.tasks[0]]}")
    return [_rotten_tomatoes(config, config.tasks[0])]


def majority(task: TaskData, seed: int) -> float:
    """What a model scores on the test examples that has learnt the commonest label alone.

    Raises:
        BadInput: the examples cannot be had.
    """
    labels = make_task(TaskConfig()).load(task.data, seed).test.targets
    return float(np.bincount(labels).max() / len(labels))


def left_out(config: GlueConfig, tasks: Sequence[TaskData]) -> dict[str, str]:
    """Why a task is not among `tasks`, by its title."""
    there = {task.name for task in tasks}
    return {TITLES[n]: missing(config, n) for n in config.tasks if n not in there}


def missing(config: GlueConfig, name: str) -> str:
    """Why a task has no stand-in here."""
    if name not in STAND_INS:
        return "it has no stand-in"
    wanted = f"data=DIRECTORY must hold {STAND_INS[name].file}"
    return f"its stand-in is {STAND_INS[name].title}, and {wanted}"


ROTTEN_TOMATOES = "Rotten Tomatoes (8,530 sentences, two labels)"


def _rotten_tomatoes(config: GlueConfig, name: str) -> TaskData:
    data = DataConfig(
        name="rotten_tomatoes", max_length=config.max_length, validation=SMALL_VALIDATION
    )
    return TaskData(name, f"{TITLES[name]}'s stand-in", data, ROTTEN_TOMATOES)


def _small(config: GlueConfig, name: str, directory: Path) -> TaskData | None:
    if name == "sst2":
        return _rotten_tomatoes(config, name)
    if name not in STAND_INS or config.data is None:
        return None
    stand_in = STAND_INS[name]
    file = stand_in.find(config.data)
    if file is None:
        return None
    data = DataConfig(
        path=write_stand_in(stand_in, file, directory),
        text="text",
        text_pair="text_pair",
        label="label",
        max_length=config.max_length,
        validation=SMALL_VALIDATION,
    )
    return TaskData(name, f"{TITLES[name]}'s stand-in", data, stand_in.title)


def _glue(config: GlueConfig, name: str) -> TaskData:
    settings: Mapping[str, object] = {
        "max_length": config.max_length,
        "validation": VALIDATION[name],
    }
    if config.data is None:
        data = DataConfig(name=name, **settings)  # type: ignore[arg-type]
        return TaskData(name, TITLES[name], data, f"GLUE's {TITLES[name]} from the hub")
    columns = source_of(DataConfig(name=name))
    data = DataConfig(
        path=config.data / name,
        text=columns.text,
        text_pair=columns.text_pair,
        label=columns.label,
        test_split=columns.test_split,
        **settings,  # type: ignore[arg-type]
    )
    return TaskData(name, TITLES[name], data, f"GLUE's {TITLES[name]} from a directory")
