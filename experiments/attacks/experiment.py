"""What hostile clients do to a run, and what robust reducers leave of it, on real text."""

from __future__ import annotations

import torch

from experiments.attacks.config import AttacksConfig
from experiments.attacks.figure import figures
from experiments.attacks.report import claims, results_table, summary, tables
from experiments.attacks.runs import Results, run_all
from experiments.experiment import Experiment
from experiments.report import Findings
from experiments.workspace import Workspace


def run(config: AttacksConfig, workspace: Workspace) -> Results:
    """Run every attack against every defence, or what `config` asks for of them, on one thread.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    torch.set_num_threads(1)  # a run's bits belong to the number of threads, which is no setting
    return run_all(config, workspace)


def tell(config: AttacksConfig, results: Results) -> Findings:
    """Every attack, by fraction and defence."""
    return Findings(
        title="Hostile clients, by attack, share and defence",
        summary=summary(config, results),
        tables=tuple(tables(config, results)),
        claims=tuple(claims(config, results)),
        figures=figures(config, results),
        results=results_table(results),
        facts={"threads": 1},
    )


EXPERIMENT = Experiment(
    name="attacks",
    config=AttacksConfig,
    run=run,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
)
