"""Inline SVG that takes its colours and font from the page.

matplotlib draws in the light theme's colours; each is then replaced by the CSS variable of the
same name, so that one picture serves light, dark and print.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from rolora.report.figures.tips import Tip, layer

# CSS name: light, dark. The hues are Okabe and Ito's, which colour-blind readers tell apart.
THEME: dict[str, tuple[str, str]] = {
    "ink": ("#1b2025", "#e8eaed"),
    "muted": ("#5b646d", "#9ea7b0"),
    "grid": ("#e2e5e8", "#31373e"),
    "shade": ("#eef1f5", "#242b33"),
    "blue": ("#0072b2", "#58aee8"),
    "orange": ("#d55e00", "#f08c46"),
    "green": ("#009e73", "#33c497"),
    "label-0": ("#0173b2", "#3f97d3"),
    "label-1": ("#e69f00", "#e0a325"),
    "label-2": ("#019e74", "#22a884"),
    "label-3": ("#cc79a7", "#cf86af"),
    "label-4": ("#56b4e9", "#7cc6ee"),
    "label-5": ("#d65f01", "#d96b22"),
    "label-6": ("#8b929a", "#7d858d"),
    "label-7": ("#b8ad00", "#cfc43a"),
}
MANY_ROUNDS = 60
MANY_CLIENTS = 60
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 440, 48, 12, 10, 40

Array = NDArray[np.float64]


def colour(name: str) -> str:
    """The colour in which matplotlib draws what the page shows in ``var(--name)``."""
    return THEME[name][0]


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a mark (``line``, ``dash``, ``dot``, ``ring``, ``diamond`` or
    ``area``), its colour, words.
    """

    mark: str
    colour: str
    words: str


@dataclass(frozen=True)
class Panel:
    """A figure with what a reader needs to understand it."""

    title: str
    svg: Markup
    caption: str
    keys: tuple[Key, ...] = ()


PERCENT = FuncFormatter(lambda at, _: f"{100 * at:.4g} %")
COUNT = FuncFormatter(lambda at, _: f"{at:,.0f}" if at == round(at) else "")

_STYLE = {
    "svg.fonttype": "none",
    "text.usetex": False,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.size": 11.5,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "text.color": colour("ink"),
    "axes.labelcolor": colour("muted"),
    "axes.labelsize": 11,
    "axes.edgecolor": colour("muted"),
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.facecolor": "none",
    "xtick.color": colour("muted"),
    "ytick.color": colour("muted"),
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "grid.color": colour("grid"),
    "grid.linewidth": 0.8,
}


def draw(
    name: str,
    paint: Callable[[Axes], None],
    tips: Iterable[Tip] = (),
    height: int = 220,
    left: int = LEFT,
) -> Markup:
    """`paint` on axes of a panel's size, as SVG whose ids are unique to `name`, under `tips`."""
    style = _STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A label in a script that matplotlib's own font lacks is drawn by the reader's browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        box = (left, BOTTOM, WIDTH - left - RIGHT, height - TOP - BOTTOM)
        axes = figure.add_axes((box[0] / WIDTH, box[1] / height, box[2] / WIDTH, box[3] / height))
        paint(axes)
        out = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
        over = layer(tips, axes, height)
    return Markup(_themed(out.getvalue()).replace("</svg>", f"{over}</svg>"))


def _themed(drawn: str) -> str:
    """Leave colours, font and size to the page; ids that nothing refers to are dropped."""
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", drawn, flags=re.S)
    # Only inside tags: the text between them may be a label's name, which stays as it is.
    return re.sub(r"<[^>]*>", lambda tag: _themed_tag(tag.group()), drawn)


def _themed_tag(tag: str) -> str:
    for name, (light, _) in THEME.items():
        tag = tag.replace(light, f"var(--{name})")
    tag = re.sub(r' id="[\w.]+_\d+"| xmlns(?::xlink)?="[^"]*"|font-family: [^;"]*;', "", tag)
    if tag.startswith("<svg"):
        tag = re.sub(r' (?:width|height|version)="[^"]*"', "", tag)
    return " ".join(tag.split())


def finish(axes: Axes, x_label: str, y_label: str = "", grid: bool = True) -> None:
    """Name the axes, count rounds and clients in whole numbers, and draw the grid's lines."""
    axes.set_xlabel(x_label)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y")
    if y_label:
        axes.set_ylabel(y_label)
    if x_label in ("round", "client"):
        whole = MaxNLocator(11, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        axes.xaxis.set_major_locator(whole)


def logarithmic(axes: Axes) -> None:
    """A logarithmic y-axis with plain numbers: nothing here typesets powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
