"""Which preset a newcomer should run, decided where labels are skewed and where they are not."""

from __future__ import annotations

import torch

from experiments.contest import Lines, run_all
from experiments.experiment import Experiment
from experiments.preset.config import PresetConfig
from experiments.preset.figure import figures
from experiments.preset.report import claims, results, summary, tables
from experiments.report import Findings
from experiments.workspace import Workspace


def run(config: PresetConfig, workspace: Workspace) -> Lines:
    """Run every recipe in every place, or what `config` asks for of them, on one thread a run.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    torch.set_num_threads(1)  # a run's bits belong to the number of threads, which is no setting
    return run_all(config, workspace)


def tell(config: PresetConfig, lines: Lines) -> Findings:
    """The recipes beside RoLoRA."""
    return Findings(
        title="A preset for skewed labels",
        summary=summary(config, lines),
        tables=tuple(tables(lines)),
        claims=tuple(claims(lines)),
        figures=figures(lines),
        results=results(lines),
        facts={"threads": 1},
    )


EXPERIMENT = Experiment(
    name="preset",
    config=PresetConfig,
    run=run,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
)
