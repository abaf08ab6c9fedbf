"""Bytes a round."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from rolora.records.files import RunFiles
from rolora.records.units import byte_size, byte_unit
from rolora.report.figures.svg import MANY_ROUNDS, Key, Panel, colour, draw, finish
from rolora.report.figures.tips import bands


def traffic(run: RunFiles) -> Iterator[Panel]:
    """Bytes a round, up above the axis and down below it."""
    if not run.rounds:
        return
    up = np.array([r.bytes_up for r in run.rounds], float)
    down = np.array([r.bytes_down for r in run.rounds], float)
    unit, divisor = byte_unit(max(up.max(), down.max()))
    first = run.rounds[0].round
    edges = np.arange(first, first + len(run.rounds) + 1) - 0.5

    def paint(axes: Axes) -> None:
        for heights, hue in ((up / divisor, "green"), (-down / divisor, "blue")):
            if len(up) <= MANY_ROUNDS:
                axes.bar(edges[:-1] + 0.5, heights, 0.7, color=colour(hue), lw=0)
            else:
                axes.stairs(heights, edges, fill=True, color=colour(hue), lw=0)
        axes.axhline(0, color=colour("muted"), lw=1)
        axes.set_xlim(edges[0], edges[-1])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{abs(at):g}"))
        finish(axes, "round", unit)

    said = [
        f"round {r.round}\n{byte_size(r.bytes_up)} up\n{byte_size(r.bytes_down)} down"
        for r in run.rounds
    ]
    yield Panel(
        "Bytes by round",
        draw("traffic", paint, bands(edges[:-1] + 0.5, said)),
        "Serialised payload over all clients of the round: what they sent, above the axis, and "
        "what they received, below it.",
        (
            Key("area", "green", f"up, {byte_size(run.bytes_up)} in all"),
            Key("area", "blue", f"down, {byte_size(run.bytes_down)} in all"),
        ),
    )
