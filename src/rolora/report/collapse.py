"""Whether a final model is any better than a constant guess."""

from __future__ import annotations

from rolora.records.detail import COLLAPSED_SHARE
from rolora.records.files import RunFiles
from rolora.records.schema import Metric, Summary
from rolora.records.units import percent, show

MARGIN = 0.01
"""By which a model must be better than a constant guess: a point where the score is a share, else
this part of the guess's score, since a plain score has no unit of its own.
"""


def collapsed(run: RunFiles) -> str | None:
    """Why the final model is no better than a constant guess; None where it is, or not known."""
    if run.summary is None:
        return None
    return _one_prediction(run.summary) or _no_better(run.summary)


def _one_prediction(summary: Summary) -> str | None:
    shares, names = summary.prediction_shares, summary.predicted_names
    if not shares or max(shares) <= COLLAPSED_SHARE:
        return None
    most = shares.index(max(shares))
    name = names[most] if most < len(names) else str(most)
    return f"{percent(max(shares))} of the test predictions are one and the same ({name})"


def _no_better(summary: Summary) -> str | None:
    """By the first of the task's metrics that a constant guess has a score in."""
    for metric in summary.task.metrics:
        guess, score = summary.constant.get(metric.name), summary.final.test.get(metric.name)
        if guess is None or score is None:
            continue
        if _gain(score, guess, metric) > margin(guess, metric):
            return None
        return (
            f"test {metric.title} {show(score, metric)} is not more than one "
            f"{'point' if metric.share else 'per cent'} better than a constant guess's "
            f"{show(guess, metric)}"
        )
    return None


def _gain(score: float, guess: float, metric: Metric) -> float:
    return score - guess if metric.higher_is_better else guess - score


def margin(guess: float, metric: Metric) -> float:
    """By how much a score must be better than a constant guess's."""
    return MARGIN if metric.share else MARGIN * abs(guess)
