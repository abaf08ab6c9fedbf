"""The picture of accuracy over bytes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from experiments.bytes.config import PLAIN
from experiments.bytes.report import Line, Lines, coded, difference
from experiments.drawing import INK, MUTED, Stroke, finish, in_percent, legend, palette
from experiments.report import Figures
from rolora.records.units import byte_size


def figures(lines: Lines) -> Figures:
    """Name -> figure and caption, as the report takes them."""
    caption = (
        "Left: validation accuracy over the bytes that all clients have sent up, mean over seeds. "
        "Right: test accuracy less plain RoLoRA's, in points, over the share of its bytes both "
        "ways; dots are seeds, the line is the 95 % interval of a paired t-test, the dashed lines "
        "are half a point and a quarter of the bytes."
    )
    return {"bytes": (picture(lines), caption)}


def picture(lines: Lines) -> Figure:
    """Both panels."""
    figure = Figure(figsize=(10, 4.6), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    strokes = palette([PLAIN.key, *(line.coding.key for line in coded(lines))])
    for key, stroke in strokes.items():
        _curve(left, lines[key], stroke)
        if key != PLAIN.key:
            _end(right, lines[key], lines[PLAIN.key], stroke)
    left.set_xscale("log")
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: byte_size(value)))
    finish(left, "On the way", "sent up by all clients")
    in_percent(left, "validation accuracy")
    right.axhline(0, color=MUTED, lw=1)
    right.axhline(-0.5, color=MUTED, lw=1, ls="dashed")
    right.axvline(25, color=MUTED, lw=1, ls="dashed")
    right.set_xscale("log")
    right.set_xticks([5, 10, 25, 50, 100], ["5 %", "10 %", "25 %", "50 %", "100 %"])
    right.xaxis.set_minor_locator(NullLocator())
    finish(right, "At the end", "share of RoLoRA's bytes, both ways")
    right.set_ylabel("points of test accuracy", fontsize=9.5, color=MUTED)
    legend(figure, left, 4)
    return figure


def _curve(axes: Axes, line: Line, stroke: Stroke) -> None:
    sent = line.final[0]["bytes_up_by_round"]
    middle = np.mean([end["accuracy"] for end in line.final], axis=0)
    axes.plot(sent, middle, color=stroke.hue, ls=stroke.dashes, lw=2.0, label=line.coding.label)


def _end(axes: Axes, line: Line, plain: Line, stroke: Stroke) -> None:
    x, test = 100 * line.share(plain), difference(line, plain)
    points = [100 * (a - b) for a, b in zip(line.test, plain.test, strict=True)]
    axes.plot([x] * len(points), points, ".", ms=3.5, color=MUTED)
    if test.low is not None and test.high is not None:
        axes.plot([x, x], [100 * test.low, 100 * test.high], color=stroke.hue, lw=2.2, alpha=0.75)
    axes.plot(x, 100 * test.mean, "o", ms=6, color=stroke.hue, mec=INK, mew=0.4)
