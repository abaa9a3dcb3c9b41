"""Updates of SET and RigL: exact counts, dropped and regrown units, ties broken by a generator."""

from math import cos, pi

import pytest
import torch

from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace
from masksearch.schedules.dynamic_sparse_training import cosine_share, rigl_update, set_update

SPACE = MaskSpace([("a", (6, 10), 60), ("b", (4, 6), 24), ("c", (3, 4), 12)])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def start(density=0.4, seed=0):
    mask = SPACE.random(density, "layerwise", generator(seed))
    weights = torch.randn(SPACE.n_units, generator=generator(seed + 1)) * mask.bits
    return mask, weights, torch.randn(SPACE.n_units, generator=generator(seed + 2))


def by_hand(mask, weights, growth, share):
    """Algorithm 1 of Evci et al., one unit at a time."""
    kept = set(mask.bits.nonzero().flatten().tolist())
    for layer in SPACE.layers:
        active = [u for u in range(layer.start, layer.stop) if u in kept]
        k = int(share * len(active))
        dropped = sorted(active, key=lambda u: abs(weights[u].item()))[:k]
        kept -= set(dropped)
        candidates = [u for u in range(layer.start, layer.stop) if u not in kept]
        kept |= set(sorted(candidates, key=lambda u: -abs(growth[u].item()))[:k])
    return sorted(kept)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.9])
def test_rigl_update_equals_the_algorithm_by_hand(seed, share):
    mask, weights, gradients = start(seed=seed)
    after = rigl_update(SPACE, mask, weights, gradients, share, generator())
    assert after.bits.nonzero().flatten().tolist() == by_hand(mask, weights, gradients, share)
    assert after.kept_per_layer() == mask.kept_per_layer()


def test_rigl_regrows_a_dropped_weight_with_a_large_gradient():
    mask, weights, gradients = start()
    weights[mask.bits] = 1.0
    smallest = int(mask.bits.nonzero()[0])
    weights[smallest], gradients[smallest] = 0.0, 100.0
    assert rigl_update(SPACE, mask, weights, gradients, 0.1, generator()).bits[smallest]
    gradients[smallest] = 0.0
    assert not rigl_update(SPACE, mask, weights, gradients, 0.1, generator()).bits[smallest]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.9])
def test_set_drops_the_smallest_weights_and_keeps_the_counts(share):
    mask, weights, _ = start()
    after = set_update(SPACE, mask, weights, share, generator())
    assert after.kept_per_layer() == mask.kept_per_layer()
    for layer in SPACE.layers:
        kept, new = mask.bits[layer.slice], after.bits[layer.slice]
        k = int(share * int(kept.sum()))
        magnitudes = weights[layer.slice].abs()
        stay = magnitudes >= magnitudes[kept].sort().values[k]
        assert new[stay & kept].all()
        assert int((new & ~(stay & kept)).sum()) == k


def test_set_regrows_uniformly_and_reproducibly():
    mask, weights, _ = start()
    again = [set_update(SPACE, mask, weights, 0.3, generator(seed)) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]
    counts = sum(set_update(SPACE, mask, weights, 0.3, generator(seed)).bits.int() for seed in range(600))
    layer = SPACE.layers[0]  # 24 of 60 kept; 7 dropped, and drawn from the 36 + 7 others
    others = counts[layer.slice][~mask.bits[layer.slice]] / 600
    assert others.mean().item() == pytest.approx(7 / 43, abs=0.01)
    assert others.min() > 0.08
    assert others.max() < 0.26


def test_ties_are_broken_by_the_generator():
    mask, _, _ = start()
    flat = torch.ones(SPACE.n_units)
    after = {rigl_update(SPACE, mask, flat, flat, 0.3, generator(seed)) for seed in range(5)}
    assert len(after) == 5
    assert all(one.kept_per_layer() == mask.kept_per_layer() for one in after)
    assert rigl_update(SPACE, mask, flat, flat, 0.3, generator(3)) in after


def test_layers_with_every_weight_or_a_single_weight_stay_unchanged():
    _, weights, gradients = start()
    full = SPACE.full()
    assert rigl_update(SPACE, full, weights, gradients, 0.3, generator()) == full
    one_each = Mask.of_units(SPACE, torch.tensor([3, 70, 90]).numpy())
    assert rigl_update(SPACE, one_each, weights, gradients, 0.9, generator()) == one_each


def test_drop_share_falls_along_a_cosine():
    assert [cosine_share(t, 100) for t in (0, 25, 50, 100, 200)] == pytest.approx(
        [0.3, 0.15 * (1 + cos(pi / 4)), 0.15, 0, 0]
    )
    assert cosine_share(0, 100, alpha=0.5) == 0.5
