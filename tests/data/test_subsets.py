"""Subsets of the search images: nested or without a common image, every class in its proportion, the rest unseen."""

from itertools import combinations, pairwise

import pytest
import torch

from masksearch.data import Data, search_subsets
from masksearch.errors import InputError

CLASSES = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(400)  # 2,400 images: a half, a third and a sixth


@pytest.fixture(scope="module")
def data():
    images = torch.arange(2400, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 2, 2).clone()
    return Data.from_tensors("numbers", (images, CLASSES), (images[:9], CLASSES[:9]), search_images=96)  # of 480


def members(split):
    return set(split.images[:, 0, 0, 0].long().tolist())


def is_stratified(split):
    shares = torch.tensor([1 / 2, 1 / 3, 1 / 6]) * len(split)
    return bool(((split.labels.bincount(minlength=3) - shares).abs() <= 2).all())


def test_fixed_subsets_are_the_search_images(data):
    subsets = search_subsets(data, "fixed")
    assert [members(stage) for stage in subsets.stages] == [members(data.search)]
    assert members(subsets.rest) == members(data.rest)


def test_growing_subsets_are_nested_double_and_end_with_all_search_images(data):
    subsets = search_subsets(data, "growing", 5)
    assert [len(stage) for stage in subsets.stages] == [6, 12, 24, 48, 96]
    assert all(members(small) < members(large) for small, large in pairwise(subsets.stages))
    assert members(subsets.stages[-1]) == members(data.search)
    assert all(map(is_stratified, subsets.stages))
    assert members(subsets.rest) == members(data.rest)
    images = data.val.images, data.val.labels
    odd = Data.from_tensors("odd", images, images, images, search_images=47)
    assert [len(stage) for stage in search_subsets(odd, "growing").stages] == [5, 11, 23, 47]


def test_redrawn_subsets_have_no_common_image_and_leave_a_rest_that_none_of_them_has(data):
    subsets = search_subsets(data, "redrawn", 4)
    assert [len(stage) for stage in subsets.stages] == [96] * 4
    parts = [members(part) for part in (*subsets.stages, subsets.rest)]
    assert not any(one & other for one, other in combinations(parts, 2))
    assert set.union(*parts) == members(data.val)
    assert parts[3] == members(data.search)
    assert all(map(is_stratified, (*subsets.stages, subsets.rest)))


@pytest.mark.parametrize(
    ("kind", "stages", "message"),
    [
        ("redrawn", 5, "redrawn 5 times, 96 images each, .* val has 480, so search_images may be 80 at most"),
        ("growing", 7, "the first of 7 stages would have 1 of 96 search images; at least 3 are needed"),
        ("growing", 1, "subset_stages: 1; growing subsets need at least 2"),
    ],
)
def test_too_few_images_are_an_error(data, kind, stages, message):
    with pytest.raises(InputError, match=message) as caught:
        search_subsets(data, kind, stages)
    assert "\n" not in str(caught.value)
