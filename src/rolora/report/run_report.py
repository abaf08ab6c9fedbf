"""The report of one run: a single HTML file that needs nothing else to be read."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rolora.records.atomic import write_atomic
from rolora.records.files import FailureRecord, RunFiles, read_run
from rolora.report import figures, units
from rolora.report.statistics import wilson_interval
from rolora.report.units import byte_size, count, duration, percent

MOST_ROWS = 200
STAGES = ("plan", "train", "aggregate", "evaluate", "checkpoint")


@dataclass(frozen=True)
class Tile:
    """A key number, what it is, and what to hold it against."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first `text_columns` are words, the rest numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    note: str = ""


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run directory, whole or not at all, and return its path.

    The page depends on the run's files alone, so building it twice gives the same bytes.

    Raises:
        BadInput: `run_dir` is not a run directory, or one of its files is damaged.
    """
    run = read_run(run_dir)
    page = _environment().get_template("run.html.jinja").render(_content(run))
    path = run.directory / "report.html"
    write_atomic(path, page)
    return path


def _environment() -> Environment:
    loader = PackageLoader("rolora", "report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    return environment


def _content(run: RunFiles) -> dict[str, Any]:
    """All that the template shows."""
    return {
        "run": run,
        "theme": figures.THEME,
        "lead": list(_lead(run)),
        "warnings": list(_warnings(run)),
        "tiles": list(_tiles(run)),
        "learning": list(figures.learning(run)),
        "clients": list(figures.clients(run)),
        "quantiles": _quantiles(run),
        "traffic": list(figures.traffic(run)),
        "stages": _stages(run),
        "failures": _failures(run),
        "reasons": _reasons(run),
        "redrawn": [r.round for r in run.rounds if r.attempts > 1],
        "setup": [(name, value) for name, value in _setup(run) if value],
        "rounds": _rounds(run),
    }


def _lead(run: RunFiles) -> Iterator[str]:
    """The result, in a sentence or three."""
    federation = run.config.federation
    who = f"{count(federation.clients)} clients"
    if federation.cohort_size < federation.clients:
        who += f", {count(federation.cohort_size)} of them a round"
    done = len(run.rounds)
    verb = "fine-tuned" if run.finished else "is fine-tuning"
    rounds = f"in {count(done)} rounds"
    if not run.finished:
        rounds = f"{count(done)} of {count(run.config.rounds)} rounds so far"
    yield f"{run.method} {verb} {run.model} on {run.data} across {who}, {rounds}."
    yield from _result(run)
    if run.rounds:
        yield (
            f"In all, clients sent {byte_size(run.bytes_up)} and received "
            f"{byte_size(run.bytes_down)}."
        )


def _result(run: RunFiles) -> Iterator[str]:
    final, majority = run.summary.final, run.summary.majority_accuracy
    against = (
        f"; always guessing the most frequent label gets {percent(majority)}" if majority else ""
    )
    if final.test_accuracy is not None:
        test = run.summary.data.test
        of = f"of {count(test)} test examples" if test else "of the test examples"
        who = "The clients' personal models get" if run.personal else "The final model gets"
        own = ", each its own client's," if run.personal else ""
        yield f"{who} {percent(final.test_accuracy)} {of}{own} right{against}."
    seen = _evaluated(run)
    if not run.finished and seen:
        last = seen[-1]
        yield (
            f"After round {last.round} the model gets {percent(last.eval_accuracy)} of the "
            "validation examples right."
        )


def _warnings(run: RunFiles) -> Iterator[tuple[str, str]]:
    """What a reader must know before believing the numbers: a heading and a sentence."""
    if not run.finished:
        yield (
            "Unfinished run.",
            Markup(
                "{} of {} rounds are done and the test set has not been used. "
                "<code>rolora run</code> with the same config, the same <code>--out</code> and "
                "<code>--resume</code> goes on from the last checkpoint."
            ).format(len(run.rounds), run.config.rounds),
        )
    if run.collapsed:
        sentence = run.collapsed[:1].upper() + run.collapsed[1:]
        yield "Collapsed.", f"{sentence}: the model is no better than a constant guess."
    failed = sum(len(r.failures) for r in run.rounds)
    asked = failed + sum(r.clients or 0 for r in run.rounds)
    if failed > 0.1 * asked:
        yield (
            "Many failures.",
            f"{count(failed)} of {count(asked)} times a client that was asked gave no usable "
            "update.",
        )


def _tiles(run: RunFiles) -> Iterator[Tile]:
    final, best, majority = run.summary.final, run.summary.best, run.summary.majority_accuracy
    if final.test_accuracy is not None:
        yield Tile("Test accuracy", percent(final.test_accuracy), _interval(run))
    if majority is not None:
        yield Tile("Constant guess", percent(majority), "the most frequent test label")
    seen = _evaluated(run)
    if seen:
        last = seen[-1]
        note = f"in round {last.round}"
        if best and best.round != last.round:
            note += f"; best {percent(best.eval_accuracy)} in round {best.round}"
        yield Tile("Validation accuracy", percent(last.eval_accuracy), note)
    if run.rounds:
        contributions = sum(r.clients or 0 for r in run.rounds)
        for name, total in (("Sent up", run.bytes_up), ("Sent down", run.bytes_down)):
            mean = byte_size(total / contributions) if contributions else units.NONE
            yield Tile(name, byte_size(total), f"{mean} a client and round")
        per_round = duration(run.total_seconds / len(run.rounds))
        yield Tile("Time", duration(run.total_seconds), f"{per_round} a round")


def _interval(run: RunFiles) -> str:
    accuracy, test = run.summary.final.test_accuracy, run.summary.data.test
    if accuracy is None or not test:
        return ""
    low, high = wilson_interval(accuracy, test)
    return f"95{units.THIN}% interval {100 * low:.1f} to {percent(high)}"


def _evaluated(run: RunFiles) -> list[Any]:
    return [r for r in run.rounds if r.eval_accuracy is not None]


def _quantiles(run: RunFiles) -> Table | None:
    """How examples, labels and accuracy spread over the clients."""
    shares = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    header = ("", "min", "5 %", "25 %", "median", "75 %", "95 %", "max")
    table = np.array(run.summary.label_table, float)
    rows = []
    if table.ndim == 2 and table.sum() > 0:
        sizes = table.sum(1)
        largest = table.max(1) / np.maximum(sizes, 1)
        for name, values, show in (
            ("training examples", sizes, count),
            ("labels present", (table > 0).sum(1), count),
            ("share of the most frequent label", largest[sizes > 0], percent),
        ):
            cuts = np.quantile(values, shares, method="inverted_cdf")
            rows.append((name, *(show(float(cut)) for cut in cuts)))
    accuracy = [c.accuracy for c in run.summary.client_accuracy if c.accuracy is not None]
    if accuracy:
        cuts = np.quantile(accuracy, shares, method="inverted_cdf")
        rows.append(("accuracy on own test examples", *(percent(float(cut)) for cut in cuts)))
    if not rows:
        return None
    return Table(header, tuple(rows), note="Quantiles over clients, each client counted once.")


def _stages(run: RunFiles) -> list[tuple[str, str, str, float]]:
    """Per stage: its name, its time, its share of the total as text and as a number in [0, 1]."""
    seconds, total = run.seconds, run.total_seconds
    known = [stage for stage in STAGES if stage in seconds]
    others = sorted(seconds.keys() - set(STAGES))
    rows = [(stage, seconds[stage]) for stage in (*known, *others)]
    rest = total - sum(seconds.values())
    if rest > 0.005 * total:
        rows.append(("everything else", rest))
    scale = max(total, 1e-9)
    return [(name, duration(s), percent(s / scale), min(s / scale, 1.0)) for name, s in rows]


def _failures(run: RunFiles) -> Table | None:
    rows = list(_troubles(run))
    if not rows:
        return None
    note = ""
    if len(rows) > MOST_ROWS:
        note = f"The first {MOST_ROWS} of {count(len(rows))}; metrics.jsonl holds them all."
    header = ("round", "client", "reason", "detail")
    return Table(header, tuple(rows[:MOST_ROWS]), text_columns=4, note=note)


def _troubles(run: RunFiles) -> Iterator[tuple[str, str, str, str]]:
    """Round, client, reason and detail of everything that went wrong."""
    for record in run.rounds:
        for failure in record.failures:
            yield str(record.round), str(failure.client), failure.reason, failure.detail
        yield from _noted(str(record.round), record.eval_failures, record.faults)
    yield from _noted("test", run.summary.test_failures, run.summary.test_faults)


def _noted(
    when: str, failures: Iterable[FailureRecord], faults: Iterable[str]
) -> Iterator[tuple[str, str, str, str]]:
    for failure in failures:
        yield when, str(failure.client), f"{failure.reason} (evaluation)", failure.detail
    for fault in faults:
        yield when, "–", "federation", fault


def _reasons(run: RunFiles) -> str:
    reasons = Counter(reason for _, _, reason, _ in _troubles(run))
    return ", ".join(f"{reason} {count(number)}" for reason, number in reasons.most_common())


def _setup(run: RunFiles) -> Iterator[tuple[str, str]]:
    """What was run, on what, with what: names and values, empty where not known."""
    summary, model, data = run.summary, run.summary.model, run.summary.data
    yield "Method", run.method
    yield "What travels", summary.method.travels or ""
    yield "Exact aggregation", summary.method.exact or ""
    yield "Citation", summary.method.citation or ""
    yield "Model", f"{run.model}, {model.type}" if model.type else run.model
    yield "Parameters", _parameters(run)
    yield "Data", run.data
    splits = (("training", data.train), ("validation", data.validation), ("test", data.test))
    yield "Examples", ", ".join(f"{count(n)} {name}" for name, n in splits if n is not None)
    yield "Test examples from", data.test_from or ""
    yield "Data fingerprint", data.fingerprint or ""
    yield "Predicted labels", _predicted(run)
    yield "Seed", str(run.config.seed)
    yield "Config hash", summary.config_hash or ""
    yield "Device", ", ".join(_device(run))
    yield "Peak memory", f"{summary.peak_memory_mb:,.0f} MB" if summary.peak_memory_mb else ""
    yield "Started", _moment(summary.started)
    yield "Finished", _moment(summary.finished)
    command = summary.command
    yield "Command", shlex.join(command) if isinstance(command, list) else command or ""
    versions = {"rolora": summary.rolora_version, **summary.versions}
    yield "Versions", ", ".join(f"{name} {number}" for name, number in versions.items() if number)


def _parameters(run: RunFiles) -> str:
    model = run.summary.model
    if model.parameters is None:
        return ""
    parts = [f"{count(model.parameters)} in the model"]
    if model.adapter_parameters is not None:
        share = percent(model.adapter_parameters / model.parameters, 2)
        parts.append(f"{count(model.adapter_parameters)} in the adapter ({share})")
    return "; ".join(parts)


def _predicted(run: RunFiles) -> str:
    shares = run.summary.predicted_label_shares
    names = figures.label_names(run, len(shares))
    most = sorted(zip(shares, names, strict=True), key=lambda pair: -pair[0])[:12]
    text = ", ".join(f"{name} {percent(share)}" for share, name in most)
    return f"{text} of the test examples" if text else ""


def _device(run: RunFiles) -> Iterator[str]:
    summary = run.summary
    yield from filter(None, (summary.device, summary.dtype))
    if summary.threads:
        yield f"{summary.threads} thread{'s' if summary.threads > 1 else ''}"


def _moment(text: str | None) -> str:
    try:
        return datetime.fromisoformat(text or "").strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except ValueError:
        return text or ""


def _rounds(run: RunFiles) -> Table | None:
    if not run.rounds:
        return None
    header = (
        *("round", "trains", "training loss", "validation loss", "validation accuracy"),
        *("clients", "asked", "bytes up", "bytes down", "seconds"),
    )
    shown = figures.thinned(np.arange(len(run.rounds)), MOST_ROWS)
    note = ""
    if len(shown) < len(run.rounds):
        note = f"{len(shown)} of {count(len(run.rounds))} rounds; metrics.jsonl holds them all."
    rows = []
    for r in (run.rounds[at] for at in shown):
        seconds = r.seconds.get("total", sum(r.seconds.values()))
        numbers = (r.train_loss, r.eval_loss, r.eval_accuracy)
        rows.append(
            (
                *(str(r.round), r.phase, *map(units.decimal, numbers)),
                *map(count, (r.clients, r.cohort, r.bytes_up, r.bytes_down)),
                units.decimal(seconds, 2),
            )
        )
    return Table(header, tuple(rows), text_columns=2, note=note)
