"""What every method may be told in a config; a method adds its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rolora.core.section import NonNegative, Section


class Options(Section):
    """The section ``method`` of a config.

    `prox_mu` is FedProx's mu (:mod:`rolora.methods.fedprox`), 0 for none; every method takes it.
    """

    name: Annotated[str, Field(description="one of rolora.methods.METHODS")] = "rolora"
    prox_mu: NonNegative = 0.0
