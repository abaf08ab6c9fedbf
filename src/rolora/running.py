"""One run from its config: everything is put together here."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from rolora.callbacks import Begun, Callback
from rolora.config import Config, dump_config
from rolora.core.errors import BadInput, RunFailed
from rolora.core.memory import peak_memory
from rolora.core.noise import Noise, SecretNoise, seeded
from rolora.core.types import Adapter, Evaluation, RoundNotes, ServerState
from rolora.core.version import VERSION
from rolora.engines.estimate import estimate
from rolora.engines.in_process import InProcess
from rolora.engines.preparation import (
    NOTHING,
    DataFacts,
    Given,
    Ready,
    TrainingEngine,
)
from rolora.engines.table import ENGINES
from rolora.methods import Method
from rolora.model.peft_format import describe_adapters, save_adapter
from rolora.records.checkpoint import Checkpoint
from rolora.records.detail import turn
from rolora.records.lock import held
from rolora.records.rundir import RunDirectory
from rolora.records.schema import (
    BestRecord,
    DataRecord,
    Estimate,
    FinalRecord,
    MethodRecord,
    ModelRecord,
    PrivacyRecord,
    RoundRecord,
    Start,
    StrataRecord,
    Summary,
    TaskRecord,
)
from rolora.server.ledger import Ledger
from rolora.server.pooling import pooled, scores_of
from rolora.server.protection import Protection, protection_of
from rolora.server.round import finished, rounds, written


def execute(
    config: Config,
    directory: Path,
    resume: bool,
    callbacks: Callback,
    command: str,
    start_over: bool = False,
    given: Given = NOTHING,
) -> Summary:
    """All of :func:`stepped`; the summary."""
    return finished(stepped(config, directory, resume, callbacks, command, start_over, given))


def stepped(
    config: Config,
    directory: Path,
    resume: bool,
    callbacks: Callback,
    command: str,
    start_over: bool = False,
    given: Given = NOTHING,
) -> Generator[RoundRecord, None, Summary]:
    """Run from the start, or go on, round by round; leave the run directory.

    Args:
        config: of the run.
        directory: to write.
        resume: whether to go on with the run that `directory` may hold.
        callbacks: told of what happens.
        command: noted in the summary.
        start_over: whether to drop that run instead.
        given: objects in place of what the config names.

    Yields:
        the record of a round once it is written down; the value at the end is the summary. Where
        the generator is closed before, the last finished round is in the checkpoint.

    Raises:
        BadInput: the config does not fit, another process runs in `directory`, or it holds a run
            and neither `resume` nor `start_over` is set; nothing in it has changed.
        RunFailed: the quorum was lost.
    """
    with closing(callbacks), held(directory):
        record = RunDirectory(directory, config, now())
        if record.holds_run() and not (resume or start_over):
            raise BadInput(f"--out {directory}: holds a run already; add --resume, or name another")
        checkpoint = None if start_over else record.newest(callbacks.notice)
        with ENGINES[config.engine.name](config, callbacks.notice, given) as ready:
            try:
                return (yield from _carried_out(ready, record, checkpoint, callbacks, command))
            except (KeyboardInterrupt, RunFailed):
                saved = f"after round {record.saved}" if record.saved else "before round 1"
                callbacks.notice(f"saved as it was {saved}")
                raise


def _carried_out(
    ready: Ready,
    record: RunDirectory,
    checkpoint: Checkpoint | None,
    callbacks: Callback,
    command: str,
) -> Generator[RoundRecord, None, Summary]:
    """All rounds that are left, the final test, and what a finished run leaves."""
    record.begin(checkpoint, ready.data)
    ledger = Ledger(checkpoint.ledger if checkpoint else None)
    engine = ready.engine(record.id, ledger)
    state = checkpoint.state if checkpoint else ready.initial()
    expect(record, engine, state)
    if checkpoint is None:
        record.checkpoint(state, ledger, engine)
    else:
        engine.restore(checkpoint.engine, state)
        callbacks.notice(f"going on after round {state.round}")
    start = start_of(ready, record, state, command)
    record.start(start)
    finished_before = state.round if record.unseen is None else state.round - 1
    callbacks.begin(begun(ready, record, start, finished_before))
    run = (ready.config, ready.method, ready.task, engine)
    before = record.rounds() if checkpoint else ()
    guard = protected(ready.config, record, engine, before)
    spent = sum(line.bytes_up + line.bytes_down for line in before)
    beside = (callbacks.answer, spent, guard, record.unseen)
    with closing(rounds(*run, state, ledger, record, *beside)) as steps:
        state = yield from _told(steps, callbacks)
    if state.round < ready.config.rounds:
        callbacks.notice(
            f"{budget_of(ready.config, guard, state)}: ended after round {state.round} of "
            f"{ready.config.rounds}, as the next would have passed it"
        )
    save_adapters(record.path, ready, engine, state)  # whatever happens in the test
    results = engine.evaluate(ready.method.evaluation_plan(state), "test")
    notes = engine.take_notes()
    summary = summarise(ready, record, state, results, notes, command, guard.told())
    record.finish(summary)
    describe_adapters(record.path / "adapter", ready.pretrained, ready.config, summary)
    callbacks.end(summary)
    return summary


def protected(
    config: Config, record: RunDirectory, engine: TrainingEngine, before: Sequence[RoundRecord]
) -> Protection:
    """What privacy changes, by a key that lies in the run's directory, or by a study's seed."""

    def draws() -> Noise:
        seed = None if config.privacy is None else config.privacy.seed
        return SecretNoise(record.key()) if seed is None else seeded(seed)

    return protection_of(config, draws, engine.registered, before)


def budget_of(config: Config, guard: Protection, state: ServerState) -> str:
    """Which budget allows no more rounds after `state`."""
    if config.privacy is not None and not guard.allows(state.round + 1):
        return f"privacy.target_epsilon = {config.privacy.target_epsilon:g}"
    return f"server.byte_budget = {config.server.byte_budget}"


def expect(record: RunDirectory, engine: TrainingEngine, state: ServerState) -> None:
    """Note once, for a run whose clients are here, what its rounds will take."""
    left = state.round < record.config.rounds and "expected" not in record.history
    if left and isinstance(engine, InProcess):
        record.history["expected"] = estimate(engine, state).model_dump()


def _told(
    steps: Generator[RoundRecord, None, ServerState], callbacks: Callback
) -> Generator[RoundRecord, None, ServerState]:
    """The same steps, of each of which the callbacks are told, of what went wrong in them with no
    client's update, and where the model collapses.
    """
    collapsed: str | None = None
    while True:
        try:
            record = next(steps)
        except StopIteration as end:
            return end.value
        callbacks.round(record)
        for fault in record.faults:
            callbacks.notice(f"round {record.round}: {fault}")
        if record.validation is not None:
            said = turn(collapsed, record.collapsed, record.round)
            collapsed = record.collapsed
            if said:
                callbacks.notice(said)
        yield record


def begun(ready: Ready, record: RunDirectory, start: Start, finished: int) -> Begun:
    """What callbacks are told at the start."""
    return Begun(
        directory=record.path,
        config=ready.config,
        start=start,
        data=data_name(ready.config),
        sizes=tuple(map(sum, ready.facts().strata_table)),
        finished=finished,
    )


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


def start_of(ready: Ready, record: RunDirectory, state: ServerState, command: str) -> Start:
    """What ``start.json`` holds."""
    config, expected = ready.config, record.history.get("expected")
    return Start(
        rolora_version=VERSION,
        versions=versions(),
        task=task_of(ready),
        method=about(config.method.name, ready.method),
        model=ModelRecord(
            name=config.model.name,
            type=ready.pretrained.model_type,
            parameters=ready.model.num_parameters(),
            adapter_parameters=state.parts.select({"A", "B"}).layout.size,
        ),
        config_hash=hashlib.sha256(dump_config(config).encode()).hexdigest()[:16],
        device=str(ready.model.device),
        dtype=config.model.dtype,
        threads=torch.get_num_threads(),
        command=command,
        started=record.history["started"],
        expected=expected and Estimate(**expected),
    )


def summarise(
    ready: Ready,
    record: RunDirectory,
    state: ServerState,
    results: Sequence[Evaluation],
    notes: RoundNotes,
    command: str,
    privacy: PrivacyRecord | None,
) -> Summary:
    """What ``summary.json`` holds; `results` and `notes` are of the test examples."""
    facts, rounds = ready.facts(), record.rounds()
    start = start_of(ready, record, state, command)
    found = pooled(ready.task, results, ready.config.largest_share)
    sums = found.sums
    return Summary(
        **dict(start),
        data=data_of(ready.config, facts),
        strata=StrataRecord(names=tuple(facts.strata), table=tuple(map(tuple, facts.strata_table))),
        clients=found.clients,
        final=FinalRecord(
            round=state.round,
            validation=rounds[-1].validation or {},
            test=scores_of(ready.task, sums),
        ),
        best=best_of(rounds, start.task),
        test_examples=found.examples,
        test_failures=written(notes.eval_failures),
        test_faults=tuple(notes.faults),
        constant=dict(ready.task.constant(sums)) if sums else {},
        prediction_shares=tuple(ready.task.prediction_shares(sums)) if sums else (),
        detail=ready.task.detail(sums, facts.names) if sums else None,
        bytes_up=sum(r.bytes_up for r in rounds),
        bytes_down=sum(r.bytes_down for r in rounds),
        failures=sum(len(r.failures) for r in rounds),
        seconds={
            stage: round(sum(r.seconds.get(stage, 0.0) for r in rounds), 3)
            for stage in ("plan", "train", "aggregate", "evaluate", "total")
        },
        privacy=privacy,
        peak_memory_mb=round(peak_memory() / 2**20, 1),
        finished=now(),
    )


def data_name(config: Config) -> str:
    """What the data are called."""
    return config.data.name or str(config.data.path or "the sites' own")


def data_of(config: Config, facts: DataFacts) -> DataRecord:
    """The data as they are written down."""
    return DataRecord(
        name=data_name(config),
        **facts.examples,
        test_from=facts.test_from,
        label_names=tuple(facts.names),
        fingerprint=facts.fingerprint,
        cut=dict(facts.cut),
        dropped=dict(facts.dropped),
    )


def task_of(ready: Ready) -> TaskRecord:
    """The task as it is written down."""
    task = ready.task
    return TaskRecord(name=task.name, title=task.title, metrics=task.metrics)


def best_of(rounds: Sequence[RoundRecord], task: TaskRecord) -> BestRecord | None:
    """The round with the best validation scores; of several, the first."""
    best: BestRecord | None = None
    for record in rounds:
        score = task.first_of(record.validation)
        before = task.first_of(best.validation) if best else None
        if score is not None and (before is None or task.first.better(score, before)):
            best = BestRecord(round=record.round, validation=record.validation or {})
    return best


def about(name: str, method: Method) -> MethodRecord:
    """A method's title, what travels, whether it is exact, and its citation."""
    return MethodRecord(
        name=name,
        title=method.title,
        travels=method.travels,
        exactness=method.exactness,
        personal=bool(method.local()),
        citation=method.citation,
    )


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
