"""Commands to begin with: ``rolora presets``, ``init`` and ``doctor``."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rolora import __version__
from rolora.presets import preset_text, presets

if TYPE_CHECKING:
    from rolora.doctor import Finding


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"rolora {__version__}\n")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_show_version, is_eager=True, help="Print it and exit."),
]


def show_presets(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Print this one, to copy it.", metavar="[NAME]"),
    ] = None,
) -> None:
    """List the configs that come with the package; rolora run takes their names."""
    if name is not None:
        sys.stdout.write(preset_text(name))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for each, line in presets().items():
        table.add_row(f"[bold]{each}[/]", line)
    console = Console()
    console.print(table)
    console.print("rolora run NAME runs one; rolora presets NAME prints it, to copy it.")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what is installed here, what is missing and how to get it; 1 if no run can begin."""
    from rolora.doctor import examine

    found = examine()
    if as_json:
        sys.stdout.write(json.dumps(asdict(found) | {"sound": found.sound}, indent=1) + "\n")
        raise typer.Exit(0 if found.sound else 1)
    console = Console(highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for title in ("machine", "required", "extras", "packaged"):
        table.add_row(f"[bold]{title}[/]")
        for each in getattr(found, title):
            table.add_row(f"  {each.name}", _found(each, title))
    console.print(table)
    if not found.sound:
        console.print("[bold red]No run can begin here.[/]")
        raise typer.Exit(1)


def _found(finding: Finding, title: str) -> str:
    """What there is, and below it what to do."""
    style = "green" if finding.fine else "yellow" if title in ("extras", "packaged") else "bold red"
    text = f"[{style}]{escape(finding.found)}[/]"
    return text + (f"\n{escape(finding.advice)}" if finding.advice else "")


Column = Optional[str]  # noqa: UP045


def init(
    directory: Annotated[Path, typer.Argument(help="Where to write it.", metavar="[DIR]")] = Path(),
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data", help="csv, tsv, json, jsonl, parquet or a datasets directory."),
    ] = None,
    task: Annotated[Column, typer.Option("--task", help="What is learned.")] = None,
    text: Annotated[Column, typer.Option("--text", help="The column of texts.")] = None,
    text_pair: Annotated[
        Column, typer.Option("--text-pair", help="The column of second texts.")
    ] = None,
    label: Annotated[Column, typer.Option("--label", help="The column to be learned.")] = None,
    field: Annotated[
        Column, typer.Option("--field", help="The column whose values are the clients.")
    ] = None,
    clients: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--clients", min=1, help="How many clients."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="A name or a directory.")] = "minilm",
    encoding: Annotated[
        Column, typer.Option("--encoding", help="Of a text file that is not utf-8: latin-1, ...")
    ] = None,
) -> None:
    """Write a commented config, DIR/rolora.yaml, for a file of yours or for the quickstart.

    What is not named is guessed from the file's columns, and said.
    """
    from rolora.starter import Choice, draft
    from rolora.starter.roles import listed

    choice = Choice(text=text, text_pair=text_pair, label=label, field=field, task=task)
    made = draft(directory, data, choice, clients, model, encoding)
    console = Console(highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for role, guess in made.said.items():
        table.add_row(role, f"[bold]{escape(guess.value)}[/]", escape(guess.why))
    if made.said:
        console.print(table)
    if made.others:
        console.print(f"not used: {escape(listed(made.others))}")
    path = made.write()
    clients_, rounds = made.config.federation.clients, made.config.rounds
    console.print(f"{escape(str(path))}: {clients_} clients, {rounds} rounds. Now:")
    console.print(f"  rolora run {escape(shlex.quote(str(path)))}", soft_wrap=True)
