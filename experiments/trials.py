"""Federated runs as an experiment's cells, over what a worker keeps loaded between them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from experiments.framework import Cells
from experiments.pool import run_jobs
from experiments.short_runs import Curve, Ending
from rolora.config import Config
from rolora.core.errors import RunFailed
from rolora.core.types import Evaluation
from rolora.engines.preparation import Loaded, Prepared, build_engine, load, loaded_from, prepare
from rolora.model.loading import resolve_device
from rolora.server.ledger import Ledger
from rolora.server.round import run_rounds


@dataclass(frozen=True)
class Trial:
    """One federated run: a cell of an experiment.

    Args:
        name: for people.
        config: of the run.
        test: whether the final model is judged on the test examples.
    """

    name: str
    config: Config
    test: bool

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, JSON-able."""
        config = self.config.model_dump(mode="json", exclude={"checkpoint", "engine"})
        return {**config, "test": self.test}


class TrialResult(Ending):
    """What a run leaves. `accuracy`, over all clients' validation examples, and
    `bytes_up_by_round`, sent up by then, belong to the evaluated `rounds`. `client_accuracy` is
    each client's test accuracy, of those that have test examples; None where it was not asked for.
    """

    rounds: list[int]
    bytes_up_by_round: list[int]
    client_accuracy: dict[str, float] | None


def run_trials(
    what: str, trials: Sequence[Trial], cells: Cells, workers: int | None, console: Console
) -> list[TrialResult]:
    """The trials' results, in order; those whose cell is finished are not run again.

    Trials that share data, model and adapted layers are run one after the other, so that a worker
    loads them once.

    Args:
        what: of the trials, for the progress bar.
        trials: to run.
        cells: where finished trials lie.
        workers: trials at a time; None: one a core on a CPU, and one on a GPU.
        console: where to show progress.

    Raises:
        BadInput: something in a config cannot be had or does not fit.
        RunFailed: a worker process died.
        KeyboardInterrupt: passed on once the trials under way are finished and kept.
    """
    groups: dict[str, list[int]] = {}
    for number, trial in enumerate(trials):
        groups.setdefault(repr(loaded_from(trial.config)), []).append(number)
    order = [number for group in groups.values() for number in group]
    if workers is None and any(_on_a_gpu(trial.config) for trial in trials):
        workers = 1
    jobs = [trials[number] for number in order]
    found = run_jobs(what, jobs, TrialWorker(), cells, workers, console)
    by_number = dict(zip(order, found, strict=True))
    return [by_number[number] for number in range(len(trials))]


def _on_a_gpu(config: Config) -> bool:
    return resolve_device(config.model.device).type != "cpu"


class TrialWorker:
    """Runs trials; keeps the data, the model and its frozen layers' activations of the last."""

    def __init__(self) -> None:
        self.key: Mapping[str, Any] | None = None
        self.loaded: Loaded | None = None

    def settings(self, trial: Trial) -> dict[str, Any]:
        """All that the result depends on, JSON-able."""
        return trial.settings()

    def work(self, trial: Trial) -> TrialResult:
        """Run all rounds of `trial`.

        Raises:
            BadInput: something in its config cannot be had or does not fit.
        """
        key = loaded_from(trial.config)
        if self.loaded is None or key != self.key:
            self.key = self.loaded = None  # before the next is loaded: one model in memory
            self.loaded, self.key = load(trial.config), key
        return run_trial(trial, prepare(trial.config, self.loaded))


def run_trial(trial: Trial, prepared: Prepared) -> TrialResult:
    """Run all rounds.

    A run in which no client's factors stay finite, or in which they grow until an SVD fails,
    ends there; it scores chance, one over the number of labels, from then on.
    """
    config, method, engine = trial.config, prepared.method, build_engine(prepared)
    curve, test, begin = Curve(), None, time.perf_counter()
    try:
        state = run_rounds(config, method, engine, prepared.initial(), Ledger(), curve)
        if trial.test:
            test = engine.evaluate(method.evaluation_plan(state), "test")
    except RunFailed:
        pass
    chance = 1.0 / len(prepared.examples["train"].names)
    seen = curve.evaluated()
    missed = [number for number in evaluated_rounds(config) if number > len(curve.lines)]
    sent = curve.sent_up()
    return TrialResult(
        rounds=[line["round"] for line in seen] + missed,
        accuracy=[line["eval_accuracy"] for line in seen] + [chance] * len(missed),
        bytes_up_by_round=[sent[line["round"]] for line in seen] + [sent[-1]] * len(missed),
        test_accuracy=_pooled(test, chance) if trial.test else None,
        client_accuracy=None if test is None else _by_client(test),
        diverged=test is None if trial.test else len(curve.lines) < config.rounds,
        bytes_up=sent[-1],
        bytes_down=curve.sent_down(),
        seconds=round(time.perf_counter() - begin, 2),
    )


def evaluated_rounds(config: Config) -> list[int]:
    """The rounds after which a run looks at the validation examples."""
    every, last = config.evaluation.every, config.rounds
    return sorted({*range(every, last + 1, every), last})


def _pooled(results: Sequence[Evaluation] | None, chance: float) -> float:
    """Accuracy over all clients' examples."""
    if results is None:
        return chance
    return sum(r.sums["correct"][0] for r in results) / sum(r.num_examples for r in results)


def _by_client(results: Sequence[Evaluation]) -> dict[str, float]:
    return {str(r.client): r.sums["correct"][0] / r.num_examples for r in results}
