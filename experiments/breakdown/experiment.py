"""Where the mean of both factors breaks down, beside the gap that it leaves."""

from __future__ import annotations

from experiments.breakdown.config import BreakdownConfig
from experiments.breakdown.figure import figures
from experiments.breakdown.report import as_numbers, claims, summary, tables
from experiments.breakdown.runs import Results, run_all
from experiments.experiment import Experiment
from experiments.report import Findings


def tell(config: BreakdownConfig, results: Results) -> Findings:
    """The two beside each other, and the gap."""
    return Findings(
        title="Where averaging both factors breaks down",
        summary=summary(config, results),
        tables=tuple(tables(config, results)),
        claims=tuple(claims(config, results)),
        figures=figures(config, results),
        results=as_numbers(results),
    )


EXPERIMENT = Experiment(
    name="breakdown",
    config=BreakdownConfig,
    run=run_all,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
    threads=1,
)
