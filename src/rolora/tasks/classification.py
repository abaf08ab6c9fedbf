"""One label of several for each text."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from rolora.core.errors import BadInput
from rolora.core.types import Sums
from rolora.data import Column
from rolora.model.loading import Kind
from rolora.records.schema import LOSS, Metric
from rolora.tasks.base import Task, counts, ratio
from rolora.tasks.labels import label_name, label_names, unknown


class Classification(Task):
    """One label of several for each text, by cross-entropy; scored by the share that is right.

    Targets are int64 ``[n]``, ``0 .. n_labels - 1``; the labels are the strata.
    """

    name = "classification"
    title = "Classification"
    metrics = (Metric("accuracy", "accuracy", share=True, proportion=True), LOSS)
    kind = Kind("single_label_classification")
    one_label = True

    def targets(
        self, column: Column, known: tuple[str, ...] | None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Labels are whole numbers, words or booleans, in the order of their class names where
        the data bring them, else sorted.
        """
        found = [label_name(value, column, row) for row, value in enumerate(column.values, 1)]
        present = set(found)
        names = label_names(column, present, known)
        if known is None and len(present) == 1:
            raise BadInput(
                f"{column.where} has the one label {present.pop()!r}; two or more are needed"
            )
        if known is None and len(present) == len(found) > 2:
            raise BadInput(
                f"{column.where} has another label in every row; name the column of classes, or "
                "set task.name: regression for numbers"
            )
        index = {name: i for i, name in enumerate(names)}
        for row, name in enumerate(found, 1):
            if name not in index:
                raise unknown(column, row, name, names)
        return np.array([index[name] for name in found], dtype=np.int64), names

    def strata(self, targets: np.ndarray, train: np.ndarray) -> np.ndarray:
        """The label."""
        return targets

    def strata_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The labels."""
        return names

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(output, targets, reduction="none")

    def outcome(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The loss, and the likeliest label."""
        return {"loss": self.loss(output, targets), "label": output.argmax(1)}

    def sums(
        self, outcome: Mapping[str, Tensor], targets: Tensor, names: tuple[str, ...]
    ) -> dict[str, tuple[float, ...]]:
        """How many are right, and how often each label was predicted and was true."""
        label = outcome["label"]
        return {
            "loss": (float(outcome["loss"].sum()), float(len(targets))),
            "correct": (float((label == targets).sum()),),
            "predicted": tuple(torch.bincount(label, minlength=len(names)).double().tolist()),
            "actual": tuple(torch.bincount(targets, minlength=len(names)).double().tolist()),
        }

    def scores(self, sums: Sums) -> dict[str, float]:
        """``accuracy`` and ``loss``."""
        loss, n = sums["loss"]
        return {"accuracy": ratio(sums["correct"][0], n), "loss": ratio(loss, n)}

    def constant(self, sums: Sums) -> dict[str, float]:
        """Always the commonest label; always the shares of the labels."""
        n = sums["loss"][1]
        shares = [ratio(count, n) for count in sums["actual"]]
        entropy = -sum(share * math.log(share) for share in shares if share)
        return {"accuracy": max(shares), "loss": entropy}

    def prediction_shares(self, sums: Sums) -> tuple[float, ...]:
        """The share of each label among the predictions."""
        return tuple(ratio(count, sums["loss"][1]) for count in sums["predicted"])

    def sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        """A loss, a count, and two counts a label."""
        return {"loss": 2, "correct": 1, "predicted": len(names), "actual": len(names)}

    def possible(self, sums: Sums, n: int) -> bool:
        """Every row has one label and one prediction."""
        predicted, actual = sums["predicted"], sums["actual"]
        most = sum(map(min, predicted, actual))
        return (
            sums["loss"][0] >= 0
            and sums["loss"][1] == n
            and counts((*predicted, *actual), n)
            and sum(predicted) == sum(actual) == n
            and counts(sums["correct"], most)
        )
