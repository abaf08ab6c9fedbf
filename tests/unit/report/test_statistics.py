"""The few statistics of a report, against known values and other libraries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import false_discovery_control

from rolora.report.statistics import Curve, holm, mean_over_bytes


def test_holms_correction():
    """The example of Holm's step-down: 4 tests, one without a result counted."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, None]) == [pytest.approx(0.02), None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p_values):
    found = holm(p_values)
    for p, corrected in zip(p_values, found, strict=True):
        assert p <= corrected <= min(1.0, len(p_values) * p) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(found)[order]) >= 0)
    assert all(
        a >= b - 1e-12 for a, b in zip(found, false_discovery_control(p_values), strict=True)
    )


def test_the_mean_over_bytes_is_the_area_under_the_line_over_its_width():
    curve = Curve([10, 20, 50], [0.5, 0.7, 0.6])
    area, _ = quad(lambda at: np.interp(at, curve.sent, curve.scores), 15, 40, points=[20])
    assert curve.mean_between(15, 40) == pytest.approx(area / 25)
    assert curve.mean_between(10, 20) == pytest.approx(0.6)
    assert Curve([10, 90], [0.4, 0.4]).mean_between(17, 23) == pytest.approx(0.4)


def test_a_score_is_read_at_any_bytes():
    curve = Curve([10, 20, 40], [0.4, 0.6, 0.7])
    at = [curve.at(sent) for sent in (0, 10, 15, 30, 99)]
    assert at == pytest.approx([0.4, 0.4, 0.5, 0.65, 0.7])


def test_curves_compare_where_all_of_them_were_measured():
    cheap, dear = Curve([10, 20, 30], [0.5, 0.6, 0.7]), Curve([20, 40], [0.5, 0.9])
    means = mean_over_bytes([cheap, dear])
    assert means == [cheap.mean_between(20, 30), dear.mean_between(20, 30)]
    assert means == pytest.approx([0.65, 0.6])
    assert mean_over_bytes([cheap, Curve([30, 60], [0.5, 0.5])]) == [None, None]
    assert mean_over_bytes([Curve([5], [0.5])]) == [None]


def test_bytes_until_a_score_are_those_of_the_first_look_that_has_it():
    curve = Curve([10, 20, 30], [0.5, 0.7, 0.6])
    assert [curve.first_at(score) for score in (0.4, 0.6, 0.7, 0.71)] == [10, 20, 20, None]
    loss = Curve([10, 20, 30], [0.9, 0.4, 0.6])
    assert [loss.first_at(score, False) for score in (1.0, 0.5, 0.3)] == [10, 20, None]
