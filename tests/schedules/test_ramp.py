"""The cubic ramp, against values computed by hand."""

from itertools import pairwise

import pytest

from masksearch.schedules.ramp import Ramp
from masksearch.utils.errors import InputError


@pytest.mark.parametrize(
    ("step", "sparsity"),
    # Zhu and Gupta's equation with s_i = 0, s_f = 0.8, t_0 = 100, n dt = 400: 0.8 - 0.8 (1 - (t - 100) / 400)^3.
    [(0, 0), (100, 0), (200, 0.4625), (300, 0.7), (400, 0.7875), (500, 0.8), (900, 0.8)],
)
def test_ramp_matches_values_computed_by_hand(step, sparsity):
    assert 1 - Ramp(0.2, begin=100, end=500).at(step) == pytest.approx(sparsity, abs=1e-12)


def test_ramp_starts_at_the_given_density():
    ramp = Ramp(0.1, begin=0, end=8, interval=2, start=0.5)
    # 0.1 + 0.4 x (1, 27/64, 8/64, 1/64, 0)
    assert [ramp.at(step) for step in (0, 2, 4, 6, 8)] == pytest.approx([0.5, 0.26875, 0.15, 0.10625, 0.1])


@pytest.mark.parametrize("density", [0.1, 0.3, 1 / 3, 0.7])
def test_ramp_ends_at_the_exact_density_and_never_rises(density):
    ramp = Ramp(density, begin=3, end=700, interval=7)
    values = [ramp.at(step) for step in range(800)]
    assert all(a >= b for a, b in pairwise(values))
    assert values[700:] == [density] * 100


def test_ramp_changes_at_intervals_and_at_the_end():
    ramp = Ramp(0.1, begin=5, end=30, interval=10)
    assert [step for step in range(100) if ramp.due(step)] == [15, 25, 30]
    assert [step for step in range(100) if Ramp(0.1, 0, 3, 1).due(step)] == [1, 2, 3]
    assert [step for step in range(100) if Ramp(0.1, 0, 3, 50).due(step)] == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": 0}, r"density: 0; allowed is \(0, 1\]"),
        ({"density": 0.6, "start": 0.5}, r"density: 0.6; allowed is \(0, 0.5\]"),
        ({"start": 1.5}, "start: 1.5"),
        ({"begin": -1}, "begin: -1; allowed is 0 to 9"),
        ({"begin": 10}, "begin: 10; allowed is 0 to 9"),
        ({"interval": 0}, "interval: 0; allowed is 1 or more"),
    ],
)
def test_wrong_ramp_settings_raise_input_error(change, message):
    with pytest.raises(InputError, match=message):
        Ramp(**({"density": 0.1, "begin": 0, "end": 10} | change))
