"""The picture of the search for a preset: differences in test accuracy, a panel a split."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import BLUE, INK, MUTED, RED, finish
from experiments.preset.config import PLAIN, Split, split_in_words
from experiments.preset.report import difference, in_split, splits_of
from experiments.preset.runs import Lines
from experiments.report import Figures
from rolora.report.statistics import PairedDifference


def figures(lines: Lines) -> Figures:
    """Name -> figure and caption, as the report takes them; none of fewer than two lines."""
    splits = [split for split in splits_of(lines) if len(in_split(lines, split)) > 1]
    if not splits:
        return {}
    caption = (
        "Test accuracy less RoLoRA's, in points, seed by seed (small dots), in the mean, and its "
        "95 % interval by a paired t-test, not corrected; blue where all of the interval is above "
        "zero, red where all is below."
    )
    return {"preset": (differences(lines, splits), caption)}


def differences(lines: Lines, splits: list[Split]) -> Figure:
    """A row a recipe, a panel a split."""
    most = max(len(in_split(lines, split)) for split in splits)
    size = (3.6 + 4.6 * len(splits), 1.3 + 0.36 * most)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    for axes, split in zip(figure.subplots(1, len(splits), squeeze=False)[0], splits, strict=True):
        _panel(axes, lines, split)
    return figure


def _panel(axes: Axes, lines: Lines, split: Split) -> None:
    rolora = lines[PLAIN, split]
    others = [line for line in in_split(lines, split) if line is not rolora]
    axes.axvline(0, color=MUTED, lw=1)
    for row, line in enumerate(others):
        test = difference(line, rolora)
        hue = _hue(test)
        if test.low is not None and test.high is not None:
            axes.plot([100 * test.low, 100 * test.high], [row, row], color=hue, lw=2.2, alpha=0.75)
        points = [100 * (a - b) for a, b in zip(line.test, rolora.test, strict=True)]
        axes.plot(points, [row] * len(points), ".", ms=3.5, color=MUTED)
        axes.plot(100 * test.mean, row, "o", ms=6, color=hue)
    axes.set_yticks(range(len(others)), [line.recipe.label for line in others], color=INK)
    axes.invert_yaxis()
    finish(axes, split_in_words(split), "points of test accuracy")


def _hue(test: PairedDifference) -> str:
    if test.low is not None and test.low > 0:
        return BLUE
    return RED if test.high is not None and test.high < 0 else INK
