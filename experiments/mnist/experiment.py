"""The paper's MNIST experiment (Figure 2): a two-layer net, two or one digits a client."""

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
from experiments.mnist.data import load_mnist
from experiments.mnist.figure import figures
from experiments.mnist.report import claims, results, summary, tables
from experiments.mnist.runs import MnistConfig, run_all
from rolora.config import parse_overrides

NAME = "mnist"


def run_mnist(
    overrides: Sequence[str], out: Path | None = None, console: Console | None = None
) -> ReproduceResult:
    """Run the experiment, write its report into `out`, print and return it.

    Raises:
        BadInput: an override is wrong, or the digits cannot be had.
        RunFailed: a worker process died.
    """
    console = console or Console(quiet=True)
    config = parse_overrides(MnistConfig, overrides, f"reproduce {NAME}")
    directory = output_directory(NAME, out)
    mnist = load_mnist(config.data, console.out)
    console.out(f"data: {mnist.source}")
    runs = run_all(config, mnist, Cells(directory / "cells", console.out), console)
    result = ReproduceResult(
        NAME, directory, tuple(tables(config, runs)), tuple(claims(config, runs))
    )
    write_experiment_report(
        directory,
        title="The two-layer net on MNIST",
        command=command_line(NAME, overrides, out),
        summary=summary(config, mnist),
        tables=result.tables,
        claims=result.claims,
        figures=figures(config, mnist, runs),
        results=results(runs),
        settings={**config.model_dump(mode="json"), "digits": mnist.digest},
        versions=versions("torch", "numpy"),
    )
    result.show(console)
    return result
