"""Weight spaces: layers with units, and masks that are applied and removed without a change of any bit."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from masksearch.core.mask import Mask
from masksearch.scoring import signed_constants
from masksearch.spaces import weight_space
from masksearch.utils.errors import InputError


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.LayerNorm(5),
        nn.Linear(5, 3),
    )


def bits_of(model):
    """Every parameter and buffer as raw bits, so that NaN equals NaN and -0.0 differs from 0.0."""
    return {name: t.detach().clone().flatten().view(torch.uint8) for name, t in model.state_dict().items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(autouse=True)
def _keep_the_global_state():
    with torch.random.fork_rng():
        yield


def test_units_are_the_weights_of_linear_and_convolutional_layers():
    space = weight_space(make_net())
    assert [(layer.name, layer.shape, layer.size) for layer in space.layers] == [
        ("0", (4, 1, 3, 3), 36),
        ("4", (5, 16), 80),
        ("6", (3, 5), 15),
    ]
    assert space.granularity == "weight"
    assert space.layer_weights() == ["0.weight", "4.weight", "6.weight"]


def test_layers_of_a_weight_space_are_chosen_by_kind_and_by_name():
    net = make_net()
    assert [layer.name for layer in weight_space(net, "conv").layers] == ["0"]
    assert [layer.name for layer in weight_space(net, "linear").layers] == ["4", "6"]
    assert [layer.name for layer in weight_space(net, exclude=["6"]).layers] == ["0", "4"]
    assert [layer.name for layer in weight_space(net, include=["[45]", "0"]).layers] == ["0", "4"]
    assert [layer.name for layer in weight_space(nn.Linear(3, 2)).layers] == [""]
    assert weight_space(nn.Linear(3, 2)).layer_weights() == ["weight"]
    one_d_and_three_d = nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.ConvTranspose2d(2, 3, 3), nn.Conv3d(1, 2, 2), nn.Bilinear(2, 2, 2)
    )
    assert [layer.name for layer in weight_space(one_d_and_three_d).layers] == ["0", "1", "2", "3"]


def test_networks_without_maskable_weights_and_unknown_layers_raise_input_error():
    with pytest.raises(InputError, match="has no conv layer"):
        weight_space(nn.Linear(2, 2), "conv")
    with pytest.raises(InputError, match="ReLU has no layer with weights to prune; a network with"):
        weight_space(nn.ReLU())
    with pytest.raises(InputError, match=r"whose name fits features\.\*; "):
        weight_space(make_net(), include=["features.*"])
    with pytest.raises(InputError, match="did you mean 'linear'"):
        weight_space(make_net(), "linar")
    with pytest.raises(InputError, match="'1' is computed from others"):
        weight_space(nn.Sequential(nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(InputError, match="'0' and '1' share one weight"):
        weight_space(tied)


@pytest.mark.parametrize("left_out", ["0", "1"])
def test_tied_weight_is_masked_by_each_of_both_names(left_out):
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    space = weight_space(tied, exclude=[left_out])
    mask = space.random(0.5)
    with space.applied(tied, mask):
        assert torch.equal(tied[0].weight != 0, mask.bits.view(4, 4))
    assert bool((tied[0].weight != 0).all())
    signed_constants(tied, space)


def with_special_values(model, seed):
    """Negative zeros, NaN with payloads, infinities and subnormal numbers in every tensor."""
    odd = torch.tensor([0x80000000, 0x7FC12345, 0xFFC00001, 0x7F800001, 0xFF800000, 0x00000001], dtype=torch.int64)
    odd = (odd - (odd >= 2**31) * 2**32).to(torch.int32)  # as signed
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.dtype == torch.float32:
                chosen = torch.rand(tensor.shape, generator=generator) < 0.5
                picks = odd[torch.randint(len(odd), tensor.shape, generator=generator)]
                raw = tensor.view(torch.int32)
                raw.copy_(torch.where(chosen, picks, raw))
    return model


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.03, 1), st.booleans())
def test_applied_restores_every_bit_also_after_an_exception(seed, density, fails):
    model = with_special_values(make_net(), seed)
    space = weight_space(model)
    mask = space.random(density, generator=torch.Generator().manual_seed(seed), on_empty="allow")
    before, kept_before = bits_of(model), mask.bits.clone()
    try:
        with space.applied(model, mask) as inside:
            assert inside is model
            for layer in space.layers:
                raw = dict(model.named_parameters())[f"{layer.name}.weight"].detach().view(torch.int32).flatten()
                old = before[f"{layer.name}.weight"].view(torch.int32)
                keep = mask.bits[layer.slice]
                assert (raw[~keep] == 0).all()
                assert torch.equal(raw[keep], old[keep])
            untouched = [name for name in before if name not in space.layer_weights()]
            assert all(torch.equal(bits_of(model)[name], before[name]) for name in untouched)
            with torch.no_grad():
                model[4].weight.fill_(3.0)  # values written inside the block are lost
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert same_bits(bits_of(model), before)
    assert torch.equal(mask.bits, kept_before)


def test_applied_does_not_change_gradients_modes_and_requires_grad():
    model = make_net().train()
    model[1].eval()
    model[4].weight.requires_grad_(False)
    space = weight_space(model)
    model(torch.randn(4, 1, 4, 4)).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    modes = [module.training for module in model.modules()]
    with space.applied(model, space.random(0.5)):
        out = model(torch.randn(4, 1, 4, 4))
    out.detach()
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(torch.equal(dict(model.named_parameters())[name].grad, grad) for name, grad in grads.items())


def test_nested_applied_masks_keep_their_intersection():
    model = make_net()
    space = weight_space(model)
    before = bits_of(model)
    a, b = space.random(0.5), space.random(0.5)
    with space.applied(model, a):
        with space.applied(model, b):
            assert torch.equal(space.unit_sums(model.state_dict()) != 0, a.bits & b.bits)
        assert torch.equal(space.unit_sums(model.state_dict()) != 0, a.bits)
    assert same_bits(bits_of(model), before)


def test_apply_zeroes_pruned_weights_permanently():
    model = make_net()
    space = weight_space(model)
    weights = space.unit_sums(model.state_dict()).clone()
    mask = space.random(0.3)
    space.apply(model, mask)
    assert torch.equal(space.unit_sums(model.state_dict()), weights * mask.bits)


def test_mask_or_model_of_another_architecture_raises_input_error():
    model, other = make_net(), nn.Sequential(nn.Linear(16, 5), nn.Linear(5, 3))
    space, other_space = weight_space(model), weight_space(other)
    before = bits_of(model)
    for act in (space.apply, lambda m, k: space.applied(m, k).__enter__()):
        with pytest.raises(InputError, match=r"mask of a weight space of 95 units.*doesn't fit"):
            act(model, other_space.random(0.5))
        with pytest.raises(InputError, match=r"has nothing for 4.weight|has nothing for 6.weight|has shape"):
            act(other, space.random(0.5))
    assert same_bits(bits_of(model), before)
    assert (other[0].weight != 0).all()


def test_mask_is_loaded_into_the_space_of_an_equal_network(tmp_path):
    space, again = weight_space(make_net()), weight_space(copy.deepcopy(make_net()))
    assert space.fingerprint == again.fingerprint
    mask = space.random(0.2)
    mask.save(tmp_path / "mask")
    model = make_net()
    again.apply(model, Mask.load(tmp_path / "mask", again))
    assert torch.equal(again.unit_sums(model.state_dict()) != 0, mask.bits)


def test_signed_constants_keep_signs_and_standard_deviation_of_layers():
    model = make_net()
    before = bits_of(model)
    space = weight_space(model)
    constant = signed_constants(model, space)
    assert same_bits(bits_of(model), before)
    for name in space.layer_weights():
        old, new = model.get_parameter(name), constant.get_parameter(name)
        assert torch.equal(new.sign(), old.sign())
        assert torch.allclose(new.abs(), old.std().expand_as(new))
    assert torch.equal(constant[4].bias, model[4].bias)


def test_str_of_a_weight_space_is_a_table_of_layers():
    space = weight_space(make_net())
    assert repr(space) == f"WeightSpace(131 units in 3 layers, fingerprint {space.fingerprint})"
    assert str(space).splitlines()[1:] == [
        "units are 131 of 161 parameters; densities are shares of the units",
        "layer  units  weight",
        "0         36  4x1x3x3",
        "4         80  5x16",
        "6         15  3x5",
        "left out: 1, 5: scales, as of a normalisation: each multiplies one channel, in no matrix product",
    ]


def test_weights_of_matrix_products_are_units_and_other_parameters_are_listed():
    encoder = nn.TransformerEncoderLayer(8, 2, 16)
    assert [layer.name for layer in weight_space(encoder).layers] == [
        "self_attn.in_proj_weight",
        "self_attn.out_proj",
        "linear1",
        "linear2",
    ]
    net = nn.ModuleDict(
        {"table": nn.Embedding(7, 4), "gru": nn.GRU(4, 6), "cell": nn.LSTMCell(6, 3), "head": nn.Linear(4, 7)}
    )
    net["head"].weight = net["table"].weight
    net.register_parameter("raw", nn.Parameter(torch.randn(3, 3)))
    space = weight_space(net)
    assert [layer.name for layer in space.layers] == [
        "gru.weight_ih_l0",
        "gru.weight_hh_l0",
        "cell.weight_ih",
        "cell.weight_hh",
    ]
    assert dict(space.left_out) == {
        "raw": "a parameter of a module without a rule; name it with include to mask it",
        "table": "an embedding: its rows are looked up and multiply nothing",
        "head": "its weight is that of the embedding 'table'",
    }
    named = weight_space(net, include=["raw", "gru.*"])
    assert [layer.name for layer in named.layers] == ["raw", "gru.weight_ih_l0", "gru.weight_hh_l0"]
    assert "left out: table: an embedding" in str(space)


def test_scales_of_normalisations_are_left_out_with_the_reason():
    layers = [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.PReLU(4)) for _ in range(5)]
    net = nn.ModuleDict({"net": nn.Sequential(*layers), "norm": nn.LayerNorm(4)})
    net.register_parameter("gamma", nn.Parameter(torch.ones(4)))
    space = weight_space(net, exclude="net.0.0")
    [excluded, *scales] = space.left_out
    assert excluded == ("net.0.0", "named by exclude")
    layers = [f"net.{number}.{place}" for number in range(5) for place in (1, 2)]
    assert [name for name, _ in scales] == ["gamma", *layers, "norm"]
    assert len({reason for _, reason in scales}) == 1
    assert [line for line in str(space).splitlines() if line.startswith("left out: gamma, net.0.1, ")]
    assert "net.3.1, + 4 more: scales" in str(space)


def test_masks_of_recurrent_and_attention_weights_are_applied():
    net = nn.ModuleDict({"gru": nn.GRU(4, 6), "attention": nn.MultiheadAttention(6, 2)})
    space = weight_space(net)
    mask = space.random(density=0.5, generator=torch.Generator().manual_seed(0), scope="layerwise")
    with space.applied(net, mask):
        masked = {name: net.get_parameter(name) for name in space.layer_weights()}
        assert {name: int((weight != 0).sum()) for name, weight in masked.items()} == {
            name: weight.numel() // 2 for name, weight in masked.items()
        }


def test_exclude_pattern_without_a_match_raises_input_error():
    with pytest.raises(InputError, match="exclude: 'fc9' fits no layer; there are 0, 4, 6"):
        weight_space(make_net(), exclude=["fc9"])


def test_wrapped_network_has_the_weight_space_of_the_plain_network():
    net = make_net()
    space, bare = weight_space(nn.DataParallel(net)), weight_space(net)
    assert space.fingerprint == bare.fingerprint
    with bare.applied(nn.DataParallel(net), bare.random(density=0.5)):
        assert int((net[4].weight == 0).sum()) > 0
