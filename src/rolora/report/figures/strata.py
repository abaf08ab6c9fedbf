"""The examples that each client holds, by stratum: bars for a few strata, cells for many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from rolora.records.files import RunFiles
from rolora.records.schema import Summary
from rolora.records.units import capital, count, percent, thinned
from rolora.report.figures.cells import (
    MOST_LABELS,
    cell_tips,
    height_of,
    named_every,
    named_rows,
    shades,
)
from rolora.report.figures.svg import (
    COUNT,
    MANY_CLIENTS,
    PERCENT,
    Array,
    Key,
    Panel,
    colour,
    draw,
    finish,
)
from rolora.report.figures.tips import bands

LABEL_COLOURS = 8
MOST_COLUMNS = 400


def strata(run: RunFiles) -> Iterator[Panel]:
    """What each client holds by stratum, or how much where there are none; many clients' sizes."""
    if run.summary is None:
        return
    held = run.summary.strata
    table = np.array(held.table, float)
    if table.ndim != 2 or table.sum() == 0:
        return
    many = len(table) > MANY_CLIENTS
    if held.names:
        word = stratum_word(run.summary)
        names = [held.names[i] if i < len(held.names) else str(i) for i in range(table.shape[1])]
        few = table.shape[1] <= LABEL_COLOURS
        if few and many:
            yield _columns(table, names, word)
        else:
            yield (_bars if few else _cells)(table, names, word)
    elif not many:
        yield _bars(table.sum(1, keepdims=True), (), "example")
    if many:
        yield _sizes(table)


def stratum_word(summary: Summary) -> str:
    """What a stratum is: a label where the strata are the labels."""
    return "label" if summary.strata.names == summary.data.label_names else "stratum"


def plural(word: str) -> str:
    """The word for several."""
    return {"stratum": "strata"}.get(word, f"{word}s")


def _bars(table: Array, names: Sequence[str], word: str) -> Panel:
    """A bar a client, in as many pieces as it holds strata."""
    tops = np.cumsum(table, axis=1)

    def paint(axes: Axes) -> None:
        for number in range(table.shape[1]):
            heights = table[:, number]
            base = tops[:, number] - heights
            hue = colour(f"label-{number}")
            axes.bar(np.arange(len(table)), heights, 0.82, base, color=hue, lw=0)
        axes.margins(x=0.02)
        axes.yaxis.set_major_formatter(COUNT)
        finish(axes, "client")

    caption = "Training examples that each client holds" + (f", by {word}." if names else ".")
    title = f"{capital(plural(word))} by client"
    tips = bands(
        range(len(table)), [f"client {i}\n{_held(row, names)}" for i, row in enumerate(table)]
    )
    return Panel(title, draw("label-bars", paint, tips), caption, _keys(names))


def _columns(table: Array, names: Sequence[str], word: str) -> Panel:
    """The shares of few strata across many clients, a thin column a client."""
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    order = thinned(by_labels(shares), MOST_COLUMNS)
    tops = np.cumsum(shares[order], axis=1)
    edges = np.arange(len(order) + 1)

    def paint(axes: Axes) -> None:
        for number in range(table.shape[1]):
            base = tops[:, number - 1] if number else np.zeros(len(order))
            hue = colour(f"label-{number}")
            axes.stairs(tops[:, number], edges, baseline=base, fill=True, color=hue, lw=0)
        axes.margins(x=0.0, y=0)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda at, _: f"{100 * at / len(order):.0f} %")
        )
        axes.set_xticks(np.linspace(0, len(order), 5))
        finish(axes, f"clients, sorted by {word} shares", grid=False)

    thin = "" if len(order) == len(table) else f", of which {len(order)} are drawn"
    caption = (
        f"One column a client: the share of each {word} among its training examples. The "
        f"{count(len(table))} clients are sorted by their most frequent {word} and its "
        f"share{thin}."
    )
    title = f"{capital(word)} shares across clients"
    said = [f"client {client}\n{_held(table[client], names)}" for client in order]
    tips = bands(np.arange(len(order)) + 0.5, said)
    return Panel(title, draw("label-bars", paint, tips), caption, _keys(names))


def _held(row: Array, names: Sequence[str]) -> str:
    """What one client holds, a line a stratum."""
    if not names:
        return f"{count(float(row.sum()))} examples"
    return "\n".join(f"{name}: {count(float(n))}" for name, n in zip(names, row, strict=True))


def _keys(names: Sequence[str]) -> tuple[Key, ...]:
    return tuple(Key("area", f"label-{i}", name) for i, name in enumerate(names))


def _cells(table: Array, names: Sequence[str], word: str) -> Panel:
    """The shares of many strata, a column a client and a row a stratum."""
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    many = len(table) > MANY_CLIENTS
    columns = thinned(by_labels(shares), MANY_CLIENTS) if many else np.arange(len(table))
    frequent = np.sort(np.argsort(-table.sum(0), kind="stable")[:MOST_LABELS])
    cells = shares[np.ix_(columns, frequent)]

    def paint(axes: Axes) -> None:
        shades(axes, cells)
        named_rows(axes, [names[i] for i in frequent])
        if many:
            axes.set_xticks([])
        finish(axes, f"clients, sorted by {word} shares" if many else "client", grid=False)

    def said(x: int, y: int) -> str:
        share, n = percent(float(cells[x, y])), count(float(table[columns[x], frequent[y]]))
        return f"client {columns[x]}, {names[frequent[y]]}\n{share}: {n} examples"

    caption = (
        f"Share of each {word} among a client's training examples: the stronger the colour, the "
        f"larger; the strongest is {percent(float(cells.max()), 0)}."
    )
    if many:
        caption += f" {len(columns)} of {count(len(table))} clients are drawn, evenly spaced."
    of = f"of {table.shape[1]} {plural(word)}"
    if len(frequent) < table.shape[1]:
        caption += f" The {len(frequent)} most frequent {of} are drawn."
    elif (step := named_every(len(frequent))) > 1:
        caption += f" Every {_ordinal(step)} {of} is named."
    tips = cell_tips(cells, said)
    svg = draw("label-cells", paint, tips, height_of(len(frequent)), left=110)
    return Panel(f"{capital(plural(word))} by client", svg, caption)


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third", 4: "fourth"}.get(number, f"{number}th")


def _sizes(table: Array) -> Panel:
    sizes = table.sum(1)
    width = max(1, int(np.ceil((sizes.max() - sizes.min() + 1) / 40)))
    bins = np.arange(sizes.min(), sizes.max() + width + 1, width) - 0.5

    heights, edges = np.histogram(sizes, bins=bins)

    def paint(axes: Axes) -> None:
        axes.stairs(heights, edges, fill=True, color=colour("blue"), alpha=0.75)
        axes.yaxis.set_major_formatter(COUNT)
        axes.xaxis.set_major_formatter(COUNT)
        finish(axes, "training examples", "clients")

    caption = f"How many of {count(len(table))} clients hold how many training examples."
    said = [
        f"{count(low + 0.5)} to {count(high - 0.5)} training examples\n{count(float(n))} clients"
        for low, high, n in zip(edges[:-1], edges[1:], heights, strict=True)
    ]
    tips = bands((edges[1:] + edges[:-1]) / 2, said)
    return Panel("Examples across clients", draw("sizes", paint, tips), caption)


def by_labels(shares: Array) -> NDArray[np.intp]:
    """The order of clients by most frequent label, within it by that label's share."""
    most = shares.argmax(1)
    share = shares.max(1)
    # Alternate the direction, so that the picture has one step fewer between two labels.
    return np.lexsort((np.where(most % 2, share, -share), most))
