"""The look that the experiments' figures share."""

from __future__ import annotations

from matplotlib.axes import Axes

INK, MUTED, GRID = "#1b2025", "#5b646d", "#e2e5e8"


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
