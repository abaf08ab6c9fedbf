"""The pictures of the MNIST experiment: accuracy over rounds, and over the learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from experiments.drawing import MUTED, Stroke, band, finish, in_percent, legend, palette
from experiments.mnist.data import Mnist
from experiments.mnist.report import at_rates, good_rates
from experiments.mnist.runs import SPLITS, VARIANTS, MnistConfig, Runs, SplitOfDigits, Variant
from experiments.report import Figures
from rolora.methods import METHODS, options_of


def strokes(variants: Iterable[Variant]) -> dict[str, Stroke]:
    """By key: methods as they are first, in the order of `METHODS`, then those with options; what
    is no federated run is grey.
    """

    def place(variant: Variant) -> tuple[bool, int]:
        name = variant.method.name
        return variant.method != options_of(name), list(METHODS).index(name)

    pooled = {v.key: Stroke(MUTED, (0, (4, 2))) for v in variants if v.pooled}
    federated = sorted((v for v in variants if not v.pooled), key=place)
    return {**palette(v.key for v in federated), **pooled}


STROKES = strokes(VARIANTS)


def figures(config: MnistConfig, mnist: Mnist, runs: Runs) -> Figures:
    """Name -> figure and caption, as the report takes them."""
    drawn = {"mnist": (over_rounds(config, mnist, runs), _rounds_caption(config, mnist))}
    if config.figures == "both":
        drawn["mnist_rates"] = (over_rates(config, mnist, runs), _rates_caption(config, mnist))
    return drawn


def over_rounds(config: MnistConfig, mnist: Mnist, runs: Runs) -> Figure:
    """Validation accuracy over rounds, a panel a split: mean over seeds and standard deviation."""
    figure = Figure(figsize=(10.4, 4.5), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(SPLITS), sharey=True)
    rounds = np.arange(1, config.rounds + 1)
    for axes, split in zip(panels, SPLITS, strict=True):
        for variant in VARIANTS:
            curves = np.array([r["accuracy"] for r in runs.final[variant.key, split.key]])
            mean, spread = curves.mean(0), curves.std(0, ddof=1 if len(curves) > 1 else 0)
            edges = (mean - spread, mean + spread)
            band(axes, rounds, mean, edges, STROKES[variant.key], 0.15, variant.label)
        axes.set_xlim(1, config.rounds)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        finish(axes, split.words[0].upper() + split.words[1:], "round")
    _finish_all(figure, panels, mnist)
    return figure


def over_rates(config: MnistConfig, mnist: Mnist, runs: Runs) -> Figure:
    """Accuracy at the end over the learning rate, and below it where each is near its best."""
    figure = Figure(figsize=(10.4, 6.0), layout="constrained", facecolor="white")
    panels = figure.subplots(2, len(SPLITS), sharex=True, sharey="row", height_ratios=(3.2, 1))
    for (above, below), split in zip(panels.T, SPLITS, strict=True):
        for place, variant in enumerate(VARIANTS):
            _sensitivity(above, below, config, runs, (variant, split), place)
        _log_axis(below, config.rates)
        finish(above, split.words[0].upper() + split.words[1:], "")
        finish(below, "", "learning rate")
        below.set_ylim(-len(VARIANTS) + 0.4, 0.6)
        below.yaxis.set_major_locator(NullLocator())
    panels[1, 0].set_ylabel(f"within {config.within:g}\nof the best", fontsize=9.5, color=MUTED)
    _finish_all(figure, panels[0], mnist)
    return figure


def _sensitivity(
    above: Axes,
    below: Axes,
    config: MnistConfig,
    runs: Runs,
    line: tuple[Variant, SplitOfDigits],
    place: int,
) -> None:
    """A variant's accuracies over the rates, and in row `place` below where it is near its best."""
    variant, split = line
    stroke = STROKES[variant.key]
    values = np.array([at_rates(config, runs, *line, seed) for seed in config.rate_seeds])
    rates, mean = np.array(config.rates), values.mean(0)
    band(above, rates, mean, (values.min(0), values.max(0)), stroke, 0.15, variant.label)
    above.plot(rates, mean, "o", ms=3.2, color=stroke.hue)
    ends = good_rates(config.rates, mean.tolist(), config.within)
    below.plot(ends, [-place] * 2, color=stroke.hue, lw=5, solid_capstyle="round")
    chosen = runs.chosen[variant.key, split.key]
    below.plot(chosen, -place, "o", ms=5, mfc="white", mec=stroke.hue, zorder=4)


def _log_axis(axes: Axes, rates: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(rates))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.tick_params(axis="x", labelrotation=45)


def _finish_all(figure: Figure, panels: Sequence[Axes], mnist: Mnist) -> None:
    """One scale, one legend, and the data's origin on the picture itself."""
    panels[0].set_ylim(0, 1)
    in_percent(panels[0], "validation accuracy")
    legend(figure, panels[0], columns=6)
    figure.suptitle(f"Data: {mnist.source}", x=0.995, ha="right", fontsize=8.5, color=MUTED)


def _rounds_caption(config: MnistConfig, mnist: Mnist) -> str:
    return (
        f"Accuracy on held-back training digits over rounds: mean of {len(config.seeds)} seeds and "
        "one standard deviation, each method at the learning rate chosen for it. Data: "
        f"{mnist.source}."
    )


def _rates_caption(config: MnistConfig, mnist: Mnist) -> str:
    return (
        f"Accuracy on held-back training digits after {config.rounds} rounds over the learning "
        f"rate: mean, least and greatest of {len(config.rate_seeds)} seeds. Below: the rates at "
        f"which the mean is within {config.within:g} of each method's best; white, the chosen rate "
        f"(at seed {config.tuning_seed}). Data: {mnist.source}."
    )
