"""The look that the experiments' figures share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK, MUTED, GRID = "#1b2025", "#5b646d", "#e2e5e8"
# Okabe and Ito's, which colour-blind readers tell apart, with an olive in their yellow's place.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
RED, OLIVE, SKY = "#d55e00", "#8a7a00", "#56b4e9"
HUES = (BLUE, ORANGE, GREEN, PINK, RED, INK, OLIVE, SKY)


@dataclass(frozen=True)
class Stroke:
    """How a line of a figure is drawn: its colour and its dashes."""

    hue: str
    dashes: Any = "solid"


def palette(keys: Iterable[str]) -> dict[str, Stroke]:
    """A stroke for each key: by position a hue, and after the last hue the same ones in dashes.

    No two are the same, however many there are.
    """
    found: dict[str, Stroke] = {}
    for key in dict.fromkeys(keys):
        again, place = divmod(len(found), len(HUES))
        # The first time solid, then a dash and ever more dots.
        dashes = (0, (4, 1.6) + (1, 1.6) * (again - 1)) if again else "solid"
        found[key] = Stroke(HUES[place], dashes)
    return found


def spread(values: Sequence[float] | np.ndarray) -> float:
    """The standard deviation; 0 of one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def band(
    axes: Axes,
    x: Sequence[float] | np.ndarray,
    middle: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray],
    stroke: Stroke,
    alpha: float,
    label: str,
) -> None:
    """A line with what lies between its edges shaded."""
    axes.fill_between(x, *edges, color=stroke.hue, alpha=alpha, lw=0)
    axes.plot(x, middle, color=stroke.hue, lw=2.0, ls=stroke.dashes, label=label)


def finish(axes: Axes, title: str, x_label: str) -> None:
    """Title at the left, quiet labels, a light grid, no box."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=8)
    axes.set_xlabel(x_label, fontsize=9.5, color=MUTED)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.grid(True, color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def in_percent(axes: Axes, label: str) -> None:
    """A share on the y axis, in percent."""
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_ylabel(label, fontsize=9.5, color=MUTED)


def legend(figure: Figure, axes: Axes, columns: int) -> None:
    """One legend for all panels, below them; its lines are long enough to show their dashes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        handlelength=3.4,
        frameon=False,
        fontsize=9.5,
    )
