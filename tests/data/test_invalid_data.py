"""Wrong images, labels, classes and sizes of splits raise input errors."""

import re

import pytest
import torch
from numbered_images import numbered

from masksearch.data import Data
from masksearch.utils.errors import InputError


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
        (spoiled(labels=torch.zeros(19, dtype=torch.long)), "targets: 19 for 20 inputs"),
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
def test_wrong_images_or_labels_raise_input_error(test, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Data.from_tensors("spoiled", numbered(100), test)
    assert "\n" not in str(caught.value)


def test_test_classes_absent_from_training_raise_input_error():
    with pytest.raises(InputError, match=re.escape("test: labels [3] belong to classes that no training example has")):
        Data.from_tensors("classes", numbered(99, classes=3), numbered(20, classes=4), classes=5)


@pytest.mark.parametrize("count", [0, -1, 20])
def test_wrong_number_of_search_examples_raises_input_error(count):
    with pytest.raises(InputError, match=f"search_examples is {count}; allowed is 1 to 19"):
        Data.from_tensors("numbers", numbered(100), numbered(20), search_examples=count)


@pytest.mark.parametrize("count", [0, 81])
def test_wrong_number_of_training_examples_raises_input_error(count):
    with pytest.raises(InputError, match=f"train_examples is {count}; allowed is 1 to 80"):
        Data.from_tensors("numbers", numbered(100), numbered(20), train_examples=count)


def test_too_few_examples_or_classes_raise_input_error():
    with pytest.raises(InputError, match="train has 8 examples"):
        Data.from_tensors("few", numbered(8), numbered(4))
    with pytest.raises(InputError, match="classes is 1"):
        Data.from_tensors("one", numbered(100, classes=1), numbered(20, classes=1))
