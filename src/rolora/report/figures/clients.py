"""How the final model does by client, and what each client holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes

from rolora.records.files import RunFiles
from rolora.records.schema import Metric
from rolora.records.units import capital, count, show
from rolora.report.figures.strata import strata
from rolora.report.figures.svg import (
    COUNT,
    MANY_CLIENTS,
    PERCENT,
    Key,
    Panel,
    colour,
    draw,
    finish,
)
from rolora.report.figures.tips import Tip, bands
from rolora.report.statistics import wilson_interval

Scored = tuple[int, int, float]
"""A client, its number of test examples and its score on them."""


def clients(run: RunFiles) -> Iterator[Panel]:
    """The first metric by client, and the strata and examples that each client holds."""
    if run.summary is None:
        return
    name = run.task.first.name
    known = [
        (c.client, c.examples, score)
        for c in run.summary.clients
        if c.examples and (score := c.scores.get(name)) is not None
    ]
    if known:
        yield (_dots if len(known) <= MANY_CLIENTS else _histogram)(run, known)
    yield from strata(run)


def _dots(run: RunFiles, known: Sequence[Scored]) -> Panel:
    metric = run.task.first
    ids, examples, scores = zip(*known, strict=True)
    overall = run.summary.final.test.get(metric.name) if run.summary else None

    def paint(axes: Axes) -> None:
        if overall is not None:
            axes.axhline(overall, color=colour("muted"), lw=1, dashes=(4, 3), zorder=1.5)
        if metric.proportion:
            ends = [wilson_interval(share, n) for share, n in zip(scores, examples, strict=True)]
            axes.vlines(ids, *zip(*ends, strict=True), color=colour("blue"), lw=1.5, alpha=0.45)
        axes.plot(ids, scores, "o", ms=6 if len(ids) <= 30 else 4.5, color=colour("blue"))
        if metric.share:
            axes.yaxis.set_major_formatter(PERCENT)
        axes.set_xlim(min(ids) - 0.7, max(ids) + 0.7)
        finish(axes, "client")

    keys = [Key("dot", "blue", "client")]
    if overall is not None:
        keys.append(Key("dash", "muted", f"all clients' examples, {show(overall, metric)}"))
    coarse = "a client with few examples is measured coarsely."
    lines = f"Lines are 95 % intervals (Wilson): {coarse}"
    caption = f"{_meaning(run, metric)} {lines if metric.proportion else capital(coarse)}"
    caption += _left_out(run, known)
    title = f"{capital(metric.title)} by client"
    tips = [*bands(ids, [_one(metric, *of) for of in known])]
    if overall is not None:
        tips.append(Tip(f"all clients' examples: {show(overall, metric)}", y=(overall, overall)))
    return Panel(title, draw("client-dots", paint, tips), caption, tuple(keys))


def _one(metric: Metric, client: int, examples: int, score: float) -> str:
    """One client in words."""
    of = f"client {client}\n{metric.title} {show(score, metric)} of {count(examples)} examples"
    if not metric.proportion:
        return of
    low, high = wilson_interval(score, examples)
    return f"{of}\n95 % interval {show(low, metric)} to {show(high, metric)}"


def _histogram(run: RunFiles, known: Sequence[Scored]) -> Panel:
    metric = run.task.first
    scores = np.array([score for _, _, score in known])
    low, middle, high = map(float, np.quantile(scores, [0.05, 0.5, 0.95]))

    span = (0.0, 1.0) if metric.share else None
    heights, edges = np.histogram(scores, bins=25, range=span)

    def paint(axes: Axes) -> None:
        axes.stairs(heights, edges, fill=True, color=colour("blue"), alpha=0.75)
        axes.axvline(middle, color=colour("ink"), lw=1.5)
        for edge in (low, high):
            axes.axvline(edge, color=colour("muted"), lw=1, dashes=(4, 3))
        if metric.share:
            axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(COUNT)
        finish(axes, f"{metric.title} on the client's own test examples", "clients")

    caption = (
        f"How many of {count(len(known))} clients reach which {metric.title} on their own test "
        f"examples with {_its(run)} model."
    )
    if metric.proportion:
        caption += " Small clients pile up at round fractions."
    said = [
        f"{metric.title} {show(start, metric)} to {show(end, metric)}\n{count(n)} clients"
        for start, end, n in zip(edges[:-1], edges[1:], heights, strict=True)
    ]
    return Panel(
        f"{capital(metric.title)} across clients",
        draw("client-histogram", paint, bands((edges[1:] + edges[:-1]) / 2, said)),
        caption + _left_out(run, known),
        (
            Key("line", "ink", f"median {show(middle, metric)}"),
            Key("dash", "muted", f"5 % and 95 %: {show(low, metric)}, {show(high, metric)}"),
        ),
    )


def _meaning(run: RunFiles, metric: Metric) -> str:
    if metric.proportion:
        return f"Share of each client's own test examples that {_its(run)} model gets right."
    return f"{capital(metric.title)} of {_its(run)} model on each client's own test examples."


def _left_out(run: RunFiles, known: Sequence[Scored]) -> str:
    lost = len(run.summary.clients) - len(known) if run.summary else 0
    return f" For {count(lost)} of the clients it is not defined." if lost else ""


def _its(run: RunFiles) -> str:
    return "its personal" if run.personal else "the global"
