"""All methods of the library, tuned alike, at equal steps and at equal bytes."""

from __future__ import annotations

import torch

from experiments.arena.config import ArenaConfig
from experiments.arena.figure import figures
from experiments.arena.report import claims, results, summary, tables
from experiments.contest import Lines, run_all
from experiments.experiment import Experiment
from experiments.report import Findings
from experiments.workspace import Workspace


def run(config: ArenaConfig, workspace: Workspace) -> Lines:
    """Run every method in every place, or what `config` asks for of them, on one thread a run.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    torch.set_num_threads(1)  # a run's bits belong to the number of threads, which is no setting
    return run_all(config, workspace)


def tell(config: ArenaConfig, lines: Lines) -> Findings:
    """The methods beside RoLoRA."""
    return Findings(
        title="The arena",
        summary=summary(config, lines),
        tables=tuple(tables(lines)),
        claims=tuple(claims(lines)),
        figures=figures(lines),
        results=results(lines),
        facts={"threads": 1},
    )


EXPERIMENT = Experiment(
    name="arena",
    config=ArenaConfig,
    run=run,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
)
