"""The table of schedules, and the densities of rounds."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masksearch.schedules import SCHEDULES, round_densities
from masksearch.testing import check_schedule
from masksearch.utils.errors import InputError


@pytest.mark.parametrize(
    ("density", "rounds", "expected"),
    [
        (0.027, 3, [0.3, 0.09, 0.027]),  # LeNet: 70 % of what is alive go in each round, 2.7 % stay: 37 times fewer
        (0.25, 2, [0.5, 0.25]),
        (0.2, 1, [0.2]),
        (1.0, 3, [1.0, 1.0, 1.0]),
    ],
)
def test_round_densities_match_values_computed_by_hand(density, rounds, expected):
    assert round_densities(density, rounds) == pytest.approx(expected)
    if density < 1:
        assert round_densities(rounds=rounds, sparsity=1 - density) == pytest.approx(expected)


@given(st.floats(0.001, 1), st.integers(1, 40))
def test_every_round_prunes_an_equal_share_and_the_last_density_is_exact(density, rounds):
    densities = round_densities(density, rounds)
    assert len(densities) == rounds
    assert densities[-1] == density
    share = 1 - density ** (1 / rounds)
    for before, after in pairwise([1.0, *densities]):
        assert 1 - after / before == pytest.approx(share, abs=1e-9)
        assert after <= before


@pytest.mark.parametrize(
    ("density", "rounds", "message"),
    [(0.5, 0, "rounds: 0; at least 1"), (0.0, 2, "density: 0.0"), (1.5, 2, "density: 1.5"), (-1, 2, "density: -1")],
)
def test_wrong_round_densities_raise_input_error(density, rounds, message):
    with pytest.raises(InputError, match=message):
        round_densities(density, rounds)
    with pytest.raises(InputError, match="give exactly one of the two"):
        round_densities(rounds=2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_rows_are_consistent(name):
    check_schedule(SCHEDULES[name])


def test_schedule_rows_match_the_published_settings():
    assert SCHEDULES["lottery_ticket"].rewind_to == "0"  # Frankle and Carbin: the initial weights
    assert SCHEDULES["iterative"].rewind_to == SCHEDULES["prune_finetune"].rewind_to == "none"
    assert (SCHEDULES["prune_finetune"].rounds, SCHEDULES["prune_finetune"].epochs) == (3, 4)
    assert not SCHEDULES["multi_shot"].trains_between
    assert SCHEDULES["network_slimming"].bn_l1 == 1e-4
