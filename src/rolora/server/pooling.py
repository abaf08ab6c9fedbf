"""Many clients' evaluations as one, in which nobody counts more than a share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rolora.core.shares import cap
from rolora.core.types import Evaluation, Sums
from rolora.records.schema import ClientRecord, Scores
from rolora.tasks import Task, added


@dataclass(frozen=True)
class Pooled:
    """Evaluations put together.

    Args:
        sums: over all examples; those of a client that is above the share count in part.
        examples: how many that is, rounded.
        clients: each client's own, as it gave them.
    """

    sums: Sums
    examples: int
    clients: tuple[ClientRecord, ...]


def pooled(task: Task, results: Sequence[Evaluation], share: float) -> Pooled:
    """Evaluations put together. A client's weight is what its mean loss is a mean over: rows, or
    learned tokens of a language model. Where nobody has more than `share`, these are plain sums.
    """
    weights = [result.sums["loss"][1] for result in results]
    most = cap(weights, share)
    parts = [min(1.0, most / weight) for weight in weights]
    return Pooled(
        sums=added(map(scaled, [result.sums for result in results], parts)),
        examples=round(sum(r.num_examples * part for r, part in zip(results, parts, strict=True))),
        clients=tuple(
            ClientRecord(client=r.client, examples=r.num_examples, scores=scores_of(task, r.sums))
            for r in results
        ),
    )


def scaled(sums: Sums, part: float) -> Sums:
    """The sums of a part of the examples, all in proportion."""
    if part == 1.0:
        return sums
    return {name: tuple(part * value for value in values) for name, values in sums.items()}


def scores_of(task: Task, sums: Sums) -> Scores:
    """The scores of sums; of none: every one unknown."""
    return dict(task.scores(sums)) if sums else {metric.name: None for metric in task.metrics}


def scored(task: Task, results: Sequence[Evaluation], share: float = 1.0) -> Scores:
    """The scores of evaluations put together (:func:`pooled`)."""
    return scores_of(task, pooled(task, results, share).sums)


def validated(
    task: Task, results: Sequence[Evaluation], names: Sequence[str], share: float
) -> dict[str, Any]:
    """What a round's record says of its evaluations."""
    found = pooled(task, results, share)
    if not found.sums:
        return {"validation": scores_of(task, {})}
    return {
        "validation": scores_of(task, found.sums),
        "prediction_shares": task.prediction_shares(found.sums),
        "detail": task.detail(found.sums, names),
        "collapsed": task.collapsed(found.sums, names),
        "sites": found.clients,
    }
