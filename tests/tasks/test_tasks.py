"""Tasks: metrics by hand, distances against torch.distributions, and losses without padding and ignored pixels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Categorical, kl_divergence

from masksearch.data import Split
from masksearch.scoring.score_accumulators import counted_outputs, new_measure
from masksearch.tasks import TASKS, Task, as_task
from masksearch.tasks.metrics import r2
from masksearch.training import TrainSettings, evaluate, train
from masksearch.utils.errors import InputError

G = torch.Generator().manual_seed(0)


def metric(task, outputs, targets, parts=2):
    meter = next(iter(as_task(task).meters(main_only=True).values()))
    for chunk in zip(outputs.chunk(parts), targets.chunk(parts), strict=True):
        meter.update(*as_task(task).selected(*chunk))
    return float(meter.compute())


def test_distances_of_classes_and_labels_equal_kl_of_torch_distributions():
    dense, masked = torch.randn(2, 6, 4, generator=G)
    expected = kl_divergence(Categorical(logits=dense), Categorical(logits=masked)).mean()
    assert torch.allclose(TASKS["classification"].distance_of(dense, masked), expected, atol=1e-6)
    expected = kl_divergence(Bernoulli(logits=dense), Bernoulli(logits=masked)).sum(1).mean()
    assert torch.allclose(TASKS["multilabel"].distance_of(dense, masked), expected, atol=1e-6)


def test_distance_of_language_models_ignores_padding():
    dense, masked = torch.randn(2, 3, 5, 7, generator=G)
    tokens = torch.randint(7, (3, 5), generator=G)
    tokens[:, 3:] = -100
    each = kl_divergence(Categorical(logits=dense), Categorical(logits=masked))
    expected = each[:, :2].mean()  # positions 0 and 1 have a next token
    assert torch.allclose(TASKS["language_model"].distance_of(dense, masked, tokens), expected, atol=1e-6)
    assert TASKS["language_model"].n_parts(tokens, 3) == 6


def test_metrics_equal_values_by_hand():
    logits = torch.tensor([[2.0, 0, 1], [0, 3, 0], [0, 0, 1], [1, 0, 0]])
    assert metric("classification", logits, torch.tensor([0, 1, 1, 2])) == 0.5
    y, p = torch.tensor([1.0, 2, 3, 6]), torch.tensor([1.0, 2, 4, 5])
    assert metric("regression", p, y) == pytest.approx(1 - 2 / 14)
    # predicted 1, 1, 0, 1 for 1, 0, 1, 1: two hits, one false alarm, one miss
    assert metric("binary", torch.tensor([1.0, 1, -1, 1]), torch.tensor([1, 0, 1, 1])) == pytest.approx(2 / 3)
    maps = torch.tensor([[[0, 0], [1, 1]]]).repeat(2, 1, 1)
    outputs = torch.nn.functional.one_hot(torch.tensor([[[0, 1], [1, 1]]]).repeat(2, 1, 1), 2).movedim(-1, 1).float()
    assert metric("segmentation", outputs, maps) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_perplexity_of_a_uniform_model_is_the_size_of_the_vocabulary():
    assert metric("language_model", torch.zeros(4, 5, 9), torch.zeros(4, 5, dtype=torch.long)) == pytest.approx(9)
    assert TASKS["language_model"].score(9.0) == -9
    assert math.isclose(
        float(TASKS["language_model"].loss_of(torch.zeros(4, 5, 9), torch.ones(4, 5).long())), math.log(9), rel_tol=1e-6
    )


def test_targets_of_a_wrong_type_or_range_raise_input_error():
    with pytest.raises(InputError, match="regression needs floating-point targets"):
        TASKS["regression"].check(torch.arange(3), "targets")
    with pytest.raises(InputError, match="0 and 1"):
        TASKS["multilabel"].check(torch.full((3, 2), 2.0), "targets")


def test_metric_without_a_name_is_called_metric():
    assert Task(F.mse_loss, lambda outputs, targets: 0.5).metric_name == "metric"
    assert Task(F.mse_loss, r2).metric_name == "r2"


def maps_with_ignored_pixels():
    """Logits (5, 3, 2, 2) and maps whose examples have 4, 1, 2, 0 and 3 counted pixels of 4."""
    logits = torch.randn(5, 3, 2, 2, generator=G)
    maps = torch.randint(3, (5, 2, 2), generator=G)
    for example, ignored in enumerate((0, 3, 2, 4, 1)):
        maps[example].view(-1)[:ignored] = -100
    return logits, maps


def loss_of_maps(logits, maps):
    """The mean over counted pixels of each example, then over the examples that have one, pixel by pixel."""
    means = []
    for scores, classes in zip(logits.flatten(2), maps.flatten(1), strict=True):
        losses = [-float(scores[:, p].log_softmax(0)[c]) for p, c in enumerate(classes.tolist()) if c != -100]
        means += [sum(losses) / len(losses)] if losses else []
    return sum(means) / len(means)


def test_losses_of_maps_weight_examples_equally():
    logits, maps = maps_with_ignored_pixels()
    task = TASKS["segmentation"]
    assert float(task.loss_of({"out": logits}, maps)) == pytest.approx(loss_of_maps(logits, maps), rel=1e-5)
    assert float(task.training_loss(logits, maps)) == pytest.approx(loss_of_maps(logits, maps), rel=1e-5)
    assert [task.n_parts(part, len(part)) for part in (maps, maps[:2], maps[3:4])] == [4, 2, 0]
    one_pixel = torch.full((1, 2, 2), -100)
    one_pixel[0, 1, 1] = 2
    smoothed = task.training_loss(logits[:1], one_pixel, label_smoothing=0.3)
    log = logits[0, :, 1, 1].log_softmax(0)
    assert float(smoothed) == pytest.approx(-float(0.7 * log[2] + 0.3 * log.mean()), rel=1e-5)


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_losses_and_distances_of_maps_are_equal_for_all_batch_sizes(batch):
    logits, maps = maps_with_ignored_pixels()
    model = torch.nn.Conv2d(3, 3, 1)
    torch.nn.init.dirac_(model.weight)
    torch.nn.init.zeros_(model.bias)
    split = Split(logits, maps, TASKS["segmentation"])
    found = evaluate(model, split, batch_size=batch)  # the last batch of 2 is the example of the fifth map alone
    assert found.loss == pytest.approx(loss_of_maps(logits, maps), rel=1e-5)
    counted = maps.flatten() != -100
    right = logits.movedim(1, -1).reshape(-1, 3)[counted].argmax(1) == maps.flatten()[counted]
    assert found.metric is not None
    assert (found.metric == 1) == bool(right.all())

    measures = {kind: new_measure(kind, split.task) for kind in ("loss", "distance")}
    masked = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    for begin in range(0, len(maps), batch):
        part = slice(begin, begin + batch)
        dense = counted_outputs(split.task, logits[part], maps[part])
        for measure in measures.values():
            measure.update(masked[part], maps[part], len(maps[part]), dense)
    assert measures["loss"].value() == pytest.approx(-loss_of_maps(masked, maps), rel=1e-5)
    each = kl_divergence(*(Categorical(logits=x.movedim(1, -1).reshape(-1, 3)) for x in (logits, masked)))
    assert measures["distance"].value() == pytest.approx(-float(each[counted].mean()), rel=1e-4)


def test_accumulated_gradients_of_maps_weight_examples_equally():
    logits, maps = maps_with_ignored_pixels()
    split = Split(logits, maps, TASKS["segmentation"])
    weights = []
    for batch, accumulate in ((5, 1), (2, 3)):
        model = torch.nn.Conv2d(3, 3, 1)
        torch.nn.init.dirac_(model.weight)
        torch.nn.init.zeros_(model.bias)
        train(model, split, TrainSettings(epochs=1, batch_size=batch, accumulate=accumulate, momentum=0.0))
        weights.append(model.weight)
    assert torch.allclose(*weights, atol=1e-6)


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        (torch.randn(4), "regression"),
        (torch.tensor([[0.0, 1.0], [1.0, 1.0]]), "multilabel"),
        (torch.tensor([[0, 1], [1, 1]]), "multilabel"),
        (torch.tensor([[3, 1], [7, 1]]), "language_model"),
        (torch.zeros(4, 5, 5, dtype=torch.long), "segmentation"),
    ],
)
def test_targets_of_another_task_raise_input_error_with_that_task(targets, task):
    with pytest.raises(InputError, match=f"such as task='{task}'"):
        TASKS["classification"].check(targets, "train")
    TASKS[task].check(targets, "train")
