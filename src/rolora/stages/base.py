"""What a stage is: it changes what travels, on the client's side, and undoes it on the server's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rolora.core.section import Section
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter, Layout, Update, is_side, laid_out


class StageOptions(Section):
    """A stage in the section ``stages`` of a config; each adds its own options."""

    name: str


class BadMessage(ValueError):  # noqa: N818
    """A message that a stage cannot decode; what is wrong with it."""


@dataclass(frozen=True)
class At:
    """Where a stage stands: in which round of which run, for which client."""

    seed: int
    round: int
    client: int

    def generator(self, *names: str | int) -> torch.Generator:
        """A generator for what `names` say, of this client in this round."""
        return torch_generator(self.seed, *names, self.round, self.client)


class Stage(ABC):
    """One step between a client's update and the reduction.

    It sees the *change* of the uploaded parts since the round's start, which server and client
    both know, and not the parts themselves. A client encodes in the order of the config, the server
    decodes in the opposite one.
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

    @abstractmethod
    def encode(
        self, update: Update, kept: Mapping[str, Tensor], at: At
    ) -> tuple[Update, Mapping[str, Tensor]]:
        """The update as it travels, and what the client keeps for its next round.

        Args:
            update: its parts are the change.
            kept: what this stage kept before, by name.
            at: round and client.
        """

    @abstractmethod
    def decode(self, update: Update, wanted: Layout) -> Update:
        """The update as the client had it, up to what the stage loses.

        Args:
            update: as it came; nothing in it is to be believed.
            wanted: the layout that its parts must have.

        Raises:
            BadMessage: it is not what :meth:`encode` makes.
        """


def change(parts: Adapter, start: Adapter) -> Adapter:
    """``parts - start``; a side part is a change already and stays as it is."""
    return Adapter(parts.layout, parts.flat - _origin(start, parts.layout))


def changed(start: Adapter, change: Adapter) -> Adapter:
    """``start + change``, the inverse of :func:`change`."""
    return Adapter(change.layout, change.flat + _origin(start, change.layout))


def _origin(start: Adapter, layout: Layout) -> Tensor:
    return laid_out(start.without(set(filter(is_side, start.parts))), layout)
