"""Numbers as a reader wants them: percentages, bytes, seconds and counts with their units."""

from __future__ import annotations

from typing import Any

import numpy as np

from rolora.records.schema import Metric

THIN = "\N{NARROW NO-BREAK SPACE}"
NONE = "\N{EN DASH}"
BYTE_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    return NONE if share is None else f"{100 * share:.{digits}f}{THIN}%"


def decimal(value: float | None, digits: int = 4) -> str:
    """A number with a fixed number of decimals."""
    return NONE if value is None else f"{value:,.{digits}f}"


def plain(value: float | None) -> str:
    """A number with four significant digits."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 9999.5 else f"{value:#.4g}".rstrip(".")


def show(score: float | None, metric: Metric, digits: int = 1) -> str:
    """A score as its metric is read: a share in per cent with `digits` decimals, or plain."""
    return percent(score, digits) if metric.share else plain(score)


def capital(words: str) -> str:
    """The words as they begin a sentence."""
    return words[:1].upper() + words[1:]


def thinned(items: Any, most: int) -> Any:
    """At most `most` of `items`, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return items
    return items[np.linspace(0, len(items) - 1, most).round().astype(int)]


def count(value: float | None) -> str:
    """A whole number with separators."""
    return NONE if value is None else f"{value:,.0f}"


def byte_unit(largest: float) -> tuple[str, int]:
    """The unit in which `largest` bytes read best, and its size in bytes."""
    return next((unit for unit in BYTE_UNITS if largest >= unit[1]), BYTE_UNITS[-1])


def byte_size(size: float | None) -> str:
    """Bytes with a binary unit and three significant digits."""
    if size is None:
        return NONE
    unit, divisor = byte_unit(size)
    value = size / divisor
    digits = 0 if divisor == 1 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{THIN}{unit}"


def duration(seconds: float | None) -> str:
    """Seconds as ``41.3 s``, ``2 min 05 s`` or ``3 h 20 min``."""
    if seconds is None:
        return NONE
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f}{THIN}ms"
    if seconds < 99.95:
        return f"{seconds:.1f}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}{THIN}min {rest:02d}{THIN}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{THIN}h {minutes:02d}{THIN}min"
