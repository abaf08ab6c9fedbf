"""Clients' scores around each other: which stand out, and which only seem to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolora.records.schema import CLASSIFICATION, ClientRecord, Metric
from rolora.records.spread import spread

ACCURACY = CLASSIFICATION.first
LOSS = Metric("accuracy", "a score without a share")


def clients(*scored):
    return [
        ClientRecord(client=i, examples=n, scores={"accuracy": score})
        for i, (n, score) in enumerate(scored)
    ]


def test_mean_and_median_count_each_client_once():
    found = spread(clients((10, 0.5), (10**6, 1.0), (20, 0.6)), ACCURACY)
    assert (found.mean, found.median) == (pytest.approx(0.7), 0.6)


def test_one_that_is_far_from_the_others_stands_out():
    many = clients((500, 0.5), (400, 0.52), (600, 0.49), (10**6, 1.0), (300, 0.51))
    assert spread(many, ACCURACY).outliers == (3,)
    assert spread(many, LOSS).outliers == (3,)


def test_a_client_with_few_examples_is_not_marked_for_being_lucky():
    assert spread(clients((500, 0.8), (500, 0.8), (500, 0.81), (4, 1.0)), ACCURACY).outliers == ()
    assert spread(clients((500, 0.8), (500, 0.8), (500, 0.81), (4, 1.0)), LOSS).outliers == (3,)


def test_of_fewer_than_three_nobody_stands_out_and_of_one_nothing_is_said():
    assert spread(clients((500, 0.1), (500, 0.9)), ACCURACY).outliers == ()
    assert spread(clients((500, 0.1)), ACCURACY) is None
    assert spread(clients((500, 0.1), (500, None), (0, 0.4)), ACCURACY) is None


@given(st.integers(0, 2**32), st.integers(5, 40))
def test_clients_whose_examples_are_drawn_alike_hardly_ever_stand_out(seed, size):
    rng = np.random.default_rng(seed)
    n = rng.integers(5, 200, size)
    drawn = [(int(k), float(rng.binomial(k, 0.7) / k)) for k in n]
    assert len(spread(clients(*drawn), ACCURACY).outliers) <= 2


@given(st.permutations(range(5)))
def test_the_order_of_clients_does_not_matter(order):
    known = clients((500, 0.5), (400, 0.52), (600, 0.49), (10**6, 1.0), (300, 0.51))
    assert spread([known[i] for i in order], ACCURACY).median == 0.51
    assert set(spread([known[i] for i in order], ACCURACY).outliers) == {3}
