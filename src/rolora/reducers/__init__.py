"""The reducers by name. To add one: one file beside these, one line in `REDUCERS`."""

from __future__ import annotations

from rolora.core.errors import BadInput, nearest
from rolora.core.types import EMPTY, Adapter
from rolora.reducers.base import Reduced, Reducer, ReducerOptions
from rolora.reducers.geometric_median import GeometricMedian
from rolora.reducers.krum import Krum, MultiKrum
from rolora.reducers.limited import Limited
from rolora.reducers.mean import Mean
from rolora.reducers.median import Median
from rolora.reducers.neighbour_mixing import NeighbourMixing
from rolora.reducers.norm_bound import NormBound
from rolora.reducers.trimmed_mean import TrimmedMean

REDUCERS: dict[str, type[Reducer[Reduced]]] = {
    "mean": Mean,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "geometric_median": GeometricMedian,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "norm_bound": NormBound,
    "neighbour_mixing": NeighbourMixing,
}


def reducer_named(name: str) -> type[Reducer[Reduced]]:
    """The reducer called `name`.

    Raises:
        BadInput: no such reducer; the known ones are listed.
    """
    if name not in REDUCERS:
        raise BadInput(f"server.reducer = {name!r}: unknown reducer{nearest(name, REDUCERS)}")
    return REDUCERS[name]


def make_reducer(options: ReducerOptions, clients: int, start: Adapter = EMPTY) -> Reducer[Reduced]:
    """A new reducer for one round.

    Args:
        options: name it and set it.
        clients: how many are asked in the round.
        start: the global parts that they start from.

    Raises:
        BadInput: no such reducer, or it needs more updates than `clients` can send.
    """
    made = reducer_named(options.name).of(options, clients, start)
    if made.least > clients:
        raise BadInput(
            f"server.reducer = {options.model_dump()}: {made.title} needs the updates of at least "
            f"{made.least} clients, and {clients} are asked in a round; set more clients, a "
            "smaller share byzantine, or another reducer"
        )
    return made


__all__ = [
    "REDUCERS",
    "Limited",
    "Mean",
    "Median",
    "Reduced",
    "Reducer",
    "ReducerOptions",
    "make_reducer",
    "reducer_named",
]
