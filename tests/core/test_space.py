"""Spaces: exact density in every scope, ties, quotas, ERK against its formula, empty layers, fingerprints."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masksearch.core.density_allocation import Amount
from masksearch.core.layout import Layout
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError

SCOPES = ["global", "layerwise", "erk"]
many = settings(deadline=None, max_examples=80)


def make_space(sizes):
    """Return a space with a linear layer of one output per size."""
    return MaskSpace([(f"layer{i}", (1, size), size) for i, size in enumerate(sizes)])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def spaces(draw):
    shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5))
    return MaskSpace([(f"layer{i}", shape, shape[0] * shape[1]) for i, shape in enumerate(shapes)])


@st.composite
def spaces_and_densities(draw):
    """A space, and a density that keeps at least one unit per layer."""
    space = draw(spaces())
    kept = draw(st.integers(len(space.layers), space.n_units))
    return space, kept / space.n_units


@st.composite
def saliencies(draw, n):
    """Few different values, so that there are many ties; also infinite values."""
    values = st.sampled_from([-torch.inf, -1.0, -0.0, 0.0, 1.0, 2.0, torch.inf])
    return torch.tensor(draw(st.lists(values, min_size=n, max_size=n)))


@many
@given(st.data(), st.sampled_from(SCOPES))
def test_density_is_exact_in_every_scope_with_ties(data, scope):
    space, density = data.draw(spaces_and_densities())
    saliency = data.draw(saliencies(space.n_units))
    mask = space.top_k(saliency, density, scope, on_empty="allow")
    assert int(mask.bits.sum()) == mask.n_kept == space.count(density) == round(density * space.n_units)


@many
@given(st.data())
def test_density_is_exact_for_densities_per_layer(data):
    space = data.draw(spaces())
    density = {layer.name: data.draw(st.floats(0, 1)) for layer in space.layers}
    wanted = [density[layer.name] * layer.size for layer in space.layers]
    if round(sum(wanted)) < len(space.layers):
        with pytest.raises(InputError, match="fewer than"):
            space.count(density)
        return
    mask = space.random(density, generator=generator(), on_empty="allow")
    assert mask.n_kept == space.count(density) == round(sum(wanted))
    for kept, exact in zip(mask.kept_per_layer().values(), wanted, strict=True):
        assert abs(kept - exact) < 1


@many
@given(st.data())
def test_kept_units_have_at_least_the_saliency_of_pruned_units(data):
    space, density = data.draw(spaces_and_densities())
    saliency = data.draw(saliencies(space.n_units))
    mask = space.top_k(saliency, density, on_empty="allow")
    if mask.n_kept < space.n_units:
        assert saliency[mask.bits].min() >= saliency[~mask.bits].max()
    layerwise = space.top_k(saliency, density, "layerwise", on_empty="allow")
    for layer in space.layers:
        bits, values = layerwise.bits[layer.slice], saliency[layer.slice]
        if 0 < bits.sum() < layer.size:
            assert values[bits].min() >= values[~bits].max()


def test_ties_are_broken_evenly_by_the_generator():
    space = make_space([10, 10])
    saliency = torch.zeros(20)
    assert space.top_k(saliency, 0.5) == space.top_k(saliency, 0.5)
    assert space.top_k(saliency, 0.5, generator=generator(3)) == space.top_k(saliency, 0.5, generator=generator(3))
    assert space.top_k(saliency, 0.5, generator=generator(3)) != space.top_k(saliency, 0.5, generator=generator(4))
    g, kept = generator(), torch.zeros(20)
    for _ in range(2000):
        kept += space.top_k(saliency, 0.2, generator=g, on_empty="allow").bits
    assert (kept / 2000 - 0.2).abs().max() < 0.045  # five standard deviations of a share of 0.2 in 2,000 draws


def test_top_k_does_not_change_arguments_and_global_random_state():
    space = make_space([30, 20])
    saliency = torch.randn(50, generator=generator())
    before, state = saliency.clone(), torch.get_rng_state()
    space.top_k(saliency, 0.1, on_empty="keep_one")
    space.random(0.5, generator=generator())
    assert torch.equal(saliency, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_random_masks_are_uniform_and_depend_on_the_generator():
    space = make_space([40, 60])
    assert space.random(0.3, generator=generator(1)) == space.random(0.3, generator=generator(1))
    assert space.random(0.3, generator=generator(1)) != space.random(0.3, generator=generator(2))
    g, kept = generator(), torch.zeros(100)
    for _ in range(2000):
        kept += space.random(0.3, generator=g, on_empty="allow").bits
    assert (kept / 2000 - 0.3).abs().max() < 0.052


@many
@given(st.data())
def test_keep_one_keeps_the_count_and_leaves_no_layer_empty(data):
    space, density = data.draw(spaces_and_densities())
    saliency = data.draw(saliencies(space.n_units))
    allowed = space.top_k(saliency, density, on_empty="allow")
    mask = space.top_k(saliency, density, on_empty="keep_one")
    assert mask.n_kept == allowed.n_kept
    assert mask.empty_layers() == []
    empty = len(allowed.empty_layers())
    assert mask.hamming(allowed) == 2 * empty  # only the repair
    if empty:
        with pytest.raises(InputError, match="keeps nothing of layer"):
            space.top_k(saliency, density, on_empty="raise")
    else:
        assert space.top_k(saliency, density, on_empty="raise") == allowed


def test_keep_one_adds_the_best_unit_of_an_empty_layer_and_drops_the_worst_kept_unit():
    space = make_space([3, 3, 3])
    saliency = torch.tensor([7.0, 9, 8, 6, 5, 4, 1, 3, 2])
    mask = space.top_k(saliency, 4 / 9, on_empty="keep_one")
    assert mask.bits.tolist() == [False, True, True, True, False, False, False, True, False]  # drops 7, adds 3


def test_keep_one_empties_no_layer_with_saliencies_of_minus_infinity():
    space = make_space([2, 20, 1])
    saliency = torch.cat([torch.ones(2), torch.full((21,), -torch.inf)])
    for seed in range(60):
        mask = space.top_k(saliency, 3 / 23, generator=generator(seed), on_empty="keep_one")
        assert mask.n_kept == 3
        assert mask.empty_layers() == []


@many
@given(spaces_and_densities(), st.sampled_from(["layerwise", "erk"]))
def test_quotas_sum_to_the_count_and_fit_into_the_layers(case, scope):
    space, density = case
    quotas = space.quotas(density, scope)
    assert sum(quotas) == space.count(density)
    assert all(0 <= quota <= layer.size for quota, layer in zip(quotas, space.layers, strict=True))
    if scope == "layerwise":  # Hamilton's method stays within one unit of the exact share
        shares = [Fraction(sum(quotas), space.n_units) * layer.size for layer in space.layers]
        assert all(abs(quota - share) < 1 for quota, share in zip(quotas, shares, strict=True))


def test_quotas_round_by_largest_remainders():
    assert make_space([7, 5, 8]).quotas(0.5) == [4, 2, 4]  # 3.5, 2.5, 4 and 10 in total: the first of equal remainders
    assert make_space([13, 14, 3]).quotas(0.3) == [
        4,
        4,
        1,
    ]  # 3.9, 4.2, 0.9: 3 + 4 + 0, and the rest of two by remainders


@many
@given(spaces_and_densities())
def test_erk_quotas_follow_the_formula_and_share_the_rest_of_full_layers(case):
    space, density = case
    quotas = space.quotas(density, "erk")
    total = sum(quotas)
    # Evci et al. 2020: density (n_in + n_out) / (n_in n_out), scaled; a layer above 1 is full, others share the rest.
    raw = [Fraction(sum(layer.shape), layer.shape[0] * layer.shape[1]) for layer in space.layers]
    full: set[int] = set()
    while True:
        free = [i for i in range(len(raw)) if i not in full]
        taken = sum(space.layers[i].size for i in full)
        weight = sum(raw[i] * space.layers[i].size for i in free)
        epsilon = Fraction(total - taken) / weight if weight else Fraction(0)
        over = {i for i in free if epsilon * raw[i] > 1}
        if not over:
            break
        full |= over
    for i, (quota, layer) in enumerate(zip(quotas, space.layers, strict=True)):
        exact = layer.size if i in full else epsilon * raw[i] * layer.size
        assert abs(quota - exact) < 1 + 1e-9


def test_count_quotas_and_amount_accept_sparsity():
    space = make_space([4, 16])
    assert space.count(sparsity=0.75) == space.count(0.25) == 5
    assert space.quotas(sparsity=0.75) == space.quotas(0.25) == [1, 4]
    assert space.quotas(sparsity={"layer0": 0.5, "layer1": 1.0}) == [2, 0]
    assert Amount.of(sparsity=0.75, hold="macs") == Amount(0.25, hold="macs")
    for call in (space.count, space.quotas):
        with pytest.raises(InputError, match="exactly one of the two"):
            call(0.25, sparsity=0.75)
        with pytest.raises(InputError, match="exactly one of the two"):
            call()


def test_erk_of_a_convolution_counts_its_kernel():
    layout = Layout([("conv", (8, 4, 3, 3), 288), ("linear", (10, 20), 200)])
    assert layout.erk(layout.layers[0]) == pytest.approx((8 + 4 + 3 + 3) / (8 * 4 * 3 * 3))
    assert layout.erk(layout.layers[1]) == pytest.approx((10 + 20) / (10 * 20))


def test_erk_fills_small_layers_and_gives_the_excess_to_other_layers():
    space = MaskSpace([("wide", (100, 100), 10_000), ("narrow", (2, 3), 6)])
    assert space.quotas(0.5, "erk") == [round(0.5 * 10_006) - 6, 6]


BAD = {
    "zero": (0.0, "density: 0.0"),
    "negative": (-0.1, "density: -0.1"),
    "above one": (1.5, "density: 1.5"),
    "nan": (float("nan"), "density: nan"),
    "text": ("0.5", "density: '0.5'"),
    "fewer units than layers": (0.02, "keeps 1 of 60 units, fewer than the 2 layers"),
    "unknown layer": ({"layer0": 0.5, "layer1": 0.5, "layr1": 0.5}, "did you mean 'layer1'"),
    "layer left out": ({"layer0": 0.5}, "no value for layer 'layer1'"),
    "layer above one": ({"layer0": 0.5, "layer1": 1.1}, "density of layer 'layer1': 1.1"),
}


@pytest.mark.parametrize(("density", "message"), BAD.values(), ids=BAD)
def test_wrong_densities_raise_input_error(density, message):
    with pytest.raises(InputError, match=message) as caught:
        make_space([40, 20]).count(density)
    assert "\n" not in str(caught.value)


def test_wrong_saliencies_scopes_and_policies_raise_input_error():
    space = make_space([4, 4])
    with pytest.raises(InputError, match=r"shape \(7,\).*\(8,\) is needed"):
        space.top_k(torch.zeros(7), 0.5)
    with pytest.raises(InputError, match="1 of 8 values are NaN"):
        space.top_k(torch.tensor([0.0] * 7 + [torch.nan]), 0.5)
    with pytest.raises(InputError, match="did you mean 'layerwise'"):
        space.top_k(torch.zeros(8), 0.5, scope="layer_wise")
    with pytest.raises(InputError, match="did you mean 'keep_one'"):
        space.top_k(torch.zeros(8), 0.5, on_empty="keepone")
    with pytest.raises(InputError, match="fixes no densities of layers"):
        space.quotas(0.5, "global")


def test_layers_have_consecutive_slices_of_units():
    space = MaskSpace([("a", (2, 3), 6), ("b", (4,), 4), ("c", (1, 1, 5), 5)])
    assert space.n_units == 15
    assert [(layer.start, layer.stop) for layer in space.layers] == [(0, 6), (6, 10), (10, 15)]
    units = torch.arange(15)
    assert space.layer_of(units.numpy()).tolist() == [0] * 6 + [1] * 4 + [2] * 5
    assert torch.cat([units[layer.slice] for layer in space.layers]).equal(units)


def test_fingerprints_differ_in_names_shapes_order_and_granularity():
    base = [("a", (2, 3), 6), ("b", (3, 2), 6)]
    variants = [
        Layout(base),
        Layout(base, "filter"),
        Layout(base[::-1]),
        Layout([("a", (2, 3), 6), ("c", (3, 2), 6)]),
        Layout([("a", (3, 2), 6), ("b", (3, 2), 6)]),
        Layout([("a", (2, 3), 2), ("b", (3, 2), 6)]),
    ]
    assert len({layout.fingerprint for layout in variants}) == len(variants)
    assert Layout(list(base)).fingerprint == Layout(base).fingerprint


def test_layouts_without_layers_or_units_raise_input_error():
    with pytest.raises(InputError, match="at least one layer"):
        Layout([])
    with pytest.raises(InputError, match="layer 'a' has 0 units"):
        Layout([("a", (0, 3), 0)])
    with pytest.raises(InputError, match="same name"):
        Layout([("a", (1,), 1), ("a", (1,), 1)])


def test_full_mask_keeps_all_units():
    mask = make_space([3, 4]).full()
    assert mask.n_kept == 7
    assert mask.density == 1
