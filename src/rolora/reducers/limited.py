"""A reducer in which no update has more than a share of all the weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from rolora.core.shares import cap
from rolora.core.types import Update
from rolora.reducers.base import Reducer

R = TypeVar("R")


class Limited(Reducer[R]):
    """Weights are cut once they are all known, though updates come one by one.

    Two reducers run side by side: one takes every update as it comes, the other all but the few
    heaviest, which are held. At most ``1 / share`` can be above the share, so that memory does not
    grow with the number of clients: at a half, one update more and a second accumulator. Where
    nobody is above the share, the first reducer's result is taken, the very bits of a run without a
    limit; else the held ones are added to the second with their weights cut
    (:func:`rolora.core.shares.cap`), and no number of the first has a part in it.

    Args:
        make: makes the reducer.
        share: of the weight of the updates that came, in (0, 1).
    """

    title = "with no one above a share"

    def __init__(self, make: Callable[[], Reducer[R]], share: float):
        self.whole, self.rest, self.share = make(), make(), share
        self.most = math.ceil(1 / share) - 1
        self.masses: list[float] = []
        self.held: list[Update] = []

    def add(self, update: Update) -> None:
        """Take one update."""
        self.whole.add(update)
        self.masses.append(update.mass)
        self.held.append(update)
        if len(self.held) > self.most:
            lightest = min(range(len(self.held)), key=lambda k: self.held[k].mass)
            self.rest.add(self.held.pop(lightest))

    def limit(self) -> float:
        """The most that an update counts."""
        return cap(self.masses, self.share)

    def result(self) -> R:
        """What the reducer makes of the updates and their cut weights."""
        limit = self.limit()
        if math.isinf(limit):
            return self.whole.result()
        while self.held:
            update = self.held.pop()
            self.rest.add(replace(update, weight=min(update.mass, limit)))
        return self.rest.result()
