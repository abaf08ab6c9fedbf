"""An experiment, and the one way in which all of them are run."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

import torch
from rich.console import Console
from rich.text import Text

from experiments.report import Findings, Made, write_report
from experiments.workspace import Workspace
from rolora.core.parsing import parse_overrides
from rolora.core.section import Section

C = TypeVar("C", bound=Section)
O = TypeVar("O")  # noqa: E741


@dataclass(frozen=True)
class Experiment(Generic[C, O]):
    """An experiment: what may be set, how it is run, and what is told of it.

    Args:
        name: on the command line.
        config: its settings.
        run: makes the runs; those whose cell is finished are not made again. Raises BadInput where
            data or model cannot be had, RunFailed where a worker process died.
        tell: what the runs say.
        packages: whose versions the report names, beside Python's and rolora's.
        directory: the name of its own directory; None: the experiment's.
        threads: that torch splits an operation between, as a run's bits belong to their number;
            told with the settings. None: as it finds them.
    """

    name: str
    config: type[C]
    run: Callable[[C, Workspace], O]
    tell: Callable[[C, O], Findings]
    packages: tuple[str, ...]
    directory: Callable[[C], str] | None = None
    threads: int | None = None

    def below(self, runs: Path, config: C) -> Path:
        """Its own directory in `runs`."""
        return runs / (self.directory(config) if self.directory else self.name)


def run_experiment(
    experiment: Experiment[C, O],
    overrides: Sequence[str],
    out: Path | None = None,
    console: Console | None = None,
) -> Findings:
    """Run an experiment, write its report, print and return what it found.

    Args:
        experiment: to run.
        overrides: ``key.path=value``, of its settings.
        out: where to write; None: a directory of its own below ``runs/reproduce``.
        console: where to say how it goes; None: nowhere.

    Raises:
        BadInput: an override is wrong, or data or model cannot be had.
        RunFailed: a worker process died.
    """
    console = console or Console(quiet=True)
    config = parse_overrides(experiment.config, overrides, f"experiments {experiment.name}")
    directory = out or experiment.below(Path("runs", "reproduce"), config)
    threads = {} if experiment.threads is None else {"threads": experiment.threads}
    if experiment.threads is not None:
        torch.set_num_threads(experiment.threads)
    findings = experiment.tell(config, experiment.run(config, Workspace.at(directory, console)))
    made = Made(
        command=command_line(experiment.name, overrides, out),
        settings={**config.model_dump(mode="json"), **findings.facts, **threads},
        versions=versions(*experiment.packages),
    )
    write_report(directory, findings, made)
    findings.show(console)
    console.print(Text(f"\nreport: {directory / 'report.md'}"))
    return findings


def command_line(name: str, overrides: Sequence[str], out: Path | None) -> str:
    """The command that runs an experiment so, as a shell takes it."""
    target = [] if out is None else ["--out", out.as_posix()]
    return shlex.join(["python", "-m", "experiments", name, *overrides, *target])


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python, rolora and `packages`."""
    named = {package: version(package) for package in ("rolora", *packages)}
    return {"python": platform.python_version(), **named}
