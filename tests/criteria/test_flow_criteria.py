"""GraSP, SynFlow, LAMP, magnitude increase and movement, of weights and filters: against independent derivations."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from flow_cases import F64, by_layer, flow_of, generator, initial_of, make_batches, mlp
from torch import nn

from masksearch.core.mask import Mask
from masksearch.criteria import CRITERIA, select
from masksearch.criteria.gradient_criteria import grasp
from masksearch.criteria.magnitude_and_movement import lamp, magnitude_increase, movement
from masksearch.criteria.synaptic_flow import synflow
from masksearch.spaces import filter_space, weight_space
from masksearch.utils.errors import InputError

# GraSP


def gradient_at(vector, shapes, batches):
    """Flat gradient of the summed loss of a tanh network without biases, backpropagated by hand."""
    weights = [part.view(shape) for part, shape in zip(vector.split([a * b for a, b in shapes]), shapes, strict=True)]
    total = [torch.zeros_like(weight) for weight in weights]
    for images, labels in batches:
        acts = [images]
        for weight in weights[:-1]:
            acts.append(torch.tanh(acts[-1] @ weight.T))
        logits = acts[-1] @ weights[-1].T
        delta = (torch.softmax(logits / 200, 1) - F.one_hot(labels, logits.shape[1])) / 200 / len(labels)
        for i in reversed(range(len(weights))):
            total[i] += delta.T @ acts[i]
            delta = (delta @ weights[i]) * (1 - acts[i] ** 2)
    return torch.cat([part.flatten() for part in total])


@pytest.mark.parametrize("n_batches", [1, 3])
@pytest.mark.parametrize("density", [None, 0.6])
def test_grasp_equals_a_difference_of_gradients_along_the_gradient(n_batches, density):
    """H g by central differences: (g(w + h v) - g(w - h v)) / 2h along v = g, where alive, without autograd."""
    model, batches = mlp(4, 5, 3, activation=nn.Tanh), make_batches(4, n_batches)
    space = weight_space(model)
    alive = None if density is None else space.random(density, generator=generator())
    keep = torch.ones(space.n_units, dtype=torch.bool) if alive is None else alive.bits
    w = torch.cat([p.detach().flatten() for p in model.parameters()]) * keep
    shapes = [layer.shape for layer in space.layers]
    v = gradient_at(w, shapes, batches) * keep
    h = 1e-4 / v.norm()
    product = (gradient_at(w + h * v, shapes, batches) - gradient_at(w - h * v, shapes, batches)) / (2 * h)
    found = grasp(model, space, batches, alive=alive)
    assert torch.allclose(found, product * w, rtol=1e-6, atol=1e-14)
    assert (found > 0).any()
    assert (found < 0).any()


def test_grasp_is_the_change_of_the_gradients_norm_with_a_weight():
    """Wang et al. 2020: |g|^2 / 2 changes by -(H g) w to first order, a share of the weight at a time."""
    model, batches = mlp(4, 5, 3, activation=nn.Tanh), make_batches(4)
    space = weight_space(model)
    w = torch.cat([p.detach().flatten() for p in model.parameters()])
    shapes, share = [layer.shape for layer in space.layers], 1e-4
    wanted = []
    for unit in range(space.n_units):
        flows = []
        for factor in (1 + share, 1 - share):
            moved = w.clone()
            moved[unit] *= factor
            flows.append(gradient_at(moved, shapes, batches).square().sum() / 2)
        wanted.append((flows[0] - flows[1]) / (2 * share))
    assert torch.allclose(grasp(model, space, batches), torch.stack(wanted), rtol=1e-5, atol=1e-13)


def test_grasp_sums_gradients_of_all_batches_before_the_product():
    """(sum of H)(sum of g) is not the sum of H g."""
    model, batches = mlp(4, 5, 3, activation=nn.Tanh), make_batches(4, 2)
    space = weight_space(model)
    whole, parts = grasp(model, space, batches), sum(grasp(model, space, [batch]) for batch in batches)
    assert not torch.allclose(whole, parts, rtol=0.1)
    assert torch.equal(whole, grasp(model, space, iter(batches)))  # two passes, also over an iterator


def test_grasp_is_zero_for_unused_layers_and_without_curvature():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3, dtype=F64), nn.Linear(3, 3, dtype=F64)

        def forward(self, images):
            return self.used(images)

    model = Idle()
    space = weight_space(model)
    found = grasp(model, space, make_batches(4))
    assert (found[:12] != 0).all()
    assert (found[12:] == 0).all()
    plain = mlp(4, 3)
    linear = grasp(plain, weight_space(plain), make_batches(4), loss=lambda outputs, labels: outputs.sum())
    assert (linear == 0).all()  # no curvature


def test_grasp_of_a_given_loss_has_no_temperature():
    model, batches = mlp(4, 5, 3, activation=nn.Tanh), make_batches(4)
    space = weight_space(model)
    softened = grasp(model, space, batches, loss=lambda logits, labels: F.cross_entropy(logits / 200, labels))
    assert torch.allclose(softened, grasp(model, space, batches), rtol=1e-12)
    assert not torch.allclose(softened, grasp(model, space, batches, loss=F.cross_entropy))


@pytest.mark.parametrize("criterion", [grasp, synflow])
def test_grasp_and_synflow_work_under_no_grad_and_need_a_batch(criterion):
    model, batches = mlp(4, 5, 3), make_batches(4)
    space = weight_space(model)
    with torch.no_grad():
        inside = criterion(model, space, batches)
    assert torch.equal(inside, criterion(model, space, batches))
    with pytest.raises(InputError, match="batches: none"):
        criterion(model, space, [])


# SynFlow


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_synflow_sums_are_equal_over_layers_and_over_each_neuron(density):
    """Tanaka et al. 2020, theorems 1 and 2: a layer's sum is R; a neuron's incoming sum equals its outgoing sum."""
    model, batches = mlp(6, 7, 5, 4), make_batches(6)
    space = weight_space(model)
    alive = space.random(density, "layerwise", generator=generator())
    masked = copy.deepcopy(model)
    space.apply(masked, alive)
    found = synflow(model, space, batches, alive=alive)
    layers = by_layer(found, space)
    assert found.dtype == F64
    for values in layers:
        assert torch.allclose(values.sum(), flow_of(masked, 6), rtol=1e-12)
    for before, after in pairwise(layers):
        assert torch.allclose(before.sum(1), after.sum(0), rtol=1e-12)
    assert (found[~alive.bits] == 0).all()


def test_synflow_of_a_linear_chain_equals_the_closed_form():
    """For weight (i, j): flow into j, times |w|, times flow out of i, as products of matrices of |w|."""
    model = mlp(4, 3, 5, 2, activation=nn.Identity)
    a, b, c = (p.detach().abs() for p in model.parameters())
    ones = torch.ones
    wanted = [
        (ones(2, dtype=F64) @ c @ b)[:, None] * a * ones(4, dtype=F64),
        (ones(2, dtype=F64) @ c)[:, None] * b * (a @ ones(4, dtype=F64)),
        c * (b @ a @ ones(4, dtype=F64)),
    ]
    space = weight_space(model)
    for found, closed in zip(by_layer(synflow(model, space, make_batches(4)), space), wanted, strict=True):
        assert torch.allclose(found, closed, rtol=1e-12)


def test_synflow_is_the_change_of_the_flow_without_a_weight():
    """R is linear in every weight, also with biases and BatchNorm in eval mode: against R without the weight."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten())
        model.append(nn.Linear(12, 4))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter))
        model[1].running_var.copy_(torch.tensor([0.3, 1.0, 4.0]))
        model[1].running_mean.copy_(torch.tensor([-0.5, 0.1, 0.0]))
    images = torch.randn(5, 2, 4, 4, generator=generator())
    space = weight_space(model)
    model.train()
    found = synflow(model, space, [(images, torch.zeros(5))])

    def flow(unit=None):
        ours = copy.deepcopy(model).double()
        if unit is not None:
            bits = torch.ones(space.n_units, dtype=torch.bool)
            bits[unit] = False
            space.apply(ours, Mask(space, bits))
        conv, norm, head = ours[0], ours[1], ours[5]
        x = F.conv2d(torch.ones(1, 2, 4, 4, dtype=F64), conv.weight.abs(), conv.bias.abs())
        x = (x - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + norm.eps).sqrt()
        x = (x * norm.weight.abs().view(-1, 1, 1) + norm.bias.abs().view(-1, 1, 1)).clamp_min(0)
        return (x.flatten(1) @ head.weight.abs().T + head.bias.abs()).sum().item()

    wanted = [flow() - flow(unit) for unit in range(space.n_units)]
    assert torch.allclose(found, torch.tensor(wanted, dtype=F64), rtol=1e-9)
    again = synflow(model, space, [(images * 0 - 3, None)])
    assert torch.equal(again, found)  # depends only on the shape of the batch


def test_synflow_passes_clipped_activations():
    """Ones through sixty positive weights each are far above 6: at ReLU6 all gradients would be zero."""
    clipped = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 60), nn.ReLU6(), nn.Linear(60, 60), nn.Hardtanh(), nn.Linear(60, 4)
    )
    plain = nn.Sequential(*(nn.ReLU() if isinstance(m, nn.ReLU6 | nn.Hardtanh) else m for m in clipped))
    shown = [(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))]
    found = [synflow(model, weight_space(model), shown) for model in (clipped, plain)]
    assert torch.equal(*found)
    assert (found[0] > 0).all()
    assert isinstance(clipped[2], nn.ReLU6)  # it worked on a copy


def test_synflow_of_deep_networks_is_finite_or_raises_input_error():
    deep = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(60)])
    batches = [(torch.zeros(1, 8), None)]
    with torch.no_grad():
        for layer in deep:
            layer.weight.fill_(-1.0)  # R = 8 ** 61, above float32's range
    found = synflow(deep, weight_space(deep), batches)
    assert torch.allclose(found.log(), torch.full_like(found, 8.0).log() * 59)
    with torch.no_grad():
        for layer in deep:
            layer.weight.fill_(1e6)
    with pytest.raises(InputError, match="synflow: the flow through Sequential is too large for float64"):
        synflow(deep, weight_space(deep), batches)


# LAMP, magnitude increase and movement


@pytest.mark.parametrize("ties", [False, True])
def test_lamp_equals_its_definition(ties):
    model = mlp(6, 5, 3, bias=True, dtype=torch.float32)
    if ties:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_((parameter * 4).round() / 4)  # some are 0
    space = weight_space(model)
    wanted = []
    for layer in (model[0], model[2]):
        squares = [w * w for w in layer.weight.detach().flatten().tolist()]
        wanted += [w / sum(other for other in squares if other >= w) for w in squares]
    found = lamp(model, space)
    assert torch.allclose(found, torch.tensor(wanted, dtype=F64), rtol=1e-12)
    assert any(len(values.unique()) < values.numel() for values in by_layer(found, space)) == ties


def test_lamp_under_a_mask_equals_lamp_of_the_masked_network():
    model = mlp(6, 5, 3)
    space = weight_space(model)
    alive = space.random(0.5, generator=generator())
    masked = copy.deepcopy(model)
    space.apply(masked, alive)
    assert torch.equal(lamp(model, space, alive=alive), lamp(masked, space))
    assert not torch.equal(lamp(model, space, alive=alive)[alive.bits], lamp(model, space)[alive.bits])


def test_lamp_of_a_layer_of_zeros_is_zero():
    model = mlp(3, 2)
    with torch.no_grad():
        model[0].weight.zero_()
    assert lamp(model, weight_space(model)).tolist() == [0] * 6


def test_magnitude_increase_and_movement_equal_values_by_hand():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
        model[1].weight.copy_(torch.tensor([[-3.0, 0.25]]))
    initial = {"0.weight": torch.tensor([[-2.0, -0.5], [0.5, 4.0]]), "1.weight": torch.tensor([[1.0, 0.0]])}
    space = weight_space(model)
    assert magnitude_increase(model, space, initial=initial).tolist() == [-1, 1.5, 0, -4, 2, 0.25]
    assert movement(model, space, initial=initial).tolist() == [3, 1.5, 0, 4, 4, 0.25]


@pytest.mark.parametrize("name", ["magnitude_increase", "movement"])
def test_initial_weights_of_another_network_raise_input_error(name):
    model = mlp(4, 3)
    for initial, message in (({}, "has no '0.weight'"), ({"0.weight": torch.zeros(2, 2)}, r"has shape \(2, 2\)")):
        with pytest.raises(InputError, match=f"{name}: initial= {message}"):
            select(name, model, weight_space(model), initial=initial)


# Filters


def test_filter_saliency_is_the_sum_over_all_parameters_of_the_unit():
    """For a hidden neuron: its weights, bias, and column of the next layer; LAMP uses the sum of squares."""
    model, batches = mlp(4, 6, 3, bias=True), make_batches(4)
    initial = initial_of(model)
    space = filter_space(model, batches[0][0])
    rest, bias, outgoing = model[0].weight.detach(), model[0].bias.detach(), model[2].weight.detach()
    start = initial["0.weight"], initial["0.bias"], initial["2.weight"]

    def summed(f):
        parts = [f(now, then) for now, then in zip((rest, bias, outgoing), start, strict=True)]
        return parts[0].sum(1) + parts[1] + parts[2].sum(0)

    sizes = summed(lambda now, then: now**2)
    wanted = {
        "movement": summed(lambda now, then: (now - then).abs()),
        "magnitude_increase": summed(lambda now, then: now.abs() - then.abs()),
        "lamp": torch.stack([size / sizes[sizes >= size].sum() for size in sizes]),
    }
    for name, values in wanted.items():
        assert torch.allclose(CRITERIA[name].saliency(model, space, initial=initial), values, rtol=1e-12)


@pytest.mark.parametrize("criterion", [grasp, synflow])
def test_grasp_and_synflow_of_a_filter_are_sums_over_incoming_and_outgoing_weights(criterion):
    model, batches = mlp(4, 6, 3, activation=nn.Tanh if criterion is grasp else nn.ReLU), make_batches(4)
    incoming, outgoing = by_layer(criterion(model, weight_space(model), batches), weight_space(model))
    found = criterion(model, filter_space(model, batches[0][0]), batches)
    assert torch.allclose(found, incoming.sum(1) + outgoing.sum(0), rtol=1e-12)
    if criterion is synflow:
        assert torch.allclose(found, 2 * incoming.sum(1), rtol=1e-12)  # equal incoming and outgoing sums
