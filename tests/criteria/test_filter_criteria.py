"""Criteria of filters against plain loops over filters, on a network with channels shared by several layers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from flow_cases import generator
from torch import nn

from masksearch import cost, prune
from masksearch.criteria import CRITERIA, select
from masksearch.criteria.filter_criteria import bn_scale, filter_l1, filter_l2, fpgm
from masksearch.criteria.gradient_criteria import snip, taylor
from masksearch.criteria.magnitude_and_movement import mag_sign, magnitude
from masksearch.pruning.physical import slice_state
from masksearch.spaces import filter_space
from masksearch.testing import check_criteria as contract
from masksearch.utils.errors import InputError

FILTER_ROWS = [name for name, row in CRITERIA.items() if "filter" in row.granularities]
every = pytest.mark.parametrize("name", FILTER_ROWS)

STEM, INNER, HIDDEN, PLACES, CLASSES = 6, 5, 7, 9, 4  # channels of the families, places of a channel at the head


class Net(nn.Module):
    """``stem``, ``outer`` and ``mix`` share output channels, as their outputs are added; ``mix`` also reads them."""

    def __init__(self, hidden=True):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(1, STEM, 3, padding=1), nn.BatchNorm2d(STEM)
        self.inner, self.norm2 = nn.Conv2d(STEM, INNER, 3, padding=1), nn.BatchNorm2d(INNER)
        self.outer, self.norm3 = nn.Conv2d(INNER, STEM, 3, padding=1, bias=False), nn.BatchNorm2d(STEM)
        self.mix = nn.Conv2d(STEM, STEM, 1)
        self.pool, self.drop = nn.AvgPool2d(2), nn.Dropout(0.5)
        self.fc1 = nn.Linear(STEM * PLACES, HIDDEN) if hidden else None
        self.fc2 = nn.Linear(HIDDEN if hidden else STEM * PLACES, CLASSES)

    def forward(self, images):
        x = F.relu(self.norm1(self.stem(images)))
        y = F.relu(self.norm2(self.inner(x)))
        x = F.relu(x + self.norm3(self.outer(y)))
        x = F.relu(x + self.mix(x))
        x = self.drop(self.pool(x).flatten(1))
        return self.fc2(x if self.fc1 is None else F.relu(self.fc1(x)))


def make_net(dtype=torch.float64, hidden=True):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(hidden).to(dtype)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return net.train()


def make_batches(dtype=torch.float64, n=2):
    g = generator(1)
    return [
        (torch.randn(10, 1, 6, 6, generator=g, dtype=dtype), torch.randint(0, CLASSES, (10,), generator=g))
        for _ in range(n)
    ]


def changed(model, seed=3):
    """Weights at initialisation that differ from the network's, in sign too."""
    g = generator(seed)
    return {
        name: t.detach() + 0.5 * torch.randn(t.shape, generator=g, dtype=t.dtype)
        for name, t in model.named_parameters()
    }


def make_space(model):
    dtype = next(model.parameters()).dtype
    return filter_space(model, torch.zeros(1, 1, 6, 6, dtype=dtype))


def filters_of(model):
    """By family and channel, the filters of the channel: (weight name, index of the filter)."""
    families = {
        "stem": [[(f"{layer}.weight", c) for layer in ("stem", "outer", "mix")] for c in range(STEM)],
        "inner": [[("inner.weight", c)] for c in range(INNER)],
    }
    if model.fc1 is not None:
        families["fc1"] = [[("fc1.weight", c)] for c in range(HIDDEN)]
    return families


def removed_by(model):
    """By family and channel, the entries of parameters that are removed with the channel."""
    parameters = dict(model.named_parameters())
    head = "fc1" if model.fc1 is not None else "fc2"

    def entries(*places):
        masks = {}
        for name, *index in places:
            masks.setdefault(name, torch.zeros(parameters[name].shape, dtype=torch.bool))[tuple(index)] = True
        return masks

    everything = slice(None)
    families = {"stem": [], "inner": []}
    for c in range(STEM):
        block = slice(c * PLACES, (c + 1) * PLACES)
        own = [(f"{name}.weight", c) for name in ("stem", "outer", "mix", "norm1", "norm3")]
        own += [(f"{name}.bias", c) for name in ("stem", "mix", "norm1", "norm3")]
        read = [("inner.weight", everything, c), ("mix.weight", everything, c), (f"{head}.weight", everything, block)]
        families["stem"].append(entries(*own, *read))
    for c in range(INNER):
        own = [("inner.weight", c), ("inner.bias", c), ("norm2.weight", c), ("norm2.bias", c)]
        families["inner"].append(entries(*own, ("outer.weight", everything, c)))
    if model.fc1 is not None:
        families["fc1"] = [
            entries(("fc1.weight", c), ("fc1.bias", c), ("fc2.weight", everything, c)) for c in range(HIDDEN)
        ]
    return families


def by_hand(model, space, families, value):
    """Saliencies (n_units,): ``value`` of every channel, at the place of its unit."""
    assert [layer.name for layer in space.layers] == list(families)
    return torch.tensor([value(channel) for family in families.values() for channel in family], dtype=torch.float64)


def test_groups_of_the_space_equal_groups_by_hand():
    model = make_net()
    space = make_space(model)
    unit = 0
    for family in removed_by(model).values():
        for gone in family:
            bits = torch.ones(space.n_units, dtype=torch.bool)
            bits[unit] = False
            masks = space.groups.kept_entries(bits)
            assert {name for name, keep in masks.items() if not keep.all()} == set(gone)
            assert all(torch.equal(~masks[name], mask) for name, mask in gone.items())
            unit += 1
    assert unit == space.n_units == STEM + INNER + HIDDEN


WEIGHTS = {
    "filter_l1": (filter_l1, lambda w: w.abs().sum()),
    "filter_l2": (filter_l2, lambda w: (w**2).sum().sqrt()),
    "mag": (magnitude, lambda w: w.abs().mean()),
}


@pytest.mark.parametrize(("criterion", "norm"), WEIGHTS.values(), ids=WEIGHTS)
def test_norm_criteria_include_all_filters_of_a_unit(criterion, norm):
    model = make_net()
    space, parameters = make_space(model), dict(model.named_parameters())
    wanted = by_hand(
        model,
        space,
        filters_of(model),
        lambda filters: norm(torch.cat([parameters[name][c].detach().flatten() for name, c in filters])).item(),
    )
    assert torch.allclose(criterion(model, space), wanted, rtol=1e-12)
    assert CRITERIA[{v: k for k, v in WEIGHTS.items()}[criterion, norm]].saliency is criterion


def test_mag_sign_of_filters_is_the_mean_times_the_sign_of_the_initial_mean():
    model = make_net()
    space, parameters, initial = make_space(model), dict(model.named_parameters()), changed(model)

    def value(filters):
        now, then = (
            torch.cat([source[name][c].detach().flatten() for name, c in filters]).mean().item()
            for source in (parameters, initial)
        )
        return now if then > 0 else -now

    found = mag_sign(model, space, initial=initial)
    assert torch.allclose(found, by_hand(model, space, filters_of(model), value), rtol=1e-12)
    assert (found < 0).any()
    assert (found > 0).any()


def test_fpgm_is_the_sum_of_distances_to_the_layers_other_filters():
    """He et al. 2019, eq. 4, summed over the layers of a unit."""
    model = make_net()
    space, parameters = make_space(model), dict(model.named_parameters())

    def value(filters):
        total = 0.0
        for name, c in filters:
            weight = parameters[name].detach()
            for other in range(len(weight)):
                total += ((weight[c] - weight[other]) ** 2).sum().sqrt().item()
        return total

    assert torch.allclose(fpgm(model, space), by_hand(model, space, filters_of(model), value), rtol=1e-12)


def test_fpgm_separates_nearly_equal_filters():
    """Distances much smaller than the filters, in float32, in a layer of many filters."""
    model = nn.Sequential(nn.Conv2d(1, 60, 3), nn.ReLU(), nn.Flatten(), nn.Linear(60 * 16, 3))
    with torch.no_grad():
        model[0].weight.copy_(10 + 1e-3 * torch.randn(60, 1, 3, 3, generator=generator()))
    space = make_space(model)
    weight = model[0].weight.detach().double().flatten(1)
    wanted = (weight[:, None] - weight[None]).square().sum(2).sqrt().sum(1)
    assert torch.allclose(fpgm(model, space).double(), wanted, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fpgm_works_in_half_precision(dtype):
    model = make_net()
    space = make_space(model)
    values = fpgm(model.to(dtype), space)
    assert values.float().allclose(fpgm(model.float(), space), rtol=1e-2)


ROUNDED = {
    name: CRITERIA[name].saliency for name in ("mag", "mag_sign", "movement", "magnitude_increase", "fpgm", "lamp")
}


@pytest.mark.parametrize("name", ROUNDED)
def test_criteria_under_a_mask_equal_criteria_of_the_pruned_network(name):
    """Pruned units count neither as inputs nor as weights that moved to zero."""
    model = make_net()
    initial = dict(model.state_dict()) | changed(model)
    space = make_space(model)
    alive = space.random(0.5, scope="layerwise", generator=torch.Generator().manual_seed(3))
    small = prune(model, space, alive)
    masked = copy.deepcopy(model)
    space.apply(masked, alive)
    under = ROUNDED[name](masked, space, initial=initial, alive=alive)
    expected = ROUNDED[name](small, make_space(small), initial=slice_state(space, alive, initial))
    assert under[alive.bits].double().allclose(expected.double(), rtol=1e-5)


def test_bn_scale_is_the_mean_absolute_scale_of_a_unit():
    model = make_net(hidden=False)
    space = make_space(model)
    scales = [(model.norm1.weight.abs() + model.norm3.weight.abs()) / 2, model.norm2.weight.abs()]
    assert [layer.name for layer in space.layers] == ["stem", "inner"]
    assert torch.allclose(bn_scale(model, space), torch.cat(scales).detach(), rtol=1e-12)
    assert (model.norm1.weight < 0).any() or (model.norm2.weight < 0).any() or (model.norm3.weight < 0).any()


def plain_net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES)).double()


def scaleless_net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 4)).double()


@pytest.mark.parametrize(
    ("make", "layer"), [(plain_net, "0"), (scaleless_net, "0"), (make_net, "fc1")], ids=["none", "no scale", "some"]
)
def test_bn_scale_of_channels_without_batch_norm_raises_input_error(make, layer):
    model = make()
    with pytest.raises(InputError, match=f"bn_scale: channels of layer '{layer}' pass through no BatchNorm") as caught:
        select("bn_scale", model, make_space(model), density=0.5)
    assert "\n" not in str(caught.value)


def loss_of(model, batches):
    """The sum over batches, with batch statistics and without dropout."""
    network = copy.deepcopy(model)
    network.drop.eval()
    return sum(F.cross_entropy(network(images), labels) for images, labels in batches), network


def products(model, batches):
    """Gradient times weight by parameter name, by plain autograd."""
    total, network = loss_of(model, batches)
    total.backward()
    return {name: (p.grad * p).detach() for name, p in network.named_parameters()}


def test_snip_and_taylor_are_sums_over_all_parameters_of_a_unit():
    model, batches = make_net(), make_batches()
    space, gw = make_space(model), products(model, batches)
    one = by_hand(
        model, space, removed_by(model), lambda gone: sum(gw[n][mask].abs().sum() for n, mask in gone.items()).item()
    )
    other = by_hand(
        model, space, removed_by(model), lambda gone: abs(sum(gw[n][mask].sum() for n, mask in gone.items()).item())
    )
    assert torch.allclose(snip(model, space, batches), one, rtol=1e-9)
    assert torch.allclose(taylor(model, space, batches), other, rtol=1e-9, atol=1e-14)
    assert (other < 0.9 * one).all()  # signs cancel, so that the two criteria differ


def test_taylor_of_a_unit_is_the_change_of_the_loss_by_central_differences():
    """Central differences of the loss, everything that the unit removes scaled by 1 +- step."""
    model, batches, step = make_net(), make_batches(), 1e-7  # small, for few ReLUs to change sides

    def value(gone):
        losses = []
        for factor in (1 + step, 1 - step):
            scaled = copy.deepcopy(model)
            with torch.no_grad():
                for name, parameter in scaled.named_parameters():
                    if name in gone:
                        parameter[gone[name]] *= factor
                losses.append(loss_of(scaled, batches)[0].item())
        return abs(losses[0] - losses[1]) / (2 * step)

    space = make_space(model)
    wanted = by_hand(model, space, removed_by(model), value)
    assert torch.allclose(taylor(model, space, batches), wanted, rtol=1e-5, atol=1e-6)


def test_taylor_of_a_hidden_unit_is_twice_that_of_a_gate_on_its_output():
    """ReLU passes a factor on, so that scaling the weights before and behind it is a gate's square."""
    model, batches = make_net(), make_batches()
    space = make_space(model)
    gates = torch.ones(HIDDEN, dtype=torch.float64, requires_grad=True)
    network = copy.deepcopy(model)
    network.drop.eval()
    network.fc1.register_forward_hook(lambda module, inputs, output: output * gates)
    sum(F.cross_entropy(network(images), labels) for images, labels in batches).backward()
    fc1 = next(layer for layer in space.layers if layer.name == "fc1")
    assert torch.allclose(taylor(model, space, batches)[fc1.slice], 2 * gates.grad.abs(), rtol=1e-9)


def saliency(name, model, space, batches):
    row = CRITERIA[name]
    extras = {"generator": generator()} if row.draws else {}
    return row.saliency(model, space, batches, initial=changed(model), **extras)


@every
def test_saliencies_of_filters_are_finite_repeatable_and_mostly_different(name):
    contract.check_saliency(CRITERIA[name], "filter")
    contract.check_alive(CRITERIA[name], "filter")
    model = make_net(torch.float32, hidden=name != "bn_scale")
    space = make_space(model)
    assert len(saliency(name, model, space, make_batches(torch.float32)).unique()) > space.n_units / 2


@every
def test_criteria_leave_model_unchanged_and_state_needed_arguments(name):
    contract.check_leaves_no_trace(CRITERIA[name], "filter")
    contract.check_needs(CRITERIA[name], "filter")


@every
@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_select_keeps_the_exact_number_and_the_filters_of_highest_saliency(name, scope):
    model = make_net(hidden=name != "bn_scale")
    space, batches = make_space(model), make_batches()
    options = {"scope": scope, "generator": generator(), "initial": changed(model), "on_empty": "allow"}
    values = saliency(name, model, space, batches)
    for density in (0.8, 0.5, 0.3):
        options["generator"] = generator()
        mask = select(name, model, space, batches, density, **options)
        assert mask.n_kept == round(density * space.n_units)
        for layer in space.layers if scope == "layerwise" else ():
            assert abs(int(mask.bits[layer.slice].sum()) - density * layer.size) < 1
        parts = [slice(None)] if scope == "global" else [layer.slice for layer in space.layers]
        for part in parts if CRITERIA[name].rounds == 1 and CRITERIA[name].rearrange is None else ():
            assert values[part][mask.bits[part]].min() > values[part][~mask.bits[part]].max()


def cost_of(model, space, mask, hold):
    """Return the cost of the pruned network; for masks with an empty layer, the cost by the space."""
    if mask.empty_layers():
        return space.kept_params(mask) if hold == "params" else space.kept_macs(mask)
    small = prune(model, space, mask)
    return cost.params(small) if hold == "params" else int(cost.macs(small, torch.zeros(1, 1, 6, 6).double()))


@pytest.mark.parametrize(
    "name", [name for name in FILTER_ROWS if CRITERIA[name].rounds == 1 and CRITERIA[name].rearrange is None]
)
@pytest.mark.parametrize("hold", ["params", "macs"])
def test_select_of_params_or_macs_keeps_the_longest_prefix_of_the_ranking_that_fits(name, hold):
    model = make_net(hidden=name != "bn_scale").eval()
    space, batches = make_space(model), make_batches()
    ranking = saliency(name, model, space, batches).argsort(descending=True)
    full = cost_of(model, space, space.full(), hold)
    for density in (0.9, 0.7, 0.4):
        options = {"generator": generator(), "initial": changed(model), "on_empty": "allow", "hold": hold}
        mask = select(name, model, space, batches, density, **options)
        kept, longer = mask.bits.clone(), mask.bits.clone()
        assert set(kept.nonzero().flatten().tolist()) == set(ranking[: mask.n_kept].tolist())
        longer[ranking[mask.n_kept]] = True
        longer = type(mask)(space, longer)
        assert cost_of(model, space, mask, hold) <= density * full < cost_of(model, space, longer, hold)


def test_select_refuses_a_weight_criterion_for_filters():
    model = make_net()
    with pytest.raises(InputError, match="criterion 'magnitude': is for weight masks, not filter"):
        select("magnitude", model, make_space(model))
