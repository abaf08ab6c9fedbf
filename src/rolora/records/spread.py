"""How clients' scores lie around each other, and which stands out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

from rolora.records.schema import ClientRecord, Metric

FAR = 3.5
"""Robust standard deviations from the median beyond which a score stands out."""
FEWEST = 3
"""Of two scores nobody can tell which is out of line."""


@dataclass(frozen=True)
class Spread:
    """One score by client, each client counted once.

    Args:
        mean, median: over clients.
        outliers: the clients whose score stands out.
    """

    mean: float
    median: float
    outliers: tuple[int, ...]


def spread(clients: Iterable[ClientRecord], metric: Metric) -> Spread | None:
    """How one score lies over clients; None where fewer than two have it.

    A score stands out if it is more than 3.5 robust standard deviations from the median: 1.4826
    times the median absolute deviation, as in the modified z-score of Iglewicz and Hoaglin (How to
    Detect and Handle Outliers, 1993). For a share of examples that are right the deviation is at
    least what drawing so few of them explains (around the median, after Agresti and Coull), so that
    a client with ten examples is not marked for being lucky.
    """
    known = [
        (client.client, client.examples, score)
        for client in clients
        if client.examples and (score := client.scores.get(metric.name)) is not None
    ]
    if len(known) < 2:
        return None
    values = [score for _, _, score in known]
    middle = median(values)
    scale = 1.4826 * median(abs(value - middle) for value in values)
    outliers = tuple(
        client
        for client, examples, score in known
        if abs(score - middle) > FAR * max(scale, chance(metric, middle, examples))
        and not math.isclose(score, middle, rel_tol=1e-6)
    )
    return Spread(fmean(values), middle, outliers if len(known) >= FEWEST else ())


def chance(metric: Metric, share: float, examples: int) -> float:
    """The standard deviation of a share of so many examples; 0 of another score, where it is not
    known.
    """
    if not metric.proportion:
        return 0.0
    around = (share * examples + 2) / (examples + 4)
    return math.sqrt(around * (1 - around) / (examples + 4))
