"""What the arena's runs say: claims, tables, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from experiments import over_bytes
from experiments.arena.config import FIRST, PLAIN, PRESETS, ArenaConfig, Competitor
from experiments.claims import Claim, above, in_points, p_text, paired, percent
from experiments.claims import corrected as after_holm
from experiments.contest import COLLAPSED, Line, Lines, unfinished
from experiments.places import Place
from experiments.report import Table
from experiments.standings import ENDS, as_numbers, corrected, ends, in_place, places_of
from rolora.report.statistics import FEWEST_SEEDS

SOURCE = "beyond the paper"
EQUAL_BYTES = (
    "validation at the bytes of RoLoRA's end",
    "difference there, 95 % interval",
    "p there, Holm",
)


def personal(line: Line) -> bool:
    """Whether every client ends with a model of its own, so that it does not compare."""
    return cast(Competitor, line.entrant).personal


def comparable(lines: Lines, place: Place) -> list[Line]:
    """The lines of one model for all, RoLoRA first."""
    return [line for line in in_place(lines, place) if not personal(line)]


def at_bytes(line: Line, rolora: Line) -> list[float]:
    """Validation accuracy when all clients had sent up what RoLoRA's send in its run, one a seed;
    of a line that sends less, at its end.
    """
    pairs = zip(line.final, rolora.final, strict=True)
    return [over_bytes.curve(ours).at(theirs["bytes_up"]) for ours, theirs in pairs]


def corrected_at_bytes(some: Sequence[Line], rolora: Line) -> dict[str, float | None]:
    """The p-values of :func:`at_bytes` against RoLoRA, after Holm's correction."""
    theirs = at_bytes(rolora, rolora)
    others = [line for line in some if line is not rolora]
    return after_holm({one.entrant.key: paired(at_bytes(one, rolora), theirs) for one in others})


# -- claims -------------------------------------------------------------------------------------


def claims(lines: Lines) -> Iterator[Claim]:
    """RoLoRA beside the paper's methods, at the end and at equal bytes; the presets beside it."""
    for place in places_of(lines):
        some, rolora = comparable(lines, place), lines[PLAIN.key, place.key]
        end, by_bytes = corrected(some, rolora), corrected_at_bytes(some, rolora)
        where = place.words
        for line in some:
            key, label = line.entrant.key, line.entrant.label
            if key in FIRST:
                found = above(rolora.test, line.test, end[key])
                yield Claim(f"RoLoRA ends above {label} ({where})", "Table 1", *found)
                ours, theirs = at_bytes(rolora, rolora), at_bytes(line, rolora)
                found = above(ours, theirs, by_bytes[key])
                yield Claim(f"RoLoRA above {label} at its bytes ({where})", "Table 1", *found)
            elif key in {preset.key for preset in PRESETS}:
                found = above(line.test, rolora.test, end[key])
                yield Claim(
                    f"{label[0].upper()}{label[1:]}: ends above RoLoRA ({where})", SOURCE, *found
                )


# -- tables -------------------------------------------------------------------------------------


def tables(lines: Lines) -> Iterator[Table]:
    """All places beside each other, then each in numbers."""
    if len(places_of(lines)) > 1:
        yield overview(lines)
    for place in places_of(lines):
        yield in_numbers(lines, place)


def overview(lines: Lines) -> Table:
    """Test accuracy, a column a place; marked where it is told apart from RoLoRA's."""
    places = places_of(lines)
    entrants = {key: line.entrant for (key, _), line in lines.items()}
    p_values = {
        place.key: corrected(comparable(lines, place), lines[PLAIN.key, place.key])
        for place in places
    }
    rows = []
    for key, entrant in entrants.items():
        cells = [_marked(lines.get((key, p.key)), p_values[p.key].get(key)) for p in places]
        rows.append((entrant.label, *cells))
    title = "Test accuracy in percent; * told apart from RoLoRA's after Holm's correction"
    return Table(title, ("", *(place.words for place in places)), tuple(rows))


def _marked(line: Line | None, p: float | None) -> str:
    if line is None:
        return "not run"
    lost = f", {line.collapsed} collapsed" if line.collapsed else ""
    own = ", on each client's own share" if personal(line) else ""
    star = " *" if p is not None and p < 0.05 and len(line.test) >= FEWEST_SEEDS else ""
    return percent(line.test) + star + lost + own


def in_numbers(lines: Lines, place: Place) -> Table:
    """A place in numbers: at equal steps, then at equal bytes."""
    rolora, found = lines[PLAIN.key, place.key], in_place(lines, place)
    some = [line for line in found if not personal(line)]
    p_values, p_at_bytes = corrected(some, rolora), corrected_at_bytes(some, rolora)
    sent = over_bytes.cells([line.final for line in found], rolora.final)
    rows = [
        (*ends(line, rolora, p_values), *_equal_bytes(line, rolora, p_at_bytes), *cells)
        for line, cells in zip(found, sent, strict=True)
    ]
    columns = (*ENDS, *EQUAL_BYTES, *over_bytes.COLUMNS)
    return Table(f"Accuracy in percent, {place.words}", columns, tuple(rows))


def _equal_bytes(
    line: Line, rolora: Line, p_values: Mapping[str, float | None]
) -> tuple[str, str, str]:
    ours = at_bytes(line, rolora)
    if line is rolora or personal(line):
        return percent(ours), "-", "-"
    test = paired(ours, at_bytes(rolora, rolora))
    return percent(ours), in_points(test), p_text(p_values.get(line.entrant.key))


# -- words --------------------------------------------------------------------------------------


def summary(config: ArenaConfig, lines: Lines) -> str:
    """What was run, as a paragraph or two."""
    waiting = unfinished(config, lines)
    return (
        f"All methods, tuned alike, {config.rounds} rounds each with the same seeds, shares and "
        f"local steps. Each has its own rate in each place: that with the best mean validation "
        f"accuracy at seeds {' and '.join(map(str, config.tuning_seeds))}, which are not judged; "
        f"three rates to begin with, and further by factors of two as long as the best lay at an "
        f"end. The test examples are looked at once, after the last round. A method that sends "
        f"both factors sends twice as much in as many rounds: so that bytes compare, its "
        f"validation accuracy is also read where its clients had sent up what RoLoRA's send in "
        f"all, linear between looks, which is half of its rounds. {COLLAPSED} A method whose "
        f"clients keep models of their own is scored on each client's own examples, which is "
        f"another question; it is not compared.\n\n"
        f"MNIST: the two-layer net with as many hidden units as pixels, SGD with momentum 0.9, "
        f"rank 16. Texts: MiniLM with rank 4 in the pooler alone, AdamW; MMLU's questions and "
        f"their topics are a task of 26 labels. With 50 clients MNIST's batches are of 16, not "
        f"64.\n\n"
        f"Paired t-tests over {len(config.seeds)} seeds against RoLoRA, corrected by Holm's method "
        f"within each place, for the end and for equal bytes each. Every run is on one thread. "
        + (f"Not finished, and left out: {', '.join(waiting)}." if waiting else "All is here.")
    )


def results(lines: Lines) -> Mapping[str, Any]:
    """All runs, JSON-able."""
    return {"lines": [as_numbers(line) for line in lines.values()]}
