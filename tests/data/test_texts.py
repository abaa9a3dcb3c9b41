"""Text for language models: windows of files, each file in a single split."""

from pathlib import Path

import pytest
import torch

from masksearch.data import load_data
from masksearch.data.texts import standard_library, text_folder
from masksearch.utils.errors import InputError


def write_texts(folder, n=60, size=50):
    """One file of equal bytes per number, so that a window shows its file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        (folder / f"{number:03}.txt").write_bytes(bytes([number]) * size)
    return folder


def test_each_text_file_is_in_a_single_split_and_hidden_files_are_ignored(tmp_path):
    folder = write_texts(tmp_path / "texts")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "file.txt").write_bytes(b"\xff" * 50)
    raw = text_folder(folder, 10)
    parts = [windows for windows, _ in (raw.train, raw.val, raw.test)]
    members = [set(windows.flatten().tolist()) - {10} for windows in parts]  # 10: line feeds
    assert [windows.shape[1] for windows in parts] == [10] * 3
    assert not members[0] & members[1] | members[0] & members[2] | members[1] & members[2]
    assert set.union(*members) <= set(range(60))
    assert len(members[0]) > len(members[1]) + len(members[2])
    assert torch.equal(parts[0], text_folder(folder, 10).train[0])


def test_folders_named_train_and_test_are_the_splits(tmp_path):
    write_texts(tmp_path / "train", 9)
    write_texts(tmp_path / "test", 1)
    write_texts(tmp_path / "other", 3)
    data = load_data(f"text:{tmp_path}", text_length=16)
    assert (data.task.name, data.shape, len(data.test)) == ("language_model", (16,), 51 // 16)
    assert data.train.inputs.dtype == torch.long
    assert len(data.train) + len(data.val) == 9 * 51 // 16
    assert torch.equal(data.train.inputs, data.train.targets)
    again = load_data(f"text:{tmp_path}", text_length=16)
    assert data.content == again.content != load_data(f"text:{tmp_path}", text_length=17).content


def test_standard_library_is_a_text_data_set():
    data = load_data("standard_library", text_length=64, train_examples=32, val_examples=16)
    assert (len(data.train), len(data.val), len(data.test)) == (32, 16, 512)
    assert data.shape == (64,)
    source = bytes(data.train.inputs.flatten().tolist()).decode("utf-8", errors="replace")
    assert "self" in source
    raw = standard_library(Path(), 64)
    assert len(raw.train[0]) > 10 * len(raw.test[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text:nowhere", r"no folder nowhere; allowed is a folder of text files"),
        ("text", r"'text' can't be read; allowed are imagefolder:PATH, text:PATH"),
        ("standard_library:there", r"'standard_library:there' can't be read"),
    ],
)
def test_wrong_text_data_set_raises_input_error(name, message):
    with pytest.raises(InputError, match=message):
        load_data(name)


def test_too_little_text_or_text_length_for_images_raises_input_error(tmp_path):
    write_texts(tmp_path / "train", 2)
    with pytest.raises(
        InputError,
        match=r"the 0 files for test have fewer than 16 bytes or tokens; give more text, a smaller",
    ):
        load_data(f"text:{tmp_path}", text_length=16)
    with pytest.raises(InputError, match=r"text_length: 16; digits has images, so leave it out"):
        load_data("digits", text_length=16)
