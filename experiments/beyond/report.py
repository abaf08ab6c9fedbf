"""What the runs of what comes after RoLoRA say: claims, tables, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from experiments.beyond.config import BeyondConfig
from experiments.beyond.runs import Line, Lines, Place
from experiments.claims import (
    Claim,
    Standing,
    above,
    all_hold,
    corrected,
    in_points,
    p_text,
    paired,
    percent,
)
from experiments.methods import ROLORA
from experiments.mnist.report import optimizer_words
from experiments.report import Table
from experiments.tuning import rate_in_words
from rolora.records.units import byte_size
from rolora.report.statistics import FEWEST_SEEDS, PairedDifference

SOURCE = "beyond the paper"


def places(lines: Lines) -> list[Place]:
    """In the order of the runs."""
    return list(dict.fromkeys(line.place for line in lines.values()))


def beside_rolora(lines: Lines, place: Place) -> Iterator[tuple[Line, Line]]:
    """Each variant's line in a place, with RoLoRA's."""
    for line in lines.values():
        if line.place == place and line.variant.key != ROLORA:
            yield line, lines[place.key, ROLORA]


# -- claims -------------------------------------------------------------------------------------


def claims(config: BeyondConfig, lines: Lines) -> Iterator[Claim]:
    """Place by place; then, where there are both tasks, each variant in all places."""
    found: dict[str, list[tuple[Place, Standing]]] = {}
    for place in places(lines):
        p_values = after_holm(lines, place)
        for line, rolora in beside_rolora(lines, place):
            standing, evidence = above(line.test, rolora.test, p_values[line.variant.key])
            label = _capital(line.variant.label)
            yield Claim(f"{label}: ends above RoLoRA ({place.words})", SOURCE, standing, evidence)
            found.setdefault(label, []).append((place, standing))
    if config.on == "both":
        for label, standings in found.items():
            evidence = "; ".join(f"{place.words}: {standing}" for place, standing in standings)
            text = f"{label}: ends above RoLoRA on both tasks, in every place"
            yield Claim(text, SOURCE, all_hold(*(s for _, s in standings)), evidence)


def difference(line: Line, rolora: Line) -> PairedDifference:
    """Of test accuracy, paired by seed."""
    return paired(line.test, rolora.test)


def after_holm(lines: Lines, place: Place) -> dict[str, float | None]:
    """Each variant's p-value against RoLoRA, corrected for all of a place's."""
    pairs = beside_rolora(lines, place)
    return corrected({line.variant.key: difference(line, rolora) for line, rolora in pairs})


# -- tables -------------------------------------------------------------------------------------


def tables(lines: Lines) -> Iterator[Table]:
    """Each place in numbers."""
    columns = (
        "",
        "rate",
        "validation, mean over rounds",
        "validation, last round",
        "test",
        "difference to RoLoRA, 95 % interval",
        "p",
        "p, Holm",
        "sent up, share of RoLoRA's",
        "seconds",
    )
    for place in places(lines):
        rolora, p_values = lines[place.key, ROLORA], after_holm(lines, place)
        rows = [_row(line, rolora, p_values) for line in lines.values() if line.place == place]
        yield Table(f"Accuracy in percent, {place.words}", columns, tuple(rows))


def _row(line: Line, rolora: Line, p_values: Mapping[str, float | None]) -> tuple[str, ...]:
    diverged = sum(end["diverged"] for end in line.final)
    test = None if line is rolora else difference(line, rolora)
    return (
        _capital(line.variant.label)
        + (f" ({diverged} of {len(line.final)} diverged)" if diverged else ""),
        rate_in_words(list(line.grid), line.rate),
        percent([fmean(end["accuracy"]) for end in line.final]),
        percent([end["accuracy"][-1] for end in line.final]),
        percent(line.test),
        "-" if test is None else in_points(test),
        p_text(None if test is None else test.p_value),
        p_text(p_values.get(line.variant.key)),
        _sent(line, rolora),
        f"{fmean(end['seconds'] for end in line.final):.0f}",
    )


def _sent(line: Line, rolora: Line) -> str:
    """By all clients in a run."""
    ours, theirs = (fmean(end["bytes_up"] for end in x.final) for x in (line, rolora))
    return f"{byte_size(ours)}, {100 * ours / theirs:.3g} %"


def _capital(label: str) -> str:
    return label[0].upper() + label[1:]


# -- words --------------------------------------------------------------------------------------


def summary(config: BeyondConfig, lines: Lines) -> str:
    """What was run, as a paragraph or two."""
    sources = dict.fromkeys(place.data for place in places(lines))
    words = {"mnist": _mnist_words(config), "glue": _glue_words(config)}
    asked = words if config.on == "both" else (config.on,)
    return (
        "Variants of RoLoRA that aggregate exactly and send one factor a round, beside RoLoRA "
        "itself: the same seeds, data, rounds and local steps. Each variant's learning rate is, "
        "for each place, the one with the best validation accuracy at the tuning seed, which is "
        "none of the seeds that are judged; the test examples are looked at once, after the last "
        "round of these. A run that diverges scores chance from then on. "
        f"{' '.join(words[half] for half in asked)} Data: {'; '.join(sources)}.\n\n"
        "A claim is decided by a two-sided paired t-test over the seeds at 5 %, with "
        f"{FEWEST_SEEDS} seeds at least, corrected by Holm's method for all variants of a place."
    )


def _mnist_words(config: BeyondConfig) -> str:
    mnist = config.mnist
    steps = f"{mnist.local_epochs} epochs" if mnist.local_epochs else f"{mnist.local_steps} steps"
    return (
        f"MNIST: the two-layer net of the experiment mnist with {mnist.width} hidden units, rank "
        f"{mnist.r}, {mnist.rounds} rounds of {steps} of {mnist.batch_size} "
        f"({optimizer_words(mnist)}), {len(mnist.seeds)} seeds, {len(mnist.rates)} rates."
    )


def _glue_words(config: BeyondConfig) -> str:
    glue = config.glue
    return (
        f"Language: {glue.model}, adapters in layers {glue.layers}, rank "
        f"{' and '.join(map(str, glue.ranks))}, {glue.local_steps} local steps (AdamW), "
        f"{len(glue.seeds)} seeds, {len(glue.rates)} rates."
    )


def results(lines: Lines) -> Mapping[str, Any]:
    """All runs, JSON-able."""
    return {
        "lines": [
            {
                "place": line.place.key,
                "variant": line.variant.key,
                "rate": line.rate,
                "seeds": list(line.final),
                "tuning": {
                    f"{rate:g}": {"validation": end["accuracy"][-1], "diverged": end["diverged"]}
                    for rate, end in line.grid.items()
                },
            }
            for line in lines.values()
        ]
    }
