"""Numbers as a reader wants them, and the few statistics."""

import pytest

from rolora.records.schema import Metric
from rolora.records.units import byte_size, duration, plain, show
from rolora.report.statistics import paired_difference, wilson_interval


class TestUnits:
    @pytest.mark.parametrize(
        ("size", "text"),
        [(0, "0 B"), (1023, "1,023 B"), (1024, "1.00 KiB"), (76_312, "74.5 KiB"),
         (15_262_400, "14.6 MiB"), (141 * 2**20, "141 MiB"), (3 * 2**30, "3.00 GiB")],
    )  # fmt: skip
    def test_bytes(self, size, text):
        assert byte_size(size).replace("\u202f", " ") == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.04, "40 ms"), (0.9999, "1.0 s"), (6.24, "6.2 s"), (99.94, "99.9 s"),
         (99.96, "1 min 40 s"), (125, "2 min 05 s"), (3 * 3600 + 20 * 60, "3 h 20 min")],
    )  # fmt: skip
    def test_durations(self, seconds, text):
        assert duration(seconds).replace("\u202f", " ") == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.87, "0.8700"), (2.31, "2.310"), (1234.5, "1234"), (23_456.7, "23,457"),
         (1.2e-6, "1.200e-06"), (0.0, "0.000"), (-0.5, "-0.5000"), (None, "–")],
    )  # fmt: skip
    def test_plain_numbers(self, value, text):
        assert plain(value) == text

    def test_a_score_reads_as_its_metric_says(self):
        assert show(0.7, Metric(name="f1", title="F1", share=True)) == "70.0\u202f%"
        assert show(0.7, Metric(name="r", title="r")) == "0.7000"


class TestStatistics:
    def test_the_t_test_has_the_values_of_the_tables(self):
        """Two differences of 1 and 3: t = 2, whose two-sided p at one degree is 0.2952."""
        difference = paired_difference([1.0, 3.0])
        assert difference.p_value == pytest.approx(0.295167, rel=1e-5)
        assert difference.high - difference.mean == pytest.approx(12.7062, rel=1e-5)
        assert difference.mean - difference.low == pytest.approx(12.7062, rel=1e-5)

    @pytest.mark.parametrize("values", [[0.1], [0.1, 0.1, 0.1]])
    def test_no_interval_without_a_spread(self, values):
        difference = paired_difference(values)
        assert difference.mean == pytest.approx(0.1)
        assert difference.low is difference.high is difference.p_value is None

    def test_wilson_interval_keeps_within_the_unit_interval(self):
        low, high = wilson_interval(0.5, 100)
        assert (low, high) == pytest.approx((0.40383, 0.59617), abs=1e-5)
        assert 0.999999 < wilson_interval(1.0, 3)[1] <= 1.0
        assert 0.0 <= wilson_interval(0.0, 3)[0] < 1e-6
