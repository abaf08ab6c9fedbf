"""What is wrong with a model, its weights or its tokenizer, said before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from rolora.core.errors import BadInput


def check_plain(name: str, config: Any) -> None:
    """Refuse a quantised model: what LoRA's layers compute with is its weights.

    Args:
        name: of the model, for the message.
        config: Transformers' config.

    Raises:
        BadInput: the config says how the weights are quantised.
    """
    found = getattr(config, "quantization_config", None)
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, Mapping) else None
    kind = f" ({method})" if method else ""
    raise BadInput(
        f"model.name = {name!r}: is quantised{kind}; give the model that it was made from, whose "
        "weights are plain numbers"
    )


def check_weights(name: str, module: nn.Module, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that is another model's: only a head or a pooler may be drawn anew.

    Args:
        name: of the model, for the message.
        module: as loaded.
        info: Transformers' ``missing_keys`` and ``mismatched_keys``, the latter with both shapes.

    Raises:
        BadInput: weights of the body are missing or of another shape.
    """
    body = str(module.base_model_prefix) + "."
    for key, found, wanted in sorted(info["mismatched_keys"]):
        if key.startswith(body):
            raise BadInput(
                f"model.name = {name!r}: its config.json does not fit its weights: {key} is "
                f"{list(found)} there and must be {list(wanted)}"
            )
    lacking = sorted(
        key
        for key in info["missing_keys"]
        if key.startswith(body) and re.search(r"\.\d+\.|embed", key.removeprefix(body))
    )
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise BadInput(
            f"model.name = {name!r}: its weights lack {lacking[0]}{more}, which its config.json "
            "asks for"
        )


def check_language_weights(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that is no whole language model: nothing of one is drawn anew.

    Args:
        name: of the model, for the message.
        info: Transformers' ``missing_keys`` and ``mismatched_keys``, the latter with both shapes.

    Raises:
        BadInput: a weight is missing or of another shape.
    """
    for key, found, wanted in sorted(info["mismatched_keys"]):
        raise BadInput(
            f"model.name = {name!r}: its config.json does not fit its weights: {key} is "
            f"{list(found)} there and must be {list(wanted)}"
        )
    lacking = sorted(info["missing_keys"])
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise BadInput(
            f"model.name = {name!r}: its weights lack {lacking[0]}{more}; take a language model "
            "with its output layer"
        )


def check_bitsandbytes(quantization: str, device: torch.device) -> None:
    """Refuse quantisation where it cannot be had.

    Raises:
        BadInput: there is no GPU, or bitsandbytes is not installed.
    """
    if device.type != "cuda":
        raise BadInput(
            f"model.quantization = {quantization!r}: bitsandbytes needs an NVIDIA GPU, and the "
            f"device is {device.type}; leave it out here (dtype: bfloat16 halves the weights)"
        )
    if find_spec("bitsandbytes") is None:
        raise BadInput(
            f"model.quantization = {quantization!r}: bitsandbytes is missing; "
            "pip install 'rolora[quantized]'"
        )


def check_tokenizer(name: str, module: nn.Module, tokenizer: Any) -> None:
    """Refuse a tokenizer that knows no words, or more of them than the model.

    Raises:
        BadInput: its files are missing, or are another model's.
    """
    vocabulary = tokenizer.get_vocab()
    if not vocabulary.keys() - set(tokenizer.all_special_tokens):
        raise BadInput(
            f"model.name = {name!r}: its tokenizer knows special tokens alone; are its files "
            "(tokenizer.json, vocab.txt or the like) missing there?"
        )
    embeddings = module.get_input_embeddings()  # type: ignore[operator]
    rows, last = len(embeddings.weight), max(vocabulary.values())
    if last >= rows:
        raise BadInput(
            f"model.name = {name!r}: its tokenizer gives tokens up to {last}, its embeddings hold "
            f"{rows} (0 to {rows - 1}); the tokenizer is another model's"
        )


def check_positions(module: nn.Module, max_length: int) -> None:
    """Refuse texts longer than the model has positions for.

    Raises:
        BadInput: `max_length` is beyond them.
    """
    positions = num_positions(module)
    if positions is not None and max_length > positions:
        raise BadInput(
            f"data.max_length = {max_length}: the model has positions for {positions} tokens; "
            f"take at most {positions}"
        )


def num_positions(module: nn.Module) -> int | None:
    """Tokens that the model has positions for, or None where it knows no bound.

    RoBERTa and its kin count positions from the one after padding's, so that 514 serve 512 tokens.
    """
    bound = getattr(module.config, "max_position_embeddings", None)
    if not isinstance(bound, int) or bound < 1:
        return None
    for name, layer in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(layer, nn.Embedding):
            padding = layer.padding_idx
            return layer.num_embeddings - (0 if padding is None else padding + 1)
    return bound
