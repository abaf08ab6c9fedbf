"""A run in the terminal."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from rolora.callbacks.base import Begun, Callback
from rolora.core.types import Failure, Update
from rolora.records.schema import CLASSIFICATION, LOSS, RoundRecord, TaskRecord
from rolora.records.spread import spread
from rolora.records.units import NONE, byte_size, duration, show


class Terminal(Callback):
    """A line a round, and under them a bar for the run and one for the round's clients; only lines
    where this is no terminal.

    Args:
        console: where to; None: standard output.
        title: a line above it all.
    """

    def __init__(self, console: Console | None = None, title: str | None = None):
        self.console, self.title, self.task = console or Console(), title, CLASSIFICATION
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self.rounds = self.progress.add_task("rounds", total=None, note="")
        self.clients = self.progress.add_task("clients", total=None, note="", visible=False)

    def begin(self, run: Begun) -> None:
        """Say what runs, and show the bars."""
        config, start, sizes = run.config, run.start, sorted(run.sizes)
        self.task = start.task
        if self.title:
            self.console.rule(self.title, align="left")
        self._say(
            f"[bold]{escape(start.method.title)}[/] · {escape(start.model.name)} "
            f"({(start.model.parameters or 0) / 1e6:.1f} M parameters) · "
            f"{escape(run.data)} ({sum(sizes)} training examples) · "
            f"{len(sizes)} clients of {sizes[0]} to {sizes[-1]} examples · "
            f"{config.rounds} rounds"
        )
        if start.expected:
            memory = start.expected.memory
            needs = f", {byte_size(memory)} of memory" if memory else ""
            self._say(f"expected: {duration(start.expected.seconds)} of training a round{needs}")
        self.progress.update(self.rounds, total=config.rounds, completed=run.finished)
        size = config.federation.cohort_size
        self.progress.update(self.clients, total=size, completed=0, visible=True)
        if self._live:
            self.progress.start()

    def answer(self, answer: Update | Failure) -> None:
        """One more client of the round is done."""
        self.progress.advance(self.clients)

    def round(self, record: RoundRecord) -> None:
        """A line for the round."""
        self.progress.update(self.rounds, completed=record.round)
        self.progress.reset(self.clients)
        self._say(fitted(record, self.task, self.console.width if self._live else None))

    def close(self) -> None:
        """Take the bars away."""
        self.progress.stop()

    def notice(self, text: str) -> None:
        """Something to know."""
        self._say(f"[yellow]{escape(text)}[/]")

    @property
    def _live(self) -> bool:
        return self.console.is_terminal

    def _say(self, text: str) -> None:
        """A line; a file takes it whole, whatever its reader's width."""
        self.console.print(text, highlight=False, soft_wrap=not self._live)


def fitted(record: RoundRecord, task: TaskRecord, width: int | None) -> str:
    """One round in one line of at most `width`; what does not fit is left out, which metrics.jsonl
    holds. None: all of it.
    """
    line = round_line(record, task)
    for most in range(1, len(LEAST) + 1):
        if width is None or Text.from_markup(line).cell_len <= width:
            break
        line = round_line(record, task, LEAST[:most])
    return line


LEAST = ("clients", "bytes", "time", "reason")
"""What a line can do without, in the order in which it does."""


def round_line(metrics: RoundRecord, task: TaskRecord, without: Collection[str] = ()) -> str:
    """One round in one line: what trained, the training loss, bytes, time, the first score."""
    score, failed = task.first_of(metrics.validation), metrics.failures
    loss = NONE if metrics.train_loss is None else f"{metrics.train_loss:.4f}"
    parts = [f"round {metrics.round:>3}", f"{metrics.phase:<2}", f"loss {loss:>6}"]
    if "bytes" not in without:
        up, down = byte_size(metrics.bytes_up), byte_size(metrics.bytes_down)
        parts.append(f"up {up:>8}  down {down:>8}")
    if "time" not in without:
        parts.append(f"{duration(metrics.total_seconds):>6}")
    if metrics.epsilon is not None:
        parts.append(f"epsilon {metrics.epsilon:.3g}")
    if metrics.validation is not None:
        split = "validation " if task.first.name == LOSS.name else ""  # training's is there too
        parts.append(f"[green]{split}{task.first.title} {show(score, task.first)}[/]")
        seen = spread(metrics.sites, task.first)
        if seen and "clients" not in without:
            middle = show(seen.median, task.first)
            parts.append(f"by client mean {show(seen.mean, task.first)}, median {middle}")
        if seen and seen.outliers:
            parts.append(f"[red]{named(seen.outliers)} out of line[/]")
    if failed:
        reason = "" if "reason" in without else f" ({escape(failed[0].reason)})"
        parts.append(f"[red]{len(failed)} failed{reason}[/]")
    return "  ".join(parts)


def named(clients: Collection[int]) -> str:
    """Clients by their ids, the first three of them."""
    ids = sorted(clients)
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return f"client{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:3]))}{more}"
