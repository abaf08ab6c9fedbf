"""LoRA layers with K clients side by side, and the way between a model and an adapter."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rolora.config import LoraSettings
from rolora.core.errors import BadInput
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter, Key, Layout, Part
from rolora.model.dropout import dropped, layer_stream
from rolora.model.footprint import tokens_at_once
from rolora.model.frozen_linear import frozen_product, speed_up_frozen_linears
from rolora.model.low_rank import low_rank_update
from rolora.model.prefix import FrozenPrefix, RowKeys


class StackedLoRA(nn.Module):
    """A frozen linear layer with K clients' low-rank updates: ``y = W x + D x + s B A x``.

    The first axis of the input is client-major: rows ``[k n, (k + 1) n)`` are client k's. With
    ``K = 1`` this is the ordinary LoRA layer.

    Attributes:
        A: ``[K, r, d_in]``; B: ``[K, d_out, r]``; scaling: ``[K, 1, 1]``.
        delta: ``[d_out, d_in]``, added to the base weight, or None.
        dropout_p: probability of dropping an input of A where the rows have streams.
        streams: int64 ``[K n]``, the random numbers of the rows that pass
            (:mod:`rolora.model.dropout`); None drops nothing.
    """

    def __init__(self, base: nn.Module, dropout_p: float = 0.0, name: str = ""):
        super().__init__()
        self.base = base
        self.dropout_p = dropout_p
        self.stream = layer_stream(name)
        self.A: Tensor | None = None
        self.B: Tensor | None = None
        self.scaling = torch.ones(1, 1, 1)
        self.delta: Tensor | None = None
        self.streams: Tensor | None = None

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self._sides()[0]

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return self._sides()[1]

    def _sides(self) -> tuple[int, int]:
        if isinstance(self.base, nn.Linear):  # whose weight may be packed, several in a byte
            return self.base.in_features, self.base.out_features
        d_out, d_in = self.base_weight().shape
        return d_in, d_out

    def base_weight(self) -> Tensor:
        """``W [d_out, d_in]``; Conv1D stores the transpose."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight.T if isinstance(self.base, Conv1D) else weight

    def forward(self, x: Tensor, base_output: Tensor | None = None) -> Tensor:
        """``x [K n, ..., d_in]`` to ``[K n, ..., d_out]``.

        Args:
            x: the input, client-major.
            base_output: ``W x`` where the caller has it already.
        """
        y = self.base(x) if base_output is None else base_output
        if self.delta is not None:
            y = y + frozen_product(x, self.delta)
        if self.A is None or self.B is None:
            return y
        K, A, B = len(self.A), _held(self.A, x), _held(self.B, x)
        rows, inputs = y.reshape(K, -1, y.shape[-1]), self._dropout(x).reshape(K, -1, x.shape[-1])
        return low_rank_update(rows, inputs, A, B, self.scaling.to(x)).view(y.shape)

    def _dropout(self, x: Tensor) -> Tensor:
        if self.streams is None:
            return x
        return dropped(x, self.dropout_p, self.streams.to(x.device), self.stream)


def _held(factor: Tensor, x: Tensor) -> Tensor:
    """``[K, ...]``, or ``[1, ...]`` where all clients hold one and the same tensor; where the
    layer's input lies, as a model may be spread over several devices.
    """
    return (factor[:1] if factor.stride(0) == 0 else factor).to(x)


class StackedLinear(nn.Module):
    """A linear layer of a head with K clients' weights ``[K, d_out, d_in]``, ``[K, d_out]``."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.weight: Tensor = base.weight.detach()[None]
        self.bias: Tensor | None = None if base.bias is None else base.bias.detach()[None]

    def forward(self, x: Tensor) -> Tensor:
        """``x [K n, ..., d_in]`` to ``[K n, ..., d_out]``."""
        K = self.weight.shape[0]
        y = x.reshape(K, -1, x.shape[-1]) @ self.weight.to(x.dtype).transpose(1, 2)
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)[:, None]
        return y.view(*x.shape[:-1], y.shape[-1])


class StackedLayerNorm(nn.Module):
    """A layer norm of a head with K clients' weights ``[K, d]``."""

    def __init__(self, base: nn.LayerNorm):
        super().__init__()
        self.eps, self.shape = base.eps, base.normalized_shape
        self.weight: Tensor = base.weight.detach()[None]
        self.bias: Tensor | None = None if base.bias is None else base.bias.detach()[None]

    def forward(self, x: Tensor) -> Tensor:
        """``x [K n, ..., d]`` to the same shape."""
        K = self.weight.shape[0]
        y = nn.functional.layer_norm(x, self.shape, eps=self.eps).reshape(K, -1, x.shape[-1])
        y = y * self.weight.to(x.dtype)[:, None]
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)[:, None]
        return y.view(x.shape)


@dataclass(frozen=True)
class HeadParameter:
    """Where a head parameter lives: its module and attribute."""

    module: nn.Module
    attribute: str


class LoraModel:
    """A frozen model with stacked LoRA layers in place, and its head.

    Args:
        module: the model; it takes a batch as keywords and returns logits, or an object that has
            them. It is changed in place: frozen, in evaluation mode (no dropout but LoRA's own),
            its target layers replaced.
        targets: names of the linear layers to adapt.
        head: names of the head's parameters.
        dropout_p: LoRA dropout.
        train_head: whether the head's parameters are replaced by stacked ones, to be trained.
        cache_bytes: bound of the cache of what the layers below the lowest target compute; LoRA
            dropout does not reach them.
    """

    def __init__(
        self,
        module: nn.Module,
        targets: Sequence[str],
        head: Sequence[str] = (),
        dropout_p: float = 0.0,
        train_head: bool = False,
        cache_bytes: int = 0,
    ):
        self.module = module.eval().requires_grad_(False)
        config: Any = getattr(module, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # one that rows pass by themselves would take for one text
        self.head_names = tuple(head)
        self.frozen_head = {name: module.get_parameter(name).detach() for name in head}
        self.layers = {name: _replace_by_lora(module, name, dropout_p) for name in targets}
        self.head = _stacked_head(module, head) if train_head else {}
        speed_up_frozen_linears(module)
        self.device = next(module.parameters()).device
        self.dropout_p = dropout_p
        self.tokens_at_once = tokens_at_once(module, self.device)
        self.prefix = FrozenPrefix.install(module, targets, cache_bytes)
        self.recomputes = False

    def twin(self) -> LoraModel:
        """Another set of LoRA layers over the same base weights, for a worker of its own."""
        shared: list[Any] = [*self.module.parameters(), *self.module.buffers()]
        if self.prefix is not None:
            shared.append(self.prefix.cache)
        return copy.deepcopy(self, {id(item): item for item in shared})

    def layout(self, rank: int) -> Layout:
        """The layout of ``A``, ``B`` and the head at `rank`."""
        shapes: dict[Key, tuple[int, ...]] = {}
        for name, layer in self.layers.items():
            shapes[name, "A"], shapes[name, "B"] = (rank, layer.d_in), (layer.d_out, rank)
        for name, tensor in self.frozen_head.items():
            shapes[name, "head"] = tuple(tensor.shape)
        return Layout.of(shapes)

    def initial_adapter(self, rank: int, seed: int, *names: str | int) -> Adapter:
        """A uniform in ``+-1/sqrt(d_in)`` as PEFT draws it, ``B = 0``, and the model's head."""
        tensors: dict[Key, Tensor] = {}
        for name, layer in self.layers.items():
            generator = torch_generator(seed, "lora_A", name, *names)
            bound = 1.0 / math.sqrt(layer.d_in)
            A = torch.rand(rank, layer.d_in, generator=generator) * (2 * bound) - bound
            tensors[name, "A"], tensors[name, "B"] = A, torch.zeros(layer.d_out, rank)
        for name, tensor in self.frozen_head.items():
            tensors[name, "head"] = tensor.float().cpu()
        return Adapter.of(tensors)

    def mount(self, tensors: Mapping[Key, Tensor], scaling: Sequence[float]) -> None:
        """Put K clients' tensors in place: each has a leading axis of K.

        Modules without factors in `tensors` run their base alone; ``D`` ``[d_out, d_in]`` has no
        leading axis, since the base is shared.
        """
        s = torch.tensor(list(scaling), device=self.device).view(-1, 1, 1)
        for name, layer in self.layers.items():
            layer.A, layer.B = tensors.get((name, "A")), tensors.get((name, "B"))
            layer.scaling = s
            delta = tensors.get((name, "D"))
            weight = layer.base_weight()
            layer.delta = None if delta is None else delta.to(weight.device, weight.dtype)
        for name, slot in self.head.items():
            setattr(slot.module, slot.attribute, tensors[name, "head"])

    def logits(
        self,
        batch: Mapping[str, Tensor],
        rows: RowKeys | None = None,
        streams: Tensor | None = None,
    ) -> Tensor:
        """``[rows, labels]`` in float32.

        Args:
            batch: the model's inputs, on any device.
            rows: a key for each row, by which frozen activations are found again; None computes
                everything.
            streams: int64 ``[rows]``, each row's random numbers for LoRA dropout; None drops
                nothing.
        """
        inputs = {name: value.to(self.device) for name, value in batch.items()}
        with self._passing(rows, streams):
            output = self.module(**inputs)
        logits = output if isinstance(output, Tensor) else output.logits
        return logits.float()

    def hidden_states(
        self,
        batch: Mapping[str, Tensor],
        rows: RowKeys | None = None,
        streams: Tensor | None = None,
    ) -> Tensor:
        """What the body of a model of Transformers hands to its head, ``[rows, T, d]``.

        Args:
            batch, rows, streams: as in :meth:`logits`.
        """
        inputs = {name: value.to(self.device) for name, value in batch.items()}
        body: Any = self.module.base_model
        with self._passing(rows, streams):
            states: Tensor = body(**inputs).last_hidden_state
        return states

    @contextmanager
    def _passing(self, rows: RowKeys | None, streams: Tensor | None) -> Iterator[None]:
        """Let the layers know which rows pass, which a model's own forward cannot tell them."""
        layers = [] if streams is None else list(self.layers.values())
        try:
            if self.prefix is not None:
                self.prefix.rows = rows
            for layer in layers:
                layer.streams = streams
            yield
        finally:
            if self.prefix is not None:
                self.prefix.rows = None
            for layer in layers:
                layer.streams = None

    def num_parameters(self) -> int:
        """Number of the base model's parameters, head included."""
        own = sum(p.numel() for p in self.module.parameters())
        return own + sum(
            self.frozen_head[name].numel() for name in self.head if name in self.frozen_head
        )


def _replace_by_lora(module: nn.Module, name: str, dropout_p: float) -> StackedLoRA:
    base = module.get_submodule(name)
    if not isinstance(base, nn.Linear | Conv1D):
        raise BadInput(
            f"lora.target_modules: {name} is a {type(base).__name__}; "
            "LoRA adapts Linear and Conv1D layers"
        )
    layer = StackedLoRA(base, dropout_p, name)
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, layer)
    return layer


_STACKED: dict[type[nn.Module], Any] = {nn.Linear: StackedLinear, nn.LayerNorm: StackedLayerNorm}


def _stacked_head(module: nn.Module, names: Iterable[str]) -> dict[str, HeadParameter]:
    slots, stacked = {}, {}
    for name in names:
        owner, _, attribute = name.rpartition(".")
        if owner not in stacked:
            base = module.get_submodule(owner)
            if type(base) not in _STACKED:
                raise BadInput(
                    f"model.head: {owner} is a {type(base).__name__}, which cannot be trained for "
                    "several clients at once; use head: frozen"
                )
            stacked[owner] = _STACKED[type(base)](base)
            parent, _, last = owner.rpartition(".")
            setattr(module.get_submodule(parent), last, stacked[owner])
        slots[name] = HeadParameter(stacked[owner], attribute)
    return slots


def check_ranks(model: LoraModel, lora: LoraSettings) -> None:
    """Refuse factors wider than the layers that they change.

    Raises:
        BadInput: a rank is beyond the smaller side of an adapted layer.
    """
    name, layer = min(model.layers.items(), key=lambda item: min(item[1].d_in, item[1].d_out))
    width = min(layer.d_in, layer.d_out)
    if lora.max_rank > width:
        field = f"r = {lora.r}" if lora.client_ranks is None else f"client_ranks: {lora.max_rank}"
        raise BadInput(
            f"lora.{field}: {name} is {layer.d_out} x {layer.d_in}, so that more than rank "
            f"{width} has no use; take at most {width}"
        )


def peft_parts(name: str, part: Part) -> str:
    """The key of a tensor in PEFT's saved adapter."""
    if part == "head":
        return f"base_model.model.{name}"
    return f"base_model.model.{name}.lora_{part}.weight"
