"""The reducers by name. To add one: one file beside these, one line in `REDUCERS`."""

from __future__ import annotations

from rolora.core.errors import BadInput, nearest
from rolora.reducers.base import Reduced, Reducer
from rolora.reducers.limited import Limited
from rolora.reducers.mean import Mean
from rolora.reducers.median import Median

REDUCERS: dict[str, type[Reducer[Reduced]]] = {"mean": Mean, "median": Median}


def make_reducer(name: str) -> Reducer[Reduced]:
    """A new reducer called `name`.

    Raises:
        BadInput: no such reducer; the known ones are listed.
    """
    if name not in REDUCERS:
        raise BadInput(f"server.reducer = {name!r}: unknown reducer{nearest(name, REDUCERS)}")
    return REDUCERS[name]()


__all__ = ["REDUCERS", "Limited", "Mean", "Median", "Reduced", "Reducer", "make_reducer"]
