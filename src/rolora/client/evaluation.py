"""Predictions on held-out examples, summed by client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rolora.core.types import Adapter, Evaluation, Plan
from rolora.data import Examples
from rolora.model.lora import LoraModel

Batch = tuple[Adapter, Tensor]
"""A model's tensors, and the numbers of the examples that it is to see."""
Carry = Callable[[Callable[[LoraModel, Batch], None], Iterable[Batch]], Iterable[None]]
"""Calls a function with a model that is free, once for each item."""


@dataclass(frozen=True)
class Split:
    """Examples, and each client's share of their numbers."""

    examples: Examples
    shares: Sequence[Tensor]


@dataclass(frozen=True)
class Predictions:
    """Per example of a split: its loss and its predicted label; 0 where it was not asked for."""

    loss: Tensor
    label: Tensor


def evaluate(
    plan: Plan, held: Split, models: Sequence[Batch], batch_size: int, carry: Carry
) -> list[Evaluation]:
    """Each model on its rows, in batches of similar length, summed by client.

    Args:
        plan: whose scaling the models have.
        held: the examples, and who holds which.
        models: each model's tensors, and the rows that it is to see.
        batch_size: rows a batch.
        carry: has the batches computed.
    """
    examples = held.examples
    result = Predictions(torch.zeros(len(examples)), torch.zeros(len(examples), dtype=torch.long))

    def predict(model: LoraModel, item: Batch) -> None:
        adapter, rows = item
        tensors = {key: tensor.to(model.device) for key, tensor in adapter.items()}
        stacked = {key: t if key[1] == "D" else t[None] for key, t in tensors.items()}
        model.mount(stacked, [plan.scaling])
        with torch.no_grad():
            logits = model.logits(examples.batch(rows)).cpu()
        labels = examples.labels[rows]
        result.loss[rows] = nn.functional.cross_entropy(logits, labels, reduction="none")
        result.label[rows] = logits.argmax(1)

    batches = [
        (adapter, batch)
        for adapter, rows in models
        for batch in rows[torch.argsort(examples.lengths[rows], stable=True)].split(batch_size)
    ]
    for _ in carry(predict, batches):
        pass
    return tally(result, held)


def tally(predictions: Predictions, split: Split) -> list[Evaluation]:
    """Sum predictions by client; clients without held-out examples are left out."""
    examples = split.examples
    results = []
    for client, rows in enumerate(split.shares):
        if not len(rows):
            continue
        label = predictions.label[rows]
        counts = torch.bincount(label, minlength=examples.num_labels)
        results.append(
            Evaluation(
                client=client,
                num_examples=len(rows),
                loss=float(predictions.loss[rows].sum()),
                correct=int((label == examples.labels[rows]).sum()),
                predicted=tuple(counts.tolist()),
            )
        )
    return results
