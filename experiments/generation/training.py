"""Federated runs of a language model as cells, each with its adapter in the workspace."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, TypedDict

from experiments.cells import Cells
from experiments.short_runs import Curve, evaluated_rounds
from experiments.trials import Loader, Trial
from rolora.config import DataConfig
from rolora.core.errors import RunFailed
from rolora.core.types import Evaluation
from rolora.engines.preparation import Prepared, build_engine
from rolora.model.peft_format import save_adapter
from rolora.server.ledger import Ledger
from rolora.server.pooling import scored
from rolora.server.round import run_rounds

LOSS = "loss"


class Held(TypedDict):
    """The mean loss of a held-out answer's token: over all clients, and of each client that has
    such examples.
    """

    test_loss: float | None
    client_loss: dict[str, float] | None


class BaseResult(Held):
    """What the model scores before round 1."""

    validation_loss: float


class LanguageResult(Held):
    """What a run leaves. `loss` is that of the validation examples after the evaluated `rounds`, by
    which `bytes_up_by_round` were sent up by all clients; infinite once the run has diverged. The
    test is None where it was not asked for, or nothing came of the run.
    """

    rounds: list[int]
    loss: list[float]
    bytes_up_by_round: list[int]
    diverged: bool
    bytes_up: int
    bytes_down: int
    seconds: float


@dataclass(frozen=True)
class LanguageTrial(Trial):
    """A run whose result depends on what model and data are, and not on where they lie.

    Args:
        model: what its model is called.
        digest: of its data.
    """

    model: str
    digest: str

    def settings(self) -> dict[str, Any]:
        """All that the result depends on."""
        found = super().settings()
        found["model"] = {**found.get("model", {}), "name": self.model}
        found["data"] = {**found["data"], "path": self.digest}
        return found


def digest_of_data(data: DataConfig) -> str:
    """Of the files at its path; of a name the name."""
    return str(data.name) if data.path is None else digest_of(data.path)


def digest_of(path: Path) -> str:
    """Of a file, or of all files below a directory and their names."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    found = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        found.update(f"{file.relative_to(path).as_posix()} {content}\n".encode())
    return found.hexdigest()[:16]


class BaseWorker(Loader):
    """Looks at the model as it is before round 1."""

    def work(self, trial: Trial) -> BaseResult:
        """The losses of `trial` before it begins."""
        prepared = self.prepared(trial)
        plan, engine = prepared.method.evaluation_plan(prepared.initial()), build_engine(prepared)
        validation = scored(prepared.task, engine.evaluate(plan, "validation"))[LOSS]
        assert validation is not None
        return BaseResult(
            validation_loss=validation, **_held(prepared, engine.evaluate(plan, "test"))
        )


class LanguageWorker(Loader):
    """Runs trials, and leaves the adapters of those that are judged.

    Args:
        directory: where to.
    """

    def __init__(self, directory: Path):
        super().__init__()
        self.directory = directory

    def work(self, trial: LanguageTrial) -> LanguageResult:
        """Run all rounds."""
        place = adapter_of(self.directory, trial) if trial.test else None
        return run_language(self.prepared(trial), place)


def adapter_of(directory: Path, trial: LanguageTrial) -> Path:
    """Where a judged trial's adapter lies: under the name of its cell."""
    return directory / "adapters" / name_of_cell(directory, trial)


def name_of_cell(directory: Path, trial: LanguageTrial) -> str:
    """The name of a trial's cell, without suffix."""
    return Cells(directory / "cells").path(trial.name, trial.settings()).stem


def run_language(prepared: Prepared, adapter: Path | None) -> LanguageResult:
    """Run all rounds.

    A run in which no client's factors stay finite, or in which they grow until an SVD fails, ends
    there.

    Args:
        prepared: the run.
        adapter: where to leave the final adapter, which is then judged on the test examples; None
            for a run that chooses a rate.
    """
    config, method, task = prepared.config, prepared.method, prepared.task
    engine, state = build_engine(prepared), prepared.initial()
    curve, judged, begin = Curve(), None, time.perf_counter()
    with suppress(RunFailed):
        state = run_rounds(config, method, task, engine, state, Ledger(), curve)
        if adapter is not None:
            judged = engine.evaluate(method.evaluation_plan(state), "test")
            adapter.parent.mkdir(parents=True, exist_ok=True)
            save_adapter(adapter, state.parts, prepared.model, prepared.pretrained, config)
    seen, sent = curve.evaluated(LOSS), curve.sent_up()
    missed = [number for number in evaluated_rounds(config) if number not in seen]
    return LanguageResult(
        rounds=[*seen, *missed],
        loss=[*seen.values(), *[inf] * len(missed)],
        bytes_up_by_round=[sent[min(n, len(sent) - 1)] for n in (*seen, *missed)],
        diverged=len(curve.lines) < config.rounds,
        bytes_up=sent[-1],
        bytes_down=curve.sent_down(),
        seconds=round(time.perf_counter() - begin, 2),
        **_held(prepared, judged),
    )


def _held(prepared: Prepared, judged: list[Evaluation] | None) -> Held:
    if judged is None:
        return Held(test_loss=None, client_loss=None)
    each: Mapping[str, Any] = {
        str(one.client): scored(prepared.task, [one])[LOSS] for one in judged if one.num_examples
    }
    return Held(test_loss=scored(prepared.task, judged)[LOSS], client_loss=dict(each))
