"""The stages by name. To add one: one file beside these, one line in `STAGES`."""

from __future__ import annotations

from rolora.core.errors import BadInput, nearest
from rolora.stages.base import At, BadMessage, Stage, StageOptions, change, changed
from rolora.stages.int8 import Int8

STAGES: dict[str, type[Stage]] = {"int8": Int8}


def stage_named(name: str) -> type[Stage]:
    """The stage called `name`.

    Raises:
        BadInput: no such stage; the known ones are listed.
    """
    if name not in STAGES:
        raise BadInput(f"stages: {name!r} is no stage{nearest(name, STAGES)}")
    return STAGES[name]


def make_stage(options: StageOptions) -> Stage:
    """The stage that `options` names and sets."""
    return stage_named(options.name)(options)


__all__ = [
    "STAGES",
    "At",
    "BadMessage",
    "Stage",
    "StageOptions",
    "change",
    "changed",
    "make_stage",
    "stage_named",
]
