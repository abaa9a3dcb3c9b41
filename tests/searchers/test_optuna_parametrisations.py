"""Parametrisations of Optuna searches turn points into masks: layer densities, mixtures of saliencies, blocks, bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_network import NETWORK, SALIENCIES, on, ranked

from masksearch.core.space import MaskSpace
from masksearch.searchers.optuna.parametrisations import Bits, Blocks, Layers, Mixture
from masksearch.utils.errors import InputError

PARAMETRISATIONS = {
    "layers": lambda given: Layers(given, ranked(), 3.0),
    "layers, drawn": lambda given: Layers(given, None, 3.0),
    "mixture": lambda given: Mixture(given, False, 3.0),
    "mixture, densities": lambda given: Mixture(given, True, 3.0),
    "blocks": lambda given: Blocks(given, ranked(), 16),
    "blocks, random": lambda given: Blocks(given, None, 16),
    "bits": Bits,
}
every = pytest.mark.parametrize("make", PARAMETRISATIONS.values(), ids=PARAMETRISATIONS)


class TestParametrisations:
    @every
    @pytest.mark.parametrize("density", [0.005, 0.1, 0.995])
    def test_every_point_gives_a_mask_of_exact_density_without_empty_layers(self, make, density):
        made = make(on(density=density, saliencies=SALIENCIES))
        rng = np.random.default_rng(0)
        points = [made.low, made.high, *made.starts, *(rng.uniform(made.low, made.high) for _ in range(10))]
        for number, point in enumerate(points):
            mask = made.mask(point, number)
            assert mask.n_kept == NETWORK.count(density)
            assert not mask.empty_layers()

    @every
    def test_different_points_give_different_masks_and_starts_lie_within_bounds(self, make):
        made = make(on(saliencies=SALIENCIES))
        rng = np.random.default_rng(0)
        assert len({made.mask(rng.uniform(made.low, made.high), 0).hash for _ in range(10)}) == 10
        for start in made.starts:
            assert (start >= made.low).all()
            assert (start <= made.high).all()

    @pytest.mark.parametrize("saliency", [ranked(), None])
    def test_coordinates_of_layers_are_differences_in_log_odds_of_density(self, saliency):
        made = Layers(on(density=0.3), saliency, 3.0)
        densities = np.array(list(made.mask(np.array([0.0, 1.0, -1.0]), 5).densities().values()))
        odds = np.log(densities / (1 - densities))
        assert odds - odds[0] == pytest.approx([0, 1, -1], abs=0.25)  # one of 50 units is about 0.1

    def test_starts_of_layers_have_uniform_erk_saliency_and_start_mask_densities(self):
        saliency = ranked() + torch.cat([torch.zeros(600), torch.ones(250)])
        start = NETWORK.top_k(ranked(7) + torch.cat([torch.ones(600), torch.zeros(250)]), 0.1)
        made = Layers(on(start=start), saliency, 3.0)
        masks = [made.mask(point, 0) for point in made.starts]
        kept = [list(mask.kept_per_layer().values()) for mask in masks]
        assert kept[0] == NETWORK.quotas(0.1, "layerwise")
        assert kept[1] == NETWORK.quotas(0.1, "erk")
        assert masks[2] == NETWORK.top_k(saliency, 0.1)
        assert kept[3] == list(start.kept_per_layer().values())

    def test_layers_keep_the_units_of_highest_saliency_within_each_layer(self):
        saliency = ranked()
        mask = Layers(on(), saliency, 3.0).mask(np.array([1.0, -2.0, 0.3]), 0)
        for layer in NETWORK.layers:
            bits, values = mask.bits[layer.slice], saliency[layer.slice]
            assert values[bits].min() > values[~bits].max()

    def test_layers_without_saliency_draw_units_by_trial_number_but_fix_densities(self):
        made = Layers(on(), None, 3.0)
        point = np.array([1.0, -2.0, 0.3])
        one, other, again = made.mask(point, 1), made.mask(point, 2), made.mask(point, 1)
        assert one == again != other
        assert one.kept_per_layer() == other.kept_per_layer()

    @pytest.mark.parametrize("densities", [False, True])
    def test_starts_of_mixture_are_the_top_units_of_each_saliency_alone(self, densities):
        scaled = {"first": ranked(1) * 1e6, "second": ranked(2) * 1e-6}
        made = Mixture(on(saliencies=scaled), densities, 3.0)
        for point, saliency in zip(made.starts, scaled.values(), strict=False):
            assert made.mask(point, 0) == NETWORK.top_k(saliency, 0.1)

    def test_next_starts_of_mixture_with_densities_are_each_saliency_in_each_scope(self):
        made = Mixture(on(saliencies=SALIENCIES), True, 20.0)
        scoped = [NETWORK.top_k(s, 0.1, scope=scope) for scope in ("erk", "layerwise") for s in SALIENCIES.values()]
        assert [made.mask(point, 0) for point in made.starts[2:6]] == scoped

    def test_at_most_one_block_is_kept_in_part_and_each_block_lies_in_a_single_layer(self):
        made = Blocks(on(on_empty="allow"), ranked(), 16)
        point = np.random.default_rng(0).random(len(made.names))
        bits = made.mask(point, 0).bits
        shares = [bits[made._block_of == block].double().mean().item() for block in range(len(point))]
        assert sum(0 < share < 1 for share in shares) <= 1
        full = [value for value, share in zip(point, shares, strict=True) if share == 1]
        assert min(full) > max(value for value, share in zip(point, shares, strict=True) if share == 0)
        for block in range(len(point)):
            assert len(set(NETWORK.layer_of((made._block_of == block).nonzero().flatten().numpy()))) == 1

    def test_bits_keep_the_units_of_highest_value_and_start_with_saliencies_and_start_mask(self):
        start = NETWORK.random(0.1, generator=torch.Generator().manual_seed(0), on_empty="keep_one")
        made = Bits(on(saliencies=SALIENCIES, start=start))
        point = np.random.default_rng(0).random(850)
        assert made.mask(point, 0) == NETWORK.top_k(torch.from_numpy(point), 0.1, on_empty="keep_one")
        assert made.mask(made.starts[0], 0) == NETWORK.top_k(SALIENCIES["first"], 0.1, on_empty="keep_one")
        assert made.mask(made.starts[2], 0) == start

    def test_every_parametrisation_passes_hold_to_the_space(self):
        holds = []

        class Costly(MaskSpace):
            def top_k(self, saliency, density, generator=None):
                holds.append(density.hold)
                return super().top_k(saliency, replace(density, hold="units"), generator=generator)

        space = Costly([("wide", (20, 30), 600), ("middle", (10, 20), 200), ("narrow", (5, 10), 50)])
        for make in PARAMETRISATIONS.values():
            made = make(on(space, saliencies=SALIENCIES, hold="macs"))
            holds.clear()
            made.mask(made.low, 0)
            assert holds == ["macs"]

    def test_parametrisations_keep_given_layer_densities_or_raise_input_error(self):
        density = {"wide": 0.05, "middle": 0.2, "narrow": 0.4}
        given = on(density=density, saliencies=SALIENCIES)
        for made in (Mixture(given, False, 3.0), Blocks(given, None, 16), Bits(given)):
            assert list(made.mask(made.high, 0).kept_per_layer().values()) == NETWORK.quotas(density)
        for make in (lambda: Layers(given, None, 3.0), lambda: Mixture(given, True, 3.0)):
            with pytest.raises(InputError, match="densities per layer are given"):
                make()
