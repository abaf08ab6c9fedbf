"""A run's directory: its config, a line of metrics a round, checkpoints, a summary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolora.config import Config, dump_config
from rolora.core.errors import BadInput
from rolora.core.types import ServerState
from rolora.records.atomic import write_atomic
from rolora.records.checkpoint import Checkpoint, load_newest, save_checkpoint
from rolora.server.ledger import Ledger
from rolora.server.round import Engine
from rolora.yaml_text import read_mapping

MAY_CHANGE = {"rounds", "checkpoint", "engine"}
"""Sections of the config that may differ when a run goes on."""


@dataclass
class RunDirectory:
    """The files of one run; also the `Record` that the round writes to.

    Args:
        path: the directory.
        keep: checkpoints to keep.
        run: what must be the same for the run to go on (config, data).
        history: carried in every checkpoint (when the run was started).
    """

    path: Path
    keep: int
    run: Mapping[str, Any]
    history: dict[str, Any]

    @staticmethod
    def create(path: Path, config: Config, data: str, started: str) -> RunDirectory:
        """Make the directory and write ``config.yaml``."""
        path.mkdir(parents=True, exist_ok=True)
        write_atomic(path / "config.yaml", dump_config(config).encode())
        run = {"config": config.model_dump(mode="json"), "data": data}
        return RunDirectory(path, config.checkpoint.keep, run, {"started": started})

    @property
    def metrics(self) -> Path:
        """One JSON line a round."""
        return self.path / "metrics.jsonl"

    def round_finished(self, metrics: dict[str, Any]) -> None:
        """Append one line."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def checkpoint(self, state: ServerState, ledger: Ledger, engine: Engine) -> None:
        """Make `state` the one that ``--resume`` goes on from."""
        checkpoint = Checkpoint(state, ledger.held, engine.tensors(), self.history, self.run)
        save_checkpoint(self.path / "checkpoint", checkpoint, self.keep)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest sound checkpoint and what was wrong with newer ones; metrics are cut back.

        Raises:
            BadInput: the checkpoint belongs to another config or other data.
        """
        checkpoint, damaged = load_newest(self.path / "checkpoint")
        if checkpoint is not None:
            self._same_run(checkpoint.run)
            self.history = dict(checkpoint.history)
        self._cut_metrics(checkpoint.state.round if checkpoint else 0)
        return checkpoint, damaged

    def _same_run(self, before: Mapping[str, Any]) -> None:
        if before["data"] != self.run["data"]:
            raise BadInput(f"data: {self.path} was run on other data; use another --out")
        for section, value in self.run["config"].items():
            if section not in MAY_CHANGE and before["config"].get(section) != value:
                raise BadInput(
                    f"{section} = {_changed(value, before['config'].get(section))}: "
                    f"{self.path} was run with another value; use it, or another --out"
                )

    def _cut_metrics(self, rounds: int) -> None:
        """Drop the lines of rounds after the checkpoint, and a line torn by a kill."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["round"] <= rounds:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                break
        write_atomic(self.metrics, "".join(kept).encode())

    def lines(self) -> list[dict[str, Any]]:
        """The metrics of all finished rounds."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        text = json.dumps(summary, indent=2)
        write_atomic(self.path / "summary.json", text.encode())


def _changed(new: Any, old: Any) -> str:
    """The keys of a section that differ, with their new values."""
    if isinstance(new, dict) and isinstance(old, dict):
        return str({key: value for key, value in new.items() if old.get(key) != value})
    return repr(new)


def read_run_config(path: Path) -> dict[str, Any]:
    """The resolved config of a run directory as a mapping.

    Raises:
        BadInput: no run there.
    """
    return read_mapping(path / "config.yaml", f"{path}: not a run directory, config.yaml")
