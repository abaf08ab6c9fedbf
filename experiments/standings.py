"""What tables say of a comparison in one place: every entrant beside RoLoRA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from experiments.claims import corrected as after_holm
from experiments.claims import in_points, p_text, paired, percent
from experiments.contest import Line, Lines
from experiments.methods import ROLORA
from experiments.places import Place
from experiments.tuning import rate_in_words
from rolora.records.units import byte_size
from rolora.report.statistics import PairedDifference

NEAR = 0.03
"""What a rate may lose of the best one's accuracy and count as good."""
ENDS = (
    "",
    "rate",
    "rates within three points of it",
    "validation, half of the rounds",
    "validation, last round",
    "test",
    "collapsed",
    "difference to RoLoRA, 95 % interval",
    "p",
    "p, Holm",
    "sent up, share of RoLoRA's",
)
"""What :func:`ends` gives."""


def places_of(lines: Lines) -> list[Place]:
    """Those in which RoLoRA is finished, with which the others are compared."""
    return [line.place for (key, _), line in lines.items() if key == ROLORA]


def in_place(lines: Lines, place: Place) -> list[Line]:
    """The finished lines there, RoLoRA first."""
    found = [line for (_, where), line in lines.items() if where == place.key]
    return sorted(found, key=lambda line: line.entrant.key != ROLORA)


def difference(line: Line, rolora: Line) -> PairedDifference:
    """Of test accuracy, paired by seed."""
    return paired(line.test, rolora.test)


def corrected(some: Iterable[Line], rolora: Line) -> dict[str, float | None]:
    """The p-value of each line against RoLoRA, after Holm's correction for all of them."""
    others = [line for line in some if line is not rolora]
    return after_holm({line.entrant.key: difference(line, rolora) for line in others})


def ends(line: Line, rolora: Line, p_values: Mapping[str, float | None]) -> tuple[str, ...]:
    """How a line ends, beside RoLoRA's."""
    test, itself = difference(line, rolora), line is rolora
    compared = not itself and line.entrant.key in p_values
    return (
        line.entrant.label,
        rate_in_words(sorted({rate for rate, _ in line.grid}), line.rate),
        good_rates(line),
        percent(line.validation(0.5)),
        percent(line.validation()),
        percent(line.test),
        f"{line.collapsed} of {len(line.final)}",
        in_points(test) if compared else "-",
        p_text(test.p_value if compared else None),
        p_text(p_values.get(line.entrant.key)),
        sent(line, rolora),
    )


def good_rates(line: Line) -> str:
    """The rates around the chosen one at which mean validation accuracy at the tuning seeds stays
    within :data:`NEAR` of its; of those that were tried.
    """
    rates = sorted({rate for rate, _ in line.grid})
    scores = {
        rate: fmean(end["accuracy"][-1] for (of, _), end in line.grid.items() if of == rate)
        for rate in rates
    }
    at = rates.index(line.rate)
    low = high = at
    while low > 0 and scores[rates[low - 1]] >= scores[line.rate] - NEAR:
        low -= 1
    while high + 1 < len(rates) and scores[rates[high + 1]] >= scores[line.rate] - NEAR:
        high += 1
    return f"{rates[low]:g} to {rates[high]:g}" if low < high else f"{line.rate:g} alone"


def sent(line: Line, rolora: Line) -> str:
    """By all clients in a run."""
    ours, theirs = (fmean(end["bytes_up"] for end in x.final) for x in (line, rolora))
    return f"{byte_size(ours)}, {100 * ours / theirs:.3g} %"


def as_numbers(line: Line) -> dict[str, object]:
    """All runs of a line, JSON-able."""
    return {
        "place": line.place.key,
        "entrant": line.entrant.key,
        "rate": line.rate,
        "seeds": list(line.final),
        "tuning": [
            {"rate": rate, "seed": seed, "validation": end["accuracy"][-1]}
            for (rate, seed), end in sorted(line.grid.items())
        ],
    }
