"""Texts with classes: folders, and docstrings of the standard library."""

import pytest
import torch
from text_cases import save_tokenizer

from masksearch.data import load_data
from masksearch.utils.errors import InputError


@pytest.fixture
def tokenizer(tmp_path):
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    return save_tokenizer(tmp_path / "tokenizer", transformers, tokenizers)


def write_texts(root, parts=("train", "test"), classes=("ant", "bee"), n=10):
    for part in parts:
        for place, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for number in range(n):
                (root / part / name / f"{number}.txt").write_text(f"w{place} w{number} unknown")
    return root


def test_text_folder_gives_padded_tokens_and_classes_in_alphabetical_order(tokenizer, tmp_path):
    data = load_data(f"textfolder:{write_texts(tmp_path / 'texts')}", text_length=5, tokenizer=tokenizer)
    assert (data.classes, data.task.name) == (2, "classification")
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 20)
    tokens, mask = data.test.inputs["input_ids"], data.test.inputs["attention_mask"]
    assert torch.equal(tokens[:, 0] - 2, data.test.targets)
    assert tokens[:, 2:].unique(dim=0).tolist() == [[1, 0, 0]]
    assert mask.unique(dim=0).tolist() == [[1, 1, 1, 0, 0]]


def test_docstrings_have_packages_as_classes(tokenizer):
    data = load_data("docstrings", text_length=6, tokenizer=tokenizer)
    assert data.classes == 8
    assert len(data.train) > 5 * len(data.test) > 0
    assert set(data.test.targets.tolist()) <= set(range(8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("textfolder:nowhere", r"no texts in nowhere/train; allowed are train/<class>/\* and test/<class>/\*"),
        ("docstrings", r"data set 'docstrings' has texts, which a tokenizer reads; give model transformers:FOLDER"),
    ],
)
def test_wrong_text_classification_data_raises_input_error(name, message):
    with pytest.raises(InputError, match=message):
        load_data(name)


def test_text_folder_with_different_classes_in_train_and_test_raises_input_error(tmp_path):
    write_texts(tmp_path, ("train",))
    write_texts(tmp_path, ("test",), ("ant",))
    with pytest.raises(InputError, match=r"train/ and test/ need the same classes; only one has bee"):
        load_data(f"textfolder:{tmp_path}")
