"""Folders of images."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import masksearch.data.image_folder as folder_module
from masksearch.data import load_data
from masksearch.data.image_folder import CACHE
from masksearch.utils.errors import InputError


def write_folder(root, classes=("ant", "bee"), per_class=10, size=(4, 3), grey=False):
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for number in range(per_class):
                pixels = draw.integers(0, 256, (size[1], size[0], 1 if grey else 3), dtype=np.uint8)
                Image.fromarray(pixels.repeat(3, 2) if grey else pixels).save(root / part / name / f"{number}.png")
    return root


def test_image_folder_has_classes_in_alphabetical_order(tmp_path):
    data = load_data(f"imagefolder:{write_folder(tmp_path)}")
    assert (data.shape, data.classes) == ((3, 3, 4), 2)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 20)
    expected = np.asarray(Image.open(tmp_path / "test" / "bee" / "0.png")) / 255
    pixels = data.test.images * data.std[:, None, None] + data.mean[:, None, None]
    place = int((pixels - torch.tensor(expected).permute(2, 0, 1)).abs().amax((1, 2, 3)).argmin())
    assert data.test.labels[place] == 1
    assert np.allclose(pixels[place].permute(1, 2, 0), expected, atol=1e-5)


def test_grey_image_folder_has_a_single_channel(tmp_path):
    assert load_data(f"imagefolder:{write_folder(tmp_path, grey=True)}").shape == (1, 3, 4)


def test_image_folder_is_decoded_once_and_again_after_a_change(tmp_path, monkeypatch):
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


def test_unwritable_image_folder_is_read_with_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(folder_module, "save_tensors", refuse)
    with pytest.warns(UserWarning, match="decoded again next time"):
        load_data(f"imagefolder:{write_folder(tmp_path)}")
    assert not (tmp_path / CACHE).exists()


def test_cifar10_reads_an_image_folder_without_the_published_files(tmp_path):
    write_folder(tmp_path / "cifar10", classes=tuple("abcdefghij"), per_class=5)
    data = load_data("cifar10", tmp_path)
    assert (data.name, data.classes, data.augment, len(data.test)) == ("cifar10", 10, True, 50)


def test_unusable_image_folder_raises_input_error(tmp_path):
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
