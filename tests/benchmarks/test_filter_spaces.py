"""Ten networks of other libraries: masked = pruned, trained, saved and loaded; skipped where not installed."""

import pytest
import torch

import masksearch as ms
from benchmarks.filter_spaces import difference, exports, gap, masks, outputs_of, randomise, trains
from benchmarks.networks import SMALL, build, examples, missing_library
from benchmarks.unit_kinds import unit_kinds
from masksearch.utils.nested import map_tensors

HEADS = {
    "timm:levit_128s": 82,
    "timm:deit_tiny_patch16_224": 36,
    **{f"transformers:{name}": 8 for name in ("bert", "distilbert", "gpt2")},
    "transformers:llama": 4,  # key-value heads, each with its queries
    "transformers:t5": 12,  # of all layers that share a position table
}


@pytest.mark.parametrize("name", SMALL)
def test_masked_equals_pruned_in_networks_of_other_libraries(name, tmp_path):
    if missing := missing_library(name):
        pytest.skip(f"{missing} is not installed")
    model, inputs = build(name), examples(name)
    space = ms.filter_space(model, inputs)
    assert unit_kinds(model, space)["heads"] == HEADS.get(name, 0)
    randomise(model)
    assert difference(model, space, inputs)[0] <= 1e-5
    mask = masks(space)[1]
    small = ms.prune(model, space, mask).eval()
    if name in ("transformers:gpt2", "torchvision:mnasnet0_5"):
        assert exports(model, small, inputs) == "yes"
    assert trains(small, inputs) == "yes"
    ms.save_pruned(tmp_path, small, space, mask)
    loaded = ms.load_pruned(tmp_path, model=build(name, seed=1))
    assert gap(outputs_of(small, inputs), outputs_of(loaded, inputs)) <= 1e-6
    doubles = map_tensors(lambda each: each.double() if each.is_floating_point() else each, inputs)
    assert difference(model.double(), space, doubles)[0] <= 1e-9


def test_build_gives_equal_weights_twice_and_small_has_ten_networks():
    assert len(SMALL) == 10
    with torch.random.fork_rng():
        torch.manual_seed(3)
        one, other = build("resnet20"), build("resnet20")
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)
