"""Files: never written in part, equal bytes for equal content, types that round-trip, no pickle."""

import io
import itertools
import os
import signal
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masksearch.utils import files
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, load_tree, read_json, save_tensors, save_tree, write_bytes, write_json

scalars = st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats(allow_nan=False) | st.text(max_size=8)
arrays = st.sampled_from([np.int64, np.float64, np.uint8, np.bool_]).flatmap(
    lambda kind: st.lists(st.integers(0, 1), max_size=4).map(lambda values: np.array(values, dtype=kind))
)
leaves = scalars | arrays | arrays.map(lambda array: torch.from_numpy(array.copy()))
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=12) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b


@settings(deadline=None, max_examples=60)
@given(trees)
def test_tree_round_trips_with_the_same_types_and_bytes(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree"
    save_tree(path, tree)
    assert same(load_tree(path), tree)
    first = path.read_bytes()
    save_tree(path, tree)
    assert path.read_bytes() == first


def test_tree_with_keys_of_the_format_round_trips(tmp_path):
    tree = {"__dict__": [["a", 1]], "__tensor__": "0", "__tuple__": {"__array__": "1"}, 3: OrderedDict(a=torch.ones(2))}
    save_tree(tmp_path / "tree", tree)
    assert same(load_tree(tmp_path / "tree"), {**tree, 3: dict(tree[3])})


def test_state_of_a_random_generator_round_trips(tmp_path):
    rng = np.random.default_rng(5)
    rng.random(3)
    save_tree(tmp_path / "rng", rng.bit_generator.state)
    again = np.random.default_rng(0)
    again.bit_generator.state = load_tree(tmp_path / "rng")
    assert np.array_equal(rng.random(10), again.random(10))


def test_views_shared_tensors_and_special_floats_round_trip_bit_for_bit(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    odd = torch.tensor([-0.0, torch.nan, torch.inf, 1e-45]).view(torch.int32)
    tree = {"view": base.t(), "row": base[1], "same": base, "odd": odd.view(torch.float32), "grad": base.clone()}
    tree["grad"].requires_grad_()
    save_tree(tmp_path / "tree", tree)
    loaded = load_tree(tmp_path / "tree")
    assert torch.equal(loaded["view"], base.t())
    assert torch.equal(loaded["row"], base[1])
    assert torch.equal(loaded["odd"].view(torch.int32), odd)
    assert torch.equal(loaded["grad"], base)


def test_tree_with_a_set_raises_type_error_and_writes_nothing(tmp_path):
    with pytest.raises(TypeError, match="a set can't be kept"):
        save_tree(tmp_path / "tree", {"a": {1, 2}})
    assert list(tmp_path.iterdir()) == []


def test_tensors_and_metadata_round_trip_with_equal_bytes(tmp_path):
    tensors = {"b": torch.ones(2, 3), "a": torch.zeros(4, dtype=torch.bfloat16)}
    about = {"z": [1, 2.5], "a": None}
    save_tensors(tmp_path / "one", tensors, about)
    save_tensors(tmp_path / "two", {name: tensor.clone() for name, tensor in tensors.items()}, about)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded, metadata = load_tensors(tmp_path / "one")
    assert metadata == about
    assert set(loaded) == {"a", "b"}
    assert torch.equal(loaded["a"], tensors["a"])


def test_unreadable_files_raise_input_error(tmp_path):
    (tmp_path / "broken").write_bytes(b"\x80\x04 not what it should be")
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer)
    (tmp_path / "pickle").write_bytes(buffer.getvalue())
    for name in ("broken", "pickle", "absent"):
        for read in (load_tensors, load_tree):
            with pytest.raises(InputError, match=name) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is not JSON"):
        read_json(tmp_path / "broken")
    with pytest.raises(InputError, match="no file"):
        read_json(tmp_path / "absent.json")


def test_json_round_trips_with_equal_bytes(tmp_path):
    content = {"b": 1, "a": [1.5, None, "ä"]}
    write_json(tmp_path / "deep" / "one.json", content)
    write_json(tmp_path / "two.json", dict(content))
    assert read_json(tmp_path / "deep" / "one.json") == content
    assert (tmp_path / "deep" / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_keeps_the_old_file_and_no_temporary_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((files.os, "fsync") if failing == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_process_killed_while_writing_leaves_a_whole_file(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"A" * 300_000)
    child = os.fork()
    if not child:
        for letter in itertools.cycle(b"BCD"):
            write_bytes(path, bytes([letter]) * 300_000)
    seen = set()
    try:
        deadline = time.monotonic() + 10
        while len(seen) < 3 and time.monotonic() < deadline:  # readers see whole files
            content = path.read_bytes()
            assert len(content) == 300_000
            assert len(set(content)) == 1
            seen.add(content[0])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert len(seen) == 3  # the child has written
    content = path.read_bytes()
    assert len(content) == 300_000
    assert len(set(content)) == 1
