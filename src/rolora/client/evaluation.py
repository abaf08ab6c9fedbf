"""What a model says of held-out examples, summed by client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from rolora.core.types import Evaluation
from rolora.data import Examples
from rolora.tasks import Task


@dataclass(frozen=True)
class Split:
    """Examples, and each client's share of their numbers."""

    examples: Examples
    shares: Sequence[Tensor]


Outcome = Mapping[str, Tensor]
"""What a task keeps of each row, ``[rows, ...]`` by name."""


def gathered(pieces: Iterable[tuple[Tensor, Outcome]], n: int) -> Outcome:
    """The outcomes of numbered rows, in the places of `n` rows; 0 where nothing was asked."""
    found: dict[str, Tensor] = {}
    for rows, outcome in pieces:
        for name, values in outcome.items():
            if name not in found:
                found[name] = values.new_zeros(n, *values.shape[1:])
            found[name][rows] = values
    return found


def tally(task: Task, outcome: Outcome, split: Split) -> list[Evaluation]:
    """Sum an outcome by client; clients without held-out examples are left out, and so are
    examples that no client holds.
    """
    examples, results = split.examples, []
    for client, rows in enumerate(split.shares):
        if len(rows):
            own = {name: values[rows] for name, values in outcome.items()}
            sums = task.sums(own, examples.targets[rows], examples.names)
            results.append(Evaluation(client, len(rows), sums))
    return results
