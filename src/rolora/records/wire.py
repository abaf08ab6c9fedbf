"""What travels: adapters, plans and updates as safetensors, whose header carries the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rolora.core.types import EMPTY, PARTS, Adapter, Increment, Key, Layout, Plan, Update, base_part
from rolora.records.bounds import Trained, WireError, told

SEPARATOR = "::"
SETS = ("train", "upload", "local", "derives")
"""The fields of a plan that are sets."""
CODED = {torch.float32, torch.int8, torch.uint8, torch.int32}
"""The kinds of number in which parts travel."""


def tensor_name(key: Key) -> str:
    """``module::part``."""
    return SEPARATOR.join(key)


def parse_name(name: str) -> Key:
    """The key of a tensor's name.

    Raises:
        WireError: not of the form ``module::part``.
    """
    module, separator, part = name.rpartition(SEPARATOR)
    if not separator or base_part(part) not in PARTS:
        raise WireError(f"tensor {name!r}: its name must be MODULE::PART, PART one of {PARTS}")
    return module, part


def pack(
    adapter: Adapter, header: Mapping[str, Any], side: Mapping[str, Tensor] | None = None
) -> bytes:
    """An adapter, tensors beside it, and a JSON header as safetensors."""
    tensors = {tensor_name(key): tensor.contiguous().cpu() for key, tensor in adapter.items()}
    tensors |= side or {}
    return save(tensors, metadata={"rolora": json.dumps(header, sort_keys=True)})


def unpack(payload: bytes) -> tuple[Adapter, dict[str, Any]]:
    """The adapter and the header of :func:`pack`.

    Raises:
        WireError: not safetensors, a foreign tensor name or dtype, or no header of ours.
    """
    tensors, text = _opened(payload)
    return _plain(tensors), _header(text)


def pack_sent(plan: Plan) -> bytes:
    """The tensors of a plan: parts, and what leads to others."""
    return pack(plan.send, {}, named_increments(plan.increments))


def unpack_sent(payload: bytes) -> tuple[Adapter, tuple[Increment, ...]]:
    """The inverse of :func:`pack_sent`.

    Raises:
        WireError: it is not what that makes.
    """
    tensors, _ = _opened(payload)
    named = {name: tensors.pop(name) for name in list(tensors) if SEPARATOR not in name}
    return _plain(tensors), increments_of(named)


def named_increments(increments: Sequence[Increment]) -> dict[str, Tensor]:
    """Their tensors, as ``PART/SINCE/VERSION/`` and ``codes`` or the name of one beside."""
    return {
        f"{step.part}/{step.since}/{step.version}/{name}": tensor
        for step in increments
        for name, tensor in {"codes": step.codes, **step.side}.items()
    }


def increments_of(tensors: Mapping[str, Tensor]) -> tuple[Increment, ...]:
    """The inverse of :func:`named_increments`, in the order of their versions.

    Raises:
        WireError: a name is not one of theirs.
    """
    steps: dict[tuple[int, int, str], dict[str, Tensor]] = {}
    try:
        for full, tensor in tensors.items():
            part, since, version, name = full.split("/")
            steps.setdefault((int(version), int(since), part), {})[name] = tensor
        return tuple(
            Increment(part, since, version, side.pop("codes").flatten(), side)
            for (version, since, part), side in sorted(steps.items(), key=lambda item: item[0])
        )
    except (ValueError, KeyError):
        raise WireError(f"no increments: {sorted(tensors)[:3]}") from None


def _header(text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not a rolora payload ({error})") from None
    if not isinstance(header, dict):
        raise WireError("not a rolora payload (its header is no mapping)")
    return header


def _plain(tensors: Mapping[str, Tensor]) -> Adapter:
    """An adapter of tensors that are all float32."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise WireError(f"tensor {name!r}: is {tensor.dtype}, must be float32")
    return _adapter(tensors)


def _adapter(tensors: Mapping[str, Tensor]) -> Adapter:
    """An adapter of tensors that are all of one kind of number."""
    keyed = {parse_name(name): tensor for name, tensor in tensors.items()}
    layout = Layout.of({key: tuple(tensor.shape) for key, tensor in keyed.items()})
    if not keyed:
        return Adapter(layout, torch.zeros(0))
    return Adapter(layout, torch.cat([keyed[key].reshape(-1) for key, _ in layout.entries]))


def _opened(payload: bytes) -> tuple[dict[str, Tensor], str]:
    """The tensors, and our header as it is written."""
    try:
        tensors = load(payload)
        length = int.from_bytes(payload[:8], "little")
        text = json.loads(payload[8 : 8 + length])["__metadata__"]["rolora"]
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise WireError(f"not a rolora payload ({error})") from None
    return tensors, str(text)


def pack_plan(plan: Plan) -> bytes:
    """A plan on the wire."""
    fields = dict(asdict_shallow(plan))
    del fields["send"], fields["increments"]
    for name in SETS:
        fields[name] = sorted(fields[name])
    header = {**fields, "versions": dict(plan.versions)}
    return pack(plan.send, header, named_increments(plan.increments))


def unpack_plan(payload: bytes) -> Plan:
    """A plan from the wire.

    Raises:
        WireError: not a plan.
    """
    send, increments = unpack_sent(payload)
    fields = _header(_opened(payload)[1])
    try:
        for name in SETS:
            fields[name] = frozenset(fields[name])
        return Plan(send=send, increments=increments, **fields)
    except (KeyError, TypeError) as error:
        raise WireError(f"not a plan ({error})") from None


def pack_update(update: Update) -> bytes:
    """An update on the wire."""
    return pack(
        update.parts,
        {
            "client": update.client,
            "num_examples": update.num_examples,
            "weight": update.weight,
            "metrics": dict(update.metrics),
        },
        update.side,
    )


def unpack_update(payload: bytes) -> Update:
    """An update from the wire.

    Raises:
        WireError: not an update.
    """
    tensors, text = _opened(payload)
    header = told(Trained, text, "an update")
    side = {name: tensors.pop(name) for name in list(tensors) if SEPARATOR not in name}
    kinds = {tensor.dtype for tensor in tensors.values()}
    if len(kinds) > 1 or not kinds <= CODED:
        raise WireError(f"its parts are {sorted(map(str, kinds))}; they must be one of {CODED}")
    return Update(
        client=header.client,
        num_examples=header.num_examples,
        parts=_adapter(tensors),
        side=side,
        metrics=header.metrics,
        weight=header.weight,
    )


def asdict_shallow(plan: Plan) -> dict[str, Any]:
    """The fields of a plan by name."""
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


Form = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
"""The names, shapes and kinds of tensors."""


@lru_cache(maxsize=4096)
def payload_bytes(layout: Layout, dtype: torch.dtype = torch.float32, side: Form = ()) -> int:
    """Bytes of an adapter of this layout, and of tensors beside it, as safetensors, their names
    included; 0 for nothing.

    The size of a serialised payload depends on its form alone, so one of each is serialised.
    """
    if not (layout.entries or side):
        return 0
    tensors = {tensor_name(key): torch.zeros(shape, dtype=dtype) for key, shape in layout.entries}
    return len(save(tensors | {name: torch.zeros(shape, dtype=kind) for name, shape, kind in side}))


def update_bytes(update: Update) -> int:
    """Bytes of what `update` sends, as it travels."""
    return payload_bytes(update.parts.layout, update.parts.flat.dtype, _form(update.side))


def plan_bytes(plan: Plan) -> int:
    """Bytes of the tensors that `plan` sends, as they travel."""
    return increment_bytes(plan.increments, plan.send.layout)


def increment_bytes(increments: Sequence[Increment], beside: Layout = EMPTY.layout) -> int:
    """Bytes of increments, and of parts of the layout `beside`, as they travel."""
    return payload_bytes(beside, torch.float32, _form(named_increments(increments)))


def _form(tensors: Mapping[str, Tensor]) -> Form:
    return tuple((name, tuple(t.shape), t.dtype) for name, t in sorted(tensors.items()))
