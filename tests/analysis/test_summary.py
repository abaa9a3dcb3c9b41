"""Summaries: rows have the values of their cells, in the order of the sweep."""

import math

import numpy as np
import pytest
from analysis_cases import make_cell, make_dense
from changed_results import changed
from scipy.stats import t

from masksearch.analysis import summarise


def test_summary_rows_have_mean_and_interval_of_their_cells():
    dense, row = summarise([make_cell(seed=seed) for seed in range(3)])
    for got, values in (
        (row.untrained, [0.31, 0.33, 0.35]),
        (row.trained, [0.81, 0.83, 0.85]),
        (row.accuracy_gap, [0.01, 0.02, 0.03]),
        (row.params, [100] * 3),
        (row.compression, [10] * 3),
        (row.macs, [0.1, 0.2, 0.3]),  # as shares of the dense network's
        (row.total_macs, [500, 1000, 1500]),
        (row.speedup, [4, 2, 4 / 3]),
        (row.latency, [0.001, 0.002, 0.003]),
        (row.test_seconds, [0.5] * 3),
        (row.scorings, [100] * 3),
        (row.search_seconds, [2, 3, 4]),
        (row.retrain_seconds, [4] * 3),
        (dense.trained, [0.95, 0.96, 0.97]),
    ):
        assert got.mean == pytest.approx(np.mean(values))
        assert got.half_width == pytest.approx(np.std(values, ddof=1) / math.sqrt(3) * t.ppf(0.975, 2), abs=1e-12)
        assert got.n == 3
    assert (row.emptied, row.constant, row.diverged) == (1, 1, 0)
    assert (dense.method, dense.sparsity, dense.emptied) == ("dense", 0.0, 0)
    assert (dense.params.mean, dense.macs.mean, dense.total_macs.mean, dense.speedup.mean) == (1000, 1, 5000, 1)
    assert all(e.n == 0 for e in (dense.untrained, dense.accuracy_gap, dense.scorings, dense.search_seconds))


def test_dense_network_of_a_seed_counts_once():
    cells = [make_cell(method, sparsity, seed) for seed in (0, 1) for sparsity in (0.5, 0.9) for method in ("b", "a")]
    dense = summarise(cells)[0].trained
    assert dense.n == 2
    assert dense.mean == pytest.approx(0.955)


def test_rows_are_ordered_by_sparsity_then_by_cells():
    cells = [
        make_cell("b", 0.9),
        make_cell("a", 0.9),
        make_cell("b", 0.5),
        make_cell("a", 0.5, find_at="3ep"),
        make_cell("a", 0.5),
    ]
    rows = [(row.method, row.sparsity, row.find_at) for row in summarise(cells)[1:]]
    assert rows == [("b", 0.5, "0"), ("a", 0.5, "3ep"), ("a", 0.5, "0"), ("b", 0.9, "0"), ("a", 0.9, "0")]


def test_summary_of_no_cells_is_empty():
    assert summarise([]) == []


def test_tickets_are_compared_with_the_dense_network_of_the_table():
    """Slimming has another dense network; the table has that of the sweep."""
    dense, row = summarise([make_cell(dense={"test_accuracy": 0.5})], [make_dense()])
    assert row.beside_dense.mean == pytest.approx(row.trained.mean - dense.trained.mean)


def test_validation_of_an_untrained_cell_is_its_rest_accuracy():
    trained = {"val_accuracy": None, "rest_accuracy": 0.3}
    cell = make_cell(trained=trained, score={"rest_accuracy": 0.9})  # the score: at the weights of the search
    assert summarise([cell])[1].validation.mean == 0.3


def test_dense_network_alone_is_a_row():
    [row] = summarise([], [make_dense(seed) for seed in (0, 1)])
    assert row.trained.mean == pytest.approx(0.955)
    assert math.isnan(row.latency.mean)
    assert len(row.rounds) == 1


def test_kept_criteria_masks_are_counted_in_every_round():
    cells = [make_cell(seed=seed, rounds=2) for seed in (0, 1, 2)]
    for cell, place in ((cells[1], 0), (cells[2], 1)):
        cell.rounds[place] = changed(cell.rounds[place], score={"kept": "taylor"})
    assert summarise(cells)[1].kept_criteria == 2


def test_diverged_trainings_are_counted():
    cells = [make_cell(seed=0), make_cell(seed=1, trained={"diverged": True})]
    assert summarise(cells)[1].diverged == 1
