"""Anytime curves and Pareto fronts, against values computed by hand and invariants."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from masksearch.analysis import band, best_so_far, pareto_front
from masksearch.utils.errors import InputError

numbers = st.integers(0, 4).map(float)
points = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12)


def test_best_so_far_matches_values_computed_by_hand():
    curve = best_so_far([1, 2, 4, 4, 7], [0.3, math.nan, 0.2, 0.5, 0.4], [0.5, 1, 3, 4, 6.9, 100])
    assert curve.tolist() == [pytest.approx(math.nan, nan_ok=True), 0.3, 0.3, 0.5, 0.5, 0.5]


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20), st.lists(numbers, min_size=1, max_size=6))
def test_best_so_far_is_the_maximum_of_affordable_scores(trials, looks):
    spent = np.cumsum([cost for cost, _ in trials])
    scores = np.array([score for _, score in trials])
    for look, value in zip(looks, best_so_far(spent, scores, looks), strict=True):
        affordable = scores[spent <= look]
        assert value == affordable.max() if len(affordable) else math.isnan(value)


def test_decreasing_costs_raise_input_error():
    with pytest.raises(InputError, match="costs"):
        best_so_far([2, 1], [0.1, 0.2], [1])
    with pytest.raises(InputError, match="costs"):
        best_so_far([1], [0.1, 0.2], [1])


def test_band_is_the_t_interval_of_each_point():
    curves = np.array([[0.1, 0.5], [0.3, 0.6], [0.2, 0.9]])
    result = band(curves)
    for look in range(2):
        column = curves[:, look]
        interval = stats.t.interval(0.95, 2, column.mean(), stats.sem(column))
        assert (result.low[look], result.high[look]) == pytest.approx(interval)
    assert np.isnan(band(curves[:1]).low).all()
    assert np.isnan(band(np.array([[math.nan, 1], [0.5, 1]])).mean).tolist() == [True, False]


def test_pareto_front_matches_values_computed_by_hand():
    assert pareto_front([0.9, 0.8, 0.95, 0.8, math.nan], [10, 5, 20, 6, 1]).tolist() == [1, 0, 2]
    assert pareto_front([0.9, 0.9], [3, 3]).tolist() == [0, 1]
    assert pareto_front([], []).tolist() == []


@given(points)
def test_pareto_front_has_exactly_the_undominated_points(cases):
    values, costs = (np.array(column) for column in zip(*cases, strict=True))

    def beaten(i):
        return any(
            values[j] >= values[i] and costs[j] <= costs[i] and (values[j] > values[i] or costs[j] < costs[i])
            for j in range(len(cases))
        )

    front = pareto_front(values, costs)
    assert set(front) == {i for i in range(len(cases)) if not beaten(i)}
    assert (np.diff(values[front]) >= 0).all()
    assert (np.diff(costs[front]) >= 0).all()
