"""What the MNIST experiment decides from its runs, and says."""

import pytest
from invented import SPREAD

from experiments.mnist.report import claims, good_rates, tables
from experiments.mnist.runs import (
    CENTRALISED,
    FFA,
    FLEXLORA,
    GAUGE,
    LORA,
    ROLORA,
    SPLITS,
    VARIANTS,
    MnistConfig,
    Runs,
)
from experiments.short_runs import Ending

FIVE, TEN = SPLITS


def result(end, test=None, rounds=3):
    """Accuracy rising in a line to `end`."""
    curve = [end * (i + 1) / rounds for i in range(rounds)]
    return Ending(
        accuracy=curve, test_accuracy=test, diverged=False, bytes_up=0, bytes_down=0, seconds=0.0
    )


def runs_where(ends, grid=None, figures="rounds"):
    """Five seeds of every line around the end of its variant; jitter differs between variants."""
    settings = MnistConfig(rounds=3, figures=figures, rates=(0.01, 0.1, 1.0))
    final, chosen, table = {}, {}, {}
    for place, variant in enumerate(VARIANTS):
        jitter = [SPREAD[(i + place) % 5] / 10 for i in range(5)]
        for split in SPLITS:
            line = (variant.key, split.key)
            ends_here = [ends[variant] + SPREAD[i] + jitter[i] for i in range(5)]
            final[line] = [result(end, end) for end in ends_here]
            chosen[line] = 0.1
            for rate in settings.rates:
                for i, seed in enumerate(settings.rate_seeds):
                    end = (grid or {}).get((variant, rate), 0.5) * (1 + jitter[i])
                    table[line, rate, seed] = result(end)
    return settings, Runs(table, chosen, final)


def standings(settings, runs):
    return {claim.text: claim.standing for claim in claims(settings, runs)}


ENDS = {CENTRALISED: 0.9, GAUGE: 0.88, ROLORA: 0.8, LORA: 0.7, FLEXLORA: 0.6, FFA: 0.6}
PAIRS = {
    "RoLoRA ends above LoRA": (ROLORA, LORA),
    "RoLoRA ends above FFA-LoRA": (ROLORA, FFA),
    "LoRA ends above FFA-LoRA or near it": (LORA, FFA),
    "The orthonormal gauge ends above RoLoRA": (GAUGE, ROLORA),
}


def test_claims_hold_where_the_numbers_say_so():
    found = standings(*runs_where(ENDS))
    for start in PAIRS:
        told = [standing for text, standing in found.items() if text.startswith(start)]
        assert told == ["holds"] * 2
    # A third of the way up the gauge is far below RoLoRA's end.
    late = [s for text, s in found.items() if text.startswith("The orthonormal gauge has after 1")]
    assert late == ["does not hold"] * 2


@pytest.mark.parametrize("start", PAIRS)
def test_claims_fail_where_the_numbers_say_so(start):
    better, worse = PAIRS[start]
    found = standings(*runs_where({**ENDS, better: 0.3, worse: 0.5}))
    assert [s for text, s in found.items() if text.startswith(start)] == ["does not hold"] * 2


def test_a_tie_is_not_decided():
    found = standings(*runs_where(dict.fromkeys(VARIANTS, 0.5)))
    told = [s for text, s in found.items() if text.startswith("RoLoRA ends above LoRA")]
    assert told == ["not decided at this size"] * 2


def test_range_of_good_rates():
    rates = (0.01, 0.1, 1.0, 10.0)
    assert good_rates(rates, (0.1, 0.8, 0.9, 0.2), 0.0) == (1.0, 1.0)
    assert good_rates(rates, (0.9, 0.9, 0.9, 0.9), 0.02) == (0.01, 10.0)
    low, high = good_rates(rates, (0.1, 0.8, 0.9, 0.2), 0.05)
    assert low == pytest.approx(10**-0.5)  # half way from 0.9 to 0.8, in the logarithm
    assert high == pytest.approx(10 ** (0.05 / 0.7))
    # A second hill beyond a valley does not count.
    assert good_rates(rates, (0.9, 0.1, 0.89, 0.1), 0.02)[0] == 0.01
    assert good_rates(rates, (0.9, 0.1, 0.89, 0.1), 0.02)[1] < 0.1


def test_the_wider_range_is_found():
    narrow, wide = (0.2, 0.8, 0.2), (0.79, 0.8, 0.79)
    grid = {
        (variant, rate): value
        for variant in VARIANTS
        for rate, value in zip(
            (0.01, 0.1, 1.0), wide if variant in (GAUGE, ROLORA) else narrow, strict=True
        )
    }
    settings, runs = runs_where(ENDS, grid, figures="both")
    found = standings(settings, runs)
    for worse in ("LoRA (FedAvg)", "FFA-LoRA"):
        told = [
            s
            for text, s in found.items()
            if text.endswith(
                tuple(f"learning rates than {worse} ({split.words})" for split in SPLITS)
            )
        ]
        assert told == ["holds"] * 2


def test_a_rate_at_the_end_of_the_grid_is_marked():
    settings, runs = runs_where(ENDS)
    runs.chosen[ROLORA.key, FIVE.key] = 1.0
    split_table = next(t for t in tables(settings, runs) if "5 clients" in t.title)
    cells = {row[0]: row[1] for row in split_table.rows}
    assert cells["RoLoRA"] == "1 (end of the grid)"
    assert cells["FFA-LoRA"] == "0.1"
