"""What every tracker shares: a run in flat names and numbers, and what was tracked already."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from pydantic import Field, JsonValue

from rolora.callbacks.base import Begun, Callback
from rolora.config import Config, dump_config
from rolora.core.errors import BadInput
from rolora.records.atomic import write_atomic
from rolora.records.files import read_json, read_metrics
from rolora.records.schema import FileRecord, RoundRecord, Summary

Scalar = str | int | float | bool | None


class Tracked(FileRecord):
    """``tracked.json``: what a tracker was told of a run.

    Args:
        run: the run's id.
        round: the last round that it has.
        tested: the round whose test scores it has; 0 where it has none.
    """

    run: str
    round: int = Field(default=0, ge=0)
    tested: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Opening:
    """What a tracker opens its store with.

    Args:
        directory: of the tracker in the run's directory.
        run: the run's directory.
        id: of the run, the same when it is resumed.
        first: the first round that the tracker will be told.
        config: of the run.
    """

    directory: Path
    run: Path
    id: str
    first: int
    config: Config

    @property
    def name(self) -> str:
        """For people, and yet no other run's."""
        return f"{self.run.resolve().name}-{self.id[:8]}"

    @property
    def parameters(self) -> dict[str, Scalar]:
        """The config as flat names and plain values."""
        return dict(flat(self.config.model_dump(mode="json")))

    @property
    def yaml(self) -> str:
        """The config as it is written down."""
        return dump_config(self.config)


class Tracker(Callback):
    """A tracker of experiments: told of every round once, however often a run is resumed.

    A round that comes again after a checkpoint is the same and is not tracked again; what an
    earlier process did not track, for instance because the tracker was added to the config since,
    is made up for from ``metrics.jsonl``. Its package is imported when it is made.

    Raises:
        BadInput: its package is not installed.
    """

    name: ClassVar[str]
    """In a config, of the extra, and of its directory in the run's."""
    packages: ClassVar[tuple[str, ...]]
    environment: ClassVar[Mapping[str, str]] = {}
    """What its package reads on import, where the person has not set it: it calls nobody."""

    def __init__(self) -> None:
        for variable, value in self.environment.items():
            os.environ.setdefault(variable, value)
        for package in self.packages:
            try:
                import_module(package)
            except ImportError as error:
                raise BadInput(
                    f"tracking: {self.name} needs the package {error.name or package}; "
                    f"pip install 'rolora[{self.name}]'"
                ) from None
        self.finished = False
        self.closing = ExitStack()

    @abstractmethod
    def open(self, opening: Opening) -> None:
        """Go on in the store where the run is in it, else begin; `closing` is to close it."""

    @abstractmethod
    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Write numbers down, so that they outlive a kill of the process."""

    def result(self, numbers: Mapping[str, float], step: int) -> None:
        """Write down what came out after the last round; as any numbers, unless overridden."""
        self.log(numbers, step)

    def begin(self, run: Begun) -> None:
        """Open the store and make up for rounds that it lacks."""
        directory = run.directory / self.name
        directory.mkdir(exist_ok=True)
        self._file = directory / "tracked.json"
        self._tracked = _tracked(self._file, run_id(run.directory))
        self.open(
            Opening(
                directory, run.directory, self._tracked.run, self._tracked.round + 1, run.config
            )
        )
        for record in read_metrics(run.directory / "metrics.jsonl"):
            self.round(record)

    def round(self, record: RoundRecord) -> None:
        """Track a round, unless it was."""
        if record.round > self._tracked.round:
            self.log(dict(numbers(record)), record.round)
            self._note(round=record.round)

    def end(self, summary: Summary) -> None:
        """Track the test scores, unless they were."""
        number = summary.final.round
        if number > self._tracked.tested:
            self.result(dict(named("test", summary.final.test)), number)
            self._note(tested=number)
        self.finished = True

    def close(self) -> None:
        """Close the store."""
        self.closing.close()

    def _note(self, **changes: int) -> None:
        self._tracked = self._tracked.model_copy(update=changes)
        write_atomic(self._file, self._tracked.model_dump_json())


def _tracked(path: Path, run: str) -> Tracked:
    """What was tracked of `run`: nothing, where `path` speaks of another or is not there."""
    before = read_json(path, Tracked) if path.is_file() else None
    return before if before is not None and before.run == run else Tracked(run=run)


def run_id(directory: Path) -> str:
    """The id of the run in `directory`."""
    return str(json.loads((directory / "run.json").read_text(encoding="utf-8"))["id"])


def numbers(record: RoundRecord) -> Iterator[tuple[str, float]]:
    """A round by name; what is not finite is left out."""
    yield from named("train", {"loss": record.train_loss})
    yield from named("validation", record.validation or {})
    yield from named("bytes", {"up": record.bytes_up, "down": record.bytes_down})
    yield from named("clients", {"answered": record.clients, "failed": len(record.failures)})
    yield from named("privacy", {"epsilon": record.epsilon})
    yield from named("seconds", record.seconds)
    for label in record.detail.classes if record.detail else ():
        values = label.model_dump(include={"precision", "recall", "f1", "predicted_share"})
        yield from named(f"label/{label.name}", values)
    for update in record.updates:
        norms = {f"norm_{part}": length for part, length in update.norms.items()}
        yield from named(f"client/{update.client}", {"loss": update.train_loss, **norms})


def named(group: str, values: Mapping[str, float | None]) -> Iterator[tuple[str, float]]:
    """The values that are there, as ``group/name``."""
    for name, value in values.items():
        if value is not None:
            yield f"{group}/{name}", value


def flat(value: JsonValue, at: str = "") -> Iterator[tuple[str, Scalar]]:
    """A tree as its leaves by dotted names; a list of scalars is one leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{at}.{key}" if at else key)
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{at}.{number}")
    else:
        yield at, json.dumps(value) if isinstance(value, list) else value
