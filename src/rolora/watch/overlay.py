"""Several runs in one picture: the score that chooses, and the loss, over rounds and bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from rolora.records.files import RunFiles
from rolora.records.schema import LOSS, Metric, RoundRecord
from rolora.records.units import byte_size, byte_unit, capital, show, thinned
from rolora.report.figures.learning import widen
from rolora.report.figures.svg import (
    MANY_ROUNDS,
    PERCENT,
    Panel,
    colour,
    draw,
    finish,
    logarithmic,
)
from rolora.report.figures.tips import Tip, at

COLOURS = tuple(f"label-{number}" for number in range(8))
MARKS = {"line": "-", "dash": "--", "dots": ":"}
"""Of a legend: how matplotlib calls them."""
MOST_RUNS = len(COLOURS) * len(MARKS)
MOST_TIPS, LEAST_TIPS = 500, 20
"""Points of a picture that tell their value, and of each of its curves however many there are."""

Reader = Callable[[RoundRecord], float | None]


@dataclass(frozen=True)
class Drawn:
    """A run, and how its lines look."""

    name: str
    files: RunFiles
    colour: str
    mark: str


@dataclass(frozen=True)
class _Curve:
    """One run's known values: after which rounds, after how many bytes."""

    run: Drawn
    rounds: np.ndarray
    sent: np.ndarray
    values: np.ndarray

    @staticmethod
    def of(run: Drawn, read: Reader) -> _Curve:
        rounds = run.files.rounds
        values = np.array([read(record) for record in rounds], float)
        known = ~np.isnan(values)
        sent = np.cumsum([r.bytes_up + r.bytes_down for r in rounds], dtype=float)
        return _Curve(run, np.array([r.round for r in rounds])[known], sent[known], values[known])


def overlaid(runs: Sequence[Drawn]) -> Iterator[Panel]:
    """The first metric of each task that the runs have, and the losses, as far as they are known.

    Args:
        runs: at least one round of each is finished.
    """
    for metric in dict.fromkeys(run.files.task.first for run in runs):
        having = [run for run in runs if run.files.task.first == metric]
        if metric.name != LOSS.name:
            yield from _pair(having, metric, "validation", _validation(metric.name))
    yield from _pair(runs, LOSS, "validation", _validation(LOSS.name))
    yield from _pair(runs, LOSS, "training", lambda record: record.train_loss)


def _validation(name: str) -> Reader:
    return lambda record: (record.validation or {}).get(name)


def _pair(runs: Sequence[Drawn], metric: Metric, which: str, read: Reader) -> Iterator[Panel]:
    """Over rounds and over bytes; nothing where no run knows a value."""
    curves = [curve for run in runs if len((curve := _Curve.of(run, read)).values)]
    if not curves:
        return
    unit, divisor = byte_unit(max(curve.sent[-1] for curve in curves))
    title = capital(f"{which} {metric.title}")
    yield _panel(f"{title} over rounds", "round", curves, [c.rounds for c in curves], metric)
    sent = [curve.sent / divisor for curve in curves]
    yield _panel(f"{title} over bytes", f"{unit} sent, up and down", curves, sent, metric)


def _panel(
    title: str, label: str, curves: Sequence[_Curve], places: Sequence[np.ndarray], metric: Metric
) -> Panel:
    values = np.concatenate([curve.values for curve in curves])
    wide = metric.name == LOSS.name and values.min() > 0 and values.max() > 30 * values.min()

    def paint(axes: Axes) -> None:
        for curve, x in zip(curves, places, strict=True):
            _line(axes, x, curve)
        if metric.share:
            widen(axes)
            axes.yaxis.set_major_formatter(PERCENT)
        if wide:
            logarithmic(axes)
        axes.set_xlim(left=0)
        finish(axes, label)

    way = "higher" if metric.higher_is_better else "lower"
    caption = f"{capital(way)} is better." + (" Logarithmic scale." if wide else "")
    most = max(LEAST_TIPS, MOST_TIPS // len(curves))
    tips = [
        tip
        for curve, x in zip(curves, places, strict=True)
        for tip in _tips(x, curve, metric, thinned(np.arange(len(x)), most))
    ]
    return Panel(title, draw(title, paint, tips), caption)


def _line(axes: Axes, x: np.ndarray, curve: _Curve) -> None:
    marker = "o" if len(x) <= MANY_ROUNDS else ""
    hue, style = colour(curve.run.colour), MARKS[curve.run.mark]
    axes.plot(x, curve.values, style, color=hue, lw=1.8, marker=marker, ms=3.5)


def _tips(x: np.ndarray, curve: _Curve, metric: Metric, which: np.ndarray) -> Iterator[Tip]:
    """What the curve says at `which` of its points."""
    for i in which:
        when = f"round {curve.rounds[i]}, {byte_size(curve.sent[i])} sent"
        value = float(curve.values[i])
        yield at(float(x[i]), value, f"{curve.run.name}\n{when}\n{show(value, metric)}")
