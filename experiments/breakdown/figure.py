"""The picture of the map: accuracy over the gap, and both methods along the axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.breakdown.config import AXES, CENTRE, DEPTHS, Axis, BreakdownConfig, Depth
from experiments.breakdown.report import Pair, at_best_rates, at_each_rate, tests
from experiments.breakdown.runs import Results
from experiments.drawing import BLUE, MUTED, ORANGE, Stroke, finish, in_percent, legend, palette
from experiments.report import Figures

ALONG = {"clients": "clients", "local_steps": "local steps a round", "r": "rank", "split": "labels"}
SHORT = {"iid": "equal", "dirichlet0.5": "Dir .5", "dirichlet0.1": "Dir .1", "shards1": "one"}
LINES = {"RoLoRA": BLUE, "FedIT": ORANGE}


def figures(config: BreakdownConfig, results: Results) -> Figures:
    """Name -> figure and caption, as the report takes them; none of nothing."""
    each, best = at_each_rate(config, results), at_best_rates(config, results)
    if not each:
        return {}
    caption = (
        "First, every point and rate: RoLoRA's test accuracy less FedIT's over FedIT's gap, means "
        "over seeds. Then test accuracy along the axes through the centre, each method at its own "
        "rate; dots are seeds."
    )
    return {"breakdown": (picture(each, best), caption)}


def picture(each: Sequence[Pair], best: Sequence[Pair]) -> Figure:
    """The gap's panel, and one for each axis of each depth that has been gone along."""
    panels = [
        (depth, axis) for depth in DEPTHS for axis in AXES if len(_along(best, depth, axis)) > 1
    ]
    wide = min(3, 1 + len(panels))
    deep = -(-(1 + len(panels)) // wide)
    figure = Figure(figsize=(4.6 * wide, 1.0 + 3.5 * deep), layout="constrained", facecolor="white")
    first, *others = figure.subplots(deep, wide, squeeze=False).ravel()
    _scatter(first, each)
    for axes, (depth, axis) in zip(others, panels, strict=False):
        _panel(axes, _along(best, depth, axis), axis)
        finish(axes, DEPTHS[depth], ALONG[axis])
        in_percent(axes, "test accuracy")
    for axes in others[len(panels) :]:
        axes.set_axis_off()
    if panels:
        legend(figure, others[0], 2)
    return figure


def _scatter(axes: Axes, each: Sequence[Pair]) -> None:
    strokes: dict[str, Stroke] = palette(DEPTHS)
    for depth in DEPTHS:
        seen = [(p.gap, 100 * p.difference.mean) for p in each if p.point.depth == depth]
        seen = [(gap, points) for gap, points in seen if gap is not None]
        if seen:
            axes.plot(
                *zip(*seen, strict=True),
                "o",
                ms=4,
                color=strokes[depth].hue,
                alpha=0.8,
                label=DEPTHS[depth],
            )
    axes.axhline(0, color=MUTED, lw=1)
    finish(axes, "What the gap costs", "gap of the mean of both factors")
    axes.set_ylabel("RoLoRA less FedIT, points", fontsize=9.5, color=MUTED)
    axes.legend(frameon=False, fontsize=8.5)


def _along(best: Sequence[Pair], depth: Depth, axis: Axis) -> list[Pair]:
    """The pairs on one axis through the centre, from mild to hard."""
    by_point = {pair.point: pair for pair in best}
    centre = replace(CENTRE, depth=depth)
    wanted = [replace(centre, **{axis: value}) for value in AXES[axis]]
    return [by_point[point] for point in wanted if point in by_point]


def _panel(axes: Axes, pairs: Sequence[Pair], axis: Axis) -> None:
    places = range(len(pairs))
    for label, hue in LINES.items():
        lines = [tests(pair.rolora if label == "RoLoRA" else pair.lora) for pair in pairs]
        axes.plot(places, [fmean(line) for line in lines], color=hue, lw=1.8, label=label)
        for place, line in zip(places, lines, strict=True):
            axes.plot([place] * len(line), line, ".", ms=4, color=hue, alpha=0.6)
    values = [str(getattr(pair.point, axis)) for pair in pairs]
    axes.set_xticks(list(places), [SHORT.get(value, value) for value in values])
