"""What each client's training came to, round by round: its loss, and how far it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes

from rolora.records.detail import UpdateRecord
from rolora.records.files import RunFiles
from rolora.records.schema import LOSS
from rolora.records.units import capital, count, show
from rolora.report.figures.svg import Key, Panel, colour, draw, finish, logarithmic
from rolora.report.figures.tips import Tip, at, bands

MOST_MARKS = 1500
"""Dots, above which quantiles are drawn in their place."""
HUES = ("blue", "green", "orange", "label-3", "label-7")


@dataclass(frozen=True)
class _Mark:
    """One client's number in one round."""

    round: int
    update: UpdateRecord
    value: float


@dataclass(frozen=True)
class _Series:
    """Marks of one kind in one colour."""

    name: str
    hue: str
    marks: Sequence[_Mark]

    def by_round(self) -> dict[int, list[float]]:
        """The values of each round."""
        found: dict[int, list[float]] = {}
        for mark in self.marks:
            found.setdefault(mark.round, []).append(mark.value)
        return found


def updates(run: RunFiles) -> Iterator[Panel]:
    """Training loss and update norms of every client, by round."""
    losses = _series(run, "client", "orange", lambda update: update.train_loss)
    if losses.marks:
        caption = f"Each client's mean training {LOSS.title} in the round."
        yield _panel("Training loss by client and round", "client-loss", [losses], caption)
    parts = sorted({part for record in run.rounds for u in record.updates for part in u.norms})
    norms = [
        _series(run, part, hue, partial(_norm, part))
        for part, hue in zip(parts, cycle(HUES), strict=False)
    ]
    norms = [series for series in norms if series.marks]
    if norms:
        caption = (
            "How far each client moved what it sent from where the round began (Euclidean norm)."
        )
        yield _panel("Update norm by client and round", "client-norms", norms, caption)


def _norm(part: str, update: UpdateRecord) -> float | None:
    return update.norms.get(part)


def _series(
    run: RunFiles, name: str, hue: str, value: Callable[[UpdateRecord], float | None]
) -> _Series:
    marks = [
        _Mark(record.round, update, found)
        for record in run.rounds
        for update in record.updates
        if (found := value(update)) is not None
    ]
    return _Series(name, hue, marks)


def _panel(title: str, name: str, series: Sequence[_Series], caption: str) -> Panel:
    many = sum(len(one.marks) for one in series) > MOST_MARKS
    values = np.array([mark.value for one in series for mark in one.marks])
    wide = bool(values.min() > 0 and values.max() > 30 * values.min())

    def paint(axes: Axes) -> None:
        for one in series:
            (_quantiles if many else _dots)(axes, one)
        if wide:
            logarithmic(axes)
        finish(axes, "round")

    what = "median, 5 % and 95 %" if many else "a dot a client, a line through the medians"
    keys = tuple(
        Key("line" if many else "dot", one.hue, what if len(series) == 1 else one.name)
        for one in series
    )
    if len(series) > 1:
        caption += f" {capital(what)}."
    tips = _quantile_tips(series) if many else _dot_tips(series)
    return Panel(title, draw(name, paint, tips), caption + wide * " Logarithmic scale.", keys)


def _dots(axes: Axes, one: _Series) -> None:
    by_round = one.by_round()
    x, y = [mark.round for mark in one.marks], [mark.value for mark in one.marks]
    axes.plot(x, y, "o", ms=5, mew=0, color=colour(one.hue), alpha=0.6)
    axes.plot(list(by_round), [float(np.median(v)) for v in by_round.values()],
              color=colour(one.hue), lw=1.2, alpha=0.7)  # fmt: skip


def _quantiles(axes: Axes, one: _Series) -> None:
    by_round = one.by_round()
    low, middle, high = np.array([np.quantile(v, [0.05, 0.5, 0.95]) for v in by_round.values()]).T
    axes.fill_between(list(by_round), low, high, color=colour(one.hue), alpha=0.25, lw=0)
    axes.plot(list(by_round), middle, color=colour(one.hue), lw=1.5)


def _dot_tips(series: Sequence[_Series]) -> Iterator[Tip]:
    for one in series:
        for mark in one.marks:
            what = "training loss" if one.name == "client" else f"{one.name} moved by"
            yield at(
                mark.round,
                mark.value,
                f"round {mark.round}, client {mark.update.client}\n{what} {show(mark.value, LOSS)}"
                f"\n{count(mark.update.examples)} examples",
            )


def _quantile_tips(series: Sequence[_Series]) -> Iterator[Tip]:
    said: dict[int, list[str]] = {}
    for one in series:
        for number, values in one.by_round().items():
            low, middle, high = (
                show(float(q), LOSS) for q in np.quantile(values, [0.05, 0.5, 0.95])
            )
            said.setdefault(number, [f"round {number}"]).append(
                f"{one.name}: median {middle}, 5 % {low}, 95 % {high} of {count(len(values))}"
            )
    rounds = sorted(said)
    yield from bands(rounds, ["\n".join(said[number]) for number in rounds])
