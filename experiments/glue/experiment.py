"""The paper's GLUE experiments: ``python -m experiments glue --preset NAME [--small]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.framework import (
    Cells,
    ReproduceResult,
    command_line,
    output_directory,
    versions,
    write_experiment_report,
)
from experiments.glue.config import GlueConfig
from experiments.glue.figure import figures
from experiments.glue.presets import TITLES
from experiments.glue.report import Outcome, claims, results, summary, tables
from experiments.glue.runs import run_all
from experiments.glue.tasks import left_out, majority, tasks_of
from rolora.config import parse_overrides

NAME = "glue"


def run_glue(
    overrides: Sequence[str], out: Path | None = None, console: Console | None = None
) -> ReproduceResult:
    """Run a preset, write its report into `out`, print and return it.

    Raises:
        BadInput: an override is wrong, or data or model cannot be had.
        RunFailed: a worker process died.
    """
    console = console or Console(quiet=True)
    config = parse_overrides(GlueConfig, overrides, f"reproduce {NAME}")
    size = "-small" if config.small else ""
    directory = output_directory(f"{NAME}-{config.preset}{size}", out)
    tasks = tasks_of(config, directory / "data", console.out)
    for task in tasks:
        console.out(f"{task.title}: {task.source}")
    runs = run_all(config, tasks, Cells(directory / "cells", console.out), console)
    commonest = {task.name: majority(task, config.seeds[0]) for task in tasks}
    outcome = Outcome(config, tasks, runs, commonest)
    result = ReproduceResult(NAME, directory, tuple(tables(outcome)), tuple(claims(outcome)))
    write_experiment_report(
        directory,
        title=TITLES[config.preset],
        command=command_line(NAME, overrides, out),
        summary=summary(outcome, left_out(config, tasks)),
        tables=result.tables,
        claims=result.claims,
        figures=figures(outcome),
        results=results(outcome),
        settings=config.model_dump(mode="json"),
        versions=versions("torch", "transformers", "datasets", "numpy"),
    )
    result.show(console)
    return result
