"""``rolora predict`` and ``rolora evaluate``: what a finished run's model says, and how well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rolora.core.errors import BadInput
from rolora.records.atomic import write_atomic

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from rolora.library.finished import Run

RunPath = Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")]
Client = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--client", help="Ask this client's own adapter, where the method leaves such."),
]
MaybePath = Optional[Path]  # noqa: UP045
MaybeNumber = Optional[int]  # noqa: UP045


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
        MaybePath,
        typer.Option(
            "--data",
            help="A file or directory with the columns of training; with --tasks, a directory of "
            "the tasks' data in place of the hub.",
        ),
    ] = None,
    tasks: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--tasks", help="Tasks of lm-evaluation-harness, separated by commas."),
    ] = None,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--split", help="Which split, where the data have several; else train."),
    ] = None,
    out: Annotated[MaybePath, typer.Option("--out", help="A json file to write as well.")] = None,
    client: Client = None,
    limit: Annotated[
        MaybeNumber, typer.Option("--limit", help="Of --tasks: so many of each task's questions.")
    ] = None,
    fewshot: Annotated[
        MaybeNumber, typer.Option("--fewshot", help="Of --tasks: examples in each prompt.")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Of --tasks: prompts as turns of a chat.")
    ] = False,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Of --tasks: run code that the model wrote, isolated."),
    ] = False,
    unconfined: Annotated[
        bool,
        typer.Option("--unconfined", help="With --allow-code: run it also where nothing isolates."),
    ] = False,
) -> None:
    """Score a run's model on other data; with --tasks, base and adapter on benchmarks."""
    from rolora.library.finished import Run

    if unconfined and not allow_code:
        raise BadInput("--unconfined: says how generated code runs; give --allow-code as well")
    if tasks is None:
        of_tasks = {"--limit": limit, "--fewshot": fewshot, "--chat-template": chat_template}
        for name, given in {**of_tasks, "--allow-code": allow_code}.items():
            if given not in (None, False):
                raise BadInput(f"{name}: goes with --tasks")
        if data is None:
            raise BadInput("rolora evaluate: give --data FILE, or --tasks NAMES")
        _evaluate_data(Run(run, notice=_warn), data, split or "train", out, client)
        return
    if split is not None:
        raise BadInput("--split: a task of --tasks has its own")
    if data is not None and not data.is_dir():
        raise BadInput(f"--data {data}: with --tasks it is a directory of the tasks' data")
    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    code = None if not allow_code else "unconfined" if unconfined else "isolated"
    options = {"fewshot": fewshot, "chat_template": chat_template, "code": code, "client": client}
    _score(Run(run, notice=_warn), names, data, limit, out, options)


def _score(
    done: Run,
    names: tuple[str, ...],
    data: Path | None,
    limit: int | None,
    out: Path | None,
    options: dict[str, Any],
) -> None:
    """Ask the harness, and show its tables."""
    from rolora.report.scored import HEADER, row

    found = done.score(names, data, limit, **options)
    table = Table(box=None, padding=(0, 2, 0, 0))
    shown = [number for number, title in enumerate(HEADER) if title not in ("asked", "questions")]
    for number in shown:
        table.add_column(HEADER[number], justify="left" if number < 3 else "right")
    for score in found:
        if score.within is None:  # the rest stands on the report
            cells = row(score)
            table.add_row(*(escape(cells[number]) for number in shown))
    Console().print(table)
    where = done.directory / "scores.json"
    Console().print(f"all scores: {where}", soft_wrap=True, highlight=False)
    if out is not None:
        write_atomic(out, json.dumps([s.model_dump(mode="json") for s in found], indent=2) + "\n")


def _evaluate_data(done: Run, data: Path, split: str, out: Path | None, client: int | None) -> None:
    """Score labelled data, and show the task's scores."""
    from rolora.records.units import show

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
