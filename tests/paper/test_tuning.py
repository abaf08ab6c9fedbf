"""Rates are chosen at the tuning seed and judged at the others."""

from types import SimpleNamespace

from experiments.tuning import best_rate, over_rates, rate_in_words, tune_and_judge

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


def test_best_rate_is_the_tuning_seeds_and_of_several_the_lowest():
    grid = over_rates("rates", BUDGET.rates, list(VALIDATION), (100, 101), asked([]))
    grid["first", 0.01, 101]["accuracy"] = [0.0, 1.0]
    assert best_rate(BUDGET, grid, "first") == 0.1


def test_a_rate_at_the_end_of_the_grid_is_marked():
    assert rate_in_words((0.01, 0.1, 1.0), 0.1) == "0.1"
    assert rate_in_words((0.01, 0.1, 1.0), 1.0) == "1 (end of the grid)"
    assert rate_in_words((0.01, 0.1), 0.01) == "0.01 (end of the grid)"
    assert rate_in_words((0.1,), 0.1) == "0.1"
