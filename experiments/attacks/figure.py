"""The picture of the attacks: accuracy over the hostile share, a panel an attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.attacks.config import DEFENCES, AttacksConfig
from experiments.attacks.report import accuracy, obeyed, over_seeds
from experiments.attacks.runs import Result, Results
from experiments.drawing import finish, in_percent, legend, palette
from experiments.report import Figures
from rolora.attacks import ATTACKS

COLUMNS = 4


def figures(config: AttacksConfig, results: Results) -> Figures:
    """Name -> figure and caption, as the report takes them; none of nothing."""
    if not results:
        return {}
    caption = (
        "Test accuracy over the share of hostile clients, the mean over seeds where all are "
        "finished; at 0 % nobody is hostile. Wide and beneath the others, the mean that is judged. "
        "Last, how often the phrase of the backdoor gives its label."
    )
    return {"attacks": (over_fractions(config, results), caption)}


def over_fractions(config: AttacksConfig, results: Results) -> Figure:
    """A panel an attack, a line a defence."""
    panels: list[tuple[str, str, Callable[[Result], float]]] = [
        (name, name.replace("_", " "), accuracy) for name in config.attacks
    ]
    panels += [
        (name, f"{name}: phrase obeyed", obeyed)
        for name in config.attacks
        if ATTACKS[name].triggered
    ]
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(13, 0.8 + 3.1 * rows), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).ravel()
    for place, (axes, (attack, title, of)) in enumerate(zip(grid, panels, strict=False)):
        _panel(axes, config, results, attack, of)
        lowest = place + COLUMNS >= len(panels)
        finish(axes, title, "clients hostile, %" if lowest else "")
        axes.tick_params(labelbottom=lowest)
        in_percent(axes, "")
        axes.set_ylim(0.35 if of is accuracy else 0.0, 0.82 if of is accuracy else 1.0)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    legend(figure, grid[0], 5)
    return figure


def _panel(
    axes: Axes,
    config: AttacksConfig,
    results: Results,
    attack: str,
    of: Callable[[Result], float],
) -> None:
    for defence, stroke in palette(DEFENCES).items():
        if defence not in config.defences:
            continue
        found = {f: over_seeds(results, attack, f, defence) for f in config.fractions}
        without = (over_seeds(results, None, f, defence) for f in config.fractions)
        # Told of the smallest share, of which all seeds are there.
        nobody = next((runs for runs in without if _whole(config, runs)), {})
        places = {0.0: nobody, **found}
        points = [
            (100 * fraction, np.mean([of(result) for result in runs.values()]))
            for fraction, runs in places.items()
            if _whole(config, runs)
        ]
        beneath = DEFENCES[defence].max_jump is not None  # it may be the mean itself
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color=stroke.hue,
                ls=stroke.dashes,
                lw=4.2 if beneath else 1.8,
                zorder=1.9 if beneath else 2.0,
                marker="o",
                ms=6.0 if beneath else 3.5,
                label=DEFENCES[defence].label,
            )


def _whole(config: AttacksConfig, runs: Mapping[int, Result]) -> bool:
    return set(runs) == set(config.seeds)
