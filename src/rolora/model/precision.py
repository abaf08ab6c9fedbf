"""In which numbers a language model is loaded, and onto what: never a float32 copy on the way."""

from __future__ import annotations

from typing import Any

import torch

from rolora.config import ModelConfig
from rolora.model.checks import check_bitsandbytes

ROOM = 0.8
"""Of a GPU's free memory, what weights may take before they are spread over several."""


def loaded_dtype(config: ModelConfig, own: torch.dtype | None, device: torch.device) -> torch.dtype:
    """The numbers that weights are loaded in: those asked for, or the checkpoint's own.

    A float16 checkpoint is taken in bfloat16, which is as large: to train in float16 needs a scaled
    loss. A CPU without instructions for bfloat16 is many times as slow in it as in float32.

    Args:
        config: ``dtype`` counts.
        own: the checkpoint's; None where it does not say.
        device: where it will lie.
    """
    if config.dtype != "auto":
        return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    half = own in (torch.float16, torch.bfloat16)
    return (
        torch.bfloat16 if half and (device.type != "cpu" or cpu_has_bfloat16()) else torch.float32
    )


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices faster than float32 ones."""
    known = torch.backends.cpu.get_cpu_capability()
    fast: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(fast()) or "SVE" in known


def placement(
    config: ModelConfig, device: torch.device, settings: Any, dtype: torch.dtype
) -> dict[str, Any]:
    """Keywords of ``from_pretrained`` that say where weights go and how they are packed.

    Args:
        config: ``quantization`` and ``device`` count.
        device: what ``device`` came to.
        settings: Transformers' config of the model.
        dtype: of its numbers where they are not quantised.

    Raises:
        BadInput: quantisation is asked for where there is no GPU or no bitsandbytes.
    """
    options: dict[str, Any] = {}
    if config.quantization is not None:
        check_bitsandbytes(config.quantization, device)
        options["quantization_config"] = _bitsandbytes(config.quantization, dtype)
    if device.type == "cuda":
        several = config.device == "auto" and torch.cuda.device_count() > 1
        bits = {"8bit": 8, "4bit": 4}.get(config.quantization or "", 8 * dtype.itemsize)
        spread = several and _bytes(settings, bits) > ROOM * torch.cuda.mem_get_info(device)[0]
        # accelerate puts layers on the GPUs in order; hidden states go from one to the next.
        options["device_map"] = "auto" if spread else {"": device}
    return options


def _bitsandbytes(quantization: str, dtype: torch.dtype) -> Any:
    """As QLoRA has it: NF4 with quantised constants; products in `dtype`."""
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _bytes(settings: Any, bits: int) -> float:
    """What the weights of a model of these settings take, without making one."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        module = AutoModelForCausalLM.from_config(settings)
    return sum(parameter.numel() for parameter in module.parameters()) * bits / 8
