"""Scorers of every task: equal to a forward pass by hand, with examples in memory or streamed; and their errors."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score, jaccard_score, r2_score
from task_cases import CASES, N, Streamed, case, floats, generator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import masksearch as ms
from masksearch.core.problem_and_trials import Proposal
from masksearch.data import LoaderSplit, Split
from masksearch.scoring import Scorer
from masksearch.spaces import filter_space, weight_space
from masksearch.utils.errors import InputError
from masksearch.utils.nested import call_model

TASKS = pytest.mark.parametrize("name", CASES)


def masks_of(space):
    return [space.full(), *(space.random(0.6, "layerwise", generator(seed)) for seed in range(3))]


def forward(model, space, mask, split):
    """The outputs of the masked network, from one pass over all examples."""
    with space.applied(model, mask), torch.no_grad():
        outputs = call_model(model, split.inputs)
    if isinstance(outputs, dict):
        return next(iter(outputs.values()))
    return outputs[0] if isinstance(outputs, tuple) else outputs


def by_hand(name, outputs, targets):
    """(score of the metric, minus the loss) of a case."""
    if name in ("classification", "named logits"):
        return (outputs.argmax(1) == targets).double().mean().item(), -F.cross_entropy(outputs, targets).item()
    if name == "binary":
        loss = F.binary_cross_entropy_with_logits(outputs[:, 0], targets.float())
        return f1_score(targets, outputs[:, 0] > 0, zero_division=0), -loss.item()
    if name == "multilabel":
        loss = F.binary_cross_entropy_with_logits(outputs, targets)
        return f1_score(targets, outputs > 0, average="macro", zero_division=0), -loss.item()
    if name == "regression":
        return r2_score(targets, outputs), -F.mse_loss(outputs, targets).item()
    if name == "segmentation":
        classes = sorted({*targets.flatten().tolist(), *outputs.argmax(1).flatten().tolist()})
        iou = jaccard_score(targets.flatten(), outputs.argmax(1).flatten(), average=None, labels=classes)
        return np.mean(iou), -F.cross_entropy(outputs, targets).item()
    if name == "language_model":
        loss = F.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten()).item()
        return -math.exp(loss), -loss
    errors = (2 * outputs.mean(1) - targets).abs()
    return -errors.max().item(), -errors.mean().item()


@TASKS
@pytest.mark.parametrize("batch_size", [1000, 5])
def test_metric_and_loss_equal_a_single_forward_pass(name, batch_size):
    model, split = case(name)
    space = weight_space(model)
    metric, loss = (Scorer(model, space, split, kind, batch_size=batch_size) for kind in ("metric", "loss"))
    values = []
    for mask in masks_of(space):
        expected = by_hand(name, forward(model, space, mask, split), split.targets)
        assert (metric(mask).value, loss(mask).value) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        values.append(loss(mask).value)
    assert len(set(values)) == 4
    assert loss(space.full()).images == N


@TASKS
def test_distance_compares_all_outputs_and_is_zero_for_the_full_mask(name):
    model, split = case(name)
    space = weight_space(model)
    scorer = Scorer(model, space, split, "distance", batch_size=5)
    dense, task = call_model(model, split.inputs), split.task
    for mask in masks_of(space):
        with space.applied(model, mask), torch.no_grad():
            expected = -float(task.distance_of(dense, call_model(model, split.inputs), split.targets))
        assert scorer(mask).value == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert scorer(space.full()).value == pytest.approx(0, abs=1e-6)


def test_distance_needs_no_targets():
    model, split = case("own")
    space, targetless = weight_space(model), Split(split.inputs, None, split.task)
    mask = space.random(0.5, generator=generator())
    assert (
        Scorer(model, space, targetless, "distance")(mask).value == Scorer(model, space, split, "distance")(mask).value
    )


def test_distance_is_equal_if_dense_outputs_are_too_many_to_keep(monkeypatch):
    model, split = case("segmentation")
    space = weight_space(model)
    mask = space.random(0.5, generator=generator())
    kept = Scorer(model, space, split, "distance", batch_size=5)
    expected = [kept(mask).value, kept(mask).value]
    monkeypatch.setattr("masksearch.scoring.paths.any_task._KEPT", 1000)
    again = Scorer(model, space, split, "distance", batch_size=5)
    assert [again(mask).value, again(mask).value] == expected


@TASKS
@pytest.mark.parametrize("objective", ["metric", "loss", "distance", "bn_recalibrated"])
def test_scores_of_streamed_examples_equal_scores_of_resident_examples(name, objective):
    model, split = case(name)
    space = weight_space(model)
    resident = Scorer(model, space, split, objective, batch_size=5, fast=False)
    for streamed in (Streamed(split), Streamed(split, loader_batch=5)):
        scorer = Scorer(model, space, streamed, objective, batch_size=5)
        assert scorer.path_name == "reference"
        for mask in masks_of(space):
            assert scorer(mask).value == resident(mask).value
    fast = Scorer(model, space, split, objective, batch_size=5)
    if objective == "metric":
        assert [fast(mask).value for mask in masks_of(space)] == [resident(mask).value for mask in masks_of(space)]


def test_callable_objective_gets_all_streamed_examples():
    model, split = case("regression")
    space = weight_space(model)

    def objective(network, inputs, targets):
        return (call_model(network, inputs) - targets).abs().mean().item()

    scores = [Scorer(model, space, s, objective)(space.full()).value for s in (split, Streamed(split))]
    assert scores[0] == scores[1]


def test_shuffled_streams_raise_input_error():
    model, split = case("segmentation")
    space = weight_space(model)
    scorer = Scorer(model, space, Streamed(split, loader_batch=5, shuffles=True))
    scorer(space.full())
    with pytest.raises(InputError, match=r"first batch differs between two passes.*shuffle=False"):
        scorer(space.full())
    model, split = case("classification")
    shuffled = LoaderSplit(DataLoader(TensorDataset(split.inputs, split.targets), 5, shuffle=True))
    with pytest.raises(InputError, match=r"split: its loader shuffles.*shuffle=False"):
        Scorer(model, weight_space(model), shuffled)


def test_nan_inputs_raise_input_error_at_construction_or_first_streamed_scoring():
    model, split = case("multilabel")
    split = Split(split.inputs.clone(), split.targets, split.task)
    split.inputs[17] = math.nan
    with pytest.raises(InputError, match="inputs to score on: some are NaN"):
        Scorer(model, weight_space(model), split)
    scorer = Scorer(model, weight_space(model), Streamed(split), batch_size=5)
    with pytest.raises(InputError, match="inputs to score on: some are NaN"):
        scorer(weight_space(model).full())


@pytest.mark.parametrize(("name", "objective"), [("classification", "accuracy"), ("regression", "metric")])
def test_default_objective_depends_on_the_task(name, objective):
    model, split = case(name)
    space = weight_space(model)
    assert Scorer(model, space, split).objective == objective
    assert Scorer(model, space, split, loss=lambda outputs, targets: outputs.mean()).objective == "loss"


def test_metric_of_a_classification_equals_accuracy_on_the_same_path():
    model, split = case("classification")
    space = weight_space(model)
    metric, accuracy = Scorer(model, space, split, "metric"), Scorer(model, space, split, "accuracy")
    assert metric.path_name == accuracy.path_name == "incremental"
    assert metric.refresh_every == accuracy.refresh_every
    base = space.random(0.5, generator=generator())
    other = space.random(0.5, generator=generator(2))
    walk = [Proposal.of(base), Proposal.moving(base, base.move_to(other), threshold=0.9)]
    one, two = ([(s.value, s.exact, s.images) for s in scorer.score(walk)] for scorer in (metric, accuracy))
    assert one == two


@pytest.mark.parametrize("objective", ["accuracy", "calibrated_loss"])
@pytest.mark.parametrize("name", [n for n in CASES if n not in ("classification", "named logits")])
def test_objectives_for_classification_refuse_other_tasks(name, objective):
    model, split = case(name)
    with pytest.raises(InputError, match=f"'{objective}' needs a classification.*'{split.task.name}'.*metric, loss"):
        Scorer(model, weight_space(model), split, objective)


def test_named_logits_support_all_objectives_of_classification():
    model, split = case("named logits")
    space = weight_space(model)
    plain = nn.Sequential(model.conv, nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), model.head).eval()
    inner = weight_space(plain)
    for objective in ("accuracy", "loss", "calibrated_loss", "bn_recalibrated"):
        one, two = Scorer(model, space, split, objective), Scorer(plain, inner, split, objective)
        assert one(space.full()).value == pytest.approx(two(inner.full()).value, abs=1e-6)


def test_infinite_outputs_have_a_score_that_is_not_finite():
    model, split = case("regression")
    space = weight_space(model)
    with torch.no_grad():
        model.head.weight.mul_(1e38)
        model.head.weight.add_(3e38)
    for objective in ("metric", "loss", "distance"):
        assert not math.isfinite(Scorer(model, space, split, objective)(space.full()).value)
    assert math.isnan(Scorer(model, space, split)(space.full()).value)


def test_filter_masks_of_a_multilabel_task_are_scored_by_loss_and_width():
    model, split = case("multilabel")
    space = filter_space(model, split.inputs[:1])
    mask = space.random(0.5, "layerwise", generator())
    scorer = Scorer(model, space, split, "loss")
    assert scorer.path_name == "reference"
    expected = by_hand("multilabel", forward(model, space, mask, split), split.targets)[1]
    assert scorer(mask).value == pytest.approx(expected)
    assert Scorer(model, space, split, "width").path_name == "mask"
    assert Scorer(model, space, split, "width")(mask).value == -1 / mask.n_kept


REASONS = {
    "regression": ({}, "Scorer(R2 of 23 examples, regression; reference path: objective 'metric' of task 'regression'"),
    "named logits": ({}, "Scorer(accuracy of 23 examples, classification; reference path: outputs are not one tensor"),
    "classification": ({}, "Scorer(accuracy of 23 examples, classification; incremental path: a chain of linear"),
    "multilabel": (
        {"objective": "bn_recalibrated"},
        "path: objective 'bn_recalibrated' of task",
    ),
    "own": ({"objective": "loss", "loss": lambda o, t: o.mean()}, "reference path: the loss is one of your own"),
    "binary": ({"objective": lambda m, x, y: 0.0}, "reference path: the objective is a function of the network"),
}


@pytest.mark.parametrize("name", REASONS)
def test_repr_of_a_scorer_states_path_and_reason(name):
    options, text = REASONS[name]
    model, split = case(name)
    assert text in repr(Scorer(model, weight_space(model), split, **options))


def test_repr_of_a_scorer_states_streamed_examples_and_fast_false():
    model, split = case("classification")
    space = weight_space(model)
    assert "reference path: fast=False" in repr(Scorer(model, space, split, fast=False))
    assert "reference path: examples are streamed" in repr(Scorer(model, space, Streamed(split)))


def test_outputs_unsuitable_for_the_task_raise_input_error_at_construction():
    model = nn.Linear(6, 2)
    space = weight_space(model)
    with pytest.raises(InputError, match="one output per target"):
        Scorer(model, space, Split(floats(N, 6), floats(N, 1), "regression"))
    own = ms.Task(loss=lambda outputs, targets: (outputs - targets).mean(), metric=lambda outputs, targets: 0.0)
    with pytest.raises(InputError, match="task 'own': its loss fails on what Linear returns: RuntimeError"):
        Scorer(model, space, Split(floats(N, 6), floats(N, 7), own))
    listed = ms.Task(loss=lambda outputs, targets: outputs.mean(1), metric=lambda outputs, targets: 0.0)
    with pytest.raises(InputError, match=r"loss: returned a tensor \(2,\); a scalar tensor is needed"):
        Scorer(model, space, Split(floats(N, 6), floats(N), listed))


def test_metric_class_as_in_torchmetrics_is_computed_over_the_whole_split():
    class Correlation:
        """As in torchmetrics: with a device, and a tensor as the result."""

        def __init__(self):
            self.pairs, self.device = [], None

        def to(self, device):
            self.device = device

        def update(self, outputs, targets):
            assert outputs.device == self.device
            self.pairs.append(torch.stack([outputs, targets]))

        def compute(self):
            return torch.corrcoef(torch.cat(self.pairs, 1))[0, 1]

    task = ms.Task(loss=F.mse_loss, metric=Correlation, output=lambda outputs: outputs[:, 0])
    model = nn.Linear(6, 1)
    split = Split(floats(N, 6), floats(N, seed=4), task)
    space = weight_space(model)
    expected = np.corrcoef(forward(model, space, space.full(), split)[:, 0], split.targets)[0, 1]
    assert Scorer(model, space, split, batch_size=5)(space.full()).value == pytest.approx(expected, abs=1e-5)
