"""Each label's scores and what was predicted, round by round; and what was taken for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from rolora.records.detail import ClassRecord, DetailRecord
from rolora.records.files import RunFiles
from rolora.records.schema import RoundRecord
from rolora.records.units import count, percent, thinned
from rolora.report.figures.cells import (
    MOST_LABELS,
    cell_tips,
    height_of,
    named_every,
    named_rows,
    shades,
    short,
)
from rolora.report.figures.learning import line, over_rounds, score_panel
from rolora.report.figures.svg import PERCENT, Array, Key, Panel, colour, draw, finish
from rolora.report.figures.tips import bands

LABEL_COLOURS = 8
MOST_ROUNDS, MOST_CELLS = 60, 2000
"""That are drawn where labels are rows of cells."""
MACRO = "macro_f1"


@dataclass(frozen=True)
class _Looked:
    """The rounds after which somebody looked, and each label's numbers in them.

    Args:
        rounds: their records.
        labels: per round, the labels' scores.
        f1, shares: ``[rounds, labels]``; nan where one is not known.
        one: whether an example has one label, so that shares add to one.
    """

    rounds: Sequence[RoundRecord]
    labels: Sequence[tuple[ClassRecord, ...]]
    f1: Array
    shares: Array
    one: bool

    @property
    def x(self) -> Array:
        """Their numbers."""
        return np.array([record.round for record in self.rounds], float)

    @property
    def names(self) -> list[str]:
        """Of the labels."""
        return [label.name for label in self.labels[-1]]

    @property
    def few(self) -> bool:
        """Whether every label has a colour of its own."""
        return len(self.names) <= LABEL_COLOURS

    def words(self) -> list[str]:
        """Of each round everything."""
        return [
            "\n".join([f"round {record.round}{_fallen(record)}", *map(_scores, labels)])
            for record, labels in zip(self.rounds, self.labels, strict=True)
        ]


def labels(run: RunFiles) -> Iterator[Panel]:
    """Macro F1, each label's F1, what was predicted by round, and the confusion at last."""
    scored = any((r.validation or {}).get(MACRO) is not None for r in run.rounds)
    if scored and run.task.first.name != MACRO:
        yield score_panel(run, run.task.metric(MACRO), over_rounds(run.rounds))
    looked = _looked(run)
    if looked is not None:
        yield _f1(looked)
        yield _shares(looked)
    detail, split = last_detail(run)
    if detail is not None and detail.confusion:
        yield _confusion(detail, split)


def last_detail(run: RunFiles) -> tuple[DetailRecord | None, str]:
    """The latest scores of every label, and of which split they are."""
    if run.summary and run.summary.detail:
        return run.summary.detail, "test"
    found = [record.detail for record in run.rounds if record.detail]
    return (found[-1] if found else None), "validation"


def _looked(run: RunFiles) -> _Looked | None:
    rounds = [record for record in run.rounds if record.detail]
    each = [record.detail.classes for record in rounds if record.detail]
    if not each or len({len(labels) for labels in each}) > 1:
        return None
    return _Looked(
        rounds=rounds,
        labels=each,
        f1=np.array([[label.f1 for label in labels] for labels in each], float),
        shares=np.array([[label.predicted_share for label in labels] for labels in each], float),
        one=any(record.prediction_shares for record in rounds),
    )


def _scores(label: ClassRecord) -> str:
    return (
        f"{label.name}: precision {percent(label.precision)}, recall {percent(label.recall)}, "
        f"F1 {percent(label.f1)}, given to {percent(label.predicted_share)}"
    )


def _fallen(record: RoundRecord) -> str:
    return f", collapsed: {record.collapsed}" if record.collapsed else ""


def _f1(looked: _Looked) -> Panel:
    title = "F1 by label"
    caption = "F1 of each label on the validation examples, by round."
    if not looked.few:
        return _grid(looked, looked.f1, title, "label-f1", caption)

    def paint(axes: Axes) -> None:
        for number, values in enumerate(looked.f1.T):
            line(axes, looked.x, values, f"label-{number}")
        axes.set_xlim(looked.x[0] - 0.5, looked.x[-1] + 0.5)
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PERCENT)
        finish(axes, "round")

    svg = draw("label-f1", paint, bands(looked.x, looked.words()))
    return Panel(title, svg, caption, _keys(looked.names, "line"))


def _shares(looked: _Looked) -> Panel:
    title = "Predictions by round"
    caption = "Share of the validation examples that each label was given to."
    fallen = np.array([record.collapsed is not None for record in looked.rounds])
    if not looked.few:
        return _grid(looked, looked.shares, title, "label-shares", caption)
    tops = np.cumsum(looked.shares, axis=1)
    gap = float(np.diff(looked.x).min(initial=1.0))

    def paint(axes: Axes) -> None:
        for number, values in enumerate(looked.shares.T):
            if looked.one:
                hue, base = colour(f"label-{number}"), tops[:, number] - values
                axes.bar(looked.x, values, 0.8 * gap, base, color=hue, lw=0)
            else:
                line(axes, looked.x, values, f"label-{number}")
        at = looked.x[fallen]
        axes.scatter(at, np.full(len(at), 1.04), 36, "none", ec=colour("orange"), lw=1.6)
        axes.set_xlim(looked.x[0] - 0.5 * gap, looked.x[-1] + 0.5 * gap)
        axes.set_ylim(0, 1.08)
        axes.yaxis.set_major_formatter(PERCENT)
        finish(axes, "round", grid=not looked.one)

    keys = list(_keys(looked.names, "area" if looked.one else "line"))
    if fallen.any():
        keys.append(Key("ring", "orange", "collapsed: one prediction for all examples"))
    svg = draw("label-shares", paint, bands(looked.x, looked.words()))
    return Panel(title, svg, caption, tuple(keys))


def _keys(names: Sequence[str], mark: str) -> tuple[Key, ...]:
    return tuple(Key(mark, f"label-{i}", name) for i, name in enumerate(names))


def _grid(looked: _Looked, values: Array, title: str, name: str, caption: str) -> Panel:
    """Many labels: a column a round, a row a label."""
    support = np.array([label.support for label in looked.labels[-1]])
    rows = np.sort(np.argsort(-support, kind="stable")[:MOST_LABELS])
    most = min(MOST_ROUNDS, MOST_CELLS // len(rows))
    columns = thinned(np.arange(len(looked.rounds)), most)
    cells = np.nan_to_num(values[np.ix_(columns, rows)])

    def paint(axes: Axes) -> None:
        shades(axes, cells)
        named_rows(axes, [looked.names[row] for row in rows])
        step = -(-len(columns) // 10)
        shown = range(0, len(columns), step)
        axes.set_xticks(shown, [str(looked.rounds[columns[i]].round) for i in shown])
        axes.set_xlabel("round")

    def said(x: int, y: int) -> str:
        record = looked.rounds[columns[x]]
        label = looked.labels[columns[x]][rows[y]]
        return f"round {record.round}{_fallen(record)}\n{_scores(label)}"

    caption += " The stronger the colour, the larger."
    if len(rows) < len(looked.names):
        caption += f" The {len(rows)} most frequent of {count(len(looked.names))} labels."
    elif named_every(len(rows)) > 1:
        caption += f" One in {named_every(len(rows))} labels is named."
    svg = draw(name, paint, cell_tips(cells, said), height_of(len(rows)), left=110)
    return Panel(title, svg, caption)


def _confusion(detail: DetailRecord, split: str) -> Panel:
    """What each label was taken for: a row a label, a column a prediction."""
    table = np.array(detail.confusion, float)
    names = [label.name for label in detail.classes]
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    few = len(names) <= LABEL_COLOURS

    def paint(axes: Axes) -> None:
        shades(axes, shares.T, strongest=0.6)
        named_rows(axes, names)
        if few:
            axes.set_xticks(range(len(names)), [short(n, 56 // len(names)) for n in names])
            for row, column in np.ndindex(table.shape):
                axes.text(column, row, count(float(table[row, column])), ha="center", va="center")
        else:
            axes.set_xticks([])
        axes.set_ylabel("true")
        axes.set_xlabel("predicted" if few else "predicted, in the same order")

    def said(x: int, y: int) -> str:
        how = "predicted rightly" if x == y else f"taken for {names[x]}"
        of = f"{count(table[y, x])} of {count(table[y].sum())}"
        return f"{names[y]}, {how}\n{of}, {percent(float(shares[y, x]))}"

    caption = (
        f"The {split} examples of each label, by what was predicted: the stronger the colour, the "
        "larger the share of the row."
    )
    if not few and named_every(len(names)) > 1:
        caption += f" One in {named_every(len(names))} labels is named."
    tips = cell_tips(table.T, said)
    svg = draw("confusion", paint, tips, height_of(2 * len(names)), left=130)
    return Panel("Confusion", svg, caption)
