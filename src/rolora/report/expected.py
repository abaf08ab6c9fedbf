"""What a run took, against what was expected of it."""

from __future__ import annotations

from collections.abc import Iterator

from rolora.records.schema import Summary
from rolora.records.units import duration, percent


def against_estimate(summary: Summary) -> Iterator[tuple[str, str]]:
    """The seconds of training a round and the process's peak memory: names and values, each with
    what was expected where something was.
    """
    expected, peak = summary.expected, summary.peak_memory_mb
    took = summary.seconds.get("train", 0.0) / max(1, summary.final.round)
    if expected:
        said = _against(duration(expected.seconds), took, expected.seconds)
        yield "training a round", f"{duration(took)} ({said})"
    if peak:
        memory = expected.memory if expected and summary.device == "cpu" else None
        mb = (memory or 0) / 2**20
        said = f" ({_against(f'{mb:,.0f} MB', peak, mb)})" if memory else ""
        yield "peak memory", f"{peak:,.0f} MB{said}"


def _against(shown: str, took: float, expected: float) -> str:
    off = (took - expected) / max(expected, 1e-9)
    return f"{shown} expected: {percent(abs(off))} {'more' if off > 0 else 'less'} than that"
