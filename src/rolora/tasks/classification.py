"""One label of several for each text."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rolora.config import DataConfig, PartitionConfig
from rolora.core.errors import BadInput
from rolora.core.types import Sums
from rolora.data import Column, RawSplits
from rolora.data.sources import Splits
from rolora.model.loading import Kind
from rolora.records.detail import DetailRecord
from rolora.records.schema import LOSS, Metric
from rolora.tasks.base import Score, counts, ratio
from rolora.tasks.by_label import ByLabel, f1
from rolora.tasks.column import ColumnTask
from rolora.tasks.labels import label_name, label_names, named_shares, unknown

MOST_CONFUSED = 100
"""Labels of which it is counted which is taken for which: the counts are as many as the square."""


class Classification(ColumnTask):
    """One label of several for each text, by cross-entropy; scored by the share that is right and
    by the mean of the labels' F1.

    Targets are int64 ``[n]``, ``0 .. n_labels - 1``; the labels are the strata.
    """

    name = "classification"
    title = "Classification"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "accuracy", share=True, proportion=True),
        Metric("macro_f1", "macro F1", share=True),
        LOSS,
    )
    kind = Kind("single_label_classification")
    one_label = True
    more: Mapping[str, Score] = MappingProxyType({})

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

    def support(
        self, targets: Tensor, names: tuple[str, ...]
    ) -> tuple[Sequence[int], Sequence[str]]:
        """Of every label."""
        return torch.bincount(targets, minlength=len(names)).tolist(), names

    def strata_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The labels."""
        return names

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(output, targets, reduction="none")

    def predictions(self, output: Tensor, names: tuple[str, ...]) -> dict[str, list[Any]]:
        """The likeliest label, and the probability of each."""
        labels = [names[i] for i in output.argmax(1).tolist()]
        return {"prediction": labels, **named_shares(names, output.softmax(1))}

    def outcome(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The loss, and the likeliest label."""
        return {"loss": self.loss(output, targets), "label": output.argmax(1)}

    def sums(
        self, outcome: Mapping[str, Tensor], targets: Tensor, names: tuple[str, ...]
    ) -> dict[str, tuple[float, ...]]:
        """How often each label was given for each; of many labels, how often each was predicted,
        was true, and both.
        """
        label, size = outcome["label"], len(names)
        loss = {"loss": (float(outcome["loss"].sum()), float(len(targets)))}
        if size <= MOST_CONFUSED:
            return {**loss, "confusion": _count(targets * size + label, size * size)}
        return {
            **loss,
            "both": _count(label[label == targets], size),
            "predicted": _count(label, size),
            "actual": _count(targets, size),
        }

    def scored_by(self, metrics: Mapping[str, Score]) -> Classification:
        """The same task with scores beside its own, functions of true labels and predicted ones,
        both int64 ``[n]``: the confusion counts hold these but for their order. One that raises an
        error is not defined there.

        Raises:
            BadInput: a name is the task's own, or a function does not take labels.
        """
        for name, score in metrics.items():
            if name in {metric.name for metric in self.metrics}:
                raise BadInput(f"metrics.{name}: is a score of the task's own; name it otherwise")
            _try(name, score)
        scored = copy.copy(self)
        scored.more = {**self.more, **metrics}
        added = (Metric(name, name.replace("_", " ")) for name in metrics)
        scored.metrics = (*self.metrics, *added)  # type: ignore[misc]
        return scored

    def load(
        self,
        config: DataConfig,
        seed: int,
        splits: Splits | None = None,
        partition: PartitionConfig | None = None,
    ) -> RawSplits[Any]:
        """As of every task; scores of a person's own need the confusion counts.

        Raises:
            BadInput: they cannot be had or do not fit, or there are too many labels to count.
        """
        raw = super().load(config, seed, splits, partition)
        size = len(raw.train.names)
        if self.more and size > MOST_CONFUSED:
            raise BadInput(
                f"metrics = {list(self.more)}: which label is taken for which is counted for at "
                f"most {MOST_CONFUSED} labels, and the data have {size}"
            )
        return raw

    def scores(self, sums: Sums) -> dict[str, float]:
        """``accuracy``, ``macro_f1`` (over the labels that are predicted or true) and ``loss``."""
        loss, n = sums["loss"]
        found = _by_label(sums)
        each = [f1(b, m) for b, m in zip(found.both, found.marked, strict=True) if m]
        return {
            "accuracy": ratio(sum(found.both), n),
            "macro_f1": fmean(each) if each else math.nan,
            "loss": ratio(loss, n),
            **{name: _score(score, sums) for name, score in self.more.items()},
        }

    def constant(self, sums: Sums) -> dict[str, float]:
        """Always the commonest label; always the shares of the labels."""
        n = sums["loss"][1]
        actual = [count for count in _by_label(sums).actual if count]
        shares = [ratio(count, n) for count in actual]
        entropy = -sum(share * math.log(share) for share in shares)
        macro = f1(max(actual), max(actual) + n) / len(actual)
        return {"accuracy": max(shares), "macro_f1": macro, "loss": entropy}

    def prediction_shares(self, sums: Sums) -> tuple[float, ...]:
        """The share of each label among the predictions."""
        return tuple(ratio(count, sums["loss"][1]) for count in _by_label(sums).predicted)

    def detail(self, sums: Sums, names: Sequence[str]) -> DetailRecord:
        """The labels' scores, and what was taken for what."""
        cells = [round(count) for count in sums.get("confusion", ())]
        size = len(names)
        rows = [tuple(cells[at : at + size]) for at in range(0, len(cells), size)]
        classes = _by_label(sums).records(names, sums["loss"][1])
        return DetailRecord(classes=classes, confusion=tuple(rows))

    def sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        """A loss, and a count for two labels, or three a label."""
        size = len(names)
        if size <= MOST_CONFUSED:
            return {"loss": 2, "confusion": size * size}
        return {"loss": 2, **dict.fromkeys(("both", "predicted", "actual"), size)}

    def possible(self, sums: Sums, n: int) -> bool:
        """Every row has one label and one prediction."""
        given = [count for name, values in sums.items() if name != "loss" for count in values]
        if sums["loss"][0] < 0 or sums["loss"][1] != n or not counts(given, n):
            return False
        if "confusion" in sums:
            return sum(sums["confusion"]) == n
        found = ByLabel.of(sums)
        wrong = n - sum(found.both)
        return sum(found.predicted) == sum(found.actual) == n and all(
            # A label's wrong predictions are of other labels' rows, and its own went to others.
            both <= min(marks) and sum(marks) - 2 * both <= wrong
            for both, *marks in zip(found.both, found.predicted, found.actual, strict=True)
        )


def _count(values: Tensor, size: int) -> tuple[float, ...]:
    """How often each of ``0 .. size - 1`` is among `values`."""
    return tuple(torch.bincount(values, minlength=size).double().tolist())


def _try(name: str, score: Score) -> None:
    """See whether a score of a person's own takes labels.

    Raises:
        BadInput: it raises an error, or gives no number.
    """
    try:
        float(score(np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1])))
    except Exception as error:  # whatever the person's function raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise BadInput(
            f"metrics.{name}: must be a function of true labels and predicted ones (whole "
            f"numbers, two arrays of one length) that gives a number ({reason})"
        ) from None


def _score(score: Score, sums: Sums) -> float:
    """The score of labels that the confusion counts hold, in any order."""
    cells = np.rint(sums.get("confusion", ())).astype(np.int64)
    size = math.isqrt(len(cells))
    if not size:
        return math.nan
    actual, predicted = np.divmod(np.arange(size * size).repeat(cells), size)
    try:
        return float(score(actual, predicted))
    except Exception:  # not defined on these labels
        return math.nan


def _by_label(sums: Sums) -> ByLabel:
    """Each label's counts."""
    if "confusion" not in sums:
        return ByLabel.of(sums)
    cells = np.array(sums["confusion"])
    size = math.isqrt(len(cells))
    cells = cells.reshape(size, size)
    return ByLabel(*(c.tolist() for c in (cells.diagonal(), cells.sum(0), cells.sum(1))))
