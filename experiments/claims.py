"""Claims, decided by numbers: what counts as holding, and the evidence in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from rolora.report.statistics import (
    FEWEST_SEEDS,
    PairedDifference,
    describe,
    holm,
    paired_difference,
)

Standing = Literal["holds", "does not hold", "not decided at this size"]
SIGNIFICANCE = 0.05
ENOUGH_TRIALS = 59  # 0.95^59 < 0.05


@dataclass(frozen=True)
class Claim:
    """A statement, who made it (``Table 1``, ``derived here``), and what this run found."""

    text: str
    source: str
    standing: Standing
    evidence: str


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
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs or not all(isfinite(a - b) for a, b in pairs):
        raise ValueError(f"a paired test needs finite pairs, got {pairs}")
    test = paired(ours, theirs)
    standing: Standing = "not decided at this size"
    if test.p_value is not None and test.p_value < SIGNIFICANCE:
        standing = "holds" if test.mean > 0 else "does not hold"
    return standing, f"{mean_std(ours)} against {mean_std(theirs)}; {in_words(test)}"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> PairedDifference:
    """Ours less theirs, seed by seed."""
    return paired_difference([a - b for a, b in zip(ours, theirs, strict=True)])


def corrected(tests: Mapping[str, PairedDifference]) -> dict[str, float | None]:
    """The p-values of all tests of a table, by what they are of, after Holm's correction."""
    return dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))


def above(ours: Sequence[float], theirs: Sequence[float], p: float | None) -> tuple[Standing, str]:
    """The standing of "ours is above theirs" by a corrected p-value, and its evidence in words; not
    decided below :data:`FEWEST_SEEDS` seeds.
    """
    test = paired(ours, theirs)
    evidence = f"{mean_std(ours)} against {mean_std(theirs)}; {in_words(test)}"
    evidence += "" if p is None else f"; p = {p:.2g} after Holm's correction"
    if p is None or p >= SIGNIFICANCE or test.n < FEWEST_SEEDS:
        return "not decided at this size", evidence
    return ("holds" if test.mean > 0 else "does not hold"), evidence


def compared(
    questions: Mapping[str, tuple[Sequence[float], Sequence[float]]], source: str
) -> Iterator[Claim]:
    """The claims that the first of each pair is above the second, corrected for their number.

    Args:
        questions: by the claim's words, ours and theirs, seed by seed.
        source: of the claims.
    """
    p_values = corrected({text: paired(*pair) for text, pair in questions.items()})
    for text, pair in questions.items():
        yield Claim(text, source, *above(*pair, p_values[text]))


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


def p_text(value: float | None) -> str:
    """A p-value in a table; none, where it is not known."""
    return "-" if value is None else f"{value:.2g}"


def percent(values: Sequence[float]) -> str:
    """Mean and spread of shares, in percent."""
    return mean_std([100 * value for value in values])


def in_points(test: PairedDifference) -> str:
    """A difference of shares and its interval, in percentage points."""
    if test.low is None or test.high is None:
        return f"{100 * test.mean:+.2f}"
    return f"{100 * test.mean:+.2f} ({100 * test.low:+.2f} to {100 * test.high:+.2f})"
