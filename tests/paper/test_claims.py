"""What counts as holding, and the evidence in words."""

import pytest

from experiments.claims import all_hold, every, greater, mean_std, not_below


def test_every():
    assert every(100, 100) == "holds"
    assert every(58, 58) == "not decided at this size"
    assert every(99, 100) == "does not hold"
    assert every(1, 2) == "does not hold"


def test_all_hold_is_the_worst():
    assert all_hold("holds", "holds") == "holds"
    assert all_hold("holds", "not decided at this size") == "not decided at this size"
    assert all_hold("not decided at this size", "does not hold", "holds") == "does not hold"


def test_greater_is_decided_by_a_paired_test():
    ours, theirs = [0.81, 0.84, 0.80, 0.86, 0.83], [0.78, 0.80, 0.78, 0.81, 0.80]
    assert greater(ours, theirs)[0] == "holds"
    assert greater(theirs, ours)[0] == "does not hold"
    assert greater(ours, [0.82, 0.83, 0.82, 0.84, 0.83])[0] == "not decided at this size"
    assert greater(ours[:1], theirs[:1])[0] == "not decided at this size"
    assert greater([0.5, 0.6], [0.4, 0.5])[0] == "not decided at this size"  # no spread to test by


def test_the_evidence_is_scipy_s():
    stats = pytest.importorskip("scipy.stats")
    ours, theirs = [0.81, 0.84, 0.80, 0.86, 0.83], [0.78, 0.80, 0.79, 0.83, 0.80]
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval()
    _, evidence = greater(ours, theirs)
    assert f"p = {expected.pvalue:.2g}" in evidence
    assert f"{interval.low:+.3g} to {interval.high:+.3g}" in evidence
    assert "0.828 ± 0.024 against 0.8 ± 0.019" in evidence
    assert "n = 5" in evidence


@pytest.mark.parametrize(
    ("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0]), ([float("nan"), 1.0], [1.0, 2.0])]
)
def test_greater_refuses_what_cannot_be_tested(ours, theirs):
    with pytest.raises(ValueError):
        greater(ours, theirs)


def test_mean_std():
    assert mean_std([0.5, 0.7]) == "0.6 ± 0.14"
    assert mean_std([0.25]) == "0.25"


def test_near_is_near():
    theirs = [0.5, 0.52, 0.54]
    just_below = [0.4951, 0.5149, 0.5352]
    far_below = [0.4601, 0.4799, 0.5002]
    assert not_below(just_below, theirs, 0.01)[0] == "holds"
    assert not_below(just_below, theirs, 0.0)[0] == "does not hold"
    assert not_below(far_below, theirs, 0.01)[0] == "does not hold"
    assert "paired difference -0.00493" in not_below(just_below, theirs, 0.01)[1]
