"""What comes after RoLoRA: its variants on MNIST and on a language task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.beyond.config import BeyondConfig
from experiments.beyond.figure import figures
from experiments.beyond.halves import halves
from experiments.beyond.report import claims, results, summary, tables
from experiments.beyond.runs import run_all
from experiments.framework import (
    ReproduceResult,
    command_line,
    output_directory,
    versions,
    write_experiment_report,
)
from rolora.config import parse_overrides

NAME = "beyond"


def run_beyond(
    overrides: Sequence[str], out: Path | None = None, console: Console | None = None
) -> ReproduceResult:
    """Compare the variants, write a report into `out`, print and return it.

    Raises:
        BadInput: an override is wrong, or data or model cannot be had.
        RunFailed: a worker process died.
    """
    console = console or Console(quiet=True)
    config = parse_overrides(BeyondConfig, overrides, f"reproduce {NAME}")
    directory = output_directory(NAME, out)
    lines = run_all(halves(config, directory, console), config.compared())
    result = ReproduceResult(NAME, directory, tuple(tables(lines)), tuple(claims(config, lines)))
    write_experiment_report(
        directory,
        title="What comes after RoLoRA",
        command=command_line(NAME, overrides, out),
        summary=summary(config, lines),
        tables=result.tables,
        claims=result.claims,
        figures=figures(lines),
        results=results(lines),
        settings=config.model_dump(mode="json"),
        versions=versions("torch", "transformers", "datasets", "numpy"),
    )
    result.show(console)
    return result
