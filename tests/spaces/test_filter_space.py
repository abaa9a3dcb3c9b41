"""Filter spaces: units, layers left out with the reason, costs of masks, and exact pruning of unusual networks."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from space_cases import Net
from torch import nn

from masksearch.models import build_model
from masksearch.pruning.physical import prune
from masksearch.spaces.filter_mask_space import FilterSpace, filter_space
from masksearch.utils.errors import InputError


def pool(images):
    return images.mean((2, 3))


def shuffled(images, groups):
    n, c, h, w = images.shape
    return images.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def conv(*sizes, **settings):
    return nn.Conv2d(*sizes, **settings)


IMAGE = torch.zeros(1, 3, 8, 8)
# name -> (forward, layers, units of every layer of the space, layers that are left out and a word of the reason)
UNUSUAL = {
    "flatten": (
        lambda s, x: s.fc(s.a(x).flatten(1)),
        {"a": conv(3, 16, 3), "fc": nn.Linear(16 * 36, 10)},
        {"a": 16},
        {"fc": "outputs"},
    ),
    "residual": (
        lambda s, x: s.fc(pool((y := s.a(x)) + s.b(y))),
        {"a": conv(3, 4, 3), "b": conv(4, 4, 3, padding=1), "fc": nn.Linear(4, 10)},
        {"a": 4},
        {"fc": "outputs"},
    ),
    "skip over concatenation": (
        lambda s, x: s.c(torch.cat([y := s.a(x).relu(), F.interpolate(s.b(F.max_pool2d(y, 2)), scale_factor=2)], 1)),
        {"a": conv(3, 16, 3, padding=1), "b": conv(16, 24, 3, padding=1), "c": conv(40, 2, 1)},
        {"a": 16, "b": 24},
        {"c": "outputs"},
    ),
    "depthwise with multiplier": (
        lambda s, x: s.fc(pool(s.c(s.b(s.a(x)).relu()))),
        {"a": conv(3, 16, 3), "b": conv(16, 32, 3, groups=16), "c": conv(32, 8, 1), "fc": nn.Linear(8, 10)},
        {"a": 16, "c": 8},
        {"fc": "outputs"},
    ),
    "grouped": (
        lambda s, x: s.fc(pool(s.b(s.a(x)).relu())),
        {"a": conv(3, 16, 3), "b": conv(16, 24, 3, groups=4), "fc": nn.Linear(24, 10)},
        {"a": 4, "b": 6},
        {"fc": "outputs"},
    ),
    "channel shuffle": (
        lambda s, x: s.fc(pool(s.b(shuffled(s.a(x), 4)).relu())),
        {"a": conv(3, 16, 3), "b": conv(16, 24, 3), "fc": nn.Linear(24, 10)},
        {"a": 4, "b": 24},
        {"fc": "outputs"},
    ),
    "halves": (
        lambda s, x: s.fc(pool((parts := s.a(x).chunk(2, 1))[0] * parts[1].sigmoid())),
        {"a": conv(3, 32, 3), "fc": nn.Linear(16, 10)},
        {"a": 16},
        {"fc": "outputs"},
    ),
    "padded identity shortcut": (
        lambda s, x: s.fc(pool(F.pad(y := s.a(x), (0, 0, 0, 0, 4, 4)) + s.b(y))),
        {"a": conv(3, 8, 3), "b": conv(8, 16, 3, padding=1), "fc": nn.Linear(16, 10)},
        {"a": 8},
        {"b": "8 of 16", "fc": "outputs"},
    ),
    "squeeze and excite": (
        lambda s, x: s.fc(pool((y := s.a(x)) * s.d(s.c(pool(y)).relu()).sigmoid()[:, :, None, None])),
        {"a": conv(3, 16, 3), "c": nn.Linear(16, 4), "d": nn.Linear(4, 16), "fc": nn.Linear(16, 10)},
        {"a": 16, "c": 4},
        {"fc": "outputs"},
    ),
    "parameters of the network": (
        lambda s, x: s.fc(pool(s.p(s.a(x) + s.shift)) * s.scale),
        {
            "a": conv(3, 16, 3),
            "p": nn.PReLU(16),
            "shift": nn.Parameter(torch.zeros(1, 16, 1, 1)),
            "scale": nn.Parameter(torch.full((16,), 1e-6)),
            "fc": nn.Linear(16, 10),
        },
        {"a": 16},
        {"fc": "outputs"},
    ),
    "layer norm": (
        lambda s, x: s.fc(s.n(s.b(s.a(x).flatten(2).transpose(1, 2)).relu() @ s.c.weight.t()).mean(1)),
        {
            "a": conv(3, 16, 3),
            "b": nn.Linear(16, 24),
            "c": nn.Linear(24, 16, bias=False),
            "n": nn.LayerNorm(16),
            "fc": nn.Linear(16, 10),
        },
        {"a": 16, "b": 24},
        {"c": "LayerNorm 'n' normalises", "fc": "outputs"},
    ),
    "group norm": (
        lambda s, x: s.fc(pool(s.b(s.n(s.a(x))))),
        {"a": conv(3, 16, 3), "n": nn.GroupNorm(1, 16), "b": conv(16, 8, 3), "fc": nn.Linear(8, 10)},
        {"b": 8},
        {"a": "GroupNorm 'n' normalises", "fc": "outputs"},
    ),
    "mean over channels": (
        lambda s, x: s.fc(pool(s.b(s.a(x).mean(1, keepdim=True)))),
        {"a": conv(3, 16, 3), "b": conv(1, 8, 3), "fc": nn.Linear(8, 10)},
        {"b": 8},
        {"a": "mean in Net reduces", "fc": "outputs"},
    ),
    "softmax over channels": (
        lambda s, x: s.fc(pool(s.b(s.a(x).softmax(1)))),
        {"a": conv(3, 16, 3), "b": conv(16, 8, 3), "fc": nn.Linear(8, 10)},
        {"b": 8},
        {"a": "softmax in Net reduces", "fc": "outputs"},
    ),
    "channels by number": (
        lambda s, x: s.fc(pool(s.b(s.a(x)[:, :8]))),
        {"a": conv(3, 16, 3), "b": conv(8, 8, 3), "fc": nn.Linear(8, 10)},
        {"b": 8},
        {"a": "by number", "fc": "outputs"},
    ),
    "a size in the forward pass": (
        lambda s, x: s.fc(s.b(s.a(x)).view(-1, 8 * 16)),
        {"a": conv(3, 16, 3), "b": conv(16, 8, 3), "fc": nn.Linear(8 * 16, 10)},
        {"a": 16},
        {"b": "not equal", "fc": "outputs"},
    ),
    "a factor from the number of channels": (
        lambda s, x: s.fc(pool(s.b(y := s.a(x)) / y.shape[1])),
        {"a": conv(3, 16, 3), "b": conv(16, 8, 3), "fc": nn.Linear(8, 10)},
        {"b": 8},
        {"a": "not equal", "fc": "outputs"},
    ),
    "a head that only training runs": (
        lambda s, x: s.fc(pool(s.b(y := s.a(x)))) + (s.auxiliary(pool(y)) if s.training else 0),
        {"a": conv(3, 16, 3), "b": conv(16, 8, 3), "auxiliary": nn.Linear(16, 10), "fc": nn.Linear(8, 10)},
        {"b": 8},
        {"a": "in training it stops", "fc": "outputs"},
    ),
    "an operation without a rule": (
        lambda s, x: s.fc(pool(s.b(s.a(x).cumprod(1)))),
        {"a": conv(3, 16, 3), "b": conv(16, 8, 3), "fc": nn.Linear(8, 10)},
        {"b": 8},
        {"a": "cumprod", "fc": "outputs"},
    ),
    "a computed weight": (
        lambda s, x: s.fc(pool(s.b(s.a(x)))),
        {"a": nn.utils.parametrizations.weight_norm(conv(3, 16, 3)), "b": conv(16, 8, 3), "fc": nn.Linear(8, 10)},
        {"b": 8},
        {"a": "remove_parametrizations", "fc": "outputs"},
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_networks_have_the_expected_units_and_are_pruned_exactly(name):
    forward, layers, units, left_out = UNUSUAL[name]
    net = Net(forward, **{key: copy.deepcopy(layer) for key, layer in layers.items()})
    space = filter_space(net, IMAGE)
    assert {layer.name: layer.size for layer in space.layers} == units
    reasons = dict(space.left_out)
    assert reasons.keys() == left_out.keys()
    for layer, word in left_out.items():
        assert word in reasons[layer]

    ones = {key: torch.ones_like(parameter) for key, parameter in net.named_parameters()}
    assert torch.equal(space.unit_sums(ones).double(), space.unit_costs("params"))
    net.double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(generator=generator)
    images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    for density in (0.75, 0.5):
        mask = space.random(density, "layerwise", generator)
        with torch.no_grad():
            with space.applied(net, mask):
                masked = net(images)
            small = prune(net, space, mask)
            assert (small(images) - masked).abs().max() <= 1e-9 * masked.std()
        assert space.kept_params(mask) == sum(parameter.numel() for parameter in small.parameters())


def test_unit_of_a_convolution_includes_norm_and_columns_of_the_next_layer():
    net = nn.Sequential(conv(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    space = filter_space(net, IMAGE)
    bits = torch.tensor([True, False, True, True])
    masks = space.parameter_masks(type(space.full())(space, bits))
    assert masks.keys() == {"0.weight", "0.bias", "1.weight", "1.bias", "4.weight"}
    assert torch.equal(masks["0.weight"], bits.view(4, 1, 1, 1).expand(4, 3, 3, 3))
    for vector in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(masks[vector], bits)
    assert torch.equal(masks["4.weight"], bits.repeat_interleave(36).expand(10, 144))
    # 27 weights and a bias, gamma and beta, 36 columns of 10; MACs: 27 at 36 places, and the columns
    assert space.unit_costs("params").tolist() == [27 + 1 + 2 + 360] * 4
    assert space.unit_costs("macs").tolist() == [27 * 36 + 360] * 4
    assert space.unit_costs("units").tolist() == [1] * 4
    assert space.layer_weights() == ["0.weight"]


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (conv(8, 8, 3, groups=8, padding=1), 8 * 9 * 64),
        (conv(8, 8, 3, groups=2, padding=1), 8 * 4 * 9 * 64),
        (conv(8, 8, 3, stride=2, padding=1), 8 * 8 * 9 * 16),
        (conv(8, 8, 3, dilation=2), 8 * 8 * 9 * 16),
    ],
    ids=["depthwise", "grouped", "strided", "dilated"],
)
def test_macs_equal_counts_by_hand(layer, macs):
    net = nn.Sequential(conv(3, 8, 1), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    space = filter_space(net, IMAGE)
    assert space.kept_macs(space.full()) == 3 * 8 * 64 + macs + 80


def test_macs_of_vgg16_equal_the_published_number():
    net = build_model("vgg16", (3, 32, 32))
    space = filter_space(net, torch.zeros(1, 3, 32, 32))
    assert space.kept_macs(space.full()) == 313_201_664
    mask = space.random(0.5, "layerwise", torch.Generator().manual_seed(0))
    small = prune(net, space, mask)
    again = filter_space(small, torch.zeros(1, 3, 32, 32))
    assert again.kept_macs(again.full()) == space.kept_macs(mask)


@pytest.fixture(scope="module")
def resnet() -> FilterSpace:
    return filter_space(build_model("resnet20", (3, 16, 16)), torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("on_empty", ["allow", "keep_one"])
@pytest.mark.parametrize("scope", ["global", "layerwise", "erk"])
@pytest.mark.parametrize("hold", ["params", "macs"])
def test_mask_of_density_in_params_or_macs_is_the_longest_prefix_that_fits(resnet, hold, scope, on_empty):
    """Also where a longer prefix costs less, as shares are rounded and emptied layers keep a unit."""
    cost = {"params": resnet.kept_params, "macs": resnet.kept_macs}[hold]
    saliency = torch.rand(resnet.n_units, generator=torch.Generator().manual_seed(1))
    prefixes = {
        n: resnet.top_k(saliency, n / resnet.n_units, scope, on_empty=on_empty)
        for n in range(len(resnet.layers), resnet.n_units + 1)
    }
    costs = {n: cost(prefix) for n, prefix in prefixes.items()}
    falls = [n for n in costs if costs.get(n + 1, math.inf) < costs[n]]
    assert not falls or scope != "global"
    assert falls or (hold, scope) != ("macs", "layerwise")
    between = [(costs[n + 1] + costs[n]) / 2 / costs[resnet.n_units] for n in falls[:: max(1, len(falls) // 10)]]
    for density in (1.0, 0.7, 0.3, *between):
        longest = max(n for n in costs if costs[n] <= density * costs[resnet.n_units])
        mask = resnet.top_k(saliency, density, scope, hold=hold, on_empty=on_empty)
        assert mask == prefixes[longest]


def test_masks_of_density_in_params_or_macs_handle_ties_and_empty_layers(resnet):
    generator = torch.Generator().manual_seed(2)
    tied = resnet.top_k(torch.zeros(resnet.n_units), 0.5, generator=generator, hold="macs")
    assert resnet.kept_macs(tied) <= 0.5 * resnet.kept_macs(resnet.full())
    last_first = -torch.arange(resnet.n_units, dtype=torch.float32)
    with pytest.raises(InputError, match="keeps nothing of layer"):
        resnet.top_k(last_first, 0.3, hold="params")
    kept = resnet.top_k(last_first, 0.3, hold="params", on_empty="keep_one")
    assert not kept.empty_layers()
    assert resnet.kept_params(kept) <= 0.3 * resnet.kept_params(resnet.full())
    same = [resnet.random(0.5, generator=torch.Generator().manual_seed(3), hold="params") for _ in range(2)]
    assert same[0] == same[1]


def test_impossible_densities_and_unknown_hold_raise_input_error(resnet):
    saliency = torch.rand(resnet.n_units)
    with pytest.raises(InputError, match="less than"):
        resnet.top_k(saliency, 1e-9, hold="params", on_empty="keep_one")
    with pytest.raises(InputError, match="one per layer can't hold macs"):
        resnet.top_k(saliency, {layer.name: 0.5 for layer in resnet.layers}, hold="macs")
    with pytest.raises(InputError, match="unknown hold 'mac'"):
        resnet.top_k(saliency, 0.5, hold="mac")


def test_unit_sums_add_filters_alone_or_all_coupled_parameters(resnet):
    net = build_model("resnet20", (3, 16, 16))
    ones = {name: torch.ones_like(parameter) for name, parameter in net.named_parameters()}
    assert torch.equal(resnet.unit_sums(ones).double(), resnet.unit_costs("params"))  # no entry counts twice
    first, second = resnet.layers[0], resnet.layers[1]
    assert (resnet.unit_sums(ones, "filters")[second.slice] == second.shape[1] * 9).all()
    assert (resnet.unit_sums(ones, "filters")[first.slice] > first.shape[1] * 9).all()  # its group has more filters
    with pytest.raises(InputError, match="none of"):
        resnet.unit_sums({"nothing": torch.ones(3)})


def test_fingerprint_depends_on_the_positions_of_units():
    def two(groups):
        forward = lambda s, x: s.fc(pool(s.b(shuffled(s.a(x), groups))))  # noqa: E731
        return Net(forward, a=conv(3, 16, 3), b=conv(16, 16, 3, groups=4), fc=nn.Linear(16, 10))

    plain, shuffle = filter_space(two(1), IMAGE), filter_space(two(4), IMAGE)
    assert plain.fingerprint == filter_space(two(1), IMAGE).fingerprint
    assert plain.fingerprint != shuffle.fingerprint


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, left, right):
        return self.fc(left + right)


def shared_weight():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize(
    ("make", "example", "message"),
    [
        (TwoInputs, torch.zeros(1, 4), "TwoInputs doesn't take one example of float32 4|missing 1 required"),
        (
            lambda: Net(lambda s, x: s.b(s.a(s.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 2)),
            torch.zeros(1, 4),
            "Linear 'a' runs twice",
        ),
        (shared_weight, torch.zeros(1, 4), "its weight is also '2.weight'"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.zeros(1, 5), "one example of float64 5 "),
        (
            lambda: nn.Sequential(conv(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)),
            torch.zeros(3, 8, 8),
            "one example of float64 8x8 ",
        ),
        (lambda: nn.Linear(4, 4), torch.zeros(4), "one example of float64 "),
        (lambda: nn.Linear(4, 4), "text", "example_input: a str is no tensor"),
        (lambda: nn.Linear(4, 4), torch.zeros(0, 4), "sizes of 0"),
        (lambda: Net(lambda s, x: "text", a=nn.Linear(4, 4)), torch.zeros(1, 4), "returns no tensor"),
        (lambda: nn.Linear(4, 4), torch.zeros(1, 4), "no channels that can be removed"),
    ],
)
def test_unsuitable_networks_and_examples_raise_input_error_and_do_not_change(make, example, message):
    net = make()
    before = copy.deepcopy(net.state_dict())
    random_state = torch.get_rng_state()
    with pytest.raises(InputError, match=message) as error:
        filter_space(net, example)
    assert "\n" not in str(error.value)
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert torch.equal(random_state, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32


def test_filter_space_and_prune_do_not_change_the_network():
    net = build_model("resnet20", (3, 16, 16)).train()
    net(torch.randn(2, 3, 16, 16)).sum().backward()
    before = copy.deepcopy(net.state_dict())
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    random_state = torch.get_rng_state()
    space = filter_space(net, torch.zeros(1, 3, 16, 16))
    prune(net, space, space.random(0.5, "layerwise", torch.Generator().manual_seed(0)))
    assert net.training
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(torch.equal(old, now.grad) for old, now in zip(gradients, net.parameters(), strict=True))


def test_str_of_a_filter_space_lists_coupled_tensors_and_layers_left_out():
    forward, layers, *_ = UNUSUAL["residual"]
    space = filter_space(Net(forward, **layers), IMAGE)
    assert repr(space) == f"FilterSpace(4 units in 1 layer, fingerprint {space.fingerprint})"
    shown, *table = str(space).splitlines()
    assert shown == repr(space)
    assert table == [
        "layer  units  coupled tensors (dimensions)",
        "a          4  a.weight (0), a.bias (0), b.weight (0, 1), b.bias (0), + 1 more",
        "left out: fc: channels are outputs of Net",
    ]
