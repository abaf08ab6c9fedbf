"""What a reducer is: it takes updates one by one and gives what the server goes on from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from rolora.core.section import Section
from rolora.core.types import Adapter, Update

R = TypeVar("R")


class ReducerOptions(Section):
    """What a config says of its reducer in ``server.reducer``; each adds its own options."""

    name: str = "mean"


class Reducer(ABC, Generic[R]):
    """Makes one of many updates, which it sees one by one, in any order.

    It holds no more than it needs: a mean is one accumulator however many clients there are.
    """

    Options: ClassVar[type[ReducerOptions]] = ReducerOptions
    title: ClassVar[str]
    weighted: ClassVar[bool] = True
    """Whether an update counts by its weight."""

    @classmethod
    def of(cls, options: Any, clients: int, start: Adapter) -> Self:
        """A new one for a round.

        Args:
            options: as they were set.
            clients: how many are asked.
            start: the global parts that they start from.
        """
        return cls()

    @property
    def least(self) -> int:
        """With how many updates it holds what it promises; fewer are no round."""
        return 1

    @abstractmethod
    def add(self, update: Update) -> None:
        """Take one update.

        Raises:
            ValueError: its layout is not that of the first.
        """

    @abstractmethod
    def result(self) -> R:
        """What the updates reduce to.

        Raises:
            ValueError: nothing was added.
        """

    def limit(self) -> float:
        """The most that the weight of an update counts; inf: all count as they are."""
        return math.inf

    def reduce(self, updates: Iterable[Update]) -> R:
        """The result over `updates`."""
        for update in updates:
            self.add(update)
        return self.result()


@dataclass(frozen=True)
class Reduced:
    """One adapter in place of many.

    Args:
        parts: the reduced parts.
        clients: how many updates they were made of.
    """

    parts: Adapter
    clients: int
