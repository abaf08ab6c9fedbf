"""Checkpoints that appear whole or not at all: safetensors for tensors, JSON for the rest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rolora.core.types import Adapter, ServerState
from rolora.records.atomic import write_atomic
from rolora.records.wire import parse_name, tensor_name


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after a finished round.

    Args:
        state: the server's state.
        ledger: per client, the versions that it holds.
        engine: the engine's tensors (clients' own parts, optimisers' states) by name.
        history: numbers that the summary needs (best round, totals).
        run: what must be the same for a run to go on: config, data, versions.
    """

    state: ServerState
    ledger: Mapping[int, Mapping[str, int]]
    engine: Mapping[str, Tensor]
    history: Mapping[str, Any]
    run: Mapping[str, Any]


def save_checkpoint(directory: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write ``round_000012/`` under `directory`, then drop all but the last `keep`."""
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"round_{checkpoint.state.round:06d}"
    temporary = directory / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    state = checkpoint.state
    tensors = {f"parts/{tensor_name(key)}": t for key, t in state.parts.items()}
    tensors |= {f"optimizer/{name}": t for name, t in state.optimizer.items()}
    tensors |= {f"engine/{name}": t for name, t in checkpoint.engine.items()}
    payload = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    body = {
        "round": state.round,
        "versions": dict(state.versions),
        "ledger": {str(client): dict(held) for client, held in checkpoint.ledger.items()},
        "history": dict(checkpoint.history),
        "run": dict(checkpoint.run),
        "tensors_sha256": hashlib.sha256(payload).hexdigest(),
    }
    text = json.dumps(body, sort_keys=True)
    sealed = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text})
    write_atomic(temporary / "tensors.safetensors", payload)
    write_atomic(temporary / "state.json", sealed.encode())
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    _sync(directory)
    for old in checkpoints(directory)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints under `directory`, newest first."""
    return sorted(directory.glob("round_[0-9]*"), reverse=True)


def load_newest(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is sound, and a line for each damaged one passed over."""
    damaged: list[str] = []
    for path in checkpoints(directory):
        try:
            return load_checkpoint(path), damaged
        except DamagedCheckpoint as error:
            damaged.append(str(error))
    return None, damaged


class DamagedCheckpoint(ValueError):  # noqa: N818
    """A checkpoint that cannot be trusted; the message names the file and what is wrong."""


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        DamagedCheckpoint: a file is missing, torn, or not what its checksum says.
    """
    state_file, tensor_file = path / "state.json", path / "tensors.safetensors"
    try:
        sealed = json.loads(state_file.read_bytes())
        if hashlib.sha256(sealed["body"].encode()).hexdigest() != sealed["sha256"]:
            raise DamagedCheckpoint(f"{state_file}: its checksum does not match")
        body = json.loads(sealed["body"])
        payload = tensor_file.read_bytes()
        if hashlib.sha256(payload).hexdigest() != body["tensors_sha256"]:
            raise DamagedCheckpoint(f"{tensor_file}: its checksum does not match")
        groups: dict[str, dict[str, Tensor]] = {"parts": {}, "optimizer": {}, "engine": {}}
        for name, tensor in load(payload).items():
            group, _, rest = name.partition("/")
            groups[group][rest] = tensor
        parts = {parse_name(name): tensor for name, tensor in groups["parts"].items()}
        state = ServerState(body["round"], Adapter.of(parts), body["versions"], groups["optimizer"])
        ledger = {int(client): held for client, held in body["ledger"].items()}
        return Checkpoint(state, ledger, groups["engine"], body["history"], body["run"])
    except DamagedCheckpoint:
        raise
    except (OSError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{path}: cannot be read ({error})") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{state_file}: damaged ({type(error).__name__})") from None


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


__all__ = [
    "Checkpoint",
    "DamagedCheckpoint",
    "checkpoints",
    "load_checkpoint",
    "load_newest",
    "save_checkpoint",
]
