"""The pictures of the GLUE experiment: accuracy over settings, over rounds and over bytes."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.drawing import band, finish, in_percent, legend, palette, spread
from experiments.glue.presets import MIXED, Line, Setting
from experiments.glue.report import Outcome
from experiments.glue.tasks import TaskData
from experiments.report import Figures
from rolora.methods import METHODS

STROKES = palette((*METHODS, MIXED))
"""The same method, the same stroke."""


def figures(outcome: Outcome) -> Figures:
    """Name -> figure and caption, as the report takes them."""
    seeds = f"mean of {len(outcome.config.seeds)} seeds and one standard deviation"
    drawn: dict[str, tuple[Figure, str]] = {
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
                [spread(values) for values in found],
                color=STROKES[line.key].hue,
                ls=STROKES[line.key].dashes,
                marker="o",
                ms=5,
                lw=1.8,
                elinewidth=1.2,
                label=line.label,
            )
        axes.set_xticks(range(len(settings)), [_wrapped(s.words, 15) for s in settings])
        axes.set_xlim(-0.4, len(settings) - 0.6)
        finish(axes, task.title, "")
    in_percent(panels[0], "test accuracy")
    legend(figure, panels[0], _columns(figure, outcome))
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
        in_percent(axes, "validation accuracy")
    legend(figure, panels[0, 0], _columns(figure, outcome))
    return figure


def _curve(
    above: Axes, below: Axes, outcome: Outcome, task: TaskData, setting: Setting, line: Line
) -> None:
    """One method's two curves. A run that diverged sent less; bytes are those of the longest."""
    found = outcome.final(task, setting, line.key)
    values = np.array([result["accuracy"] for result in found])
    mean = values.mean(0)
    deviation = np.array([spread(column) for column in values.T])
    sent = np.max([result["bytes_up_by_round"] for result in found], axis=0) / 2**20
    for axes, x in ((above, np.array(found[0]["rounds"])), (below, sent)):
        edges = (mean - deviation, mean + deviation)
        band(axes, x, mean, edges, STROKES[line.key], 0.13, line.label)


def _wrapped(words: str, width: int) -> str:
    """In lines of at most `width` characters, a new one after every comma."""
    return "\n".join(line for part in words.split(", ") for line in wrap(part, width))


def _columns(figure: Figure, outcome: Outcome) -> int:
    """How many names stand side by side in the legend."""
    return min(len(outcome.lines), max(2, int(figure.get_figwidth() / 2)))
