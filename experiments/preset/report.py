"""What the runs of the search for a preset say: claims, tables, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from experiments import over_bytes
from experiments.claims import Claim, Standing, above, all_hold, not_below
from experiments.contest import COLLAPSED, Line, Lines, unfinished
from experiments.places import Place
from experiments.preset.config import FULL, PLAIN, PresetConfig, Recipe
from experiments.report import Table
from experiments.standings import ENDS, as_numbers, corrected, ends, in_place, places_of
from rolora.report.statistics import FEWEST_SEEDS

SOURCE = "beyond the paper"
NOT_WORSE = 0.01
"""By how much a recipe may end below RoLoRA and count as not worse."""
COLUMNS = (*ENDS, *over_bytes.COLUMNS)


def by_pieces(lines: Lines, place: Place) -> list[Line]:
    """The finished lines of a place, RoLoRA first, then from few pieces to many."""

    def order(line: Line) -> tuple[int, str]:
        return len(cast(Recipe, line.entrant).pieces), line.entrant.key

    return sorted(in_place(lines, place), key=order)


# -- claims -------------------------------------------------------------------------------------


def claims(lines: Lines) -> Iterator[Claim]:
    """Of the recipe with all pieces: the rule by which it is recommended, then place by place."""
    places = [place for place in places_of(lines) if (FULL.key, place.key) in lines]
    ruled = [claim for place in places for claim in (_ends(lines, place), _steady(lines, place))]
    if places:
        yield _rule(ruled)
    yield from ruled
    for place in places:
        ours, rolora = lines[FULL.key, place.key], lines[PLAIN.key, place.key]
        half = not_below(ours.validation(0.5), rolora.validation(), 0.0)
        what = "where RoLoRA ends in half of its rounds"
        yield _claim(f"All pieces: {what} ({place.words})", *_enough(half, ours))


def _rule(ruled: Sequence[Claim]) -> Claim:
    """It takes every claim to hold, so that none is more easily met for being one of many."""
    text = (
        "All pieces are what to run: above RoLoRA wherever labels are skewed, not a point below it "
        "where they are not, and never collapsed"
    )
    holding = sum(claim.standing == "holds" for claim in ruled)
    evidence = f"{holding} of the {len(ruled)} claims below that say so hold"
    return _claim(text, all_hold(*(claim.standing for claim in ruled)), evidence)


def _ends(lines: Lines, place: Place) -> Claim:
    ours, rolora = lines[FULL.key, place.key], lines[PLAIN.key, place.key]
    if place.base.partition.name == "iid":
        text = f"All pieces: not a point below RoLoRA ({place.words})"
        return _claim(text, *_not_worse(ours, rolora))
    p = corrected(in_place(lines, place), rolora)[FULL.key]
    text = f"All pieces: ends above RoLoRA ({place.words})"
    return _claim(text, *above(ours.test, rolora.test, p))


def _steady(lines: Lines, place: Place) -> Claim:
    ours = lines[FULL.key, place.key]
    return _claim(f"All pieces: no collapsed run ({place.words})", *_none_collapsed(ours))


def _claim(text: str, standing: Standing, evidence: str) -> Claim:
    return Claim(text, SOURCE, standing, evidence)


def _not_worse(line: Line, rolora: Line) -> tuple[Standing, str]:
    return _enough(not_below(line.test, rolora.test, NOT_WORSE), line)


def _enough(found: tuple[Standing, str], line: Line) -> tuple[Standing, str]:
    standing, evidence = found
    return (standing if len(line.test) >= FEWEST_SEEDS else "not decided at this size"), evidence


def _none_collapsed(line: Line) -> tuple[Standing, str]:
    lost = line.collapsed
    return ("does not hold" if lost else "holds"), f"{lost} of {len(line.final)} runs collapsed"


# -- tables -------------------------------------------------------------------------------------


def tables(lines: Lines) -> Iterator[Table]:
    """Each place in numbers."""
    for place in places_of(lines):
        rolora, found = lines[PLAIN.key, place.key], by_pieces(lines, place)
        p_values = corrected(found, rolora)
        sent = over_bytes.cells([line.final for line in found], rolora.final)
        rows = [
            (*ends(line, rolora, p_values), *cells) for line, cells in zip(found, sent, strict=True)
        ]
        yield Table(f"Accuracy in percent, {place.words}", COLUMNS, tuple(rows))


# -- words --------------------------------------------------------------------------------------


def summary(config: PresetConfig, lines: Lines) -> str:
    """What was run, as a paragraph or two."""
    waiting = unfinished(config, lines)
    return (
        f"RoLoRA and up to four pieces more: the orthonormal gauge, carried optimiser state, the "
        f"loss calibrated by each client's own label shares (tau 1), weights by what these let a "
        f"client teach; and, by itself, the schedule BBA from the default start. The quickstart's "
        f"shape ({config.model} on {config.data.name or config.data.path}, {config.clients} "
        f"clients, layers {config.layers}, {config.local_steps} steps of {config.batch_size}) with "
        f"its labels in four splits, and places of the arena; {config.rounds} rounds, the same "
        f"seeds, shares, bytes and steps for all. Each line has its own rate in each place: that "
        f"with the best mean validation accuracy at seeds "
        f"{' and '.join(map(str, config.tuning_seeds))}, which are not judged; three rates to "
        f"begin with, and further by factors of two as long as the best lay at an end. The test "
        f"examples are looked at once, after the last round. {COLLAPSED}\n\n"
        f"Paired t-tests over {len(config.seeds)} seeds against RoLoRA, corrected by Holm's method "
        f"within each table. Every run is on one thread. "
        + (
            f"Not finished, and left out: {', '.join(waiting)}."
            if waiting
            else "All that was asked for is here."
        )
    )


def results(lines: Lines) -> Mapping[str, Any]:
    """All runs, JSON-able."""
    return {"lines": [as_numbers(line) for line in lines.values()]}
