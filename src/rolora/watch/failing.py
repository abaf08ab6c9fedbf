"""Which clients fail, how often and why: of a federation, its sites."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from rolora.records.files import RunFiles
from rolora.records.schema import FailureRecord
from rolora.records.units import count
from rolora.report.run_tables import MOST_ROWS, Table
from rolora.watch.looks import Look


def failing(looks: Sequence[Look]) -> Table | None:
    """A row a run and client that failed, those that failed most first; None where none did."""
    reasons: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    last: dict[tuple[str, int], str] = {}
    for look in looks:
        for when, failure in _failures(look.files) if look.files else ():
            reasons[look.name, failure.client][failure.reason] += 1
            last[look.name, failure.client] = when
    if not reasons:
        return None
    most = sorted(reasons.items(), key=lambda item: (-item[1].total(), item[0]))
    several = len(looks) > 1
    rows = tuple(
        (
            *((name,) if several else ()),
            *(str(client), _counted(found), last[name, client], count(found.total())),
        )
        for (name, client), found in most[:MOST_ROWS]
    )
    header = ("run", "client", "reasons", "last in round", "failures")[not several :]
    note = f"The first {MOST_ROWS} of {count(len(most))} clients." if most[MOST_ROWS:] else ""
    return Table(header, rows, text_columns=len(header) - 1, note=note)


def _failures(run: RunFiles) -> Iterator[tuple[str, FailureRecord]]:
    """Every failed update and evaluation, and in which round."""
    for record in run.rounds:
        for failure in (*record.failures, *record.eval_failures):
            yield str(record.round), failure
    if run.summary:
        for failure in run.summary.test_failures:
            yield "test", failure


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{reason} {count(number)}" for reason, number in found.most_common())
