"""Loading a pretrained model and its tokenizer, the head drawn from the seed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rolora.config import Config, ModelConfig
from rolora.core.errors import BadInput
from rolora.core.quiet import quiet
from rolora.core.seeds import torch_generator
from rolora.model.checkpointing import checkpoint_layers
from rolora.model.checks import (
    check_language_weights,
    check_plain,
    check_tokenizer,
    check_weights,
)
from rolora.model.completion import check_output_head
from rolora.model.first_token import keep_first_token
from rolora.model.footprint import outgrows
from rolora.model.lora import LoraModel
from rolora.model.precision import loaded_dtype, placement
from rolora.model.sources import PACKAGED, UNPACKED, resolve_source, source_of
from rolora.model.targets import match_targets


@dataclass(frozen=True)
class Kind:
    """Which model of Transformers a task loads.

    Args:
        problem_type: in Transformers' words, as the model's saved config has it.
        auto_class: the class of Transformers that loads it.
        peft_type: PEFT's name of the task.
    """

    problem_type: str | None = None
    auto_class: str = "AutoModelForSequenceClassification"
    peft_type: str = "SEQ_CLS"

    @property
    def generates(self) -> bool:
        """Whether it is a causal language model."""
        return self.auto_class == "AutoModelForCausalLM"


@dataclass(frozen=True)
class Pretrained:
    """A model as it was loaded.

    Args:
        module: a model of Transformers.
        tokenizer: its tokenizer.
        head: names of the parameters outside the pretrained body, and of those that the
            checkpoint lacked.
        source: the short name, directory or hub name that it came from, as it was given.
        kind: which kind of model it is.
        drawn: names of the parameters that the checkpoint lacked.
    """

    module: nn.Module
    tokenizer: Any
    head: tuple[str, ...]
    source: str
    kind: Kind = Kind()
    drawn: frozenset[str] = frozenset()

    @property
    def model_type(self) -> str:
        """Transformers' name of the architecture."""
        return str(self.module.config.model_type)  # type: ignore[union-attr]


def load_tokenizer(config: ModelConfig, **options: Any) -> Any:
    """The tokenizer of a model; one without a padding token pads with its end-of-text token.

    Args:
        config: of the model.
        options: to be saved with the tokenizer, such as ``padding_side``.

    Raises:
        BadInput: nothing loadable under that name.
    """
    from transformers import AutoTokenizer

    source = source_of(config.name)
    with quiet(), _loading(config.name, source.path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            source.path, trust_remote_code=False, **source.options, **options
        )
    return padded(tokenizer, config.name)


def padded(tokenizer: Any, name: str) -> Any:
    """The tokenizer, which pads with its end-of-text token where it has no padding token.

    Raises:
        BadInput: it has neither.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise BadInput(f"model.name = {name!r}: its tokenizer has no padding token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_pretrained(
    config: ModelConfig, names: Sequence[str], seed: int, kind: Kind = Kind()
) -> Pretrained:
    """Load the model with an output for each of `names`; what the checkpoint lacks comes from
    `seed`. A language model has the outputs that it has.

    Raises:
        BadInput: nothing loadable under that name, weights or a tokenizer that do not fit, or a
            device or dtype that is not there.
    """
    if kind.generates:
        return _language_model(config, kind)
    return _classifier(config, names, seed, kind)


def _classifier(config: ModelConfig, names: Sequence[str], seed: int, kind: Kind) -> Pretrained:
    import transformers

    if config.quantization is not None:
        raise BadInput(
            f"model.quantization = {config.quantization!r}: is for language models (task: "
            "causal_lm); leave it out"
        )
    source = resolve_source(config.name)
    device = resolve_device(config.device)
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    attention = _attention(device, dtype)
    with quiet(), _loading(config.name, source):
        check_plain(
            config.name, transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        )
    with quiet(), _loading(config.name, source), torch.random.fork_rng():
        module, info = getattr(transformers, kind.auto_class).from_pretrained(
            source,
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
            problem_type=kind.problem_type,
            attn_implementation=attention,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    check_weights(config.name, module, info)
    fresh = {*info["missing_keys"], *(item[0] for item in info["mismatched_keys"])}
    draw_parameters(module, fresh, seed)
    body = module.base_model_prefix + "."
    head = [n for n, _ in module.named_parameters() if n in fresh or not n.startswith(body)]
    tokenizer = load_tokenizer(config)
    check_tokenizer(config.name, module, tokenizer)
    if module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id
    module.to(device=device, dtype=dtype)
    return Pretrained(module, tokenizer, tuple(head), config.name, kind, frozenset(fresh))


def _language_model(config: ModelConfig, kind: Kind) -> Pretrained:
    """A causal language model in its own precision; its output layer is frozen with the rest."""
    import transformers

    if config.head != "frozen":
        raise BadInput(
            f"model.head = {config.head!r}: a language model's output layer is never trained; use "
            "frozen"
        )
    source, device = source_of(config.name), resolve_device(config.device)
    with quiet(), _loading(config.name, source.path, "language model"):
        own = transformers.AutoConfig.from_pretrained(
            source.path, trust_remote_code=False, **source.options
        )
        check_plain(config.name, own)
    dtype = loaded_dtype(config, own.dtype, device)
    placed = placement(config, device, own, dtype)
    with quiet(), _loading(config.name, source.path, "language model"), torch.random.fork_rng():
        module, info = getattr(transformers, kind.auto_class).from_pretrained(
            source.path,
            dtype=dtype,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            **source.options,
            **placed,
        )
    check_language_weights(config.name, info)
    # For whoever generates with it; training pads by itself.
    tokenizer = load_tokenizer(config, padding_side="left")
    check_tokenizer(config.name, module, tokenizer)
    if module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id
    if not placed:
        module.to(device=device)
    check_output_head(config.name, module.eval())
    return Pretrained(module, tokenizer, (), config.name, kind)


def _attention(device: torch.device, dtype: torch.dtype) -> str | None:
    """For a classifier's short texts CPU kernels of scaled-dot-product attention are slower in bf16
    than plain products. Else it is Transformers' choice: those kernels, which keep no weights of
    pairs of tokens, or plain products where a model has no use for them.
    """
    return "eager" if device.type == "cpu" and dtype == torch.bfloat16 else None


def draw_parameters(module: nn.Module, names: set[str], seed: int) -> None:
    """Draw the named parameters from `seed`: normal weights, zero biases, unit norm weights."""
    std = getattr(getattr(module, "config", None), "initializer_range", 0.02)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name not in names:
                continue
            owner, _, attribute = name.rpartition(".")
            if attribute == "bias":
                parameter.zero_()
            elif "norm" in type(module.get_submodule(owner)).__name__.lower():
                parameter.fill_(1.0)
            else:
                generator = torch_generator(seed, "head", name)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def resolve_device(name: str) -> torch.device:
    """``auto`` is cuda, then mps, then cpu.

    Raises:
        BadInput: torch knows no such device, or it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise BadInput(
            f"model.device = {name!r}: not available here; use auto, cpu, cuda or mps"
        ) from None
    return device


def build_lora_model(pretrained: Pretrained, config: Config) -> LoraModel:
    """Freeze the model and put stacked LoRA layers on its target modules, in place.

    Raises:
        BadInput: gradient checkpointing is asked for, and the architecture has no layers for it.
    """
    targets = match_targets(pretrained.module, pretrained.model_type, config.lora, pretrained.head)
    model = LoraModel(
        pretrained.module,
        targets,
        head=pretrained.head,
        dropout_p=config.lora.dropout,
        train_head=config.model.head != "frozen",
        cache_bytes=config.engine.cache_mb * 2**20,
    )
    keep_first_token(pretrained.module, pretrained.model_type)
    wanted = config.model.gradient_checkpointing
    if wanted == "auto":
        wanted = outgrows(pretrained.module, config, model.device)
    if wanted and not checkpoint_layers(model) and config.model.gradient_checkpointing is True:
        raise BadInput(
            f"model.gradient_checkpointing = true: a {pretrained.model_type} has no layers that "
            "Transformers would recompute; leave it at auto"
        )
    return model


@contextmanager
def _loading(name: str, source: str, what: str = "sequence classifier") -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # readers of others' files raise all sorts
        first = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        known = ", ".join([*PACKAGED, *UNPACKED])
        raise BadInput(
            f"model.name = {name!r}: no {what} could be loaded from {source}"
            f"{offline}; give a known name ({known}), a hub name or a directory ({first})"
        ) from None
