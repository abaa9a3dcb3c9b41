"""Criteria in rounds: nested masks that end at the density, and layers that collapse."""

import copy
import os
from itertools import pairwise

import pytest
import torch
from flow_cases import flow_of, generator, initial_of, make_batches, mlp
from torch import nn

from masksearch.core.mask import Mask
from masksearch.criteria import CRITERIA, balanced_batch, select
from masksearch.criteria.magnitude_and_movement import magnitude
from masksearch.criteria.synaptic_flow import synflow
from masksearch.data import load_data
from masksearch.models import build_model
from masksearch.spaces import filter_space, weight_space
from masksearch.utils.errors import InputError

# Rounds


def watched(monkeypatch, name, rounds=None):
    """Return a list to which every round of a criterion appends its ``alive`` mask."""
    row, seen = CRITERIA[name], []

    def spy(*args, alive=None, **options):
        seen.append(alive)
        return row.saliency(*args, alive=alive, **options)

    monkeypatch.setitem(
        CRITERIA._rows, name, type(row)(**{**vars(row), "saliency": spy, "rounds": rounds or row.rounds})
    )
    return seen


def are_nested(masks):
    return all(not (after.bits & ~before.bits).any() for before, after in pairwise(masks))


def test_synflow_has_100_rounds_of_exponentially_falling_density(monkeypatch):
    model = mlp(20, 15, 10, 5)
    space = weight_space(model)
    seen = watched(monkeypatch, "synflow")
    last = select("synflow", model, space, make_batches(20), 0.1)
    assert len(seen) == 100
    assert seen[0] is None
    for r, mask in enumerate([*seen[1:], last], start=1):
        assert mask.n_kept == round(0.1 ** (r / 100) * space.n_units)
    assert are_nested([*seen[1:], last])


@pytest.mark.parametrize("on_empty", ["allow", "keep_one"])
@pytest.mark.parametrize("scope", ["global", "layerwise", "erk", "each"])
@pytest.mark.parametrize("density", [0.03, 0.11, 0.37])
def test_masks_of_rounds_are_nested_and_end_at_the_density_of_the_scope(monkeypatch, scope, on_empty, density):
    model = mlp(30, 12, 9, 6, 3)
    space = weight_space(model)
    if scope == "each":
        density = {layer.name: density * f for layer, f in zip(space.layers, (1, 1.5, 2.2, 0), strict=True)}
    options = {} if scope == "each" else {"scope": scope}
    seen = watched(monkeypatch, "synflow")
    last = select("synflow", model, space, make_batches(30), density, on_empty=on_empty, **options)
    assert are_nested([*seen[1:], last])
    assert last.n_kept == space.count(density)
    if scope != "global" and (on_empty == "allow" or not any(q == 0 for q in space.quotas(density, **options))):
        assert list(last.kept_per_layer().values()) == space.quotas(density, **options)
        for layer, kept in zip(space.layers, space.quotas(density, **options), strict=True):
            halfway = seen[50].kept_per_layer()[layer.name]  # before round 51: 50 are done
            assert halfway == pytest.approx((layer.size * max(kept, 1)) ** 0.5, abs=1.001)
    if on_empty == "keep_one":
        assert not last.empty_layers()


@pytest.mark.parametrize("hold", ["params", "macs"])
@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_masks_of_rounds_with_hold_params_or_macs_are_nested(monkeypatch, hold, scope):
    """Some of the close rounds prune nothing, and pruned cheap units would fit again beside costly units."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 12), nn.ReLU(), nn.Linear(12, 3))
    image = torch.zeros(1, 1, 8, 8)
    space = filter_space(model, image)
    seen = watched(monkeypatch, "synflow")
    last = select("synflow", model, space, [(image, None)], 0.4, hold=hold, scope=scope, on_empty="keep_one")
    assert are_nested([*seen[1:], last])
    cost = space.kept_params if hold == "params" else space.kept_macs
    assert 0.2 * cost(space.full()) < cost(last) <= 0.4 * cost(space.full())


@pytest.mark.parametrize("name", [name for name, row in CRITERIA.items() if "weight" in row.granularities])
@pytest.mark.parametrize("scope", ["global", "layerwise", "erk"])
def test_repeated_select_with_alive_gives_nested_masks(name, scope):
    """Every call begins from the mask of the call before."""
    model = mlp(12, 9, 6, 3)
    space = weight_space(model)
    options = {"scope": scope, "initial": initial_of(model), "on_empty": "allow", "generator": generator()}
    masks = [space.full()]
    for density in (0.7, 0.5, 0.48, 0.46, 0.44, 0.2):
        masks.append(select(name, model, space, make_batches(12), density, alive=masks[-1], **options))
        assert masks[-1].n_kept == space.count(density)
    assert are_nested(masks)
    with pytest.raises(InputError, match=r"density: 0\.5 keeps .* units, and earlier rounds left .*: give a lower one"):
        select(name, model, space, make_batches(12), 0.5, alive=masks[-1], **options)


def test_select_from_an_uneven_mask_has_the_exact_density():
    """Layers with less than their share keep all units, and other layers keep more."""
    model = mlp(20, 10, 10)
    space = weight_space(model)
    bits = torch.ones(300, dtype=torch.bool)
    bits[10:200] = False  # the first layer keeps 10
    mask = select("magnitude", model, space, density=0.3, scope="layerwise", alive=Mask(space, bits))
    assert list(mask.kept_per_layer().values()) == [10, 80]
    assert (mask.bits <= bits).all()
    bits[:10] = False  # the first layer is empty in all hundred rounds
    options = {"scope": "layerwise", "on_empty": "allow", "alive": Mask(space, bits)}
    assert list(select("synflow", model, space, make_batches(20), 0.2, **options).kept_per_layer().values()) == [0, 60]


# Layers that collapse


def fc():
    model = build_model("fc", (1, 28, 28), seed=0)
    return model, weight_space(model), [(torch.zeros(1, 1, 28, 28), None)]


def test_single_round_of_synflow_empties_a_layer_and_100_rounds_do_not():
    model, space, batches = fc()
    once = space.top_k(synflow(model, space, batches), 0.1, on_empty="allow")
    assert "fc1" in once.empty_layers()
    with pytest.raises(InputError, match="keeps nothing of layer 'fc1'"):
        space.top_k(synflow(model, space, batches), 0.1)
    hundred = select("synflow", model, space, batches, 0.1)
    assert hundred.empty_layers() == []
    assert hundred.n_kept == space.count(0.1)
    masked = copy.deepcopy(model)
    space.apply(masked, hundred)
    assert flow_of(masked, 784) > 0  # and connected


def test_global_magnitude_at_initialisation_empties_the_first_layer():
    model, space, _ = fc()
    mask = space.top_k(magnitude(model, space), 0.1, on_empty="allow")
    assert mask.empty_layers() == ["fc1"]  # its weights are the smallest: 1 / sqrt(784) against 1 / sqrt(100)
    with pytest.raises(InputError, match="keeps nothing of layer 'fc1'"):
        select("magnitude", model, space, density=0.1)


def test_lamp_and_scopes_by_layer_empty_no_layer():
    model, space, _ = fc()
    assert select("lamp", model, space, density=0.01).empty_layers() == []
    for scope in ("layerwise", "erk"):
        assert select("magnitude", model, space, density=0.01, scope=scope).empty_layers() == []


@pytest.mark.images
def test_grasp_on_mnist_prefers_central_pixels_and_synflow_does_not():
    root = os.environ.get("MASKSEARCH_DATA")
    if not root:
        pytest.skip("MASKSEARCH_DATA is not set: it names the folder with MNIST/raw")
    data = load_data("mnist", root=root)
    model = build_model("fc", data, seed=0)
    space = weight_space(model)
    batches = [balanced_batch(data.train, 10, generator())]
    middle = torch.zeros(28, 28, dtype=torch.bool)
    middle[8:20, 8:20] = True
    flow, data_free = (select(name, model, space, batches, 0.1, on_empty="allow") for name in ("grasp", "synflow"))
    share = {}
    for name, mask in {"grasp": flow, "synflow": data_free}.items():
        used = mask.bits[space.layers[0].slice].view(100, 784).sum(0)
        share[name] = (used[middle.flatten()].sum() / used.sum()).item()
        assert mask.empty_layers() == []
    assert share["grasp"] > 0.3  # bright pixels, 144 of 784
    assert abs(share["synflow"] - 144 / 784) < 0.1  # independent of the pixels
