"""The methods that the paper compares, and what its tables call them."""

from __future__ import annotations

from rolora.methods import METHODS

LORA, FFA, FLEXLORA, ROLORA = PAPER_METHODS = ("fedit", "ffa_lora", "flexlora", "rolora")
PAPER_NAMES = {LORA: "LoRA (FedAvg)"}
"""Where the paper has another name than :data:`rolora.methods.METHODS`."""


def title_of(method: str) -> str:
    """What tables and figures call a method."""
    return PAPER_NAMES.get(method, METHODS[method].title)
