"""Any number of labels for each text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor, nn

from rolora.core.errors import BadInput
from rolora.core.types import Sums
from rolora.data import Column
from rolora.data.columns import missing
from rolora.model.loading import Kind
from rolora.records.detail import DetailRecord
from rolora.records.schema import LOSS, Metric
from rolora.tasks.base import counts, ratio
from rolora.tasks.by_label import ByLabel, f1
from rolora.tasks.column import ColumnTask
from rolora.tasks.labels import label_name, label_names, named_shares, unknown


class MultiLabel(ColumnTask):
    """Any number of labels for each text, each by itself a yes or no; scored by F1 and by the share
    of texts whose labels are all right.

    A row's labels are a list (of words or of whole numbers), or text with ``|`` or ``;`` between
    them; an empty cell or list has none. Targets are bool ``[n, n_labels]``. A row's stratum is
    the rarest of its labels in the training data.
    """

    name = "multilabel"
    title = "Multi-label classification"
    metrics = (
        Metric("micro_f1", "micro F1", share=True),
        Metric("macro_f1", "macro F1", share=True),
        Metric("subset_accuracy", "subset accuracy", share=True, proportion=True),
        LOSS,
    )
    kind = Kind("multi_label_classification")

    def targets(
        self, column: Column, known: tuple[str, ...] | None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Lists of labels, or labels with ``|`` or ``;`` between them."""
        found = [_labels(value, column, row) for row, value in enumerate(column.values, 1)]
        present = set().union(*found)
        names = label_names(column, present, known)
        if not names:
            raise BadInput(f"{column.where} has no label in any row")
        if known is None and len(present) >= len(found) > 2:
            raise BadInput(
                f"{column.where} has {len(present)} labels in {len(found)} rows; name the column "
                "of labels"
            )
        index = {name: i for i, name in enumerate(names)}
        targets = np.zeros((len(found), len(names)), dtype=bool)
        for row, labels in enumerate(found):
            for name in sorted(labels):
                if name not in index:
                    raise unknown(column, row + 1, name, names)
                targets[row, index[name]] = True
        return targets, names

    def strata(self, targets: np.ndarray, train: np.ndarray) -> np.ndarray:
        """The rarest label in training of a row; one more for rows without any."""
        n_labels = targets.shape[1]
        place = np.empty(n_labels, dtype=np.int64)
        place[np.argsort(train.sum(0), kind="stable")] = np.arange(n_labels)
        rarest = np.where(targets, place, n_labels).argmin(1).astype(np.int64)
        found: np.ndarray = np.where(targets.any(1), rarest, n_labels)
        return found

    def support(
        self, targets: Tensor, names: tuple[str, ...]
    ) -> tuple[Sequence[int], Sequence[str]]:
        """Of every label."""
        return targets.sum(0).tolist(), names

    def strata_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The labels, and none."""
        return (*names, "(none)")

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy, in the mean over labels."""
        each = nn.functional.binary_cross_entropy_with_logits(
            output, targets.to(output.dtype), reduction="none"
        )
        return each.mean(1)

    def predictions(self, output: Tensor, names: tuple[str, ...]) -> dict[str, list[Any]]:
        """The labels that are likelier than not, as a list, and the probability of each."""
        chosen = [[names[i] for i, likely in enumerate(row) if likely] for row in output > 0]
        return {"prediction": chosen, **named_shares(names, output.sigmoid())}

    def outcome(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The loss, and the labels that are likelier than not."""
        return {"loss": self.loss(output, targets), "labels": output > 0}

    def sums(
        self, outcome: Mapping[str, Tensor], targets: Tensor, names: tuple[str, ...]
    ) -> dict[str, tuple[float, ...]]:
        """For each label how often it was predicted, was true, and both; rows that are right."""
        labels = outcome["labels"]

        def count(found: Tensor) -> tuple[float, ...]:
            return tuple(found.sum(0).double().tolist())

        return {
            "loss": (float(outcome["loss"].double().sum()), float(len(targets))),
            "exact": (float((labels == targets).all(1).sum()),),
            "both": count(labels & targets),
            "predicted": count(labels),
            "actual": count(targets),
        }

    def scores(self, sums: Sums) -> dict[str, float]:
        """``micro_f1``, ``macro_f1`` (a label that is neither predicted nor true scores 0),
        ``subset_accuracy`` and ``loss``.
        """
        both, marked = sums["both"], ByLabel.of(sums).marked
        n = sums["loss"][1]
        return {
            "micro_f1": f1(sum(both), sum(marked)),
            "macro_f1": fmean(map(f1, both, marked)),
            "subset_accuracy": ratio(sums["exact"][0], n),
            "loss": ratio(sums["loss"][0], n),
        }

    def constant(self, sums: Sums) -> dict[str, float]:
        """Always the commonest labels, as many as are best; always the shares of the labels. Of how
        often labels come together nothing is known.
        """
        n, actual = sums["loss"][1], sorted(sums["actual"], reverse=True)
        total = sum(actual)
        micro = [f1(sum(actual[:k]), total + k * n) for k in range(1, len(actual) + 1)]
        return {
            "micro_f1": max(micro),
            "macro_f1": fmean(f1(count, count + n) for count in actual),
            "loss": fmean(_entropy(ratio(count, n)) for count in actual),
        }

    def detail(self, sums: Sums, names: Sequence[str]) -> DetailRecord:
        """The labels' scores, each label a yes or no by itself."""
        return DetailRecord(classes=ByLabel.of(sums).records(names, sums["loss"][1]))

    def collapsed(self, sums: Sums, names: Sequence[str]) -> str | None:
        """The labels that every row is given, where each is given to all rows or to none."""
        n, predicted = sums["loss"][1], sums["predicted"]
        if any(0 < count < n for count in predicted):
            return None
        given = [name for name, count in zip(names, predicted, strict=True) if count]
        return " | ".join(given) or "(none)"

    def sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        """A loss, a count, and three counts a label."""
        each = dict.fromkeys(("both", "predicted", "actual"), len(names))
        return {"loss": 2, "exact": 1, **each}

    def possible(self, sums: Sums, n: int) -> bool:
        """Counts of at most `n` rows, and no more right than there are."""
        both, predicted, actual = sums["both"], sums["predicted"], sums["actual"]
        return (
            sums["loss"][0] >= 0
            and sums["loss"][1] == n
            and counts((*both, *predicted, *actual, *sums["exact"]), n)
            and all(b <= min(p, a) for b, p, a in zip(both, predicted, actual, strict=True))
            and all(p + a - b <= n for b, p, a in zip(both, predicted, actual, strict=True))
        )


def _labels(value: Any, column: Column, row: int) -> set[str]:
    """The labels of one row."""
    if not isinstance(value, str | list | tuple) and missing(value):
        return set()
    if isinstance(value, str):
        return {name.strip() for name in re.split(r"[|;]", value)} - {""}
    items = value if isinstance(value, list | tuple) else [value]
    return {label_name(item, column, row) for item in items}


def _entropy(share: float) -> float:
    return -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)
