"""A number for each text, or pair of texts: STS-B's shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import field_validator
from torch import Tensor, nn

from rolora.config import ModelConfig
from rolora.core.errors import BadInput
from rolora.core.section import Section
from rolora.core.types import Sums
from rolora.data import Column
from rolora.data.columns import missing
from rolora.model.loading import Kind, Pretrained
from rolora.records.schema import LOSS, Metric
from rolora.tasks.base import counts, ratio
from rolora.tasks.column import ColumnTask

GRID = 64
"""Cells a side of the histogram of targets and predictions from which ranks are taken."""
STRATA = 10
FARTHEST = 3.0
"""Where a prediction counts as being at most, in halves of the range from its middle."""


class RegressionOptions(Section):
    """The lowest and the highest score there can be, ``[0, 5]`` for STS-B."""

    range: tuple[float, float] = (0.0, 0.0)

    @field_validator("range")
    @classmethod
    def _not_empty(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                "must be the lowest and the highest score there can be, as in [0, 5] for STS-B"
            )
        return value


class Regression(ColumnTask):
    """A number for each text; scored by Pearson's and Spearman's correlation and squared error.

    ``task.range`` bounds the targets, float32 ``[n]``, and is known to every site before anyone
    has seen another's data. It does three things. The unit of the loss is half the range, so that
    one learning rate does for scores from 0 to 5 and for grams from 0 to 5,000. A head that
    the checkpoint lacks starts at the middle of the range, in the same unit. And its ten equal
    intervals are the strata.

    Scores are made of sums. With ``x = (prediction - middle) / half`` and ``y`` alike, Pearson and
    the squared error follow from the moments of ``x`` and ``y``, in float64. A prediction further
    outside the range than the range is wide counts as at that distance, so that no site's sums
    outweigh the others'. Spearman comes from a histogram of 64 by 64 equal cells over the range,
    the outer ones open: all in one interval share its mean rank. That loses the part of the
    variance of the ranks that lies inside intervals, ``e_x^2`` and ``e_y^2``, and is off by at most
    ``e_x + e_y + max(e_x, e_y)^2``: 0.03 where values spread evenly over the range, as a rule
    far less. Where an interval holds the share ``m``, ``e^2 <= sum(m^3) / (1 - sum(t^3))`` with the
    shares ``t`` of equal values.
    """

    name = "regression"
    title = "Regression"
    metrics = (
        Metric("pearson", "Pearson correlation"),
        Metric("spearman", "Spearman correlation"),
        Metric("mse", "mean squared error", higher_is_better=False),
        LOSS,
    )
    kind = Kind("regression")
    Options: ClassVar[type[Section]] = RegressionOptions

    def __init__(self, options: RegressionOptions):
        super().__init__(options)
        self.low, self.high = options.range
        self.middle, self.half = (self.low + self.high) / 2, (self.high - self.low) / 2

    def targets(
        self, column: Column, known: tuple[str, ...] | None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Numbers within the range, perhaps written as text."""
        if known not in (None, ("score",)):
            raise BadInput("data.labels: regression has no labels; leave it out")
        values = [self._number(value, column, row) for row, value in enumerate(column.values, 1)]
        return np.array(values, dtype=np.float32), ("score",)

    def _number(self, value: Any, column: Column, row: int) -> float:
        if missing(value):
            raise BadInput(f"{column.at(row)} is missing")
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isnan(number):
            raise BadInput(f"{column.at(row)} is {value!r:.60}; regression needs a number")
        if not self.low <= number <= self.high:
            raise BadInput(
                f"{column.at(row)} is {value!r:.60}, outside "
                f"task.range = [{self.low:g}, {self.high:g}]"
            )
        return number

    def strata(self, targets: np.ndarray, train: np.ndarray) -> np.ndarray:
        """The tenth of the range."""
        tenth = (targets.astype(np.float64) - self.low) / (self.high - self.low) * STRATA
        return np.clip(tenth.astype(np.int64), 0, STRATA - 1)

    def strata_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """From where to where."""
        edges = np.linspace(self.low, self.high, STRATA + 1)
        return tuple(f"{a:g} to {b:g}" for a, b in pairwise(edges))

    def backbone(self, config: ModelConfig, names: tuple[str, ...], seed: int) -> Pretrained:
        """A model whose last layer, where it was drawn, starts at the middle of the range."""
        pretrained = super().backbone(config, names, seed)
        last = [
            layer
            for name, layer in pretrained.module.named_modules()
            if isinstance(layer, nn.Linear) and f"{name}.weight" in pretrained.drawn
        ][-1:]
        with torch.no_grad():
            for layer in last:
                layer.weight.mul_(self.half)
                if layer.bias is not None:
                    layer.bias.fill_(self.middle)
        return pretrained

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The squared error, in halves of the range."""
        return ((output.squeeze(1) - targets) / self.half).square()

    def predictions(self, output: Tensor, names: tuple[str, ...]) -> dict[str, list[Any]]:
        """The number."""
        return {"prediction": output.squeeze(1).tolist()}

    def outcome(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The prediction."""
        return {"score": output.squeeze(1)}

    def sums(
        self, outcome: Mapping[str, Tensor], targets: Tensor, names: tuple[str, ...]
    ) -> dict[str, tuple[float, ...]]:
        """The moments of predictions and targets, and their histogram, a row a target."""
        x = ((outcome["score"].double() - self.middle) / self.half).clamp(-FARTHEST, FARTHEST)
        y = (targets.double() - self.middle) / self.half
        cell = _cell(y) * GRID + _cell(x.nan_to_num(0.0))
        n = float(len(y))
        moments = (x.sum(), y.sum(), x @ x, y @ y, x @ y)
        return {
            "loss": (float((x - y).square().sum()), n),
            "moments": tuple(map(float, moments)),
            "histogram": tuple(torch.bincount(cell, minlength=GRID**2).tolist()),
        }

    def scores(self, sums: Sums) -> dict[str, float]:
        """``pearson``, ``spearman``, ``mse`` in the targets' unit, and ``loss`` in half ranges."""
        loss = ratio(*sums["loss"])
        return {
            "pearson": pearson(sums["loss"][1], *sums["moments"]),
            "spearman": spearman(np.array(sums["histogram"]).reshape(GRID, GRID)),
            "mse": loss * self.half**2,
            "loss": loss,
        }

    def constant(self, sums: Sums) -> dict[str, float]:
        """Always the mean; a constant has no correlation."""
        n, mean = sums["loss"][1], ratio(sums["moments"][1], sums["loss"][1])
        variance = ratio(sums["moments"][3], n) - mean**2
        return {"mse": variance * self.half**2, "loss": variance}

    def sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        """A loss, five moments, a count a cell."""
        return {"loss": 2, "moments": 5, "histogram": GRID**2}

    def possible(self, sums: Sums, n: int) -> bool:
        """Targets lie in the range, predictions not far from it, and the moments fit together."""
        (loss, rows), (x, y, xx, yy, xy) = sums["loss"], sums["moments"]
        slack = 1e-6 * n
        return (
            rows == n
            and loss >= 0
            and counts(sums["histogram"], n)
            and sum(sums["histogram"]) == n
            and x * x <= n * xx + slack * n
            and y * y <= n * yy + slack * n
            and xx <= FARTHEST**2 * n + slack
            and yy <= n + slack
            and abs(loss - (xx - 2 * xy + yy)) <= slack * 100
            and xy * xy <= xx * yy + slack * n * 100
        )


def pearson(n: float, x: float, y: float, xx: float, yy: float, xy: float) -> float:
    """Pearson's correlation from moments; nan where either does not vary."""
    vary_x, vary_y = n * xx - x * x, n * yy - y * y
    if vary_x <= 1e-12 * n * xx or vary_y <= 1e-12 * n * yy:
        return math.nan
    return max(-1.0, min(1.0, (n * xy - x * y) / math.sqrt(vary_x * vary_y)))


def spearman(histogram: np.ndarray) -> float:
    """Spearman's correlation from counts ``[cells, cells]``; nan where either does not vary."""
    n = histogram.sum()
    rows, columns = histogram.sum(1), histogram.sum(0)
    a, b = (masses.cumsum() - masses / 2 - n / 2 for masses in (rows, columns))
    vary = (rows @ a**2) * (columns @ b**2)
    return float(a @ histogram @ b / math.sqrt(vary)) if vary > 0 else math.nan


def _cell(values: Tensor) -> Tensor:
    """The interval of each of `values`, of which the range is -1 to 1."""
    return ((values + 1) / 2 * GRID).long().clamp(0, GRID - 1)
