"""Which layers of a model are adapted: names, ``all-linear`` or an expression, as PEFT has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from rolora.config import LoraSettings
from rolora.core.errors import BadInput, nearest

DEFAULTS = {
    "albert": ("query", "value"),
    "camembert": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
    "ernie": ("query", "value"),
    "mobilebert": ("query", "value"),
    "modernbert": ("Wqkv",),
    "mpnet": ("q", "v"),
    "phi3": ("qkv_proj",),
}
"""By Transformers' model type, where PEFT has no default: the projections of queries and values, as
PEFT takes them elsewhere.
"""
ALL = "all-linear"


def match_targets(
    module: nn.Module, model_type: str, lora: LoraSettings, head: Sequence[str] = ()
) -> list[str]:
    """The names of the layers to adapt, matched as PEFT matches them.

    Modules that own a parameter in `head` are left out: they are saved whole; and so is a language
    model's output embedding, which PEFT leaves out of ``all-linear`` and which never trains here. A
    layer that a model uses several times over, as ALBERT does, is adapted once, for all its uses.

    Raises:
        BadInput: no layer matches; the message lists the names of the linear layers.
    """
    owners = {name.rpartition(".")[0] for name in head}
    embeds: Any = getattr(module, "get_output_embeddings", lambda: None)()
    linear = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and name not in owners and layer is not embeds
    ]
    wanted = lora.target_modules if lora.target_modules is not None else _default(model_type)
    if not wanted:
        reason = f"no default for model type {model_type!r}" if wanted is None else "names none"
        raise BadInput(f"lora.target_modules: {reason}; name some of {_last_names(linear)}")
    if not isinstance(wanted, str):
        return _by_name(wanted, linear, lora.layers)
    if wanted.lower() != ALL:
        return _by_expression(wanted, linear, lora.layers)
    numbers = _numbers(lora.layers, linear)
    numbered = ((name, _LAYER.match(name)) for name in linear)
    return [name for name, at in numbered if numbers is None or (at and int(at[1]) in numbers)]


def _default(model_type: str) -> Sequence[str] | str | None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    theirs = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
    return DEFAULTS.get(model_type, theirs)


def _last_names(linear: Sequence[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in linear}))


def _by_expression(wanted: str, linear: Sequence[str], layers: str) -> list[str]:
    """The layers whose whole name an expression matches."""
    if layers != "all":
        raise BadInput(
            f"lora.layers = {layers!r}: target_modules = {wanted!r} is an expression, which says "
            "itself which layers; take layers: all"
        )
    try:
        found = [name for name in linear if re.fullmatch(wanted, name)]
    except re.error as error:
        raise BadInput(
            f"lora.target_modules = {wanted!r}: no regular expression ({error}); give a list of "
            f"names, {ALL}, or an expression for whole names"
        ) from None
    if not found:
        example = linear[-1] if linear else "none"
        raise BadInput(
            f"lora.target_modules = {wanted!r}: as an expression it matches the whole name of no "
            f"linear layer (as {example}); for layers by their last name give a list of some of "
            f"{_last_names(linear)}"
        )
    return found


def _by_name(wanted: Sequence[str], linear: Sequence[str], layers: str) -> list[str]:
    """The layers that are named, by their whole name or the end of it, among those numbered."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    known = sorted({name.rpartition(".")[2] for name in linear})
    for target in wanted:
        if not any(name == target or name.endswith("." + target) for name in linear):
            raise BadInput(
                f"lora.target_modules: {target!r} matches no linear layer{nearest(target, known)}"
            )
    numbers = _numbers(layers, linear)
    config = LoraConfig(target_modules=list(wanted), layers_to_transform=numbers)
    found = [name for name in linear if check_target_module_exists(config, name)]
    if not found:
        raise BadInput(f"lora.layers = {layers!r}: no target module lies in these layers")
    return found


_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")
"""Where PEFT sees the number of a layer in a module's name."""


def layer_numbers(layers: str) -> list[int] | None:
    """``all`` -> None, ``12-14,20`` -> [12, 13, 14, 20].

    Raises:
        BadInput: a range ends before it begins.
    """
    if layers == "all":
        return None
    numbers: list[int] = []
    for item in layers.split(","):
        first, _, last = item.partition("-")
        if int(last or first) < int(first):
            raise BadInput(f"lora.layers = {layers!r}: {item} ends before it begins")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def _numbers(layers: str, linear: Sequence[str]) -> list[int] | None:
    """The numbers of the layers, all of which the model has."""
    numbers = layer_numbers(layers)
    if numbers is None:
        return None
    last = max((int(at[1]) for at in map(_LAYER.match, linear) if at), default=None)
    if last is None:
        raise BadInput(f"lora.layers = {layers!r}: the model has no numbered layers; use all")
    if max(numbers) > last:
        raise BadInput(f"lora.layers = {layers!r}: the model has layers 0 to {last}, no others")
    return numbers
