"""``rolora predict`` and ``rolora evaluate``: what a finished run's model says, and how well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rolora.core.errors import BadInput
from rolora.records.atomic import write_atomic

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

RunPath = Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")]
Client = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--client", help="Ask this client's own adapter, where the method leaves such."),
]
MaybePath = Optional[Path]  # noqa: UP045


def predict(
    run: RunPath,
    text: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--text", help="A text; may be given several times."),
    ] = None,
    pair: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--pair", help="The second text of each --text, where the task has pairs."),
    ] = None,
    file: Annotated[
        MaybePath,
        typer.Option("--file", help="A file or directory with the columns of training."),
    ] = None,
    out: Annotated[
        MaybePath, typer.Option("--out", help="A csv or jsonl file to write; else the terminal.")
    ] = None,
    client: Client = None,
) -> None:
    """Say what a run's model predicts for texts, or for the rows of a file."""
    from rolora.library.finished import Run

    if bool(text) == (file is not None):
        raise BadInput("rolora predict: give --text, or --file; one of them")
    if out is not None and out.suffix not in (".csv", ".jsonl"):
        raise BadInput(f"--out {out}: must end in .csv or .jsonl")
    done = Run(run, notice=_warn)
    if text:
        found = done.predict(text, pair or None, client)
    else:
        found = done.predict_data(file, client=client)
    if out is None:
        Console().print(_shown(found))
        return
    if out.suffix == ".csv":
        content = found.to_csv(index=False)
    else:
        content = found.to_json(orient="records", lines=True, force_ascii=False)
    write_atomic(out, content)
    Console().print(f"{len(found)} predictions: {out}", soft_wrap=True, highlight=False)


def evaluate(
    run: RunPath,
    data: Annotated[
        Path, typer.Option("--data", help="A file or directory with the columns of training.")
    ],
    split: Annotated[
        str, typer.Option("--split", help="Which split, where the data have several.")
    ] = "train",
    out: Annotated[MaybePath, typer.Option("--out", help="A json file to write as well.")] = None,
    client: Client = None,
) -> None:
    """Score a run's model on other data."""
    from rolora.library.finished import Run
    from rolora.records.units import show

    done = Run(run, notice=_warn)
    scores = done.evaluate(data, split=split, client=client)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("examples", str(scores["examples"]))
    for metric in done.task.metrics:
        table.add_row(metric.title, show(scores.get(metric.name), metric))
    Console().print(table)
    if out is not None:
        write_atomic(out, json.dumps(scores, indent=2) + "\n")


def _shown(found: pd.DataFrame) -> Table:
    """Predictions for a person to read; texts are cut where they are long."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in found.columns:
        numbers = found[name].dtype.kind == "f"
        table.add_column(escape(name), justify="right" if numbers else "left", overflow="ellipsis")
    for row in found.itertuples(index=False):
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else escape(str(v)) for v in row))
    return table


def _warn(text: str) -> None:
    Console(stderr=True).print(text, style="yellow", highlight=False, markup=False)
