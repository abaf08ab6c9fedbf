"""A run's directory: its config, a line of metrics a round, checkpoints, a summary."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from rolora.config import Config, dump_config
from rolora.core.errors import BadInput
from rolora.core.noise import KEY_BYTES
from rolora.core.parsing import shown
from rolora.core.types import ServerState
from rolora.core.yaml_text import read_mapping
from rolora.records.atomic import write_atomic
from rolora.records.checkpoint import SCHEMA, Checkpoint, load_newest, save_checkpoint
from rolora.records.files import read_metrics
from rolora.records.schema import RoundRecord, Start, Summary

MAY_CHANGE = {"rounds", "checkpoint", "engine", "tracking", "data.path", "server.byte_budget"}
"""What of the config may differ when a run goes on; data are known by what is in them."""
FOUND_LATER = ("scores.json", "generations.json")
"""What is found out of a finished run; of the same run after more rounds it says nothing."""
KEY = "noise.key"
"""The server's key of a private run: with it the noise could be taken off again."""
RESULTS = (
    *("summary.json", *FOUND_LATER, "report.html", "adapter", "metrics.jsonl"),
    *("checkpoint", KEY),
)
"""What a run leaves, beside its config and its id; in the order in which a new run drops it."""


class Holdings(Protocol):
    """Which versions clients hold (:class:`rolora.server.ledger.Ledger`)."""

    @property
    def held(self) -> Mapping[int, Mapping[str, int]]:
        """Per client, the version of each part."""


class Keeper(Protocol):
    """Whatever has clients that keep something (:class:`rolora.server.engine.Engine`)."""

    def tensors(self, round_number: int) -> Mapping[str, Tensor]:
        """What clients kept after a round."""


class RunDirectory:
    """The files of one run; also the `Record` that the round writes to.

    Nothing is written before :meth:`begin`.

    Attributes:
        saved: the round of the newest checkpoint.
        unseen: of the one that the run goes on from, the record of its round where that is still
            to be evaluated.

    Args:
        path: the directory.
        config: of the run.
        started: the time, for a run that is new.
    """

    def __init__(self, path: Path, config: Config, started: str):
        self.path, self.config = path, config
        self.history: dict[str, Any] = {"id": uuid.uuid4().hex, "started": started}
        self.run: dict[str, Any] = {"config": config.model_dump(mode="json")}
        self.saved = 0
        self.unseen: RoundRecord | None = None
        self._lines: dict[int, str] = {}

    @property
    def id(self) -> str:
        """Hex digits: the same when the run goes on, wherever it lies; others for every run."""
        return str(self.history["id"])

    @property
    def metrics(self) -> Path:
        """One JSON line a round."""
        return self.path / "metrics.jsonl"

    def holds_run(self) -> bool:
        """Whether there is a run already."""
        names = ("config.yaml", "metrics.jsonl", "checkpoint")
        return any((self.path / name).exists() for name in names)

    def newest(self, notice: Callable[[str], None]) -> Checkpoint | None:
        """The newest sound checkpoint; None where no round was ever finished.

        Args:
            notice: told of what was passed over.

        Raises:
            BadInput: the checkpoint belongs to another config or a newer rolora, or rounds were
                finished and no checkpoint of them is sound.
        """
        checkpoint, damaged = load_newest(self.path / "checkpoint")
        found = self._lines_on_disk()
        if checkpoint is None:
            if damaged or found:
                raise BadInput(self._nothing_sound(damaged, found))
            if self.holds_run():
                notice("the run was ended before its first round began; it starts over")
            return None
        self._same_config(checkpoint.run["config"])
        for line in damaged:
            notice(f"damaged checkpoint passed over: {line}")
        self.saved = checkpoint.state.round
        if checkpoint.unseen is not None:
            self.unseen = RoundRecord.model_validate_json(checkpoint.unseen)
        self.history = dict(checkpoint.history)
        self.history.setdefault("id", self._id_of_schema_1())
        self._lines = self._lines_until(checkpoint, found, notice)
        return checkpoint

    def begin(self, checkpoint: Checkpoint | None, data: str) -> None:
        """Write what a run has from its start; `checkpoint` is the one that it goes on from.

        Args:
            checkpoint: None: a new run, for which the results of an earlier one are dropped.
            data: what must be the same for the run to go on.

        Raises:
            BadInput: it was run on other data; nothing is written.
        """
        if checkpoint is not None and checkpoint.run["data"] != data:
            raise BadInput(f"data: {self.path} was run on other data; use another --out")
        self.run["data"] = data
        if checkpoint is not None and checkpoint.state.round < self.config.rounds:
            for name in ("summary.json", *FOUND_LATER):  # it is not finished any more
                (self.path / name).unlink(missing_ok=True)
        if checkpoint is None and self.holds_run():
            self._drop_results()
        write_atomic(self.path / "run.json", json.dumps({"schema": SCHEMA, **self.history}))
        write_atomic(self.path / "config.yaml", dump_config(self.config))
        if checkpoint is not None:
            write_atomic(self.metrics, "".join(f"{line}\n" for line in self._lines.values()))

    def _drop_results(self) -> None:
        for name in RESULTS:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def key(self) -> bytes:
        """The key of the run's noise, drawn when it is first asked for; its owner's alone.

        Raises:
            BadInput: rounds were finished with a key that is not there any more.
        """
        path = self.path / KEY
        if not path.exists():
            if self.saved:
                raise BadInput(
                    f"--resume: {path} is gone, and rounds were run with it; put it back, or use "
                    "another --out"
                )
            write_atomic(path, os.urandom(KEY_BYTES), mode=0o600)
        return path.read_bytes()

    def start(self, start: Start) -> None:
        """Write ``start.json``."""
        write_atomic(self.path / "start.json", start.model_dump_json(indent=2) + "\n")

    def round_finished(self, metrics: RoundRecord) -> None:
        """Append one line."""
        line = metrics.model_dump_json()
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines[metrics.round] = line

    def checkpoint(
        self,
        state: ServerState,
        ledger: Holdings,
        engine: Keeper,
        unseen: RoundRecord | None = None,
    ) -> None:
        """Make `state` the one that ``--resume`` goes on from, first to evaluate it where it is
        `unseen`.
        """
        kept = engine.tensors(state.round)
        lines = [line for number, line in self._lines.items() if number <= state.round]
        line = None if unseen is None else unseen.model_dump_json()
        checkpoint = Checkpoint(state, ledger.held, kept, self.history, self.run, lines, line)
        save_checkpoint(self.path / "checkpoint", checkpoint, self.config.checkpoint.keep)
        self.saved = state.round

    def rounds(self) -> tuple[RoundRecord, ...]:
        """The records of all finished rounds."""
        return read_metrics(self.metrics)

    def finish(self, summary: Summary) -> None:
        """Write ``summary.json``."""
        write_atomic(self.path / "summary.json", summary.model_dump_json(indent=2) + "\n")

    def _nothing_sound(self, damaged: list[str], found: list[str]) -> str:
        what = damaged or [f"metrics.jsonl has {len(found)} lines, checkpoint/ holds nothing"]
        return (
            f"--resume: no checkpoint in {self.path} is sound: {'; '.join(what)}; put a copy of "
            "the directory back, use another --out, or have rolora run drop what is there and "
            "begin at round 1 with --start-over"
        )

    def _same_config(self, before: Mapping[str, Any]) -> None:
        """Refuse other settings, each beside the one of before."""
        new, old, unset = by_name(self.run["config"]), by_name(before), by_name(_DEFAULTS)
        lines = []
        for name in [*new, *(name for name in old if name not in new)]:
            now, then = (fields.get(name, unset.get(name)) for fields in (new, old))
            if now != then and not may_change(name, self.run["config"]):
                lines.append(f"{name} = {shown(now)}, and was {shown(then)}")
        if lines:
            several = "these values" if len(lines) > 1 else "that value"
            raise BadInput(
                f"--resume: {self.path} was run with other settings; go on with {several} of "
                "before, or use another --out:\n  " + "\n  ".join(lines)
            )

    def _lines_on_disk(self) -> list[str]:
        if not self.metrics.exists():
            return []
        text = self.metrics.read_bytes().decode(errors="replace")
        return text.split("\n")[:-1]  # what has no newline is the trace of a kill

    def _lines_until(
        self, checkpoint: Checkpoint, found: list[str], notice: Callable[[str], None]
    ) -> dict[int, str]:
        """A line for each round until the checkpoint's: its own, or, where an older version wrote
        none into it, what can be had of them on disk.
        """
        rounds = checkpoint.state.round
        if checkpoint.metrics is None:
            lines = _by_round(found)
            missing = [number for number in range(1, rounds + 1) if number not in lines]
            if missing:
                notice(f"metrics.jsonl has no line of round {missing[0]} ({len(missing)} missing)")
            return {number: lines[number] for number in sorted(lines) if number <= rounds}
        if found[: len(checkpoint.metrics)] != list(checkpoint.metrics):
            notice("metrics.jsonl was not what the run had written; it is restored")
        return _by_round(checkpoint.metrics)

    def _id_of_schema_1(self) -> str:
        """The name under which sites know a run that began before ids were drawn."""
        where = str(self.path.resolve())
        text = json.dumps([self.config.seed, self.config.method.name, where, self.history])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _by_round(lines: Sequence[str]) -> dict[int, str]:
    """The lines that are records of a round, by its number; of two the later counts."""
    found = {}
    for line in lines:
        with suppress(ValueError, LookupError, TypeError):
            found[int(json.loads(line)["round"])] = line
    return found


_DEFAULTS = Config().model_dump(mode="json")
"""What a run of before a setting was there has in its place."""


def may_change(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the setting of that whole name may differ when a run with `config` goes on: not its
    length, where the noise of every round is that which all rounds together need.
    """
    privacy = config.get("privacy") or {}
    solved = bool(privacy) and privacy.get("noise_multiplier") is None
    if name == "rounds" and solved:
        return False
    return bool({name, name.partition(".")[0]} & MAY_CHANGE)


def by_name(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The settings by their whole names, as ``optimizer.lr``."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= by_name(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def read_run_config(path: Path) -> dict[str, Any]:
    """The resolved config of a run directory as a mapping.

    Raises:
        BadInput: no run there.
    """
    return read_mapping(path / "config.yaml", f"{path}: not a run directory, config.yaml")
