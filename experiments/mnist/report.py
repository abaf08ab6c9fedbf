"""What the MNIST runs say: the paper's claims decided, tables, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import log10
from statistics import fmean
from typing import Any

from experiments.claims import Claim, greater, mean_std, not_below
from experiments.mnist.data import Mnist
from experiments.mnist.runs import (
    FFA,
    GAUGE,
    LORA,
    ROLORA,
    SPLITS,
    VARIANTS,
    MnistConfig,
    Runs,
    SplitOfDigits,
    Variant,
)
from experiments.report import Table
from experiments.short_runs import Ending
from experiments.tuning import rate_in_words
from rolora.records.units import byte_size

PAPER, BEYOND = "Figure 2", "beyond the paper"
INITS = {
    "base": "a random frozen base weight under the adapter and B = 0",
    "both": "no base weight, A and B both random",
    "zero": "no base weight and B = 0: every ReLU is dead and nothing trains",
}


# -- claims -------------------------------------------------------------------------------------


def claims(config: MnistConfig, runs: Runs) -> Iterator[Claim]:
    """The paper's, split by split, then those beyond it."""
    for split in SPLITS:
        yield from _paper_claims(config, runs, split)
    for split in SPLITS:
        yield from _gauge_claims(config, runs, split)
    if config.figures == "both":
        for split in SPLITS:
            yield from _sensitivity_claims(config, runs, split)


def _paper_claims(config: MnistConfig, runs: Runs, split: SplitOfDigits) -> Iterator[Claim]:
    for words, measure in (("ends", _test), ("is on average over the rounds", _over_rounds)):
        ours, lora, ffa = (
            [measure(result) for result in runs.final[variant.key, split.key]]
            for variant in (ROLORA, LORA, FFA)
        )
        where = f"({split.words})"
        yield Claim(f"RoLoRA {words} above LoRA {where}", PAPER, *greater(ours, lora))
        yield Claim(f"RoLoRA {words} above FFA-LoRA {where}", PAPER, *greater(ours, ffa))
        yield Claim(
            f"LoRA {words} above FFA-LoRA or near it, at most {config.near:g} below {where}",
            PAPER,
            *not_below(lora, ffa, config.near),
        )


def _gauge_claims(config: MnistConfig, runs: Runs, split: SplitOfDigits) -> Iterator[Claim]:
    ours, plain = (runs.final[variant.key, split.key] for variant in (GAUGE, ROLORA))
    where = f"({split.words})"
    for words, measure in (("ends", _test), ("is on average over the rounds", _over_rounds)):
        standing, evidence = greater(list(map(measure, ours)), list(map(measure, plain)))
        text = f"The orthonormal gauge {words} above RoLoRA {where}"
        yield Claim(text, BEYOND, standing, evidence)
    third = config.rounds // 3
    yield Claim(
        f"The orthonormal gauge has after {third} rounds what RoLoRA has after {config.rounds}, "
        f"at most {config.near:g} below {where}",
        BEYOND,
        *not_below(
            [result["accuracy"][third - 1] for result in ours],
            [result["accuracy"][-1] for result in plain],
            config.near,
        ),
    )


def _sensitivity_claims(config: MnistConfig, runs: Runs, split: SplitOfDigits) -> Iterator[Claim]:
    for ours, theirs in ((ROLORA, LORA), (ROLORA, FFA), (GAUGE, ROLORA)):
        standing, evidence = greater(
            decades(config, runs, ours, split), decades(config, runs, theirs, split)
        )
        yield Claim(
            f"{ours.label} is within {config.within:g} of its best over a wider range of "
            f"learning rates than {theirs.label} ({split.words})",
            "sensitivity, not the paper's",
            standing,
            f"powers of ten of the rate: {evidence}",
        )


def _test(result: Ending) -> float:
    assert result["test_accuracy"] is not None
    return result["test_accuracy"]


def _over_rounds(result: Ending) -> float:
    return fmean(result["accuracy"])


# -- sensitivity to the learning rate -----------------------------------------------------------


def good_rates(
    rates: Sequence[float], accuracies: Sequence[float], within: float
) -> tuple[float, float]:
    """The ends of the unbroken range of rates around the best that lose at most `within`.

    Between two rates the accuracy is taken as linear in the rate's logarithm; beyond the first
    and the last nothing is known, so a range that reaches them may be wider.

    Args:
        rates: ascending.
        accuracies: one a rate.
        within: what may be lost.
    """
    pairs = list(zip(rates, accuracies, strict=True))
    best = max(range(len(pairs)), key=lambda i: pairs[i][1])
    least = pairs[best][1] - within
    return _crossing(pairs[best::-1], least), _crossing(pairs[best:], least)


def _crossing(pairs: Sequence[tuple[float, float]], least: float) -> float:
    """The rate at which the accuracy falls to `least` on the way from the first pair on."""
    for (rate, accuracy), (beyond, worse) in pairwise(pairs):
        if worse < least:
            return rate * (beyond / rate) ** ((accuracy - least) / (accuracy - worse))
    return pairs[-1][0]


def at_rates(
    config: MnistConfig, runs: Runs, variant: Variant, split: SplitOfDigits, seed: int
) -> list[float]:
    """Validation accuracy after the last round, one a rate."""
    line = (variant.key, split.key)
    return [runs.grid[line, rate, seed]["accuracy"][-1] for rate in config.rates]


def decades(config: MnistConfig, runs: Runs, variant: Variant, split: SplitOfDigits) -> list[float]:
    """Width of :func:`good_rates` in powers of ten, one a seed of the rate figure."""
    widths = []
    for seed in config.rate_seeds:
        accuracies = at_rates(config, runs, variant, split, seed)
        low, high = good_rates(config.rates, accuracies, config.within)
        widths.append(log10(high / low))
    return widths


# -- tables and words ---------------------------------------------------------------------------


def summary(config: MnistConfig, mnist: Mnist) -> str:
    """What was run, as a paragraph."""
    local = (
        f"{config.local_epochs} local epochs"
        if config.local_epochs
        else f"{config.local_steps} local steps"
    )
    return (
        f"f(x) = W_out ReLU(W_0 x + s B A x) with W_0 and W_out fixed, width {config.width}, rank "
        f"{config.r}, s = {config.lora_alpha / config.r:g}; {INITS[config.init]}. Data: "
        f"{mnist.source}; {config.validation:.0%} of the training digits are held back for "
        f"validation. {config.rounds} rounds of {local} of {config.batch_size} "
        f"({optimizer_words(config)}), all clients in every round, {len(config.seeds)} seeds. Each "
        f"method's learning rate is, for each split, the best of {len(config.rates)} by "
        f"validation accuracy at seed {config.tuning_seed}, which is none of the seeds that are "
        "judged; the test digits are looked at once, after the last round of these. A seed draws "
        "W_0, W_out, A, the validation digits and the batches; which digits lie together with one "
        "of five clients is the same for all seeds.\n\n"
        "Centralised trains A and B of the same net in one place, in as many steps, each on as "
        "many digits as all the clients' batches together: as if the clients averaged after every "
        "step. A run that diverges scores chance from then on. Every test below stands by itself "
        "at 5 %, not corrected for their number."
    )


def optimizer_words(config: MnistConfig) -> str:
    """The clients' optimiser, and its momentum where it has some."""
    return config.optimizer + (f", momentum {config.momentum:g}" if config.momentum else "")


def tables(config: MnistConfig, runs: Runs) -> Iterator[Table]:
    """Beside the paper; each split in numbers; the learning rates."""
    yield _paper_table(runs)
    for split in SPLITS:
        yield _split_table(config, runs, split)
    if config.figures == "both":
        for split in SPLITS:
            yield _rate_table(config, runs, split)


def _paper_table(runs: Runs) -> Table:
    rows = []
    for split in SPLITS:
        ends = {
            variant.label: fmean(map(_test, runs.final[variant.key, split.key]))
            for variant in (ROLORA, LORA, FFA)
        }
        order = sorted(ends, key=lambda label: -ends[label])
        rows.append(
            (
                split.words,
                "RoLoRA above LoRA above or near FFA-LoRA",
                ", ".join(f"{label} {ends[label]:.3f}" for label in order),
            )
        )
    title = (
        "Test accuracy at the end, beside the paper's Figure 2, whose numbers are not known here"
    )
    return Table(title, ("", "paper", "here"), tuple(rows))


def _split_table(config: MnistConfig, runs: Runs, split: SplitOfDigits) -> Table:
    third, last = config.rounds // 3, config.rounds
    columns = (
        "",
        "rate",
        f"validation, round {third}",
        f"validation, round {last}",
        "mean over rounds",
        f"test, round {last}",
        "sent up by a client",
    )
    rows = tuple(_split_row(config, runs, variant, split) for variant in VARIANTS)
    return Table(f"Accuracy, {split.words}", columns, rows)


def _split_row(
    config: MnistConfig, runs: Runs, variant: Variant, split: SplitOfDigits
) -> tuple[str, ...]:
    results = runs.final[variant.key, split.key]
    third = config.rounds // 3
    sent = fmean(result["bytes_up"] for result in results) / split.clients / config.rounds
    diverged = sum(result["diverged"] for result in results)
    return (
        variant.label + (f" ({diverged} of {len(results)} diverged)" if diverged else ""),
        rate_in_words(config.rates, runs.chosen[variant.key, split.key]),
        mean_std([result["accuracy"][third - 1] for result in results]),
        mean_std([result["accuracy"][-1] for result in results]),
        mean_std([_over_rounds(result) for result in results]),
        mean_std([_test(result) for result in results]),
        "-" if variant.pooled else f"{byte_size(sent)} a round",
    )


def _rate_table(config: MnistConfig, runs: Runs, split: SplitOfDigits) -> Table:
    columns = (
        "",
        "best rate",
        "accuracy there",
        f"rates within {config.within:g} of the best",
        "powers of ten, seed by seed",
        "mean over all rates",
    )
    rows = []
    for variant in VARIANTS:
        seeds = [at_rates(config, runs, variant, split, seed) for seed in config.rate_seeds]
        means = [fmean(values) for values in zip(*seeds, strict=True)]
        best = max(range(len(means)), key=lambda i: means[i])
        low, high = good_rates(config.rates, means, config.within)
        rows.append(
            (
                variant.label,
                rate_in_words(config.rates, config.rates[best]),
                mean_std([values[best] for values in seeds]),
                f"{low:.2g} to {high:.2g}",
                mean_std(decades(config, runs, variant, split)),
                mean_std([fmean(values) for values in seeds]),
            )
        )
    title = f"Validation accuracy at the end over the learning rate, {split.words}"
    return Table(title, columns, tuple(rows))


def results(runs: Runs) -> Mapping[str, Any]:
    """All curves, JSON-able."""
    final = {
        f"{variant} {split}": {"rate": runs.chosen[variant, split], "seeds": list(found)}
        for (variant, split), found in runs.final.items()
    }
    grid = [
        {
            "variant": variant,
            "split": split,
            "rate": rate,
            "seed": seed,
            "validation": found["accuracy"][-1],
            "diverged": found["diverged"],
        }
        for ((variant, split), rate, seed), found in runs.grid.items()
    ]
    return {"final": final, "grid": grid}
