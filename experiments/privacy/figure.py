"""The picture of accuracy over epsilon."""

from __future__ import annotations

from math import isinf
from statistics import fmean

from matplotlib.figure import Figure

from experiments.drawing import MUTED, finish, in_percent, legend, palette, spread
from experiments.privacy.config import PrivacyStudy, title_of
from experiments.privacy.runs import Lines
from experiments.report import Figures


def figures(study: PrivacyStudy, lines: Lines) -> Figures:
    """Name -> figure and caption, as the report takes them."""
    caption = (
        "Test accuracy over epsilon, mean and standard deviation over seeds; each line at its own "
        "rate, whose choice is not counted. Dashed: the best constant guess."
    )
    return {"privacy": (accuracy(study, lines), caption)}


def accuracy(study: PrivacyStudy, lines: Lines) -> Figure:
    """A line a method."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained", facecolor="white")
    axes, order = figure.subplots(), sorted(study.epsilons)
    strokes = palette(study.methods)
    for shift, method in enumerate(study.methods):
        ends = [lines[method, epsilon].test for epsilon in order]
        axes.errorbar(
            [place + 0.05 * (shift - len(study.methods) / 2) for place in range(len(order))],
            [fmean(values) for values in ends],
            yerr=[spread(values) for values in ends],
            color=strokes[method].hue,
            ls=strokes[method].dashes,
            marker="o",
            ms=4,
            capsize=2,
            label=title_of(method),
        )
    guess = fmean(end["constant"] or 0.5 for line in lines.values() for end in line.final)
    axes.axhline(guess, color=MUTED, lw=1, ls="dashed")
    axes.set_xticks(range(len(order)), ["none" if isinf(e) else f"{e:g}" for e in order])
    finish(axes, f"Privacy of each {study.unit}, delta {study.delta:g}", "epsilon")
    in_percent(axes, "test accuracy")
    legend(figure, axes, 3)
    return figure
