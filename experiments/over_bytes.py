"""Accuracy over the bytes that clients sent up: how soon a run got where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from experiments.claims import percent
from experiments.short_runs import TrialResult
from rolora.records.units import byte_size
from rolora.report.statistics import Curve

Finals = Sequence[TrialResult]
"""A line's judged runs, one a seed."""
COLUMNS = (
    "validation, mean over the bytes that all sent up",
    "sent up until RoLoRA's last validation, seeds that got there",
)


def curve(end: TrialResult) -> Curve:
    """Validation accuracy over the bytes sent up by all clients. Where the run diverged it scores
    chance from then on, however much the others sent.
    """
    return Curve(end["bytes_up_by_round"], end["accuracy"])


def cells(lines: Sequence[Finals], rolora: Finals | None) -> list[tuple[str, str]]:
    """What stands under :data:`COLUMNS`, by line: runs of one seed are compared over the bytes that
    all that did not diverge have sent.
    """
    by_seed = [_means(ends) for ends in zip(*lines, strict=True)]
    means = zip(*by_seed, strict=True)
    target = None if rolora is None else fmean(end["accuracy"][-1] for end in rolora)
    return [
        ("-" if None in mean else percent([m for m in mean if m is not None]), _until(line, target))
        for line, mean in zip(lines, means, strict=True)
    ]


def _means(ends: Sequence[TrialResult]) -> list[float | None]:
    whole = [curve(end) for end in ends if not end["diverged"]]
    low = max((one.sent[0] for one in whole), default=0.0)
    high = min((one.sent[-1] for one in whole), default=0.0)
    return [curve(end).mean_between(low, high) if low < high else None for end in ends]


def _until(line: Finals, target: float | None) -> str:
    """The bytes sent up when a run reached the target, in the mean of those that did, and how many
    did.
    """
    if target is None:
        return "-"
    reached = [at for end in line if (at := curve(end).first_at(target)) is not None]
    mean = byte_size(fmean(reached)) if reached else "-"
    return f"{mean}, {len(reached)} of {len(line)}"
