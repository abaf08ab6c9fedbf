"""The report of one run: a single HTML file that needs nothing else to be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rolora.records import units
from rolora.records.atomic import write_atomic
from rolora.records.files import RunFiles, read_run
from rolora.records.schema import RoundRecord
from rolora.records.spread import spread
from rolora.records.units import byte_size, capital, count, duration, percent, show
from rolora.report import figures, scored
from rolora.report import run_tables as tables
from rolora.report.collapse import collapsed
from rolora.report.statistics import wilson_interval


@dataclass(frozen=True)
class Tile:
    """A key number, what it is, and what to hold it against."""

    name: str
    value: str
    note: str = ""


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run directory, whole or not at all, and return its path.

    The page depends on the run's files alone, so building it twice gives the same bytes.

    Raises:
        BadInput: `run_dir` is not a run directory, or one of its files is damaged.
    """
    run = read_run(run_dir)
    page = environment("report").get_template("run.html.jinja").render(content(run))
    path = run.directory / "report.html"
    write_atomic(path, page)
    return path


def environment(*rooms: str) -> Environment:
    """What renders the templates that lie in `rooms`, every value escaped."""
    return Environment(
        loader=ChoiceLoader([PackageLoader("rolora", room) for room in rooms]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def content(run: RunFiles) -> dict[str, Any]:
    """All that the template shows."""
    return {
        "run": run,
        "theme": figures.THEME,
        "lead": list(_lead(run)),
        "warnings": [*_unfinished(run), *warnings(run)],
        "tiles": list(_tiles(run)),
        "learning": list(figures.learning(run)),
        "scores": tables.scores(run),
        "harness": scored.harness(run),
        "harness_inside": scored.inside(run),
        "labels": list(figures.labels(run)),
        "by_label": tables.by_label(run),
        "clients": list(figures.clients(run)),
        "updates": list(figures.updates(run)),
        "by_client": tables.by_client(run),
        "quantiles": tables.quantiles(run),
        "traffic": list(figures.traffic(run)),
        "stages": tables.stages(run),
        "failures": tables.failures(run),
        "reasons": tables.reasons(run),
        "redrawn": [r.round for r in run.rounds if r.attempts > 1],
        "setup": tables.setup(run),
        "rounds": tables.rounds(run),
    }


def _lead(run: RunFiles) -> Iterator[str]:
    """The result, in a sentence or three."""
    federation = run.config.federation
    who = f"{count(federation.clients)} clients"
    if federation.cohort_size < federation.clients:
        who += f", {count(federation.cohort_size)} of them a round"
    done = len(run.rounds)
    verb = "fine-tuned" if run.summary else "is fine-tuning"
    rounds = f"in {count(done)} rounds"
    if run.summary is None:
        rounds = f"{count(done)} of {count(run.config.rounds)} rounds so far"
    yield f"{run.method} {verb} {run.model} on {run.data} across {who}, {rounds}."
    yield from _result(run)
    if run.rounds:
        yield (
            f"In all, clients sent {byte_size(run.bytes_up)} and received "
            f"{byte_size(run.bytes_down)}."
        )


def _result(run: RunFiles) -> Iterator[str]:
    """What the final model scores, or, while there is none, the last one that was looked at."""
    metric, seen = run.task.first, _evaluated(run)
    if run.summary is None:
        if seen:
            last = show(run.task.first_of(seen[-1].validation), metric)
            yield f"After round {seen[-1].round} validation {metric.title} is {last}."
        return
    score, guess = run.summary.final.test.get(metric.name), run.summary.constant.get(metric.name)
    if score is None:
        return
    test = _test_examples(run)
    own = ", each its own client's" if run.personal else ""
    if metric.proportion:
        who = "The clients' personal models get" if run.personal else "The final model gets"
        of = f"of {count(test)} test examples" if test else "of the test examples"
        result = f"{who} {show(score, metric)} {of}{own and own + ','} right"
    else:
        who = "The clients' personal models'" if run.personal else "The final model's"
        of = f", on {count(test)} examples" if test else ""
        result = f"{who} test {metric.title} is {show(score, metric)}{of}{own}"
    against = f"; a constant guess gets {show(guess, metric)}" if guess is not None else ""
    yield f"{result}{against}."


def _unfinished(run: RunFiles) -> Iterator[tuple[str, str]]:
    """How a run that was interrupted goes on."""
    if run.summary is None:
        yield (
            "Unfinished run.",
            Markup(
                "{} of {} rounds are done and the test set has not been used. "
                "<code>rolora run</code> with the same config, the same <code>--out</code> and "
                "<code>--resume</code> goes on from the last checkpoint."
            ).format(len(run.rounds), run.config.rounds),
        )


def warnings(run: RunFiles) -> Iterator[tuple[str, str]]:
    """What a reader must know before believing the numbers: a heading and a sentence."""
    reason = collapsed(run)
    if reason:
        yield "Collapsed.", f"{capital(reason)}: the model is no better than a constant guess."
    yield from _out_of_line(run)
    failed = sum(len(r.failures) for r in run.rounds)
    asked = failed + sum(r.clients for r in run.rounds)
    if failed > 0.1 * asked:
        yield (
            "Many failures.",
            f"{count(failed)} of {count(asked)} times a client that was asked gave no usable "
            "update.",
        )


def _out_of_line(run: RunFiles) -> Iterator[tuple[str, str]]:
    """Clients whose own scores are far from the others', who have one model for all."""
    metric = run.task.first
    seen = spread(run.summary.clients, metric) if run.summary else None
    if seen is None or not seen.outliers or run.personal:
        return
    who = ", ".join(map(str, seen.outliers[:10]))
    yield (
        "Out of line.",
        (
            f"Test {metric.title} at client {who} is far from the median client's "
            f"{show(seen.median, metric)}; what it says of its test examples may be wrong."
        ),
    )


def _tiles(run: RunFiles) -> Iterator[Tile]:
    yield from _score_tiles(run)
    if run.rounds:
        contributions = sum(r.clients for r in run.rounds)
        for name, total in (("Sent up", run.bytes_up), ("Sent down", run.bytes_down)):
            mean = byte_size(total / contributions) if contributions else units.NONE
            yield Tile(name, byte_size(total), f"{mean} a client and round")
        per_round = duration(run.total_seconds / len(run.rounds))
        if run.config.privacy is not None:
            spent = run.rounds[-1].epsilon
            value = units.NONE if spent is None else f"{spent:.3g}"
            yield Tile("Epsilon", value, f"a {run.config.privacy.unit}")
        yield Tile("Time", duration(run.total_seconds), f"{per_round} a round")


def _score_tiles(run: RunFiles) -> Iterator[Tile]:
    metric, summary, seen = run.task.first, run.summary, _evaluated(run)
    test = summary.final.test.get(metric.name) if summary else None
    guess = summary.constant.get(metric.name) if summary else None
    if test is not None:
        yield Tile(f"Test {metric.title}", show(test, metric), _interval(run, test))
    if guess is not None:
        yield Tile("Constant guess", show(guess, metric), "one prediction for every example")
    if seen:
        last, best = seen[-1], summary.best if summary else None
        note = f"in round {last.round}"
        if best and best.round != last.round:
            note += f"; best {show(run.task.first_of(best.validation), metric)}"
            note += f" in round {best.round}"
        value = show(run.task.first_of(last.validation), metric)
        yield Tile(f"Validation {metric.title}", value, note)


def _interval(run: RunFiles, score: float) -> str:
    """Of a proportion the interval; of another score which way is better."""
    test = _test_examples(run)
    if not run.task.first.proportion:
        return f"{'higher' if run.task.first.higher_is_better else 'lower'} is better"
    if not test:
        return ""
    low, high = wilson_interval(score, test)
    return f"95{units.THIN}% interval {100 * low:.1f} to {percent(high)}"


def _test_examples(run: RunFiles) -> int | None:
    assert run.summary is not None
    return run.summary.test_examples or run.summary.data.test


def _evaluated(run: RunFiles) -> list[RoundRecord]:
    return [r for r in run.rounds if run.task.first_of(r.validation) is not None]
