"""The picture of the readings: what comes back over the batch, a panel a kind of defence."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import MUTED, Stroke, finish, in_percent, palette
from experiments.reconstruction.config import DEFENCES, NONE, Factor, ReconstructionConfig
from experiments.reconstruction.report import over_seeds
from experiments.reconstruction.runs import Results
from experiments.report import Figures

KINDS = {
    "other steps": ("steps", "adamw", "adamw_steps"),
    "int8, noise": ("int8", "noise_0.001", "noise_0.01", "noise_0.1"),
    "sums": ("sum_2", "sum_5"),
}
"""The defences, as panels."""


def figures(config: ReconstructionConfig, results: Results) -> Figures:
    """Name -> figure and caption, as the report takes them; none of nothing."""
    if not results:
        return {}
    caption = (
        "Share of a batch's tokens that comes back, over the sentences in the batch; mean, "
        "lowest and highest over seeds. First undefended, by factor and rank, then behind each "
        "defence. Dotted: naming the most frequent tokens, unseen."
    )
    return {"reconstruction": (over_batches(config, results), caption)}


def over_batches(config: ReconstructionConfig, results: Results) -> Figure:
    """A panel for what is undefended, one for each kind of defence of each defended factor."""
    kinds = [(factor, kind) for factor in config.defended for kind in KINDS]
    figure = Figure(figsize=(3.1 * (1 + len(kinds)), 4.8), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 1 + len(kinds), squeeze=False, sharey=True)[0]
    _undefended(panels[0], config, results)
    for axes, (factor, kind) in zip(panels[1:], kinds, strict=True):
        _defended(axes, config, results, factor, KINDS[kind])
        finish(axes, f"{factor}, rank {config.ranks[0]}: {kind}", "sentences in the batch")
    for axes in panels:
        _guess(axes, config, results)
        axes.set_xticks(range(len(config.batches)), [str(n) for n in config.batches])
        axes.set_ylim(-0.03, 1.03)
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.16), frameon=False, fontsize=9)
    in_percent(panels[0], "tokens that come back")
    return figure


def _undefended(axes: Axes, config: ReconstructionConfig, results: Results) -> None:
    strokes = palette(f"{f} {r}" for f in config.factors for r in config.ranks)
    for factor in config.factors:
        for rank in config.ranks:
            stroke = strokes[f"{factor} {rank}"]
            line = _line(config, results, factor, rank, NONE)
            _drawn(axes, line, stroke, f"{factor}, rank {rank}")
    finish(axes, "undefended", "sentences in the batch")


def _defended(
    axes: Axes,
    config: ReconstructionConfig,
    results: Results,
    factor: Factor,
    defences: Sequence[str],
) -> None:
    """Beside no defence, which has the same stroke in every panel."""
    for defence, stroke in palette((NONE, *defences)).items():
        if defence in config.defences:
            line = _line(config, results, factor, config.ranks[0], defence)
            _drawn(axes, line, stroke, DEFENCES[defence].label)


def _line(
    config: ReconstructionConfig, results: Results, factor: Factor, rank: int, defence: str
) -> list[list[float]]:
    """By batch what was found at each seed."""

    def found(batch: int) -> list[float]:
        return [r["found"] for r in over_seeds(results, factor, rank, batch, defence).values()]

    return [found(batch) for batch in config.batches]


def _drawn(axes: Axes, line: list[list[float]], stroke: Stroke, label: str) -> None:
    seen = [(place, values) for place, values in enumerate(line) if values]
    axes.errorbar(
        [place for place, _ in seen],
        [fmean(values) for _, values in seen],
        [
            [fmean(values) - min(values) for _, values in seen],
            [max(values) - fmean(values) for _, values in seen],
        ],
        color=stroke.hue,
        ls=stroke.dashes,
        lw=1.8,
        marker="o",
        ms=4,
        elinewidth=0.8,
        capsize=2.5,
        label=label,
    )


def _guess(axes: Axes, config: ReconstructionConfig, results: Results) -> None:
    """What naming the most frequent tokens finds."""
    plain = [(case, result) for case, result in results.items() if case.defence == NONE]

    def guessed(batch: int) -> list[float]:
        return [result["guessed"] for case, result in plain if case.batch == batch]

    found = [(place, guessed(batch)) for place, batch in enumerate(config.batches)]
    points = [(place, fmean(values)) for place, values in found if values]
    if points:
        axes.plot(*zip(*points, strict=True), color=MUTED, ls=":", lw=1.4, label="a guess")
