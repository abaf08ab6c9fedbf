"""Tables as pictures: a square a cell, the stronger its colour, the larger its share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from rolora.report.figures.svg import Array, colour
from rolora.report.figures.tips import Tip

MOST_LABELS = 100


def shades(axes: Axes, cells: Array, strongest: float = 1.0) -> None:
    """Squares for ``cells [columns, rows]``, whose strength is relative to the largest."""
    largest = cells.max() if cells.size else 0.0
    levels = np.ceil(cells / largest * 10) if largest > 0 else np.zeros_like(cells)
    for level in range(1, 11):
        found = np.argwhere(levels == level)
        if len(found):
            outline = Outline.make_compound_path(*(_square(x - 0.5, y - 0.5) for x, y in found))
            axes.add_patch(
                PathPatch(outline, fc=colour("blue"), alpha=strongest * level / 10, lw=0)
            )
    axes.set_xlim(-0.5, len(cells) - 0.5)
    axes.set_ylim(cells.shape[1] - 0.5, -0.5)


def cell_tips(cells: Array, words: Callable[[int, int], str]) -> Iterator[Tip]:
    """A tip for each cell in which there is something; `words` of its column and row."""
    for x, y in np.argwhere(cells > 0).tolist():
        yield Tip(words(x, y), (x - 0.5, x + 0.5), (y - 0.5, y + 0.5))


def named_every(rows: int) -> int:
    """Every how many rows are named, so that names do not overlap."""
    return -(-rows // 26) or 1


def named_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names beside the rows, of many some."""
    step = named_every(len(names))
    axes.set_yticks(range(0, len(names), step), [short(n) for n in names[::step]], fontsize=9)


def height_of(rows: int) -> int:
    """Pixels that do for so many rows."""
    return int(np.clip(60 + 12 * rows, 220, 400))


def short(name: str, most: int = 16) -> str:
    """A name that fits beside an axis."""
    name = " ".join(name.split())
    return name if len(name) <= most else name[: most - 1] + "…"


def _square(x: float, y: float) -> Outline:
    corners = [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1), (x, y)]
    return Outline(corners, closed=True)
