"""The one way in which the experiments with generating models are run and told of."""

from __future__ import annotations

from functools import partial
from typing import Any

from experiments.experiment import Experiment
from experiments.generation.figure import figures
from experiments.generation.report import claims, results, summary, tables
from experiments.generation.runs import Outcome, run_all
from experiments.generation.study import Study
from experiments.report import Findings


def experiment_of(study: Study[Any]) -> Experiment[Any, Outcome]:
    """The experiment that a study is."""

    def tell(config: Any, outcome: Outcome) -> Findings:
        return Findings(
            title=study.title,
            summary=summary(outcome),
            tables=tuple(tables(outcome)),
            claims=tuple(claims(outcome)),
            figures=figures(outcome),
            results=results(outcome),
        )

    return Experiment(
        name=study.name,
        config=study.config,
        run=partial(run_all, study),
        tell=tell,
        packages=("torch", "transformers", "lm_eval", *study.packages),
        directory=lambda config: f"{study.name}-small" if config.small else study.name,
        threads=1,
    )
