"""Methods side by side: statistics over seeds, paired differences, a table and a picture.

The runs of one seed share partition and data, so methods are compared pair by pair: what one
split of the clients does to all of them drops out of the difference.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from rich import box
from rich.table import Table
from rich.text import Text

from rolora.core.errors import BadInput, RoloraError
from rolora.records.atomic import write_atomic
from rolora.records.files import RunFiles, read_run
from rolora.report.statistics import describe, paired_difference
from rolora.report.units import duration

MEASURES = (
    "test_accuracy",
    "final_eval_accuracy",
    "best_eval_accuracy",
    "bytes_up",
    "bytes_down",
    "seconds",
)
MIB = 2**20
NONE = "\N{EN DASH}"
HEADER = (
    *("method", "test accuracy", "validation", "best validation", "MiB up", "MiB down"),
    *("bytes, ratio", "seconds", "collapsed"),
)
NARROW = tuple(name for name in HEADER if name != "best validation")
DIFFERENCES_HEADER = ("method", "mean difference", "95 % interval", "p", "by seed")

# Okabe and Ito's palette, in an order in which neighbours differ in lightness too.
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5b646d"),
    *("#8c510a", "#1b2025"),
)
DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class ComparedRun:
    """A finished run of `method` under `seed`, and where it lies."""

    method: str
    seed: int
    directory: Path


Cells = dict[str, dict[int, RunFiles]]


def write_comparison(directory: Path, runs: Sequence[ComparedRun]) -> None:
    """Write ``comparison.json``, ``comparison.md`` and ``comparison.png`` into `directory`.

    The first run's method is the one that the others are compared with.

    Raises:
        BadInput: no runs, a cell given twice, or a run that is unfinished or damaged.
        RoloraError: the runs of a seed differ in their data or in the split across clients.
    """
    cells = _read(runs)
    _same_split(cells)
    comparison = _comparison(cells)
    write_atomic(directory / "comparison.png", _picture(cells))
    write_atomic(directory / "comparison.md", _markdown(comparison))
    text = json.dumps(comparison, indent=2, allow_nan=False)
    write_atomic(directory / "comparison.json", text + "\n")


def comparison_table(directory: Path) -> Table:
    """The table in ``comparison.json``, for a terminal.

    Raises:
        BadInput: there is no comparison, or its file is damaged.
    """
    path = Path(directory) / "comparison.json"
    try:
        comparison = json.loads(path.read_text(encoding="utf-8"))
        table = Table(title=_title(comparison), caption=_note(comparison), box=box.SIMPLE_HEAD)
        table.title_justify = table.caption_justify = "left"
        table.padding, table.pad_edge = (0, 1, 0, 0), False
        for name in NARROW:
            words = name in ("method", "collapsed")
            justify: Literal["left", "right"] = "left" if words else "right"
            table.add_column(name.replace(" ", "\n"), justify=justify, no_wrap=not words)
        for row in _rows(comparison):
            by_name = dict(zip(HEADER, row, strict=True))
            table.add_row(*(Text(by_name[name]) for name in NARROW))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: not a comparison ({type(error).__name__}: {error})") from None
    return table


def _read(runs: Sequence[ComparedRun]) -> Cells:
    cells: Cells = {}
    for run in runs:
        files = read_run(run.directory)
        if not files.finished:
            raise BadInput(f"run {run.directory}: is unfinished; only finished runs compare")
        if run.seed in cells.setdefault(run.method, {}):
            raise BadInput(f"runs: {run.method} with seed {run.seed} is given twice")
        cells[run.method][run.seed] = files
    if not cells:
        raise BadInput("runs: none given; a comparison needs at least one")
    return cells


def _same_split(cells: Cells) -> None:
    first: dict[int, RunFiles] = {}
    for by_seed in cells.values():
        for seed, run in by_seed.items():
            other = first.setdefault(seed, run)
            a, b = other.summary, run.summary
            for what, same in (
                ("data", a.data.fingerprint == b.data.fingerprint),
                ("split of the labels across clients", a.label_table == b.label_table),
            ):
                if not same:
                    raise RoloraError(
                        f"seed {seed}: {run.directory} and {other.directory} differ in their "
                        f"{what}; methods compare only on the same"
                    )


def _comparison(cells: Cells) -> dict[str, Any]:
    """All that ``comparison.json`` holds."""
    baseline = next(iter(cells))
    first = next(iter(cells[baseline].values()))
    return {
        "data": first.data,
        "model": first.model,
        "clients": first.config.federation.clients,
        "rounds": first.config.rounds,
        "baseline": baseline,
        "seeds": sorted({seed for by_seed in cells.values() for seed in by_seed}),
        "majority_accuracy": {
            str(seed): run.summary.majority_accuracy for seed, run in cells[baseline].items()
        },
        "methods": {method: _described(by_seed) for method, by_seed in cells.items()},
        "differences": [
            _difference(cells, method, baseline, measure)
            for method in cells
            if method != baseline
            for measure in ("test_accuracy", "final_eval_accuracy")
        ],
    }


def _described(by_seed: dict[int, RunFiles]) -> dict[str, Any]:
    first = next(iter(by_seed.values()))
    measured = {seed: _measured(run) for seed, run in by_seed.items()}
    described: dict[str, Any] = {"title": first.method, "seeds": sorted(by_seed)}
    for measure in MEASURES:
        values = {seed: m[measure] for seed, m in measured.items() if m[measure] is not None}
        described[measure] = {
            "values": {str(seed): value for seed, value in sorted(values.items())},
            **asdict(describe([value for value in values.values() if value is not None])),
        }
    described["collapsed"] = {
        str(seed): run.collapsed for seed, run in sorted(by_seed.items()) if run.collapsed
    }
    described["failures"] = {
        str(seed): sum(len(r.failures) for r in run.rounds) for seed, run in sorted(by_seed.items())
    }
    return described


def _measured(run: RunFiles) -> dict[str, float | None]:
    final, best = run.summary.final, run.summary.best
    values = (
        *(final.test_accuracy, final.eval_accuracy, best.eval_accuracy if best else None),
        *(run.bytes_up, run.bytes_down, run.total_seconds),
    )
    return dict(zip(MEASURES, values, strict=True))


def _difference(cells: Cells, method: str, baseline: str, measure: str) -> dict[str, Any]:
    """`method` minus `baseline`, seed by seed, where both have a value."""
    ours = {seed: _measured(run)[measure] for seed, run in cells[method].items()}
    theirs = {seed: _measured(run)[measure] for seed, run in cells[baseline].items()}
    by_seed = {
        str(seed): value - other
        for seed, value in sorted(ours.items())
        if value is not None and (other := theirs.get(seed)) is not None
    }
    paired = asdict(paired_difference(list(by_seed.values()))) if by_seed else {}
    return {"method": method, "baseline": baseline, "measure": measure, "by_seed": by_seed} | paired


def _rows(comparison: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells of the table under `HEADER`, one row a method."""
    baseline = _sent(comparison["methods"][comparison["baseline"]])
    for method in comparison["methods"].values():
        yield (
            method["title"],
            *(_accuracy(method[measure]) for measure in MEASURES[:3]),
            _number(method["bytes_up"]["mean"], MIB),
            _number(method["bytes_down"]["mean"], MIB),
            f"{_sent(method) / baseline:.2f}" if baseline else NONE,
            f"{method['seconds']['mean']:.1f}",
            _collapsed(method),
        )


def _sent(method: dict[str, Any]) -> float:
    return float(method["bytes_up"]["mean"] + method["bytes_down"]["mean"])


def _accuracy(measured: dict[str, Any]) -> str:
    """Mean and standard deviation in per cent."""
    if measured["mean"] is None:
        return NONE
    mean = f"{100 * measured['mean']:.1f}"
    return mean if measured["std"] is None else f"{mean} ± {100 * measured['std']:.1f}"


def _number(value: float, unit: int) -> str:
    scaled = value / unit
    return f"{scaled:,.0f}" if scaled >= 1000 else f"{scaled:.3g}"


def _collapsed(method: dict[str, Any]) -> str:
    seeds = list(method["collapsed"])
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if seeds else "none"


def _difference_rows(comparison: dict[str, Any], measure: str) -> Iterator[tuple[str, ...]]:
    """The cells under `DIFFERENCES_HEADER`, in percentage points."""
    for difference in comparison["differences"]:
        if difference["measure"] != measure or not difference["by_seed"]:
            continue
        low, high, p_value = difference["low"], difference["high"], difference["p_value"]
        yield (
            comparison["methods"][difference["method"]]["title"],
            _points(difference["mean"]),
            NONE if low is None else f"{_points(low)} to {_points(high)}",
            NONE if p_value is None else f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001",
            ", ".join(map(_points, difference["by_seed"].values())),
        )


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def _title(comparison: dict[str, Any]) -> str:
    return f"{comparison['model']} on {comparison['data']}, {comparison['clients']:,} clients, " + (
        f"{comparison['rounds']:,} rounds"
    )


def _note(comparison: dict[str, Any]) -> str:
    seeds = comparison["seeds"]
    guesses = [value for value in comparison["majority_accuracy"].values() if value is not None]
    guess = (
        f" Guessing the most frequent label gets {100 * np.mean(guesses):.1f}." if guesses else ""
    )
    if len(seeds) == 1:
        return f"Accuracies in per cent, seed {seeds[0]} only: no spread is known.{guess}"
    return (
        f"Accuracies in per cent: mean ± standard deviation over seeds "
        f"{', '.join(map(str, seeds))}.{guess} Bytes are sums over clients and rounds, as a ratio "
        f"to {comparison['methods'][comparison['baseline']]['title']}'s."
    )


def _markdown(comparison: dict[str, Any]) -> str:
    title = comparison["methods"][comparison["baseline"]]["title"]
    parts = [f"# {_escaped(_title(comparison))}", _grid(HEADER, _rows(comparison))]
    parts += [_escaped(_note(comparison)), "![Validation accuracy by method](comparison.png)"]
    rows = list(_difference_rows(comparison, "test_accuracy"))
    if rows:
        parts += [
            f"## Test accuracy less that of {_escaped(title)}, seed by seed",
            _grid(DIFFERENCES_HEADER, rows),
            "In percentage points. Runs of one seed share the split, the cohorts and the initial "
            "factors, so differences are paired. Interval and p-value are those of Student's "
            "paired t-test, two-sided, without correction for comparing several methods; with few "
            "seeds they are wide, and no seed stands for another data set.",
        ]
    collapsed = list(_collapsed_lines(comparison))
    if collapsed:
        parts += ["## Collapsed runs", "\n".join(collapsed)]
    times = ", ".join(
        f"{_escaped(method['title'])} {duration(method['seconds']['mean'])}"
        for method in comparison["methods"].values()
    )
    parts.append(f"Time of a run, mean: {times}.")
    return "\n\n".join(parts) + "\n"


def _collapsed_lines(comparison: dict[str, Any]) -> Iterator[str]:
    for method in comparison["methods"].values():
        for seed, reason in method["collapsed"].items():
            yield _escaped(f"- {method['title']}, seed {seed}: {reason}.")


def _grid(
    header: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]
) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Text in which nothing reads as Markdown's table, image or HTML."""
    text = " ".join(text.split())
    for sign in "\\|<[*`":
        text = text.replace(sign, "\\" + sign)
    return text


def _picture(cells: Cells) -> bytes:
    """Validation accuracy over rounds and over MiB sent, as PNG."""
    style = {
        "font.family": "sans-serif",
        "font.size": 10,
        "text.usetex": False,
        "text.parse_math": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#5b646d",
        "xtick.color": "#5b646d",
        "ytick.color": "#5b646d",
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": "#e2e5e8",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(11, 4.2), dpi=150, layout="constrained")
        over_rounds, over_bytes = figure.subplots(1, 2, sharey=True)
        curves = [_Curve.of(by_seed) for by_seed in cells.values()]
        for axes, name, label in (
            (over_rounds, "rounds", "round"),
            (over_bytes, "mib", "MiB sent, up and down"),
        ):
            for number, curve in enumerate(curves):
                _draw(axes, getattr(curve, name), curve, number)
            _guess(axes, cells)
            axes.set_xlabel(label)
            axes.set_xlim(left=0)
        over_rounds.xaxis.set_major_locator(MaxNLocator(integer=True))
        over_rounds.set_ylabel("validation accuracy")
        over_rounds.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{100 * at:g} %"))
        _legend(figure, over_bytes, curves)
        out = io.BytesIO()
        figure.savefig(out, format="png", facecolor="white", metadata={"Software": None})
    return out.getvalue()


@dataclass(frozen=True)
class _Curve:
    """One method's accuracies ``[seeds, points]``, and where they were measured ``[points]``."""

    title: str
    rounds: np.ndarray
    mib: np.ndarray
    accuracy: np.ndarray

    @staticmethod
    def of(by_seed: dict[int, RunFiles]) -> _Curve:
        """At the rounds that were evaluated under every seed; bytes are means over seeds."""
        accuracy, sent = [], []
        for run in by_seed.values():
            total = np.cumsum([r.bytes_up + r.bytes_down for r in run.rounds]) / MIB
            sent.append({r.round: at for r, at in zip(run.rounds, total, strict=True)})
            seen = {r.round: r.eval_accuracy for r in run.rounds if r.eval_accuracy is not None}
            accuracy.append(seen)
        rounds = sorted(set.intersection(*map(set, accuracy)))
        return _Curve(
            title=next(iter(by_seed.values())).method,
            rounds=np.array(rounds),
            mib=np.array([[total[r] for r in rounds] for total in sent]).mean(0),
            accuracy=np.array([[seen[r] for r in rounds] for seen in accuracy]),
        )


def _draw(axes: Axes, x: np.ndarray, curve: _Curve, number: int) -> None:
    hue, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
    if len(curve.accuracy) > 1:
        axes.plot(x, curve.accuracy.T, dash, color=hue, lw=0.8, alpha=0.5)
    axes.plot(x, curve.accuracy.mean(0), dash, color=hue, lw=2.2, label=curve.title, zorder=3)


def _guess(axes: Axes, cells: Cells) -> None:
    runs = next(iter(cells.values())).values()
    guesses = [g for run in runs if (g := run.summary.majority_accuracy) is not None]
    if guesses:
        axes.axhline(
            float(np.mean(guesses)), color="#5b646d", lw=1, dashes=(4, 3), label="constant guess"
        )


def _legend(figure: Figure, axes: Axes, curves: Sequence[_Curve]) -> None:
    """Names in the order in which the lines end, beside where they end."""
    handles, labels = axes.get_legend_handles_labels()
    ends = [c.accuracy[:, -1].mean() if c.accuracy.size else 0.0 for c in curves]
    order = [*np.argsort(-np.array(ends), kind="stable"), *range(len(curves), len(handles))]
    seeds = max(len(curve.accuracy) for curve in curves)
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside right center",
        frameon=False,
        alignment="left",
        title=f"thick: mean of {seeds} seeds\nthin: each seed" if seeds > 1 else None,
        title_fontsize=9,
    )
