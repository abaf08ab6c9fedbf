"""The methods that the paper compares, and what its tables call them."""

from __future__ import annotations

from typing import Any, Literal

from rolora.methods import METHODS

LORA, FFA, FLEXLORA, ROLORA = PAPER_METHODS = ("fedit", "ffa_lora", "flexlora", "rolora")
PAPER_NAMES = {LORA: "LoRA (FedAvg)"}
"""Where the paper has another name than :data:`rolora.methods.METHODS`."""


RECOMMENDED = "recommended"
"""Beside methods, a line of comparisons: RoLoRA with the gauge and carried moments, as the preset
``gauge`` has it; it was recommended before the calibrated loss was tried."""
RECOMMENDED_TITLE = "RoLoRA, gauge, carried"
"""What tables and figures call that line."""


def options_of_line(line: str) -> Any:
    """The section ``method`` of a line's runs."""
    return {"name": ROLORA, "gauge": "orthonormal"} if line == RECOMMENDED else {"name": line}


def state_of_line(line: str) -> Literal["transport", "reset"]:
    """``optimizer.state`` of a line's runs."""
    return "transport" if line == RECOMMENDED else "reset"


def title_of(method: str) -> str:
    """What tables and figures call a method."""
    return PAPER_NAMES.get(method, METHODS[method].title)
