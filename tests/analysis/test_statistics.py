"""Statistics against worked examples, published tables and SciPy."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from masksearch.analysis import holm, paired, ranks, win_matrix
from masksearch.utils.errors import InputError

probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=12)
score_blocks = arrays(float, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.integers(0, 3).map(float))


def test_p_value_of_ten_wins_matches_the_published_level():
    result = paired(np.arange(1, 11) / 100, np.zeros(10))
    assert result.p == pytest.approx(2 * 2**-10)  # two-sided: two of the 2^10 patterns of signs
    assert (result.wins, result.losses) == (10, 0)
    assert paired([0.1, 0.2, 0.3, 0.4, 0.5], [0.0] * 5).p == pytest.approx(2 * 2**-5)  # five can't reach 0.05


def test_p_value_counts_sign_patterns_with_ties():
    differences = np.array([0.02, 0.02, -0.01, 0.03, 0.03, 0.05])
    sizes = stats.rankdata(np.abs(differences))
    observed = abs((np.sign(differences) * sizes).sum())
    totals = [abs(np.dot(signs, sizes)) for signs in product((-1, 1), repeat=len(sizes))]
    exact = np.mean([total >= observed - 1e-9 for total in totals])
    assert paired(differences, np.zeros(6)).p == pytest.approx(exact)


def test_pairs_without_a_difference_do_not_count():
    with_zeros = paired([0.5, 0.5, 0.6, 0.7, 0.9], [0.5, 0.5, 0.5, 0.5, 0.5])
    assert with_zeros.p == paired([0.6, 0.7, 0.9], [0.5, 0.5, 0.5]).p
    assert (with_zeros.wins, with_zeros.losses) == (3, 0)
    assert paired([0.3, 0.4], [0.3, 0.4]).p == 1
    assert paired([0.3, 0.1 + 0.2], [0.3, 0.3]).p == 1  # rounding is no difference


def test_verdicts_follow_the_t_interval():
    differences = np.array([0.01, 0.02, 0.03])
    result = paired(0.9 + differences, [0.9] * 3)
    low, high = stats.t.interval(0.95, 2, 0.02, stats.sem(differences))
    assert (result.low, result.high) == pytest.approx((low, high))  # about -0.0048 and 0.0448
    assert result.above(-0.005)
    assert not result.above(-0.004)
    assert not result.not_below
    assert result.below(0.045)
    assert not result.below(0.044)
    assert paired([0.9, 0.9005, 0.9], [0.9, 0.9, 0.9]).not_below


def test_single_pair_or_missing_value_gives_no_verdict():
    one = paired([0.9], [0.1])
    assert one.difference.mean == pytest.approx(0.8)
    assert not one.above(0)
    assert not one.not_below
    assert not one.below(1)
    missing = paired([0.9, math.nan], [0.1, 0.1])
    assert math.isnan(missing.p)
    assert math.isnan(missing.difference.mean)
    assert not missing.not_below


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])])
def test_unpaired_values_raise_input_error(first, second):
    with pytest.raises(InputError, match="pairs"):
        paired(first, second)


def test_holm_matches_values_computed_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1, 1])
    kept = holm([math.nan, 0.02])
    assert math.isnan(kept[0])
    assert kept[1] == pytest.approx(0.04)


@given(probabilities)
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(values):
    raw, corrected = np.array(values), holm(values)
    assert (corrected >= raw).all()
    assert (corrected <= np.minimum(1, len(raw) * raw) + 1e-15).all()
    assert (np.diff(corrected[np.argsort(raw, kind="stable")]) >= 0).all()


@given(score_blocks)
def test_win_matrix_and_its_transpose_sum_to_the_number_of_blocks(scores):
    wins = win_matrix(scores)
    off = ~np.eye(len(wins), dtype=bool)
    assert (wins + wins.T)[off] == pytest.approx(len(scores))
    assert not wins.diagonal().any()


def test_win_matrix_matches_values_computed_by_hand():
    assert win_matrix(np.array([[1, 2, 2], [3, 1, 2]])).tolist() == [[0, 1, 1], [1, 0, 0.5], [1, 1.5, 0]]


@given(score_blocks)
def test_mean_ranks_match_the_win_matrix(scores):
    wins = win_matrix(scores)
    assert ranks(scores).mean == pytest.approx(1 + wins.sum(0) / len(scores))  # a rank is 1 + those that beat it


def test_critical_differences_match_the_published_values():
    for methods, q in {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 10: 3.164}.items():  # Demsar 2006, table 5
        scores = np.random.default_rng(0).random((14, methods))
        assert ranks(scores).critical == pytest.approx(q * math.sqrt(methods * (methods + 1) / 84), rel=1e-3)


def test_friedman_p_value_equals_that_of_scipy():
    scores = np.random.default_rng(1).random((9, 4))
    assert ranks(scores).p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert math.isnan(ranks(scores[:, :2]).p)
    with pytest.raises(InputError, match="scores"):
        ranks(np.array([[1.0, math.nan]]))
