"""What a person sees in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from rolora.callbacks.terminal import named
from rolora.library.plan import RunPlan
from rolora.methods import METHODS
from rolora.records.schema import Summary
from rolora.records.spread import spread
from rolora.records.units import byte_size, duration, show

FEW = 12
"""Clients whose scores fit on a line."""


def summary_table(summary: Summary, directory: Path) -> Table:
    """The result of a run."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _results(summary):
        table.add_row(name, value)
    for name, value in _by_client(summary):
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


def _by_client(summary: Summary) -> Iterator[tuple[str, str]]:
    """What the clients' own scores are, each counted once, and which stands out."""
    first = summary.task.first
    seen = spread(summary.clients, first)
    if seen is None:
        return
    if len(summary.clients) <= FEW:
        each = (f"{c.client}: {show(c.scores.get(first.name), first)}" for c in summary.clients)
        yield "each client's", ", ".join(each)
    middle = f"mean {show(seen.mean, first)}, median {show(seen.median, first)}"
    out = f"  [red]{named(seen.outliers)} out of line[/]" if seen.outliers else ""
    yield "over clients", middle + out


def plan_table(plan: RunPlan) -> Table:
    """What a config would run."""
    sizes, config = sorted(plan.client_sizes), plan.config
    names = f" of {', '.join(plan.label_names)}" if plan.label_names else ""
    splits = ", ".join(f"{count} {name}" for name, count in plan.examples.items())
    rows = {
        "method": f"{config.method.name}: {plan.travels}",
        "model": f"{plan.model}, {plan.architecture}, {plan.parameters:,} parameters, "
        f"{plan.device}",
        "adapter": f"{len(plan.modules)} modules, {plan.adapter_parameters:,} parameters, "
        f"{plan.trained_parameters:,} trained in round 1",
        "data": f"{splits}, {config.task.name}{names}",
        "clients": f"{len(sizes)} of {sizes[0]} to {sizes[-1]} examples "
        f"(median {sizes[len(sizes) // 2]}), {config.federation.cohort_size} a round",
        "round 1": f"{byte_size(plan.bytes_up)} up, {byte_size(plan.bytes_down)} down, about "
        f"{plan.estimate.seconds:.2g} s of training{_memory(plan)}",
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _memory(plan: RunPlan) -> str:
    found = plan.estimate.memory
    return "" if found is None else f", {byte_size(found)} for weights and activations"


def methods_table() -> Table:
    """Every method: what travels, whether it is exact, its citation."""
    table = Table(show_header=False, box=None, padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True)
    for name, method in METHODS.items():
        ranks = "clients' ranks may differ" if method.mixed_ranks else "one rank for all"
        facts = f"travels: {method.travels}; exact: {method.exactness}; {ranks}"
        about = f"{method.title}\n{facts}\n[dim]{escape(method.citation)}[/]"
        table.add_row(f"[bold]{escape(name)}[/]", about)
    return table
