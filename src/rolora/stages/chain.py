"""Stages one after another, and what they lose, fed back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from rolora.core.errors import BadInput
from rolora.core.types import Adapter, Layout, Update, kept_by_part, named_by_part
from rolora.stages.base import At, BadMessage, Coding, Stage

FEEDBACK = "feedback"


@dataclass(frozen=True)
class Chain:
    """What becomes of a change before it travels, and of what came.

    The first stage that loses something adds what was lost of a part's last change to its next one:
    its own loss and that of every stage after it, so that it is kept once, and in the part's own
    form. Errors do not add up over rounds then (Seide et al., Interspeech 2014; Karimireddy et al.,
    Error Feedback Fixes SignSGD, ICML 2019, arXiv 1901.09847).
    """

    stages: tuple[Stage, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stages)

    @property
    def codes(self) -> bool:
        """Whether a stage takes fewer bytes."""
        return any(isinstance(stage, Coding) for stage in self.stages)

    @property
    def takes_any(self) -> bool:
        """Whether it also encodes what is not finite."""
        return bool(self.stages) and self.stages[0].takes_any

    def check(self, turns: bool) -> None:
        """Refuse what does not go together.

        Args:
            turns: whether clients change the basis of a factor between rounds.

        Raises:
            BadInput: with the field, its value, and what would be right.
        """
        for stage in self.stages:
            stage.check(turns)
        coding = [stage.options for stage in self.stages if isinstance(stage, Coding)]
        for before, after in pairwise(coding):
            if after.feedback and not before.feedback:
                raise BadInput(
                    f"stages: {after.name} has feedback: true and {before.name} before it has not; "
                    "what all lose is fed back before the first; set both alike"
                )

    def layout(self, wanted: Layout) -> Layout:
        """The layout of the message for parts of the layout `wanted`; where something codes them,
        one vector a part.
        """
        return _joined(self._layouts(wanted)[-1]) if self.codes else wanted

    def encode(
        self, update: Update, kept: Mapping[str, Tensor], at: At
    ) -> tuple[Update, Mapping[str, Tensor]]:
        """The update as it travels, and what is kept for the next one.

        Args:
            update: its parts are the change.
            kept: what was kept before, by name.
            at: round and client.
        """
        whole, first, own = update, self._feeding(), dict[str, Tensor]()
        for number, stage in enumerate(self.stages):
            if number == first:
                layout = update.parts.layout
                fed = update.parts.flat + kept_by_part(FEEDBACK, kept, layout).flat
                whole = update = replace(update, parts=Adapter(layout, fed))
            update, more = stage.encode(update, kept, at)
            own |= more
        sent = update
        if self.codes:
            sent = replace(update, parts=Adapter(_joined(update.parts.layout), update.parts.flat))
        if first is None:
            return sent, own
        back = self._decoded(update, whole.parts.layout, self.stages[first:])
        lost = Adapter(whole.parts.layout, whole.parts.flat - back.parts.flat)
        return sent, {**own, **named_by_part(FEEDBACK, lost)}

    def decode(self, update: Update, wanted: Layout) -> Update:
        """The update as it was, up to what the stages lose.

        Args:
            update: as it came; nothing in it is to be believed.
            wanted: the layout that its parts must have then.

        Raises:
            BadMessage: it is not what :meth:`encode` makes.
        """
        inner = self._layouts(wanted)[-1]
        if update.parts.layout != self.layout(wanted):
            raise BadMessage("its parts are not those of a change so coded")
        update = replace(update, parts=Adapter(inner, update.parts.flat))
        return self._decoded(update, wanted, self.stages)

    def _decoded(self, update: Update, wanted: Layout, stages: Sequence[Stage]) -> Update:
        layouts = list(_layouts(wanted, stages))
        for stage, layout in zip(reversed(stages), reversed(layouts[:-1]), strict=True):
            update = stage.decode(update, layout)
        return update

    def _layouts(self, wanted: Layout) -> list[Layout]:
        return list(_layouts(wanted, self.stages))

    def _feeding(self) -> int | None:
        """The number of the first stage that loses something, where that is fed back."""
        numbers = (n for n, s in enumerate(self.stages) if isinstance(s, Coding))
        first = next(numbers, None)
        return first if first is not None and self.stages[first].options.feedback else None


NO_STAGES = Chain()


def _layouts(wanted: Layout, stages: Sequence[Stage]) -> Iterator[Layout]:
    """Before the first stage, and after each."""
    yield wanted
    for stage in stages:
        wanted = stage.layout(wanted)
        yield wanted


def _joined(layout: Layout) -> Layout:
    """One vector a part: whoever decodes knows how it is divided."""
    return Layout.of({("coded", part): (size,) for part, size in layout.part_sizes.items()})
