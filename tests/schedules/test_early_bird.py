"""The early-bird rule, against values computed by hand and a naive implementation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace
from masksearch.schedules import EarlyBird, mask_distances
from masksearch.utils.errors import InputError


def space_of(n):
    return MaskSpace([("layer", (n, 1), n)])


def kept(space, *units):
    return Mask.of_units(space, np.array(units, dtype=np.int64))


def half(*, without=()):
    """10 of 20 units, 0 to 9; each of ``without`` is replaced by a unit 10 further: a distance of 2 / 20."""
    space = space_of(20)
    return kept(space, *(unit + 10 * (unit in without) for unit in range(10)))


def fires(rule, masks):
    """The numbers of the masks at which the rule fires."""
    return [number for number, mask in enumerate(masks, start=1) if rule.see(mask)]


def test_early_bird_fires_at_the_fifth_unchanged_mask_and_afterwards():
    assert fires(EarlyBird(), [half()] * 7) == [5, 6, 7]
    assert fires(EarlyBird(memory=2), [half()] * 3) == [2, 3]


def test_distance_equal_to_the_threshold_fires_and_a_larger_distance_does_not():
    near, far = half(without=(0,)), half(without=(0, 1))  # 0.1 and 0.2 away
    assert fires(EarlyBird(0.1), [near] * 4 + [half()]) == [5]
    assert fires(EarlyBird(0.1), [far] * 4 + [half()]) == []
    assert fires(EarlyBird(0.2), [far] * 4 + [half()]) == [5]


def test_early_bird_compares_only_the_newest_mask_with_the_others():
    one, other = half(without=(0,)), half(without=(1,))
    assert one.hamming(other) / 20 == 0.2
    assert fires(EarlyBird(0.1), [one, other, one, other, half()]) == [5]
    assert fires(EarlyBird(0.1), [half(), half(), half(), other, one]) == []


def test_distant_mask_prevents_firing_until_removed_from_the_memory():
    away = half(without=range(5))
    assert fires(EarlyBird(), [away, *[half()] * 6]) == [6, 7]
    assert fires(EarlyBird(), [*[half()] * 3, away, *[half()] * 6]) == [9, 10]


def test_epoch_without_a_mask_empties_the_memory():
    assert fires(EarlyBird(), [None] * 20) == []
    assert fires(EarlyBird(), [*[half()] * 4, None, *[half()] * 6]) == [10, 11]


@pytest.mark.parametrize(
    ("units", "density", "changed", "fires_at"),
    [
        (1000, 0.5, 50, [5]),  # 2 x .5 x .5 x .1 = .05 of all units
        (1000, 0.5, 52, []),
        (1000, 0.05, 8, [5]),  # 2 x .05 x .95 x .1 = .0095 of all units
        (1000, 0.05, 10, []),
    ],
)
def test_relative_threshold_matches_values_computed_by_hand(units, density, changed, fires_at):
    space, n = space_of(units), int(units * density)
    mask = kept(space, *range(n))
    other = kept(space, *range(changed // 2, n + changed // 2))
    assert mask.hamming(other) == changed
    assert fires(EarlyBird(0.1, relative=True), [other] * 4 + [mask]) == fires_at


def test_absolute_threshold_fires_on_unrelated_masks_of_low_density():
    g = torch.Generator().manual_seed(0)
    unrelated = [space_of(1000).random(0.05, generator=g) for _ in range(6)]
    assert fires(EarlyBird(0.1), unrelated) == [5, 6]
    assert fires(EarlyBird(0.1, relative=True), unrelated) == []
    unrelated = [space_of(1000).random(0.5, generator=g) for _ in range(6)]
    assert fires(EarlyBird(0.1), unrelated) == []


BITS = st.lists(st.integers(0, 2**8 - 1) | st.none(), max_size=14)


@given(BITS, st.floats(0.01, 0.6), st.booleans(), st.integers(2, 6))
def test_early_bird_equals_a_naive_implementation(codes, threshold, relative, memory):
    space = space_of(8)
    masks = [
        None if code is None else Mask(space, torch.tensor([bool(code >> i & 1) for i in range(8)])) for code in codes
    ]
    expected = []
    for number in range(memory, len(masks) + 1):
        last = masks[number - memory : number]
        if None in last:
            continue
        d = last[-1].density
        limit = threshold * 2 * d * (1 - d) if relative else threshold
        if all(float((last[-1].bits != mask.bits).sum()) / 8 <= limit for mask in last):
            expected.append(number)
    assert fires(EarlyBird(threshold, relative, memory), masks) == expected


def test_mask_distances_are_symmetric_with_nan_for_missing_masks():
    masks = [half(), half(without=(0,)), None, half(without=(1, 2))]
    distances = mask_distances(masks)
    nan = float("nan")
    expected = [[0, 0.1, nan, 0.2], [0.1, 0, nan, 0.3], [nan] * 4, [0.2, 0.3, nan, 0]]
    np.testing.assert_allclose(distances, expected)
    assert mask_distances([]).shape == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "threshold: 0.0"),
        ({"threshold": 1.0}, "threshold: 1.0"),
        ({"threshold": float("nan")}, "threshold: nan"),
        ({"memory": 1}, "memory: 1 masks; at least 2"),
    ],
)
def test_wrong_early_bird_settings_raise_input_error(arguments, message):
    with pytest.raises(InputError, match=message):
        EarlyBird(**arguments)
