"""The tasks by name. To add one: one file beside these, one line in `TASKS`; in a package of your
own, an entry point in the group ``rolora.tasks``.
"""

from __future__ import annotations

from rolora.config import TaskConfig
from rolora.core.catalogue import Catalogue
from rolora.core.errors import BadInput, nearest
from rolora.core.parsing import parse_section
from rolora.records.schema import Metric
from rolora.tasks.base import Task, added
from rolora.tasks.causal_lm import CausalLM
from rolora.tasks.classification import Classification
from rolora.tasks.multilabel import MultiLabel
from rolora.tasks.regression import Regression

TASKS: Catalogue[Task] = Catalogue(
    "rolora.tasks",
    Task,  # type: ignore[type-abstract]
    {
        "classification": Classification,
        "regression": Regression,
        "multilabel": MultiLabel,
        "causal_lm": CausalLM,
    },
)


def make_task(config: TaskConfig) -> Task:
    """The task of a run.

    Raises:
        BadInput: no such task (the known ones are listed), or an option that it does not take.
    """
    if config.name not in TASKS:
        raise BadInput(f"task.name = {config.name!r}: unknown task{nearest(config.name, TASKS)}")
    kind = TASKS[config.name]
    return kind(parse_section(kind.Options, config.options, source="task"))


__all__ = ["TASKS", "Metric", "Task", "added", "make_task"]
