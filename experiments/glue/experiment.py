"""The paper's GLUE experiments: ``python -m experiments glue --preset NAME [--small]``."""

from __future__ import annotations

from experiments.experiment import Experiment
from experiments.glue.config import GlueConfig
from experiments.glue.figure import figures
from experiments.glue.presets import TITLES
from experiments.glue.report import Outcome, claims, results, summary, tables
from experiments.glue.runs import run_all
from experiments.glue.tasks import left_out, majority, tasks_of
from experiments.report import Findings
from experiments.workspace import Workspace


def run(config: GlueConfig, workspace: Workspace) -> Outcome:
    """Run a preset.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    tasks = tasks_of(config, workspace.directory / "data", workspace.say)
    for task in tasks:
        workspace.say(f"{task.title}: {task.source}")
    runs = run_all(config, tasks, workspace)
    commonest = {task.name: majority(task, config.seeds[0]) for task in tasks}
    return Outcome(config, tasks, runs, commonest)


def tell(config: GlueConfig, outcome: Outcome) -> Findings:
    """The preset's table beside the paper's."""
    return Findings(
        title=TITLES[config.preset],
        summary=summary(outcome, left_out(config, outcome.tasks)),
        tables=tuple(tables(outcome)),
        claims=tuple(claims(outcome)),
        figures=figures(outcome),
        results=results(outcome),
    )


def directory(config: GlueConfig) -> str:
    """One for each preset and size."""
    return f"glue-{config.preset}" + ("-small" if config.small else "")


EXPERIMENT = Experiment(
    name="glue",
    config=GlueConfig,
    run=run,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
    directory=directory,
)
