"""Judges what a round's updates were made into, before it is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low

import torch
from torch import Tensor

from rolora.core.types import EMPTY, Adapter, Failure, Part, ServerState, base_part, is_side

JUMP = 10.0
"""By this factor a client stands out where no other is set."""
SPREAD = 5.0
"""Standard deviations of the cohort's distances, on a logarithmic scale: clients that take steps in
proportion to their examples differ by orders of magnitude, and are not to blame for it.
"""
FEWEST = 3
"""Of fewer clients nobody can tell which is out of line."""


@dataclass(frozen=True)
class Judge:
    """Tells a round that went wrong, and whose updates did it.

    In every uploaded part, client i went the Euclidean distance d_i from the round's start. Be m
    the cohort's median (the lower of two; where half of it stayed, the part's own length) and s the
    robust standard deviation of ``log d_i``: 1.4826 times the median deviation from ``log m``. The
    aggregate may be ``m max(max_jump, exp(5 s))`` away from the start. A mean is never further than
    the furthest client, so that a round which fails has clients beyond that limit: they did it. No
    minority can move m or s beyond the honest clients' own.

    Args:
        start: what the clients started from.
        distances: by client, of each part; inf where it is no number.
        max_jump: as ``federation.max_jump``; None: only what is not finite is refused.
    """

    start: ServerState
    distances: Mapping[int, Mapping[Part, float]]
    max_jump: float | None

    def limit(self, part: Part) -> float:
        """How far from the start the aggregate may be."""
        found = [each[part] for each in self.distances.values()]
        middle, jump = median_low(found), self.max_jump or JUMP
        if middle == 0.0:
            return jump * length(self.start.parts, part) or math.inf
        if math.isinf(middle):
            return math.inf
        apart = median_low(abs(math.log(d / middle)) if d > 0 else math.inf for d in found)
        return middle * max(jump, math.exp(min(SPREAD * 1.4826 * apart, 700.0)))

    def blamed(self, went: Mapping[Part, float]) -> list[Failure]:
        """The clients whose updates did it; nobody where the round stands, or nobody stands out.

        Args:
            went: how far the aggregate is from the start, by part; inf where it is not finite.
        """
        broken = any(map(math.isinf, went.values()))
        if not broken and (self.max_jump is None or len(self.distances) < FEWEST):
            return []
        found: dict[int, Failure] = {}
        for part, distance in went.items():
            limit = self.limit(part)
            if math.isfinite(distance) and distance <= limit:
                continue
            for client, each in self.distances.items():
                if each[part] > limit or len(self.distances) == 1:
                    found.setdefault(client, too_far(client, part, each[part], limit))
        return list(found.values())


def too_far(client: int, part: Part, distance: float, limit: float) -> Failure:
    """What is said of a client whose update spoiled a round."""
    detail = f"it moved {part} by {distance:.3g}; the cohort's own distances allow {limit:.3g}"
    return Failure(client, "too_far", detail + " (federation.max_jump), and the aggregate failed")


def distances(parts: Adapter, start: Adapter) -> dict[Part, float]:
    """How far `parts` are from `start`, by part; from zero where it has no such part, and for a
    side part, which is a change already. inf where that is no number.
    """
    return {part: distance(parts, start, part) for part in sorted(parts.parts)}


def distance(parts: Adapter, start: Adapter, part: Part) -> float:
    """The same of one part."""
    begin, end = parts.layout.extent(part)
    change = parts.flat[begin:end]
    if part in start.parts and not is_side(part):
        begin, end = start.layout.extent(part)
        change = change - start.flat[begin:end]
    norm = float(torch.linalg.vector_norm(change, dtype=torch.float64))
    return norm if math.isfinite(norm) else math.inf


def length(parts: Adapter, part: Part) -> float:
    """The Euclidean length of a part; of a side part, that of what it is beside."""
    part = base_part(part)
    return distance(parts, EMPTY, part) if part in parts.parts else 0.0


def all_finite(state: ServerState) -> bool:
    """Whether every number of a state is; without a copy of them."""
    return all(map(finite, [state.parts.flat, *state.optimizer.values()]))


def finite(values: Tensor) -> bool:
    """Whether all values are finite."""
    if not values.numel():
        return True
    return all(math.isfinite(float(end)) for end in values.aminmax())


def mean_distances(
    distances: Mapping[int, Mapping[Part, float]], weights: Mapping[int, float]
) -> dict[Part, float]:
    """The weighted mean of the clients' distances: further from the start their mean cannot be."""
    total = sum(weights.values())
    return {
        part: sum(weights[client] * each[part] for client, each in distances.items()) / total
        for part in next(iter(distances.values()))
    }
