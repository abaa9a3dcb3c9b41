"""Filter masks are scored on the pruned network; and the choice of a scoring path by space and network."""

import math

import pytest
import torch
import torch.nn.functional as F
from path_cases import generator, make_conv_net, make_mlp, make_split

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal
from masksearch.scoring import Scorer
from masksearch.scoring.paths.compact import CompactPath
from masksearch.scoring.paths.in_place import InPlacePath
from masksearch.scoring.paths.incremental import IncrementalPath
from masksearch.scoring.paths.network_path import ReferencePath
from masksearch.spaces import filter_space, weight_space


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("density", [0.9, 0.5, 0.2])
def test_logits_of_filter_masks_on_compact_and_reference_paths_are_equal(density, dtype, tolerance):
    model, split = make_conv_net(dtype), make_split(30, dtype, (1, 6, 6))
    space = filter_space(model, split.images[:1])
    compact, reference = CompactPath(model, space, split.images, 8), ReferencePath(model, space, split.images, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []
    for seed in range(4):
        proposal = Proposal.of(space.random(density, generator=generator(seed), on_empty="keep_one"))
        seen.append(compact.logits(proposal))
        assert (seen[-1] - reference.logits(proposal)).abs().max() <= tolerance * seen[-1].std()
    assert len({logits.sum().item() for logits in seen}) > 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_filter_mask_that_empties_a_layer_is_scored_on_the_masked_network():
    model, split = make_conv_net(torch.float32), make_split(30, torch.float32, (1, 6, 6))
    space = filter_space(model, split.images[:1])
    bits = torch.ones(space.n_units, dtype=torch.bool)
    inner = next(layer for layer in space.layers if layer.name == "inner")
    bits[inner.slice] = False
    mask = Mask(space, bits)
    fast, plain = (Scorer(model, space, split, "loss", fast=fast) for fast in (True, False))
    assert fast(mask).value == plain(mask).value
    assert math.isfinite(fast(mask).value)
    x = F.relu(model.norm1(model.stem(split.images)))  # the branch is only its last BatchNorm's constant
    y = x + model.norm3(torch.zeros_like(x))
    wanted = -F.cross_entropy(model.head(model.pool(F.relu(y)).flatten(1)), split.labels).item()
    assert fast(mask).value == pytest.approx(wanted, rel=1e-5)


def test_scoring_path_depends_on_space_and_network():
    split = make_split(30, torch.float32, (1, 6, 6))
    conv = make_conv_net(torch.float32)
    filters, weights = filter_space(conv, split.images[:1]), weight_space(conv)
    mlp = make_mlp(dtype=torch.float32, sizes=(36, 8, 5))
    chosen = [
        (type(Scorer(model, space, split, fast=fast)._path), fast)
        for model, space in ((conv, filters), (conv, weights), (mlp, weight_space(mlp)))
        for fast in (True, False)
    ]
    fast = [path for path, is_fast in chosen if is_fast]
    assert fast == [CompactPath, InPlacePath, IncrementalPath]
    assert {path for path, is_fast in chosen if not is_fast} == {ReferencePath}
