"""Wanda, OWL and SparseGPT as criteria: their saliencies and masks against those of the one-shot methods."""

import pytest
import torch
from torch import nn

import masksearch as ms
from masksearch.pruning.one_shot.layer_methods import Kept, sparsegpt, wanda


def test_criterion_wanda_of_a_layer_gives_the_mask_of_the_one_shot_method() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 5)).eval()
    inputs = torch.randn(32, 12)
    space = ms.weight_space(model)
    mask = ms.criteria.select("wanda", model, space, [(inputs[:20], None), (inputs[20:], None)], 0.5)
    keep, _ = wanda(model[0].weight.detach().double(), (inputs.T @ inputs).double(), Kept(0.5))
    assert torch.equal(mask.bits.view(5, 12), keep)
    other = nn.ModuleDict({"rnn": nn.RNN(3, 4)})
    other.forward = lambda x: other["rnn"](x)[0]
    with pytest.raises(ms.InputError, match="exclude="):
        ms.criteria.select("wanda", other, ms.weight_space(other), [(torch.randn(4, 2, 3), None)], 0.5)


def test_criterion_sparsegpt_gives_the_mask_of_the_one_shot_method() -> None:
    torch.manual_seed(0)
    model, inputs = torch.nn.Sequential(torch.nn.Linear(160, 12)), torch.randn(200, 160) @ torch.randn(160, 160)
    space, batches = ms.weight_space(model), [(part, None) for part in inputs.split(50)]
    weight, gram = model[0].weight.detach().double(), (inputs.T @ inputs).double()
    keep, _ = sparsegpt(weight, gram, Kept(0.3))
    mask = ms.criteria.select("sparsegpt", model, space, batches, 0.3)
    assert mask.n_kept == int(keep.sum())
    assert (mask.bits.view(keep.shape) == keep).double().mean() > 0.99  # the criterion sums in float32
    plain = space.top_k(ms.criteria.saliency("sparsegpt", model, space, batches), 0.3)
    assert (plain.bits.view(keep.shape) == keep).double().mean() < 0.99  # the update changes later blocks


def test_saliency_of_sparsegpt_within_a_column_block_equals_the_formula() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 5)).eval()
    inputs, space = torch.randn(32, 12), ms.weight_space(model)
    values = ms.criteria.saliency("sparsegpt", model, space, [(inputs[:20], None), (inputs[20:], None)])
    gram = inputs.double().T @ inputs.double()
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(12, dtype=gram.dtype)
    corner = torch.stack([torch.linalg.inv(damped[j:, j:])[0, 0] for j in range(12)])
    assert torch.allclose(values.view(5, 12), model[0].weight.double().square() / corner)
    keep, _ = sparsegpt(model[0].weight.detach().double(), gram, Kept(0.5))
    assert torch.equal(space.top_k(values, 0.5).bits.view(5, 12), keep)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize("criterion", ["wanda", "owl", "sparsegpt"])
def test_wanda_owl_and_sparsegpt_rate_projections_of_multihead_attention(criterion: str) -> None:
    model = SelfAttention().eval()
    space, batches = ms.weight_space(model), [(torch.randn(8, 5, 8), None)]
    mask = ms.criteria.select(criterion, model, space, batches, 0.5, scope="layerwise")
    assert space.layer_weights() == ["attention.in_proj_weight", "attention.out_proj.weight"]
    assert [int(mask.bits[layer.slice].sum()) for layer in space.layers] == [layer.size // 2 for layer in space.layers]
