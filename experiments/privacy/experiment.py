"""What differential privacy costs each method, at its own rate."""

from __future__ import annotations

import torch

from experiments.experiment import Experiment
from experiments.privacy.config import PrivacyStudy
from experiments.privacy.figure import figures
from experiments.privacy.report import claims, results, summary, tables
from experiments.privacy.runs import Lines, run_all
from experiments.report import Findings
from experiments.workspace import Workspace


def run(study: PrivacyStudy, workspace: Workspace) -> Lines:
    """Run every method at every epsilon, on one thread a run.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    torch.set_num_threads(1)  # a run's bits belong to the number of threads, which is no setting
    return run_all(study, workspace)


def tell(study: PrivacyStudy, lines: Lines) -> Findings:
    """The methods side by side."""
    return Findings(
        title="Accuracy over epsilon",
        summary=summary(study, lines),
        tables=tuple(tables(study, lines)),
        claims=tuple(claims(study, lines)),
        figures=figures(study, lines),
        results=results(lines),
        facts={"threads": 1},
    )


EXPERIMENT = Experiment(
    name="privacy",
    config=PrivacyStudy,
    run=run,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy", "dp-accounting"),
)
