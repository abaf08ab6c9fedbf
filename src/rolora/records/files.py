"""A run directory as it lies on disk, read into plain records; nothing here trains or loads models.

Every field has a default, since an interrupted run has no ``summary.json`` and an older one may
lack a key. What is there must have the right type: a damaged file is refused by name and line.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rolora.config import Config, load_config
from rolora.core.errors import BadInput
from rolora.report.units import percent

COLLAPSED_SHARE = 0.98
COLLAPSED_MARGIN = 0.01


class Record(BaseModel):
    """A JSON object of which unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class FailureRecord(Record):
    """A client that gave no usable update."""

    client: int
    reason: str
    detail: str = ""


class RoundRecord(Record):
    """One line of ``metrics.jsonl``; bytes are summed over clients, seconds are by stage.

    `clients` of the `cohort` that was asked contributed; `attempts` counts the cohorts drawn until
    one reached the quorum. `eval_failures` are clients that gave no evaluation, `faults` what went
    wrong with no client in particular.
    """

    round: int
    phase: str = ""
    train_loss: float | None = None
    eval_loss: float | None = None
    eval_accuracy: float | None = None
    clients: int | None = None
    cohort: int | None = None
    attempts: int = 1
    failures: tuple[FailureRecord, ...] = ()
    eval_failures: tuple[FailureRecord, ...] = ()
    faults: tuple[str, ...] = ()
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: dict[str, float] = {}


class MethodRecord(Record):
    """The method as ``rolora methods`` describes it."""

    name: str | None = None
    title: str | None = None
    travels: str | None = None
    exact: str | None = None
    citation: str | None = None


class DataRecord(Record):
    """The data: numbers of examples a split, the labels' names, and a hash of the content."""

    name: str | None = None
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    test_from: str | None = None
    label_names: tuple[str, ...] = ()
    fingerprint: str | None = None


class ModelRecord(Record):
    """The base model and the numbers of parameters."""

    name: str | None = None
    type: str | None = None
    parameters: int | None = None
    adapter_parameters: int | None = None


class ClientRecord(Record):
    """One client's own test examples and the share of them that is right."""

    client: int
    examples: int
    accuracy: float | None = None


class FinalRecord(Record):
    """The model after the last round."""

    round: int | None = None
    eval_accuracy: float | None = None
    eval_loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None


class BestRecord(Record):
    """The round with the best validation accuracy."""

    round: int | None = None
    eval_accuracy: float | None = None


class Summary(Record):
    """``summary.json``; accuracies and shares lie in [0, 1]. `test_failures` are clients that the
    test accuracy lacks, `test_faults` what went wrong meanwhile with no client in particular.
    """

    rolora_version: str | None = None
    versions: dict[str, str | None] = {}
    method: MethodRecord = MethodRecord()
    config_hash: str | None = None
    data: DataRecord = DataRecord()
    model: ModelRecord = ModelRecord()
    label_table: tuple[tuple[int, ...], ...] = ()
    client_accuracy: tuple[ClientRecord, ...] = ()
    final: FinalRecord = FinalRecord()
    test_failures: tuple[FailureRecord, ...] = ()
    test_faults: tuple[str, ...] = ()
    best: BestRecord | None = None
    majority_accuracy: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    failures: int | None = None
    seconds: dict[str, float] = {}
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    peak_memory_mb: float | None = None
    command: str | list[str] | None = None
    started: str | None = None
    finished: str | None = None
    predicted_label_shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds.

    Args:
        directory: where it lies.
        config_text: ``config.yaml`` as written.
        config: the same, parsed.
        rounds: the finished rounds in order.
        summary: empty where the run is unfinished.
        finished: whether there is a ``summary.json``.
    """

    directory: Path
    config_text: str
    config: Config
    rounds: tuple[RoundRecord, ...]
    summary: Summary
    finished: bool

    @property
    def method(self) -> str:
        """The method's title, or its name where the summary does not say."""
        return self.summary.method.title or self.config.method.name

    @property
    def data(self) -> str:
        """The name of the data."""
        config = self.config.data
        return self.summary.data.name or config.name or (config.path.name if config.path else "")

    @property
    def model(self) -> str:
        """The name of the base model."""
        return self.summary.model.name or self.config.model.name

    @property
    def personal(self) -> bool:
        """Whether each client keeps a model of its own, so that its own accuracy is the result."""
        return self.config.method.name == "fedsa_lora" or self.config.model.head == "local"

    @property
    def bytes_up(self) -> int:
        """Bytes that the clients sent, over all rounds."""
        total = self.summary.bytes_up
        return sum(r.bytes_up for r in self.rounds) if total is None else total

    @property
    def bytes_down(self) -> int:
        """Bytes that the clients received, over all rounds."""
        total = self.summary.bytes_down
        return sum(r.bytes_down for r in self.rounds) if total is None else total

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage over all rounds, without the total."""
        totals: dict[str, float] = defaultdict(float)
        for seconds in [self.summary.seconds] if self.summary.seconds else self._round_seconds:
            for stage, spent in seconds.items():
                totals[stage] += spent
        return {stage: spent for stage, spent in totals.items() if stage != "total"}

    @property
    def total_seconds(self) -> float:
        """Seconds of the whole run where the summary says, else of its rounds."""
        if "total" in self.summary.seconds:
            return self.summary.seconds["total"]
        return sum(s.get("total", sum(s.values())) for s in self._round_seconds)

    @property
    def _round_seconds(self) -> list[dict[str, float]]:
        return [r.seconds for r in self.rounds]

    @property
    def client_accuracy(self) -> float | None:
        """The share right of all clients' own test examples, each with its client's model."""
        known = [c for c in self.summary.client_accuracy if c.accuracy is not None and c.examples]
        examples = sum(c.examples for c in known)
        if not examples:
            return None
        return sum(c.examples * c.accuracy for c in known if c.accuracy is not None) / examples

    @property
    def collapsed(self) -> str | None:
        """Why the final model is no better than a constant guess; None where it is better."""
        summary = self.summary
        shares, names = summary.predicted_label_shares, summary.data.label_names
        if shares and max(shares) > COLLAPSED_SHARE:
            label = shares.index(max(shares))
            name = names[label] if label < len(names) else str(label)
            return f"{percent(max(shares))} of the test predictions are one label ({name})"
        accuracy, majority = summary.final.test_accuracy, summary.majority_accuracy
        if (
            accuracy is not None
            and majority is not None
            and accuracy <= majority + COLLAPSED_MARGIN
        ):
            return (
                f"test accuracy {percent(accuracy)} is not more than one point above "
                f"the most frequent label's share of {percent(majority)}"
            )
        return None


def read_run(directory: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        BadInput: it holds no ``config.yaml``, or one of its files is damaged.
    """
    directory = Path(directory)
    config = directory / "config.yaml"
    if not config.is_file():
        raise BadInput(f"run {directory}: not a run directory (it holds no config.yaml)")
    parsed = load_config(config)
    summary = directory / "summary.json"
    return RunFiles(
        directory=directory,
        config_text=config.read_text(encoding="utf-8"),
        config=parsed,
        rounds=read_metrics(directory / "metrics.jsonl"),
        summary=read_json(summary, Summary) if summary.is_file() else Summary(),
        finished=summary.is_file(),
    )


def read_metrics(path: Path) -> tuple[RoundRecord, ...]:
    """The rounds in ``metrics.jsonl``, in order; none where there is no file.

    A last line without its newline is the trace of a kill and is left out unless it is whole.
    Where a resumed run wrote a round again, the later line counts.

    Raises:
        BadInput: a line is not a record of a round.
    """
    if not path.is_file():
        return ()
    lines = path.read_bytes().split(b"\n")
    rounds: dict[int, RoundRecord] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _parse(line, RoundRecord, path, number)
        except BadInput:
            if number == len(lines):
                break
            raise
        rounds[record.round] = record
    return tuple(rounds[number] for number in sorted(rounds))


T = TypeVar("T", bound=BaseModel)


def read_json(path: Path, kind: type[T]) -> T:
    """A JSON file as a record of `kind`.

    Raises:
        BadInput: it is not JSON, or a field has the wrong type.
    """
    return _parse(path.read_bytes(), kind, path)


def _parse(text: bytes, kind: type[T], path: Path, line: int | None = None) -> T:
    where = f"{path}: line {line}" if line else str(path)
    try:
        # NaN is not JSON, yet Python writes it: take it as the null that was meant.
        return kind.model_validate(json.loads(text, parse_constant=lambda _: None))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: line {line or error.lineno}: not JSON ({error.msg})") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "record"
        raise BadInput(f"{where}: {field} = {first['input']!r:.60}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: cannot be read ({type(error).__name__})") from None
