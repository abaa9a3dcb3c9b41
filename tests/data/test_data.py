"""Splits, normalisation, the table of data sets, folders of images, and what can be wrong with any of them."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import masksearch.data.image_folder as folder_module
from masksearch.data import DATASETS, Data, Split, load_data
from masksearch.data.image_folder import CACHE
from masksearch.data.split import stratified_order
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import numpy_generator

HERE = ("digits", "imagefolder")  # data sets that nothing is downloaded for
IMAGES = os.environ.get("MASKSEARCH_DATA")
needs_images = pytest.mark.skipif(IMAGES is None, reason="MASKSEARCH_DATA names no folder of real images")


def numbered(n, classes=4, shape=(1, 2, 2)):
    """Floating-point images, each filled with its own number, so that a split shows which images it has."""
    images = torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, *shape).clone()
    return images, torch.arange(n) % classes


def members(split):
    return set(split.images[:, 0, 0, 0].long().tolist())


def write_folder(root, classes=("ant", "bee"), per_class=10, size=(4, 3), grey=False):
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for number in range(per_class):
                pixels = draw.integers(0, 256, (size[1], size[0], 1 if grey else 3), dtype=np.uint8)
                Image.fromarray(pixels.repeat(3, 2) if grey else pixels).save(root / part / name / f"{number}.png")
    return root


# splits


def test_splits_are_disjoint_and_complete():
    data = Data.from_tensors("numbers", numbered(100), numbered(20))
    assert [len(part) for part in (data.train, data.val, data.search, data.rest, data.test)] == [80, 20, 10, 10, 20]
    assert members(data.train) | members(data.val) == set(range(100))
    assert not members(data.train) & members(data.val)
    assert members(data.search) | members(data.rest) == members(data.val)
    assert not members(data.search) & members(data.rest)
    for split in (data.train, data.val, data.test):
        assert torch.equal(split.labels, split.images[:, 0, 0, 0].long() % 4)  # labels moved with their images


def test_splits_are_fixed_and_class_balanced():
    one, other = (Data.from_tensors("numbers", numbered(400), numbered(20)) for _ in range(2))
    assert torch.equal(one.train.images, other.train.images)
    for split in (one.train, one.val, one.search):
        counts = split.labels.bincount()
        assert counts.max() - counts.min() <= 2
    assert one.val.labels[:20].tolist() != sorted(one.val.labels[:20].tolist())


def test_sizes_of_search_and_train_do_not_move_the_other_splits():
    full = Data.from_tensors("numbers", numbered(100), numbered(20))
    part = Data.from_tensors("numbers", numbered(100), numbered(20), search_examples=3, train_examples=12)
    assert torch.equal(part.val.images, full.val.images)
    assert torch.equal(part.search.images, full.val.images[:3])
    assert torch.equal(part.train.images, full.train.images[:12])
    assert part.train.labels.bincount().tolist() == pytest.approx([3] * 4, abs=1)


def test_large_sets_hold_back_ten_thousand_and_search_two_thousand():
    data = Data.from_tensors("numbers", numbered(60_000), numbered(20))
    assert (len(data.train), len(data.val), len(data.search)) == (50_000, 10_000, 2_000)


def test_own_val_is_kept_whole_and_shuffled():
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


# normalisation


def test_pixels_are_normalised_with_the_training_split_alone():
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


def test_smaller_training_sets_are_normalised_alike():
    full, part = load_data("digits"), load_data("digits", train_examples=100)
    assert len(part.train) == 100
    assert torch.equal(part.test.images, full.test.images)


def test_constant_channels_stay_finite():
    images = torch.full((40, 1, 4, 4), 77, dtype=torch.uint8)
    data = Data.from_tensors("constant", (images, torch.arange(40) % 2), (images[:4], torch.arange(4) % 2))
    assert data.train.images.abs().max() < 1e-5


def test_floating_point_images_are_taken_as_they_are():
    data = Data.from_tensors("numbers", numbered(100), numbered(20))
    assert torch.equal(data.test.images, numbered(20)[0])
    assert (data.mean, data.std) == (torch.zeros(1), torch.ones(1))


# data sets of torch


def test_from_datasets_reads_what_from_tensors_is_given():
    train, test = numbered(50), numbered(10)
    one = Data.from_datasets("numbers", TensorDataset(*train), TensorDataset(*test), search_examples=4)
    other = Data.from_tensors("numbers", train, test, search_examples=4)
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.search.labels, other.search.labels)


def test_from_datasets_takes_pil_images_and_leaves_the_global_generator():
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


def test_from_datasets_refuses_streams_and_mixed_shapes():
    with pytest.raises(InputError, match="no items or no length"):
        Data.from_datasets("stream", iter([]), iter([]))
    mixed = [(torch.zeros(1, 2, 2), 0), (torch.zeros(1, 3, 2), 1)]
    floating = [(torch.zeros(1, 2, 2), 0.5)] * 20
    with pytest.raises(InputError, match=r"targets are torch\.float32"):
        Data.from_datasets("floating", floating, floating)
    with pytest.raises(InputError, match=re.escape("input 1 has shape (1, 3, 2), and input 0 has (1, 2, 2)")):
        Data.from_datasets("mixed", mixed, mixed)


# errors


def spoiled(images=None, labels=None):
    good_images, good_labels = numbered(20)
    return (good_images if images is None else images, good_labels if labels is None else labels)


NOT_FINITE = numbered(20)[0]
NOT_FINITE[3, 0, 1, 1] = float("nan")


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (spoiled(labels=torch.full((20,), 4)), "test: labels run from 4 to 4; allowed with 4 classes is 0 to 3"),
        (spoiled(labels=torch.full((20,), -1)), "test: label -1"),
        (spoiled(labels=torch.zeros(19, dtype=torch.long)), "targets: 19 of them for 20 inputs"),
        (spoiled(labels=torch.zeros(20)), "classification needs integer classes (n,); name the task of other targets"),
        (spoiled(images=NOT_FINITE), "test: inputs hold NaN or infinity"),
        (spoiled(images=torch.zeros(20, 4)), "test: inputs are float32 4; float32 1x2x2 is needed, as in train"),
        (
            spoiled(images=torch.zeros(0, 1, 2, 2), labels=torch.zeros(0, dtype=torch.long)),
            "test: inputs: 0 examples",
        ),
        (
            spoiled(images=torch.zeros(20, 1, 3, 2)),
            "inputs are float32 1x3x2; float32 1x2x2 is needed",
        ),
        (
            spoiled(images=torch.zeros(20, 1, 2, 2, dtype=torch.int64)),
            "inputs are int64 1x2x2; float32 1x2x2 is needed",
        ),
        (spoiled(images=torch.zeros(20, 1, 2, 2, dtype=torch.uint8)), "inputs are uint8 1x2x2"),
    ],
)
def test_images_and_labels_that_cannot_be_used(test, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Data.from_tensors("spoiled", numbered(100), test)
    assert "\n" not in str(caught.value)


def test_test_classes_that_no_training_image_has():
    with pytest.raises(InputError, match=re.escape("test: labels [3] belong to classes that no training example has")):
        Data.from_tensors("classes", numbered(99, classes=3), numbered(20, classes=4), classes=5)


@pytest.mark.parametrize("count", [0, -1, 20])
def test_wrong_number_of_search_images(count):
    with pytest.raises(InputError, match=f"search_examples is {count}; allowed is 1 to 19"):
        Data.from_tensors("numbers", numbered(100), numbered(20), search_examples=count)


@pytest.mark.parametrize("count", [0, 81])
def test_wrong_number_of_training_images(count):
    with pytest.raises(InputError, match=f"train_examples is {count}; allowed is 1 to 80"):
        Data.from_tensors("numbers", numbered(100), numbered(20), train_examples=count)


def test_too_few_images_and_too_few_classes():
    with pytest.raises(InputError, match="train has 8 examples"):
        Data.from_tensors("few", numbered(8), numbered(4))
    with pytest.raises(InputError, match="classes is 1"):
        Data.from_tensors("one", numbered(100, classes=1), numbered(20, classes=1))


def test_a_split_is_checked_and_can_be_cut():
    split = Split(*numbered(10))
    assert len(split[:3]) == 3
    assert split[torch.tensor([4, 2])].labels.tolist() == [0, 2]
    assert split[:3].images.data_ptr() == split.images.data_ptr()
    with pytest.raises(InputError, match="inputs: 0 examples"):
        split[:0]


# the table


def test_digits_come_with_the_package(tmp_path):
    data = load_data("digits", tmp_path / "nowhere")
    assert (data.name, data.shape, data.classes, data.augment) == ("digits", (1, 8, 8), 10, False)
    assert len(data.train) + len(data.val) + len(data.test) == 1797
    assert data.test.labels.bincount().min() >= 30
    rows = torch.cat([split.images.flatten(1) for split in (data.train, data.val, data.test)])
    assert len(rows.unique(dim=0)) == 1797  # no digit is in two splits


@pytest.mark.parametrize("name", [name for name, row in DATASETS.items() if not row.text and name not in HERE])
def test_a_missing_data_set_says_where_and_how_to_download(name, tmp_path):
    with pytest.raises(InputError) as caught:
        load_data(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "--download" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_the_default_root_is_data_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKSEARCH_DATA", "/elsewhere")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "data"))):
        load_data("mnist")


@pytest.mark.parametrize("name", ["cifar11", "imagefolder", "imagefolder:", "digits:there", "digits:"])
def test_wrong_names(name):
    with pytest.raises(InputError, match=r"did you mean 'cifar10'|allowed are imagefolder:PATH"):
        load_data(name)


def test_augmentation_suits_photographs_only():
    assert [name for name, row in DATASETS.items() if row.augment] == ["cifar10", "cifar100"]


# folders of images


def test_a_folder_is_read_with_its_classes_in_alphabetical_order(tmp_path):
    data = load_data(f"imagefolder:{write_folder(tmp_path)}")
    assert (data.shape, data.classes) == ((3, 3, 4), 2)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 20)
    expected = np.asarray(Image.open(tmp_path / "test" / "bee" / "0.png")) / 255
    pixels = data.test.images * data.std[:, None, None] + data.mean[:, None, None]
    place = int((pixels - torch.tensor(expected).permute(2, 0, 1)).abs().amax((1, 2, 3)).argmin())
    assert data.test.labels[place] == 1
    assert np.allclose(pixels[place].permute(1, 2, 0), expected, atol=1e-5)


def test_grey_folders_have_one_channel(tmp_path):
    assert load_data(f"imagefolder:{write_folder(tmp_path, grey=True)}").shape == (1, 3, 4)


def test_a_folder_is_decoded_once_and_again_after_a_change(tmp_path, monkeypatch):
    name, opened, read = f"imagefolder:{write_folder(tmp_path)}", [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or read(path))

    def decoded():
        """Image files that were read since the last call; the first one is read twice, for its size."""
        n = len(set(opened))
        opened.clear()
        return n

    first = load_data(name)
    assert decoded() == 40
    second = load_data(name)
    assert decoded() == 0
    assert torch.equal(first.train.images, second.train.images)
    Image.new("RGB", (4, 3)).save(tmp_path / "train" / "ant" / "new.png")
    assert len(load_data(name).train) + len(load_data(name).val) == 21
    assert decoded() == 41
    (tmp_path / CACHE).write_bytes(b"damaged")
    load_data(name)
    assert decoded() == 41


def test_a_folder_that_cannot_be_written_is_read_with_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(folder_module, "save_tensors", refuse)
    with pytest.warns(UserWarning, match="decoded again next time"):
        load_data(f"imagefolder:{write_folder(tmp_path)}")
    assert not (tmp_path / CACHE).exists()


def test_cifar10_reads_a_folder_where_the_published_files_are_absent(tmp_path):
    write_folder(tmp_path / "cifar10", classes=tuple("abcdefghij"), per_class=5)
    data = load_data("cifar10", tmp_path)
    assert (data.name, data.classes, data.augment, len(data.test)) == ("cifar10", 10, True, 50)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=re.escape(f"no folder {tmp_path / 'train'}")):
        load_data(f"imagefolder:{tmp_path}")
    write_folder(tmp_path)
    name = f"imagefolder:{tmp_path}"
    odd = tmp_path / "train" / "bee" / "wide.png"
    Image.new("RGB", (9, 3)).save(odd)
    with pytest.raises(InputError, match=r"wide\.png is 9x3 pixels and .* is 4x3; give one size for all"):
        load_data(name)
    odd.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"wide\.png can't be read as an image"):
        load_data(name)
    odd.unlink()
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(InputError, match="Found no valid file for the classes cat"):
        load_data(name)
    Image.new("RGB", (4, 3)).save(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(InputError, match=r"need the same classes, and only one of them has cat"):
        load_data(name)


# real images


@needs_images
@pytest.mark.images
def test_mnist():
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
def test_cifar10():
    data = load_data("cifar10", Path(IMAGES))
    assert (data.shape, data.classes, data.augment) == ((3, 32, 32), 10, True)
    assert (len(data.train), len(data.val), len(data.search), len(data.test)) == (40_000, 10_000, 2_000, 10_000)
    assert data.train.labels.bincount().tolist() == pytest.approx([4_000] * 10, abs=1)
    # Published for the whole training set.
    assert data.mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
    assert data.std.tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=3e-3)


def test_data_and_splits_are_shown_in_one_line_without_pixels():
    data = Data.from_tensors("numbers", numbered(100), numbered(20))
    assert repr(data) == "Data('numbers', 1x2x2, 4 classes: 80 train, 20 val (10 search), 20 test)"
    assert repr(data.search) == "Split(10 examples, float32 1x2x2, classification)"
