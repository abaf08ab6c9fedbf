"""What a mark says when the pointer rests on it: unseen boxes over the picture, each with its words
as an SVG title, which needs no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import category

import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from numpy.typing import NDArray

LEAST = 9.0
"""Pixels a side, so that a point or a line can be hit."""
MOST_BANDS = 400
"""Of a picture 440 pixels wide."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Tip:
    """Words over a part of the axes, in their coordinates.

    Args:
        words: a line each.
        x: from where to where; None: all along.
        y: the same, up.
    """

    words: str
    x: Span | None = None
    y: Span | None = None


def at(x: float, y: float, words: str) -> Tip:
    """A tip over one point."""
    return Tip(words, (x, x), (y, y))


def bands(x: Sequence[float] | NDArray[Any], words: Sequence[str]) -> Iterator[Tip]:
    """A tip over the whole height for each of rising `x`, half-way to its neighbours."""
    places = np.asarray(x, float)
    if len(places) > MOST_BANDS:
        kept = np.linspace(0, len(places) - 1, MOST_BANDS).round().astype(int)
        places, words = places[kept], [words[i] for i in kept]
    middles = (places[1:] + places[:-1]) / 2
    for start, end, text in zip([-np.inf, *middles], [*middles, np.inf], words, strict=True):
        yield Tip(text, (float(start), float(end)))


def layer(tips: Iterable[Tip], axes: Axes, height: float) -> Markup:
    """The boxes of `tips`, the later over the earlier, in a picture `height` pixels high."""
    return Markup("").join(
        Markup(
            '<rect class="tip" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
        ).format(*box, escape(_printable(tip.words)))
        for tip in tips
        for box in [_box(tip, axes, height)]
    )


def _box(tip: Tip, axes: Axes, height: float) -> list[str]:
    """Left, top, width and height in pixels, inside the axes."""
    x0, x1 = _within(tip.x, axes.get_xlim())
    y0, y1 = _within(tip.y, axes.get_ylim())
    corners = axes.transData.transform([(x0, y0), (x1, y1)])
    (x0, x1), (y0, y1) = _wide_enough(corners[:, 0]), _wide_enough(corners[:, 1])
    return [f"{value:.1f}" for value in (x0, height - y1, x1 - x0, y1 - y0)]


def _within(span: Span | None, limits: Span) -> Span:
    """The part of a span that lies between the limits of an axis."""
    low, high = min(limits), max(limits)
    start, end = span or (low, high)
    return min(max(start, low), high), min(max(end, low), high)


def _wide_enough(ends: NDArray[np.float64]) -> Span:
    """From the lower to the higher end; of a point, far enough to be hit."""
    low, high = float(ends.min()), float(ends.max())
    room = LEAST / 2 if low == high else 0.0
    return low - room, high + room


def _printable(words: str) -> str:
    """Without the control characters, which no browser shows."""
    return "".join(c if c == "\n" or category(c) != "Cc" else " " for c in words)
