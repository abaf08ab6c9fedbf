"""What a person sees in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rolora.core.types import Failure, Update
from rolora.engines.preparation import Ready
from rolora.methods import METHODS
from rolora.report.units import byte_size, duration, percent


class RunDisplay:
    """A line a round, and under them a bar for the run and one for the round's clients."""

    def __init__(self, console: Console):
        self.console = console
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self.rounds = self.progress.add_task("rounds", total=None, note="")
        self.clients = self.progress.add_task("clients", total=None, note="", visible=False)

    @contextmanager
    def live(self) -> Iterator[RunDisplay]:
        """Show the bars while the block runs; only lines where this is no terminal."""
        if not self.console.is_terminal:
            yield self
            return
        with self.progress:
            yield self

    def begin(self, ready: Ready, finished: int) -> None:
        """Say what runs."""
        config = ready.config
        sizes = sorted(map(sum, ready.facts().strata_table))
        source = config.data.name or config.data.path or "the sites' own data"
        self.console.print(
            f"[bold]{METHODS[config.method.name].title}[/] · {config.model.name} "
            f"({ready.model.num_parameters() / 1e6:.1f} M parameters) · "
            f"{source} ({sum(sizes)} training examples) · "
            f"{len(sizes)} clients of {sizes[0]} to {sizes[-1]} examples · "
            f"{config.rounds} rounds",
            highlight=False,
        )
        self.progress.update(self.rounds, total=config.rounds, completed=finished)
        size = config.federation.cohort_size
        self.progress.update(self.clients, total=size, completed=0, visible=True)

    def answered(self, answer: Update | Failure) -> None:
        """One more client of the round is done."""
        self.progress.advance(self.clients)

    def round_finished(self, metrics: Mapping[str, Any]) -> None:
        """A line for the round."""
        self.progress.update(self.rounds, completed=metrics["round"])
        self.progress.reset(self.clients)
        self.console.print(round_line(metrics), highlight=False)

    def notice(self, text: str) -> None:
        """Something to know."""
        self.console.print(f"[yellow]{text}[/]", highlight=False)


def round_line(metrics: Mapping[str, Any]) -> str:
    """One round in one line."""
    loss, accuracy = metrics["train_loss"], metrics["eval_accuracy"]
    evaluated = "" if accuracy is None else f"  [green]validation {percent(accuracy)}[/]"
    failed = metrics["failures"]
    trouble = "" if not failed else f"  [red]{len(failed)} failed ({failed[0]['reason']})[/]"
    return (
        f"round {metrics['round']:>4}  trains {metrics['phase']:<6} "
        f"loss {'nan' if loss is None else f'{loss:.4f}'}  "
        f"up {byte_size(metrics['bytes_up']):>9}  down {byte_size(metrics['bytes_down']):>9}  "
        f"{duration(metrics['seconds']['total']):>6}{evaluated}{trouble}"
    )


def summary_table(summary: Mapping[str, Any], directory: Path) -> Table:
    """The result of a run."""
    final, total = summary["final"], summary["bytes_up"] + summary["bytes_down"]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = {
        "test accuracy": f"[bold green]{percent(final['test_accuracy'])}[/]  "
        f"(always guessing the most frequent label: {percent(summary['majority_accuracy'])})",
        "validation accuracy": f"{percent(final['eval_accuracy'])} after round {final['round']}",
        "sent": f"{byte_size(total)} ({byte_size(summary['bytes_up'])} up, "
        f"{byte_size(summary['bytes_down'])} down)",
        "time": duration(summary["seconds"]["total"]),
        "report": str(directory / "report.html"),
        "adapter": f"{directory / 'adapter'} (PEFT)",
    }
    missing = [f"client {f['client']} ({f['reason']})" for f in summary["test_failures"]]
    if missing:
        rows["not tested"] = f"[red]{', '.join(missing)}[/]"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def methods_table() -> Table:
    """Every method: what travels, whether it is exact, its citation."""
    table = Table(title="Methods", title_justify="left")
    for column in ("name", "method", "what travels", "exact", "ranks may differ", "source"):
        table.add_column(column, overflow="fold")
    for name, method in METHODS.items():
        ranks = "yes" if method.mixed_ranks else "no"
        table.add_row(name, method.title, method.travels, method.exact, ranks, method.citation)
    return table
