"""What the map says: claims, tables, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from experiments.breakdown.config import CENTRE, BreakdownConfig, Point
from experiments.breakdown.runs import Result, Results, gap_of
from experiments.claims import (
    SIGNIFICANCE,
    Claim,
    Standing,
    corrected,
    in_points,
    p_text,
    paired,
    percent,
)
from experiments.contest import COLLAPSED, collapsed
from experiments.methods import LORA, ROLORA
from experiments.report import Table
from rolora.report.statistics import FEWEST_SEEDS, PairedDifference

SOURCE = "Table 1"
FAR = 0.1
"""By how much one must be below the other for a breakdown."""


@dataclass(frozen=True)
class Pair:
    """Both methods' judged runs at a point, seed by seed: RoLoRA's, and those of the mean of both
    factors. At one `rate`, or each at its own.
    """

    point: Point
    rates: tuple[float, float]
    rolora: Sequence[Result]
    lora: Sequence[Result]

    @property
    def difference(self) -> PairedDifference:
        """RoLoRA's test accuracy less the other's."""
        return paired(tests(self.rolora), tests(self.lora))

    @property
    def gap(self) -> float | None:
        """Of the mean of both factors, over rounds and seeds."""
        return gap_of(self.lora)


def tests(ends: Sequence[Result]) -> list[float]:
    """Test accuracy, one a seed."""
    return [end["test_accuracy"] or 0.0 for end in ends]


def at_each_rate(config: BreakdownConfig, results: Results) -> list[Pair]:
    """Both at the same rate, where all of its seeds are finished."""
    found = {(c.point, c.method, c.rate, c.seed): end for c, end in results.items()}
    pairs = []
    for point in config.points():
        for rate in config.rates_of(point):
            rolora, lora = (_of_seeds(config, found, point, m, rate) for m in (ROLORA, LORA))
            if rolora and lora:
                pairs.append(Pair(point, (rate, rate), rolora, lora))
    return pairs


def at_best_rates(config: BreakdownConfig, results: Results) -> list[Pair]:
    """Each at the rate that the tuning seed's validation chooses, where all is finished."""
    found = {(c.point, c.method, c.rate, c.seed): end for c, end in results.items()}
    pairs = []
    for point in config.points():
        ours, theirs = (_chosen(config, found, point, method) for method in (ROLORA, LORA))
        if ours is None or theirs is None:
            continue
        rolora = _of_seeds(config, found, point, ROLORA, ours)
        lora = _of_seeds(config, found, point, LORA, theirs)
        if rolora and lora:
            pairs.append(Pair(point, (ours, theirs), rolora, lora))
    return pairs


Found = Mapping[tuple[Point, str, float, int], Result]


def _of_seeds(
    config: BreakdownConfig, found: Found, point: Point, method: str, rate: float
) -> list[Result]:
    keys = [(point, method, rate, seed) for seed in config.seeds]
    return [found[key] for key in keys] if all(key in found for key in keys) else []


def _chosen(config: BreakdownConfig, found: Found, point: Point, method: str) -> float | None:
    scores = {
        rate: found[key]["accuracy"][-1]
        for rate in config.rates_of(point)
        if (key := (point, method, rate, config.tuning_seed)) in found
    }
    if len(scores) < len(config.rates_of(point)):
        return None
    return max(scores, key=lambda rate: (scores[rate], -rate))


def after_holm(pairs: Sequence[Pair]) -> list[float | None]:
    """The pairs' p-values, corrected for all of them."""
    return list(corrected({str(i): pair.difference for i, pair in enumerate(pairs)}).values())


# -- claims -------------------------------------------------------------------------------------


def claims(config: BreakdownConfig, results: Results) -> Iterator[Claim]:
    """Whether there is a place where one breaks down and the other holds, and what goes with it."""
    best, each = at_best_rates(config, results), at_each_rate(config, results)
    yield _somewhere("each at its own rate", best)
    yield _somewhere("both at one rate", each)
    if each:
        yield Claim(
            "The further the mean factors' product is from the mean product, the more accuracy "
            "their mean costs",
            "beyond the paper",
            *_goes_with(each),
        )


def _somewhere(how: str, pairs: Sequence[Pair]) -> Claim:
    text = f"Somewhere the mean of both factors breaks down and RoLoRA holds, {how}"
    p_values = after_holm(pairs)
    broken = [
        (pair, p)
        for pair, p in zip(pairs, p_values, strict=True)
        if pair.difference.mean >= FAR and p is not None and p < SIGNIFICANCE
    ]
    enough = bool(pairs) and len(pairs[0].lora) >= FEWEST_SEEDS
    standing: Standing = "not decided at this size"
    if broken and enough:
        standing = "holds"
    evidence = (
        f"{len(broken)} of {len(pairs)} cells are {100 * FAR:.0f} points apart or more, p below "
        f"{SIGNIFICANCE:g} after Holm's correction"
    )
    if broken:
        pair, p = max(broken, key=lambda one: one[0].difference.mean)
        evidence += (
            f"; the widest: {pair.point.words()}, {in_points(pair.difference)} points, "
            f"p {p_text(p)}"
        )
    return Claim(text, SOURCE, standing, evidence)


def _goes_with(pairs: Sequence[Pair]) -> tuple[Standing, str]:
    """Spearman's correlation of gap and difference over the cells."""
    from scipy import stats

    seen = [(pair.gap, pair.difference.mean) for pair in pairs if pair.gap is not None]
    if len(seen) < FEWEST_SEEDS:
        return "not decided at this size", f"{len(seen)} cells"
    found = stats.spearmanr(*zip(*seen, strict=True))
    rank, p = float(found.statistic), float(found.pvalue)
    evidence = f"Spearman's rank correlation {rank:.2f} over {len(seen)} cells, p = {p:.2g}"
    if not isfinite(p) or p >= SIGNIFICANCE:
        return "not decided at this size", evidence
    return ("holds" if rank > 0 else "does not hold"), evidence


# -- tables -------------------------------------------------------------------------------------

COLUMNS = (
    "",
    "rate of FedIT, of RoLoRA",
    "FedIT",
    "collapsed",
    "RoLoRA",
    "collapsed",
    "RoLoRA less FedIT, 95 % interval",
    "p",
    "p, Holm",
    "gap",
)


def tables(config: BreakdownConfig, results: Results) -> Iterator[Table]:
    """Each method at its best rate, then both at every rate."""
    for how, pairs in (
        ("each at its own rate", at_best_rates(config, results)),
        ("both at one rate", at_each_rate(config, results)),
    ):
        rows = tuple(_row(pair, p) for pair, p in zip(pairs, after_holm(pairs), strict=True))
        if rows:
            yield Table(f"Test accuracy in percent, {how}", COLUMNS, rows)


def _row(pair: Pair, p: float | None) -> tuple[str, ...]:
    ours, theirs = pair.rates
    n = len(pair.lora)
    return (
        pair.point.words() + (" (the centre)" if pair.point == CENTRE else ""),
        f"{theirs:g}, {ours:g}",
        percent(tests(pair.lora)),
        f"{sum(map(collapsed, pair.lora))} of {n}",
        percent(tests(pair.rolora)),
        f"{sum(map(collapsed, pair.rolora))} of {n}",
        in_points(pair.difference),
        p_text(pair.difference.p_value),
        p_text(p),
        "-" if pair.gap is None else f"{pair.gap:.2g}",
    )


# -- words --------------------------------------------------------------------------------------


def summary(config: BreakdownConfig, results: Results) -> str:
    """What was run, as a paragraph or two."""
    done = {pair.point for pair in at_each_rate(config, results)}
    waiting = [point.key for point in config.points() if point not in done]
    return (
        "FedIT, which is FedAvg of LoRA, averages A and B each by itself, and the product of the "
        "means is not the mean of the products. Here it runs beside RoLoRA with the same seeds, "
        "shares and steps at points on the axes through one centre and at corners where several "
        f"are hard at once: {config.steps} local steps a client in all ({config.deep_steps} in "
        "more than the pooler), in as many rounds as that makes; every point at "
        f"{len(config.rates)} rates. The gap is |mean(B) mean(A) - mean(B A)|_F over "
        "|mean(B A)|_F, over all adapted matrices together, means by weight, in the mean over "
        f"FedIT's rounds and seeds. Own rates are chosen by validation at seed "
        f"{config.tuning_seed}, which is not judged; the test examples are looked at once. "
        f"{COLLAPSED}\n\n"
        f"Paired t-tests over {len(config.seeds)} seeds, corrected by Holm's method within each "
        f"table; a breakdown is {100 * FAR:.0f} points or more. Every run is on one thread. "
        + (f"Not finished: {'; '.join(waiting)}." if waiting else "All points are here.")
    )


def as_numbers(results: Results) -> Mapping[str, Any]:
    """All runs, JSON-able."""
    return {"runs": [{**asdict(case), **end} for case, end in results.items()]}
