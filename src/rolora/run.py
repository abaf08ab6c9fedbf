"""One run from its config: everything is put together here."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

import rolora
from rolora.config import Config, dump_config
from rolora.data import (
    Examples,
    RawSplits,
    assign_like,
    label_table,
    load_data,
    partition,
    tokenize,
)
from rolora.engines.in_process import InProcess, Split
from rolora.ledger import Ledger, planned_layout
from rolora.lora import LoraModel
from rolora.methods import METHODS, Method, Setting, make_method
from rolora.models import Pretrained, build_lora_model, load_pretrained, resolve_device
from rolora.peft_format import save_adapter
from rolora.rundir import RunDirectory
from rolora.server import Engine, run_rounds
from rolora.types import (
    Adapter,
    BadInput,
    ClientInfo,
    Evaluation,
    Failure,
    RoundNotes,
    ServerState,
    Update,
)
from rolora.wire import payload_bytes


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


@dataclass(frozen=True)
class DataFacts:
    """What a run's summary says of the data.

    Args:
        label_names: in order.
        examples: number of examples by split.
        label_table: per client, its number of training examples of each label.
        test_labels: the number of test examples of each label.
        test_from: where the test examples come from.
        fingerprint: a digest of all examples.
    """

    label_names: Sequence[str]
    examples: Mapping[str, int]
    label_table: Sequence[Sequence[int]]
    test_labels: Sequence[int]
    test_from: str
    fingerprint: str


class TrainingEngine(Engine, Protocol):
    """An engine whose clients may keep parts of their own."""

    @property
    def kept(self) -> Mapping[int, Adapter]:
        """What is known here of the parts that clients keep for themselves."""


@dataclass(frozen=True)
class Ready:
    """A run that can begin, here or across machines.

    Args:
        config: of the run.
        method: plans and aggregates.
        pretrained: the model as loaded.
        model: the same with LoRA layers.
        data: what must be the same for the run to go on.
        facts: what is known of the data by now.
        engine: makes the engine, for a run of this name and a ledger.
    """

    config: Config
    method: Method
    pretrained: Pretrained
    model: LoraModel
    data: str
    facts: Callable[[], DataFacts]
    engine: Callable[[str, Ledger], TrainingEngine]

    def initial(self) -> ServerState:
        """The state before round 1."""
        adapter = self.model.initial_adapter(self.config.lora.max_rank, self.config.seed)
        return self.method.init(adapter)


@dataclass(frozen=True)
class Prepared:
    """Everything that a run needs, loaded.

    Args:
        config: of the run.
        pretrained: the model as loaded; its layers have been replaced.
        model: the same with LoRA layers.
        examples: the tokenised splits by name.
        shares: per split, each client's example numbers.
        test_from: where the test examples come from.
        method: plans and aggregates.
    """

    config: Config
    pretrained: Pretrained
    model: LoraModel
    examples: Mapping[str, Examples]
    shares: Mapping[str, Sequence[torch.Tensor]]
    test_from: str
    method: Method

    def ready(self) -> Ready:
        """The run on the simulator."""
        return Ready(
            config=self.config,
            method=self.method,
            pretrained=self.pretrained,
            model=self.model,
            data=self.fingerprint(),
            facts=self.facts,
            engine=lambda run, ledger: build_engine(self),
        )

    def initial(self) -> ServerState:
        """The state before round 1."""
        return self.ready().initial()

    def facts(self) -> DataFacts:
        """What the summary says of the data."""
        train, test = self.examples["train"], self.examples["test"]
        return DataFacts(
            label_names=test.label_names,
            examples={name: len(examples) for name, examples in self.examples.items()},
            label_table=label_table(self.shares["train"], train.labels, test.num_labels).tolist(),
            test_labels=np.bincount(test.labels.numpy(), minlength=test.num_labels).tolist(),
            test_from=self.test_from,
            fingerprint=self.fingerprint(),
        )

    def client(self, number: int) -> ClientInfo:
        """What the method may know of one client."""
        rows = self.shares["train"][number]
        return ClientInfo(number, self.config.lora.rank_of(number), len(rows))

    def fingerprint(self) -> str:
        """A digest of all examples and who holds them."""
        digest = hashlib.sha256()
        for name, examples in self.examples.items():
            digest.update(examples.fingerprint.encode())
            for rows in self.shares[name]:
                digest.update(rows.numpy().tobytes() + b";")
        return digest.hexdigest()


def setting_of(config: Config) -> Setting:
    """What the method is told of the run."""
    ranks = set(config.lora.client_ranks or (config.lora.r,))
    return Setting(
        lora_alpha=config.lora.lora_alpha,
        max_rank=config.lora.max_rank,
        rounds=config.rounds,
        head=config.model.head,
        mixed_ranks=len(ranks) > 1,
        gauge=config.method.gauge,
        schedule=config.method.schedule,
        switch_at=config.method.switch_at,
        prox_mu=config.method.prox_mu,
    )


@dataclass(frozen=True)
class Loaded:
    """What takes long to load, for one run or for several that agree in :func:`loaded_from`.

    Args:
        pretrained: the model as loaded; its layers have been replaced.
        model: the same with LoRA layers, and the activations that its frozen layers gave.
        examples: the tokenised splits by name.
        test_from: where the test examples come from.
    """

    pretrained: Pretrained
    model: LoraModel
    examples: Mapping[str, Examples]
    test_from: str


def loaded_from(config: Config) -> dict[str, Any]:
    """The settings on which :func:`load` depends, JSON-able."""
    return {
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json"),
        "lora": config.lora.model_dump(include={"target_modules", "layers", "dropout"}),
        "cache_mb": config.engine.cache_mb,
    }


def load(config: Config) -> Loaded:
    """Load data and model.

    Raises:
        BadInput: they cannot be had or do not fit.
    """
    resolve_device(config.model.device)
    raw = load_data(config.data, config.seed)
    pretrained = load_pretrained(config.model, raw.train.label_names, config.seed)
    examples = tokenized(raw, pretrained, config)
    return Loaded(pretrained, build_lora_model(pretrained, config), examples, raw.test_from)


def prepare(config: Config, loaded: Loaded | None = None) -> Prepared:
    """Load data and model, deal the examples out, make the method.

    Args:
        config: of the run.
        loaded: what was loaded for a config with the same :func:`loaded_from`.

    Raises:
        BadInput: something in the config cannot be had or does not fit.
    """
    method = checked_method(config)
    loaded = loaded or load(config)
    return Prepared(
        config=config,
        pretrained=loaded.pretrained,
        model=loaded.model,
        examples=loaded.examples,
        shares=deal(config, loaded.examples),
        test_from=loaded.test_from,
        method=method,
    )


def checked_method(config: Config) -> Method:
    """The run's method.

    Raises:
        BadInput: it is unknown, or does not go with another setting.
    """
    method = make_method(config.method.name, setting_of(config))
    gauge, state, server = config.method.gauge, config.optimizer.state, config.server.optimizer
    if gauge != "none" and state == "persist":
        raise BadInput(
            "optimizer.state = 'persist': the gauge changes the basis in which kept momentum "
            "lives; use transport, which carries it along, or reset, or method.gauge: none"
        )
    if gauge != "none" and server != "fedavg":
        raise BadInput(
            f"server.optimizer = {server!r}: the gauge changes the basis in which its moments "
            "live; use fedavg, or method.gauge: none"
        )
    if config.method.name == "flora" and state != "reset":
        raise BadInput(
            f"optimizer.state = {state!r}: FLoRA draws A anew in every round and starts from "
            "B = 0, so that kept moments belong to other factors; use reset"
        )
    return method


def tokenized(raw: RawSplits, pretrained: Pretrained, config: Config) -> dict[str, Examples]:
    """The splits by name."""
    splits = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    return {
        name: tokenize(split, pretrained.tokenizer, config.data.max_length)
        for name, split in splits.items()
    }


def deal(config: Config, examples: Mapping[str, Examples]) -> dict[str, list[torch.Tensor]]:
    """Each client's share of every split; held-out shares follow the training shares."""
    train = examples["train"]
    by_field = config.partition.name == "field" and config.partition.field
    field = train.values(by_field) if by_field else None
    shares = {
        "train": partition(
            train.labels, config.partition, config.federation.clients, config.seed, field
        )
    }
    for name in ("validation", "test"):
        held = examples[name]
        held_field = held.values(by_field) if by_field else None
        shares[name] = assign_like(
            shares["train"], train.labels, held.labels, config.seed, field, held_field
        )
    return shares


def build_engine(prepared: Prepared) -> InProcess:
    """The simulator over the prepared data and model."""
    splits = {
        name: Split(examples, prepared.shares[name]) for name, examples in prepared.examples.items()
    }
    return InProcess(prepared.config, prepared.model, splits)


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
    with opened(config, display.notice) as ready:
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


@contextmanager
def opened(config: Config, notice: Callable[[str], None]) -> Iterator[Ready]:
    """The run, ready to begin, on the engine that the config names.

    Raises:
        BadInput: the config does not fit, or the extra ``rolora[flower]`` is needed and missing.
        RunFailed: the server, or enough of its clients, cannot be reached.
    """
    if config.engine.name == "in_process":
        yield prepare(config).ready()
        return
    from rolora.federation import connected

    with connected(config, notice) as ready:
        yield ready


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
