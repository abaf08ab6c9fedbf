"""``rolora watch``: a live page over run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console


def watch(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories, or directories that hold some.", metavar="RUN..."),
    ],
    port: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--port", help="Of this machine; else a free one.", min=1, max=65535),
    ] = None,
) -> None:
    """Show runs, while they go on too, on a page that this machine alone can open."""
    from rolora.records.shield import Interrupted, interruptible
    from rolora.watch.serve import serve

    console = Console()
    with interruptible():
        try:
            serve(runs, port, lambda text: console.print(text, highlight=False, soft_wrap=True))
        except KeyboardInterrupt as error:
            console.print("stopped")
            code = error.exit_code if isinstance(error, Interrupted) else 130
            raise typer.Exit(code) from None
