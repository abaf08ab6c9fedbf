"""What a person sees in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rolora.core.types import Failure, Update
from rolora.engines.preparation import Ready
from rolora.methods import METHODS
from rolora.records.schema import CLASSIFICATION, RoundRecord, Summary, TaskRecord
from rolora.report.units import byte_size, duration, show
from rolora.run import task_of


class RunDisplay:
    """A line a round, and under them a bar for the run and one for the round's clients."""

    def __init__(self, console: Console):
        self.console, self.task = console, CLASSIFICATION
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
        config, self.task = ready.config, task_of(ready)
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

    def round_finished(self, metrics: RoundRecord) -> None:
        """A line for the round."""
        self.progress.update(self.rounds, completed=metrics.round)
        self.progress.reset(self.clients)
        self.console.print(round_line(metrics, self.task), highlight=False)

    def notice(self, text: str) -> None:
        """Something to know."""
        self.console.print(f"[yellow]{text}[/]", highlight=False)


def round_line(metrics: RoundRecord, task: TaskRecord) -> str:
    """One round in one line: what trained, the training loss, bytes, time, the first score."""
    score, failed = task.first_of(metrics.validation), metrics.failures
    evaluated = trouble = ""
    if metrics.validation is not None:
        evaluated = f"  [green]{task.first.title} {show(score, task.first)}[/]"
    if failed:
        trouble = f"  [red]{len(failed)} failed ({escape(failed[0].reason)})[/]"
    loss = "nan" if metrics.train_loss is None else f"{metrics.train_loss:.4f}"
    return (  # in 80 columns, where one factor trains and nothing fails
        f"round {metrics.round:>3}  {metrics.phase:<2}  loss {loss:>6}  "
        f"up {byte_size(metrics.bytes_up):>8}  down {byte_size(metrics.bytes_down):>8}  "
        f"{duration(metrics.total_seconds):>6}{evaluated}{trouble}"
    )


def summary_table(summary: Summary, directory: Path) -> Table:
    """The result of a run."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _results(summary):
        table.add_row(name, value)
    up, down = summary.bytes_up, summary.bytes_down
    table.add_row("sent", f"{byte_size(up + down)} ({byte_size(up)} up, {byte_size(down)} down)")
    table.add_row("time", duration(summary.seconds.get("total")))
    table.add_row("report", escape(str(directory / "report.html")))
    table.add_row("adapter", f"{escape(str(directory / 'adapter'))} (PEFT)")
    missing = [f"client {f.client} ({escape(f.reason)})" for f in summary.test_failures]
    if missing:
        table.add_row("not tested", f"[red]{', '.join(missing)}[/]")
    return table


def _results(summary: Summary) -> Iterator[tuple[str, str]]:
    """The test scores, and the validation score by which rounds are compared."""
    task, final = summary.task, summary.final
    for number, metric in enumerate(task.metrics):
        score = show(final.test.get(metric.name), metric)
        against = ""
        if metric.name in summary.constant:
            against = f"  (a constant guess: {show(summary.constant[metric.name], metric)})"
        yield f"test {metric.title}", (f"[bold green]{score}[/]" if not number else score) + against
    if final.validation:
        score = show(task.first_of(final.validation), task.first)
        yield f"validation {task.first.title}", f"{score} after round {final.round}"


def methods_table() -> Table:
    """Every method: what travels, whether it is exact, its citation."""
    table = Table(title="Methods", title_justify="left")
    for column in ("name", "method", "what travels", "exact", "ranks may differ", "source"):
        table.add_column(column, overflow="fold")
    for name, method in METHODS.items():
        ranks = "yes" if method.mixed_ranks else "no"
        table.add_row(name, method.title, method.travels, method.exactness, ranks, method.citation)
    return table
