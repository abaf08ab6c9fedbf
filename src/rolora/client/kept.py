"""What clients keep for themselves between rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rolora.core.types import EMPTY, Adapter, Key
from rolora.records.wire import parse_name, tensor_name

PARTS = "parts"


@dataclass(frozen=True)
class Kept:
    """What one client keeps for itself.

    Args:
        parts: of its model, which nobody else has.
        state: what rules and stages keep, by names such as ``optimizer/B.exp_avg``.
    """

    parts: Adapter = field(default_factory=lambda: EMPTY)
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name."""
        parts = {f"{PARTS}/{tensor_name(key)}": tensor for key, tensor in self.parts.items()}
        return {**parts, **self.state}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Kept:
        """The inverse of :meth:`tensors`."""
        parts: dict[Key, Tensor] = {}
        state: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == PARTS:
                parts[parse_name(rest)] = tensor
            else:
                state[name] = tensor
        return Kept(Adapter.of(parts), state)


NOTHING = Kept()


def all_tensors(kept: Mapping[int, Kept]) -> dict[str, Tensor]:
    """What many clients keep, by name: ``KIND/CLIENT/REST``."""
    named = {}
    for client, own in kept.items():
        for name, tensor in own.tensors().items():
            kind, _, rest = name.partition("/")
            named[f"{kind}/{client}/{rest}"] = tensor
    return named


def of_all(tensors: Mapping[str, Tensor]) -> dict[int, Kept]:
    """The inverse of :func:`all_tensors`."""
    by_client: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, client, rest = name.split("/", 2)
        by_client.setdefault(int(client), {})[f"{kind}/{rest}"] = tensor
    return {client: Kept.of(own) for client, own in by_client.items()}
