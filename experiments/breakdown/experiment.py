"""Where the mean of both factors breaks down, beside the gap that it leaves."""

from __future__ import annotations

import torch

from experiments.breakdown.config import BreakdownConfig
from experiments.breakdown.figure import figures
from experiments.breakdown.report import as_numbers, claims, summary, tables
from experiments.breakdown.runs import Results, run_all
from experiments.experiment import Experiment
from experiments.report import Findings
from experiments.workspace import Workspace


def run(config: BreakdownConfig, workspace: Workspace) -> Results:
    """Run both methods at every point, or what `config` asks for of them, on one thread a run.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    torch.set_num_threads(1)  # a run's bits belong to the number of threads, which is no setting
    return run_all(config, workspace)


def tell(config: BreakdownConfig, results: Results) -> Findings:
    """The two beside each other, and the gap."""
    return Findings(
        title="Where averaging both factors breaks down",
        summary=summary(config, results),
        tables=tuple(tables(config, results)),
        claims=tuple(claims(config, results)),
        figures=figures(config, results),
        results=as_numbers(results),
        facts={"threads": 1},
    )


EXPERIMENT = Experiment(
    name="breakdown",
    config=BreakdownConfig,
    run=run,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
)
