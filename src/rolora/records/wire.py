"""What travels: adapters, plans and updates as safetensors, whose header carries the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from rolora.core.types import PARTS, Adapter, Key, Layout, Plan, Update

SEPARATOR = "::"


class WireError(ValueError):
    """Bytes that are not what they should be; the message says in what."""


def tensor_name(key: Key) -> str:
    """``module::part``."""
    return SEPARATOR.join(key)


def parse_name(name: str) -> Key:
    """The key of a tensor's name.

    Raises:
        WireError: not of the form ``module::part``.
    """
    module, separator, part = name.rpartition(SEPARATOR)
    if not separator or part not in PARTS:
        raise WireError(f"tensor {name!r}: its name must be MODULE::PART, PART one of {PARTS}")
    return module, part


def pack(adapter: Adapter, header: Mapping[str, Any]) -> bytes:
    """An adapter and a JSON header as safetensors."""
    tensors = {tensor_name(key): tensor.contiguous().cpu() for key, tensor in adapter.items()}
    return save(tensors, metadata={"rolora": json.dumps(header, sort_keys=True)})


def unpack(payload: bytes) -> tuple[Adapter, dict[str, Any]]:
    """The adapter and the header of :func:`pack`.

    Raises:
        WireError: not safetensors, a foreign tensor name or dtype, or no header of ours.
    """
    try:
        tensors = load(payload)
        length = int.from_bytes(payload[:8], "little")
        metadata = json.loads(payload[8 : 8 + length])["__metadata__"]
        header = json.loads(metadata["rolora"])
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise WireError(f"not a rolora payload ({error})") from None
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise WireError(f"tensor {name!r}: is {tensor.dtype}, must be float32")
    return Adapter.of({parse_name(name): tensor for name, tensor in tensors.items()}), header


def pack_plan(plan: Plan) -> bytes:
    """A plan on the wire."""
    fields = {name: value for name, value in asdict_shallow(plan).items() if name != "send"}
    for name in ("train", "upload", "local"):
        fields[name] = sorted(fields[name])
    return pack(plan.send, {**fields, "versions": dict(plan.versions)})


def unpack_plan(payload: bytes) -> Plan:
    """A plan from the wire.

    Raises:
        WireError: not a plan.
    """
    send, fields = unpack(payload)
    try:
        for name in ("train", "upload", "local"):
            fields[name] = frozenset(fields[name])
        return Plan(send=send, **fields)
    except (KeyError, TypeError) as error:
        raise WireError(f"not a plan ({error})") from None


def pack_update(update: Update) -> bytes:
    """An update on the wire."""
    return pack(
        update.parts,
        {
            "client": update.client,
            "num_examples": update.num_examples,
            "metrics": dict(update.metrics),
        },
    )


def unpack_update(payload: bytes) -> Update:
    """An update from the wire.

    Raises:
        WireError: not an update.
    """
    parts, fields = unpack(payload)
    try:
        return Update(
            client=int(fields["client"]),
            num_examples=int(fields["num_examples"]),
            parts=parts,
            metrics={str(k): float(v) for k, v in fields["metrics"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WireError(f"not an update ({error})") from None


def asdict_shallow(plan: Plan) -> dict[str, Any]:
    """The fields of a plan by name."""
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


@lru_cache(maxsize=4096)
def payload_bytes(layout: Layout) -> int:
    """Bytes of an adapter of this layout as safetensors, its names included; 0 for nothing.

    The size of a serialised payload depends on the layout alone, so one of each is serialised.
    """
    if not layout.entries:
        return 0
    return len(save({tensor_name(key): torch.zeros(shape) for key, shape in layout.entries}))
