"""One run from its config: everything is put together here."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

import rolora
from rolora.config import Config, dump_config
from rolora.core.errors import BadInput
from rolora.core.types import Adapter, Evaluation, Failure, RoundNotes, ServerState, Update
from rolora.engines.preparation import (
    Prepared,
    Ready,
    TrainingEngine,
)
from rolora.engines.table import ENGINES
from rolora.methods import METHODS
from rolora.model.peft_format import save_adapter
from rolora.records.rundir import RunDirectory
from rolora.records.wire import payload_bytes
from rolora.server.ledger import Ledger, planned_layout
from rolora.server.round import run_rounds, scored
from rolora.tasks import Task, added


class Display(Protocol):
    """What a person sees of a run."""

    def begin(self, ready: Ready, finished: int) -> None:
        """Everything is loaded; `finished` rounds were done by an earlier process."""

    def answered(self, answer: Update | Failure) -> None:
        """A client answered."""

    def round_finished(self, metrics: Mapping[str, Any]) -> None:
        """A round is done."""

    def notice(self, text: str) -> None:
        """Something to know."""


def execute(
    config: Config, directory: Path, resume: bool, display: Display, command: str
) -> dict[str, Any]:
    """Run from the start, or go on, to the end; leave the run directory; return the summary.

    Raises:
        BadInput: the config does not fit, or `directory` holds a run and `resume` is not set.
        RunFailed: the quorum was lost.
    """
    if not resume and (directory / "config.yaml").exists():
        raise BadInput(f"--out {directory}: holds a run already; add --resume, or name another")
    begun = now()
    with ENGINES[config.engine.name](config, display.notice) as ready:
        record = RunDirectory.create(directory, config, ready.data, begun)
        checkpoint, damaged = record.newest()
        for line in damaged:
            display.notice(f"damaged checkpoint passed over: {line}")
        ledger = Ledger(checkpoint.ledger if checkpoint else None)
        engine = ready.engine(run_name(config, record), ledger)
        state = checkpoint.state if checkpoint else ready.initial()
        if checkpoint is not None:
            engine.restore(checkpoint.engine, state)
            display.notice(f"going on after round {state.round}")
        display.begin(ready, state.round)
        watched = _Watched(record, display)
        state = run_rounds(config, ready.method, engine, state, ledger, watched, display.answered)
        results = engine.evaluate(ready.method.evaluation_plan(state), "test")
        save_adapters(directory, ready, engine, state)
        summary = summarise(ready, record, state, results, engine.take_notes(), command)
        record.finish(summary)
    return summary


def run_name(config: Config, record: RunDirectory) -> str:
    """Hex digits that name the run: the same when it goes on, others for every run."""
    text = json.dumps([config.seed, config.method.name, str(record.path.resolve()), record.history])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class _Watched:
    """Writes a round down, then shows it."""

    record: RunDirectory
    display: Display

    def round_finished(self, metrics: dict[str, Any]) -> None:
        self.record.round_finished(metrics)
        self.display.round_finished(metrics)

    def checkpoint(self, state: ServerState, ledger: Ledger, engine: Any) -> None:
        self.record.checkpoint(state, ledger, engine)


def save_adapters(
    directory: Path, ready: Ready, engine: TrainingEngine, state: ServerState
) -> None:
    """``adapter/``, and ``adapter/clients/ID/`` for every client of the simulator that keeps parts
    of its own; a site keeps its own adapter.
    """
    parts = state.parts

    def save(path: Path, adapter: Adapter) -> None:
        save_adapter(path, adapter, ready.model, ready.pretrained, ready.config)

    save(directory / "adapter", parts)
    for client, kept in sorted(engine.kept.items()):
        save(directory / "adapter" / "clients" / str(client), parts.overwrite(kept))


def summarise(
    ready: Ready,
    record: RunDirectory,
    state: ServerState,
    results: Sequence[Evaluation],
    notes: RoundNotes,
    command: str,
) -> dict[str, Any]:
    """What ``summary.json`` holds; `results` and `notes` are of the test examples."""
    config, facts, lines = ready.config, ready.facts(), record.lines()
    test = tested(ready.task, results)
    best = best_round(ready.task, lines)
    last = lines[-1]
    return {
        "rolora_version": rolora.__version__,
        "versions": versions(),
        "method": {"name": config.method.name, **about(config.method.name)},
        "config_hash": hashlib.sha256(dump_config(config).encode()).hexdigest()[:16],
        "data": {
            "name": config.data.name or str(config.data.path or "the sites' own"),
            **facts.examples,
            "test_from": facts.test_from,
            "label_names": list(facts.names),
            "fingerprint": facts.fingerprint,
        },
        "model": {
            "name": config.model.name,
            "type": ready.pretrained.model_type,
            "parameters": ready.model.num_parameters(),
            "adapter_parameters": state.parts.select({"A", "B"}).layout.size,
        },
        "label_table": [list(row) for row in facts.strata_table],
        "client_accuracy": test["clients"],
        "final": {
            "round": state.round,
            "eval_accuracy": last["eval_accuracy"],
            "eval_loss": last["eval_loss"],
            "validation": last["validation"],
            "test": test["scores"],
            "test_accuracy": test["scores"].get("accuracy"),
            "test_loss": test["scores"]["loss"],
        },
        "test_examples": sum(result.num_examples for result in results),
        "test_failures": [vars(failure) for failure in notes.eval_failures],
        "test_faults": list(notes.faults),
        "best": best and {key: best[key] for key in ("round", "validation", "eval_accuracy")},
        "constant": test["constant"],
        "majority_accuracy": test["constant"].get("accuracy"),
        "predicted_label_shares": test["prediction_shares"],
        "bytes_up": sum(line["bytes_up"] for line in lines),
        "bytes_down": sum(line["bytes_down"] for line in lines),
        "failures": sum(len(line["failures"]) for line in lines),
        "seconds": {
            stage: round(sum(line["seconds"].get(stage, 0.0) for line in lines), 3)
            for stage in ("plan", "train", "aggregate", "evaluate", "total")
        },
        "device": str(ready.model.device),
        "dtype": config.model.dtype,
        "threads": torch.get_num_threads(),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "command": command,
        "started": record.history["started"],
        "finished": now(),
    }


def best_round(task: Task, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first of the rounds that the task's first metric puts highest."""
    metric = task.metrics[0]
    sign = 1 if metric.higher_is_better else -1
    known = [line for line in lines if (line["validation"] or {}).get(metric.name) is not None]
    return max(known, key=lambda line: sign * line["validation"][metric.name], default=None)


def tested(task: Task, results: Sequence[Evaluation]) -> dict[str, Any]:
    """What the summary says of the test examples: the scores of all and of each client, of the
    best constant prediction, and the share of predictions in each stratum.
    """
    sums = added(result.sums for result in results)
    clients = [
        {"client": r.client, "examples": r.num_examples, **scored(task, [r])} for r in results
    ]
    return {
        "scores": scored(task, results),
        "clients": clients,
        "constant": task.constant(sums) if sums else {},
        "prediction_shares": list(task.prediction_shares(sums)) if sums else [],
    }


def about(name: str) -> dict[str, str]:
    """A method's title, what travels, whether it is exact, and its citation."""
    method = METHODS[name]
    return {
        "title": method.title,
        "travels": method.travels,
        "exact": method.exact,
        "citation": method.citation,
    }


def round_bytes(prepared: Prepared, state: ServerState) -> tuple[int, int]:
    """Bytes up and down of the next round with a full cohort of clients that hold nothing."""
    cohort = map(prepared.client, range(prepared.config.federation.cohort_size))
    plans = [Ledger().narrow(prepared.method.plan(state, client)) for client in cohort]
    up = sum(payload_bytes(planned_layout(state.parts, plan)) for plan in plans)
    return up, sum(payload_bytes(plan.send.layout) for plan in plans)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("torch", "transformers", "peft", "datasets", "tokenizers", "safetensors", "numpy")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in names},
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
