"""The pictures of the MNIST experiment: accuracy over rounds, and over the learning rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from experiments.axes import MUTED, finish
from experiments.mnist.data import Mnist
from experiments.mnist.report import at_rates, good_rates
from experiments.mnist.runs import (
    CENTRALISED,
    FFA,
    FLEXLORA,
    GAUGE,
    LORA,
    ROLORA,
    SPLITS,
    VARIANTS,
    MnistConfig,
    Runs,
    Variant,
)

# Okabe and Ito's hues, which colour-blind readers tell apart.
HUES = {
    CENTRALISED.key: MUTED,
    GAUGE.key: "#d55e00",
    ROLORA.key: "#0072b2",
    LORA.key: "#e69f00",
    FLEXLORA.key: "#cc79a7",
    FFA.key: "#009e73",
}


def figures(config: MnistConfig, mnist: Mnist, runs: Runs) -> dict[str, tuple[Figure, str]]:
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
            _line(axes, rounds, mean, mean - spread, mean + spread, variant)
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
            values = np.array(
                [at_rates(config, runs, variant, split, seed) for seed in config.rate_seeds]
            )
            rates, mean = np.array(config.rates), values.mean(0)
            _line(above, rates, mean, values.min(0), values.max(0), variant)
            above.plot(rates, mean, "o", ms=3.2, color=HUES[variant.key])
            ends = good_rates(config.rates, mean.tolist(), config.within)
            below.plot(ends, [-place] * 2, color=HUES[variant.key], lw=5, solid_capstyle="round")
            chosen = runs.chosen[variant.key, split.key]
            below.plot(chosen, -place, "o", ms=5, mfc="white", mec=HUES[variant.key], zorder=4)
        _log_axis(below, config.rates)
        finish(above, split.words[0].upper() + split.words[1:], "")
        finish(below, "", "learning rate")
        below.set_ylim(-len(VARIANTS) + 0.4, 0.6)
        below.yaxis.set_major_locator(NullLocator())
    panels[1, 0].set_ylabel(f"within {config.within:g}\nof the best", fontsize=9.5, color=MUTED)
    _finish_all(figure, panels[0], mnist)
    return figure


def _line(
    axes: Axes, x: np.ndarray, mean: np.ndarray, low: np.ndarray, high: np.ndarray, variant: Variant
) -> None:
    style = (0, (4, 2)) if variant.pooled else "solid"
    hue = HUES[variant.key]
    axes.fill_between(x, low, high, color=hue, alpha=0.15, lw=0)
    axes.plot(x, mean, color=hue, lw=2.0, ls=style, label=variant.label)


def _log_axis(axes: Axes, rates: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(rates))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.tick_params(axis="x", labelrotation=45)


def _finish_all(figure: Figure, panels: Sequence[Axes], mnist: Mnist) -> None:
    """One scale, one legend, and the data's origin on the picture itself."""
    panels[0].set_ylim(0, 1)
    panels[0].yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    panels[0].set_ylabel("validation accuracy", fontsize=9.5, color=MUTED)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9.5)
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
