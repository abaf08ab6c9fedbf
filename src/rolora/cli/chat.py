"""``rolora chat``: talk to a finished run's language model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from rolora.core.errors import BadInput


def chat(
    run: Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")],
    most: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Of an answer, at most.")
    ] = 512,
    client: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--client", help="Talk to this client's own adapter."),
    ] = None,
) -> None:
    """Talk to a run's language model: a line is a turn, /reset begins anew, Ctrl-D ends.

    Off a terminal every line of the input is a turn, and the answers are what is printed.
    """
    from rolora.data.dialogue import Turn
    from rolora.library.finished import Run
    from rolora.library.speaking import speaker

    model = speaker(Run(run, notice=_say), client)
    turns: list[Turn] = []
    if sys.stdin.isatty():
        _say(f"{run}: a line is a turn, /reset begins anew, Ctrl-D or Ctrl-C ends")
    try:
        for line in _lines():
            if line == "/reset":
                turns = []
                continue
            asked = [*turns, Turn("user", line)]
            try:
                answer = model.answer(asked, most, hear=_print)
            except BadInput as error:  # too long, as a rule
                _say(f"{error}; /reset begins anew")
                continue
            _print("\n")
            turns = [*asked, Turn("assistant", answer)]
    except KeyboardInterrupt:
        _print("\n")


def _lines() -> Iterator[str]:
    """What a person types, without empty lines."""
    ask = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(ask).strip()
        except EOFError:
            _print("\n" if ask else "")
            return
        if line:
            yield line


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    Console(stderr=True).print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
