"""The runs of the GLUE experiment: every line of every setting tuned, then judged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import ceil
from typing import NamedTuple

from experiments.glue.config import GlueConfig
from experiments.glue.presets import Line, Setting, lines_of, settings_of
from experiments.glue.tasks import BATCH_SIZES, ROUNDS, TaskData
from experiments.short_runs import TrialResult
from experiments.trials import Trial, run_trials
from experiments.tuning import Tuned, tune_and_judge
from experiments.workspace import Workspace
from rolora.config import (
    Config,
    EngineConfig,
    EvaluationConfig,
    FederationConfig,
    LoraSettings,
    ModelConfig,
    OptimizerConfig,
)

Key = tuple[str, str, str]
"""A task's name, a setting's words and a line's key."""


Runs = Tuned[Key, TrialResult]
"""Finished runs."""


class Case(NamedTuple):
    """A cell of the tables: a line, in a setting, on a task."""

    task: TaskData
    setting: Setting
    line: Line

    @property
    def key(self) -> Key:
        """What names it."""
        return (self.task.name, self.setting.words, self.line.key)


def run_all(config: GlueConfig, tasks: Sequence[TaskData], workspace: Workspace) -> Runs:
    """Tune every line at the tuning seed, then run it at its rate with every seed."""
    every = map(Case._make, product(tasks, settings_of(config), lines_of(config)))
    cases = {case.key: case for case in every}

    def run(
        what: str, wanted: Sequence[tuple[Key, float, int]], test: bool
    ) -> Sequence[TrialResult]:
        trials = [trial(config, cases[key], rate, seed, test) for key, rate, seed in wanted]
        return run_trials(what, trials, workspace, config.workers)

    return tune_and_judge(config, list(cases), run)


def rounds_of(config: GlueConfig, task: str, setting: Setting) -> int:
    """So many that all clients' batches together are as many as at 3 clients; an even number, so
    that both factors train equally often.
    """
    rounds = config.rounds or ROUNDS[task]
    exact = rounds * 3 / setting.clients * config.local_steps / setting.local_steps
    return max(config.fewest_rounds, 2 * round(exact / 2))


def trial(config: GlueConfig, case: Case, rate: float, seed: int, test: bool) -> Trial:
    """One run; without `test` only its end is looked at, on validation examples."""
    rounds = rounds_of(config, case.task.name, case.setting)
    every = 2 * ceil(rounds / config.evaluations / 2) if test else rounds
    kind = "test" if test else "validation"
    name = f"{' '.join(case.key)} lr={rate:g} seed={seed} {kind}"
    return Trial(name, _config(config, case, rate, seed, rounds, every), test)


def _config(
    config: GlueConfig, case: Case, rate: float, seed: int, rounds: int, every: int
) -> Config:
    task, setting, line = case
    return Config(
        seed=seed,
        rounds=rounds,
        model=ModelConfig(name=config.model, device=config.device, dtype=config.dtype),
        lora=LoraSettings(
            r=setting.r,
            lora_alpha=config.lora_alpha,
            target_modules=setting.targets,
            layers=line.layers or setting.layers,
            dropout=config.dropout,
        ),
        data=task.data,
        partition=setting.partition,
        federation=FederationConfig(clients=setting.clients, quorum=1.0),
        method=line.method,
        optimizer=OptimizerConfig(
            lr=rate,
            local_steps=setting.local_steps,
            batch_size=config.batch_size or BATCH_SIZES[task.name],
        ),
        evaluation=EvaluationConfig(every=every, batch_size=64),
        engine=EngineConfig(workers=1, stack=config.stack),
    )
