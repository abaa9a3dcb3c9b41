"""Network slimming: the subgradient against hand computation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_cases import for_optimizer, make_model, settings

from masksearch.training import train
from masksearch.training.optimisation import build_optimizer
from masksearch.utils.errors import InputError

GAMMA = torch.tensor([0.5, -0.5, 0.0, 1e-3, -2.0, 1.0])


def network():
    model = make_model(dropout=0)
    model[1].weight.data = GAMMA.clone()
    return model


def one_step(**changes):
    return settings(**({"epochs": 1, "batch_size": 150, "momentum": 0, "nesterov": False} | changes))


def test_slimming_penalty_changes_the_first_step_by_the_sign_of_scales(split):
    plain, slim = network(), network()
    train(plain, split, one_step())
    train(slim, split, one_step(bn_l1=1e-2))
    difference = slim[1].weight - plain[1].weight
    torch.testing.assert_close(difference, -0.05 * 1e-2 * GAMMA.sign(), rtol=1e-3, atol=1e-8)
    for name, parameter in plain.named_parameters():
        if name != "1.weight":
            assert torch.equal(parameter, dict(slim.named_parameters())[name])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adadelta"])
def test_slimming_gradient_equals_autograd_with_every_optimizer(split, optimizer):
    """Against the penalty in the loss, differentiated by autograd (for which sign(0) is 0, too)."""
    chosen = for_optimizer(optimizer, epochs=4, batch_size=150, bn_l1=3e-2)
    model, twin = network(), network()
    train(model, split, chosen)
    optimizer = build_optimizer(twin.parameters(), chosen, torch.device("cpu"))
    for _ in range(4):
        optimizer.zero_grad()
        (F.cross_entropy(twin(split.inputs), split.targets) + 3e-2 * twin[1].weight.abs().sum()).backward()
        optimizer.step()
    torch.testing.assert_close(model[1].weight, twin[1].weight, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(model[1].weight, GAMMA, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_slimming_shrinks_scales_and_pruned_scales_stay_zero(split, precision):
    keep = torch.tensor([True, True, False, True, False, True])
    sums = []
    for strength in (0.0, 3e-2):
        model = network()
        train(
            model,
            split,
            settings(epochs=6, bn_l1=strength, precision=precision),
            masks={"1.weight": keep},
        )
        assert torch.count_nonzero(model[1].weight[~keep]) == 0
        sums.append(model[1].weight.abs().sum().item())
    assert sums[1] < 0.85 * sums[0]


def test_slimming_penalty_counts_a_shared_scale_once(split):
    norm = nn.BatchNorm1d(16)
    other = nn.BatchNorm1d(16)
    other.weight = norm.weight
    weights = []
    for strength in (0.0, 1e-2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), norm, nn.ReLU(), nn.Linear(16, 16), other)
        nn.init.xavier_normal_(model[1].weight)
        nn.init.xavier_normal_(model[4].weight)
        norm.weight.data.fill_(0.5)
        norm.bias.data.zero_()
        other.bias.data.zero_()
        train(model, split, one_step(bn_l1=strength))
        weights.append(norm.weight.detach().clone())
    torch.testing.assert_close(weights[1] - weights[0], torch.full((16,), -0.05 * 1e-2), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10, affine=False)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.LayerNorm(10)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10).requires_grad_(False)),
    ],
)
def test_slimming_without_batch_norm_scales_raises_input_error(split, model):
    with pytest.raises(InputError, match=r"bn_l1: 0.01; Sequential has no BatchNorm scale to train"):
        train(model, split, one_step(bn_l1=1e-2))
    train(model, split, one_step())
