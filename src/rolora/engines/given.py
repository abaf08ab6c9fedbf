"""Objects of the caller's own, in place of what a config names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn

from rolora.config import Config
from rolora.core.errors import BadInput
from rolora.data.sources import Splits
from rolora.methods import Method, make_method
from rolora.methods.base import Setting
from rolora.tasks import Task, make_task
from rolora.tasks.base import Score


@dataclass(frozen=True)
class Given:
    """What a program hands over; what it does not is what the config names.

    Args:
        task: what is learned, and how it is scored.
        method: the class of the method; the config's section ``method`` holds its options.
        model: a model of Transformers. It is not changed, and its weights are not copied.
        tokenizer: its tokenizer.
        splits: what reads each split of the data.
        metrics: scores beside the task's own, by name.
    """

    task: Task | None = None
    method: type[Method] | None = None
    model: nn.Module | None = None
    tokenizer: Any = None
    splits: Splits | None = None
    metrics: Mapping[str, Score] = field(default_factory=dict)

    def make_task(self, config: Config) -> Task:
        """The run's task.

        Raises:
            BadInput: no such task, or one that does not take the metrics.
        """
        task = self.task or make_task(config.task)
        return task.scored_by(self.metrics) if self.metrics else task

    def make_method(self, config: Config, setting: Setting) -> Method:
        """The run's method.

        Raises:
            BadInput: no such method, or one that does not go with the setting.
        """
        if self.method is not None:
            return self.method(setting, config.method)
        return make_method(config.method, setting)

    def check_for_sites(self) -> None:
        """Refuse what the sites of a federation cannot have.

        Raises:
            BadInput: an object is given that only this process has.
        """
        here = [
            item.name
            for item in fields(self)
            if item.name != "metrics" and getattr(self, item.name) is not None
        ]
        if here:
            raise BadInput(
                f"engine.name = 'flower': {here[0]} is an object of this process, which no site "
                "has; name it in the config (methods and tasks of other packages are found by "
                "their entry points), or take engine.name: in_process"
            )


NOTHING = Given()
"""Everything is as the config says."""
