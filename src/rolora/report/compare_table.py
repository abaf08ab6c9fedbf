"""A comparison in words and numbers: the cells of its tables, and the one for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from math import floor, log10
from typing import Literal

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from rolora.records.schema import ComparedMethod, Comparison, Measured, Metric
from rolora.records.units import NONE, capital

MIB = 2**20
MINUS = "\N{MINUS SIGN}"
WIDE = "best validation"
"""The column that a terminal has no room for."""


def header(comparison: Comparison) -> tuple[str, ...]:
    """What :func:`rows` are under."""
    return (
        *("method", f"test {comparison.task.first.title}", "validation", WIDE),
        *("MiB up", "MiB down", "bytes, ratio", "seconds", "collapsed"),
    )


def rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """The cells of the table under :func:`header`, one row a method."""
    first = comparison.task.first
    baseline = _sent(comparison.methods[comparison.baseline])
    for method in comparison.methods.values():
        yield (
            method.title,
            spread(method.test.get(first.name), first),
            spread(method.validation.get(first.name), first),
            spread(method.best, first),
            _number(method.bytes_up.mean, MIB),
            _number(method.bytes_down.mean, MIB),
            f"{_sent(method) / baseline:.2f}" if baseline else NONE,
            NONE if method.seconds.mean is None else f"{method.seconds.mean:.1f}",
            _collapsed(method),
        )


def other_scores(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """A header and a row a method: the test scores beside the first; nothing where it is alone."""
    task = comparison.task
    known = task.known(*(method.test for method in comparison.methods.values()))
    others = [metric for metric in known if metric != task.first]
    if not others:
        return
    yield ("method", *(f"{metric.title}{_unit(metric)}" for metric in others))
    for method in comparison.methods.values():
        yield (method.title, *(spread(method.test.get(m.name), m) for m in others))


def over_bytes(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """A header and a row a method: the score over what was sent; nothing where it is not known."""
    metric = comparison.task.first
    if not any(method.over_bytes.n for method in comparison.methods.values()):
        return
    target = NONE if comparison.target is None else _value(comparison.target, metric)
    unit = " %" if metric.share else ""
    yield (
        *("method", f"mean validation {metric.title} over the bytes that all sent"),
        *(f"MiB until {target}{unit}", "seeds that got there"),
    )
    for method in comparison.methods.values():
        reached = method.bytes_to_target
        yield (
            method.title,
            spread(method.over_bytes, metric),
            _number(reached.mean, MIB),
            f"{reached.n} of {len(method.seeds)}",
        )


def terminal_table(comparison: Comparison) -> Table:
    """The comparison in 80 columns."""
    names = header(comparison)
    table = Table(title=title(comparison), caption=note(comparison), box=box.SIMPLE_HEAD)
    table.title_justify = table.caption_justify = "left"
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    for name in names:
        if name != WIDE:
            words = name in ("method", "collapsed")
            justify: Literal["left", "right"] = "left" if words else "right"
            table.add_column(
                name.replace(" ", "\n"), justify=justify, no_wrap=not words, overflow="fold"
            )
    for row in rows(comparison):
        shown = [cell for name, cell in zip(names, row, strict=True) if name != WIDE]
        table.add_row(*map(Text, shown))
    return table


def title(comparison: Comparison) -> str:
    """What was compared, on what."""
    return f"{comparison.model} on {comparison.data}, {comparison.clients:,} clients, " + (
        f"{comparison.rounds:,} rounds"
    )


def note(comparison: Comparison) -> str:
    """How to read the table."""
    seeds, metric = comparison.seeds, comparison.task.first
    what = f"{capital(metric.title)}{_unit(metric)}"
    if not metric.share:
        what += f" ({'higher' if metric.higher_is_better else 'lower'} is better)"
    guess = _guess(comparison)
    if len(seeds) == 1:
        return f"{what}, seed {seeds[0]} only: no spread is known.{guess}"
    return (
        f"{what}: mean ± standard deviation over seeds {', '.join(map(str, seeds))}.{guess} "
        "Bytes are sums over clients and rounds, as a ratio to "
        f"{comparison.methods[comparison.baseline].title}'s."
    )


def _guess(comparison: Comparison) -> str:
    metric = comparison.task.first
    found = [scores.get(metric.name) for scores in comparison.constant.values()]
    guesses = [guess for guess in found if guess is not None]
    return f" A constant guess gets {_value(float(np.mean(guesses)), metric)}." if guesses else ""


def spread(measured: Measured | None, metric: Metric) -> str:
    """Mean and standard deviation; of a share in per cent, without the sign."""
    if measured is None or measured.mean is None:
        return NONE
    unit = 100 if metric.share else 1
    mean, std = unit * measured.mean, measured.std
    form = ".1f" if metric.share else _form(mean)
    return f"{mean:{form}}" if std is None else f"{mean:{form}} ± {unit * std:{form}}"


def _form(value: float) -> str:
    """A format with three significant digits of `value`, for it and for its spread."""
    size = floor(log10(abs(value))) if value else 0
    return f",.{max(0, 2 - size)}f" if size > -4 else ".2e"


def difference(value: float, metric: Metric) -> str:
    """A difference with its sign; of shares in percentage points."""
    text = f"{100 * value:+.1f}" if metric.share else f"{value:+.3g}"
    return text.replace("-", MINUS)


def _value(value: float, metric: Metric) -> str:
    return f"{100 * value:.1f}" if metric.share else f"{value:{_form(value)}}"


def _unit(metric: Metric) -> str:
    return " in per cent" if metric.share else ""


def _sent(method: ComparedMethod) -> float:
    return (method.bytes_up.mean or 0.0) + (method.bytes_down.mean or 0.0)


def _number(value: float | None, unit: int) -> str:
    if value is None:
        return NONE
    scaled = value / unit
    return f"{scaled:,.0f}" if scaled >= 1000 else f"{scaled:.3g}"


def _collapsed(method: ComparedMethod) -> str:
    seeds = list(method.collapsed)
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if seeds else "none"
