"""Federated runs as an experiment's cells, over what a worker keeps loaded between them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from experiments.pool import Worker, run_jobs
from experiments.short_runs import TrialResult, run_short
from experiments.workspace import Workspace
from rolora.config import Config
from rolora.engines.given import Given
from rolora.engines.preparation import Loaded, Prepared, load, loaded_from, prepare
from rolora.model.loading import resolve_device
from rolora.tasks import Task

R = TypeVar("R")


@dataclass(frozen=True)
class OwnTask:
    """A task of an experiment's own, in place of the config's.

    Args:
        make: makes it, once in a process.
        facts: gives what a trial's result depends on beside its config, JSON-able.
    """

    make: Callable[[], Task]
    facts: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Trial:
    """One federated run: a cell of an experiment.

    Args:
        name: for people.
        config: of the run.
        test: whether the final model is judged on the test examples.
        task: what is learned, where it is not as the config says.
    """

    name: str
    config: Config
    test: bool
    task: OwnTask | None = field(default=None, kw_only=True, compare=False)

    def settings(self) -> dict[str, Any]:
        """All that the result depends on and that is not as by default, JSON-able: a key that a
        later version adds does not make a finished trial another one.
        """
        without = {"checkpoint", "engine", "tracking"}
        config = self.config.model_dump(mode="json", exclude=without, exclude_defaults=True)
        own = {} if self.task is None else {"own_task": self.task.facts()}
        return {**config, **own, "test": self.test}

    def loads(self) -> dict[str, Any]:
        """What must be the same for two trials to share what takes long to load, JSON-able."""
        own = None if self.task is None else self.task.facts()
        return {**loaded_from(self.config), "own_task": own}


def run_trials(
    what: str, trials: Sequence[Trial], workspace: Workspace, workers: int | None
) -> list[TrialResult]:
    """What :class:`TrialWorker` makes of the trials (:func:`in_groups`)."""
    return in_groups(what, trials, TrialWorker(), workspace, workers)


def in_groups(
    what: str,
    trials: Sequence[Trial],
    worker: Worker[Any, R],
    workspace: Workspace,
    workers: int | None,
) -> list[R]:
    """The trials' results, in order; those whose cell is finished are not run again.

    Trials that share data, model and adapted layers are run one after the other, so that a worker
    loads them once.

    Args:
        what: of the trials, for the progress bar.
        trials: to run.
        worker: runs them.
        workspace: where finished trials lie, and where to show progress.
        workers: trials at a time; None: one a core on a CPU, and one on a GPU.

    Raises:
        BadInput: something in a config cannot be had or does not fit.
        RunFailed: a worker process died.
        KeyboardInterrupt: passed on once the trials under way are finished and kept.
    """
    groups: dict[str, list[int]] = {}
    for number, trial in enumerate(trials):
        groups.setdefault(repr(trial.loads()), []).append(number)
    order = [number for group in groups.values() for number in group]
    if workers is None and any(_on_a_gpu(trial.config) for trial in trials):
        workers = 1
    jobs = [trials[number] for number in order]
    found = run_jobs(what, jobs, worker, workspace, workers)
    by_number = dict(zip(order, found, strict=True))
    return [by_number[number] for number in range(len(trials))]


def _on_a_gpu(config: Config) -> bool:
    return resolve_device(config.model.device).type != "cpu"


class Loader:
    """Loads trials; keeps the data, the model and its frozen layers' activations of the last."""

    def __init__(self) -> None:
        self.key: Mapping[str, Any] | None = None
        self.loaded: Loaded | None = None
        self.tasks: dict[str, Task] = {}

    def settings(self, trial: Trial) -> dict[str, Any]:
        """All that the result depends on, JSON-able."""
        return trial.settings()

    def prepared(self, trial: Trial) -> Prepared:
        """The trial's run, ready to begin.

        Raises:
            BadInput: something in its config cannot be had or does not fit.
        """
        key = trial.loads()
        if self.loaded is None or key != self.key:
            self.key = self.loaded = None  # before the next is loaded: one model in memory
            gc.collect()  # a model and its replaced layers know each other
            self.loaded, self.key = load(trial.config, given=Given(task=self._own(trial))), key
        return prepare(trial.config, self.loaded)

    def _own(self, trial: Trial) -> Task | None:
        """The trial's own task; one for all trials of its facts, so that it may keep things."""
        if trial.task is None:
            return None
        facts = repr(trial.task.facts())
        if facts not in self.tasks:
            self.tasks[facts] = trial.task.make()
        return self.tasks[facts]


class TrialWorker(Loader):
    """Runs trials of classifiers."""

    def work(self, trial: Trial) -> TrialResult:
        """Run all rounds of `trial`.

        Raises:
            BadInput: something in its config cannot be had or does not fit.
        """
        prepared = self.prepared(trial)
        return run_short(prepared, prepared.initial(), trial.test)
