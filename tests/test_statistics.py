"""Means, deviations and confidence intervals."""

import math

import pytest

from tf_tickets.reports import statistics
from tf_tickets.reports.statistics import Mean

pytestmark = pytest.mark.turns

# Table of Student's t in Abramowitz and Stegun (26.10), and in every textbook.
TABLE = {
    (0.90, 1): 6.314,
    (0.95, 1): 12.706,
    (0.99, 1): 63.657,
    (0.90, 2): 2.920,
    (0.95, 2): 4.303,
    (0.99, 2): 9.925,
    (0.95, 3): 3.182,
    (0.95, 4): 2.776,
    (0.99, 4): 4.604,
    (0.95, 5): 2.571,
    (0.95, 9): 2.262,
    (0.95, 10): 2.228,
    (0.99, 10): 3.169,
    (0.95, 29): 2.045,
    (0.95, 30): 2.042,
    (0.95, 120): 1.980,
}


@pytest.mark.parametrize("confidence, freedom", TABLE)
def test_quantiles_are_those_of_the_tables(confidence, freedom):
    actual = statistics.student_t(confidence, freedom)
    assert actual == pytest.approx(TABLE[confidence, freedom], abs=5.1e-4)


@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.9, 0.95, 0.999])
def test_quantiles_of_one_and_two_degrees_have_closed_forms(confidence):
    one = math.tan(math.pi * confidence / 2)
    assert statistics.student_t(confidence, 1) == pytest.approx(one, rel=1e-9)
    two = confidence * math.sqrt(2 / (1 - confidence**2))
    assert statistics.student_t(confidence, 2) == pytest.approx(two, rel=1e-9)


def test_a_mean_by_hand():
    # Deviations from 5: -3, -1, -1, -1, 0, 0, 2, 4; squares sum up to 32.
    mean = Mean.of([2, 4, 4, 4, 5, 5, 7, 9])
    assert (mean.mean, mean.count) == (5.0, 8)
    assert mean.deviation == pytest.approx(math.sqrt(32 / 7), rel=1e-12)
    # 2.365 is the table's t for 7 degrees of freedom; the standard error is 0.756.
    low, high = mean.interval()
    assert low == pytest.approx(5 - 2.3646 * math.sqrt(32 / 7 / 8), abs=1e-4)
    assert high == pytest.approx(6.787, abs=1e-3) and low + high == pytest.approx(10)


def test_the_interval_of_two_values_by_hand():
    # The deviation of 0 and 2 is sqrt(2), the standard error 1.
    low, high = Mean.of([0.0, 2.0]).interval()
    assert (low, high) == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-4)


def test_equal_values_have_no_deviation():
    mean = Mean.of([0.1] * 3)
    assert (mean.deviation, mean.interval()) == (0.0, (0.1, 0.1))


def test_one_value_has_neither_deviation_nor_interval():
    mean = Mean.of([0.25])
    assert (mean.mean, mean.deviation, mean.count) == (0.25, None, 1)
    assert mean.interval() is None and str(mean) == "0.2500"


@pytest.mark.parametrize("values", [[1.0, math.nan], [1.0, math.inf, -math.inf]])
def test_diverged_values_leave_a_mean_without_deviation(values):
    mean = Mean.of(values)
    assert math.isnan(mean.mean) and mean.deviation is None
    assert mean.count == len(values) and mean.interval() is None


@pytest.mark.parametrize("confidence", [0, 1, 95, "0.95", None, math.nan])
def test_other_confidences_are_refused(confidence):
    with pytest.raises(ValueError, match="greater than 0 and less than 1.*Received"):
        Mean.of([1.0, 2.0]).interval(confidence)


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one number"):
        Mean.of([])


@pytest.mark.matrix
def test_quantiles_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in [*range(1, 40), 100, 101, 999]:
        for confidence in (0.1, 0.5, 0.8, 0.9, 0.95, 0.99, 0.9999):
            expected = stats.t.ppf((1 + confidence) / 2, freedom)
            actual = statistics.student_t(confidence, freedom)
            assert actual == pytest.approx(expected, rel=1e-8)
