"""PEFT's format, in which a run's adapter is left, and the merged model."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from rolora.config import Config
from rolora.core.errors import BadInput
from rolora.core.quiet import quiet
from rolora.core.types import Adapter, Key, scaling_of
from rolora.model.card import write_card
from rolora.model.loading import Pretrained
from rolora.model.lora import LoraModel
from rolora.records.atomic import write_atomic
from rolora.records.schema import Summary

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
SUMS = "SHA256SUMS"


def save_adapter(
    directory: Path, parts: Adapter, model: LoraModel, pretrained: Pretrained, config: Config
) -> None:
    """Write all that it takes to use an adapter, beside its base model, whole or not at all.

    ``adapter_config.json`` and ``adapter_model.safetensors``; the tokenizer's files;
    ``config.json`` with the names of the labels and the padding token; a card, ``README.md``;
    ``SHA256SUMS`` of all but the card (for ``sha256sum -c``).

    ``PeftModel.from_pretrained(base, directory)`` then computes what the run's model computes.
    The head is saved with the factors, since without it they mean nothing. Where the method moved
    the base weight (``D``), ``D + s B A`` is written as factors of the rank that it needs.

    Args:
        directory: replaced if it is there.
        parts: ``A``, ``B``, perhaps ``D``, and the head where it was trained.
        model: for the head that was not trained.
        pretrained: what was loaded.
        config: of the run.
    """
    factors, rank, alpha = plain_factors(parts, config)
    head = {
        name: parts.get((name, "head"), frozen).float().cpu()
        for name, frozen in model.frozen_head.items()
    }
    tensors = {f"base_model.model.{name}": tensor for name, tensor in head.items()}
    for (module, part), tensor in factors.items():
        tensors[f"base_model.model.{module}.lora_{part}.weight"] = tensor
    peft_config = adapter_config(pretrained, model, list(head), rank, alpha)
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    payload = save({name: t.contiguous() for name, t in tensors.items()}, {"format": "pt"})
    text = json.dumps(peft_config, indent=2, sort_keys=True)
    files = dict(zip(ADAPTER_FILES, (text.encode(), payload), strict=True))
    for name, content in files.items():
        write_atomic(temporary / name, content)
    _save_company(temporary, pretrained)
    saved = sorted(path for path in temporary.iterdir() if path.is_file())
    sums = "".join(f"{_sha256(path.read_bytes())}  {path.name}\n" for path in saved)
    write_atomic(temporary / SUMS, sums.encode())
    write_card(temporary, pretrained, config)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


def _save_company(directory: Path, pretrained: Pretrained) -> None:
    """The tokenizer, and what the model is told of labels and padding."""
    if pretrained.tokenizer is None:  # not a model of texts
        return
    config: Any = copy.copy(pretrained.module.config)
    config.name_or_path = pretrained.source  # no path of this machine
    with quiet():
        pretrained.tokenizer.save_pretrained(directory)
        config.save_pretrained(directory)


def describe_adapters(
    directory: Path, pretrained: Pretrained, config: Config, summary: Summary
) -> None:
    """Write the cards of a finished run's adapters again, with what came out.

    Args:
        directory: where :func:`save_adapter` wrote one, and perhaps those of single clients under
            ``clients/``.
        pretrained: what they are for.
        config: of the run.
        summary: of the run.
    """
    for adapter in (directory, *sorted(directory.glob("clients/*"))):
        write_card(adapter, pretrained, config, summary)


def plain_factors(parts: Adapter, config: Config) -> tuple[Mapping[Key, Tensor], int, float]:
    """A and B alone, their rank and their lora_alpha, with ``D`` folded in where there is one."""
    rank = config.lora.max_rank
    if "D" not in parts.parts:
        return parts.select({"A", "B"}), rank, config.lora.lora_alpha
    scaling, whole = scaling_of(config.lora.lora_alpha, rank), {}
    for module in parts.select({"D"}).modules:
        product = parts[module, "D"] + scaling * parts[module, "B"] @ parts[module, "A"]
        left, values, right = torch.linalg.svd(product.double(), full_matrices=False)
        needed = int((values > 1e-7 * values[0]).sum())
        whole[module] = (left[:, :needed] * values[:needed], right[:needed], needed)
    rank = max(1, *(needed for _, _, needed in whole.values()))
    factors: dict[Key, Tensor] = {}
    for module, (B, A, needed) in whole.items():
        factors[module, "A"] = torch.nn.functional.pad(A.float(), (0, 0, 0, rank - needed))
        factors[module, "B"] = torch.nn.functional.pad(B.float(), (0, rank - needed))
    return factors, rank, float(rank)


def adapter_config(
    pretrained: Pretrained, model: LoraModel, head: list[str], rank: int, alpha: float
) -> dict[str, Any]:
    """PEFT's config: exact module names, and the head's modules as modules_to_save."""
    from peft import LoraConfig, TaskType

    body = f"{pretrained.module.base_model_prefix}."
    owners = [name.removeprefix(body).split(".")[0] for name in head]
    config = LoraConfig(
        task_type=TaskType(pretrained.kind.peft_type),
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(model.layers),
        fan_in_fan_out=all(isinstance(layer.base, Conv1D) for layer in model.layers.values()),
        modules_to_save=sorted(set(owners)) or None,
        inference_mode=True,
        base_model_name_or_path=pretrained.source,
    ).to_dict()
    return {name: jsonable(value) for name, value in config.items()}


def jsonable(value: Any) -> Any:
    """Sets as sorted lists, enums as their values."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)


def check_adapter(directory: Path, notice: Callable[[str], None]) -> None:
    """See whether a saved adapter is as it was written.

    Args:
        directory: that :func:`save_adapter` wrote.
        notice: told where there are no checksums, as an earlier version left none.

    Raises:
        BadInput: a file is missing or has changed.
    """
    for name in ADAPTER_FILES:
        if not (directory / name).is_file():
            raise BadInput(f"{directory}: not a finished adapter, it holds no {name}")
    if not (directory / SUMS).exists():
        notice(f"{directory} holds no {SUMS}: whether it is sound cannot be seen")
        return
    lines = (directory / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    sums = {Path(name).name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in dict.fromkeys([*ADAPTER_FILES, *sums]):
        path = directory / name
        if not path.is_file() or sums.get(name) != _sha256(path.read_bytes()):
            raise BadInput(
                f"{path}: is damaged, its checksum is not that of {SUMS}; take it from a copy, or "
                "run again"
            )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def save_merged(
    directory: Path,
    adapter: Path,
    pretrained: Pretrained,
    notice: Callable[[str], None] = warnings.warn,
) -> None:
    """Write base and saved adapter as one model, loadable by ``from_pretrained``, and its
    tokenizer.

    Args:
        directory: where to.
        adapter: a directory that :func:`save_adapter` wrote.
        pretrained: the base model, freshly loaded; it is changed.
        notice: as for :func:`check_adapter`.

    Raises:
        BadInput: the adapter is damaged, or does not fit the model.
    """
    whole = with_adapter(adapter, pretrained, notice)
    with quiet():
        whole.merge_and_unload().save_pretrained(directory)
        pretrained.tokenizer.save_pretrained(directory)


def with_adapter(
    adapter: Path, pretrained: Pretrained, notice: Callable[[str], None] = warnings.warn
) -> Any:
    """The base model with a saved adapter on it: a ``PeftModel``.

    Args:
        adapter: a directory that :func:`save_adapter` wrote.
        pretrained: the base model, freshly loaded; it is changed.
        notice: as for :func:`check_adapter`.

    Raises:
        BadInput: the adapter is damaged, or does not fit the model.
    """
    from peft import PeftModel

    check_adapter(adapter, notice)
    try:
        with quiet():
            return PeftModel.from_pretrained(pretrained.module, str(adapter))
    except Exception as error:  # readers of others' files raise all sorts
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise BadInput(f"{adapter}: no adapter that fits {pretrained.source} ({reason})") from None
