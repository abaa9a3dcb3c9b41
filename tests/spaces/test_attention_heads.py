"""Attention heads as units: found in every form of attention, exact, trainable, saved and loaded, with exact MACs."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from attention_cases import (
    FORMS,
    TOKENS,
    Block,
    D,
    FromShape,
    Grouped,
    H,
    Multihead,
    Packed,
    Separate,
    Strict,
    check_exact,
    heads,
    outputs,
    randomise,
)
from torch import nn

import masksearch as ms
from masksearch.pruning.physical import load_pruned, prune, save_pruned
from masksearch.spaces.filter_mask_space import filter_space
from masksearch.spaces.pruned_attention import PrunedMultiheadAttention


@pytest.mark.parametrize("name", FORMS)
def test_heads_of_all_forms_of_attention_are_units_and_pruned_exactly(name, tmp_path):
    make, n = FORMS[name]
    model = Block(make(), hidden=8).eval()
    space = filter_space(model, TOKENS)
    assert heads(space) == [n], space
    small, mask = check_exact(model, TOKENS, space)
    save_pruned(tmp_path, small, space, mask)
    back = load_pruned(tmp_path, Block(make(), hidden=8))
    torch.testing.assert_close(outputs(back, TOKENS)[0], outputs(small, TOKENS)[0])


def test_pruning_a_head_removes_rows_biases_and_columns_and_updates_attributes():
    model = randomise(Block(Separate()))
    space = filter_space(model, TOKENS)
    mask = ms.Mask(space, torch.tensor([True, False, True, True]))
    small = prune(model, space, mask)
    assert small.attention.query.weight.shape == (12, 16)
    assert small.attention.value.bias.shape == (12,)
    assert small.attention.out.weight.shape == (16, 12)
    kept = torch.arange(16).view(4, 4)[[0, 2, 3]].flatten()
    torch.testing.assert_close(small.attention.key.weight, model.attention.key.weight[kept])
    numbers = vars(small.attention)
    assert (numbers["num_attention_heads"], numbers["all_head_size"], numbers["attention_head_size"]) == (3, 12, 4)
    assert model.attention.num_attention_heads == 4


def test_pruning_a_key_value_head_removes_the_queries_of_the_group():
    space = filter_space(Block(Grouped(2, False)).eval(), TOKENS)
    kept = space.parameter_masks(ms.Mask(space, torch.tensor([False, True])))
    assert kept["attention.q.weight"][:, 0].tolist() == [False] * 8 + [True] * 8
    assert kept["attention.k.weight"][:, 0].tolist() == [False] * 4 + [True] * 4
    assert kept["attention.o.weight"][0].tolist() == [False] * 8 + [True] * 8


def test_queries_of_a_single_key_value_head_are_separate_units():
    class MultiQuery(Grouped):
        def forward(self, x):
            q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            k, v = (each.expand(-1, q.shape[1], -1, -1) for each in (k, v))
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model = Block(MultiQuery(1, False)).eval()
    space = filter_space(model, TOKENS)
    assert [layer.name for layer in space.layers] == ["attention.q"]
    check_exact(model, TOKENS, space)


def test_pruning_all_heads_raises_input_error():
    model = Block(Packed()).eval()
    space = filter_space(model, TOKENS)
    with pytest.raises(ms.InputError, match="at least 1 unit"):
        prune(model, space, ms.Mask(space, torch.zeros(4, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("make", "left", "reason"),
    [
        (lambda: Separate(norm=True), [], "LayerNorm 'attention.norm' normalises over channels"),
        (lambda: Separate(mix=True), ["attention.value"], "sum in Separate 'attention' reduces over channels"),
        (Strict, [], "no change of attn_dim, num_heads makes"),
    ],
    ids=["norm over all heads", "mixed heads", "forward pass that asserts a width"],
)
def test_heads_that_cannot_be_pruned_are_left_out_with_the_reason(make, left, reason):
    space = filter_space(Block(make(), hidden=8).eval(), TOKENS)
    assert [layer.name for layer in space.layers] == [*left, "mlp.0"]
    assert any(reason in why for layer, why in space.left_out if layer.startswith("attention"))


@pytest.mark.parametrize("norm_first", [False, True])
def test_pruned_encoder_layers_of_torch_equal_masked_layers_with_padding(norm_first):
    layer = nn.TransformerEncoderLayer(D, H, 24, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
    model = randomise(nn.Sequential(nn.Linear(6, D), encoder, nn.Linear(D, 3)))
    space = filter_space(model, TOKENS)
    assert heads(space, "self_attn") == [4, 4]
    small, mask = check_exact(model, TOKENS, space)
    assert isinstance(small[1].layers[0].self_attn, PrunedMultiheadAttention)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    model, tokens = model.double(), torch.randn(2, 5, D, dtype=torch.float64)
    small = prune(model, space, mask)
    with torch.inference_mode(), space.applied(model, mask):
        full = encoder(tokens, src_key_padding_mask=padding)
        pruned = small[1](tokens, src_key_padding_mask=padding)
    torch.testing.assert_close(full[~padding][:8], pruned[~padding][:8])


def test_heads_of_torch_transformer_are_units_and_pruned_exactly():
    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(6, D), nn.Linear(D, 3)
            self.transformer = nn.Transformer(D, H, 1, 2, 24, batch_first=True)

        def forward(self, tokens):
            tokens = self.embed(tokens)
            return self.head(self.transformer(tokens, tokens[:, :3]))

    model = Translator().eval()
    space = filter_space(model, TOKENS)
    assert heads(space, "attn") == [4] * 5
    check_exact(model, TOKENS, space)


def test_network_pruned_twice_is_saved_and_loaded(tmp_path):
    model = randomise(Block(Separate()))
    first = filter_space(model, TOKENS)
    small = prune(model, first, ms.Mask(first, torch.tensor([True, False, True, True])))
    second = filter_space(small, TOKENS)
    assert heads(second) == [3]
    smaller = prune(small, second, mask := ms.Mask(second, torch.tensor([True, False, True])))
    assert smaller.attention.num_attention_heads == 2
    save_pruned(tmp_path, smaller, second, mask)
    torch.testing.assert_close(outputs(load_pruned(tmp_path, copy.deepcopy(small)), TOKENS), outputs(smaller, TOKENS))


def test_sizes_of_views_stay_right_after_second_pruning_pickling_and_export():
    model = randomise(Block(FromShape()))
    first = filter_space(model, TOKENS)
    small = prune(model, first, ms.Mask(first, torch.tensor([True, False, True, True])))
    second = filter_space(small, TOKENS)
    check_exact(small, TOKENS, second)
    smaller = prune(small.float(), second, ms.Mask(second, torch.tensor([True, False, True])))
    assert smaller.attention.qkv.weight.shape == (24, 16)
    again = pickle.loads(pickle.dumps(copy.deepcopy(smaller)))
    torch.testing.assert_close(outputs(again, TOKENS), outputs(smaller, TOKENS))
    exported = torch.export.export(smaller, (TOKENS,)).module()
    torch.testing.assert_close(exported(TOKENS), outputs(smaller, TOKENS)[0])


def test_heads_have_sums_of_weights_and_costs():
    model = randomise(Block(Multihead()))
    space = filter_space(model, TOKENS)
    sums = space.unit_sums({name: each.detach().abs() for name, each in model.named_parameters()})
    assert sums.shape == (4,)
    assert (sums > 0).all()
    one_head = ms.Mask(space, torch.tensor([True, False, False, False]))
    cost = (space.kept_macs(space.full()) - space.kept_macs(one_head)) / 3
    assert space.unit_costs("macs").tolist() == [cost] * 4
