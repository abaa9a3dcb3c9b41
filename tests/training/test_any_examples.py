"""Training and evaluation on splits of any form: nested inputs, tasks, streamed splits and loaders."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_cases import (
    SETTINGS,
    Pair,
    interrupted_and_resumed,
    make_model,
    make_split,
    same,
    settings,
    without_seconds,
)

from masksearch.data import Split
from masksearch.tasks import CLASSIFICATION, TASKS, Task
from masksearch.training import batch_feed as batch_module
from masksearch.training import evaluate, optimizer_steps, train
from masksearch.training.record import EpochRow
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError
from masksearch.utils.nested import take


class Streamed:
    """A streamed split with the batches of a resident split, which draws random numbers as a transform would."""

    resident, own_order, identity = False, False, None

    def __init__(self, split):
        self.split, self.task = split, getattr(split, "task", CLASSIFICATION)

    def __len__(self):
        return len(self.split.targets)

    def sample(self, n):
        return take(self.split.inputs, slice(n)), take(self.split.targets, slice(n))

    def batches(self, order, sizes):
        order = torch.arange(len(self)) if order is None else order
        for part in order.split(list(sizes)):
            torch.rand(3)
            yield take(self.split.inputs, part), take(self.split.targets, part)


class Loader(Streamed):
    """A loader's split: its own order, drawn from torch's global generator, and its own sizes."""

    own_order, n_batches = True, 4

    def batches(self, order, sizes):
        for part in torch.randperm(len(self)).tensor_split(self.n_batches):
            yield take(self.split.inputs, part), take(self.split.targets, part)


class Mixing(nn.Module):
    """A network with two named inputs."""

    def __init__(self, outputs=1, dropout=0.0):
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(4, 8), nn.Linear(3, 8), nn.Dropout(dropout)
        self.head = nn.Linear(8, outputs)

    def forward(self, wide, narrow):
        return self.head(self.drop(torch.relu(self.first(wide) + self.second(narrow))))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixing(**options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Mixing(**options)


def regression(n=90, form=dict, seed=0):
    g = generator(seed)
    wide, narrow = torch.randn(n, 4, generator=g), torch.randn(n, 3, generator=g)
    inputs = {"wide": wide, "narrow": narrow} if form is dict else (wide, narrow)
    return Split(inputs, wide.sum(1, keepdim=True) - narrow[:, :1], "regression")


@pytest.mark.parametrize("form", [dict, tuple])
def test_regression_on_nested_inputs_learns_and_reports_r2(form):
    split, val, model = regression(form=form), regression(40, form, seed=1), mixing()
    training = train(model, split, settings(epochs=30, lr=0.02), val=val)
    found = evaluate(model, val)
    outputs = model.eval()(**val.inputs) if form is dict else model.eval()(*val.inputs)
    r2 = 1 - (outputs - val.targets).square().sum() / (val.targets - val.targets.mean()).square().sum()
    assert found.metric == pytest.approx(r2.item(), rel=1e-4)
    assert found.metrics == {"R2": found.metric}
    assert found.loss == pytest.approx(F.mse_loss(outputs, val.targets).item(), rel=1e-5)
    assert training.epochs[-1].val_metric == pytest.approx(found.metric)
    assert found.metric > 0.8
    assert "val R2 0." in repr(training)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_streamed_training_equals_resident_training_exactly(task, augment):
    if task == "classification":
        split, val, build = make_split(), make_split(60, seed=1), make_model
    else:
        if augment == "crop_flip":
            pytest.skip("crops are for images")
        split, val, build = regression(), regression(40, seed=1), lambda: mixing(dropout=0.3)
    chosen = settings(augment=augment, batch_size=16, accumulate=2)
    whole = train(build(), split, chosen, val=val)
    streamed = train(build(), Streamed(split), chosen, val=Streamed(val))
    assert same(whole.model.state_dict(), streamed.model.state_dict())
    assert without_seconds(whole.epochs) == without_seconds(streamed.epochs)
    assert evaluate(whole.model, val) == evaluate(whole.model, Streamed(val))


def test_nested_inputs_streamed_to_the_device_train_equally_to_resident_inputs(monkeypatch):
    results = []
    for share in (1.0, 0.0):
        monkeypatch.setitem(batch_module.RESIDENT_SHARE, "cpu", share)
        results.append(train(mixing(dropout=0.3), regression(), SETTINGS).model.state_dict())
    assert same(*results)


def test_training_with_a_loader_keeps_the_loader_order_and_resumes(tmp_path, monkeypatch, val):
    split = Loader(make_split())
    assert optimizer_steps(split, settings(accumulate=3)) == 2
    end, third = TrainingMoment.parse("end"), TrainingMoment.parse("3it")
    whole = train(make_model(), split, SETTINGS, val=Loader(val), snapshots=[end, third])
    again = interrupted_and_resumed(
        tmp_path / "c", split, Loader(val), SETTINGS, monkeypatch=monkeypatch, snapshots=[end, third]
    )
    assert same(whole.model.state_dict(), again.model.state_dict())
    assert whole.snapshots.keys() == {end, third}
    assert int(whole.model.state_dict()["1.num_batches_tracked"]) == 3 * 4
    assert without_seconds(whole.epochs) == without_seconds(again.epochs)


def test_loader_with_wrong_number_of_batches_raises_input_error():
    split = Loader(make_split())
    split.batches = lambda order, sizes: iter([split.sample(20)])
    with pytest.raises(InputError, match="1 batches in a pass, and its length is 4"):
        train(make_model(), split, SETTINGS)


def test_streamed_label_outside_the_classes_raises_input_error():
    split = make_split()
    split.targets = split.targets.clone()
    split.targets[77] = 10
    with pytest.raises(InputError, match="train: label 10; Sequential has the classes 0 to 9"):
        train(make_model(), Streamed(split), SETTINGS)


class Characters(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 8), nn.Linear(8, 7)

    def forward(self, tokens):
        return {"logits": self.head(self.table(tokens))}


def test_language_model_loss_is_a_mean_over_tokens_and_lower_perplexity_is_better():
    g = generator()
    tokens = torch.randint(0, 7, (30, 9), generator=g)
    targets = tokens.clone()
    targets[:10, 4:] = -100  # padding
    split, model = Split(tokens, targets, "language_model"), Characters()
    found = evaluate(model, split, batch_size=4)
    logits = model(tokens)["logits"][:, :-1].flatten(0, 1)
    expected = F.cross_entropy(logits, targets[:, 1:].flatten(), ignore_index=-100)
    assert found.loss == pytest.approx(expected.item(), rel=1e-5)
    assert found.metric == pytest.approx(math.exp(expected.item()), rel=1e-4)
    training = train(model, split, settings(epochs=4, batch_size=7), val=split)
    metrics = [row.val_metric for row in training.epochs]
    assert training.best.epoch == 1 + metrics.index(min(metrics))
    assert not training.epochs[0].higher_is_better
    assert training.epochs[-1].train_metric < training.epochs[0].train_metric


def test_segmentation_trains_on_label_maps():
    g = generator()
    images = torch.randn(20, 3, 8, 8, generator=g)
    split = Split(images, (images[:, 0] > 0).long(), "segmentation")
    model = nn.Conv2d(3, 2, 3, padding=1)
    training = train(model, split, settings(epochs=20, batch_size=5), val=split)
    assert training.epochs[-1].val_metric > training.epochs[0].val_metric
    assert evaluate(model, split).metric > 0.8


def test_custom_task_trains_without_targets():
    inputs = torch.randn(40, 6, generator=generator())
    task = Task(
        lambda outputs, targets: (outputs - 1).square().mean(),
        lambda outputs, targets: float(outputs.mean()),
        metric_name="mean",
    )
    model = nn.Linear(6, 2)
    training = train(model, Split(inputs, None, task), settings(epochs=40), val=Split(inputs, None, task))
    assert evaluate(model, Split(inputs, None, task)).metrics["mean"] == pytest.approx(1, abs=0.05)
    assert training.epochs[-1].val_metric == pytest.approx(1, abs=0.05)


def test_logits_in_an_output_dict_are_used(split, val):
    training = train(Pair(), split, settings(epochs=6), val=val)
    assert training.best.row.val_accuracy > 0.8
    assert evaluate(training.model, val).metrics.keys() == {"accuracy", "top-5 accuracy"}


@pytest.mark.parametrize(
    ("split", "model", "message"),
    [
        (Split(torch.ones(9, 3), torch.ones(9, 1), "regression"), nn.Linear(3, 2), "one output per target"),
        (Split(torch.ones(9, 3), torch.ones(9, 1), "regression"), nn.Linear(4, 1), "model: Linear fails for 2 examp"),
        (
            Split(torch.ones(9, 3), torch.ones(9), Task(F.mse_loss, lambda o, t: 1 / 0)),
            nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)),
            "metric: metric fails: division by zero",
        ),
        (
            Split(torch.ones(9, 3), torch.ones(9, dtype=torch.int64), Task(F.nll_loss, F.mse_loss)),
            nn.Sequential(nn.Linear(3, 1), nn.Flatten(0), nn.Unflatten(0, (-1, 1, 1, 1))),
            "loss: fails for outputs a float32 tensor",
        ),
    ],
)
def test_task_incompatible_with_outputs_or_settings_raises_input_error(split, model, message):
    with pytest.raises(InputError, match=message) as caught:
        evaluate(model, split)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="crop_flip needs images"):
        train(nn.Linear(3, 1), Split(torch.ones(9, 3), torch.ones(9, 1), "regression"), settings(augment="crop_flip"))
    with pytest.raises(InputError, match=r"label_smoothing: 0.1; it must be 0 for task 'regression'"):
        train(nn.Linear(3, 1), Split(torch.ones(9, 3), torch.ones(9, 1), "regression"), settings(label_smoothing=0.1))


def test_epoch_rows_compare_by_the_direction_of_the_metric():
    def row(metric, higher=True):
        return EpochRow(1, 0.5, None, 0.5, metric, 0.1, 1.0, higher)

    assert row(0.8).better_than(row(0.7))
    assert not row(0.7).better_than(row(0.8))
    assert row(7.0, higher=False).better_than(row(8.0, higher=False))
    assert row(0.1).better_than(row(math.nan))
    assert not row(math.nan).better_than(row(0.1))
    assert row(0.8).val_accuracy == 0.8


def test_split_without_a_task_is_evaluated_as_classification(val):
    plain = SimpleNamespace(inputs=val.inputs, targets=val.targets.to(torch.int32))
    model = make_model()
    assert evaluate(model, plain) == evaluate(model, Split(val.inputs, val.targets, TASKS["classification"]))


def test_batch_of_only_padding_keeps_weights_finite():
    tokens = torch.randint(0, 7, (8, 5), generator=generator())
    targets = tokens.clone()
    targets[4:] = -100
    split, model = Split(tokens, targets, "language_model"), Characters()
    training = train(model, Streamed(split), settings(epochs=2, batch_size=1, accumulate=2))
    assert not training.diverged
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_torchmetrics_metric_is_computed_over_the_whole_split(val):
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    metric = torchmetrics.classification.MulticlassF1Score(10, average="macro")
    task = Task(F.cross_entropy, metric, metric_name="macro F1")
    split, model = Split(val.inputs, val.targets, task), make_model().eval()
    found = evaluate(model, split, batch_size=7)
    assert found.metric == pytest.approx(float(metric(model(val.inputs), val.targets)), rel=1e-5)
    training = train(model, split, settings(epochs=2), val=split)
    assert training.epochs[-1].train_metric > 0
