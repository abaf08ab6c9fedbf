"""A comparison's picture: the first metric on the validation examples, over rounds and MiB."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rolora.records.files import RunFiles
from rolora.records.schema import Comparison
from rolora.report.compare_table import MIB

# Okabe and Ito's palette, in an order in which neighbours differ in lightness too.
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5b646d"),
    *("#8c510a", "#1b2025"),
)
DASHES = ("-", "--", "-.", ":")
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.usetex": False,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b646d",
    "xtick.color": "#5b646d",
    "ytick.color": "#5b646d",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e2e5e8",
}


def picture(comparison: Comparison, runs: Mapping[str, Sequence[RunFiles]]) -> bytes:
    """The curves of `runs`, by method, as PNG."""
    metric = comparison.task.first
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.2), dpi=150, layout="constrained")
        over_rounds, over_bytes = figure.subplots(1, 2, sharey=True)
        curves = [_Curve.of(by_seed, metric.name) for by_seed in runs.values()]
        for axes, name, label in (
            (over_rounds, "rounds", "round"),
            (over_bytes, "mib", "MiB sent, up and down"),
        ):
            for number, curve in enumerate(curves):
                _draw(axes, getattr(curve, name), curve, number)
            _guess(axes, comparison)
            axes.set_xlabel(label)
            axes.set_xlim(left=0)
        over_rounds.xaxis.set_major_locator(MaxNLocator(integer=True))
        over_rounds.set_ylabel(f"validation {metric.title}")
        if metric.share:
            over_rounds.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{100 * at:g} %"))
        _legend(figure, over_bytes, curves)
        out = io.BytesIO()
        figure.savefig(out, format="png", facecolor="white", metadata={"Software": None})
    return out.getvalue()


@dataclass(frozen=True)
class _Curve:
    """One method's scores ``[seeds, points]``, and where they were measured ``[points]``."""

    title: str
    rounds: np.ndarray
    mib: np.ndarray
    scores: np.ndarray

    @staticmethod
    def of(runs: Sequence[RunFiles], metric: str) -> _Curve:
        """At the rounds that were evaluated under every seed; bytes are means over seeds."""
        scores, sent = [], []
        for run in runs:
            total = np.cumsum([r.bytes_up + r.bytes_down for r in run.rounds]) / MIB
            sent.append({r.round: at for r, at in zip(run.rounds, total, strict=True)})
            seen = {r.round: (r.validation or {}).get(metric) for r in run.rounds}
            scores.append({number: score for number, score in seen.items() if score is not None})
        rounds = sorted(set.intersection(*map(set, scores)))
        return _Curve(
            title=runs[0].method,
            rounds=np.array(rounds),
            mib=np.array([[total[r] for r in rounds] for total in sent]).mean(0),
            scores=np.array([[seen[r] for r in rounds] for seen in scores]),
        )


def _draw(axes: Axes, x: np.ndarray, curve: _Curve, number: int) -> None:
    hue, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
    if len(curve.scores) > 1:
        axes.plot(x, curve.scores.T, dash, color=hue, lw=0.8, alpha=0.5)
    axes.plot(x, curve.scores.mean(0), dash, color=hue, lw=2.2, label=curve.title, zorder=3)


def _guess(axes: Axes, comparison: Comparison) -> None:
    name = comparison.task.first.name
    guesses = [g for held in comparison.constant.values() if (g := held.get(name)) is not None]
    if guesses:
        axes.axhline(
            float(np.mean(guesses)), color="#5b646d", lw=1, dashes=(4, 3), label="constant guess"
        )


def _legend(figure: Figure, axes: Axes, curves: Sequence[_Curve]) -> None:
    """Names in the order in which the lines end, beside where they end."""
    handles, labels = axes.get_legend_handles_labels()
    ends = [c.scores[:, -1].mean() if c.scores.size else 0.0 for c in curves]
    order = [*np.argsort(-np.array(ends), kind="stable"), *range(len(curves), len(handles))]
    seeds = max(len(curve.scores) for curve in curves)
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside right center",
        frameon=False,
        alignment="left",
        title=f"thick: mean of {seeds} seeds\nthin: each seed" if seeds > 1 else None,
        title_fontsize=9,
    )
