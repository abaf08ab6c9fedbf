"""What can be read off one site's update, and what keeps it back."""

from __future__ import annotations

import torch

from experiments.experiment import Experiment
from experiments.reconstruction.config import ReconstructionConfig
from experiments.reconstruction.figure import figures
from experiments.reconstruction.report import claims, results_table, summary, tables
from experiments.reconstruction.runs import Results, run_all
from experiments.report import Findings
from experiments.workspace import Workspace


def run(config: ReconstructionConfig, workspace: Workspace) -> Results:
    """Read every batch behind every defence, on one thread.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    torch.set_num_threads(1)  # a run's bits belong to the number of threads, which is no setting
    return run_all(config, workspace)


def tell(config: ReconstructionConfig, results: Results) -> Findings:
    """By factor, rank, batch and defence."""
    return Findings(
        title="What comes back of a site's batch",
        summary=summary(config, results),
        tables=tuple(tables(config, results)),
        claims=tuple(claims(config, results)),
        figures=figures(config, results),
        results=results_table(results),
        facts={"threads": 1},
    )


EXPERIMENT = Experiment(
    name="reconstruction",
    config=ReconstructionConfig,
    run=run,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
)
