"""Splits of resident data, and the normalisation of their pixels."""

import pytest
import torch
from numbered_images import numbered

from masksearch.data import Data, Split, load_data
from masksearch.data.in_memory_split import stratified_order
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import numpy_generator


def members(split):
    return set(split.images[:, 0, 0, 0].long().tolist())


def test_splits_are_disjoint_and_complete():
    data = Data.from_tensors("numbers", numbered(100), numbered(20))
    assert [len(part) for part in (data.train, data.val, data.search, data.rest, data.test)] == [80, 20, 10, 10, 20]
    assert members(data.train) | members(data.val) == set(range(100))
    assert not members(data.train) & members(data.val)
    assert members(data.search) | members(data.rest) == members(data.val)
    assert not members(data.search) & members(data.rest)
    for split in (data.train, data.val, data.test):
        assert torch.equal(split.labels, split.images[:, 0, 0, 0].long() % 4)  # labels moved with their images


def test_splits_are_reproducible_and_class_balanced():
    one, other = (Data.from_tensors("numbers", numbered(400), numbered(20)) for _ in range(2))
    assert torch.equal(one.train.images, other.train.images)
    for split in (one.train, one.val, one.search):
        counts = split.labels.bincount()
        assert counts.max() - counts.min() <= 2
    assert one.val.labels[:20].tolist() != sorted(one.val.labels[:20].tolist())


def test_numbers_of_search_and_training_examples_keep_the_other_splits():
    full = Data.from_tensors("numbers", numbered(100), numbered(20))
    part = Data.from_tensors("numbers", numbered(100), numbered(20), search_examples=3, train_examples=12)
    assert torch.equal(part.val.images, full.val.images)
    assert torch.equal(part.search.images, full.val.images[:3])
    assert torch.equal(part.train.images, full.train.images[:12])
    assert part.train.labels.bincount().tolist() == pytest.approx([3] * 4, abs=1)


def test_large_data_sets_have_10000_validation_and_2000_search_examples():
    data = Data.from_tensors("numbers", numbered(60_000), numbered(20))
    assert (len(data.train), len(data.val), len(data.search)) == (50_000, 10_000, 2_000)


def test_given_validation_split_is_kept_whole_and_shuffled():
    images, labels = numbered(40)
    by_class = labels.argsort(stable=True)
    data = Data.from_tensors("numbers", numbered(100), numbered(20), (images[by_class], labels[by_class]))
    assert members(data.train) == set(range(100))
    assert members(data.val) == set(range(40))
    assert data.search.labels.unique().tolist() == [0, 1, 2, 3]


def test_every_prefix_of_a_stratified_order_is_close_to_proportional():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, numpy_generator(3, "test"))
    assert sorted(order.tolist()) == list(range(100))
    for stop in range(1, 101):
        counts = labels[order[:stop]].bincount(minlength=3)
        assert (counts - stop * torch.tensor([0.6, 0.3, 0.1])).abs().max() <= 2
    assert not torch.equal(order, stratified_order(labels, numpy_generator(4, "test")))


def test_pixels_are_normalised_with_statistics_of_the_training_split():
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 3, 4, 4), generator=g, dtype=torch.uint8)
    images[:, 1] //= 4
    labels = torch.arange(200) % 5
    dark = torch.zeros(20, 3, 4, 4, dtype=torch.uint8)
    data = Data.from_tensors("noise", (images, labels), (dark, labels[:20]))
    assert data.train.images.dtype == torch.float32
    assert data.train.images.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert data.train.images.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * 3, abs=1e-5)
    assert torch.allclose(data.test.images[0, :, 0, 0], -data.mean / data.std)
    assert data.val.images.mean().abs() > 1e-4  # its own mean isn't 0
    pixels = data.train.images * data.std[:, None, None] + data.mean[:, None, None]
    assert torch.allclose(pixels * 255, (pixels * 255).round(), atol=1e-3)


def test_normalisation_is_independent_of_train_examples():
    full, part = load_data("digits"), load_data("digits", train_examples=100)
    assert len(part.train) == 100
    assert torch.equal(part.test.images, full.test.images)


def test_constant_channels_stay_finite():
    images = torch.full((40, 1, 4, 4), 77, dtype=torch.uint8)
    data = Data.from_tensors("constant", (images, torch.arange(40) % 2), (images[:4], torch.arange(4) % 2))
    assert data.train.images.abs().max() < 1e-5


def test_floating_point_images_are_not_normalised():
    data = Data.from_tensors("numbers", numbered(100), numbered(20))
    assert torch.equal(data.test.images, numbered(20)[0])
    assert (data.mean, data.std) == (torch.zeros(1), torch.ones(1))


def test_split_supports_slices_and_raises_input_error_when_empty():
    split = Split(*numbered(10))
    assert len(split[:3]) == 3
    assert split[torch.tensor([4, 2])].labels.tolist() == [0, 2]
    assert split[:3].images.data_ptr() == split.images.data_ptr()
    with pytest.raises(InputError, match="inputs: 0 examples"):
        split[:0]


def test_repr_of_data_and_splits_is_a_single_line():
    data = Data.from_tensors("numbers", numbered(100), numbered(20))
    assert repr(data) == "Data('numbers', 1x2x2, 4 classes: 80 train, 20 val (10 search), 20 test)"
    assert repr(data.search) == "Split(10 examples, float32 1x2x2, classification)"
