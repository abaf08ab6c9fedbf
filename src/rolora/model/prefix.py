"""A bounded cache of what the frozen layers below the lowest adapter compute.

Those layers see the same example in every round and give the same activations. They are computed
for each example by itself, without padding, so that a cached value does not depend on the batch
in which it was first needed: a resumed run, whose cache is empty, computes the same bits.
"""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

RowKeys = Sequence[Hashable]
"""A key for each example of a batch: the same for the same inputs, wherever they come from."""
DECODERS = ("gemma", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""By Transformers' model type: rotary decoders, whose layers need a position's angles and a causal
mask beside the hidden states.
"""


class ActivationCache:
    """Activations by example, the longest unused dropped beyond `capacity` bytes."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self.size = 0
        self.lock = Lock()

    def get(self, row: Hashable) -> Tensor | None:
        """The activations ``[length, d]`` of one example, if they are held."""
        with self.lock:
            item = self.held.get(row)
            if item is not None:
                self.held.move_to_end(row)
            return item

    def put(self, row: Hashable, item: Tensor) -> None:
        """Hold the activations of one example."""
        with self.lock:
            if row in self.held:
                return
            self.held[row] = item
            self.size += item.nbytes
            while self.size > self.capacity and len(self.held) > 1:
                self.size -= self.held.popitem(last=False)[1].nbytes


class FrozenPrefix(nn.Module):
    """Takes the place of the first transformer layer and stands for all frozen ones.

    Attributes:
        rows: the keys of the batch that passes; None computes without the cache.
        cache: shared by all workers.
        above: how many layers come after the frozen ones.

    Args:
        layers: frozen.
        capacity: of the cache, in bytes.
        above: how many layers come after them.
        explicit: whether attention is told by a mask that it is causal, and not by itself.
    """

    def __init__(
        self, layers: Sequence[nn.Module], capacity: int, above: int, explicit: bool = False
    ):
        super().__init__()
        self.above = above
        self.explicit = explicit
        self.layers = nn.ModuleList(layers)
        self.rows: RowKeys | None = None
        self.cache = ActivationCache(capacity)

    @staticmethod
    def install(module: nn.Module, targets: Sequence[str], capacity: int) -> FrozenPrefix | None:
        """Put a cache under the lowest adapted layer of `module`, in place.

        Returns:
            The cache, or None where there is nothing to cache: the lowest layer is adapted, the
            adapted layers are in no numbered list, they are passed several times over (ALBERT), or
            they need more than hidden states and a padding mask (relative positions, causal masks)
            and are not among :data:`DECODERS`.
        """
        matches = [re.match(r"(.*?)\.(\d+)\.", name) for name in targets]
        if capacity == 0 or not matches or any(match is None for match in matches):
            return None
        paths = {match.group(1) for match in matches if match}
        lowest = min(int(match.group(2)) for match in matches if match)
        if len(paths) != 1 or lowest == 0:
            return None
        layers = module.get_submodule(paths.pop())
        if not isinstance(layers, nn.ModuleList) or not _passed_once(layers, module):
            return None
        if not (_takes_only_a_mask(layers[0], module) or _known_decoder(module)):
            return None
        attention = getattr(getattr(module, "config", None), "_attn_implementation", None)
        below = [layers[i] for i in range(lowest)]
        prefix = FrozenPrefix(below, capacity, len(layers) - lowest, attention == "eager")
        layers[0] = prefix
        for i in range(1, lowest):
            layers[i] = _Skip()
        return prefix

    def forward(
        self, hidden: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """``hidden [n, T, d]`` from the embeddings to the first adapted layer's input."""
        if self.rows is None:
            for layer in self.layers:
                hidden = layer(hidden, attention_mask, *args, **kwargs)
            return hidden
        causal = kwargs.get("position_embeddings") is not None
        lengths, items = _lengths(attention_mask, hidden), []
        for i, (row, length) in enumerate(zip(self.rows, lengths, strict=True)):
            mask = None
            if causal and attention_mask is not None and self.explicit:
                mask = attention_mask[i : i + 1, :, :length, :length]
            given = _first(kwargs, length) if causal else kwargs
            items.append(self._item(row, hidden[i : i + 1, :length], mask, args, given))
        return torch.nn.utils.rnn.pad_sequence(items, batch_first=True)

    def _item(
        self, row: Hashable, hidden: Tensor, mask: Tensor | None, args: Any, kwargs: Any
    ) -> Tensor:
        item = self.cache.get(row)
        if item is None:
            with torch.no_grad():
                for layer in self.layers:
                    hidden = layer(hidden, mask, *args, **kwargs)
            item = hidden[0].clone()
            self.cache.put(row, item)
        return item


class _Skip(nn.Module):
    """A frozen layer whose work the prefix has done."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The input."""
        return hidden


def _takes_only_a_mask(layer: nn.Module, module: nn.Module) -> bool:
    names = list(inspect.signature(layer.forward).parameters)
    elsewhere = ("position", "relative", "rel_embeddings", "query_states", "alibi")
    positions = any(part in name for name in names for part in elsewhere)
    decoder = getattr(getattr(module, "config", None), "is_decoder", False)
    return not positions and not decoder and names[1:2] == ["attention_mask"]


def _known_decoder(module: nn.Module) -> bool:
    """Whether each token sees all before it, in every layer."""
    config = getattr(module, "config", None)
    windows = getattr(config, "sliding_window", None) is not None
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    known = getattr(config, "model_type", None) in DECODERS
    return known and not windows and kinds == {"full_attention"}


def _first(kwargs: Any, length: int) -> dict[str, Any]:
    """What a rotary decoder's layers are given, for the first `length` positions."""
    cos, sin = kwargs["position_embeddings"]
    cut = {**kwargs, "position_embeddings": (cos[:, :length], sin[:, :length])}
    if isinstance(kwargs.get("position_ids"), Tensor):
        cut["position_ids"] = kwargs["position_ids"][:, :length]
    return cut


def _passed_once(layers: nn.ModuleList, module: nn.Module) -> bool:
    number = getattr(getattr(module, "config", None), "num_hidden_layers", len(layers))
    return bool(number == len(layers))


def _lengths(attention_mask: Tensor | None, hidden: Tensor) -> list[int]:
    """Tokens of each row, from the mask as attention gets it: ``[n, 1, T, T]``, of which the last
    token's row sees all others, or ``[n, T]``.
    """
    n, T = hidden.shape[:2]
    if attention_mask is None:
        return [T] * n
    visible = attention_mask if attention_mask.dim() == 2 else attention_mask[:, 0, -1]
    kept = visible if visible.dtype == torch.bool else visible >= 0
    if attention_mask.dim() == 2:
        kept = visible > 0
    return kept.expand(n, T).sum(1).tolist()
