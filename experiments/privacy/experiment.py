"""What differential privacy costs each method, at its own rate."""

from __future__ import annotations

from experiments.experiment import Experiment
from experiments.privacy.config import PrivacyStudy
from experiments.privacy.figure import figures
from experiments.privacy.report import claims, results, summary, tables
from experiments.privacy.runs import Lines, run_all
from experiments.report import Findings


def tell(study: PrivacyStudy, lines: Lines) -> Findings:
    """The methods side by side."""
    return Findings(
        title="Accuracy over epsilon",
        summary=summary(study, lines),
        tables=tuple(tables(study, lines)),
        claims=tuple(claims(study, lines)),
        figures=figures(study, lines),
        results=results(lines),
    )


EXPERIMENT = Experiment(
    name="privacy",
    config=PrivacyStudy,
    run=run_all,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy", "dp-accounting"),
    threads=1,
)
