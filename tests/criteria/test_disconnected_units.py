"""Dead units (kept, but on no path from input to output) against plain graph search, and masks without dead units."""

from functools import partial

import pytest
import torch
from flow_cases import generator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from masksearch.core.mask import Mask
from masksearch.criteria import Connectivity, connected, select
from masksearch.models import build_model
from masksearch.spaces import weight_space
from masksearch.utils.errors import InputError

IMAGE = torch.zeros(1, 1, 3, 2)


def make_chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def on_a_path(space, mask):
    """Reachable from an input forwards and from an output backwards, unit by unit."""
    matrices = list(space.parameter_masks(mask).values())  # (out, in), first layer first
    forwards, backwards = [torch.ones(6, dtype=torch.bool)], [torch.ones(3, dtype=torch.bool)]
    for matrix in matrices:
        forwards.append((matrix & forwards[-1]).any(1))
    for matrix in reversed(matrices):
        backwards.insert(0, (matrix & backwards[0][:, None]).any(0))
    live = [m & forwards[i] & backwards[i + 1][:, None] for i, m in enumerate(matrices)]
    return torch.cat([layer.flatten() for layer in live])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0.05, 0.9))
def test_dead_units_are_kept_weights_on_no_path_from_input_to_output(seed, density):
    model = make_chain()
    space = weight_space(model)
    mask = space.random(density, generator=generator(seed), on_empty="allow")
    assert torch.equal(Connectivity(model, space, IMAGE).dead(mask), mask.bits & ~on_a_path(space, mask))


def plain_and_connected(seed, density):
    """Two masks of random saliencies, and the dead units of each."""
    model = make_chain()
    space = weight_space(model)
    saliency = torch.rand(space.n_units, generator=generator(seed))
    rank = partial(space.top_k, density=density, on_empty="allow")
    connectivity = Connectivity(model, space, IMAGE)
    plain, mask = rank(saliency), connected(saliency, rank, connectivity)
    assert mask.n_kept == plain.n_kept == space.count(density)
    return plain, mask, int(connectivity.dead(plain).sum()), int(connectivity.dead(mask).sum())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0.05, 0.9))
def test_connected_masks_have_at_most_as_many_dead_units_as_plain_masks(seed, density):
    plain, mask, dead, left = plain_and_connected(seed, density)
    assert left <= dead
    assert dead or mask == plain  # equal masks without dead units


@pytest.mark.parametrize("density", [0.5, 0.6, 0.75])
def test_connected_masks_of_medium_density_have_no_dead_units(density):
    cases = [plain_and_connected(seed, density) for seed in range(30)]
    assert any(dead for _, _, dead, _ in cases)
    assert not any(left for *_, left in cases)


def test_dead_units_remain_if_more_units_are_dead_than_the_mask_prunes():
    """Two hidden units are cut off: each of their 17 weights is dead while the others are pruned; 16 are pruned."""
    plain, mask, dead, left = plain_and_connected(10483, 0.75)
    assert mask.space.n_units - plain.n_kept == 16
    assert (dead, left) == (11, 1)


def test_unit_with_only_a_bias_as_input_makes_its_outgoing_weights_dead():
    model = make_chain()
    space = weight_space(model)
    bits = torch.ones(space.n_units, dtype=torch.bool)
    bits[0:6] = False  # the first hidden unit has no inputs, but a bias
    dead = Connectivity(model, space, IMAGE).dead(Mask(space, bits))
    assert dead.nonzero().flatten().tolist() == [30, 35, 40, 45]  # its outgoing weights, in the second layer


@pytest.mark.parametrize("name", ["lenet5", "vgg11_bn:0.25", "resnet20:0.25", "basic_cnn:0.25"])
def test_only_weights_on_padding_are_dead_in_a_full_mask(name):
    """A 3x3 kernel on one pixel has eight entries that no image reaches."""
    shape = (1, 28, 28) if name == "lenet5" else (3, 32, 32)
    model = build_model(name, shape, classes=10, seed=0)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    space = weight_space(model)
    dead = Connectivity(model, space, torch.zeros(1, *shape)).dead(space.full())
    for layer in space.layers:
        inside = dead[layer.slice].view(layer.shape)
        if inside.any():
            assert layer.shape[-2:] == (3, 3)
            assert not inside[..., 1, 1].any()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 20), nn.LayerNorm(20), nn.ReLU6(), nn.Linear(20, 4), nn.Softmax(1)
        ),
        lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.Hardtanh(), nn.Flatten(), nn.Linear(216, 4)),
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.Flatten(), nn.Linear(216, 4)
        ),
    ],
    ids=["layer norm", "group norm", "batch norm without statistics"],
)
def test_connectivity_passes_norms_and_clipped_activations(make):
    model = make()
    space = weight_space(model)
    assert not Connectivity(model, space, torch.zeros(1, 1, 8, 8)).dead(space.full()).any()


def test_network_that_blocks_an_input_of_ones_raises_input_error():
    class Centred(nn.Module):
        def forward(self, values):
            return values - values.mean(1, keepdim=True)

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), Centred(), nn.ReLU(), nn.Linear(20, 4))
    with pytest.raises(InputError, match="connectivity: an input of ones doesn't pass through 1360 of 1360 units"):
        Connectivity(model, weight_space(model), torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("name", ["random", "magnitude"])
def test_connected_masks_of_later_rounds_have_the_exact_density(name):
    """Kept dead units rank above units that an earlier round pruned."""
    model = build_model("fc:0.3", (1, 8, 8), classes=10, seed=0)
    space, alive = weight_space(model), None
    connectivity = Connectivity(model, space, torch.zeros(1, 1, 8, 8))
    for density in (0.2, 0.05, 0.0125, 0.005):
        common = {"alive": alive, "connectivity": connectivity, "on_empty": "keep_one"}
        alive = select(name, model, space, density=density, **common)
        assert alive.n_kept == space.count(density)


def test_select_with_connectivity_gives_a_mask_without_dead_units():
    model = make_chain()
    space = weight_space(model)
    connectivity = Connectivity(model, space, IMAGE)
    plain = select("magnitude", model, space, density=0.2, on_empty="allow")
    refined = select("magnitude", model, space, density=0.2, on_empty="allow", connectivity=connectivity)
    assert connectivity.dead(plain).any()
    assert not connectivity.dead(refined).any()
    assert refined.n_kept == plain.n_kept
