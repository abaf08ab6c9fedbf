"""The picture of what comes after RoLoRA: differences in test accuracy, a panel a place."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.beyond.report import beside_rolora, difference, places
from experiments.beyond.runs import Line, Lines, Place
from experiments.drawing import BLUE, INK, MUTED, RED, finish
from experiments.report import Figures
from rolora.report.statistics import PairedDifference

BETTER, WORSE = BLUE, RED


def figures(lines: Lines) -> Figures:
    """Name -> figure and caption, as the report takes them."""
    caption = (
        "Test accuracy less RoLoRA's, in points, seed by seed (small dots), in the mean, and its "
        "95 % interval by a paired t-test; blue where all of the interval is above zero, red where "
        "all is below."
    )
    return {"beyond": (differences(lines), caption)}


def differences(lines: Lines) -> Figure:
    """A row a variant, a panel a place."""
    compared = places(lines)
    rows = [line.variant.label for line, _ in beside_rolora(lines, compared[0])]
    size = (2.6 + 3.4 * len(compared), 1.3 + 0.36 * len(rows))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(compared), squeeze=False, sharey=True)[0]
    for axes, place in zip(panels, compared, strict=True):
        _panel(axes, lines, place)
    panels[0].set_yticks(range(len(rows)), rows, color=INK)
    panels[0].invert_yaxis()
    return figure


def _panel(axes: Axes, lines: Lines, place: Place) -> None:
    axes.axvline(0, color=MUTED, lw=1)
    for row, (line, rolora) in enumerate(beside_rolora(lines, place)):
        test = difference(line, rolora)
        hue = _hue(test)
        if test.low is not None and test.high is not None:
            axes.plot([100 * test.low, 100 * test.high], [row, row], color=hue, lw=2.2, alpha=0.75)
        axes.plot(_points(line, rolora), [row] * len(line.test), ".", ms=3.5, color=MUTED)
        axes.plot(100 * test.mean, row, "o", ms=6, color=hue)
    finish(axes, place.words, "points of test accuracy")


def _points(line: Line, rolora: Line) -> list[float]:
    return [100 * (a - b) for a, b in zip(line.test, rolora.test, strict=True)]


def _hue(test: PairedDifference) -> str:
    if test.low is not None and test.low > 0:
        return BETTER
    return WORSE if test.high is not None and test.high < 0 else INK
