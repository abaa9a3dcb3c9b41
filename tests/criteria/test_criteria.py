"""Criteria of weights: independent derivations, and the contract of every row of the table."""

import copy

import pytest
import torch
import torch.nn.functional as F
from flow_cases import generator, initial_of
from torch import nn

from masksearch.core.space import MaskSpace
from masksearch.criteria import CRITERIA, balanced_batch, fpgm, mag_sign, magnitude, select, snip
from masksearch.criteria import random as random_criterion
from masksearch.data import Split
from masksearch.spaces import filter_space, weight_space
from masksearch.testing import check_criteria as contract
from masksearch.utils.errors import InputError

every = pytest.mark.parametrize("name", [name for name, row in CRITERIA.items() if "weight" in row.granularities])


def make_net(dtype=torch.float32, norm=True):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 3, 3), *([nn.BatchNorm2d(3)] if norm else []), nn.Tanh()]
        return nn.Sequential(*layers, nn.Dropout(0.5), nn.Flatten(), nn.Linear(27, 4)).to(dtype).train()


def make_batches(dtype=torch.float32, n=3):
    g = generator(1)
    return [
        (torch.randn(8, 1, 5, 5, generator=g, dtype=dtype), torch.randint(0, 4, (8,), generator=g)) for _ in range(n)
    ]


def saliency(name, model, space, batches, **extras):
    row = CRITERIA[name]
    if row.draws:
        extras["generator"] = generator()
    return row.saliency(model, space, batches, initial=initial_of(model), **extras)


@every
def test_saliencies_of_weights_are_finite_repeatable_and_mostly_different(name):
    contract.check_saliency(CRITERIA[name])
    contract.check_alive(CRITERIA[name])
    model = make_net()
    space = weight_space(model)
    assert len(saliency(name, model, space, make_batches()).unique()) > space.n_units / 2


@every
def test_criteria_leave_model_gradients_and_random_state_unchanged(name):
    contract.check_leaves_no_trace(CRITERIA[name])


@every
@pytest.mark.parametrize("scope", ["global", "layerwise", "erk"])
def test_select_keeps_the_exact_density_and_the_weights_of_highest_saliency(name, scope):
    model = make_net()
    space = weight_space(model)
    options = {"scope": scope, "generator": generator(), "initial": initial_of(model)}
    mask = select(name, model, space, make_batches(), 0.3, **options)
    assert mask.n_kept == space.count(0.3)
    if CRITERIA[name].rounds == 1 and CRITERIA[name].rearrange is None:
        values = saliency(name, model, space, make_batches())
        parts = [slice(None)] if scope == "global" else [layer.slice for layer in space.layers]
        for part in parts:
            assert values[part][mask.bits[part]].min() >= values[part][~mask.bits[part]].max()


@every
def test_select_depends_on_the_generator_only_for_criteria_with_draws(name):
    model = make_net()
    space = weight_space(model)
    masks = [
        select(name, model, space, make_batches(), 0.3, generator=generator(seed), initial=initial_of(model))
        for seed in (0, 0, 1)
    ]
    assert masks[0] == masks[1]
    assert (masks[0] != masks[2]) == CRITERIA[name].draws


@every
def test_rows_state_needed_batches_and_initial_weights(name):
    contract.check_needs(CRITERIA[name])


@every
def test_space_of_another_granularity_raises_input_error(name):
    model = make_net()
    space = weight_space(model)
    space.granularity = "group"
    with pytest.raises(InputError, match=f"criterion '{name}': is for .* not group"):
        select(name, model, space, make_batches(), 0.3, initial=initial_of(model))


def test_unknown_criterion_raises_input_error_with_the_nearest_name():
    model = make_net()
    with pytest.raises(InputError, match="unknown criterion 'snipp': did you mean 'snip'"):
        select("snipp", model, weight_space(model), make_batches())


def masked_loss(model, factors, batches):
    """The sum over batches of the loss, every weight times its factor: an independent forward in eval mode."""
    total = 0.0
    for images, labels in batches:
        x = torch.tanh(F.conv2d(images, model[0].weight * factors[:27].view(3, 1, 3, 3), model[0].bias))
        x = F.linear(x.flatten(1), model[4].weight * factors[27:].view(4, 27), model[4].bias)
        total += F.cross_entropy(x, labels).item()
    return total


@pytest.mark.parametrize("n_batches", [1, 3])
def test_snip_is_the_change_of_the_loss_with_the_unit(n_batches):
    """Lee et al. 2019, eq. 4: |dL/dc| for a mask c that multiplies the weights, by central differences in float64."""
    model, batches = make_net(torch.float64, norm=False), make_batches(torch.float64, n_batches)
    space = weight_space(model)
    ones, step = torch.ones(space.n_units, dtype=torch.float64), 1e-5
    wanted = []
    for unit in range(space.n_units):
        up, down = ones.clone(), ones.clone()
        up[unit] += step
        down[unit] -= step
        wanted.append(abs(masked_loss(model, up, batches) - masked_loss(model, down, batches)) / (2 * step))
    assert torch.allclose(snip(model, space, batches), torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_snip_sums_gradients_of_batches_before_absolute_values():
    model, batches = make_net(torch.float64, norm=False), make_batches(torch.float64, 2)
    space = weight_space(model)
    whole = snip(model, space, batches)
    parts = sum(snip(model, space, [batch]) for batch in batches)
    assert (whole <= parts + 1e-12).all()
    assert (whole < 0.99 * parts).any()


def test_snip_under_a_mask_equals_snip_of_the_masked_network():
    model, batches = make_net(norm=False), make_batches()
    space = weight_space(model)
    alive = space.random(0.5, generator=generator())
    masked = copy.deepcopy(model)
    space.apply(masked, alive)
    found = snip(model, space, batches, alive=alive)
    assert torch.equal(found, snip(masked, space, batches))
    assert (found[~alive.bits] == 0).all()


def test_snip_uses_the_given_loss():
    model, batches = make_net(norm=False), make_batches()
    space = weight_space(model)
    doubled = snip(model, space, batches, loss=lambda outputs, labels: 2 * F.cross_entropy(outputs, labels))
    assert torch.allclose(doubled, 2 * snip(model, space, batches))


def test_snip_of_an_unused_layer_is_zero():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(25, 4), nn.Linear(3, 3)

        def forward(self, images):
            return self.used(images.flatten(1))

    model = Idle()
    found = snip(model, weight_space(model), make_batches())
    assert (found[:100] > 0).all()
    assert (found[100:] == 0).all()


def test_magnitude_equals_values_by_hand():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, -0.0]]))
        model[1].weight.copy_(torch.tensor([[-3.0, 0.25]]))
    assert magnitude(model, weight_space(model)).tolist() == [1, 2, 0.5, 0, 3, 0.25]


def test_mag_sign_equals_values_by_hand():
    model = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [-4.0, 0.0, 5.0]]))
    initial = {"0.weight": torch.tensor([[0.1, -9.0, -0.1], [0.1, 1.0, 0.0]]), "0.bias": torch.zeros(2)}
    space = weight_space(model)
    found = mag_sign(model, space, initial=initial)
    assert found.tolist() == [1, 2, -3, -4, 0, 0]  # same sign: magnitude; other sign: below all others
    kept = space.top_k(found, 4 / 6).bits.tolist()
    assert kept == [True, True, False, False, True, True]


def test_mag_sign_with_missing_initial_weights_raises_input_error():
    model = make_net()
    with pytest.raises(InputError, match=r"initial= has no '0\.weight'"):
        mag_sign(model, weight_space(model), initial={"weight": torch.zeros(3)})


def test_snip_works_under_no_grad():
    model = make_net()
    space = weight_space(model)
    with torch.no_grad():
        inside = snip(model, space, make_batches())
    assert torch.equal(inside, snip(model, space, make_batches()))


def test_random_is_uniform_noise():
    space = MaskSpace([("only", (100, 100), 10_000)])
    noise = random_criterion(nn.Linear(1, 1), space, generator=generator())
    assert noise.min() >= 0
    assert noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.02
    assert abs(noise.var() - 1 / 12) < 0.005


def test_balanced_batch_has_equally_many_examples_of_every_class():
    labels = torch.tensor([0] * 5 + [1] * 9 + [3] * 4)
    split = Split(torch.arange(18.0).view(18, 1, 1, 1), labels)
    images, chosen = balanced_batch(split, 4, generator())
    assert chosen.bincount().tolist() == [4, 4, 0, 4]
    index = images.flatten().long()
    assert torch.equal(labels[index], chosen)  # images with their own labels
    assert len(index.unique()) == 12  # no image twice
    assert not torch.equal(chosen, chosen.sort().values)  # not class by class
    again, other = balanced_batch(split, 4, generator())[0], balanced_batch(split, 4, generator(1))[0]
    assert torch.equal(again, images)
    assert not torch.equal(other, images)
    with pytest.raises(InputError, match="examples per class: 5; class 3 has only 4"):
        balanced_batch(split, 5, generator())


@every
def test_criteria_accept_a_network_in_data_parallel(name):
    model = make_net()
    space = weight_space(model)
    plain = saliency(name, model, space, make_batches())
    extras = {"generator": generator()} if CRITERIA[name].draws else {}
    wrapped = nn.DataParallel(model)
    again = CRITERIA[name].saliency(wrapped, space, make_batches(), initial=initial_of(model), **extras)
    assert torch.equal(again, plain)


@pytest.mark.parametrize("name", ["wanda", "owl", "sparsegpt"])
def test_criteria_of_weights_refuse_a_filter_space(name):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    space = filter_space(model, torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match=f"{name}: space is a FilterSpace; allowed is a WeightSpace"):
        CRITERIA[name].saliency(model, space, [(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))])


def test_criteria_of_filters_refuse_a_weight_space():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(
        InputError, match=r"fpgm: space is a WeightSpace; allowed is a FilterSpace, as ms\.filter_space"
    ):
        fpgm(model, weight_space(model))
