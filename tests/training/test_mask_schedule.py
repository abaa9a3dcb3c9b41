"""Masks that change during a training."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_cases import (
    OPTIMIZERS,
    SETTINGS,
    for_optimizer,
    interrupted_and_resumed,
    make_masks,
    make_model,
    same,
    without_seconds,
)

from masksearch.training import train
from masksearch.training.optimisation import build_optimizer
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError


class Shifting:
    """Masks that move by one place after some steps, independent of the network."""

    def __init__(self, model, steps, density=0.3):
        self.model, self.steps, self.shift = model, set(steps), 0
        self.first = make_masks(model, density)
        self.seen = []

    @property
    def masks(self):
        return {name: keep.flatten().roll(self.shift).view(keep.shape) for name, keep in self.first.items()}

    def __call__(self, step):
        for name, keep in self.masks.items():
            parameter = self.model.get_parameter(name)
            assert torch.count_nonzero(parameter[~keep]) == 0
            assert torch.count_nonzero(parameter.grad[~keep]) > 0  # dense gradients
        self.seen.append(step)
        self.shift += step in self.steps
        return step in self.steps

    def state_dict(self):
        return {"shift": self.shift}

    def load_state_dict(self, state):
        self.shift = state["shift"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_with_changing_masks_equals_a_handwritten_loop(split, optimizer):
    """One batch an epoch, in torch's own optimiser; at a change, weights and the optimiser's memory are zeroed."""
    chosen = for_optimizer(optimizer, epochs=6, batch_size=150)
    moments = [TrainingMoment.parse(f"{n}it") for n in range(1, 7)]
    # In float64: Adam turns rounding errors of a gradient that is almost zero into whole steps.
    split = SimpleNamespace(inputs=split.inputs.double(), targets=split.targets)
    model, twin = make_model(dropout=0).double(), make_model(dropout=0).double()
    remask, hand = Shifting(model, [2, 4]), Shifting(twin, [2, 4])
    training = train(model, split, chosen, remask=remask, snapshots=moments)
    assert remask.seen == [1, 2, 3, 4, 5, 6]

    memory = build_optimizer(twin.parameters(), chosen, torch.device("cpu"))
    masks = hand.masks
    for step in range(7):
        with torch.no_grad():
            for name, keep in masks.items():
                twin.get_parameter(name)[~keep] = 0
        if step:
            weights = training.snapshots[moments[step - 1]]
            for name, parameter in twin.named_parameters():
                torch.testing.assert_close(weights[name], parameter.detach(), rtol=1e-3, atol=1e-4)
            for name, keep in masks.items():
                assert torch.count_nonzero(weights[name][~keep]) == 0
        if step == 6:
            break
        memory.zero_grad()
        F.cross_entropy(twin(split.inputs).float(), split.targets).backward()
        memory.step()
        if step + 1 in (2, 4):
            hand.shift += 1
            for name, keep in hand.masks.items():
                regrown, dropped = keep & ~masks[name], masks[name] & ~keep
                parameter = twin.get_parameter(name)
                parameter.data[regrown | dropped] = 0
                for value in memory.state[parameter].values():
                    if value.ndim:
                        value[regrown | dropped] = 0
            masks = hand.masks


def test_regrown_weights_start_at_zero_and_learn(split):
    model = make_model()
    remask = Shifting(model, [3])
    first = remask.masks
    moments = [TrainingMoment.parse(text) for text in ("3it", "end")]
    training = train(model, split, SETTINGS, remask=remask, snapshots=moments)
    for name, keep in remask.masks.items():
        regrown = keep & ~first[name]
        assert regrown.any()
        assert torch.count_nonzero(training.snapshots[moments[0]][name][regrown]) == 0
        assert (training.snapshots[moments[1]][name][regrown] != 0).float().mean() > 0.7


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("after", [1, 2])
def test_resumed_training_with_changing_masks_equals_uninterrupted_training(
    tmp_path, monkeypatch, split, val, optimizer, after
):
    def remask(model):
        return Shifting(model, [2, 4, 6, 9, 13])

    chosen, model = for_optimizer(optimizer, augment="crop_flip"), make_model()
    more = {"snapshots": [TrainingMoment.parse(text) for text in ("4it", "11it", "best")]}
    whole = train(model, split, chosen, val=val, remask=remask(model), **more)
    again = interrupted_and_resumed(
        tmp_path / "c", split, val, chosen, after=after, monkeypatch=monkeypatch, remask=remask, **more
    )
    assert same(whole.model.state_dict(), again.model.state_dict())
    assert without_seconds(whole.epochs) == without_seconds(again.epochs)
    assert all(same(whole.snapshots[moment], again.snapshots[moment]) for moment in more["snapshots"])


def test_mask_schedule_without_changes_equals_fixed_masks(split):
    model, twin = make_model(), make_model()
    train(model, split, SETTINGS, remask=Shifting(model, []))
    train(twin, split, SETTINGS, masks=make_masks(twin))
    assert same(model.state_dict(), twin.state_dict())


def test_mask_schedule_counts_steps_from_the_start_of_the_lr_schedule(split):
    model = make_model()
    remask = Shifting(model, [])
    train(model, split, SETTINGS, remask=remask, begin=1)
    assert remask.seen == list(range(6, 16))


def test_remask_with_wrong_arguments_raises_input_error(split):
    model = make_model()
    with pytest.raises(InputError, match="masks: given beside remask, which has its own masks; leave masks out"):
        train(model, split, SETTINGS, remask=Shifting(model, []), masks=make_masks(model))
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match=r"masks: '0.weight' is no parameter of Sequential"):
        train(other, split, SETTINGS, remask=Shifting(model, []))


def test_checkpoint_of_other_masks_raises_input_error(tmp_path, split):
    def again(**more):
        model = make_model()
        train(model, split, SETTINGS, checkpoint=tmp_path / "c", **(more or {"remask": Shifting(model, [])}))

    again()
    again()
    with pytest.raises(InputError, match="belongs to a training with masks"):
        again(remask=Shifting(make_model(), [], density=0.5))
    with pytest.raises(InputError, match="with remask Shifting, and this training has None"):
        again(masks=make_masks(make_model()))
