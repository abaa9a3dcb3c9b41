"""Orthogonality repair: kept weights become as orthonormal as the mask allows, and nothing else changes."""

import pytest
import torch
from torch import nn

from masksearch.analysis import orthogonality_score
from masksearch.models import build_model
from masksearch.pruning.orthogonalisation import repaired
from masksearch.spaces import filter_space, weight_space


def orthonormal(matrix):
    return torch.allclose(matrix.T @ matrix, torch.eye(matrix.shape[1]), atol=1e-3)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 2, 3, 3)])
def test_repaired_full_matrix_is_orthonormal_on_the_smaller_side(shape):
    torch.manual_seed(0)
    weights = {"a.weight": 0.1 * torch.randn(shape), "a.bias": torch.randn(shape[0])}
    new = repaired(weights, {"a.weight": torch.ones(shape, dtype=torch.bool), "a.bias": torch.ones(shape[0]) > 0})
    matrix = new["a.weight"].flatten(1)
    assert orthonormal(matrix if matrix.shape[0] > matrix.shape[1] else matrix.T)
    assert torch.equal(new["a.bias"], weights["a.bias"])


def test_repair_keeps_pruned_weights_zero_and_lowers_the_orthogonality_score():
    model = build_model("lenet_300_100:0.2", (1, 8, 8), seed=0)
    space = weight_space(model)
    mask = space.random(0.2, generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    keep = space.parameter_masks(mask)
    weights = repaired(before, keep)
    assert all((weights[name][~kept] == 0).all() and (weights[name][kept] != 0).any() for name, kept in keep.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    masked, dense = orthogonality_score(model, space, mask), orthogonality_score(model, space)
    model.load_state_dict(weights)
    assert orthogonality_score(model, space, mask) < 0.9 * min(masked, dense)
    again = repaired(before, keep)
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.items())


def test_repair_of_filter_masks_ignores_pruned_filters():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 20))
    space = filter_space(model.eval(), torch.randn(1, 1, 4, 4))
    mask = space.random(0.5, generator=torch.Generator().manual_seed(0))
    weights = repaired(model.state_dict(), space.parameter_masks(mask))
    left = weights["4.weight"].abs().sum(0) > 0
    assert int(left.sum()) == 16
    assert orthonormal(weights["4.weight"][:, left])
    assert torch.equal(weights["1.weight"], model[1].weight)


def test_repair_keeps_an_empty_layer_empty():
    new = repaired({"weight": torch.ones(2, 3)}, {"weight": torch.zeros(2, 3, dtype=torch.bool)})
    assert torch.equal(new["weight"], torch.zeros(2, 3))
