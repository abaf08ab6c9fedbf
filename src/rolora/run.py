"""One run from its config: everything is put together here."""

from __future__ import annotations

import hashlib
import platform
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

import rolora
from rolora.config import Config, dump_config
from rolora.core.errors import BadInput, RunFailed
from rolora.core.types import Adapter, Evaluation, Failure, RoundNotes, ServerState, Update
from rolora.engines.preparation import (
    Prepared,
    Ready,
    TrainingEngine,
)
from rolora.engines.table import ENGINES
from rolora.methods import METHODS
from rolora.model.peft_format import save_adapter
from rolora.records.checkpoint import Checkpoint
from rolora.records.lock import held
from rolora.records.rundir import RunDirectory
from rolora.records.wire import payload_bytes
from rolora.server.ledger import Ledger, planned_layout
from rolora.server.round import run_rounds


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
    config: Config,
    directory: Path,
    resume: bool,
    display: Display,
    command: str,
    start_over: bool = False,
) -> dict[str, Any]:
    """Run from the start, or go on, to the end; leave the run directory; return the summary.

    Args:
        config: of the run.
        directory: to write.
        resume: whether to go on with the run that `directory` may hold.
        display: shows what happens.
        command: noted in the summary.
        start_over: whether to drop that run instead.

    Raises:
        BadInput: the config does not fit, another process runs in `directory`, or it holds a run
            and neither `resume` nor `start_over` is set; nothing in it has changed.
        RunFailed: the quorum was lost.
    """
    with held(directory):
        record = RunDirectory(directory, config, now())
        if record.holds_run() and not (resume or start_over):
            raise BadInput(f"--out {directory}: holds a run already; add --resume, or name another")
        checkpoint = None if start_over else record.newest(display.notice)
        with ENGINES[config.engine.name](config, display.notice) as ready:
            try:
                return _carry_out(ready, record, checkpoint, display, command)
            except (KeyboardInterrupt, RunFailed):
                saved = f"after round {record.saved}" if record.saved else "before round 1"
                display.notice(f"saved as it was {saved}")
                raise


def _carry_out(
    ready: Ready,
    record: RunDirectory,
    checkpoint: Checkpoint | None,
    display: Display,
    command: str,
) -> dict[str, Any]:
    """All rounds that are left, the final test, and what a finished run leaves."""
    record.begin(checkpoint, ready.data)
    ledger = Ledger(checkpoint.ledger if checkpoint else None)
    engine = ready.engine(record.id, ledger)
    state = checkpoint.state if checkpoint else ready.initial()
    if checkpoint is None:
        record.checkpoint(state, ledger, engine)
    else:
        engine.restore(checkpoint.engine, state)
        display.notice(f"going on after round {state.round}")
    display.begin(ready, state.round)
    watched = _Watched(record, display)
    state = run_rounds(ready.config, ready.method, engine, state, ledger, watched, display.answered)
    save_adapters(record.path, ready, engine, state)  # whatever happens in the test
    results = engine.evaluate(ready.method.evaluation_plan(state), "test")
    summary = summarise(ready, record, state, results, engine.take_notes(), command)
    record.finish(summary)
    return summary


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
    evaluated = [line for line in lines if line["eval_accuracy"] is not None]
    best = max(evaluated, key=lambda line: line["eval_accuracy"], default=None)
    total = sum(result.num_examples for result in results)
    predicted = np.sum([result.predicted for result in results], axis=0)
    labels = np.array(facts.test_labels)
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
            "label_names": list(facts.label_names),
            "fingerprint": facts.fingerprint,
        },
        "model": {
            "name": config.model.name,
            "type": ready.pretrained.model_type,
            "parameters": ready.model.num_parameters(),
            "adapter_parameters": state.parts.select({"A", "B"}).layout.size,
        },
        "label_table": [list(row) for row in facts.label_table],
        "client_accuracy": [
            {
                "client": result.client,
                "examples": result.num_examples,
                "accuracy": result.correct / result.num_examples,
            }
            for result in results
        ],
        "final": {
            "round": state.round,
            "eval_accuracy": last["eval_accuracy"],
            "eval_loss": last["eval_loss"],
            "test_accuracy": sum(result.correct for result in results) / total,
            "test_loss": sum(result.loss for result in results) / total,
        },
        "test_examples": total,
        "test_failures": [vars(failure) for failure in notes.eval_failures],
        "test_faults": list(notes.faults),
        "best": best and {"round": best["round"], "eval_accuracy": best["eval_accuracy"]},
        "majority_accuracy": float(labels.max() / labels.sum()),
        "predicted_label_shares": (predicted / predicted.sum()).tolist(),
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


def about(name: str) -> dict[str, str]:
    """A method's title, what travels, whether it is exact, and its citation."""
    method = METHODS[name]
    return {
        "title": method.title,
        "travels": method.travels,
        "exact": method.exactness,
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
