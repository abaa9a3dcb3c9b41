"""Tables: order of rows, and unknown names with the nearest name; seeds: independent streams, equal everywhere."""

import hashlib

import pytest
import torch

from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.models import MODELS
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS
from masksearch.utils.errors import InputError
from masksearch.utils.registry import Table
from masksearch.utils.seeds import derive, numpy_generator, torch_generator

TABLES = {"searcher": SEARCHERS, "criterion": CRITERIA, "objective": OBJECTIVES, "model": MODELS, "data set": DATASETS}


def test_table_keeps_the_order_of_rows():
    table = Table("letter", {"b": 1, "a": 2})
    assert list(table) == ["b", "a"]
    assert table["a"] == 2
    assert len(table) == 2
    assert "a" in table
    assert "c" not in table
    assert dict(table) == {"b": 1, "a": 2}


def test_unknown_name_raises_input_error_with_the_nearest_and_all_names():
    table = Table("searcher", {"annealing": 1, "random_search": 2})
    with pytest.raises(InputError) as caught:
        table["anealing"]
    text = str(caught.value)
    assert "unknown searcher 'anealing'" in text
    assert "did you mean 'annealing'" in text
    assert "random_search" in text
    with pytest.raises(InputError) as caught:
        table["xyz"]
    assert "did you mean" not in str(caught.value)


def test_table_copies_the_given_mapping():
    rows = {"a": 1}
    table = Table("letter", rows)
    rows["b"] = 2
    assert "b" not in table


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_table_of_the_package_suggests_the_nearest_name(table):
    assert len(table) > 0
    for name in table:
        assert name == name.lower()
        with pytest.raises(InputError, match=f"unknown .*did you mean '{name}'"):
            table[name + "__"]


def test_derived_seeds_depend_on_the_seed_and_on_every_word():
    seeds = {derive(s, *words) for s in (0, 1) for words in ((), ("a",), ("b",), ("a", "b"), ("a", 1), ("a", "1x"))}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(3, "a", 1) == derive(3, "a", 1)
    assert numpy_generator(3, "a").random() == numpy_generator(3, "a").random()
    assert torch_generator(3, "a").initial_seed() == derive(3, "a")


def test_derived_seeds_are_equal_in_every_process_and_keep_the_global_state():
    before = torch.get_rng_state()
    numpy_generator(7, "x").random()
    torch.rand(1, generator=torch_generator(7, "x"))
    assert torch.equal(torch.get_rng_state(), before)
    assert derive(7, "x") == int.from_bytes(hashlib.sha256(b"7/x").digest()[:8], "little") >> 1  # no salted hash
