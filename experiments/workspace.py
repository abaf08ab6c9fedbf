"""Where an experiment works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.cells import Cells


@dataclass(frozen=True)
class Workspace:
    """Where an experiment works: its directory, its finished cells, where to say how it goes."""

    directory: Path
    cells: Cells
    console: Console

    @classmethod
    def at(cls, directory: Path, console: Console) -> Workspace:
        """In `directory`, made where it is not there."""
        return cls(directory, Cells(directory / "cells", console.out), console)

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.out(text)
