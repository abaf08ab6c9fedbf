"""Which preset a newcomer should run, decided where labels are skewed and where they are not."""

from __future__ import annotations

from experiments.contest import Lines, run_all
from experiments.experiment import Experiment
from experiments.preset.config import PresetConfig
from experiments.preset.figure import figures
from experiments.preset.report import claims, results, summary, tables
from experiments.report import Findings


def tell(config: PresetConfig, lines: Lines) -> Findings:
    """The recipes beside RoLoRA."""
    return Findings(
        title="A preset for skewed labels",
        summary=summary(config, lines),
        tables=tuple(tables(lines)),
        claims=tuple(claims(lines)),
        figures=figures(lines),
        results=results(lines),
    )


EXPERIMENT = Experiment(
    name="preset",
    config=PresetConfig,
    run=run_all,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
    threads=1,
)
