"""Gradient checkpointing: each transformer layer keeps its input alone, and passes once more on the
way back.

Source: Chen, Xu, Zhang & Guestrin (arXiv 1604.06174), by ``torch.utils.checkpoint``. Transformers'
own switch works in training mode alone, in which a frozen model would drop activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rolora.model.lora import LoraModel, StackedLoRA


def checkpoint_layers(model: LoraModel) -> int:
    """Have the layers of `model` recomputed in the backward pass, in place; same bits, less memory.

    Returns:
        how many layers; 0 where its architecture has none that Transformers would checkpoint.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.module.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        adapters = [m for m in layer.modules() if isinstance(m, StackedLoRA)]
        layer.forward = partial(_passed, layer.forward, adapters)
    model.recomputes = bool(layers)
    return len(layers)


def _passed(
    forward: Callable[..., Any], adapters: Sequence[StackedLoRA], *args: Any, **kwargs: Any
) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    streams = [adapter.streams for adapter in adapters]
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,  # the only random draws are the streams'
        context_fn=lambda: (nullcontext(), _again(adapters, streams)),
        **kwargs,
    )


@contextmanager
def _again(adapters: Sequence[StackedLoRA], streams: Sequence[Tensor | None]) -> Iterator[None]:
    """The rows' streams as they were, which the model has forgotten by the time of the way back."""
    try:
        for adapter, own in zip(adapters, streams, strict=True):
            adapter.streams = own
        yield
    finally:
        for adapter in adapters:
            adapter.streams = None
