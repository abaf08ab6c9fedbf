"""What hostile clients do to a run, and what robust reducers leave of it, on real text."""

from __future__ import annotations

from experiments.attacks.config import AttacksConfig
from experiments.attacks.figure import figures
from experiments.attacks.report import claims, results_table, summary, tables
from experiments.attacks.runs import Results, run_all
from experiments.experiment import Experiment
from experiments.report import Findings


def tell(config: AttacksConfig, results: Results) -> Findings:
    """Every attack, by fraction and defence."""
    return Findings(
        title="Hostile clients, by attack, share and defence",
        summary=summary(config, results),
        tables=tuple(tables(config, results)),
        claims=tuple(claims(config, results)),
        figures=figures(config, results),
        results=results_table(results),
    )


EXPERIMENT = Experiment(
    name="attacks",
    config=AttacksConfig,
    run=run_all,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
    threads=1,
)
