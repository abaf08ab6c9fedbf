"""The methods by name. To add one: one file beside these, one line in `METHODS`."""

from __future__ import annotations

from rolora.core.errors import BadInput, nearest
from rolora.methods.base import Method, Setting
from rolora.methods.fedex_lora import FedExLoRA
from rolora.methods.fedit import FedIT
from rolora.methods.fedsa_lora import FedSALoRA
from rolora.methods.ffa_lora import FFALoRA
from rolora.methods.flexlora import FlexLoRA
from rolora.methods.flora import FLoRA
from rolora.methods.rolora import RoLoRA

METHODS: dict[str, type[Method]] = {
    "rolora": RoLoRA,
    "fedit": FedIT,
    "ffa_lora": FFALoRA,
    "flexlora": FlexLoRA,
    "flora": FLoRA,
    "fedex_lora": FedExLoRA,
    "fedsa_lora": FedSALoRA,
}


def make_method(name: str, setting: Setting) -> Method:
    """The method called `name`.

    Raises:
        BadInput: no such method (the known ones are listed), or one that lacks an option set.
    """
    if name not in METHODS:
        raise BadInput(f"method.name = {name!r}: unknown method{nearest(name, METHODS)}")
    return METHODS[name](setting)


__all__ = ["METHODS", "Method", "Setting", "make_method"]
