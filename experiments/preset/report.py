"""What the runs of the search for a preset say: claims, tables, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from experiments import over_bytes
from experiments.claims import (
    Claim,
    Standing,
    above,
    in_points,
    not_below,
    p_text,
    paired,
    percent,
)
from experiments.claims import corrected as after_holm
from experiments.preset.config import FULL, PLAIN, SPLITS, PresetConfig, Split, split_in_words
from experiments.preset.runs import Line, Lines
from experiments.report import Table
from experiments.short_runs import COLLAPSED, collapsed
from experiments.tuning import rate_in_words
from rolora.records.units import byte_size
from rolora.report.statistics import FEWEST_SEEDS, PairedDifference

SOURCE = "beyond the paper"
NOT_WORSE = 0.01
"""By how much a recipe may end below RoLoRA and count as not worse."""


def splits_of(lines: Lines) -> list[Split]:
    """Those in which RoLoRA is finished, with which the others are compared."""
    return [split for split in SPLITS if (PLAIN, split) in lines]


def in_split(lines: Lines, split: Split) -> list[Line]:
    """The finished lines of a split, RoLoRA first, then from few pieces to many."""
    found = [line for (_, where), line in lines.items() if where == split]
    return sorted(found, key=lambda line: (len(line.recipe.pieces), line.recipe.key))


def difference(line: Line, rolora: Line) -> PairedDifference:
    """Of test accuracy, paired by seed."""
    return paired(line.test, rolora.test)


def corrected(lines: Lines, split: Split) -> dict[str, float | None]:
    """The p-value of each line against RoLoRA, after Holm's correction within the split's table."""
    rolora = lines[PLAIN, split]
    others = [line for line in in_split(lines, split) if line is not rolora]
    return after_holm({line.recipe.key: difference(line, rolora) for line in others})


# -- claims -------------------------------------------------------------------------------------


def claims(lines: Lines) -> Iterator[Claim]:
    """Of the recipe with all pieces, split by split."""
    for split in splits_of(lines):
        if (FULL, split) not in lines:
            continue
        ours, rolora = lines[FULL, split], lines[PLAIN, split]
        where = split_in_words(split)
        if split == "iid":
            yield _claim(
                f"All pieces: not a point below RoLoRA ({where})", *_not_worse(ours, rolora)
            )
        else:
            p = corrected(lines, split)[FULL.key]
            yield _claim(
                f"All pieces: ends above RoLoRA ({where})", *above(ours.test, rolora.test, p)
            )
        yield _claim(f"All pieces: no collapsed run ({where})", *_none_collapsed(ours))
        half = not_below(ours.validation(0.5), rolora.validation(), 0.0)
        yield _claim(
            f"All pieces: where RoLoRA ends in half of its rounds ({where})", *_enough(half, ours)
        )


def _claim(text: str, standing: Standing, evidence: str) -> Claim:
    return Claim(text, SOURCE, standing, evidence)


def _not_worse(line: Line, rolora: Line) -> tuple[Standing, str]:
    return _enough(not_below(line.test, rolora.test, NOT_WORSE), line)


def _enough(found: tuple[Standing, str], line: Line) -> tuple[Standing, str]:
    standing, evidence = found
    return (standing if len(line.test) >= FEWEST_SEEDS else "not decided at this size"), evidence


def _none_collapsed(line: Line) -> tuple[Standing, str]:
    count = sum(map(collapsed, line.final))
    return ("does not hold" if count else "holds"), f"{count} of {len(line.final)} runs collapsed"


# -- tables -------------------------------------------------------------------------------------

COLUMNS = (
    "",
    "rate",
    "validation, half of the rounds",
    "validation, last round",
    "test",
    "collapsed",
    "difference to RoLoRA, 95 % interval",
    "p",
    "p, Holm",
    "sent up, share of RoLoRA's",
    *over_bytes.COLUMNS,
)


def tables(lines: Lines) -> Iterator[Table]:
    """Each split in numbers."""
    for split in splits_of(lines):
        p_values = corrected(lines, split)
        rolora, found = lines[PLAIN, split], in_split(lines, split)
        sent = over_bytes.cells([line.final for line in found], rolora.final)
        rows = [
            (*_row(line, rolora, p_values), *cells) for line, cells in zip(found, sent, strict=True)
        ]
        yield Table(f"Accuracy in percent, {split_in_words(split)}", COLUMNS, tuple(rows))


def _row(line: Line, rolora: Line, p_values: Mapping[str, float | None]) -> tuple[str, ...]:
    test = difference(line, rolora)
    itself = line is rolora
    rates = sorted({rate for rate, _ in line.grid})
    return (
        line.recipe.label,
        rate_in_words(rates, line.rate),
        percent(line.validation(0.5)),
        percent(line.validation()),
        percent(line.test),
        f"{sum(map(collapsed, line.final))} of {len(line.final)}",
        "-" if itself else in_points(test),
        "-" if itself else p_text(test.p_value),
        "-" if itself else p_text(p_values[line.recipe.key]),
        _sent(line, rolora),
    )


def _sent(line: Line, rolora: Line) -> str:
    """By all clients in a run."""
    ours, theirs = (fmean(end["bytes_up"] for end in x.final) for x in (line, rolora))
    return f"{byte_size(ours)}, {100 * ours / theirs:.3g} %"


# -- words --------------------------------------------------------------------------------------


def summary(config: PresetConfig, lines: Lines) -> str:
    """What was run, as a paragraph or two."""
    waiting = [key for wave in config.waves() for key in wave if key not in lines]
    missing = ", ".join(f"{recipe.key} on {split}" for recipe, split in waiting)
    return (
        f"RoLoRA and up to four pieces more: the orthonormal gauge, carried optimiser state, the "
        f"loss calibrated by each client's own label shares (tau 1), weights by what these let a "
        f"client teach. {config.model} on {config.data.name or config.data.path}, in the "
        f"quickstart's shape: "
        f"{config.clients} clients, layers {config.layers}, {config.rounds} rounds of "
        f"{config.local_steps} steps of {config.batch_size}; the same seeds, shares, bytes and "
        f"steps for all. Each line has its own rate: that with the best mean validation accuracy "
        f"at seeds {' and '.join(map(str, config.tuning_seeds))}, which are not judged; of "
        f"{', '.join(f'{rate:g}' for rate in config.rates)}, and further by factors of "
        f"{config.widen_by:g} as long as the best lay at an end, within {config.bounds[0]:g} and "
        f"{config.bounds[1]:g}. The test examples are looked at once, after the last round. "
        f"{COLLAPSED}\n\n"
        f"Paired t-tests over {len(config.seeds)} seeds against RoLoRA, corrected by Holm's method "
        f"within each table. Every run is on one thread. "
        + (
            f"Not finished, and left out: {missing}."
            if waiting
            else "All that was asked for is here."
        )
    )


def results(lines: Lines) -> Mapping[str, Any]:
    """All runs, JSON-able."""
    return {
        "lines": [
            {
                "split": split,
                "recipe": recipe.key,
                "rate": line.rate,
                "seeds": list(line.final),
                "tuning": [
                    {"rate": rate, "seed": seed, "validation": end["accuracy"][-1]}
                    for (rate, seed), end in sorted(line.grid.items())
                ],
            }
            for (recipe, split), line in lines.items()
        ]
    }
