"""Checkpoints that appear whole or not at all: safetensors for tensors, JSON for the rest.

What grows with clients and rounds lies beside the checkpoints, in ``pieces/``: a file for all that
one client keeps, one for every hundred lines of metrics. Such a file is named by its content and is
written once; a checkpoint names those that it needs, so that its own checksum covers them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rolora.core.errors import BadInput
from rolora.core.types import Adapter, ServerState
from rolora.records.atomic import write_atomic
from rolora.records.base import SCHEMA
from rolora.records.wire import increments_of, named_increments, parse_name, tensor_name

SHARED = "pieces"
PIECE = 2**15
"""Bytes of metrics from which lines make a shared file; the last, fewer, lie in the checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after a finished round.

    Args:
        state: the server's state.
        ledger: per client, the versions that it holds.
        engine: the engine's tensors (clients' own parts, optimisers' states), as
            ``KIND/CLIENT/NAME``.
        history: what a run keeps for good: its id, when it was started.
        run: what must be the same for a run to go on: config, data.
        metrics: a line a round; None in a checkpoint of schema 1, which holds none.
        unseen: what is known of the last round, which has no line yet as it is still to be
            evaluated; None: it has.
    """

    state: ServerState
    ledger: Mapping[int, Mapping[str, int]]
    engine: Mapping[str, Tensor]
    history: Mapping[str, Any]
    run: Mapping[str, Any]
    metrics: Sequence[str] | None = None
    unseen: str | None = None


def save_checkpoint(directory: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write ``round_000012/`` under `directory`, then drop all but the last `keep`."""
    shared = directory / SHARED
    shared.mkdir(parents=True, exist_ok=True)
    final = directory / f"round_{checkpoint.state.round:06d}"
    temporary = directory / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    state = checkpoint.state
    tensors = {f"parts/{tensor_name(key)}": t for key, t in state.parts.items()}
    tensors |= {f"optimizer/{name}": t for name, t in state.optimizer.items()}
    tensors |= {f"increments/{n}": t for n, t in named_increments(state.increments).items()}
    payload = _packed(tensors)
    pieces, rest = _in_pieces(checkpoint.metrics or ())
    body = {
        "schema": SCHEMA,
        "round": state.round,
        "versions": dict(state.versions),
        "spoilt": {str(client): rounds for client, rounds in state.spoilt.items()},
        "ledger": {str(client): dict(held) for client, held in checkpoint.ledger.items()},
        "history": dict(checkpoint.history),
        "run": dict(checkpoint.run),
        "tensors_sha256": hashlib.sha256(payload).hexdigest(),
        "engine": [_share(shared, _packed(own), "safetensors") for own in _by_client(checkpoint)],
        "metrics": {
            "shared": [_share(shared, piece.encode(), "jsonl") for piece in pieces],
            "rest": rest,
        },
    }
    if checkpoint.unseen is not None:
        body["unseen"] = checkpoint.unseen
    text = json.dumps(body, sort_keys=True)
    sealed = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text})
    write_atomic(temporary / "tensors.safetensors", payload)
    write_atomic(temporary / "state.json", sealed.encode())
    if checkpoint.engine or pieces:
        _sync(shared)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    _sync(directory)
    _drop(directory, final, keep)
    return final


def _in_pieces(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Lines in pieces of some size, the same ones however many lines follow; and those left."""
    pieces, rest, size = [], [], 0
    for line in lines:
        rest.append(line)
        size += len(line)
        if size >= PIECE:
            pieces.append("\n".join(rest))
            rest, size = [], 0
    return pieces, rest


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _by_client(checkpoint: Checkpoint) -> list[dict[str, Tensor]]:
    """The engine's tensors, those of each client together."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.engine.items():
        groups.setdefault(name.split("/")[1], {})[name] = tensor
    return list(groups.values())


def _share(shared: Path, content: bytes, kind: str) -> str:
    """The name of a shared file of this content, written unless it is there and sound."""
    path = shared / f"{hashlib.sha256(content).hexdigest()}.{kind}"
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)
    return path.name


def _drop(directory: Path, newest: Path, keep: int) -> None:
    """Keep the last checkpoints up to `newest`; what is newer was passed over as damaged."""
    kept = [path for path in checkpoints(directory) if path.name <= newest.name][:keep]
    for path in checkpoints(directory):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    named = {name for path in kept for name in _shared_names(path)}
    for file in (directory / SHARED).iterdir():
        if file.name not in named:
            file.unlink(missing_ok=True)


def _shared_names(path: Path) -> list[str]:
    """The shared files of a checkpoint, damaged or not."""
    try:
        text = (path / "state.json").read_text(errors="replace")
    except OSError:
        return []
    return re.findall(r"[0-9a-f]{64}\.(?:safetensors|jsonl)", text)


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints under `directory`, newest first."""
    return sorted(directory.glob("round_[0-9]*"), reverse=True)


def load_newest(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is sound, and a line for each damaged one passed over.

    Raises:
        BadInput: a newer version of rolora wrote one.
    """
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
        BadInput: a newer version of rolora wrote it.
    """
    state_file, tensor_file = path / "state.json", path / "tensors.safetensors"
    try:
        sealed = json.loads(state_file.read_bytes())
        if hashlib.sha256(sealed["body"].encode()).hexdigest() != sealed["sha256"]:
            raise DamagedCheckpoint(f"{state_file}: its checksum does not match")
        body = json.loads(sealed["body"])
        if body.get("schema", 1) > SCHEMA:
            raise BadInput(
                f"{state_file}: schema = {body['schema']}: written by a newer rolora; "
                f"this one reads up to {SCHEMA}"
            )
        payload = tensor_file.read_bytes()
        if hashlib.sha256(payload).hexdigest() != body["tensors_sha256"]:
            raise DamagedCheckpoint(f"{tensor_file}: its checksum does not match")
        kinds = ("parts", "optimizer", "increments", "engine")
        groups: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
        for name, tensor in load(payload).items():
            group, _, rest = name.partition("/")
            groups[group][rest] = tensor
        parts = {parse_name(name): tensor for name, tensor in groups["parts"].items()}
        state = ServerState(
            round=body["round"],
            parts=Adapter.of(parts),
            versions=body["versions"],
            optimizer=groups["optimizer"],
            increments=increments_of(groups["increments"]),
            spoilt={int(client): rounds for client, rounds in body.get("spoilt", {}).items()},
        )
        ledger = {int(client): held for client, held in body["ledger"].items()}
        shared, engine = path.parent / SHARED, groups["engine"]  # there, in schema 1
        for name in body.get("engine", ()):
            engine |= load(_read_shared(shared / name))
        metrics = _metrics(shared, body["metrics"]) if "metrics" in body else None
        kept = (body["history"], body["run"], metrics, body.get("unseen"))
        return Checkpoint(state, ledger, engine, *kept)
    except DamagedCheckpoint:
        raise
    except (OSError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{path}: cannot be read ({error})") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{state_file}: damaged ({type(error).__name__})") from None


def _metrics(shared: Path, where: Mapping[str, Sequence[str]]) -> list[str]:
    full = [_read_shared(shared / name).decode().split("\n") for name in where["shared"]]
    return [line for lines in (*full, where["rest"]) for line in lines]


def _read_shared(path: Path) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise DamagedCheckpoint(f"{path}: its checksum does not match")
    return content


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
