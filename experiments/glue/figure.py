"""The pictures of the GLUE experiment: accuracy over settings, over rounds and over bytes."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments.axes import MUTED, finish
from experiments.glue.presets import Line, Setting
from experiments.glue.report import Outcome
from experiments.glue.tasks import TaskData

# Okabe and Ito's hues, which colour-blind readers tell apart; the same method, the same hue.
HUES = {
    "rolora": "#0072b2",
    "fedit": "#e69f00",
    "ffa_lora": "#009e73",
    "flexlora": "#cc79a7",
    "mixed": "#56b4e9",
    "flora": "#d55e00",
    "fedex_lora": "#1b2025",
    "fedsa_lora": "#8a7a00",
}


def figures(outcome: Outcome) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, as the report takes them."""
    seeds = f"mean of {len(outcome.config.seeds)} seeds and one standard deviation"
    drawn = {
        "settings": (
            over_settings(outcome),
            f"Test accuracy after the last round: {seeds}, each method at the learning rate "
            "chosen for it.",
        )
    }
    for task in outcome.tasks:
        drawn[f"curves_{task.name}"] = (
            curves(outcome, task),
            f"Validation accuracy, {task.title}, over rounds and over what all clients sent up: "
            f"{seeds}.",
        )
    return drawn


def over_settings(outcome: Outcome) -> Figure:
    """Test accuracy over the settings, a panel a task."""
    width = max(5.2, (0.6 + 1.15 * len(outcome.settings)) * len(outcome.tasks) + 0.8)
    figure = Figure(figsize=(width, 4.4), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(outcome.tasks), squeeze=False, sharey=True)[0]
    settings, lines = outcome.settings, outcome.lines.values()
    for axes, task in zip(panels, outcome.tasks, strict=True):
        for place, line in enumerate(lines):
            found = [outcome.accuracies([task], setting, line.key) for setting in settings]
            # Side by side, so that no method's spread hides another's.
            x = np.arange(len(settings)) + 0.06 * (place - (len(lines) - 1) / 2)
            means = [float(np.mean(values)) for values in found]
            axes.errorbar(
                x,
                means,
                [_spread(np.array(values)) for values in found],
                color=HUES[line.key],
                marker="o",
                ms=5,
                lw=1.8,
                elinewidth=1.2,
                label=line.label,
            )
        axes.set_xticks(range(len(settings)), [_wrapped(s.words, 15) for s in settings])
        axes.set_xlim(-0.4, len(settings) - 0.6)
        finish(axes, task.title, "")
    _percent(panels[0], "test accuracy")
    _legend(figure, panels[0])
    return figure


def curves(outcome: Outcome, task: TaskData) -> Figure:
    """Validation accuracy over rounds (above) and bytes sent up (below), a column a setting."""
    settings = outcome.settings
    figure = Figure(
        figsize=(max(5.2, 3.6 * len(settings) + 0.8), 6.6), layout="constrained", facecolor="white"
    )
    panels = figure.subplots(2, len(settings), squeeze=False, sharey=True)
    for (above, below), setting in zip(panels.T, settings, strict=True):
        for line in outcome.lines.values():
            _curve(above, below, outcome, task, setting, line)
        above.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        below.xaxis.set_major_locator(MaxNLocator(nbins=6))
        finish(above, _wrapped(setting.words, 36), "round")
        finish(below, "", "MiB sent up by all clients")
    for axes in panels[:, 0]:
        _percent(axes, "validation accuracy")
    _legend(figure, panels[0, 0])
    return figure


def _curve(
    above: Axes, below: Axes, outcome: Outcome, task: TaskData, setting: Setting, line: Line
) -> None:
    """One method's two curves. A run that diverged sent less; bytes are those of the longest."""
    found = outcome.final(task, setting, line.key)
    values = np.array([result["accuracy"] for result in found])
    mean = values.mean(0)
    spread = np.array([_spread(column) for column in values.T])
    sent = np.max([result["bytes_up_by_round"] for result in found], axis=0) / 2**20
    for axes, x in ((above, np.array(found[0]["rounds"])), (below, sent)):
        axes.fill_between(x, mean - spread, mean + spread, color=HUES[line.key], alpha=0.13, lw=0)
        axes.plot(x, mean, color=HUES[line.key], lw=2.0, label=line.label)


def _spread(values: np.ndarray) -> float:
    """The standard deviation; 0 of one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _wrapped(words: str, width: int) -> str:
    """In lines of at most `width` characters, a new one after every comma."""
    return "\n".join(line for part in words.split(", ") for line in wrap(part, width))


def _percent(axes: Axes, label: str) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_ylabel(label, fontsize=9.5, color=MUTED)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), max(2, int(figure.get_figwidth() / 2)))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5
    )
