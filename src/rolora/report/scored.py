"""What a harness found and what the models say: a table, and answers side by side."""

from __future__ import annotations

from rolora.records import units
from rolora.records.files import RunFiles
from rolora.records.scores import HarnessScore
from rolora.records.units import count, percent
from rolora.report.run_tables import Table

HEADER = ("task", "metric", "asked", "questions", "base", "adapter", "difference", "95 % interval")


def harness(run: RunFiles) -> Table | None:
    """Scores of the tasks and groups that stand by themselves, base and adapter side by side."""
    scores = [score for score in _all(run) if score.within is None]
    if not scores:
        return None
    by = ", ".join(dict.fromkeys(score.harness for score in scores))
    note = (
        f"By {by}, both models on the same questions. The interval is of the difference, from its "
        "spread over questions; a dash: the metric is no mean over them."
    )
    if any(score.limit for score in scores):
        note += " Where not all questions were asked, it was the first of each task."
    ways = dict.fromkeys(score.code for score in scores if score.code)
    if ways:
        note += f" Generated code ran {' and '.join(ways)}."
    return Table(HEADER, tuple(map(row, scores)), text_columns=3, note=note)


def inside(run: RunFiles) -> Table | None:
    """The same of what is within a group."""
    rows = tuple(row(score) for score in _all(run) if score.within is not None)
    return Table(HEADER, rows, text_columns=3) if rows else None


def _all(run: RunFiles) -> tuple[HarnessScore, ...]:
    return run.scores.scores if run.scores else ()


def row(score: HarnessScore) -> tuple[str, ...]:
    """A score in the words of :data:`HEADER`."""
    low_high = score.interval
    interval = units.NONE
    if low_high is not None:
        interval = f"{_shown(score, low_high[0], True)} to {_shown(score, low_high[1], True)}"
    return (
        score.task if score.client is None else f"{score.task} (client {score.client}'s)",
        score.metric if score.filter == "none" else f"{score.metric} ({score.filter})",
        ", ".join(_asked(score)),
        count(score.questions),
        _estimate(score, score.base, score.base_stderr),
        _estimate(score, score.adapter, score.adapter_stderr),
        _shown(score, score.difference, True),
        interval,
    )


def _asked(score: HarnessScore) -> list[str]:
    words = [] if score.fewshot is None else [f"{score.fewshot} shots"]
    words += ["chat template"] if score.chat_template else []
    words += [f"first {score.limit} a task"] if score.limit else []
    return words


def _estimate(score: HarnessScore, value: float | None, stderr: float | None) -> str:
    shown = _shown(score, value)
    return shown if stderr is None else f"{shown} ± {_shown(score, stderr)}"


def _shown(score: HarnessScore, value: float | None, signed: bool = False) -> str:
    if value is None:
        return units.NONE
    sign = "+" if signed and value > 0 else ""
    return sign + (percent(value) if score.share else f"{value:.4g}")
