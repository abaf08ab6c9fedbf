"""What clients keep for themselves between rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rolora.core.types import (
    Adapter,
)
from rolora.records.wire import parse_name, tensor_name


@dataclass
class LocalStore:
    """What clients keep for themselves; empty for methods and options that keep nothing."""

    parts: dict[int, Adapter] = field(default_factory=dict)
    optimizers: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def copy(self) -> LocalStore:
        """The same tensors, in a store that takes no part in what happens to this one."""
        return LocalStore(dict(self.parts), dict(self.optimizers))

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name."""
        named = {
            f"parts/{client}/{tensor_name(key)}": tensor
            for client, adapter in self.parts.items()
            for key, tensor in adapter.items()
        }
        return named | {
            f"optimizer/{client}/{name}": tensor
            for client, state in self.optimizers.items()
            for name, tensor in state.items()
        }

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> LocalStore:
        """The inverse of :meth:`tensors`."""
        parts: dict[int, dict[tuple[str, str], Tensor]] = {}
        store = LocalStore()
        for name, tensor in tensors.items():
            kind, client, rest = name.split("/", 2)
            if kind == "parts":
                parts.setdefault(int(client), {})[parse_name(rest)] = tensor
            else:
                store.optimizers.setdefault(int(client), {})[rest] = tensor
        store.parts = {client: Adapter.of(held) for client, held in parts.items()}  # type: ignore[arg-type]
        return store
