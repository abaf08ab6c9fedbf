"""Commands to begin with: ``rolora presets``, ``init`` and ``doctor``."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from rolora.presets import preset_text, presets


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
