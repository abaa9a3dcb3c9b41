"""Warm-up, clipping, accumulation, EMA, float16, early stopping, weight decay and distillation against formulas."""

import pytest
import torch
import torch.nn.functional as F
from test_any_examples import mixing, regression
from test_mask_schedule import Shifting
from torch import nn
from training_cases import (
    SETTINGS,
    interrupted_and_resumed,
    make_masks,
    make_model,
    make_split,
    same,
    settings,
    state,
    without_seconds,
)

from masksearch.data import Split
from masksearch.tasks import Task
from masksearch.training import evaluate, optimizer_steps, steps_per_epoch, train
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.files import load_tree, save_tree
from masksearch.utils.seeds import torch_generator

EVERYTHING = {
    "warmup": 1.5,
    "clip_norm": 0.5,
    "accumulate": 2,
    "ema": 0.9,
    "no_decay": True,
    "stop_after": 3,
    "distill": 0.5,
}


def its(*steps):
    return [TrainingMoment.parse(f"{step}it") for step in steps]


def plain_sgd(**changes):
    return settings(**({"momentum": 0.0, "nesterov": False, "weight_decay": 0.0} | changes))


def flat_model():
    """A network without BatchNorm, for which batches add up."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


def test_warmup_raises_the_learning_rate_in_every_step(split):
    moments = its(0, 1, 2, 3)
    plain = train(flat_model(), split, plain_sgd(batch_size=50), snapshots=moments)
    warm = train(flat_model(), split, plain_sgd(batch_size=50, warmup=2 / 3), snapshots=moments)
    first = [run.snapshots[moments[1]]["1.weight"] - run.snapshots[moments[0]]["1.weight"] for run in (plain, warm)]
    torch.testing.assert_close(first[1], first[0] / 2, rtol=1e-4, atol=1e-7)
    rows = train(flat_model(), split, plain_sgd(batch_size=150, epochs=5, warmup=4)).epochs
    assert [row.lr for row in rows] == pytest.approx([0.0125, 0.025, 0.0375, 0.05, 0.05])
    multistep = plain_sgd(batch_size=150, epochs=4, warmup=2, lr_schedule="multistep", milestones=(3,))
    assert [row.lr for row in train(flat_model(), split, multistep).epochs] == pytest.approx([0.025, 0.05, 0.05, 0.005])
    assert [row.lr for row in train(flat_model(), split, multistep, begin=2).epochs] == pytest.approx([0.05, 0.005])


def test_clip_norm_equals_gradient_clipping_of_torch(split):
    model, twin = flat_model(), flat_model()
    train(model, split, plain_sgd(batch_size=150, clip_norm=0.1))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(twin(split.inputs), split.targets).backward()
        assert nn.utils.clip_grad_norm_(twin.parameters(), 0.1) > 0.1
        optimizer.step()
    torch.testing.assert_close(model[1].weight, twin[1].weight, rtol=1e-4, atol=1e-6)


def test_accumulated_batches_equal_a_single_large_batch():
    split = make_split(130)  # the last step has one batch of 25 and one of 5
    weights, steps = [], []
    for batch, accumulate in ((50, 1), (25, 2)):
        model = flat_model()
        remask = Shifting(model, [2])
        chosen = settings(batch_size=batch, accumulate=accumulate)
        training = train(model, split, chosen, remask=remask, snapshots=its(3, 7))
        assert training.snapshots.keys() == set(its(3, 7))
        weights.append(state(model))
        steps.append((remask.seen, optimizer_steps(split, chosen)))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-5)
    assert steps[0] == steps[1] == (list(range(1, 10)), 3)
    assert steps_per_epoch(130, 25, 2) == 3
    assert steps_per_epoch(130, 25, 4) == 2


def test_slimming_penalty_is_added_once_per_step(split):
    differences = []
    for accumulate in (1, 3):
        runs = []
        for strength in (0.0, 1e-2):
            model = make_model(dropout=0)
            chosen = plain_sgd(epochs=1, batch_size=50, accumulate=accumulate, bn_l1=strength)
            training = train(model, split, chosen, snapshots=its(1))
            runs.append(training.snapshots[its(1)[0]]["1.weight"])
        differences.append(runs[1] - runs[0])
    torch.testing.assert_close(differences[0], torch.full((6,), -0.05 * 1e-2), rtol=1e-2, atol=1e-7)
    torch.testing.assert_close(*differences, rtol=1e-2, atol=1e-7)


def test_ema_weights_follow_the_recurrence_of_averages(split, val):
    moments = its(*range(16))
    masks = make_masks(make_model())
    plain = train(make_model(), split, SETTINGS, masks=masks, snapshots=moments)
    averaged = train(make_model(), split, settings(ema=0.7), masks=masks, val=val, snapshots=moments)
    for name in plain.snapshots[moments[0]]:
        average = plain.snapshots[moments[0]][name]
        for step in range(15):
            decay = min(0.7, (1 + step) / (10 + step))
            now = plain.snapshots[moments[step + 1]][name]
            average = decay * average + (1 - decay) * now if average.is_floating_point() else now
            torch.testing.assert_close(averaged.snapshots[moments[step + 1]][name], average, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(averaged.model.state_dict()[name], average, rtol=1e-4, atol=1e-6)
    for name, keep in masks.items():
        assert torch.count_nonzero(averaged.model.get_parameter(name)[~keep]) == 0
    assert evaluate(averaged.model, val).metric == averaged.epochs[-1].val_metric
    assert plain.epochs[-1].train_loss == averaged.epochs[-1].train_loss
    model = make_model()
    model.load_state_dict(averaged.best.weights)
    assert evaluate(model, val).metric == averaged.best.row.val_metric


def test_ema_of_dropped_weights_is_zero(split):
    model = make_model()
    remask = Shifting(model, [3, 11])
    train(model, split, settings(ema=0.9), remask=remask)
    for name, keep in remask.masks.items():
        assert torch.count_nonzero(model.get_parameter(name)[~keep]) == 0
        assert (model.get_parameter(name)[keep] != 0).float().mean() > 0.7


def test_float16_training_keeps_float32_weights_and_learns(split, val):
    training = train(make_model(), split, settings(precision="float16", epochs=6), val=val)
    assert all(parameter.dtype == torch.float32 for parameter in training.model.parameters())
    assert training.best.row.val_metric > 0.7
    plain = train(make_model(), split, settings(epochs=6))
    assert not same(training.model.state_dict(), plain.model.state_dict())
    assert training.epochs[0].train_loss == pytest.approx(plain.epochs[0].train_loss, rel=0.05)


def test_early_stopping_ends_training_after_the_set_number_of_epochs(tmp_path, split, val):
    chosen = settings(epochs=40, lr=1e-9, stop_after=3)  # nothing improves after the first epoch
    training = train(make_model(dropout=0), split, chosen, val=val, checkpoint=tmp_path / "c")
    assert training.stopped
    assert len(training.epochs) == training.best.epoch + 3
    again = train(make_model(dropout=0), split, chosen, val=val, checkpoint=tmp_path / "c")
    assert again.stopped
    assert again.epochs == training.epochs
    whole = train(make_model(), split, settings(stop_after=3), val=val)
    assert len(whole.epochs) == 3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_decay_leaves_biases_and_norms_without_weight_decay(split, optimizer):
    model, start = make_model(), make_model().state_dict()
    chosen = plain_sgd(optimizer=optimizer, epochs=1, batch_size=150, weight_decay=0.5, no_decay=True)
    train(model, split, chosen, loss=lambda outputs, targets: 0 * outputs.sum())
    for name, parameter in model.named_parameters():
        factor = 1 - 0.05 * 0.5 if parameter.ndim > 1 else 1
        torch.testing.assert_close(parameter.detach(), factor * start[name], rtol=1e-5, atol=1e-7)


def test_distillation_loss_of_classification_equals_the_formula(split):
    teacher, model = flat_model(), make_model(dropout=0)
    before = state(teacher)
    chosen = settings(epochs=1, batch_size=150, distill=0.3, distill_temperature=2.0)
    row = train(model, split, chosen, teacher=teacher).epochs[0]
    logits, dense = make_model(dropout=0).train()(split.inputs), teacher(split.inputs)
    p, q = (dense / 2).softmax(1), (logits / 2).log_softmax(1)
    distance = (p * (p.log() - q)).sum(1).mean()
    expected = 0.7 * F.cross_entropy(logits, split.targets) + 0.3 * 4 * distance
    assert row.train_loss == pytest.approx(expected.item(), rel=1e-5)
    assert same(state(teacher), before)
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    unused = train(make_model(), split, SETTINGS, teacher=teacher).model.state_dict()
    assert same(unused, train(make_model(), split, SETTINGS).model.state_dict())


OWN_TASK = {"loss": F.mse_loss, "metric": lambda outputs, targets: 0.0}
OTHER_TASKS = {  # task: distance of the outputs of student and teacher
    "regression": ("regression", lambda outputs, dense: (outputs - dense).square().mean()),
    "own": (Task(**OWN_TASK), lambda outputs, dense: (outputs - dense).square().mean() / dense.var(correction=0)),
    "distance": (
        Task(**OWN_TASK, distance=lambda dense, masked: (masked - dense).abs().mean()),
        lambda outputs, dense: (outputs - dense).abs().mean(),
    ),
    "distillation": (
        Task(**OWN_TASK, distance=F.mse_loss, distillation=lambda dense, masked: (masked - dense).abs().max()),
        lambda outputs, dense: (outputs - dense).abs().max(),
    ),
}


@pytest.mark.parametrize("name", OTHER_TASKS)
def test_distillation_loss_of_other_tasks_equals_the_formula(name):
    task, distance = OTHER_TASKS[name]
    known, teacher, student = regression(), mixing().requires_grad_(False), mixing()
    split = Split(known.inputs, known.targets, task)
    nn.init.constant_(student.head.bias, 2.0)
    outputs, dense = student(**split.inputs).detach(), teacher(**split.inputs)
    expected = 0.75 * F.mse_loss(outputs, split.targets) + 0.25 * distance(outputs, dense)
    row = train(student, split, settings(epochs=1, batch_size=90, distill=0.25), teacher=teacher).epochs[0]
    assert row.train_loss == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_resumed_training_with_all_practices_equals_uninterrupted_training(
    tmp_path, monkeypatch, split, val, precision
):
    chosen = settings(optimizer="adamw", lr=0.003, nesterov=False, epochs=4, precision=precision, **EVERYTHING)
    more = {"teacher": flat_model(), "snapshots": [*its(1, 5), TrainingMoment.parse("best")]}
    whole = train(make_model(), split, chosen, val=val, masks=make_masks(make_model()), **more)
    again = interrupted_and_resumed(
        tmp_path / "c", split, val, chosen, after=2, monkeypatch=monkeypatch, masks=make_masks(make_model()), **more
    )
    assert same(whole.model.state_dict(), again.model.state_dict())
    assert without_seconds(whole.epochs) == without_seconds(again.epochs)
    assert all(same(whole.snapshots[moment], again.snapshots[moment]) for moment in whole.snapshots)
    assert same(whole.best.weights, again.best.weights)


def test_checkpoints_of_the_former_format_are_read(tmp_path, split, val):
    path = tmp_path / "c"
    first = train(make_model(), split, SETTINGS, val=val, checkpoint=path)
    tree = load_tree(path)
    for name in ("task", "data", "teacher", *EVERYTHING, "distill_temperature"):
        del tree["identity"][name]
    del tree["step"]
    for row in (*tree["epochs"], tree["best"]["row"]):
        del row["higher_is_better"]
        row["train_accuracy"], row["val_accuracy"] = row.pop("train_metric"), row.pop("val_metric")
    save_tree(path, tree)
    again = train(make_model(), split, SETTINGS, val=val, checkpoint=path)
    assert again.epochs == first.epochs
    assert again.best.row == first.best.row


def test_order_of_examples_depends_only_on_seed_and_epoch(split):
    """Old rows stay: with every option off, a training is the loop of before (see also test_training)."""
    order = torch.randperm(150, generator=torch_generator(0, "epoch", 0, "order"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    twin = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    twin.load_state_dict(model.state_dict())
    train(model, split, plain_sgd(epochs=1, batch_size=75))
    for part in order.split(75):
        F.cross_entropy(twin(split.inputs[part]), split.targets[part]).backward()
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter -= 0.05 * parameter.grad
                parameter.grad = None
    torch.testing.assert_close(model[1].weight, twin[1].weight, rtol=1e-4, atol=1e-6)
