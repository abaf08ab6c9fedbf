"""The settings of what comes after RoLoRA: its own, MNIST's and the language task's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from experiments.beyond.variants import Variant, variants
from experiments.glue.config import GlueConfig
from experiments.methods import ROLORA
from experiments.mnist.runs import MnistConfig
from rolora.core.section import Positive, Rate, Section

SMALL_GLUE: Mapping[str, Any] = {
    "small": True,
    "tasks": ("sst2",),
    "clients": (20,),
    "methods": (ROLORA,),
    "rounds": 180,
    "rates": (2e-3, 5e-3, 1.5e-2),
    "local_steps": 5,
    "seeds": (0, 1, 2, 3, 4),
}


class BeyondMnist(MnistConfig):
    """The MNIST half, with two changes to the experiment ``mnist``.

    SGD has momentum, so that there is a state to keep; AdamW, whose steps have the same length
    however far apart the clients' gradients are, learns far less here. With as many hidden units
    as pixels A and B are of one size, so that a round sends as many bytes whichever factor trains.
    """

    width: Positive = 784
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (
        *(2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1),
    )


class BeyondGlue(GlueConfig):
    """The language half: ``glue --preset table1 --small`` with 20 clients, five seeds, half the
    local steps and half as many rounds again.
    """

    preset: Literal["table1"] = "table1"

    @model_validator(mode="before")
    @classmethod
    def _small_by_default(cls, given: Any) -> Any:  # comes before the inherited one
        return {**SMALL_GLUE, **given} if isinstance(given, Mapping) else given


class BeyondConfig(Section):
    """The experiment.

    `on` which task; `variants` (None: all) beside RoLoRA itself, which is always among them;
    `server_momentum` is that of the variant of this name. `mnist` and `glue` hold the settings of
    the two experiments; what these say of methods, figures, rate seeds and workers is of no account
    here. `workers` runs are made at a time, by default one a core.
    """

    on: Literal["both", "mnist", "glue"] = "both"
    variants: tuple[str, ...] | None = None
    server_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    mnist: BeyondMnist = BeyondMnist()
    glue: BeyondGlue = BeyondGlue()
    workers: Positive | None = None

    @model_validator(mode="after")
    def _known(self) -> BeyondConfig:
        known = variants(self.server_momentum)
        unknown = [key for key in self.variants or () if key not in known]
        if unknown:
            raise ValueError(f"variants = {unknown}: known are {', '.join(known)}")
        return self

    def compared(self) -> list[Variant]:
        """RoLoRA, and the variants that are asked for."""
        known = variants(self.server_momentum).values()
        return [v for v in known if self.variants is None or v.key in (ROLORA, *self.variants)]
