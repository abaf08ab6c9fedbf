"""The paper's experiments and what comes after them: ``python -m experiments NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from experiments import EXPERIMENTS
from rolora.cli.main import guarded
from rolora.core.errors import BadInput, nearest
from rolora.core.memory import keep_few_products

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def reproduce(
    name: Annotated[Optional[str], typer.Argument(help="An experiment.")] = None,  # noqa: UP045
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="Settings of the experiment.", metavar="[key.path=value]..."),
    ] = None,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--preset", help="Of an experiment that has several, glue: preset=NAME."),
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="At a laptop's size, where there is one: small=true.")
    ] = False,
    out: Annotated[Optional[Path], typer.Option("--out", help="Directory to write.")] = None,  # noqa: UP045
) -> None:
    """Run an experiment of the paper, or of what comes after it; without a name, list them."""
    console = Console()
    if name is None:
        console.print(experiments_table())
        return
    if name not in EXPERIMENTS:
        raise BadInput(f"experiments {name}: unknown experiment{nearest(name, EXPERIMENTS)}")
    chosen = [] if preset is None else [f"preset={preset}"]
    chosen += ["small=true"] if small else []
    from experiments.experiment import run_experiment

    run_experiment(EXPERIMENTS[name].load(), [*chosen, *(overrides or ())], out, console)


def experiments_table() -> Table:
    """The experiments, each with what it needs."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, item in EXPERIMENTS.items():
        table.add_row(f"[bold]{name}[/]", "", f"[bold]{item.title}[/]")
        for need in ("data", "weights", "minutes", "gpu"):
            table.add_row("", need, getattr(item, need))
        table.add_row()
    return table


def main() -> None:
    """Run the command line and turn errors into messages and exit codes."""
    keep_few_products()
    guarded(app)


if __name__ == "__main__":
    main()
