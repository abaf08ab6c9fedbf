"""What the experiments share: claims decided by numbers, finished cells kept, whole reports."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from rolora.records.atomic import write_atomic
from rolora.report.statistics import PairedDifference, describe, paired_difference

Standing = Literal["holds", "does not hold", "not decided at this size"]
COLOURS: dict[Standing, str] = {
    "holds": "green",
    "does not hold": "red",
    "not decided at this size": "yellow",
}
SIGNIFICANCE = 0.05
ENOUGH_TRIALS = 59  # 0.95^59 < 0.05


@dataclass(frozen=True)
class Claim:
    """A statement, who made it (``Table 1``, ``derived here``), and what this run found."""

    text: str
    source: str
    standing: Standing
    evidence: str


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
class ReproduceResult:
    """A finished experiment; its report lies in `out`."""

    name: str
    out: Path
    tables: tuple[Table, ...]
    claims: tuple[Claim, ...]

    def show(self, console: Console) -> None:
        """Print the tables, the claims and where the report is."""
        for table in self.tables:
            console.print(table.rich(), "")
        for claim in self.claims:
            standing = Text(claim.standing, style=f"bold {COLOURS[claim.standing]}")
            console.print(standing, Text(f" {claim.text} ({claim.source})\n  {claim.evidence}"))
        console.print(Text(f"\nreport: {self.out / 'report.md'}"))


Run = Callable[[Sequence[str], Path | None, Console], ReproduceResult]
"""``run(overrides, out, console)``: ``key.path=value`` overrides, where to write (None:
``runs/reproduce/NAME``), where to say how it goes. Raises BadInput where an override is wrong.
"""


@dataclass(frozen=True)
class Experiment:
    """An experiment of the paper and what it needs."""

    name: str
    title: str
    data: str
    weights: str
    minutes: str
    gpu: str
    run: Run


def every(passed: int, trials: int) -> Standing:
    """The standing of "it is so in every case": one exception refutes it, a few cases prove little.

    "Holds" needs so many trials that fewer than 5 % of all cases are exceptions, at 95 %.
    """
    if passed < trials:
        return "does not hold"
    return "holds" if trials >= ENOUGH_TRIALS else "not decided at this size"


def all_hold(*standings: Standing) -> Standing:
    """The standing of several statements together: the worst of theirs."""
    for worst in ("does not hold", "not decided at this size"):
        if worst in standings:
            return worst
    return "holds"


def greater(ours: Sequence[float], theirs: Sequence[float]) -> tuple[Standing, str]:
    """The standing of "ours is greater than theirs", pair by pair, and its evidence in words.

    Decided by a two-sided paired t-test at 5 %; without a spread to test against (one pair, or
    all differences equal) it is not decided.

    Raises:
        ValueError: the two differ in length, are empty, or hold a number that is not finite.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if not differences or not all(map(isfinite, differences)):
        raise ValueError(f"a paired test needs finite pairs, got {differences}")
    test = paired_difference(differences)
    standing: Standing = "not decided at this size"
    if test.p_value is not None and test.p_value < SIGNIFICANCE:
        standing = "holds" if test.mean > 0 else "does not hold"
    return standing, f"{mean_std(ours)} against {mean_std(theirs)}; {in_words(test)}"


def not_below(
    ours: Sequence[float], theirs: Sequence[float], margin: float
) -> tuple[Standing, str]:
    """The standing of "ours is not more than `margin` below theirs", and the plain comparison."""
    standing, _ = greater([value + margin for value in ours], theirs)
    return standing, greater(ours, theirs)[1]


def in_words(test: PairedDifference) -> str:
    """A paired test as a sentence's end: difference, interval, p-value, pairs."""
    if test.low is None or test.high is None or test.p_value is None:
        return f"difference {test.mean:+.3g}, no test possible (n = {test.n})"
    p = "p < 1e-12" if test.p_value < 1e-12 else f"p = {test.p_value:.2g}"
    return (
        f"paired difference {test.mean:+.3g} ± {test.std:.2g}, 95 % interval "
        f"{test.low:+.3g} to {test.high:+.3g}, {p}, n = {test.n}"
    )


def mean_std(values: Sequence[float], digits: int = 3) -> str:
    """``0.812 ± 0.010``, in `digits` significant digits of the mean; no spread for one value."""
    numbers = describe(values)
    spread = "" if numbers.std is None else f" ± {numbers.std:.2g}"
    return f"{numbers.mean:.{digits}g}{spread}"


class Cells:
    """Finished parts of an experiment, one JSON file each: a cell that is there is not run again.

    Args:
        directory: made where it is not there.
        say: told in words of cells reused and of damaged files.
    """

    def __init__(self, directory: Path, say: Callable[[str], None] = lambda _: None):
        self.directory, self.say = directory, say
        directory.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, settings: Mapping[str, Any], function: Callable[[], Any]) -> Any:
        """The result of `function`, from its file where that is whole and of these settings.

        Args:
            name: for people; the file's name with a hash of name and settings.
            settings: JSON-able; everything that the result depends on.
            function: returns something JSON-able; floats come back bit for bit.
        """
        path = self.path(name, settings)
        try:
            result = _read_cell(path)
        except FileNotFoundError:
            pass
        except ValueError as error:
            self.say(f"cell {path.name}: {error}; it is run again")
        else:
            self.say(f"cell {name}: finished before")
            return result
        result = function()
        body = {"name": name, "settings": settings, "result": result}
        write_atomic(path, json.dumps({**body, "sha256": _digest(body)}, indent=1) + "\n")
        return _read_cell(path)

    def finished(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether the cell is there and whole; a damaged one is told of."""
        path = self.path(name, settings)
        try:
            _read_cell(path)
        except FileNotFoundError:
            return False
        except ValueError as error:
            self.say(f"cell {path.name}: {error}; it is run again")
            return False
        return True

    def path(self, name: str, settings: Mapping[str, Any]) -> Path:
        """Where the cell lies."""
        key = _digest({"name": name, "settings": settings})[:12]
        return self.directory / f"{re.sub(r'[^A-Za-z0-9.=+-]+', '_', name)}-{key}.json"


def _read_cell(path: Path) -> Any:
    """The result in a cell file; ValueError with what is wrong with it."""
    text = path.read_bytes()
    try:
        cell = json.loads(text)
        body = {key: cell[key] for key in ("name", "settings", "result")}
        whole = cell["sha256"] == _digest(body)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("damaged (not a whole cell file)") from None
    if not whole:
        raise ValueError("damaged (its checksum does not match)")
    return cell["result"]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def output_directory(name: str, out: Path | None) -> Path:
    """Where an experiment writes: `out`, or a directory of its own under ``runs``."""
    return Path("runs") / "reproduce" / name if out is None else out


def command_line(name: str, overrides: Sequence[str], out: Path | None) -> str:
    """The command that runs an experiment so, as a shell takes it."""
    target = [] if out is None else ["--out", out.as_posix()]
    return shlex.join(["python", "-m", "experiments", name, *overrides, *target])


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python, rolora and `packages`."""
    named = {package: version(package) for package in ("rolora", *packages)}
    return {"python": platform.python_version(), **named}


def write_experiment_report(
    out: Path,
    *,
    title: str,
    command: str,
    summary: str,
    tables: Sequence[Table],
    claims: Sequence[Claim],
    figures: Mapping[str, tuple[Figure, str]],
    results: Mapping[str, Any],
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
) -> None:
    """Write report.md, report.json and each figure as PNG and SVG into `out`.

    Everything is made before the first file is written, and report.md comes last.

    Args:
        out: made where it is not there.
        title: of the report.
        command: that made it, as typed.
        summary: a paragraph of Markdown: what was run.
        tables: with the paper's figures beside ours.
        claims: as decided.
        figures: name -> figure and caption.
        results: JSON-able numbers for who wants to compute on; infinities and NaN become null.
        settings: JSON-able, all of them.
        versions: of what ran.
    """
    pictures = {
        f"{name}.{kind}": _render(figure, kind)
        for name, (figure, _) in figures.items()
        for kind in ("png", "svg")
    }
    record = {
        "title": title,
        "command": command,
        "claims": [asdict(claim) for claim in claims],
        "tables": [asdict(table) for table in tables],
        "results": results,
        "settings": settings,
        "versions": versions,
    }
    captions = {name: caption for name, (_, caption) in figures.items()}
    data = json.dumps(_finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = _page(title, command, summary, tables, claims, captions, settings, versions)
    out.mkdir(parents=True, exist_ok=True)
    for file, picture in pictures.items():
        write_atomic(out / file, picture)
    write_atomic(out / "report.json", data)
    write_atomic(out / "report.md", page)


def _page(
    title: str,
    command: str,
    summary: str,
    tables: Sequence[Table],
    claims: Sequence[Claim],
    captions: Mapping[str, str],
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    verdicts = Table(
        "Claims",
        ("claim", "source", "standing", "evidence"),
        tuple((c.text, c.source, f"**{c.standing}**", c.evidence) for c in claims),
    )
    pictures = [f"![{name}]({name}.svg)\n\n{text}\n" for name, text in captions.items()]
    run = [f"{name} {number}" for name, number in versions.items()]
    run += [f"{key} = {value}" for key, value in settings.items()]
    parts = [
        f"# {title}\n\n{summary}\n\nMade by `{command}`.\n",
        verdicts.markdown(),
        *(table.markdown() for table in tables),
        *pictures,
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
