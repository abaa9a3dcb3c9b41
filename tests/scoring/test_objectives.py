"""Objectives of logits: values by hand, and properties of all objectives."""

import math

import pytest
import torch

from masksearch.scoring import OBJECTIVES
from masksearch.utils.errors import InputError

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 0.0], [0.0, 3.0, 1.0], [1.0, 1.0, 4.0]])
LABELS = torch.tensor([0, 1, 2, 2])

LOGITS_OF = {name: row.of_logits for name, row in OBJECTIVES.items() if row.of_logits}
every = pytest.mark.parametrize("objective", LOGITS_OF.values(), ids=LOGITS_OF)


def cross_entropy(logits, labels):
    """Minus the mean log-probability of the labels, in plain Python."""
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        losses.append(math.log(sum(math.exp(z) for z in row)) - row[label])
    return sum(losses) / len(losses)


def test_accuracy_and_loss_equal_values_by_hand():
    assert LOGITS_OF["accuracy"](LOGITS, LABELS).item() == 0.75
    assert LOGITS_OF["loss"](LOGITS, LABELS).item() == pytest.approx(-cross_entropy(LOGITS, LABELS))


def test_calibrated_loss_equals_the_value_by_hand():
    values = LOGITS.flatten().tolist()
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((z - mean) ** 2 for z in values) / (len(values) - 1))
    wanted = -cross_entropy(3 * LOGITS / deviation, LABELS)
    assert LOGITS_OF["calibrated_loss"](LOGITS, LABELS).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 0.1, 7.0, 1e6])
def test_calibrated_loss_and_accuracy_ignore_the_logits_scale_and_loss_does_not(scale):
    for name in ("calibrated_loss", "accuracy"):
        objective = LOGITS_OF[name]
        assert objective(scale * LOGITS, LABELS).item() == pytest.approx(objective(LOGITS, LABELS).item(), rel=1e-4)
    assert LOGITS_OF["loss"](scale * LOGITS, LABELS).item() != pytest.approx(LOGITS_OF["loss"](LOGITS, LABELS).item())


@every
def test_right_logits_score_higher(objective):
    right = torch.nn.functional.one_hot(LABELS, 3).float()
    wrong = torch.nn.functional.one_hot((LABELS + 1) % 3, 3).float()
    assert objective(right, LABELS) > objective(wrong, LABELS)


@every
def test_objectives_do_not_depend_on_the_order_of_images(objective):
    order = torch.tensor([2, 0, 3, 1])
    assert objective(LOGITS[order], LABELS[order]).item() == pytest.approx(objective(LOGITS, LABELS).item())


@every
@pytest.mark.parametrize("value", [0.0, 5.0, -3e4])
def test_constant_logits_score_as_chance(objective, value):
    labels = torch.arange(3).repeat(10)
    score = objective(torch.full((30, 3), value), labels).item()
    assert score == pytest.approx(1 / 3) or score == pytest.approx(-math.log(3), rel=1e-4)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_infinite_or_nan_logits_score_nan(objective, bad):
    logits = LOGITS.clone()
    logits[1, 1] = bad
    assert math.isnan(objective(logits, LABELS).item())


@every
def test_objectives_return_a_scalar_and_do_not_change_the_arguments(objective):
    logits, labels = LOGITS.clone(), LABELS.clone()
    score = objective(logits, labels)
    assert score.shape == ()
    assert score.device == logits.device
    assert torch.equal(logits, LOGITS)
    assert torch.equal(labels, LABELS)


def test_unknown_objective_raises_input_error_with_the_nearest_name():
    with pytest.raises(InputError, match="unknown objective 'acuracy': did you mean 'accuracy'"):
        OBJECTIVES["acuracy"]
