"""The way down: what a round changed, coded for clients that hold what it adds to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from rolora.core.types import Adapter, Increment, Layout, Part, ServerState, Update
from rolora.stages.base import At, change, changed
from rolora.stages.chain import Chain

NOBODY = -1
"""The client of a change that is the server's."""


def coded_down(down: Chain, seed: int, old: ServerState, new: ServerState) -> ServerState:
    """`new` as everybody can come to hold it: each part that changed is its old version plus a
    coded change, and what the coding lost is kept for the part's next change (DoubleSqueeze, Tang
    et al., ICML 2019, arXiv 1905.05957).

    So the server, whoever takes part in every round, and whoever comes back after some, start from
    the same bits; the checkpoint, the evaluation and the final adapter are of these parts.

    Args:
        down: the stages of the way down.
        seed: of the run.
        old: before the round; new: after it.
    """
    if not down:
        return new
    parts, kept, steps = dict(new.parts), dict(new.optimizer), list(old.increments)
    for part in sorted(new.parts.parts & old.parts.parts):
        since, version = old.versions[part], new.versions[part]
        if since == version:
            continue
        before, after = old.parts.select({part}), new.parts.select({part})
        moved = Update(NOBODY, 1, change(after, before))
        sent, lost = down.encode(moved, kept, At(seed, new.round, NOBODY, part))
        step = Increment(part, since, version, sent.parts.flat, sent.side)
        parts.update(advanced(before, [step], down))
        kept |= lost
        steps = remembered([*steps, step], part, after.layout)
    return replace(new, parts=Adapter.of(parts), optimizer=kept, increments=tuple(steps))


def advanced(parts: Adapter, steps: Iterable[Increment], down: Chain) -> Adapter:
    """A part after increments, the same on every machine.

    Raises:
        BadMessage: one is not what a stage makes.
    """
    for step in steps:
        shape = {("coded", step.part): tuple(step.codes.shape)}
        sent = Update(NOBODY, 1, Adapter(Layout.of(shape), step.codes), side=step.side)
        parts = changed(parts, down.decode(sent, parts.layout).parts)
    return parts


def remembered(steps: Sequence[Increment], part: Part, layout: Layout) -> list[Increment]:
    """`steps` without those of `part` that are too old: whoever lacks so many that the part itself,
    of this `layout`, takes fewer bytes is sent that.
    """
    left = 4 * layout.size
    kept: list[Increment] = []
    for step in reversed(steps):
        if step.part == part:
            left -= sum(map(_bytes, (step.codes, *step.side.values())))
        if step.part != part or left >= 0:
            kept.insert(0, step)
    return kept


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
