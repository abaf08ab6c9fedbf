"""What comes after RoLoRA: its variants on MNIST and on a language task."""

from __future__ import annotations

from experiments.beyond.config import BeyondConfig
from experiments.beyond.figure import figures
from experiments.beyond.halves import halves
from experiments.beyond.report import claims, results, summary, tables
from experiments.beyond.runs import Lines, run_all
from experiments.experiment import Experiment
from experiments.report import Findings
from experiments.workspace import Workspace


def run(config: BeyondConfig, workspace: Workspace) -> Lines:
    """Run every variant in every place.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    return run_all(halves(config, workspace), config.compared())


def tell(config: BeyondConfig, lines: Lines) -> Findings:
    """The variants beside RoLoRA."""
    return Findings(
        title="What comes after RoLoRA",
        summary=summary(config, lines),
        tables=tuple(tables(lines)),
        claims=tuple(claims(config, lines)),
        figures=figures(lines),
        results=results(lines),
    )


EXPERIMENT = Experiment(
    name="beyond",
    config=BeyondConfig,
    run=run,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
)
