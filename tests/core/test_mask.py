"""Masks: Hamming arithmetic, lazy bits, hashes, files."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masksearch.core.layout import Layout
from masksearch.core.mask import Mask, Move
from masksearch.searchers.moves.any_swap import Partition
from masksearch.utils.errors import InputError
from masksearch.utils.files import save_tensors

many = settings(deadline=None, max_examples=80)


def make_layout(n):
    return Layout([("only", (1, n), n)])


def mask_of(bits):
    return Mask(make_layout(len(bits)), torch.tensor(bits, dtype=torch.bool))


def swap(mask, radius, rng):
    """A random swap, drawn without Partition."""
    kept, pruned = np.flatnonzero(mask.bits.numpy()), np.flatnonzero(~mask.bits.numpy())
    return Move(rng.choice(kept, radius, replace=False), rng.choice(pruned, radius, replace=False))


bit_lists = st.lists(st.booleans(), min_size=1, max_size=60)


@st.composite
def masks_and_moves(draw):
    """A mask, and a move that fits it; the two halves of the move may differ in size."""
    bits = draw(bit_lists)
    mask = mask_of(bits)
    kept, pruned = [i for i, bit in enumerate(bits) if bit], [i for i, bit in enumerate(bits) if not bit]
    out = draw(st.lists(st.sampled_from(kept), unique=True)) if kept else []
    back = draw(st.lists(st.sampled_from(pruned), unique=True)) if pruned else []
    return mask, Move(np.array(out, dtype=np.int64), np.array(back, dtype=np.int64))


@many
@given(masks_and_moves())
def test_move_changes_exactly_its_units(case):
    mask, move = case
    before = mask.bits.clone()
    moved = mask.moved(move)
    assert mask.hamming(moved) == len(move)
    assert moved.n_kept == int(moved.bits.sum()) == mask.n_kept + len(move.regrown) - len(move.dropped)
    changed = set((mask.bits ^ moved.bits).nonzero().flatten().tolist())
    assert changed == {*move.dropped.tolist(), *move.regrown.tolist()}
    assert torch.equal(mask.bits, before)
    assert moved.moved(move.undone()) == mask


@many
@given(masks_and_moves(), st.data())
def test_move_to_gives_the_move_between_any_two_masks(case, data):
    mask, move = case
    other = mask_of(data.draw(st.lists(st.booleans(), min_size=mask.space.n_units, max_size=mask.space.n_units)))
    found = mask.move_to(other)
    assert mask.moved(found) == other
    assert len(found) == mask.hamming(other) == other.hamming(mask)
    back = mask.move_to(mask.moved(move))
    assert set(back.dropped) == set(move.dropped)
    assert set(back.regrown) == set(move.regrown)


def test_lazy_masks_of_long_chains_of_moves_equal_eager_masks():
    rng = np.random.default_rng(0)
    n = 40
    start = mask_of(rng.random(n) < 0.5)
    lazy, bits, n_kept = start, start.bits.clone(), start.n_kept
    chain = []
    for step in range(400):
        radius = int(rng.integers(1, 4))
        kept, pruned = bits.nonzero().flatten().numpy(), (~bits).nonzero().flatten().numpy()
        move = Move(rng.choice(kept, radius, replace=False), rng.choice(pruned, radius, replace=False))
        lazy = lazy.moved(move)
        bits[move.dropped], bits[move.regrown] = False, True
        chain.append((lazy, bits.clone()))
        if step % 7 == 0:  # read the hash before the bits
            assert lazy.hash == Mask(lazy.space, bits.clone()).hash
    for mask, eager in reversed(chain):
        assert torch.equal(mask.bits, eager)
        assert mask.n_kept == n_kept
        assert mask.hash == Mask(mask.space, eager).hash


def test_chain_of_lazy_masks_stays_short():
    mask, rng = mask_of([True] * 5 + [False] * 5), np.random.default_rng(0)
    partition = Partition(mask)
    for _ in range(5000):  # fails for recursion over the chain, or a chain of unlimited length
        move = partition.draw(1, rng)
        partition.make(move)
        mask = mask.moved(move)
        length, link = 0, mask
        while link._base is not None:
            length, link = length + 1, link._base
        assert length <= 5
    assert torch.equal(mask.bits, partition.mask().bits)


@many
@given(bit_lists, st.data())
def test_hash_and_equality_of_masks_depend_on_the_bits(bits, data):
    a, b = mask_of(bits), mask_of(list(bits))
    assert a == b
    assert hash(a) == hash(b)
    flip = data.draw(st.integers(0, len(bits) - 1))
    other = mask_of([bit != (i == flip) for i, bit in enumerate(bits)])
    assert a != other
    assert a.hash != other.hash
    assert len({a, b, other}) == 2


def test_hashes_of_all_small_masks_differ():
    hashes = {mask_of([bool(code >> i & 1) for i in range(12)]).hash for code in range(4096)}
    assert len(hashes) == 4096
    assert max(hashes) < 2**64


def test_masks_of_two_spaces_differ_and_cannot_be_compared():
    a = Mask(Layout([("a", (2, 3), 6)]), torch.ones(6, dtype=torch.bool))
    b = Mask(Layout([("b", (2, 3), 6)]), torch.ones(6, dtype=torch.bool))
    assert a != b
    for measure in (a.hamming, a.cosine, a.move_to):
        with pytest.raises(InputError, match="masks of two spaces"):
            measure(b)


def test_cosine_equals_values_by_hand():
    a, b = mask_of([True, True, False, False]), mask_of([True, False, True, False])
    assert a.cosine(b) == pytest.approx(0.5)
    assert a.cosine(a) == pytest.approx(1)
    assert a.cosine(mask_of([False, False, True, True])) == 0
    assert a.cosine(mask_of([False] * 4)) == 0
    assert mask_of([True]).cosine(mask_of([True])) == 1


def test_mask_counts_kept_units_per_layer():
    layout = Layout([("a", (2, 2), 4), ("b", (1, 2), 2)])
    mask = Mask(layout, torch.tensor([True, False, True, True, False, False]))
    assert mask.kept_per_layer() == {"a": 3, "b": 0}
    assert mask.densities() == {"a": 0.75, "b": 0.0}
    assert mask.empty_layers() == ["b"]
    assert mask.density == 0.5
    assert mask.sparsity == 0.5


def test_of_units_keeps_the_given_units():
    assert Mask.of_units(make_layout(5), np.array([3, 0])) == mask_of([True, False, False, True, False])


def test_wrong_bits_raise_input_error():
    for bits in (torch.ones(4, dtype=torch.bool), torch.ones(5), torch.ones(5, 1, dtype=torch.bool)):
        with pytest.raises(InputError, match=r"a bool tensor \(5,\) is needed"):
            Mask(make_layout(5), bits)


@many
@given(bit_lists)
def test_mask_round_trips_through_a_file(tmp_path_factory, bits):
    path = tmp_path_factory.mktemp("masks") / "mask.safetensors"
    mask = mask_of(bits)
    mask.save(path)
    assert Mask.load(path, mask.space) == mask


def test_mask_files_are_packed_and_equal_for_equal_masks(tmp_path):
    mask = Mask(make_layout(80_000), torch.rand(80_000, generator=torch.Generator().manual_seed(0)) < 0.1)
    mask.save(tmp_path / "a")
    Mask(mask.space, mask.bits.clone()).save(tmp_path / "b")
    assert (tmp_path / "a").stat().st_size < 80_000 / 8 + 1000
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_mask_file_of_another_space_raises_input_error_with_both_fingerprints(tmp_path):
    mask = mask_of([True, False, True])
    mask.save(tmp_path / "mask")
    other = Layout([("other", (3, 1), 3)])
    with pytest.raises(InputError) as caught:
        Mask.load(tmp_path / "mask", other)
    assert mask.space.fingerprint in str(caught.value)
    assert other.fingerprint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_without_a_mask_raise_input_error(tmp_path):
    with pytest.raises(InputError, match="no file"):
        Mask.load(tmp_path / "absent", make_layout(3))
    (tmp_path / "text").write_text("not a mask")
    with pytest.raises(InputError, match="can't be read as safetensors"):
        Mask.load(tmp_path / "text", make_layout(3))
    save_tensors(tmp_path / "weights", {"bits": torch.zeros(1, dtype=torch.uint8)})
    with pytest.raises(InputError, match="not a masksearch mask"):
        Mask.load(tmp_path / "weights", make_layout(3))


def test_hamming_distance_between_masks_of_a_walk_is_the_size_of_the_move():
    rng = np.random.default_rng(1)
    walk = [mask_of([True] * 20 + [False] * 30)]
    for _ in range(20):
        walk.append(walk[-1].moved(swap(walk[-1], 3, rng)))
    assert [a.hamming(b) for a, b in pairwise(walk)] == [6] * 20
