"""Tables of rows with known answers."""

import numpy as np
from suite_rows import row_of

from benchmarks.anytime import curves, drawings
from benchmarks.suites import SUITES
from benchmarks.tables import Blocks, comparison, suite_text


def rows_of(sweep, missing=()):
    """snip is best by validation, magnitude on test; random is last; two seeds, three sparsities."""
    rows = [
        row_of(method, sparsity, seed, test - sparsity / 10 + seed / 100, val, sweep=sweep)
        for sparsity in (0.5, 0.7, 0.9)
        for seed in (0, 1)
        for method, test, val in (("snip", 0.9, 0.95), ("magnitude", 0.92, 0.9), ("random", 0.5, 0.5))
    ]
    return [row for row in rows if (row["method"], row["sparsity"], row["seed"]) not in missing]


def test_best_method_by_validation_is_compared_with_all_others():
    text = suite_text(SUITES["criteria"], {"one": rows_of("one"), "two": rows_of("two")}, cases=50)
    assert text.startswith("36 of 50 cases. masksearch 0.1.0, torch 2, cpu, threads: 1.")
    assert "Weights, one block per sweep and sparsity, means over seeds, 6 blocks:" in text
    assert "| snip | 83.50 | 2.00 | best by validation |  |  |  |" in text
    assert "| magnitude | 85.50 | 1.00 | +2.00 ± 0.00 | 6–0 | 0.0312 | 0.0625 |" in text  # 2 x 2^-6, and twice that
    assert "| random | 43.50 | 3.00 | -40.00 ± 0.00 | 0–6 | 0.0312 | 0.0625 |" in text
    assert "| magnitude | – | 6 | 6 |" in text  # who beats whom
    assert "| snip | **85.50 (±0.50)** |" in text
    assert "parameters: magnitude 90 % (100), magnitude 70 % (300), magnitude 50 % (500)." in text
    assert "MACs: snip 50 % (10), magnitude 50 % (20)." in text


def test_unfinished_blocks_are_left_out_and_counted():
    rows = rows_of("one", missing={("snip", "0.9", "1"), ("random", "0.7", "0"), ("random", "0.7", "1")})
    text = suite_text(SUITES["criteria"], {"one": rows, "none": []}, cases=18)
    assert text.startswith("15 of 18 cases.")
    assert "1 blocks:" in text
    assert "| **81.00 (1)** |" in text
    assert "| random | 45.50 (±0.50) | – |" in text


def test_searches_are_compared_by_seed():
    rows = [
        row_of(method, 0.9, seed, 0, 0) | {"score.search_score": str(score - seed / 10), "score.rest_score": str(score)}
        for seed in range(6)
        for method, score in (("eda", -0.2), ("random_search", -0.5))
    ]
    text = suite_text(SUITES["search"], {"one": rows}, cases=12)
    assert "`one` at 90 %, one block per seed, 6 blocks:" in text
    assert "| random_search | -0.7500 | 2.00 | -0.3000 ± 0.0000 | 0–6 | 0.0312 | 0.0312 |" in text


def test_tie_gives_no_difference():
    values = np.array([[0.5, 0.5], [0.7, 0.7]])
    text = comparison(Blocks(("one", "two"), values, values))
    assert "| two | 60.00 | 1.50 | +0.00 (±0.00) | 0–0 | 1.0000 | 1.0000 |" in text
    assert "| one | – | 1 |" in text


def test_curves_have_a_band_for_each_method_in_the_order_of_costs():
    rows = [
        row_of("eda", 0.9, seed, 0, 0)
        | {"best.scorings.100": str(seed), "best.scorings.10": "", "best.scorings.32": "0"}
        for seed in (1, 3)
    ]
    looks, band = curves(rows, "scorings")["eda"]
    assert looks.tolist() == [10, 32, 100]
    assert band.mean[1:].tolist() == [0, 2]
    assert np.isnan(band.mean[0])
    assert curves(rows, "seconds") == {}


def test_anytime_figure_has_panels_for_each_sparsity_over_common_seeds():
    rows = [
        row_of(method, sparsity, seed, 0, 0)
        | {f"best.{axis}.{at}": str(seed) for axis in ("scorings", "images") for at in (10, 100)}
        for method, sparsity, seeds in (("eda", 0.9, (0, 1)), ("eda", 0.8, (0, 1)), ("random_search", 0.8, (1, 2, 3)))
        for seed in seeds
    ]
    (figure,) = drawings(rows)
    panels = figure.figure.axes
    assert [panel.get_xlabel() for panel in panels] == ["scorings", "image-evaluations"] * 2
    assert [len(panel.lines) for panel in panels] == [2, 2, 1, 1]
    assert [line.get_ydata().tolist() for line in panels[0].lines] == [[1, 1], [1, 1]]  # seed 1 alone
    assert "80 % sparsity, 1 seed; 90 % sparsity, 2 seeds." in figure.caption
    apart = [row for row in rows if row["sparsity"] == "0.8" and row["seed"] != "1"]
    assert drawings(apart) == []
