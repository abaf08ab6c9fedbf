"""The two tasks on which variants are compared: the experiments ``mnist`` and ``glue``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.beyond.config import BeyondConfig, BeyondGlue, BeyondMnist
from experiments.beyond.runs import Half, Place, Wanted, named
from experiments.glue import runs as glue_runs
from experiments.glue.presets import Line, Setting, settings_of
from experiments.glue.tasks import TaskData, tasks_of
from experiments.methods import ROLORA, title_of
from experiments.mnist import runs as mnist_runs
from experiments.mnist.data import Mnist, load_mnist
from experiments.mnist.train import Worker
from experiments.pool import run_jobs
from experiments.short_runs import Ending
from experiments.trials import run_trials
from experiments.workspace import Workspace
from rolora.methods import options_of


def halves(config: BeyondConfig, workspace: Workspace) -> list[Half]:
    """The tasks to compare on, with their data.

    Raises:
        BadInput: the data cannot be had.
    """
    found: list[Half] = []
    if config.on != "glue":
        mnist = load_mnist(config.mnist.data, workspace.say)
        found.append(MnistHalf(config.mnist, mnist, config.workers, workspace))
    if config.on != "mnist":
        tasks = tasks_of(config.glue, workspace.directory / "data", workspace.say)
        found.append(GlueHalf(config.glue, tasks, config.workers, workspace))
    return found


@dataclass(frozen=True)
class MnistHalf:
    """The two-layer net, two or one digits a client."""

    config: BeyondMnist
    mnist: Mnist
    workers: int | None
    workspace: Workspace

    @property
    def places(self) -> list[Place]:
        """Both splits of the digits."""
        return [Place(s.key, f"MNIST, {s.words}", self.mnist.source) for s in mnist_runs.SPLITS]

    def run(self, what: str, wanted: Sequence[Wanted], test: bool) -> Sequence[Ending]:
        """RoLoRA's runs of the experiment, each with its variant's changes."""
        splits = {split.key: split for split in mnist_runs.SPLITS}
        jobs = []
        for place, variant, rate, seed in wanted:
            run = mnist_runs.job(
                self.config, mnist_runs.ROLORA, splits[place.key], rate, seed, test
            )
            name = named(place, variant, rate, seed, test)
            jobs.append(replace(run, name=name, config=variant.of(run.config)))
        worker, title = Worker(self.mnist), f"MNIST, {what}"
        return run_jobs(title, jobs, worker, self.workspace, self.workers)


@dataclass(frozen=True)
class GlueHalf:
    """The language tasks' settings, one by default."""

    config: BeyondGlue
    tasks: Sequence[TaskData]
    workers: int | None
    workspace: Workspace

    def _settings(self) -> dict[Place, tuple[TaskData, Setting]]:
        return {
            Place(f"{task.name} {setting.words}", f"{task.title}, {setting.words}", task.source): (
                task,
                setting,
            )
            for task in self.tasks
            for setting in settings_of(self.config)
        }

    @property
    def places(self) -> list[Place]:
        """Every task in every setting."""
        return list(self._settings())

    def run(self, what: str, wanted: Sequence[Wanted], test: bool) -> Sequence[Ending]:
        """RoLoRA's runs of the experiment, each with its variant's changes."""
        settings, trials = self._settings(), []
        line = Line(ROLORA, title_of(ROLORA), options_of(ROLORA))
        for place, variant, rate, seed in wanted:
            case = glue_runs.Case(*settings[place], line)
            run = glue_runs.trial(self.config, case, rate, seed, test)
            name = named(place, variant, rate, seed, test)
            trials.append(replace(run, name=name, config=variant.of(run.config)))
        title = f"{self.tasks[0].title}, {what}"
        return run_trials(title, trials, self.workspace, self.workers)
