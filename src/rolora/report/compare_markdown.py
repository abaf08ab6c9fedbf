"""A comparison as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rolora.records.schema import Comparison, DifferenceRecord, Metric
from rolora.records.units import NONE, duration
from rolora.report.compare_table import (
    difference,
    header,
    note,
    other_scores,
    over_bytes,
    rows,
    title,
)
from rolora.report.statistics import FEWEST_SEEDS

DIFFERENCES = ("method", "mean difference", "95 % interval", "p", "p, Holm", "by seed")


OVER_BYTES = (
    "Bytes are all clients', both ways. The mean is the area under the score over its width, seed "
    "by seed over the bytes that every method covers; bytes are those at the first look at which "
    "the score was reached, in the mean of the seeds that got there."
)


def markdown(comparison: Comparison) -> str:
    """The tables, the picture, the differences with their tests, and what collapsed."""
    first = comparison.task.first
    picture = _escaped(f"Validation {first.title} by method")
    parts = [f"# {_escaped(title(comparison))}", grid(header(comparison), rows(comparison))]
    parts += [_escaped(note(comparison)), f"![{picture}](comparison.png)"]
    parts += _differences(comparison)
    sent = list(over_bytes(comparison))
    if sent:
        parts += ["## Over bytes", grid(sent[0], sent[1:]), OVER_BYTES]
    others = list(other_scores(comparison))
    if others:
        parts += ["## Other test scores", grid(others[0], others[1:])]
    collapsed = list(_collapsed(comparison))
    if collapsed:
        parts += ["## Collapsed runs", "\n".join(collapsed)]
    times = ", ".join(
        f"{_escaped(method.title)} {duration(method.seconds.mean)}"
        for method in comparison.methods.values()
    )
    parts.append(f"Time of a run, mean: {times}.")
    return "\n\n".join(parts) + "\n"


def _differences(comparison: Comparison) -> list[str]:
    """Of the first metric on the test examples."""
    metric = comparison.task.first
    found = [
        _difference(comparison, d, metric)
        for d in comparison.differences
        if (d.split, d.metric) == ("test", metric.name) and d.by_seed
    ]
    if not found:
        return []
    baseline = _escaped(comparison.methods[comparison.baseline].title)
    unit = "In percentage points." if metric.share else ""
    if not metric.higher_is_better:
        unit = f"{unit} Less than zero is better than {baseline}.".strip()
    text = (
        f"{unit} Runs of one seed share the split, the cohorts and the initial "
        "factors, so differences are paired. Interval and p-value are those of Student's "
        "paired t-test, two-sided; the second p-value is corrected by Holm's method for the number "
        "of methods in this table. Runs that collapsed count like others. "
        f"{_few(comparison)}No seed stands for another data set."
    )
    heading = f"## Test {_escaped(metric.title)} less that of {baseline}, seed by seed"
    return [heading, grid(DIFFERENCES, found), text.strip()]


def _few(comparison: Comparison) -> str:
    count = len(comparison.seeds)
    if count >= FEWEST_SEEDS:
        return ""
    return f"With {count} seeds, fewer than {FEWEST_SEEDS}, nothing is decided. "


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _difference(comparison: Comparison, d: DifferenceRecord, metric: Metric) -> tuple[str, ...]:
    """The cells under `DIFFERENCES`."""
    interval = NONE
    if d.low is not None and d.high is not None:
        interval = f"{difference(d.low, metric)} to {difference(d.high, metric)}"
    return (
        comparison.methods[d.method].title,
        NONE if d.mean is None else difference(d.mean, metric),
        interval,
        _p(d.p_value),
        _p(d.p_holm),
        ", ".join(difference(value, metric) for value in d.by_seed.values()),
    )


def _collapsed(comparison: Comparison) -> Iterator[str]:
    for method in comparison.methods.values():
        for seed, reason in method.collapsed.items():
            yield f"- {_escaped(f'{method.title}, seed {seed}: {reason}')}."


def grid(names: Sequence[str], cells: Iterator[tuple[str, ...]] | Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [names, ["---"] + ["---:"] * (len(names) - 1), *cells]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Text in which nothing reads as Markdown's table, image or HTML."""
    text = " ".join(text.split())
    for sign in "\\|<[*`":
        text = text.replace(sign, "\\" + sign)
    return text
