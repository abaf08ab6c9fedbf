"""Federated LoRA fine-tuning by alternating optimisation.

>>> import rolora
>>> run = rolora.run("quickstart")
>>> run.metrics, run.predict(["a film to see twice"])

What stands in ``__all__`` is the public surface. It is imported when it is used, so that
``import rolora`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rolora.core.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from rolora import callbacks
    from rolora.callbacks.base import Callback
    from rolora.config import Config, load_config
    from rolora.core.errors import BadInput, RunFailed
    from rolora.core.rules import ClientRule
    from rolora.library.compared import ComparedRuns
    from rolora.library.finished import Run, load_run
    from rolora.library.plan import RunPlan
    from rolora.library.runs import compare, plan, run, stream, tune
    from rolora.methods.base import Method
    from rolora.records.schema import Metric, RoundRecord, Summary
    from rolora.reducers.base import Reducer
    from rolora.stages.base import Stage
    from rolora.tasks.base import Task
    from rolora.tasks.column import ColumnTask

_WHERE = {
    "run": "library.runs",
    "stream": "library.runs",
    "compare": "library.runs",
    "tune": "library.runs",
    "plan": "library.runs",
    "load_run": "library.finished",
    "Run": "library.finished",
    "RunPlan": "library.plan",
    "ComparedRuns": "library.compared",
    "Config": "config",
    "load_config": "config",
    "Method": "methods.base",
    "ClientRule": "core.rules",
    "Task": "tasks.base",
    "ColumnTask": "tasks.column",
    "Metric": "records.schema",
    "Reducer": "reducers.base",
    "Stage": "stages.base",
    "Callback": "callbacks.base",
    "RoundRecord": "records.schema",
    "Summary": "records.schema",
    "BadInput": "core.errors",
    "RunFailed": "core.errors",
}

__all__ = [
    "BadInput",
    "Callback",
    "ClientRule",
    "ColumnTask",
    "ComparedRuns",
    "Config",
    "Method",
    "Metric",
    "Reducer",
    "RoundRecord",
    "Run",
    "RunFailed",
    "RunPlan",
    "Stage",
    "Summary",
    "Task",
    "__version__",
    "callbacks",
    "compare",
    "load_config",
    "load_run",
    "plan",
    "run",
    "stream",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "callbacks":
        return import_module("rolora.callbacks")
    if name in _WHERE:
        return getattr(import_module(f"rolora.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'rolora' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
