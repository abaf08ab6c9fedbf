"""The paper's experiments, each by one command: ``rolora reproduce NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from rolora.reproduce.framework import Claim, Experiment, ReproduceResult

__all__ = ["EXPERIMENTS", "Claim", "Experiment", "ReproduceResult", "experiments_table"]


def _linear(overrides: Sequence[str], out: Path | None, console: Console) -> ReproduceResult:
    from rolora.reproduce.linear import run_linear

    return run_linear(overrides, out, console)


EXPERIMENTS: dict[str, Experiment] = {
    "linear": Experiment(
        name="linear",
        title="Algorithm 2 and its theorem on the linear regressor",
        data="none, drawn from the seed",
        weights="none",
        minutes="under 1",
        gpu="no",
        run=_linear,
    ),
}
"""By name, in the order in which ``rolora reproduce`` lists them."""


def experiments_table() -> RichTable:
    """The experiments and what each needs, for a terminal."""
    table = RichTable(title="rolora reproduce NAME", title_justify="left")
    for column in ("name", "experiment", "data", "weights", "minutes", "GPU"):
        table.add_column(column)
    for one in EXPERIMENTS.values():
        table.add_row(one.name, one.title, one.data, one.weights, one.minutes, one.gpu)
    return table
