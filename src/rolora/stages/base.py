"""What a stage is: it changes what travels, on the client's side, and undoes it on the server's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rolora.core.errors import BadInput
from rolora.core.section import Section
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter, Layout, Part, Update, is_side, laid_out


class StageOptions(Section):
    """A stage in the section ``stages`` of a config; each adds its own options."""

    name: str


class CodingOptions(StageOptions):
    """`feedback` adds what was lost of a part's last change to its next one."""

    feedback: bool = True


class BadMessage(ValueError):  # noqa: N818
    """A message that a stage cannot decode; what is wrong with it."""


@dataclass(frozen=True)
class At:
    """Where a stage stands: in which round of which run, for which client; on the way down, for
    which part.
    """

    seed: int
    round: int
    client: int
    part: Part = ""

    def generator(self, *names: str | int) -> torch.Generator:
        """A generator for what `names` say, of this client in this round."""
        of = (*names, self.part) if self.part else names
        return torch_generator(self.seed, *of, self.round, self.client)


class Stage(ABC):
    """One step between what changed and what travels.

    It sees the *change* of the parts since a start that both sides know, and not the parts
    themselves. Whoever sends encodes in the order of the config, whoever receives decodes in the
    opposite one (:class:`rolora.stages.chain.Chain`).
    """

    Options: ClassVar[type[StageOptions]]
    title: ClassVar[str]
    adds: ClassVar[bool] = False
    """Whether what it sends are changes that can be added up as they are."""
    takes_any: ClassVar[bool] = False
    """Whether it also encodes what is not finite; else that goes to the server as it is, which
    refuses it by name.
    """

    def __init__(self, options: Any):
        self.options = options

    def check(self, turns: bool) -> None:  # noqa: B027
        """Refuse what does not go together.

        Args:
            turns: whether clients change the basis of a factor between rounds.

        Raises:
            BadInput: with the field, its value, and what would be right.
        """

    def layout(self, wanted: Layout) -> Layout:
        """The layout of what :meth:`encode` makes of parts of the layout `wanted`."""
        return wanted

    @abstractmethod
    def encode(
        self, update: Update, kept: Mapping[str, Tensor], at: At
    ) -> tuple[Update, Mapping[str, Tensor]]:
        """The update as it travels, and what the stage itself keeps for its next one.

        Args:
            update: its parts are the change.
            kept: what was kept before, by name.
            at: round and client.
        """

    @abstractmethod
    def decode(self, update: Update, wanted: Layout) -> Update:
        """The update as it was, up to what the stage loses.

        Args:
            update: as it came, its parts in the stage's :meth:`layout`; nothing else in it is to be
                believed.
            wanted: the layout that its parts must have then.

        Raises:
            BadMessage: it is not what :meth:`encode` makes.
        """


class Coding(Stage):
    """A stage that loses something to take fewer bytes. What it loses is fed back, so that it does
    not add up over rounds (:class:`rolora.stages.chain.Chain`).
    """

    Options = CodingOptions

    def check(self, turns: bool) -> None:
        """The gauge changes the basis in which a kept error lives."""
        if turns and self.options.feedback:
            raise BadInput(
                f"stages: {self.options.name} with feedback: true keeps what coding lost, whose "
                "basis the method changes between rounds (method.gauge, or FedSVD's SVD); set "
                "feedback: false"
            )


def change(parts: Adapter, start: Adapter) -> Adapter:
    """``parts - start``; a side part is a change already and stays as it is."""
    return Adapter(parts.layout, parts.flat - _origin(start, parts.layout))


def changed(start: Adapter, change: Adapter) -> Adapter:
    """``start + change``, the inverse of :func:`change`."""
    return Adapter(change.layout, change.flat + _origin(start, change.layout))


def _origin(start: Adapter, layout: Layout) -> Tensor:
    return laid_out(start.without(set(filter(is_side, start.parts))), layout)
