"""The one way in which the experiments with generating models are run and told of."""

from __future__ import annotations

from typing import Any

import torch

from experiments.experiment import Experiment
from experiments.generation.figure import figures
from experiments.generation.report import claims, results, summary, tables
from experiments.generation.runs import Outcome, run_all
from experiments.generation.study import Study
from experiments.report import Findings
from experiments.workspace import Workspace


def experiment_of(study: Study[Any]) -> Experiment[Any, Outcome]:
    """The experiment that a study is."""

    def run(config: Any, workspace: Workspace) -> Outcome:
        torch.set_num_threads(
            1
        )  # a run's bits belong to the number of threads, which is no setting
        return run_all(study, config, workspace)

    def tell(config: Any, outcome: Outcome) -> Findings:
        return Findings(
            title=study.title,
            summary=summary(outcome),
            tables=tuple(tables(outcome)),
            claims=tuple(claims(outcome)),
            figures=figures(outcome),
            results=results(outcome),
            facts={"threads": 1},
        )

    return Experiment(
        name=study.name,
        config=study.config,
        run=run,
        tell=tell,
        packages=("torch", "transformers", "lm_eval", *study.packages),
        directory=lambda config: f"{study.name}-small" if config.small else study.name,
    )
