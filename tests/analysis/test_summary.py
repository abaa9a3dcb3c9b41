"""Summaries: Student's interval as SciPy has it, and nothing that is missing goes unseen."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from masksearch.analysis import Estimate, summarise

NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(NUMBERS, min_size=2, max_size=8))
def test_the_interval_is_students(values):
    estimate = Estimate.of(values)
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    assert estimate.n == len(values)
    assert estimate.mean == pytest.approx(mean, rel=1e-9, abs=1e-9)
    low, high = t.interval(0.95, len(values) - 1, loc=0, scale=error) if error else (0, 0)
    assert estimate.half_width == pytest.approx(high, rel=1e-6, abs=1e-9)
    assert -estimate.half_width == pytest.approx(low, rel=1e-6, abs=1e-9)


def test_the_interval_of_three_seeds_by_hand():
    """4.303 is Student's quantile at 97.5 % for 2 degrees of freedom."""
    estimate = Estimate.of([0.1, 0.2, 0.3])
    assert estimate.half_width == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert estimate.text(100) == "20.00 ± 24.84"
    assert estimate.text(100, digits=1, sign="+") == "+20.0 ± 24.8"


@given(NUMBERS)
def test_one_value_has_no_interval(value):
    estimate = Estimate.of([value])
    assert (estimate.mean, estimate.n) == (value, 1)
    assert math.isnan(estimate.half_width)
    assert "±" not in estimate.text()
    assert float(estimate.text(digits=12)) == pytest.approx(value, abs=1e-6)


def test_of_nothing_there_is_no_estimate():
    estimate = Estimate.of([])
    assert estimate.n == 0
    assert math.isnan(estimate.mean)
    assert math.isnan(estimate.half_width)
    assert estimate.text() == "–"


@pytest.mark.parametrize("missing", [None, math.nan])
@pytest.mark.parametrize("others", [[], [0.5], [0.5, 0.6]])
def test_a_missing_value_makes_the_mean_missing(missing, others):
    estimate = Estimate.of([*others, missing])
    assert math.isnan(estimate.mean)
    assert estimate.n == len(others) + 1
    assert estimate.text() == "–"


def make_cell(method="snip", sparsity=0.9, seed=0, **changes):
    """Metrics of a cell; figures depend on the seed, and can be told apart."""
    return {
        "method": method,
        "sparsity": sparsity,
        "find_at": "0",
        "seed": seed,
        "score": {"accuracy_gap": 0.01 * (seed + 1), "scorings": 100},
        "untrained": {"test_accuracy": 0.3 + 0.1 * seed},
        "trained": {"test_accuracy": 0.8 + 0.02 * seed},
        "dense": {"test_accuracy": 0.95 + 0.01 * seed, "cost": {"nonzero_params": 1000, "macs": 5000}},
        "cost": {"nonzero_params": 100, "effective_macs": 500 * (seed + 1)},
        "mask": {"empty_layers": ["fc1"] if seed == 1 else []},
        "seconds": {
            "search": 2.0 + seed,
            "retrain": 4.0,
            "latency_dense_batch_64": 0.004,
            "latency_ticket_batch_64": 0.001 * (seed + 1),
        },
    } | changes


def test_rows_hold_the_figures_of_their_cells():
    dense, row = summarise([make_cell(seed=seed) for seed in range(3)])
    for got, values in (
        (row.untrained, [0.3, 0.4, 0.5]),
        (row.trained, [0.8, 0.82, 0.84]),
        (row.accuracy_gap, [0.01, 0.02, 0.03]),
        (row.params, [100] * 3),
        (row.macs, [0.1, 0.2, 0.3]),  # as shares of the dense network's
        (row.speedup, [4, 2, 4 / 3]),
        (row.scorings, [100] * 3),
        (row.search_seconds, [2, 3, 4]),
        (row.retrain_seconds, [4] * 3),
        (dense.trained, [0.95, 0.96, 0.97]),
    ):
        assert got.mean == pytest.approx(np.mean(values))
        assert got.half_width == pytest.approx(np.std(values, ddof=1) / math.sqrt(3) * t.ppf(0.975, 2), abs=1e-12)
        assert got.n == 3
    assert row.emptied == 1
    assert (dense.method, dense.sparsity, dense.emptied) == ("dense", 0.0, 0)
    assert (dense.params.mean, dense.macs.mean, dense.speedup.mean) == (1000, 1, 1)
    assert all(e.n == 0 for e in (dense.untrained, dense.accuracy_gap, dense.scorings, dense.search_seconds))


def test_the_dense_network_of_a_seed_counts_once():
    cells = [make_cell(method, sparsity, seed) for seed in (0, 1) for sparsity in (0.5, 0.9) for method in ("b", "a")]
    dense = summarise(cells)[0].trained
    assert dense.n == 2
    assert dense.mean == pytest.approx(0.955)


def test_rows_go_by_sparsity_then_in_the_order_of_the_cells_and_by_moment():
    cells = [
        make_cell("b", 0.9),
        make_cell("a", 0.9),
        make_cell("b", 0.5),
        make_cell("a", 0.5, find_at="3ep"),
        make_cell("a", 0.5),
    ]
    rows = [(row.method, row.sparsity, row.find_at) for row in summarise(cells)[1:]]
    assert rows == [("b", 0.5, "0"), ("a", 0.5, "3ep"), ("a", 0.5, "0"), ("b", 0.9, "0"), ("a", 0.9, "0")]


def test_of_no_cells_there_are_no_rows():
    assert summarise([]) == []
