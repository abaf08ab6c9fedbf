"""A run directory as it lies on disk, read into records; nothing here trains or loads models.

What is there must have the right type: a damaged file is refused by name and line, and so is one
of a newer schema. Keys that a record does not know are passed over.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from rolora.config import Config, recorded_config
from rolora.core.errors import BadInput
from rolora.records.base import SCHEMA, FileRecord
from rolora.records.schema import (
    CLASSIFICATION,
    MethodRecord,
    ModelRecord,
    RoundRecord,
    Start,
    Summary,
    TaskRecord,
)
from rolora.records.scores import Generations, HarnessScores
from rolora.records.upgrade import upgraded


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds.

    Args:
        directory: where it lies.
        config_text: ``config.yaml`` as written.
        config: the same, parsed.
        rounds: the finished rounds in order.
        start: what was known before the first round.
        summary: what came out; None where the run is unfinished.
        scores: of a harness; None where none was asked.
        generations: answers side by side; None where there are none.
    """

    directory: Path
    config_text: str
    config: Config
    rounds: tuple[RoundRecord, ...]
    start: Start
    summary: Summary | None
    scores: HarnessScores | None = None
    generations: Generations | None = None

    @property
    def task(self) -> TaskRecord:
        """What is learned, and how its scores read."""
        return self.start.task

    @property
    def method(self) -> str:
        """The method's title."""
        return self.start.method.title or self.config.method.name

    @property
    def data(self) -> str:
        """The name of the data."""
        config = self.config.data
        known = self.summary.data.name if self.summary else ""
        return known or config.name or (config.path.name if config.path else "the sites' own")

    @property
    def model(self) -> str:
        """The name of the base model."""
        return self.start.model.name or self.config.model.name

    @property
    def personal(self) -> bool:
        """Whether each client keeps a model of its own, so that its own scores are the result."""
        return self.start.method.personal or self.config.model.head == "local"

    @property
    def bytes_up(self) -> int:
        """Bytes that the clients sent, over all rounds."""
        return sum(r.bytes_up for r in self.rounds)

    @property
    def bytes_down(self) -> int:
        """Bytes that the clients received, over all rounds."""
        return sum(r.bytes_down for r in self.rounds)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage over all rounds, without the total."""
        totals: dict[str, float] = defaultdict(float)
        for record in self.rounds:
            for stage, spent in record.seconds.items():
                totals[stage] += spent
        totals.pop("total", None)
        return dict(totals)

    @property
    def total_seconds(self) -> float:
        """Seconds of all rounds."""
        return sum(r.total_seconds for r in self.rounds)


def read_run(directory: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        BadInput: it holds no ``config.yaml``, or one of its files is damaged or of a newer schema.
    """
    directory = Path(directory)
    path = directory / "config.yaml"
    if not path.is_file():
        raise BadInput(f"run {directory}: not a run directory (it holds no config.yaml)")
    config = recorded_config(path)
    summary = _read_if_there(directory / "summary.json", Summary)
    return RunFiles(
        directory=directory,
        config_text=path.read_text(encoding="utf-8"),
        config=config,
        rounds=read_metrics(directory / "metrics.jsonl"),
        start=summary or _read_if_there(directory / "start.json", Start) or _started(config),
        summary=summary,
        scores=_read_if_there(directory / "scores.json", HarnessScores),
        generations=_read_if_there(directory / "generations.json", Generations),
    )


def _started(config: Config) -> Start:
    """What the config says of a run that is unfinished and from before there was a start.json."""
    return Start(
        task=CLASSIFICATION,
        method=MethodRecord(name=config.method.name, title=config.method.name),
        model=ModelRecord(name=config.model.name),
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
            raw = _json(line, path, number)
        except BadInput:
            if number == len(lines):
                break
            raise
        record = _record(raw, RoundRecord, f"{path}: line {number}")
        rounds[record.round] = record
    return tuple(rounds[number] for number in sorted(rounds))


T = TypeVar("T", bound=FileRecord)


def _read_if_there(path: Path, kind: type[T]) -> T | None:
    return read_json(path, kind) if path.is_file() else None


def read_json(path: Path, kind: type[T]) -> T:
    """A JSON file as a record of `kind`.

    Raises:
        BadInput: it cannot be read, is not JSON, is of a newer schema, or a field has the wrong
            type.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    return _record(_json(text, path), kind, str(path))


def _json(text: bytes, path: Path, line: int | None = None) -> Any:
    try:
        # NaN is not JSON, yet Python writes it: take it as the null that was meant.
        return json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: line {line or error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        where = f"{path}: line {line}" if line else str(path)
        raise BadInput(f"{where}: cannot be read ({type(error).__name__})") from None


def _record(raw: Any, kind: type[T], where: str) -> T:
    if isinstance(raw, dict):
        schema = raw.get("schema", 1)
        if schema not in range(1, SCHEMA + 1):
            raise BadInput(
                f"{where}: is of schema {schema!r:.60}, and this rolora reads up to {SCHEMA}; "
                "read it with the rolora that wrote it"
            )
        if schema < SCHEMA:
            raw = _upgraded(raw, kind, where)
    try:
        return kind.model_validate(raw, strict=False, extra="ignore")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "record"
        raise BadInput(f"{where}: {field} = {first['input']!r:.60}: {first['msg']}") from None


def _upgraded(raw: dict[str, Any], kind: type[T], where: str) -> dict[str, Any]:
    try:
        return upgraded(raw, kind) | {"schema": SCHEMA}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{where}: no {kind.__name__} of schema 1 ({type(error).__name__}: {error})"
        ) from None
