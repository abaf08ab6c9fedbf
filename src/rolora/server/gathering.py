"""How a round's updates come from its clients: each by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rolora.core.types import Plan, Update
from rolora.reducers import Reducer
from rolora.server.engine import Engine
from rolora.server.screen import Screen


@dataclass
class Gathering:
    """One attempt at a round's updates: screened, and reduced as they come.

    Attributes:
        engine: where clients run.
        screen: what came, and from whom nothing sound.
        reducer: what becomes of the sound ones.
        enough: how many of them are a round.
        up, down: bytes beside updates and plans.
    """

    engine: Engine
    screen: Screen
    reducer: Reducer[Any]
    enough: int
    up: int = 0
    down: int = 0

    def gather(self, plans: Sequence[Plan]) -> Exception | None:
        """Have the plans carried out, and add what is sound to the reducer; what that could not
        take, if so.
        """
        return added_up(self.reducer, self.screen.sound(self.engine.train(plans)))

    @property
    def complete(self) -> bool:
        """Whether there is enough for a round."""
        return len(self.screen.updates) >= self.enough


def added_up(reducer: Reducer[Any], updates: Iterable[Update]) -> Exception | None:
    """Add all updates to the reducer; what it could not take, if so. The others are still heard, as
    whose update it was shows only beside them.
    """
    error: Exception | None = None
    for update in updates:
        try:
            if error is None:
                reducer.add(update)
        except Exception as raised:
            error = raised
    return error
