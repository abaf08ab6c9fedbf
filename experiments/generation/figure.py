"""The pictures: held-out loss over rounds and bytes, and the benchmark before and after."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.drawing import INK, MUTED, band, finish, in_percent, legend, palette, spread
from experiments.generation.config import LINES, line_title
from experiments.generation.report import by_question, with_interval
from experiments.generation.runs import Found, LineRuns, Outcome
from experiments.report import Figures

STROKES = palette(LINES)
"""The same line, the same stroke."""


def figures(outcome: Outcome) -> Figures:
    """Name -> figure and caption, as the report takes them."""
    drawn: dict[str, tuple[Figure, str]] = {}
    for number, found in enumerate(outcome.found):
        if not found.lines:
            continue
        name = "loss" if number == 0 else f"loss_{number + 1}"
        caption = (
            f"{found.subject.title}: loss of the validation answers over rounds and over what all "
            "clients sent up, mean of the seeds and one standard deviation of their differences "
            "to the model before round 1; each line at its own rate. At the right: the test loss "
            "less the base model's, seed by seed (small) and in the mean."
        )
        drawn[name] = (curves(found), caption)
        if found.benchmark is not None and any(runs.scores for runs in found.lines.values()):
            name = "scores" if number == 0 else f"scores_{number + 1}"
            caption = (
                f"{found.benchmark.title}, {found.subject.title}: score with its 95 % interval "
                "over questions."
            )
            drawn[name] = (scores(found), caption)
    return drawn


def curves(found: Found) -> Figure:
    """Validation loss over rounds and over bytes, and the final change of the test loss."""
    figure = Figure(figsize=(12.6, 4.3), layout="constrained", facecolor="white")
    rounds, sent, ends = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    for line, runs in found.lines.items():
        _curve(rounds, sent, found, line, runs)
    sent.sharey(rounds)
    rounds.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    finish(rounds, "Validation loss over rounds", "round")
    finish(sent, "Validation loss over bytes", "MiB sent up by all clients")
    rounds.set_ylabel("nats a token", fontsize=9.5, color=MUTED)
    _ends(ends, found)
    legend(figure, rounds, len(found.lines))
    return figure


def _curve(rounds: Axes, sent: Axes, found: Found, line: str, runs: LineRuns) -> None:
    """One line's two curves, from the base model on."""
    seeds = [seed for seed in runs.final if seed in found.base]
    if not seeds:
        return
    final = [runs.final[seed] for seed in seeds]
    start = np.array([found.base[seed]["validation_loss"] for seed in seeds])
    values = np.column_stack([start, np.array([run["loss"] for run in final])])
    values[~np.isfinite(values)] = np.nan
    mean = values.mean(0)
    # Seeds differ in their examples far more than in what a method makes of them.
    deviation = np.array([spread(column) for column in (values - start[:, None]).T])
    bytes_up = np.mean([[0, *run["bytes_up_by_round"]] for run in final], axis=0) / 2**20
    for axes, x in ((rounds, np.array([0, *final[0]["rounds"]])), (sent, bytes_up)):
        edges = (mean - deviation, mean + deviation)
        band(axes, x, mean, edges, STROKES[line], 0.12, line_title(line))


def _ends(axes: Axes, found: Found) -> None:
    """The test loss less the base model's."""
    lines = list(found.lines.items())
    for row, (line, runs) in enumerate(lines):
        both = [seed for seed in runs.final if seed in found.base]
        changes = [
            (runs.final[seed]["test_loss"] or np.nan) - (found.base[seed]["test_loss"] or np.nan)
            for seed in both
        ]
        axes.plot(changes, [row] * len(changes), ".", ms=5, color=MUTED)
        if changes:
            axes.plot(float(np.mean(changes)), row, "o", ms=8, color=STROKES[line].hue)
    axes.set_yticks(range(len(lines)), [""] * len(lines))
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    finish(axes, "Test loss less the base model's", "nats a token")


def scores(found: Found) -> Figure:
    """The benchmark, base model first."""
    assert found.base_scores is not None
    rows = [("base model", by_question([found.base_scores]), INK)]
    rows += [
        (line_title(line), by_question(list(runs.scores.values())), STROKES[line].hue)
        for line, runs in found.lines.items()
        if runs.scores
    ]
    size = (7.4, 1.2 + 0.42 * len(rows))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots()
    for row, (_, values, hue) in enumerate(rows):
        mean, half = with_interval(values)
        axes.plot([mean - half, mean + half], [row, row], color=hue, lw=2.2, alpha=0.7)
        axes.plot(mean, row, "o", ms=7, color=hue)
    axes.axvline(with_interval(rows[0][1])[0], color=MUTED, lw=1, ls=(0, (3, 3)))
    axes.set_yticks(range(len(rows)), [title for title, _, _ in rows], color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    in_percent(axes, "")
    axes.xaxis.set_major_formatter(axes.yaxis.get_major_formatter())
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))  # whole per cents
    axes.set_yticks(range(len(rows)), [title for title, _, _ in rows], color=INK)
    assert found.benchmark is not None
    finish(axes, f"{found.benchmark.title}, {found.subject.title}", "right answers")
    return figure
