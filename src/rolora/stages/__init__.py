"""The stages by name. To add one: one file beside these, one line in `STAGES`."""

from __future__ import annotations

from collections.abc import Sequence

from rolora.core.errors import BadInput, nearest
from rolora.stages.base import At, BadMessage, Coding, Stage, StageOptions, change, changed
from rolora.stages.chain import Chain
from rolora.stages.rounding import Int4, Int8
from rolora.stages.top_k import TopK

STAGES: dict[str, type[Stage]] = {"int8": Int8, "int4": Int4, "top_k": TopK}


def stage_named(name: str) -> type[Stage]:
    """The stage called `name`.

    Raises:
        BadInput: no such stage; the known ones are listed.
    """
    if name not in STAGES:
        raise BadInput(f"stages: {name!r} is no stage{nearest(name, STAGES)}")
    return STAGES[name]


def make_chain(options: Sequence[StageOptions]) -> Chain:
    """The stages that `options` name and set, in order."""
    return Chain(tuple(stage_named(each.name)(each) for each in options))


__all__ = [
    "STAGES",
    "At",
    "BadMessage",
    "Chain",
    "Coding",
    "Stage",
    "StageOptions",
    "change",
    "changed",
    "make_chain",
    "stage_named",
]
