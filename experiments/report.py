"""What an experiment found, as tables, claims and figures: on a terminal and as files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments.claims import Claim, Standing
from rolora.records.atomic import write_atomic

COLOURS: dict[Standing, str] = {
    "holds": "green",
    "does not hold": "red",
    "not decided at this size": "yellow",
}
Figures = Mapping[str, tuple[Figure, str]]
"""Name -> figure and caption."""


@dataclass(frozen=True)
class Table:
    """A table of words: numbers are formatted by whoever knows their digits."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As a Markdown table under its title."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
        return f"### {self.title}\n\n{body}\n"

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for i, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table


@dataclass(frozen=True)
class Findings:
    """What a finished experiment has to tell.

    Args:
        title: of the report.
        summary: a paragraph or two of Markdown: what was run.
        tables: with the paper's figures beside ours.
        claims: as decided.
        figures: name -> figure and caption.
        results: JSON-able numbers for who wants to compute on; infinities and NaN become null.
        facts: JSON-able, told with the settings: what else the results depend on.
    """

    title: str
    summary: str
    tables: Sequence[Table]
    claims: Sequence[Claim]
    figures: Figures
    results: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def show(self, console: Console) -> None:
        """Print the tables and the claims."""
        for table in self.tables:
            console.print(table.rich(), "")
        for claim in self.claims:
            standing = Text(claim.standing, style=f"bold {COLOURS[claim.standing]}")
            console.print(standing, Text(f" {claim.text} ({claim.source})\n  {claim.evidence}"))


@dataclass(frozen=True)
class Made:
    """How a report was made: the command as typed, all settings, the versions of what ran."""

    command: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]


def write_report(out: Path, findings: Findings, made: Made) -> None:
    """Write report.md, report.json and each figure as PNG and SVG into `out`.

    Everything is made before the first file is written, and report.md comes last.

    Args:
        out: made where it is not there.
        findings: what to tell.
        made: how it came about.
    """
    pictures = {
        f"{name}.{kind}": _render(figure, kind)
        for name, (figure, _) in findings.figures.items()
        for kind in ("png", "svg")
    }
    record = {
        "title": findings.title,
        "command": made.command,
        "claims": [asdict(claim) for claim in findings.claims],
        "tables": [asdict(table) for table in findings.tables],
        "results": findings.results,
        "settings": made.settings,
        "versions": made.versions,
    }
    data = json.dumps(_finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = _page(findings, made)
    out.mkdir(parents=True, exist_ok=True)
    for file, picture in pictures.items():
        write_atomic(out / file, picture)
    write_atomic(out / "report.json", data)
    write_atomic(out / "report.md", page)


def _page(findings: Findings, made: Made) -> str:
    verdicts = Table(
        "Claims",
        ("claim", "source", "standing", "evidence"),
        tuple((c.text, c.source, f"**{c.standing}**", c.evidence) for c in findings.claims),
    )
    run = [f"{name} {number}" for name, number in made.versions.items()]
    run += [f"{key} = {value}" for key, value in made.settings.items()]
    parts = [
        f"# {findings.title}\n\n{findings.summary}\n\nMade by `{made.command}`.\n",
        verdicts.markdown(),
        *(table.markdown() for table in findings.tables),
        *(f"![{name}]({name}.svg)\n\n{text}\n" for name, (_, text) in findings.figures.items()),
        "### Settings and versions\n\n" + "\n".join(f"- {line}" for line in run) + "\n",
    ]
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _render(figure: Figure, kind: str) -> bytes:
    """The picture's file; the same bytes for the same figure."""
    target = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "rolora"}):
        # A date or a version would change the file without changing the picture.
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(target, format=kind, dpi=200, metadata=metadata)
    return target.getvalue()


def _finite(value: Any) -> Any:
    """`value` with None for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
