"""What one experiment with a generating model is about, beside its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from experiments.generation.config import GenerationConfig, Subject
from experiments.workspace import Workspace
from rolora.config import DataConfig
from rolora.scoring.harness import Asking

C = TypeVar("C", bound=GenerationConfig)


@dataclass(frozen=True)
class Benchmark:
    """What models are asked before and after.

    Args:
        title: for people.
        metric: of each question, 0 or 1.
        asking: the tasks, and how.
        code: whether answers are programs, which are run in the box.
    """

    title: str
    metric: str
    asking: Asking
    code: bool = False


@dataclass(frozen=True)
class Study(Generic[C]):
    """One experiment.

    Args:
        name: on the command line.
        title: of the report.
        config: its settings.
        data: the records, written into the workspace where they are made here.
        benchmark: what is asked; None: nothing.
        source: who claims that RoLoRA ends best.
        words: what was trained on and what is asked, as sentences.
        packages: whose versions the report names.
    """

    name: str
    title: str
    config: type[C]
    data: Callable[[C, Workspace], DataConfig]
    benchmark: Callable[[C, Workspace, Subject], Benchmark | None]
    source: str
    words: Callable[[C], str]
    packages: tuple[str, ...] = ()
