"""The picture of a search for learning rates: validation over the rate."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from rolora.records.tuning import TunedMethod, Tuning
from rolora.report.compare_picture import COLOURS, STYLE


def tuning_picture(tuning: Tuning) -> bytes:
    """As PNG: a panel a method, a line for each number of rounds, the chosen rate marked."""
    metric = tuning.task.first
    with matplotlib.rc_context(STYLE):
        count = len(tuning.methods)
        figure = Figure(figsize=(max(5.0, 3.6 * count), 3.8), dpi=150, layout="constrained")
        panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
        for axes, method in zip(panels, tuning.methods.values(), strict=True):
            _draw(axes, method)
        panels[0].set_ylabel(f"validation {metric.title}, mean of {len(tuning.seeds)} seeds")
        if metric.share:
            panels[0].yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{100 * at:g} %"))
        out = io.BytesIO()
        figure.savefig(out, format="png", facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _draw(axes: Axes, method: TunedMethod) -> None:
    for number, (rung, rates, means) in enumerate(method.curves()):
        hue = COLOURS[number % len(COLOURS)]
        axes.plot(rates, means, "o-", color=hue, lw=1.8, ms=4, label=f"after {rung} rounds")
    best = method.best
    score = best and best.mean(method.rung)
    if best is not None and score is not None:
        axes.plot([best.rate], [score], "o", ms=12, mfc="none", mec="#1b2025", mew=1.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("learning rate")
    axes.set_title(method.title, loc="left", fontsize=10)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)
