"""The live page: one run as its report shows it, or several in one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rolora.records import units
from rolora.records.units import byte_size, count, show
from rolora.report import figures
from rolora.report.run_report import content, environment, warnings
from rolora.watch.failing import failing
from rolora.watch.looks import Look
from rolora.watch.overlay import COLOURS, MARKS, MOST_RUNS, Drawn, overlaid

UNDER_WAY = ("preparing", "waiting", "running")
"""States in which a process writes to the run."""


def run_page(look: Look, among: int) -> str:
    """One run's page; `among` that many there are."""
    if look.files is None:
        return runs_page([look])
    shown = content(look.files)
    if look.state in UNDER_WAY:  # --resume is not for it
        shown["warnings"] = list(warnings(look.files))
    more = {"look": look, "among": among, "failing": failing([look])}
    return _render("live.html.jinja", shown | more)


def runs_page(looks: Sequence[Look]) -> str:
    """All runs in one table and one picture."""
    drawn = _drawn(looks)
    with_rounds = sum(bool(look.files and look.files.rounds) for look in looks)
    shown = {
        "theme": figures.THEME,
        "looks": looks,
        "drawn": {run.name: run for run in drawn},
        "left_out": with_rounds - len(drawn),
        "cells": {look.name: list(_cells(look, not _one_metric(looks))) for look in looks},
        "columns": _columns(looks),
        "title": _title(looks),
        "panels": list(overlaid(drawn)),
        "failing": failing(looks),
    }
    return _render("overlay.html.jinja", shown)


def _render(name: str, shown: dict[str, Any]) -> str:
    return environment("watch", "report").get_template(name).render(shown)


def _drawn(looks: Sequence[Look]) -> list[Drawn]:
    """How each run's line looks; of too many runs those are drawn that changed last."""
    ready = [look for look in looks if look.files and look.files.rounds]
    newest = sorted(ready, key=lambda look: look.changed)[-MOST_RUNS:]
    kept = [look for look in ready if look in newest]
    looked = [(mark, hue) for mark in MARKS for hue in COLOURS]
    return [
        Drawn(look.name, look.files, hue, mark)
        for look, (mark, hue) in zip(kept, looked, strict=False)
        if look.files
    ]


def _title(looks: Sequence[Look]) -> str:
    """How many runs there are, and how many of them in which state."""
    states = Counter(look.state for look in looks)
    runs = f"{count(len(looks))} run{'' if len(looks) == 1 else 's'}"
    return f"{runs}: {', '.join(f'{count(n)} {state}' for state, n in states.most_common())}"


def _columns(looks: Sequence[Look]) -> tuple[str, ...]:
    """What :func:`_cells` are under."""
    scores = ("validation", "test")
    if metric := _one_metric(looks):
        scores = (f"validation {metric}", f"test {metric}")
    return ("rounds", *scores, "bytes", "failures")


def _one_metric(looks: Sequence[Look]) -> str:
    """The title of the metric that all runs share; empty where they have several."""
    titles = {look.files.task.first.title for look in looks if look.files}
    return titles.pop() if len(titles) == 1 else ""


def _cells(look: Look, named: bool) -> Iterator[str]:
    """Of a run: rounds, validation and test score, with its name if `named`, bytes, failures."""
    run = look.files
    if run is None:
        yield from (units.NONE,) * 5
        return
    metric = run.task.first
    seen = [score for r in run.rounds if (score := run.task.first_of(r.validation)) is not None]
    test = run.task.first_of(run.summary.final.test) if run.summary else None
    yield f"{count(len(run.rounds))} of {count(run.config.rounds)}"
    for score in (seen[-1] if seen else None, test):
        known = named and score is not None
        yield f"{show(score, metric)} {metric.title}" if known else show(score, metric)
    yield byte_size(run.bytes_up + run.bytes_down)
    yield count(sum(len(record.failures) for record in run.rounds))
