"""The tables of a run report: text under a header, cut where there is too much of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from rolora.records import units
from rolora.records.files import RunFiles
from rolora.records.schema import LOSS, FailureRecord, Metric, RoundRecord
from rolora.records.spread import FAR, spread
from rolora.records.units import count, duration, percent, show, thinned
from rolora.report.expected import against_estimate
from rolora.report.figures.labels import last_detail
from rolora.report.figures.strata import plural, stratum_word

MOST_ROWS = 200
STAGES = ("plan", "train", "aggregate", "evaluate", "checkpoint")


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first `text_columns` are words, the rest numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    note: str = ""


def scores(run: RunFiles) -> Table | None:
    """All scores of the final model, beside those of the best constant prediction."""
    if run.summary is None:
        return None
    final = run.summary.final
    held = {"validation": final.validation, "test": final.test}
    note = ""
    if run.summary.constant:
        held["constant guess"] = run.summary.constant
        note = "A constant guess is the best that one prediction for every test example can do."
    rows = [
        (units.capital(metric.title), *(show(p.get(metric.name), metric) for p in held.values()))
        for metric in run.task.known(*held.values())
    ]
    return Table(("final model", *held), tuple(rows), note=note)


def by_label(run: RunFiles) -> Table | None:
    """Precision, recall and F1 of every label, of the test examples where there are any."""
    detail, split = last_detail(run)
    if detail is None:
        return None
    rows = tuple(
        (
            label.name,
            *map(percent, (label.precision, label.recall, label.f1)),
            count(label.support),
            percent(label.predicted_share),
        )
        for label in detail.classes
    )
    header = ("label", "precision", "recall", "F1", "examples", "predicted for")
    which = "test examples" if split == "test" else "validation examples, as last looked at"
    note = f"Of the {which}. A dash: no example has the label, or none was given it."
    return Table(header, rows, note=note)


def by_client(run: RunFiles) -> Table | None:
    """Every client's own score on its test examples, beside what they are together; the ones that
    stand out first.
    """
    if run.summary is None or not run.summary.clients:
        return None
    first, final = run.task.first, run.summary.final.test
    seen = spread(run.summary.clients, first)
    whole = show(final.get(first.name), first)
    rows = [("all, by their examples", count(run.summary.test_examples), whole, "")]
    if seen is not None:
        for name, value in (("mean over clients", seen.mean), ("median client", seen.median)):
            rows.append((name, "", show(value, first), ""))
    out = set(seen.outliers if seen else ())
    for client in sorted(run.summary.clients, key=lambda c: (c.client not in out, c.client)):
        score = show(client.scores.get(first.name), first)
        mark = "out of line" if client.client in out else ""
        rows.append((f"client {client.client}", count(client.examples), score, mark))
    note = (
        f"Out of line: more than {FAR:g} robust standard deviations from the median (by the "
        "median absolute deviation), and more than drawing so few examples explains."
    )
    header = ("", "test examples", first.title, "")
    return Table(header, tuple(rows[: MOST_ROWS + 3]), note=note)


def quantiles(run: RunFiles) -> Table | None:
    """How examples, strata and the first score spread over the clients."""
    if run.summary is None:
        return None
    shares = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    header = ("", "min", "5 %", "25 %", "median", "75 %", "95 %", "max")
    rows = []
    for name, values, metric in _spreads(run):
        cuts = np.quantile(values, shares, method="inverted_cdf")
        shown = (show(float(cut), metric) if metric else count(float(cut)) for cut in cuts)
        rows.append((name, *shown))
    if not rows:
        return None
    return Table(header, tuple(rows), note="Quantiles over clients, each client counted once.")


def _spreads(run: RunFiles) -> Iterator[tuple[str, np.ndarray, Metric | None]]:
    """What spreads over clients: its name, a value a client, how it reads (None: a count)."""
    assert run.summary is not None
    table = np.array(run.summary.strata.table, float)
    if table.ndim == 2 and table.sum() > 0:
        sizes = table.sum(1)
        yield "training examples", sizes, None
        if run.summary.strata.names:
            word = stratum_word(run.summary)
            largest = table.max(1) / np.maximum(sizes, 1)
            yield f"{plural(word)} present", (table > 0).sum(1), None
            share = Metric(name="share", title="share", share=True)
            yield f"share of the most frequent {word}", largest[sizes > 0], share
    metric = run.task.first
    known = [c.scores.get(metric.name) for c in run.summary.clients]
    values = [score for score in known if score is not None]
    if values:
        yield f"{metric.title} on own test examples", np.array(values), metric


def stages(run: RunFiles) -> list[tuple[str, str, str, float]]:
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


def failures(run: RunFiles) -> Table | None:
    """Everything that went wrong."""
    rows = list(_troubles(run))
    if not rows:
        return None
    note = ""
    if len(rows) > MOST_ROWS:
        note = f"The first {MOST_ROWS} of {count(len(rows))}; metrics.jsonl holds them all."
    header = ("round", "client", "reason", "detail")
    return Table(header, tuple(rows[:MOST_ROWS]), text_columns=4, note=note)


def reasons(run: RunFiles) -> str:
    """How often each thing went wrong."""
    found = Counter(reason for _, _, reason, _ in _troubles(run))
    return ", ".join(f"{reason} {count(number)}" for reason, number in found.most_common())


def _troubles(run: RunFiles) -> Iterator[tuple[str, str, str, str]]:
    """Round, client, reason and detail of everything that went wrong."""
    for record in run.rounds:
        for failure in record.failures:
            yield str(record.round), str(failure.client), failure.reason, failure.detail
        yield from _noted(str(record.round), record.eval_failures, record.faults)
    if run.summary:
        yield from _noted("test", run.summary.test_failures, run.summary.test_faults)


def _noted(
    when: str, failures: Iterable[FailureRecord], faults: Iterable[str]
) -> Iterator[tuple[str, str, str, str]]:
    for failure in failures:
        yield when, str(failure.client), f"{failure.reason} (evaluation)", failure.detail
    for fault in faults:
        yield when, units.NONE, "federation", fault


def rounds(run: RunFiles) -> Table | None:
    """Every round in numbers, with all its scores."""
    if not run.rounds:
        return None
    metrics = run.task.known(*(r.validation or {} for r in run.rounds))
    header = (
        *("round", "trains", f"training {LOSS.title}"),
        *(f"validation {metric.title}" for metric in metrics),
        *(f"{word} over clients" for word in ("mean", "median")),
        *("clients", "asked", "bytes up", "bytes down", "seconds"),
    )
    shown = thinned(np.arange(len(run.rounds)), MOST_ROWS)
    note = ""
    if len(shown) < len(run.rounds):
        note = f"{len(shown)} of {count(len(run.rounds))} rounds; metrics.jsonl holds them all."
    rows = tuple(_round(run.rounds[at], metrics, run.task.first) for at in shown)
    return Table(header, rows, text_columns=2, note=note)


def _round(record: RoundRecord, metrics: list[Metric], first: Metric) -> tuple[str, ...]:
    seen, around = record.validation or {}, spread(record.sites, first)
    middles = (around.mean, around.median) if around else (None, None)
    return (
        *(str(record.round), record.phase, units.decimal(record.train_loss)),
        *(_exact(seen.get(metric.name), metric) for metric in metrics),
        *(_exact(middle, first) for middle in middles),
        *map(count, (record.clients, record.cohort, record.bytes_up, record.bytes_down)),
        units.decimal(record.total_seconds, 2),
    )


def _exact(score: float | None, metric: Metric) -> str:
    """A share or a loss to four decimals, so that the column lines up; else as it reads."""
    lined_up = metric.share or metric.name == LOSS.name
    return units.decimal(score) if lined_up else units.plain(score)


def setup(run: RunFiles) -> list[tuple[str, str]]:
    """What was run, on what, with what: names and values, without those that are not known."""
    start, summary = run.start, run.summary
    rows = [
        ("Method", run.method),
        ("What travels", start.method.travels),
        ("Exact aggregation", start.method.exactness),
        ("Citation", start.method.citation),
        ("Task", f"{start.task.title}: {', '.join(metric.title for metric in start.task.metrics)}"),
        ("Model", f"{run.model}, {start.model.type}" if start.model.type else run.model),
        ("Parameters", _parameters(run)),
        ("Data", run.data),
        *_data(run),
        ("Privacy", summary.privacy.sentence if summary and summary.privacy else ""),
        ("Seed", str(run.config.seed)),
        ("Config hash", start.config_hash),
        ("Device", ", ".join(_device(run))),
        *(
            (units.capital(name), value)
            for name, value in (against_estimate(summary) if summary else ())
        ),
        ("Started", _moment(start.started)),
        ("Finished", _moment(summary.finished) if summary else ""),
        ("Command", start.command),
        ("Versions", _versions(run)),
    ]
    return [(name, value) for name, value in rows if value]


def _parameters(run: RunFiles) -> str:
    model = run.start.model
    if model.parameters is None:
        return ""
    parts = [f"{count(model.parameters)} in the model"]
    if model.adapter_parameters is not None:
        share = percent(model.adapter_parameters / model.parameters, 2)
        parts.append(f"{count(model.adapter_parameters)} in the adapter ({share})")
    return "; ".join(parts)


def _data(run: RunFiles) -> Iterator[tuple[str, str | None]]:
    if run.summary is None:
        return
    data = run.summary.data
    splits = (("training", data.train), ("validation", data.validation), ("test", data.test))
    yield "Examples", ", ".join(f"{count(n)} {name}" for name, n in splits if n is not None)
    yield "Texts cut short", _by_split(data.cut)
    yield "Examples dropped, their answers cut off whole", _by_split(data.dropped)
    yield "Test examples from", data.test_from
    yield "Data fingerprint", data.fingerprint
    if run.summary.strata.table and data.label_names and not run.summary.strata.names:
        yield "Label counts", "not told by every site"
    yield "Predictions", _predicted(run)


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count(n)} {'training' if split == 'train' else split}" for split, n in counts.items()
    )


def _predicted(run: RunFiles) -> str:
    assert run.summary is not None
    shares, names = run.summary.prediction_shares, run.summary.predicted_names
    named = [(share, names[i] if i < len(names) else str(i)) for i, share in enumerate(shares)]
    most = sorted(named, key=lambda pair: -pair[0])[:12]
    text = ", ".join(f"{name} {percent(share)}" for share, name in most)
    return f"{text} of the test examples" if text else ""


def _device(run: RunFiles) -> Iterator[str]:
    start = run.start
    yield from filter(None, (start.device, start.dtype))
    if start.threads:
        yield f"{start.threads} thread{'s' if start.threads > 1 else ''}"


def _versions(run: RunFiles) -> str:
    versions = {"rolora": run.start.rolora_version, **run.start.versions}
    return ", ".join(f"{name} {number}" for name, number in versions.items() if number)


def _moment(text: str | None) -> str:
    try:
        return datetime.fromisoformat(text or "").strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except ValueError:
        return text or ""
