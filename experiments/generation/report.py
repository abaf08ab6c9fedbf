"""What the runs of an experiment with generating models say: claims, tables, the report's words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np

from experiments.claims import SIGNIFICANCE, Claim, Standing, in_words, mean_std, p_text
from experiments.generation.asking import Scores
from experiments.generation.config import line_title
from experiments.generation.runs import BASE, Found, LineRuns, Outcome
from experiments.generation.training import LanguageResult
from experiments.methods import ROLORA
from experiments.report import Table
from experiments.tuning import rate_in_words
from rolora.records.units import byte_size
from rolora.report.statistics import PairedDifference, holm, paired_difference

Z = 1.959964
"""Of a normal 95 % interval."""
DEALT_BY = {"length": "the lengths of the answers", "topic": "topics"}
"""Strata that are no column's, in words."""


def test_losses(runs: LineRuns) -> dict[int, float]:
    """By seed; infinite where a run diverged."""
    return {
        seed: math.inf if run["test_loss"] is None else run["test_loss"]
        for seed, run in runs.final.items()
    }


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> PairedDifference | None:
    """Of the seeds that both have; None without any, or where one is not finite."""
    pairs = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    return paired_difference(pairs) if pairs and all(map(math.isfinite, pairs)) else None


def against_rolora(found: Found) -> dict[str, tuple[PairedDifference | None, float | None]]:
    """Each other line's test loss less RoLoRA's, and its p-value after Holm's correction within
    the table.
    """
    if ROLORA not in found.lines:
        return {}
    rolora = test_losses(found.lines[ROLORA])
    tests = {
        line: difference(test_losses(runs), rolora)
        for line, runs in found.lines.items()
        if line != ROLORA
    }
    corrected = holm([None if test is None else test.p_value for test in tests.values()])
    return {line: (tests[line], p) for line, p in zip(tests, corrected, strict=True)}


@dataclass(frozen=True)
class SameBytes:
    """RoLoRA and another line when both have sent as much as the more frugal one sends in all.

    Args:
        sent: so many bytes, in the mean over seeds.
        ours: RoLoRA's validation loss then, by seed.
        theirs: the other's.
        test: of `ours` less `theirs`; None without a pair of finite ones.
        p: its p-value after Holm's correction within the table.
    """

    sent: float
    ours: Sequence[float]
    theirs: Sequence[float]
    test: PairedDifference | None
    p: float | None = None


def at_equal_bytes(found: Found) -> dict[str, SameBytes]:
    """Each other line beside RoLoRA; between two looks the loss is taken to fall evenly."""
    rolora = found.lines.get(ROLORA)
    pairs = {
        line: _same_bytes(found, rolora, runs)
        for line, runs in found.lines.items()
        if rolora is not None and line != ROLORA
    }
    compared = {line: same for line, same in pairs.items() if same is not None}
    tests = [same.test for same in compared.values()]
    p_values = holm([None if test is None else test.p_value for test in tests])
    every = zip(compared.items(), p_values, strict=True)
    return {line: replace(same, p=p) for (line, same), p in every}


def _same_bytes(found: Found, ours: LineRuns, theirs: LineRuns) -> SameBytes | None:
    seeds = sorted(ours.final.keys() & theirs.final.keys() & found.base.keys())
    if not seeds:
        return None
    sent = {n: min(runs.final[n]["bytes_up"] for runs in (ours, theirs)) for n in seeds}

    def then(runs: LineRuns) -> dict[int, float]:
        starts = {seed: found.base[seed]["validation_loss"] for seed in seeds}
        return {n: _loss_at(starts[n], runs.final[n], sent[n]) for n in seeds}

    both = then(ours), then(theirs)
    losses = [list(each.values()) for each in both]
    return SameBytes(fmean(sent.values()), losses[0], losses[1], difference(*both))


def _loss_at(start: float, run: LanguageResult, sent: float) -> float:
    """The validation loss of a run when it has sent so many bytes up."""
    return float(np.interp(sent, [0, *run["bytes_up_by_round"]], [start, *run["loss"]]))


# -- claims -------------------------------------------------------------------------------------


def claims(outcome: Outcome) -> Iterator[Claim]:
    """Of each model: every line learns, and RoLoRA ends with the lowest loss."""
    for found in outcome.found:
        where = found.subject.title
        for line, runs in found.lines.items():
            before = {seed: base["test_loss"] or math.inf for seed, base in found.base.items()}
            test = difference(test_losses(runs), before)
            p = None if test is None else test.p_value
            text = f"{where}: {line_title(line)} ends with a lower test loss than the base model"
            yield Claim(text, "expected", *_below(test, p))
        for line, (test, p) in against_rolora(found).items():
            less = None if test is None else _negative(test)
            text = f"{where}: RoLoRA ends with a lower test loss than {line_title(line)}"
            yield Claim(text, _source(outcome, line), *_below(less, p))
        for line, same in at_equal_bytes(found).items():
            text = f"{where}: at equal bytes RoLoRA's validation loss is below {line_title(line)}'s"
            yield Claim(text, _source(outcome, line), *_below(same.test, same.p))


def _source(outcome: Outcome, line: str) -> str:
    return outcome.study.source if line != "recommended" else "beyond the paper"


def _negative(test: PairedDifference) -> PairedDifference:
    low, high = (None if end is None else -end for end in (test.high, test.low))
    return PairedDifference(-test.mean, test.std, test.n, low, high, test.p_value)


def _below(test: PairedDifference | None, p: float | None) -> tuple[Standing, str]:
    """The standing of a difference below zero, by a p-value that may have been corrected."""
    if test is None:
        return "not decided at this size", "no pair of finished runs with finite losses"
    evidence = in_words(test)
    if p is None or p >= SIGNIFICANCE:
        standing: Standing = "not decided at this size"
    else:
        standing = "holds" if test.mean < 0 else "does not hold"
    corrected = "" if p is None or p == test.p_value else f"; p = {p:.2g} after Holm's correction"
    return standing, evidence + corrected


# -- tables -------------------------------------------------------------------------------------


def tables(outcome: Outcome) -> Iterator[Table]:
    """Each model in numbers and in words."""
    for found in outcome.found:
        if not found.lines:
            continue
        yield losses(found)
        yield same_bytes(found)
        if found.benchmark is not None and found.base_scores is not None:
            yield benchmark(found)
            if 1 < len(found.base_scores) <= 12:
                yield by_task(found)
        yield from said(found)


COLUMNS = (
    "",
    "rate",
    "seeds",
    "validation loss, half of the rounds",
    "validation loss, last round",
    "test loss",
    "test perplexity",
    "difference to RoLoRA, 95 % interval",
    "p",
    "p, Holm",
    "sent up in a run",
)


def losses(found: Found) -> Table:
    """The mean loss of an answer's token, before and after."""
    base = [
        "base model, not trained",
        "-",
        str(len(found.base)),
        "-",
        _mean([one["validation_loss"] for one in found.base.values()]),
        _mean([one["test_loss"] or math.inf for one in found.base.values()]),
        _mean([_perplexity(one["test_loss"] or math.inf) for one in found.base.values()]),
        *["-"] * 4,
    ]
    against = against_rolora(found)
    rows = [_row(found, line, runs, against.get(line)) for line, runs in found.lines.items()]
    title = f"Held-out loss of an answer's token in nats, {found.subject.title}"
    return Table(title, COLUMNS, (tuple(base), *rows))


def _row(
    found: Found,
    line: str,
    runs: LineRuns,
    against: tuple[PairedDifference | None, float | None] | None,
) -> tuple[str, ...]:
    final = list(runs.final.values())
    test, corrected = against or (None, None)
    half = next(i for i, n in enumerate(final[0]["rounds"]) if 2 * n >= final[0]["rounds"][-1])
    tests = list(test_losses(runs).values())
    return (
        line_title(line),
        rate_in_words(found.subject.rates, runs.rate),
        str(len(final)),
        _mean([run["loss"][half] for run in final]),
        _mean([run["loss"][-1] for run in final]),
        _mean(tests),
        _mean(list(map(_perplexity, tests))),
        "-" if test is None else _interval(test),
        p_text(None if test is None else test.p_value),
        p_text(corrected),
        byte_size(fmean(run["bytes_up"] for run in final)),
    )


def same_bytes(found: Found) -> Table:
    """RoLoRA beside each other line, when both have sent as much."""
    rows = [
        (
            line_title(line),
            byte_size(same.sent),
            _mean(same.ours),
            _mean(same.theirs),
            "-" if same.test is None else _interval(same.test),
            p_text(None if same.test is None else same.test.p_value),
            p_text(same.p),
        )
        for line, same in at_equal_bytes(found).items()
    ]
    columns = ("", "sent up by then", "RoLoRA", "the other", "RoLoRA less it, 95 % interval", "p")
    title = f"Validation loss when as much has been sent up, {found.subject.title}"
    return Table(title, (*columns, "p, Holm"), tuple(rows))


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if not all(map(math.isfinite, values)):
        return f"diverged in {sum(not math.isfinite(v) for v in values)} of {len(values)}"
    return mean_std(values, 4)


def _interval(test: PairedDifference) -> str:
    if test.low is None or test.high is None:
        return f"{test.mean:+.4f}"
    return f"{test.mean:+.4f} ({test.low:+.4f} to {test.high:+.4f})"


# -- the benchmark ------------------------------------------------------------------------------


def by_question(runs: Sequence[Scores]) -> list[float]:
    """Each question's score, in the mean over runs."""
    each = [[int(score) for task in sorted(one) for score in one[task]] for one in runs]
    return [fmean(scores) for scores in zip(*each, strict=True)]


def with_interval(values: Sequence[float]) -> tuple[float, float]:
    """Their mean, and half of its normal 95 % interval over questions."""
    return fmean(values), Z * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def benchmark(found: Found) -> Table:
    """Scores before and after, with intervals over questions."""
    assert found.benchmark is not None
    assert found.base_scores is not None
    before = by_question([found.base_scores])
    rows = [("base model, not trained", "-", _points(before), "-")]
    for line, runs in found.lines.items():
        if runs.scores:
            after = by_question(list(runs.scores.values()))
            change = [b - a for a, b in zip(before, after, strict=True)]
            seeds = ", ".join(map(str, runs.scores))
            rows.append((line_title(line), seeds, _points(after), _points(change, "+.2f")))
    title = (
        f"{found.benchmark.title}, {len(before)} questions, percent with 95 % interval over "
        f"questions, {found.subject.title}"
    )
    return Table(title, ("", "adapters of seed", "score", "change"), tuple(rows))


def _points(values: Sequence[float], digits: str = ".2f") -> str:
    mean, half = with_interval(values)
    return f"{100 * mean:{digits}} ± {100 * half:.2f}"


def by_task(found: Found) -> Table:
    """The same task by task."""
    assert found.benchmark is not None
    assert found.base_scores is not None
    names = sorted(found.base_scores)

    def row(title: str, runs: Sequence[Scores]) -> tuple[str, ...]:
        return (
            title,
            *(f"{100 * fmean(by_question([{n: r[n]} for r in runs])):.1f}" for n in names),
        )

    rows = [row("base model, not trained", [found.base_scores])]
    rows += [
        row(line_title(line), list(runs.scores.values()))
        for line, runs in found.lines.items()
        if runs.scores
    ]
    heads = [f"{name} ({len(found.base_scores[name])})" for name in names]
    title = f"{found.benchmark.title} by task, percent, {found.subject.title}"
    return Table(title, ("", *heads), tuple(rows))


# -- answers ------------------------------------------------------------------------------------


def said(found: Found) -> Iterator[Table]:
    """What base model and adapters answer, a table a question."""
    for seed, before in found.base_answers.items():
        for number, base in enumerate(before):
            rows = [("in the data", base["reference"]), ("base model", base["answer"])]
            rows += [
                (line_title(line), runs.answers[seed][number]["answer"])
                for line, runs in found.lines.items()
                if seed in runs.answers
            ]
            asked = " ".join(base["prompt"].split())
            title = f"{found.subject.title}, seed {seed}, is asked: {_short(asked, 300)}"
            yield Table(
                title, ("", "answer"), tuple((who, _short(text, 600)) for who, text in rows)
            )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


# -- words --------------------------------------------------------------------------------------


def summary(outcome: Outcome) -> str:
    """What was run, as a paragraph or two."""
    config = outcome.config
    subjects = [found.subject for found in outcome.found]
    models = " and ".join(f"{one.title} (layers {one.layers})" for one in subjects)
    by = DEALT_BY.get(config.strata, config.strata)
    split = (
        f"dealt by Dirichlet {config.dirichlet_alpha:g} over {by}"
        if config.partition == "dirichlet"
        else "dealt in equal shares"
    )
    missing = [f"{part.subject.title}: {what}" for part in outcome.found for what in part.missing]
    tuned = (
        ""
        if config.tuning_rounds == config.rounds
        else f" after {config.tuning_rounds} of the {config.rounds} rounds"
    )
    alone = "".join(
        f"; {one.title} takes {one.rates[0]:g} alone" for one in subjects if len(one.rates) == 1
    )
    return (
        f"{models}; LoRA of rank {config.r} on {', '.join(config.target_modules)}, "
        f"{config.clients} clients, records {split}; {config.rounds} rounds of "
        f"{config.local_steps} steps of {config.batch_size}. {outcome.study.words(config)}\n\n"
        f"The same seeds, shares and steps for all. Each line has its own rate: of "
        f"{', '.join(f'{rate:g}' for rate in config.rates)} that with the lowest validation loss"
        f"{tuned} at seed {config.tuning_seed}, which is not judged{alone}. Losses are of the "
        f"answers' tokens alone, over all clients; the test examples are looked at once, after the "
        f"last round. Paired t-tests over seeds, against RoLoRA corrected by Holm's method within "
        f"each table. Gauge, carried: RoLoRA with the orthonormal gauge and carried "
        f"optimiser state. The benchmark is asked of the adapters of the seeds that its table "
        f"names; its intervals are over questions, not over seeds. The paper does not publish its "
        f"settings for language models; these are ours. "
        + (f"Not finished, and left out: {'; '.join(missing)}." if missing else "")
    ).rstrip()


def results(outcome: Outcome) -> Mapping[str, Any]:
    """All runs, JSON-able."""
    return {
        "models": [
            {
                "model": found.subject.title,
                BASE: {str(seed): result for seed, result in found.base.items()},
                "base_scores": found.base_scores,
                "lines": {
                    line: {
                        "rate": runs.rate,
                        "tuning": {
                            f"{rate:g}": run["loss"][-1] for rate, run in runs.tuning.items()
                        },
                        "seeds": {str(seed): run for seed, run in runs.final.items()},
                        "scores": {str(seed): each for seed, each in runs.scores.items()},
                    }
                    for line, runs in found.lines.items()
                },
            }
            for found in outcome.found
        ]
    }
