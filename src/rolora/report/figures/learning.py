"""The score that chooses, and the loss, over rounds and over bytes sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from rolora.records.files import RunFiles
from rolora.records.schema import LOSS, Metric, RoundRecord
from rolora.records.units import byte_size, byte_unit, capital, show
from rolora.report.figures.svg import (
    MANY_ROUNDS,
    PERCENT,
    Array,
    Key,
    Panel,
    colour,
    draw,
    finish,
    logarithmic,
)
from rolora.report.figures.tips import Tip, at, bands

LEAST_SPAN = 0.1
"""Of the axis of a share, so that noise does not fill it."""


@dataclass(frozen=True)
class Axis:
    """Where each round stands on the x-axis, what the axis is called, and each round's span."""

    title: str
    label: str
    x: Array
    spans: list[tuple[float, float]]


def learning(run: RunFiles) -> Iterator[Panel]:
    """The first metric and the loss, over rounds and over bytes sent."""
    if not run.rounds:
        return
    for axis in _axes(run.rounds):
        if run.task.first.name != LOSS.name:
            yield score_panel(run, run.task.first, axis)
        yield _loss(run, axis)


def over_rounds(rounds: Sequence[RoundRecord]) -> Axis:
    """The rounds, evenly."""
    number = np.array([r.round for r in rounds], float)
    return Axis("over rounds", "round", number, _spans(number - 0.5, number + 0.5))


def _axes(rounds: Sequence[RoundRecord]) -> Iterator[Axis]:
    yield over_rounds(rounds)
    sent = np.cumsum([r.bytes_up + r.bytes_down for r in rounds]).astype(float)
    unit, divisor = byte_unit(sent[-1])
    sent /= divisor
    before = np.concatenate([[0.0], sent[:-1]])
    yield Axis("over bytes sent", f"{unit} sent, up and down", sent, _spans(before, sent))


def _spans(start: Array, end: Array) -> list[tuple[float, float]]:
    return list(zip(start.tolist(), end.tolist(), strict=True))


def score_panel(run: RunFiles, metric: Metric, axis: Axis) -> Panel:
    """A score of the validation examples after every round that was looked at, and of the test."""
    summary, seen = run.summary, _validation(run, metric.name)
    fallen = np.array([r.collapsed is not None for r in run.rounds]) & ~np.isnan(seen)
    test = summary.final.test.get(metric.name) if summary else None
    constant = summary.constant.get(metric.name) if summary else None

    def paint(axes: Axes) -> None:
        begin(axes, run.rounds, axis)
        if constant is not None:
            axes.axhline(constant, color=colour("muted"), lw=1, dashes=(4, 3), zorder=1.5)
        line(axes, axis.x, seen, "blue")
        axes.scatter(axis.x[fallen], seen[fallen], 90, "none", ec=colour("orange"), lw=1.6)
        if test is not None:
            axes.plot(axis.x[-1:], [test], "D", ms=6, color=colour("orange"), zorder=4)
        if metric.share:
            widen(axes)
            axes.yaxis.set_major_formatter(PERCENT)
        finish(axes, axis.label)

    keys = [Key("line", "blue", "validation")] if not np.isnan(seen).all() else []
    caption = _meaning(run, metric)
    if not keys:
        caption += " No evaluation has been made yet."
    if test is not None:
        keys.append(Key("diamond", "orange", "test, once at the end"))
    if constant is not None:
        keys.append(Key("dash", "muted", "constant guess"))
    if fallen.any():
        keys.append(Key("ring", "orange", "collapsed: one prediction for all examples"))
    return Panel(
        f"{capital(metric.title)} {axis.title}",
        draw(f"{metric.name}-{axis.title}", paint, _score_tips(run, metric, axis)),
        caption + phase_note(run.rounds),
        tuple(keys),
    )


def _score_tips(run: RunFiles, metric: Metric, axis: Axis) -> Iterator[Tip]:
    """What the line, the ring and the diamond say, and the constant's dashes."""
    summary, seen = run.summary, _validation(run, metric.name)
    looked = np.flatnonzero(~np.isnan(seen))
    words = [
        f"{_round(run.rounds[i], axis)}\nvalidation {metric.title} {show(float(seen[i]), metric)}"
        + (f"\ncollapsed: {collapsed}" if (collapsed := run.rounds[i].collapsed) else "")
        for i in looked
    ]
    if words:
        yield from bands(axis.x[looked], words)
    constant = summary.constant.get(metric.name) if summary else None
    if constant is not None:
        yield Tip(f"a constant guess: {show(constant, metric)}", y=(constant, constant))
    test = summary.final.test.get(metric.name) if summary else None
    if test is not None:
        yield at(float(axis.x[-1]), test, f"test {metric.title} {show(test, metric)}")


def _round(record: RoundRecord, axis: Axis) -> str:
    """Which round a mark is of."""
    if axis.label == "round":
        return f"round {record.round}, trained {record.phase}"
    sent = byte_size(record.bytes_up + record.bytes_down)
    return f"round {record.round}, in which {sent} were sent"


def _meaning(run: RunFiles, metric: Metric) -> str:
    whose = "the clients' personal models" if run.personal else "the global model"
    if metric.proportion:
        return f"Share of held-out examples that {whose} get{'' if run.personal else 's'} right."
    way = "higher" if metric.higher_is_better else "lower"
    return f"{capital(metric.title)} of {whose} on held-out examples: {way} is better."


def _loss(run: RunFiles, axis: Axis) -> Panel:
    train = np.array([r.train_loss for r in run.rounds], float)
    held_out = _validation(run, LOSS.name)
    values = np.concatenate([train, held_out])
    values = values[~np.isnan(values)]
    wide = bool(values.size) and values.min() > 0 and values.max() > 30 * values.min()

    def paint(axes: Axes) -> None:
        begin(axes, run.rounds, axis)
        line(axes, axis.x, train, "orange", gaps=True)
        line(axes, axis.x, held_out, "blue")
        if wide:
            logarithmic(axes)
        finish(axes, axis.label)

    keys = [Key("line", "orange", "training")]
    caption = "Mean loss of the clients' training batches in the round"
    if not np.isnan(held_out).all():
        keys.append(Key("line", "blue", "validation"))
        caption += ", and of the validation examples after it"
    caption += "." + phase_note(run.rounds)
    words = [
        f"{_round(record, axis)}\ntraining loss {show(record.train_loss, LOSS)}"
        + ("" if np.isnan(seen) else f"\nvalidation loss {show(float(seen), LOSS)}")
        for record, seen in zip(run.rounds, held_out, strict=True)
    ]
    lost = int(np.isnan(train).sum())
    if lost:
        caption += f" {lost} of {len(train)} rounds have no finite training loss."
    return Panel(
        f"{capital(run.task.metric(LOSS.name).title)} {axis.title}",
        draw(f"loss-{axis.title}", paint, bands(axis.x, words)),
        caption + (" Logarithmic scale." if wide else ""),
        tuple(keys),
    )


def _validation(run: RunFiles, name: str) -> Array:
    """A validation score by round; NaN where it is not known."""
    return np.array([(r.validation or {}).get(name) for r in run.rounds], float)


def begin(axes: Axes, rounds: Sequence[RoundRecord], axis: Axis) -> None:
    """Shade the rounds that train B, where others do not, and set the limits."""
    if _shaded(rounds):
        for record, (start, end) in zip(rounds, axis.spans, strict=True):
            if _trains_b(record):
                axes.axvspan(start, end, color=colour("shade"), lw=0, zorder=0)
    start, end = axis.spans[0][0], axis.spans[-1][1]
    axes.set_xlim(start, end + 0.02 * (end - start))


def _shaded(rounds: Sequence[RoundRecord]) -> bool:
    return len({_trains_b(r) for r in rounds}) == 2 and len(rounds) <= MANY_ROUNDS


def _trains_b(record: RoundRecord) -> bool:
    return record.phase.split("+")[0] == "B"


def phase_note(rounds: Sequence[RoundRecord]) -> str:
    """What the shade means, where there is one."""
    return " Shaded rounds train B, the others A." if _shaded(rounds) else ""


def line(axes: Axes, x: Array, y: Array, name: str, gaps: bool = False) -> None:
    """A line through the known values; with `gaps`, broken where one is not known."""
    known = np.ones(len(y), bool) if gaps else ~np.isnan(y)
    marker = "o" if known.sum() <= MANY_ROUNDS else ""
    axes.plot(x[known], y[known], color=colour(name), lw=1.8, zorder=3, marker=marker, ms=4)


def widen(axes: Axes) -> None:
    """Show at least :data:`LEAST_SPAN` of a share."""
    low, high = axes.get_ylim()
    room = max(0.0, LEAST_SPAN - (high - low)) / 2
    axes.set_ylim(low - room, high + room)
