"""Accuracies at equal costs, against values computed by hand."""

import math

import numpy as np
import pytest
from suite_rows import row_of

from benchmarks.accuracies import cost_drawings, drawing
from benchmarks.equal_costs import COSTS, at_share, costs_differ, interpolated, shares
from benchmarks.rows import series
from benchmarks.suites import SUITES
from benchmarks.tables import suite_text

PARAMETERS, MACS = COSTS


def test_interpolation_matches_values_computed_by_hand():
    assert interpolated([100, 1000, 10_000], [0.2, 0.6, 0.8], 100 * math.sqrt(10)) == pytest.approx(0.4)
    assert interpolated([10_000, 100, 1000], [0.8, 0.2, 0.6], 1000 * 10**0.25) == pytest.approx(0.65)  # in any order
    assert interpolated([1, 4], [0, 1], 2) == pytest.approx(0.5)


def test_interpolation_meets_and_is_monotone_between_measurements():
    costs, values = [7.0, 300.0, 31.0], [0.3, 0.9, 0.4]
    assert [interpolated(costs, values, at) for at in costs] == values
    between = [interpolated(costs, values, at) for at in np.geomspace(7, 31, 20)]
    assert between == sorted(between)
    assert between[0] < between[10] < between[-1]


def test_interpolation_never_extrapolates():
    assert math.isnan(interpolated([10, 20], [0.1, 0.2], 9.99))
    assert math.isnan(interpolated([10, 20], [0.1, 0.2], 20.01))
    assert math.isnan(interpolated([], [], 1))
    assert math.isnan(interpolated([0, 20], [0.1, 0.2], 10))  # nothing has no logarithm
    assert math.isnan(interpolated([10, 20, 30], [0.1, math.nan, 0.3], 15))
    assert interpolated([10, 20, 30], [0.1, math.nan, 0.3], 10) == 0.1


def test_interpolation_averages_measurements_of_equal_cost():
    assert interpolated([10, 10, 1000], [0.2, 0.4, 0.9], 10) == pytest.approx(0.3)
    assert interpolated([10, 10, 1000], [0.2, 0.4, 0.9], 100) == pytest.approx(0.6)
    assert interpolated([10, 10], [0.2, 0.4], 10) == pytest.approx(0.3)


def rows_of_three():
    """Of 1,000,000 MACs snip costs 1 and 10 % or 1 and 100 %, by seed; the others 10 and 100 %."""
    costs = {("snip", 0): (10_000, 100_000), ("snip", 1): (10_000, 1_000_000)}
    costs |= {(method, seed): (100_000, 1_000_000) for method in ("magnitude", "random") for seed in (0, 1)}
    return [
        row_of(method, sparsity, seed, accuracy, accuracy, sweep="one")
        | {"cost.effective_macs": str(spent), "dense.macs": "1000000"}
        for (method, seed), both in costs.items()
        for sparsity, accuracy, spent in zip((0.9, 0.5), (0.4, 0.8), both, strict=True)
    ]


def test_accuracy_at_a_cost_share_is_interpolated_within_each_seed():
    rows = rows_of_three()
    snip = series(rows)["snip"]
    assert at_share(snip, MACS, "trained.test_accuracy", 0.1).mean == pytest.approx((0.8 + 0.6) / 2)
    assert at_share(snip, MACS, "trained.test_accuracy", 0.01).text() == "0.40 (±0.00)"
    assert at_share(snip, MACS, "trained.test_accuracy", 0.2).text() == "–"  # one seed alone reaches it


def test_cost_shares_are_within_the_range_of_two_thirds_of_the_methods():
    rows = rows_of_three()
    assert shares(rows, MACS) == [0.1, 0.18, 0.32, 0.56, 1.0]
    assert shares([row for row in rows if row["sparsity"] == "0.5"], MACS) == []
    narrow = [row | {"cost.effective_macs": str(1.234 * float(row["cost.effective_macs"]))} for row in rows]
    assert shares(narrow, MACS)[0] == 0.13  # rounded to where there are measurements
    assert shares(narrow, MACS)[-1] == 1.2


def test_only_costs_that_differ_have_a_table():
    rows = rows_of_three()
    assert costs_differ(rows, MACS)
    assert not costs_differ(rows, PARAMETERS)
    text = suite_text(SUITES["criteria"], {"one": rows}, cases=12)
    assert "Parameters differ by less than 10 % at every sparsity" in text
    assert "At equal MACs, as shares of the dense network's 1,000,000" in text
    assert "| method | 10 % of MACs | 18 % of MACs | 32 % of MACs | 56 % of MACs | 100 % of MACs |" in text
    assert "| snip | **70.00 (±10.00)** | – | – | – | – |" in text
    assert "| magnitude | 40.00 (±0.00) |" in text


def test_cost_figure_has_a_panel_for_each_method_with_the_front():
    rows = rows_of_three()
    (figure,) = cost_drawings(rows, "trained.test_accuracy", 100)
    assert figure.name == "macs"
    assert [panel.get_title() for panel in figure.figure.axes] == ["snip", "magnitude", "random"]
    for panel in figure.figure.axes:
        (front,) = (line for line in panel.lines if line.get_drawstyle() == "steps-post")
        assert np.allclose(front.get_xydata(), [[1, 40], [55, 80]])
    own = [panel.lines[-1].get_xydata() for panel in figure.figure.axes[:2]]
    assert np.allclose(own, [[[55, 80], [1, 40]], [[100, 80], [10, 40]]])
    assert drawing(rows, "trained.test_accuracy", 100).name == "accuracy"
