"""All methods of the library, tuned alike, at equal steps and at equal bytes."""

from __future__ import annotations

from experiments.arena.config import ArenaConfig
from experiments.arena.figure import figures
from experiments.arena.report import claims, results, summary, tables
from experiments.contest import Lines, run_all
from experiments.experiment import Experiment
from experiments.report import Findings


def tell(config: ArenaConfig, lines: Lines) -> Findings:
    """The methods beside RoLoRA."""
    return Findings(
        title="The arena",
        summary=summary(config, lines),
        tables=tuple(tables(lines)),
        claims=tuple(claims(lines)),
        figures=figures(lines),
        results=results(lines),
    )


EXPERIMENT = Experiment(
    name="arena",
    config=ArenaConfig,
    run=run_all,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
    threads=1,
)
