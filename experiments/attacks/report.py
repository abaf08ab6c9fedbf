"""What the runs under attack say: claims, tables, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from experiments.attacks.config import DEFENCES, NONE, AttacksConfig, Case
from experiments.attacks.runs import Result, Results
from experiments.claims import Claim, compared, mean_std
from experiments.report import Table
from rolora.attacks import ATTACKS

SOURCE = "beyond the paper"
CHANCE = 0.5
"""What a run that failed scores: of two labels, as frequent as each other."""
HELD_BY: Mapping[str, str] = {
    "sign_flip": "median",
    "scaled": "geometric_median",
    "noise": "median",
    "inner_product": "geometric_median",
    "label_flip": "neighbour_mixing",
    "backdoor": "multi_krum",
}
"""The defence that the tests name for each attack; for ALIE they name none."""
SHARE = 0.2
"""Of the clients, at which claims are decided."""


def accuracy(result: Result) -> float:
    """On the test examples; chance where the run failed."""
    return CHANCE if result["accuracy"] is None else result["accuracy"]


def obeyed(result: Result) -> float:
    """How often the phrase gives its label; chance where the run failed."""
    return CHANCE if result["obeyed"] is None else result["obeyed"]


def over_seeds(
    results: Results, attack: str | None, fraction: float, defence: str
) -> dict[int, Result]:
    """The finished runs of a place in the table, by seed."""
    return {
        case.seed: result
        for case, result in results.items()
        if (case.attack, case.fraction, case.defence) == (attack, fraction, defence)
    }


# -- claims -------------------------------------------------------------------------------------


def claims(config: AttacksConfig, results: Results) -> Iterator[Claim]:
    """Of a fifth of the clients: which attacks hurt the plain mean, and whether the defence that
    the tests name for each is better than none; corrected for their number.
    """
    asked = (question for attack in config.attacks for question in _asked(results, attack))
    return compared(dict(asked), SOURCE)


def _asked(
    results: Results, attack: str
) -> Iterator[tuple[str, tuple[Sequence[float], Sequence[float]]]]:
    """What is claimed of an attack, and what ought to be more beside what ought to be less."""
    hurt, without = (over_seeds(results, who, SHARE, NONE) for who in (attack, None))
    defence = HELD_BY.get(attack, NONE)
    held = over_seeds(results, attack, SHARE, defence) if defence != NONE else {}
    label = DEFENCES[defence].label
    if ATTACKS[attack].triggered:
        of = obeyed
        claimed = (
            ("the phrase is obeyed more often, under the plain mean", hurt, without),
            (f"{label} obeys the phrase less often than the mean", hurt, held),
        )
    else:
        of = accuracy
        claimed = (
            ("the plain mean ends below itself with nobody hostile", without, hurt),
            (f"{label} ends above the mean", held, hurt),
        )
    for text, more, less in claimed:
        if seeds := sorted(set(more) & set(less)):
            pair = [of(more[seed]) for seed in seeds], [of(less[seed]) for seed in seeds]
            yield f"{attack}: {text} ({SHARE:.0%} hostile)", pair


# -- tables -------------------------------------------------------------------------------------


def tables(config: AttacksConfig, results: Results) -> Iterator[Table]:
    """Test accuracy, a table a fraction; how often the phrase is obeyed; who was refused."""
    labels = ("", *(DEFENCES[name].label for name in config.defences))
    for fraction in config.fractions:
        rows = [
            (attack or "nobody hostile", *_row(config, results, attack, fraction, accuracy))
            for attack in (None, *config.attacks)
        ]
        title = f"Test accuracy in percent, {fraction:.0%} of the clients hostile"
        yield Table(title, labels, tuple(rows))
    triggered = [name for name in config.attacks if ATTACKS[name].triggered]
    for attack in triggered:
        title = "Test texts of the other label that the phrase turns, in percent"
        rows = [
            (f"{attack}, {fraction:.0%}", *_row(config, results, attack, fraction, obeyed))
            for fraction in config.fractions
        ]
        nobody = [
            (f"nobody, told {fraction:.0%}", *_row(config, results, None, fraction, obeyed))
            for fraction in config.fractions
        ]
        yield Table(title, labels, (*nobody, *rows))
    yield from _refusals(config, results)


def _row(
    config: AttacksConfig, results: Results, attack: str | None, fraction: float, of: Any
) -> Iterator[str]:
    for defence in config.defences:
        if not DEFENCES[defence].possible(fraction, config.clients):
            yield "too few clients"
            continue
        found = over_seeds(results, attack, fraction, defence).values()
        yield _cell([100 * of(result) for result in found], len(config.seeds)) if found else "-"


def _cell(values: Sequence[float], wanted: int) -> str:
    """Mean and spread, with the number of seeds where not all are finished."""
    return mean_std(values) + ("" if len(values) == wanted else f" (n = {len(values)})")


def _refusals(config: AttacksConfig, results: Results) -> Iterator[Table]:
    """Of the judged mean, which alone names clients."""
    judged = [name for name in config.defences if DEFENCES[name].max_jump is not None]
    rows = []
    for attack in config.attacks:
        for fraction in config.fractions:
            found = [r for d in judged for r in over_seeds(results, attack, fraction, d).values()]
            hostile = fmean([r["refused_hostile"] for r in found] or [0])
            honest = fmean([r["refused_honest"] for r in found] or [0])
            if hostile + honest:
                rows.append((attack, f"{fraction:.0%}", f"{hostile:.1f}", f"{honest:.1f}"))
    if rows:
        columns = ("", "hostile clients", "updates of hostile clients", "of honest ones")
        yield Table("Updates refused in a run, under the judged mean", columns, tuple(rows))


# -- words --------------------------------------------------------------------------------------


def summary(config: AttacksConfig, results: Results) -> str:
    """What was run, as a paragraph or two."""
    wanted = [case for wave in config.waves() for case in wave]
    missing = sum(case not in results for case in wanted)
    cells = {id(result): result for result in results.values()}
    failed = sum(result["accuracy"] is None for result in results.values())
    return (
        f"RoLoRA with some clients hostile. {config.model} on "
        f"{config.data.name or config.data.path}, {config.clients} clients with equal shares, "
        f"adapters in BERT's pooler, {config.rounds} rounds of {config.local_steps} steps "
        f"of {config.batch_size}, AdamW at {config.lr:g}, a rate chosen on the validation examples "
        f"of a seed that is not judged, with nobody hostile, and the same for all. Hostile clients "
        f"are drawn of the seed and know every honest change of the round. Rules that must be told "
        f"how many lie are told the truth. Test examples are looked at once, after the last round. "
        f"A run that failed counts as chance ({failed} did).\n\n"
        f"{len(config.seeds)} seeds; "
        + (
            f"{missing} of {len(wanted)} places are not finished, and each mean says of how many."
            if missing
            else "all that was asked for is here."
        )
        + f" A run takes {median(r['seconds'] for r in cells.values()):.1f} s in the median, on "
        "one thread of a machine that did other work."
        if cells
        else "Nothing is finished."
    )


def results_table(results: Results) -> Mapping[str, Any]:
    """All runs, JSON-able."""
    return {"runs": [{**_place(case), **result} for case, result in results.items()]}


def _place(case: Case) -> dict[str, Any]:
    return {
        "attack": case.attack,
        "fraction": case.fraction,
        "defence": case.defence,
        "seed": case.seed,
    }
