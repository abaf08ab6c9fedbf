"""The methods by name. To add one: one file beside these, one line in `METHODS`; in a package of
your own, an entry point in the group ``rolora.methods``.
"""

from __future__ import annotations

from typing import Any

from rolora.core.catalogue import Catalogue
from rolora.core.errors import BadInput, nearest
from rolora.methods.base import Method, Setting
from rolora.methods.fedex_lora import FedExLoRA
from rolora.methods.fedit import FedIT
from rolora.methods.fedrot_lora import FedRotLoRA
from rolora.methods.fedsa_lora import FedSALoRA
from rolora.methods.fedsvd import FedSVD
from rolora.methods.ffa_lora import FFALoRA
from rolora.methods.flexlora import FlexLoRA
from rolora.methods.flora import FLoRA
from rolora.methods.la_lora import LALoRA
from rolora.methods.options import Options
from rolora.methods.rolora import RoLoRA
from rolora.methods.scaffold import Scaffold

METHODS: Catalogue[Method] = Catalogue(
    "rolora.methods",
    Method,  # type: ignore[type-abstract]
    {
        "rolora": RoLoRA,
        "fedit": FedIT,
        "ffa_lora": FFALoRA,
        "flexlora": FlexLoRA,
        "flora": FLoRA,
        "fedex_lora": FedExLoRA,
        "fedsa_lora": FedSALoRA,
        "scaffold": Scaffold,
        "fedsvd": FedSVD,
        "fedrot_lora": FedRotLoRA,
        "la_lora": LALoRA,
    },
)


def method_named(name: str) -> type[Method]:
    """The method called `name`.

    Raises:
        BadInput: no such method; the known ones are listed.
    """
    if name not in METHODS:
        raise BadInput(f"method.name = {name!r}: unknown method{nearest(name, METHODS)}")
    return METHODS[name]


def options_of(name: str, **options: Any) -> Options:
    """The options of the method called `name`, those not given at their defaults.

    Raises:
        BadInput: no such method.
    """
    return method_named(name).Options(name=name, **options)


def named_options(method: Method) -> Options:
    """The options of a method that is an object, under the name of its class."""
    options: Options = method.options.model_copy(update={"name": type(method).__name__})
    return options


def make_method(options: Options, setting: Setting) -> Method:
    """The method that `options` names and sets.

    Raises:
        BadInput: no such method, or one that does not go with the setting.
    """
    return method_named(options.name)(setting, options)


__all__ = [
    "METHODS",
    "Method",
    "Options",
    "Setting",
    "make_method",
    "method_named",
    "named_options",
    "options_of",
]
