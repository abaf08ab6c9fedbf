"""What a pass through a model keeps for its backward pass, and how much of it is let through at
once.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import torch
from torch import nn

from rolora.config import Config

PASS_BYTES = {"cpu": 512 * 2**20, "mps": 2 * 2**30}
"""What the tokens that pass together may keep, by kind of device; on a GPU a part of what is free.
"""
OF_FREE = 0.4
"""Of a GPU's free memory."""
ROOM = 0.8
"""Of the free memory, what all workers may keep before their layers are recomputed instead."""


def token_bytes(module: nn.Module) -> int | None:
    """What a transformer keeps of each token for its backward pass; None where its config does not
    tell.

    A layer with frozen weights keeps its two inputs, queries, keys, values and what attention makes
    of them, and of a gated feed-forward network the gate, what the activation makes of it and the
    other factor. On SmolLM2-135M that counts up to 0.97 MB in float32.

    Args:
        module: of Transformers.
    """
    config: Any = getattr(module, "config", None)
    width = getattr(config, "hidden_size", None)
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(width, int) or not isinstance(layers, int):
        return None
    inner = getattr(config, "intermediate_size", None)
    inner = inner if isinstance(inner, int) else 4 * width
    size = module.get_input_embeddings().weight.dtype.itemsize  # type: ignore[operator]
    return int(layers * (6 * width + 3 * inner) * size)


def tokens_at_once(module: nn.Module, device: torch.device) -> int | None:
    """How many tokens should pass together; None: as many as there are. A single row of each
    stacked client passes however long it is.
    """
    each = token_bytes(module)
    if each is None:
        return None
    if device.type == "cuda":
        return max(1, int(OF_FREE * free_memory(device) / each))
    return max(1, PASS_BYTES.get(device.type, PASS_BYTES["cpu"]) // each)


def default_workers(device: torch.device) -> int:
    """One a core on a CPU, else one."""
    return len(os.sched_getaffinity(0)) if device.type == "cpu" else 1


def outgrows(module: nn.Module, config: Config, device: torch.device) -> bool:
    """Whether what a run keeps for its backward passes does not fit the free memory, however few
    rows pass together; no where the model does not tell.
    """
    each = token_bytes(module)
    if each is None:
        return False
    longest = config.data.max_length
    batch = longest * config.optimizer.batch_size
    tokens = max(longest, min(batch, tokens_at_once(module, device) or batch))
    workers = config.engine.workers or default_workers(device)
    return workers * tokens * each > ROOM * free_memory(device)


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken where a model lies."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
