"""What can be read off one site's update, and what keeps it back."""

from __future__ import annotations

from experiments.experiment import Experiment
from experiments.reconstruction.config import ReconstructionConfig
from experiments.reconstruction.figure import figures
from experiments.reconstruction.report import claims, results_table, summary, tables
from experiments.reconstruction.runs import Results, run_all
from experiments.report import Findings


def tell(config: ReconstructionConfig, results: Results) -> Findings:
    """By factor, rank, batch and defence."""
    return Findings(
        title="What comes back of a site's batch",
        summary=summary(config, results),
        tables=tuple(tables(config, results)),
        claims=tuple(claims(config, results)),
        figures=figures(config, results),
        results=results_table(results),
    )


EXPERIMENT = Experiment(
    name="reconstruction",
    config=ReconstructionConfig,
    run=run_all,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
    threads=1,
)
