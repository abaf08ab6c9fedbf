"""A model that a program hands over, in place of one that is loaded."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rolora.config import ModelConfig
from rolora.core.errors import BadInput
from rolora.model.checks import check_plain, check_tokenizer
from rolora.model.completion import check_output_head
from rolora.model.loading import Kind, Pretrained, load_tokenizer, padded, resolve_device


def adopt_pretrained(
    module: nn.Module, tokenizer: Any, config: ModelConfig, names: Sequence[str], kind: Kind
) -> Pretrained:
    """The caller's model, of which structure alone is copied: the weights are shared and stay as
    they are.

    Args:
        module: a model of Transformers.
        tokenizer: its tokenizer; None: the one under the name from which the model came.
        config: ``device`` and ``dtype`` count; ``auto`` leaves the model where and as it is.
        names: of the model's outputs.
        kind: which kind of model the task takes.

    Raises:
        BadInput: it is no model of Transformers, has adapters already, or has another number of
            outputs; or there is no tokenizer.
    """
    name = name_of(module)
    _check(module, name, names, kind)
    if tokenizer is None:
        tokenizer = load_tokenizer(ModelConfig(name=name))
    own = _sharing(module)
    if config.device != "auto":
        own.to(resolve_device(config.device))
    if config.dtype != "auto":
        own.to(getattr(torch, config.dtype))
    tokenizer = padded(tokenizer, name)
    check_tokenizer(name, own, tokenizer)
    settings: Any = own.config
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
    if kind.generates:
        check_output_head(name, own.eval())
        return Pretrained(own, tokenizer, (), name, kind)
    settings.id2label = dict(enumerate(names))
    settings.label2id = {label: i for i, label in enumerate(names)}
    settings.problem_type = kind.problem_type
    body = f"{own.base_model_prefix}."
    head = [n for n, _ in own.named_parameters() if not n.startswith(body)]
    return Pretrained(own, tokenizer, tuple(head), name, kind)


def name_of(module: nn.Module) -> str:
    """Where a model came from; else its class."""
    known = getattr(getattr(module, "config", None), "name_or_path", "")
    return str(known) or type(module).__name__


def labels_of(module: nn.Module) -> tuple[str, ...] | None:
    """The names that a model gives its outputs; None where they are only numbered."""
    found = getattr(getattr(module, "config", None), "id2label", None) or {}
    names = tuple(str(found[i]) for i in sorted(found))
    if len(set(names)) < 2 or all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return None
    return names


def _check(module: nn.Module, name: str, names: Sequence[str], kind: Kind) -> None:
    from transformers import PreTrainedModel

    if not isinstance(module, PreTrainedModel):
        raise BadInput(
            f"model = {type(module).__name__}: must be a model of Transformers (PreTrainedModel); "
            "another kind of net is handed over with a task of its own, whose backbone it is"
        )
    if getattr(module, "peft_config", None):
        raise BadInput(
            f"model = {type(module).__name__}: has adapters already; merge them "
            "(merge_and_unload()), or give the model that they were put on"
        )
    check_plain(name, module.config)
    if kind.generates:
        if module.get_output_embeddings() is None:
            raise BadInput(
                f"model = {type(module).__name__}: foretells no tokens; load it as a "
                f"{kind.auto_class}"
            )
        return
    outputs = getattr(module.config, "num_labels", None)
    if outputs != len(names):
        raise BadInput(
            f"model = {type(module).__name__}: has {outputs} outputs, and the data have "
            f"{len(names)} ({', '.join(names[:10])}); load it with num_labels={len(names)}"
        )


def _sharing(module: nn.Module) -> Any:
    """A copy over the same numbers: frozen, and with nothing of the original's to change."""
    shared: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()
    }
    shared |= {id(buffer): buffer for buffer in module.buffers()}
    return copy.deepcopy(module, shared)
