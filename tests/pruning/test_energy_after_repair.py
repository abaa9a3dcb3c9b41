"""Energy after repair: equal to brute-force least squares, exact under thousands of moves, and a criterion."""

import numpy as np
import pytest
import torch
from torch import nn

import masksearch as ms
from masksearch.core.energy_protocol import removal_order
from masksearch.core.mask import Mask
from masksearch.utils.errors import InputError


def mlp():
    return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.back = nn.Linear(6, 16), nn.Linear(16, 20), nn.Linear(20, 16, bias=False)
        self.head = nn.Linear(16, 40)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(x + self.back(torch.relu(self.inner(x)))))


CASES = {
    "mlp": (mlp, lambda n: torch.randn(n, 10)),
    "convolutional": (convolutional, lambda n: torch.randn(n, 2, 7, 7)),
    "residual": (Residual, lambda n: torch.randn(n, 6)),
}


def case(name, n=256):
    torch.manual_seed(0)
    model, inputs = CASES[name][0]().double().eval(), CASES[name][1](n).double()
    return model, inputs, ms.filter_space(model, inputs[:1].float())


def fitted_inputs(inputs):
    """The examples of the fitted matrices: all but every fourth batch of 64."""
    return torch.cat([batch for number, batch in enumerate(inputs.split(64)) if number % 4 != 3])


@torch.no_grad()
def brute_force(model, space, mask, inputs, ridge):
    """Sum of the relative squared errors of all layers that lose inputs, each repaired by least squares."""
    keep, seen = space.parameter_masks(mask), {}
    made = dict(space.groups.filters)
    hooks = [m.register_forward_pre_hook(lambda m, a: seen.update({m: a[0]})) for m in model.modules()]
    model(inputs)
    for hook in hooks:
        hook.remove()
    total, place = 0.0, list(model.named_modules())
    for index, (name, module) in enumerate(place):
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        weight = module.weight.detach().flatten(1)
        columns_kept = torch.ones(module.weight.shape, dtype=torch.bool)
        for run in space.groups.by_tensor.get(f"{name}.weight", []):
            if run.dim == 1 and made is not None:
                columns_kept &= run.kept(mask.bits).view([1, -1] + [1] * (module.weight.ndim - 2))
        columns_kept = columns_kept.flatten(1)
        if f"{name}.weight" not in keep or not any(r.dim == 1 for r in space.groups.by_tensor[f"{name}.weight"]):
            continue
        rows = seen[module].flatten(0, -2)[None]
        groups = getattr(module, "groups", 1)
        if isinstance(module, nn.Conv2d):
            unfolded = nn.functional.unfold(
                seen[module], module.kernel_size, module.dilation, module.padding, module.stride
            )
            rows = unfolded.transpose(1, 2).flatten(0, 1).unflatten(1, (groups, -1)).transpose(0, 1)
        behind = place[index + 1][1] if index + 1 < len(place) else None
        centred = module.bias is not None or isinstance(behind, nn.BatchNorm2d)
        error = power = 0.0
        size = len(weight) // groups
        diagonal = torch.stack([(r - r.mean(0) if centred else r).square().sum(0) for r in rows]).mean()
        for group, x in enumerate(rows):
            x = x - x.mean(0) if centred else x
            w = weight[group * size : (group + 1) * size]
            kept = columns_kept[group * size]
            penalty = ((ridge + 1e-9) * diagonal).sqrt() * torch.eye(x.shape[1], dtype=torch.float64)
            stacked = torch.cat([x, penalty])
            target = stacked @ w.T
            solution = torch.linalg.lstsq(stacked[:, kept], target).solution
            error += float((stacked[:, kept] @ solution - target).square().sum())
            power += float((x @ w.T).square().sum())
        total += error / power
    return total


@pytest.mark.parametrize("ridge", [1e-4, 1e-2])
@pytest.mark.parametrize("name", CASES)
def test_repair_energy_equals_the_error_of_layers_repaired_by_brute_force(name, ridge):
    model, inputs, space = case(name)
    energy = ms.repair_energy(model, space, inputs, ridge=ridge)
    assert energy(space.full()) == pytest.approx(0, abs=1e-9)
    for seed in range(3):
        mask = space.random(0.5, "layerwise", torch.Generator().manual_seed(seed))
        expected = brute_force(model, space, mask, fitted_inputs(inputs), ridge)
        assert energy(mask) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_energy_changes_of_moves_equal_energies_from_scratch(name):
    model, inputs, space = case(name)
    energy, rng = ms.repair_energy(model, space, inputs, ridge=1e-3), np.random.default_rng(0)
    coefficients = rng.random(len(energy.names))
    state = energy.start(space.random(0.5, "layerwise", torch.Generator().manual_seed(1)), coefficients)

    def fresh():
        return energy.start(Mask(space, torch.from_numpy(state.bits.copy())), coefficients)

    for number in range(3000):
        size = int(rng.integers(1, 4))
        layers = [space.layers[i] for i in rng.integers(len(space.layers), size=size)]
        moves = np.array([[rng.integers(layer.start, layer.stop) for layer in layers] for _ in range(3)])
        moves = np.array([move for move in moves if len(set(move)) == size])
        if not len(moves):
            continue
        changes, before = state.deltas(moves), state.value
        state.toggle(moves[0])
        assert state.value - before == pytest.approx(changes[0], abs=1e-9)
        if number % 500 == 499:
            again = fresh()
            assert state.value == pytest.approx(again.value, rel=1e-9)
            assert state.terms() == pytest.approx(again.terms(), rel=1e-9, abs=1e-11)
            for layer in range(len(space.layers)):
                assert state.singles(layer) == pytest.approx(again.singles(layer), rel=1e-8, abs=1e-11)


def test_removing_a_unit_raises_the_energy_and_a_duplicate_unit_costs_almost_nothing():
    torch.manual_seed(0)
    model, inputs = mlp(), torch.randn(512, 10)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
    space = ms.filter_space(model, inputs[:1])
    energy = ms.repair_energy(model, space, inputs, ridge=1e-4)
    state = energy.start(space.full())
    alone = state.singles(0)
    assert (alone > 0).all()
    assert max(alone[0], alone[1]) < 0.01 * np.median(alone)
    assert len({0, 1} & set(removal_order(energy, space, space.full())[:1])) == 1


@pytest.mark.parametrize("name", CASES)
def test_greedy_removal_beats_random_masks_and_other_criteria(name):
    model, inputs, space = case(name)
    energy = ms.repair_energy(model, space, inputs)
    saliency = ms.criteria.energy(model, space, [(inputs, None)])
    masks = [space.random(0.5, "layerwise", torch.Generator().manual_seed(seed)) for seed in range(20)]
    greedy = energy(space.top_k(saliency, 0.5, "layerwise"))
    assert greedy < min(energy(mask) for mask in masks)
    assert greedy < energy(space.top_k(ms.criteria.filter_l1(model, space), 0.5, "layerwise"))


def test_criterion_energy_gives_nested_masks():
    model, inputs, space = case("mlp")
    batches = [(inputs, torch.zeros(len(inputs)))]
    alive = ms.criteria.select("energy", model, space, batches, 0.6, scope="layerwise")
    mask = ms.criteria.select("energy", model, space, batches, 0.3, scope="layerwise", alive=alive)
    assert mask.n_kept == space.count(0.3)
    assert not (mask.bits & ~alive.bits).any()
    assert mask == ms.criteria.select("energy", model, space, batches, 0.3, scope="layerwise")


def test_repair_energy_includes_attention_heads():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=4, num_classes=3
    ).eval()
    inputs = torch.randn(64, 3, 8, 8)
    space = ms.filter_space(model, inputs[:1])
    energy = ms.repair_energy(model, space, inputs)
    assert "blocks.0.attn.proj" in energy.names
    assert energy(space.random(0.5, "layerwise", torch.Generator().manual_seed(0))) > 0


def test_weight_spaces_and_too_few_examples_raise_input_error():
    model, inputs, space = case("mlp")
    with pytest.raises(InputError, match="energy: it is for filter masks"):
        ms.repair_energy(model, ms.weight_space(model), inputs)
    with pytest.raises(InputError, match="examples"):
        ms.repair_energy(model, space, inputs[:4])
