"""The picture of the search for a preset: differences in test accuracy, a panel a place."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.contest import Lines
from experiments.drawing import BLUE, INK, MUTED, RED, finish
from experiments.places import Place
from experiments.preset.report import by_pieces
from experiments.report import Figures
from experiments.standings import difference, places_of
from rolora.report.statistics import PairedDifference

COLUMNS = 4


def figures(lines: Lines) -> Figures:
    """Name -> figure and caption, as the report takes them; none of fewer than two lines."""
    places = [place for place in places_of(lines) if len(by_pieces(lines, place)) > 1]
    if not places:
        return {}
    caption = (
        "Test accuracy less RoLoRA's, in points, seed by seed (small dots), in the mean, and its "
        "95 % interval by a paired t-test, not corrected; blue where all of the interval is above "
        "zero, red where all is below."
    )
    return {"preset": (differences(lines, places), caption)}


def differences(lines: Lines, places: list[Place]) -> Figure:
    """A row a recipe, a panel a place."""
    wide = min(COLUMNS, len(places))
    deep = -(-len(places) // wide)
    most = max(len(by_pieces(lines, place)) for place in places)
    size = (3.6 + 4.6 * wide, deep * (1.3 + 0.36 * most))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    panels = figure.subplots(deep, wide, squeeze=False).ravel()
    for at, (axes, place) in enumerate(zip(panels, places, strict=False)):
        left = places[at - 1] if at % wide else None
        named = left is None or _others(lines, left) != _others(lines, place)
        _panel(axes, lines, place, named)
    for axes in panels[len(places) :]:
        axes.set_axis_off()
    return figure


def _others(lines: Lines, place: Place) -> list[str]:
    return [line.entrant.label for line in by_pieces(lines, place)[1:]]


def _panel(axes: Axes, lines: Lines, place: Place, named: bool) -> None:
    rolora, *others = by_pieces(lines, place)
    axes.axvline(0, color=MUTED, lw=1)
    for row, line in enumerate(others):
        test = difference(line, rolora)
        hue = _hue(test)
        if test.low is not None and test.high is not None:
            axes.plot([100 * test.low, 100 * test.high], [row, row], color=hue, lw=2.2, alpha=0.75)
        points = [100 * (a - b) for a, b in zip(line.test, rolora.test, strict=True)]
        axes.plot(points, [row] * len(points), ".", ms=3.5, color=MUTED)
        axes.plot(100 * test.mean, row, "o", ms=6, color=hue)
    labels = _others(lines, place) if named else [""] * len(others)
    axes.set_yticks(range(len(others)), labels, color=INK)
    axes.invert_yaxis()
    finish(axes, place.words.replace(", ", "\n"), "points of test accuracy")


def _hue(test: PairedDifference) -> str:
    if test.low is not None and test.low > 0:
        return BLUE
    return RED if test.high is not None and test.high < 0 else INK
