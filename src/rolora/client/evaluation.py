"""Predictions on held-out examples, summed by client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rolora.core.types import (
    Evaluation,
)
from rolora.data import Examples


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
