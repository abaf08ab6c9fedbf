"""What a model says of held-out examples, summed by client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rolora.core.types import Adapter, Evaluation, Plan
from rolora.data import Examples
from rolora.model.lora import LoraModel
from rolora.tasks import Task

EVALUATED_TOKENS = 16384
"""Tokens in a batch at the most: 128 rows of 128."""
Batch = tuple[Adapter, Tensor]
"""A model's tensors, and the numbers of the examples that it is to see."""


@dataclass(frozen=True)
class Split:
    """Examples, and each client's share of their numbers."""

    examples: Examples
    shares: Sequence[Tensor]


Outcome = Mapping[str, Tensor]
"""What a task keeps of each row, ``[rows, ...]`` by name."""


Piece = tuple[Tensor, Outcome]
"""Row numbers, and what is to be known of these rows."""
Carry = Callable[[Callable[[LoraModel, Batch], Piece], Iterable[Batch]], Iterable[Piece]]
"""Calls a function with a model that is free, once for each item."""


def evaluate(
    task: Task, plan: Plan, held: Split, models: Sequence[Batch], batch_size: int, carry: Carry
) -> list[Evaluation]:
    """Each model on its rows, in batches of similar length, summed by client.

    Args:
        task: says what is to be known of each row.
        plan: whose scaling the models have.
        held: the examples, and who holds which.
        models: each model's tensors, and the rows that it is to see.
        batch_size: rows a batch.
        carry: has the batches computed.
    """
    examples = held.examples

    def predict(model: LoraModel, item: Batch) -> Piece:
        adapter, rows = item
        tensors = {key: tensor.to(model.device) for key, tensor in adapter.items()}
        stacked = {key: t if key[1] == "D" else t[None] for key, t in tensors.items()}
        model.mount(stacked, [plan.scaling])
        with torch.no_grad():
            outputs = task.outputs(model, examples, rows, again=False)
            outcome = task.outcome(*outputs)
        return rows, {name: values.cpu() for name, values in outcome.items()}

    batches = [
        (adapter, batch)
        for adapter, rows in models
        if len(rows)
        for batch in of_similar_length(examples.lengths, rows, batch_size)
    ]
    return tally(task, gathered(carry(predict, batches), len(examples)), held)


def of_similar_length(lengths: Tensor, rows: Tensor, batch_size: int) -> list[Tensor]:
    """`rows` in batches, the longest first; of long ones fewer a batch.

    Nothing is kept for a backward pass, but attention weighs every pair of tokens. What a shorter
    batch needs fits where a longer one lay: the other way round the heap grows with each.
    """
    ordered = rows[torch.argsort(lengths[rows], stable=True)]
    batches: list[Tensor] = []
    for batch in ordered.split(batch_size):
        longest = int(lengths[batch[-1]])
        batches += batch.split(max(1, EVALUATED_TOKENS // max(1, longest)))
    return batches[::-1]


def gathered(pieces: Iterable[Piece], n: int) -> Outcome:
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
