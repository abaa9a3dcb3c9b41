"""Partitions of kept and pruned units: random swaps of a given radius, anywhere, within layers, or of densities."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masksearch.core.layout import Layout
from masksearch.core.mask import Mask
from masksearch.searchers.moves.any_swap import Partition
from masksearch.searchers.moves.layerwise import LayeredPartition, RankedLayers
from masksearch.utils.files import load_tree, save_tree

many = settings(deadline=None, max_examples=60)


def layered_mask(sizes, density, seed=0):
    layout = Layout([(f"layer{i}", (1, size), size) for i, size in enumerate(sizes)])
    kept = torch.randperm(layout.n_units, generator=torch.Generator().manual_seed(seed))
    return Mask.of_units(layout, kept[: round(density * layout.n_units)].numpy())


@many
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 15), st.integers(0, 99))
def test_swaps_have_the_radius_and_partition_follows_its_mask(sizes, density, radius, seed):
    mask = layered_mask(sizes, density, seed)
    partition, rng = Partition(mask), np.random.default_rng(seed)
    largest = min(mask.n_kept, mask.space.n_units - mask.n_kept)
    assert partition.max_radius == largest
    for _ in range(12):
        move = partition.draw(radius, rng)
        assert len(move.dropped) == len(move.regrown) == min(radius, largest)
        assert len({*move.dropped, *move.regrown}) == len(move)  # no unit twice
        assert mask.bits[move.dropped].all()
        assert not mask.bits[move.regrown].any()
        moved = mask.moved(move)
        assert partition.kept_after(move).tolist() == list(moved.kept_per_layer().values())
        partition.make(move)
        mask = moved
        assert partition.mask() == mask
        assert partition.n_kept == mask.n_kept


def test_swaps_anywhere_are_equally_likely():
    partition, rng = Partition(layered_mask([6], 0.5)), np.random.default_rng(0)
    seen: dict[tuple[int, int], int] = {}
    for _ in range(9000):
        move = partition.draw(1, rng)
        pair = (int(move.dropped[0]), int(move.regrown[0]))
        seen[pair] = seen.get(pair, 0) + 1
    assert len(seen) == 9
    assert all(abs(count - 1000) < 160 for count in seen.values())


def test_state_dict_of_a_partition_is_a_copy():
    partition, rng = Partition(layered_mask([20], 0.5)), np.random.default_rng(0)
    state = partition.state_dict()
    order = state["order"].copy()
    for _ in range(20):
        partition.make(partition.draw(3, rng))
    assert np.array_equal(state["order"], order)


def test_time_of_a_swap_does_not_grow_with_the_space():
    def seconds(n):
        mask = layered_mask([n], 0.5)
        partition, rng = Partition(mask), np.random.default_rng(0)
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(200):
                move = partition.draw(10, rng)
                mask.moved(move)
                partition.make(move)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(2_000_000) < 5 * seconds(20_000)  # a hundred times as many units


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_move_is_empty_at_density_0_and_1(density):
    partition = Partition(layered_mask([7, 3], density))
    move = partition.draw(5, np.random.default_rng(0))
    assert len(move) == 0
    partition.make(move)
    assert partition.mask().density == density


@many
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.floats(0, 1),
    st.integers(0, 15),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_swaps_within_layers_have_the_radius_and_partition_follows_its_mask(sizes, density, radius, seed, within):
    mask = layered_mask(sizes, density, seed)
    partition, rng = LayeredPartition(mask, within), np.random.default_rng(seed)
    for _ in range(12):
        move = partition.draw(radius, rng)
        kept = list(mask.kept_per_layer().values())
        largest = sum(min(count, size - count) for count, size in zip(kept, sizes, strict=True))
        anywhere = min(mask.n_kept, mask.space.n_units - mask.n_kept)
        assert partition.max_radius == (largest if within == 1 else anywhere)
        assert len(move.dropped) == len(move.regrown)
        assert len(move.dropped) in {1: [min(radius, largest)], 0: [min(radius, anywhere)]}.get(
            within, [min(radius, largest), min(radius, anywhere)]
        )
        assert len({*move.dropped, *move.regrown}) == len(move)
        assert mask.bits[move.dropped].all()
        assert not mask.bits[move.regrown].any()
        moved = mask.moved(move)
        assert partition.kept_after(move).tolist() == list(moved.kept_per_layer().values())
        assert within < 1 or partition.kept_after(move).tolist() == kept
        partition.make(move)
        mask = moved
        assert partition.mask() == mask
        assert partition.n_kept == mask.n_kept


@pytest.mark.parametrize("within", [0.0, 1.0])
def test_swaps_of_a_layered_partition_are_equally_likely(within):
    mask = layered_mask([6, 6], 0.5)
    partition, rng = LayeredPartition(mask, within), np.random.default_rng(0)
    kept = list(mask.kept_per_layer().values())
    swaps = 36 if within == 0 else sum(count * (6 - count) for count in kept)
    drawn = [partition.draw(1, rng) for _ in range(12_000)]
    seen = [(int(move.dropped[0]), int(move.regrown[0])) for move in drawn]
    assert len(set(seen)) == swaps
    if within == 0:
        assert all(abs(seen.count(pair) - 12_000 / swaps) < 5 * (12_000 / swaps) ** 0.5 for pair in set(seen))


def test_swaps_within_layers_are_shared_by_the_layers_room():
    layout = Layout([("wide", (1, 800), 800), ("narrow", (1, 200), 200), ("full", (1, 50), 50)])
    partition = LayeredPartition(Mask.of_units(layout, np.r_[:100, 800:900, 1000:1050]), 1.0)
    rng = np.random.default_rng(0)
    dropped = np.concatenate([partition.draw(10, rng).dropped for _ in range(300)])
    assert np.bincount(layout.layer_of(dropped), minlength=3) / 3000 == pytest.approx([0.5, 0.5, 0], abs=0.05)


@pytest.mark.parametrize("kind", ["plain", "layered", "ranked"])
def test_partition_restored_from_a_file_draws_the_same_moves(kind, tmp_path):
    def new(seed):
        mask = layered_mask([30, 20], 0.4, seed)
        if kind == "plain":
            return Partition(mask)
        if kind == "layered":
            return LayeredPartition(mask, 0.5)
        return RankedLayers(mask, torch.rand(50), torch.Generator())

    partition, rng = new(0), np.random.default_rng(0)
    for _ in range(10):
        partition.make(partition.draw(3, rng))
    save_tree(tmp_path / "state", partition.state_dict())
    again = new(1)
    again.load_state_dict(load_tree(tmp_path / "state"))
    a, b = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(10):
        move, same = partition.draw(4, a), again.draw(4, b)
        assert np.array_equal(move.dropped, same.dropped)
        assert np.array_equal(move.regrown, same.regrown)
        assert (partition.kept_after(move) == again.kept_after(same)).all()
        partition.make(move)
        again.make(same)
    assert partition.mask() == again.mask()


def test_moves_of_densities_go_from_a_layer_to_another_layer():
    mask = layered_mask([40, 20, 9], 0.3)
    ranked, rng = RankedLayers(mask, torch.rand(69), torch.Generator()), np.random.default_rng(0)
    sizes = set()
    for _ in range(300):
        move = ranked.draw(100, rng)
        assert len(set(mask.space.layer_of(move.dropped))) == len(set(mask.space.layer_of(move.regrown))) == 1
        assert mask.space.layer_of(move.dropped)[0] != mask.space.layer_of(move.regrown)[0]
        sizes.add(len(move.dropped))
        ranked.make(move)
        mask = mask.moved(move)
        assert ranked.mask() == mask
        assert len(ranked.draw(2, rng).dropped) <= 2
    assert {1, 2, 3} < sizes


def test_move_within_layers_of_a_million_units_takes_below_a_millisecond():
    mask = layered_mask([700_000, 200_000, 100_000], 0.1)
    partition, rng = LayeredPartition(mask, 0.5), np.random.default_rng(0)
    seconds = []
    for _ in range(50):
        begun = time.perf_counter()
        move = partition.draw(100, rng)
        partition.make(move)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 1e-3
