"""Data sets of torch, data sets by name, and published data sets."""

import os
import re
from pathlib import Path

import pytest
import torch
from numbered_images import numbered
from PIL import Image
from torch.utils.data import TensorDataset

from masksearch.data import DATASETS, Data, load_data
from masksearch.utils.errors import InputError

HERE = ("digits", "imagefolder")  # data sets that nothing is downloaded for
IMAGES = os.environ.get("MASKSEARCH_DATA")
needs_images = pytest.mark.skipif(IMAGES is None, reason="MASKSEARCH_DATA names no folder of real images")


def test_from_datasets_equals_from_tensors():
    train, test = numbered(50), numbered(10)
    one = Data.from_datasets("numbers", TensorDataset(*train), TensorDataset(*test), search_examples=4)
    other = Data.from_tensors("numbers", train, test, search_examples=4)
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.search.labels, other.search.labels)


def test_from_datasets_accepts_pil_images_and_keeps_the_global_random_state():
    class Pictures:
        def __len__(self):
            return 20

        def __getitem__(self, index):
            torch.rand(1)
            return Image.new("RGB", (5, 4), (index, 0, 255)), index % 2

    before = torch.get_rng_state()
    data = Data.from_datasets("pictures", Pictures(), Pictures())
    assert torch.equal(torch.get_rng_state(), before)
    assert data.shape == (3, 4, 5)
    assert data.std[0] < 1 / 10  # uint8 pixels were scaled


def test_from_datasets_with_streams_or_mixed_shapes_raises_input_error():
    with pytest.raises(InputError, match="without items or without a length; allowed are data sets with __len__"):
        Data.from_datasets("stream", iter([]), iter([]))
    mixed = [(torch.zeros(1, 2, 2), 0), (torch.zeros(1, 3, 2), 1)]
    floating = [(torch.zeros(1, 2, 2), 0.5)] * 20
    with pytest.raises(InputError, match=r"targets are torch\.float32"):
        Data.from_datasets("floating", floating, floating)
    with pytest.raises(InputError, match=re.escape("input 1 has shape (1, 3, 2), and input 0 has (1, 2, 2)")):
        Data.from_datasets("mixed", mixed, mixed)


def test_digits_need_no_download_and_have_disjoint_splits(tmp_path):
    data = load_data("digits", tmp_path / "nowhere")
    assert (data.name, data.shape, data.classes, data.augment) == ("digits", (1, 8, 8), 10, False)
    assert len(data.train) + len(data.val) + len(data.test) == 1797
    assert data.test.labels.bincount().min() >= 30
    rows = torch.cat([split.images.flatten(1) for split in (data.train, data.val, data.test)])
    assert len(rows.unique(dim=0)) == 1797  # no digit is in two splits


@pytest.mark.parametrize("name", [name for name, row in DATASETS.items() if not row.text and name not in HERE])
def test_missing_data_set_raises_input_error_with_folder_and_download_flag(name, tmp_path):
    with pytest.raises(InputError) as caught:
        load_data(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "--download" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_default_data_root_is_data_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKSEARCH_DATA", "/elsewhere")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "data"))):
        load_data("mnist")


@pytest.mark.parametrize("name", ["cifar11", "imagefolder", "imagefolder:", "digits:there", "digits:"])
def test_wrong_data_set_name_raises_input_error(name):
    with pytest.raises(InputError, match=r"did you mean 'cifar10'|allowed are imagefolder:PATH"):
        load_data(name)


def test_only_photographs_are_augmented():
    assert [name for name, row in DATASETS.items() if row.augment] == ["cifar10", "cifar100"]


@needs_images
@pytest.mark.images
def test_mnist_has_its_published_sizes_and_statistics():
    data = load_data("mnist", Path(IMAGES))
    assert (data.shape, data.classes, data.augment) == ((1, 28, 28), 10, False)
    assert [len(part) for part in (data.train, data.val, data.search, data.rest, data.test)] == [
        50_000,
        10_000,
        2_000,
        8_000,
        10_000,
    ]
    # Published for the whole training set: 0.1307 and 0.3081.
    assert (data.mean.item(), data.std.item()) == pytest.approx((0.1307, 0.3081), abs=5e-4)
    assert data.test.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert data.search.labels.bincount().tolist() == pytest.approx(
        (2_000 * data.train.labels.bincount() / 50_000).tolist(), abs=2
    )


@needs_images
@pytest.mark.images
def test_cifar10_has_its_published_sizes_and_statistics():
    data = load_data("cifar10", Path(IMAGES))
    assert (data.shape, data.classes, data.augment) == ((3, 32, 32), 10, True)
    assert (len(data.train), len(data.val), len(data.search), len(data.test)) == (40_000, 10_000, 2_000, 10_000)
    assert data.train.labels.bincount().tolist() == pytest.approx([4_000] * 10, abs=1)
    # Published for the whole training set.
    assert data.mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
    assert data.std.tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=3e-3)
