"""The trainer: exact zeros, seeds, snapshots, losses, evaluation and input errors."""

import itertools
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_cases import (
    OPTIMIZERS,
    SETTINGS,
    Pair,
    for_optimizer,
    make_masks,
    make_model,
    make_split,
    same,
    settings,
)

from masksearch.training import evaluate, steps_per_epoch, train
from masksearch.training.batch_feed import batch_sizes
from masksearch.training.checkpoint import digest
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError

SCHEDULES = ["constant", "multistep", "plateau", "cosine"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_weights_are_exactly_zero_in_every_snapshot(split, optimizer):
    model = make_model()
    masks = make_masks(model)
    moments = [TrainingMoment.parse(text) for text in ("0", "1it", "7it", "2ep", "end")]
    training = train(model, split, for_optimizer(optimizer), masks=masks, snapshots=moments)
    start = make_model().state_dict()
    for weights in (*training.snapshots.values(), model.state_dict()):
        for name, keep in masks.items():
            assert torch.count_nonzero(weights[name][~keep]) == 0
    for name, keep in masks.items():
        assert torch.equal(training.snapshots[moments[0]][name][keep], start[name][keep])
        assert (model.state_dict()[name] != start[name])[keep].float().mean() > 0.9


def test_masked_network_trains_equally_to_a_network_without_the_pruned_weights(split):
    """Masking the input columns of a linear layer = a network that never had them."""
    kept = torch.arange(64) % 3 != 0
    masked = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    small = nn.Sequential(nn.Flatten(), nn.Linear(int(kept.sum()), 10))
    small[1].weight.data = masked[1].weight.data[:, kept].clone()
    small[1].bias.data = masked[1].bias.data.clone()
    columns = split.inputs.flatten(1)[:, kept][:, None, None]
    train(masked, split, SETTINGS, masks={"1.weight": kept.expand(10, -1)})
    train(small, SimpleNamespace(inputs=columns, targets=split.targets), SETTINGS)
    torch.testing.assert_close(masked[1].weight[:, kept], small[1].weight, rtol=1e-4, atol=1e-6)


def test_equal_seeds_give_equal_weights_and_other_seeds_other_weights(split):
    # Without dropout: the order of the images alone must make the seeds differ.
    runs = [train(make_model(dropout=0), split, SETTINGS, seed=seed).model.state_dict() for seed in (7, 7, 8)]
    assert same(runs[0], runs[1])
    assert not torch.equal(runs[0]["5.weight"], runs[2]["5.weight"])


def test_new_process_gives_equal_weights(split):
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        "from test_training import *\n"
        "print(digest(train(make_model(), make_split(), settings(augment='crop_flip'), seed=3).model.state_dict()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    here = train(make_model(), split, settings(augment="crop_flip"), seed=3).model.state_dict()
    assert done.stdout.strip() == digest(here)


def test_training_keeps_global_random_state_and_module_modes(split, val):
    model = make_model()
    model[1].eval()  # a frozen BatchNorm in a network in train mode
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(model, split, settings(augment="crop_flip"), val=val)
    evaluate(model, val)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002
    assert [module.training for module in model.modules()] == modes


def test_snapshots_equal_the_weights_of_shorter_trainings(split):
    moments = {text: TrainingMoment.parse(text) for text in ("0", "2ep", "3it", "end")}
    training = train(make_model(), split, SETTINGS, snapshots=list(moments.values()))
    assert same(training.snapshots[moments["0"]], make_model().state_dict())
    assert same(training.snapshots[moments["2ep"]], train(make_model(), split, settings(epochs=2)).model.state_dict())
    assert same(training.snapshots[moments["end"]], training.model.state_dict())

    class EnoughError(Exception):
        pass

    calls = itertools.count(1)

    def loss(outputs, labels):
        if outputs.requires_grad and next(calls) > 3:
            raise EnoughError
        return F.cross_entropy(outputs, labels)

    model = make_model()
    with pytest.raises(EnoughError):
        train(model, split, SETTINGS, loss=loss)
    third = training.snapshots[moments["3it"]]
    parameters = dict(model.named_parameters())  # BatchNorm's statistics have seen the fourth batch already
    assert same({name: third[name] for name in parameters}, {name: p.detach() for name, p in parameters.items()})
    assert int(third["1.num_batches_tracked"]) == 3


def test_snapshot_after_the_end_raises_input_error_before_training(split):
    model = make_model()
    with pytest.raises(InputError, match="snapshots: 4ep is longer than the training"):
        train(model, split, SETTINGS, snapshots=[TrainingMoment.parse("4ep")])
    assert same(model.state_dict(), make_model().state_dict())


def test_zero_epochs_change_nothing(split, val):
    end = TrainingMoment.parse("end")
    training = train(make_model(), split, settings(epochs=0), val=val, snapshots=[end])
    assert training.epochs == []
    assert training.best is None
    assert same(training.snapshots[end], make_model().state_dict())


def test_sgd_training_equals_a_handwritten_loop(split):
    """Against torch's own optimiser, DataLoader-free, in the order that the trainer drew."""
    from masksearch.utils.seeds import torch_generator

    model, twin = make_model(dropout=0), make_model(dropout=0)
    training = train(model, split, SETTINGS)
    optimizer = torch.optim.SGD(
        twin.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2, foreach=False
    )
    for epoch in range(3):
        losses, correct = 0.0, 0
        for batch in torch.randperm(150, generator=torch_generator(0, "epoch", epoch, "order")).split(32):
            outputs = twin(split.inputs[batch])
            loss = F.cross_entropy(outputs, split.targets[batch])
            losses += loss.item() * len(batch)
            correct += (outputs.argmax(1) == split.targets[batch]).sum().item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert training.epochs[epoch].train_loss == pytest.approx(losses / 150, rel=1e-4)
        assert training.epochs[epoch].train_accuracy == pytest.approx(correct / 150, abs=0.01)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_training_learns_and_best_is_the_best_validation_epoch(split, val):
    training = train(make_model(), split, settings(epochs=8), val=val)
    accuracies = [row.val_accuracy for row in training.epochs]
    assert max(accuracies) > 0.8
    assert training.best.epoch == 1 + accuracies.index(max(accuracies))
    model = make_model()
    model.load_state_dict(training.best.weights)
    assert evaluate(model, val).accuracy == max(accuracies)
    assert [row.epoch for row in training.epochs] == list(range(1, 9))


def test_label_smoothing_loss_equals_the_formula(split):
    rows = train(make_model(dropout=0), split, settings(epochs=1, batch_size=150, label_smoothing=0.2)).epochs
    model = make_model(dropout=0).train()
    log_p = model(split.inputs).log_softmax(1)
    truth = log_p.gather(1, split.targets[:, None]).squeeze(1)
    expected = -(0.8 * truth + 0.2 * log_p.mean(1)).mean()
    assert rows[0].train_loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("n", "batch"), [(150, 32), (97, 32), (65, 32), (1, 32), (5, 2), (4, 1), (33, 16)])
def test_batch_sizes_cover_the_epoch(n, batch):
    sizes = batch_sizes(n, batch)
    assert sum(sizes) == n
    assert len(sizes) == steps_per_epoch(n, batch)
    assert max(sizes) <= batch
    if batch > 2 and n > 1:
        assert min(sizes) > 1


def test_last_batch_of_a_single_image_is_avoided_for_batch_norm():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    training = train(model, make_split(65), settings(epochs=1))
    assert int(model[2].num_batches_tracked) == 3
    assert not training.diverged


def test_bfloat16_training_keeps_float32_weights_and_learns(split, val):
    training = train(make_model(), split, settings(precision="bfloat16", epochs=6), val=val)
    assert all(p.dtype == torch.float32 for p in training.model.parameters())
    assert training.best.row.val_accuracy > 0.7
    assert not same(training.model.state_dict(), train(make_model(), split, settings(epochs=6)).model.state_dict())


def test_custom_loss_accepts_any_outputs(split, val):
    def loss(outputs, labels):
        return F.cross_entropy(outputs["logits"], labels)

    training = train(Pair(), split, SETTINGS, val=val, loss=loss)
    assert training.epochs[-1].train_loss < training.epochs[0].train_loss
    assert training.epochs[0].train_accuracy is None
    assert training.best.epoch == 1 + int(np.argmin([row.val_loss for row in training.epochs]))
    assert evaluate(training.model, val, loss=loss).accuracy is None


class Viewing(nn.Module):
    """A network whose call of view fails for channels-last outputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(144, 10)

    def forward(self, images):
        return self.head(self.conv(images).view(-1, 144))


def test_network_that_calls_view_is_trained_with_channels_last(val):
    assert not train(Viewing(), make_split(channels=3), SETTINGS).diverged


def test_evaluate_equals_accuracy_and_loss_computed_by_hand(val):
    model = make_model()
    scored = evaluate(model, val, batch_size=7)
    model.eval()
    outputs = model(val.inputs)
    assert scored.n == 60
    assert scored.accuracy == (outputs.argmax(1) == val.targets).double().mean().item()
    assert scored.loss == pytest.approx(F.cross_entropy(outputs, val.targets).item(), rel=1e-5)


def test_repr_of_a_training_is_a_single_line_without_the_network():
    training = train(make_model(), make_split(), settings(epochs=2), val=make_split())
    last, best = training.epochs[-1], training.best.epoch
    shown = f"Training(Sequential, 2 epochs, train loss {last.train_loss:.4g}, val accuracy {last.val_accuracy:.2%}"
    assert repr(training) == f"{shown}, best epoch {best})"
