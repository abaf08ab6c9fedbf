"""Rates by successive halving on a grid that widens by itself."""

from math import inf, log10

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolora.core.errors import BadInput
from rolora.core.search import Grid, rungs_of, search, trained

FIVE = (1e-3, 3e-3, 9e-3, 2.7e-2, 8.1e-2)
BOUNDS = (1e-6, 1e2)


def hill(best):
    """A score that falls with the distance from `best`, and grows over rounds."""
    return lambda rate, rung: rung / 1000 - abs(log10(rate / best))


def searched(grid, score, keys=("one",)):
    asked = []

    def run(wanted, rung):
        asked.extend((key, rate, rung) for key, rate in wanted)
        return [score(rate, rung) for _, rate in wanted]

    return search(list(keys), grid, run), asked


def test_every_rate_is_looked_at_and_few_are_run_to_the_end():
    found, asked = searched(Grid(FIVE, rungs_of(18), 3.0, BOUNDS), hill(9e-3))
    one = found["one"]
    assert (one.rate, one.rung, one.at_end) == (9e-3, 18, False)
    assert [rate for _, rate, rung in asked if rung == 2] == list(FIVE)
    assert {rate for _, rate, rung in asked if rung == 6} == {9e-3, 3e-3}
    assert [rate for _, rate, rung in asked if rung == 18] == [9e-3]
    assert trained(one.scores) == 3 * 2 + 6 + 18 == 5 * 18 / 3


@pytest.mark.parametrize(("best", "added"), [(0.7, (0.243, 0.729, 2.187)), (1e-4, (1 / 3e3,))])
def test_the_grid_widens_while_the_best_lies_at_its_end(best, added):
    found, _ = searched(Grid(FIVE, rungs_of(18), 3.0, BOUNDS), hill(best))
    one = found["one"]
    assert not one.at_end
    assert abs(log10(one.rate / best)) < log10(3) / 2
    assert all(any(rate == pytest.approx(more) for rate in one.scores) for more in added)


def test_where_all_do_alike_no_side_is_better():
    found, _ = searched(Grid(FIVE, rungs_of(18), 3.0, BOUNDS), lambda rate, rung: 0.5)
    assert sorted(found["one"].scores) == list(FIVE)
    assert found["one"].rate == FIVE[0]


def test_bounds_end_it_and_the_end_is_marked():
    found, _ = searched(Grid(FIVE, rungs_of(18), 3.0, (1e-3, 0.3)), hill(50.0))
    one = found["one"]
    assert one.rate == max(one.scores) == pytest.approx(0.243)
    assert one.at_end
    assert searched(Grid(FIVE, (18,)), hill(50.0))[0]["one"].rate == FIVE[-1]


rounds_of_a_run = st.integers(3, 200)


@given(
    rounds_of_a_run,
    st.integers(1, 12),
    st.dictionaries(st.tuples(st.integers(-40, 40), st.integers(0, 2)), st.floats(-1, 1)),
    st.integers(0, 3),
)
def test_it_costs_at_most_a_third_of_a_full_grid_whatever_the_scores(rounds, n, surprises, bad):
    rates = tuple(3.0**k for k in range(n))
    rungs = rungs_of(rounds)

    def score(rate, rung):
        place = (round(log10(rate) / log10(3)), rungs.index(rung))
        return -inf if place[0] == bad else surprises.get(place, 0.0)

    found, asked = searched(Grid(rates, rungs, 3.0, (1e-5, 1e6)), score)
    one = found["one"]
    assert 3 * trained(one.scores) <= len(one.scores) * rounds
    assert len(asked) == len(set(asked))
    assert one.scores[one.rate][one.rung] == max(s.get(one.rung, -inf) for s in one.scores.values())


@given(st.integers(1, 500))
def test_rungs_are_even_where_there_are_rounds_enough(rounds):
    *early, last = rungs_of(rounds)
    assert last == rounds
    assert all(3 * rung <= rounds for rung in early)
    assert rounds < 6 or all(rung % 2 == 0 for rung in early)
    assert len(early) >= (rounds >= 3)


def test_a_failed_run_never_goes_on_and_equal_ones_give_the_lower_rate():
    def failing(rate, rung):
        return -inf if rate > 3e-3 else 0.5

    one = searched(Grid(FIVE, rungs_of(18)), failing)[0]["one"]
    assert one.rate == 1e-3
    assert all(max(rungs) == 2 for rate, rungs in one.scores.items() if rate > 3e-3)
    lost = searched(Grid(FIVE, rungs_of(18)), lambda rate, rung: -inf)[0]["one"]
    assert lost.scores[lost.rate] == {2: -inf}


def test_several_are_searched_side_by_side_each_by_itself():
    best = {"low": 1e-3, "high": 8.1e-2}
    asked = []

    def run(wanted, rung):
        asked.append((wanted, rung))
        return [hill(best[key])(rate, rung) for key, rate in wanted]

    together = search(list(best), Grid(FIVE, rungs_of(18), 3.0, BOUNDS), run)
    for key, rate in best.items():
        alone = searched(Grid(FIVE, rungs_of(18), 3.0, BOUNDS), hill(rate))[0]["one"]
        assert together[key] == alone
    assert asked[0] == ([(key, rate) for key in best for rate in FIVE], 2)


@pytest.mark.parametrize("rates", [(), (2.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (0.1, inf)])
def test_rates_that_do_not_ascend_are_refused(rates):
    with pytest.raises(BadInput, match=r"rates = \[.*must be above 0 and ascend"):
        Grid(rates, (4,))
