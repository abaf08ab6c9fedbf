"""The picture of the arena: validation accuracy over bytes, a panel a place."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.arena.config import PLAIN, competitors
from experiments.arena.report import comparable
from experiments.contest import Line, Lines
from experiments.drawing import MUTED, Stroke, finish, in_percent, legend, palette
from experiments.places import Place
from experiments.report import Figures
from experiments.standings import places_of

COLUMNS, MIB = 4, 2**20
STROKES = palette(competitors())


def figures(lines: Lines) -> Figures:
    """Name -> figure and caption, as the report takes them; none of no finished place."""
    places = places_of(lines)
    if not places:
        return {}
    caption = (
        "Validation accuracy over the bytes that all clients have sent up, mean over seeds; the "
        "upright line is where RoLoRA's run ends. Each method at its own rate."
    )
    return {"arena": (over_bytes(lines, places), caption)}


def over_bytes(lines: Lines, places: list[Place]) -> Figure:
    """A panel a place."""
    wide = min(COLUMNS, len(places))
    deep = -(-len(places) // wide)
    size = (max(9.0, 4.4 * wide), 1.6 + 3.6 * deep)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    panels = figure.subplots(deep, wide, squeeze=False).ravel()
    for axes, place in zip(panels, places, strict=False):
        for line in comparable(lines, place):
            _curve(axes, line, STROKES[line.entrant.key])
        axes.axvline(lines[PLAIN.key, place.key].final[0]["bytes_up"] / MIB, color=MUTED, lw=1)
        finish(axes, place.words.replace(", ", "\n", 1), "MiB sent up by all clients")
        in_percent(axes, "validation accuracy")
    for axes in panels[len(places) :]:
        axes.set_axis_off()
    legend(figure, max(panels, key=lambda axes: len(axes.lines)), min(4, 1 + wide))
    return figure


def _curve(axes: Axes, line: Line, stroke: Stroke) -> None:
    sent = max((end["bytes_up_by_round"] for end in line.final), key=lambda one: one[-1])
    middle = np.mean([end["accuracy"] for end in line.final], axis=0)
    axes.plot(
        np.array(sent) / MIB,
        middle,
        color=stroke.hue,
        ls=stroke.dashes,
        lw=1.6,
        label=line.entrant.label,
    )
