"""The picture of Algorithm 2: sine and loss over rounds, and the bound over samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, PercentFormatter

from experiments.drawing import BLUE, GREEN, INK, MUTED, ORANGE, RED, finish, legend
from rolora.report.statistics import wilson_interval

HUES = (BLUE, ORANGE, RED, GREEN)
"""In the order of the methods."""
FLOAT64 = 1e-15
BOUNDS: tuple[dict[str, Any], ...] = (
    {"ls": ":", "color": INK, "lw": 2.0},
    {"ls": ":", "color": MUTED, "lw": 1.4},
    {"ls": "-.", "color": MUTED, "lw": 1.0},
)
CAPTION = (
    "Median over problems and the middle 90 %. Left: sine of the angle to a*; dotted the theorem's "
    "bound, which hardly falls because a random start is nearly orthogonal to a*, and the same "
    "bound applied anew each round; dash-dotted the bound for infinitely many samples (derived "
    "here). Middle: loss over |b*|^2. Right: random starts that break the theorem's bound in some "
    "round, because too few samples tell them from an orthogonal one, with 95 % intervals; "
    "dash-dotted the share derived in docs/theory.md, which is not fitted."
)


def draw(run: Mapping[str, Any], sweep: Mapping[int, Mapping[str, Any]]) -> Figure:
    """Three panels: sine, loss (both log scale, over rounds), share above the bound over m."""
    figure = Figure(figsize=(12.6, 4.3), layout="constrained", facecolor="white")
    left, middle, right = figure.subplots(1, 3)
    last = _last_round(run)
    _over_rounds(left, run, "sine", last)
    rounds = np.arange(last + 1)
    for (name, bound), style in zip(run["bounds"].items(), BOUNDS, strict=True):
        left.plot(rounds, _above_rounding(bound[: last + 1], FLOAT64), label=name, **style)
    _over_rounds(middle, run, "loss", last)
    _over_samples(right, sweep)
    finish(left, "Sine of the angle to a*", "round")
    finish(middle, "Loss / |b*|²", "round")
    finish(right, "Random starts above the bound", "samples a client, m")
    legend(figure, left, columns=4)
    return figure


def _last_round(run: Mapping[str, Any]) -> int:
    """Where nothing is left to see: RoLoRA and FedAvg are at rounding, or the rounds end."""
    slowest = np.max([trace["sine"]["median"] for trace in list(run["methods"].values())[:3]], 0)
    done = np.flatnonzero(slowest < 10 * FLOAT64)
    return min(len(slowest) - 1, int(done[0]) + 3 if done.size else len(slowest) - 1)


def _over_rounds(axes: Axes, run: Mapping[str, Any], what: str, last: int) -> None:
    rounds = np.arange(last + 1)
    least = FLOAT64 if what == "sine" else FLOAT64**2
    for (name, trace), hue in zip(run["methods"].items(), HUES, strict=True):
        low, median, high = (trace[what][line][: last + 1] for line in ("low", "median", "high"))
        edges = np.maximum([low, high], least)
        axes.fill_between(rounds, *edges, color=hue, alpha=0.16, lw=0)
        axes.plot(rounds, _above_rounding(median, least), color=hue, lw=2.0, label=name)
    axes.set_yscale("log")
    axes.set_ylim(least / 3, 5)
    axes.set_xlim(0, last)
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())


def _above_rounding(values: Any, least: float) -> Any:
    """A line that ends where float64 does."""
    return np.where(np.asarray(values) > least, values, np.nan)


def _over_samples(axes: Axes, sweep: Mapping[int, Mapping[str, Any]]) -> None:
    m = np.array([int(samples) for samples in sweep])
    shares = np.array([found["above"] / found["problems"] for found in sweep.values()])
    ends = np.array(
        [
            wilson_interval(share, found["problems"])
            for share, found in zip(shares, sweep.values(), strict=True)
        ]
    ).T
    axes.plot(m, [found["predicted"] for found in sweep.values()], "-.", color=MUTED, lw=1.1)
    axes.errorbar(
        m, shares, yerr=np.abs(ends - shares), fmt="o", color=BLUE, ms=5, lw=1.4, capsize=0
    )
    axes.set_xscale("log")
    axes.set_xticks(m, [str(samples) for samples in m])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
