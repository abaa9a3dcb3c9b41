"""Estimates: Student's interval equals that of SciPy, and missing values make the mean missing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from masksearch.analysis import Estimate

NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(NUMBERS, min_size=2, max_size=8))
def test_interval_equals_that_of_scipy(values):
    estimate = Estimate.of(values)
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    assert estimate.n == len(values)
    assert estimate.mean == pytest.approx(mean, rel=1e-9, abs=1e-9)
    low, high = t.interval(0.95, len(values) - 1, loc=0, scale=error) if error else (0, 0)
    assert estimate.half_width == pytest.approx(high, rel=1e-6, abs=1e-9)
    assert -estimate.half_width == pytest.approx(low, rel=1e-6, abs=1e-9)


def test_interval_of_three_seeds_matches_values_computed_by_hand():
    """4.303 is Student's quantile at 97.5 % for 2 degrees of freedom."""
    estimate = Estimate.of([0.1, 0.2, 0.3])
    assert estimate.half_width == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert estimate.text(100) == "20.00 ± 24.84"
    assert estimate.text(100, digits=1, sign="+") == "+20.0 ± 24.8"


def test_two_values_show_half_their_difference():
    estimate = Estimate.of([0.7722, 0.2166])
    assert estimate.text(100) == "49.44 (±27.78)"
    assert Estimate.of([0.002, -0.00001]).text(100, 2, "+") == "+0.10 (±0.10)"
    assert estimate.shown_half_width == pytest.approx((0.7722 - 0.2166) / 2)
    assert estimate.half_width == pytest.approx(12.706 * (0.7722 - 0.2166) / 2, rel=1e-3)
    assert Estimate.of([0.5, None]).text() == "–"


def test_three_values_show_their_interval():
    estimate = Estimate.of([0.1, 0.2, 0.3])
    assert estimate.shown_half_width == estimate.half_width


@given(NUMBERS)
def test_single_value_has_no_interval(value):
    estimate = Estimate.of([value])
    assert (estimate.mean, estimate.n) == (value, 1)
    assert math.isnan(estimate.half_width)
    assert "±" not in estimate.text()
    assert float(estimate.text(digits=12)) == pytest.approx(value, abs=1e-6)


def test_estimate_of_no_values_is_nan():
    estimate = Estimate.of([])
    assert estimate.n == 0
    assert math.isnan(estimate.mean)
    assert math.isnan(estimate.half_width)
    assert estimate.text() == "–"


@pytest.mark.parametrize("missing", [None, math.nan])
@pytest.mark.parametrize("others", [[], [0.5], [0.5, 0.6]])
def test_missing_value_makes_the_mean_missing(missing, others):
    estimate = Estimate.of([*others, missing])
    assert math.isnan(estimate.mean)
    assert estimate.n == len(others) + 1
    assert estimate.text() == "–"


def test_plain_text_has_only_the_mean():
    assert Estimate.of([0.5, 0.25]).plain(".1f", 100) == "37.5"
    assert Estimate.of([1234.0]).plain(",.0f") == "1,234"
    assert Estimate.of([]).plain(".1f") == "–"


@pytest.mark.parametrize("value", [-0.0, -1e-9, -0.004])
def test_number_that_rounds_to_zero_has_no_minus_sign(value):
    estimate = Estimate.of([value])
    assert (estimate.text(), estimate.text(sign="+")) == ("0.00", "+0.00")
    assert (estimate.plain(".1f"), estimate.plain("+.1f"), estimate.plain(",.0f")) == ("0.0", "+0.0", "0")


def test_mean_with_an_interval_has_no_negative_zero():
    assert Estimate.of([-0.3001, 0.3, 0.0]).text(digits=1) == "0.0 ± 0.7"
