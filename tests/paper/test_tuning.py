"""Rates are chosen at the tuning seed and judged at the others."""

from types import SimpleNamespace

from experiments.tuning import WHOLE, over_rates, rate_in_words, searched, tune_and_judge
from rolora.core.search import Grid

BUDGET = SimpleNamespace(rates=(0.01, 0.1, 1.0), seeds=(0, 1), tuning_seed=100)
VALIDATION = {"first": (0.5, 0.7, 0.7), "second": (0.1, 0.2, 0.9)}


def asked(seen):
    def run(what, wanted, test):
        seen.append((what, wanted, test))
        return [
            {"accuracy": [0.99, VALIDATION[key][BUDGET.rates.index(rate)]], "seed": seed}
            for key, rate, seed in wanted
        ]

    return run


def test_every_key_is_tuned_at_one_seed_and_judged_at_the_others():
    seen = []
    runs = tune_and_judge(BUDGET, list(VALIDATION), asked(seen))
    every = [(key, rate, 100) for key in VALIDATION for rate in BUDGET.rates]
    judged = [(key, rate, seed) for seed in (0, 1) for key, rate in runs.chosen.items()]
    assert seen == [("tuning", every, False), ("runs", judged, True)]
    assert runs.chosen == {"first": 0.1, "second": 1.0}
    assert list(runs.grid) == every
    assert [end["seed"] for end in runs.final["second"]] == [0, 1]


def test_the_best_rate_is_that_of_the_mean_over_the_tuning_seeds_and_of_several_the_lowest():
    def run(what, wanted, test):
        found = asked([])(what, wanted, test)
        for (key, rate, seed), end in zip(wanted, found, strict=True):
            if (key, rate, seed) == ("second", 1.0, 101):
                end["accuracy"] = [0.0, -1.0]  # the other seed had luck
        return found

    grid = Grid(BUDGET.rates, (WHOLE,))
    runs, found = searched(grid, (100, 101), list(VALIDATION), run)
    assert {key: one.rate for key, one in found.items()} == {"first": 0.1, "second": 0.1}
    assert list(runs) == list(over_rates("all", BUDGET.rates, list(VALIDATION), (100, 101), run))


def test_a_rate_at_the_end_of_the_grid_is_marked():
    assert rate_in_words((0.01, 0.1, 1.0), 0.1) == "0.1"
    assert rate_in_words((0.01, 0.1, 1.0), 1.0) == "1 (end of the grid)"
    assert rate_in_words((0.01, 0.1), 0.01) == "0.01 (end of the grid)"
    assert rate_in_words((0.1,), 0.1) == "0.1"
