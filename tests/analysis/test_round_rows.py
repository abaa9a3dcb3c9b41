"""Rows of rounds: accuracies of each round's mask at all moments, over seeds."""

import pytest
from analysis_cases import make_cell, make_dense, make_round

from masksearch.analysis import MOMENTS, summarise


def test_rounds_have_the_values_of_all_moments():
    row = summarise([make_cell(sparsity=0.75, seed=seed, rounds=2) for seed in (0, 1)])[1]
    assert [round_.number for round_ in row.rounds] == [1, 2]
    assert [round_.density.mean for round_ in row.rounds] == pytest.approx([0.5, 0.25])
    for number, round_ in enumerate(row.rounds, start=1):
        accuracies = {name: moment.accuracy.mean for name, moment in round_.moments.items()}
        expected = {"found": 0.21, "untrained": 0.31, "best_dense": 0.41, "trained": 0.81}
        assert accuracies == pytest.approx({name: value + 0.01 * number for name, value in expected.items()})
        assert round_.moments["found"].loss.mean == pytest.approx(1.8 - 0.1 * number)
        assert round_.best_epoch.mean == 2.5
    texts = ("1", "50", "32.00", "1.600", "42.00", "1.500", "22.00", "1.700", "82.00", "1.100", "2.5")
    assert row.rounds[0].texts == texts


def test_dense_row_has_last_and_best_accuracy():
    [row] = summarise([], [make_dense(seed) for seed in (0, 1)])
    [round_] = row.rounds
    assert round_.moments["trained"].accuracy.mean == pytest.approx(0.955)
    assert round_.moments["best_dense"].accuracy.mean == pytest.approx(0.965)
    assert round_.texts == ("–", "100", "–", "–", "96.50", "0.100", "–", "–", "95.50", "0.200", "3")


def test_round_without_training_has_no_trained_values():
    cell = make_cell(rounds=2)
    cell.rounds[0] = make_round(trains=False)
    first, last = summarise([cell])[1].rounds
    assert first.moments["trained"].accuracy.n == first.moments["trained"].loss.n == 0
    assert first.texts[-3:] == ("–", "–", "–")
    assert last.texts[-3:] == ("82.00", "1.000", "2")
    assert set(first.moments) == set(MOMENTS)
