"""What stands behind a round's scores, in records."""

from itertools import pairwise

import pytest

from rolora.records.detail import alone, turn


@pytest.mark.parametrize(
    ("shares", "name"),
    [
        ((0.0, 1.0), "yes"),
        ((0.99, 0.01), "no"),
        ((0.98, 0.02), None),
        ((0.0, 0.0, 1.0), "2"),  # a stratum that has no name
        ((None, None), None),
        ((), None),
    ],
)
def test_the_stratum_that_alone_is_predicted(shares, name):
    assert alone(shares, ("no", "yes")) == name


def test_a_collapse_is_said_when_it_begins_and_when_it_ends():
    rounds = [None, "no", "no", "yes", None, None]
    said = [turn(a, b, i) for i, (a, b) in enumerate(pairwise([None, *rounds]), 1)]
    assert said == [
        None,
        "round 2: the model predicts hardly anything but 'no'; it has collapsed",
        None,
        "round 4: the model predicts hardly anything but 'yes'; it has collapsed",
        "round 5: the model predicts more than 'yes' again",
        None,
    ]
