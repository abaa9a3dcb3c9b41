"""Objective ``reconstructed``: minus the divergence of the repaired network's outputs, in any order of masks."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import masksearch as ms
from masksearch.core.problem_and_trials import Proposal
from masksearch.data import Split
from masksearch.pruning.reconstruction import Reconstruction


def convolutional():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip
    for _ in range(20):
        model(torch.randn(64, 2, 6, 6))
    return model.eval()


def regression():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).eval()


def images(n):
    return torch.randn(n, 2, 6, 6)


@pytest.mark.parametrize("granularity", ["filter", "weight"])
def test_reconstructed_is_minus_the_divergence_of_the_repaired_network(granularity):
    model, calibration, inputs = convolutional(), images(256), images(100)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    space = ms.weight_space(model) if granularity == "weight" else ms.filter_space(model, inputs[:1])
    split = Split(inputs, torch.randint(0, 3, (100,)))
    scorer = ms.Scorer(model, space, split, "reconstructed", calibration=calibration)
    assert scorer.path_name == "reconstructed"
    generator = torch.Generator().manual_seed(1)
    masks = [space.random(density, "layerwise", generator, on_empty="keep_one") for density in (0.7, 0.5, 0.5, 0.3)]
    for mask in [*masks, *reversed(masks)]:
        with torch.no_grad():
            dense, repaired = model(inputs), ms.reconstruct(model, space, mask, calibration)(inputs)
            expected = -F.kl_div(repaired.log_softmax(1), dense.log_softmax(1), log_target=True, reduction="batchmean")
        assert scorer(mask).value == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    shared = ms.Scorer(model, space, split, "reconstructed", calibration=Reconstruction(model, space, calibration))
    assert shared(masks[0]).value == pytest.approx(scorer(masks[0]).value, rel=1e-6)


def test_reconstructed_on_a_share_of_the_examples_uses_the_same_repair():
    model, calibration, inputs = regression(), torch.randn(256, 10), torch.randn(64, 10)
    space = ms.filter_space(model, inputs[:1])
    targets = torch.randn(64, 2)
    mask = space.random(0.6, "layerwise", torch.Generator().manual_seed(0))
    whole, half = (
        ms.Scorer(
            model, space, Split(inputs[:n], targets[:n], task="regression"), "reconstructed", calibration=calibration
        )
        for n in (64, 32)
    )
    score = whole.score([replace(Proposal.of(mask), share=0.5)])[0]
    assert score.value == pytest.approx(half(mask).value, rel=1e-6)
    assert score.images == 32


def test_reconstructed_sequential_scores_the_network_repaired_layer_by_layer():
    model, calibration, inputs = convolutional(), images(256), images(100)
    space, split = ms.filter_space(model, inputs[:1]), Split(inputs, torch.randint(0, 3, (100,)))
    scorer = ms.Scorer(model, space, split, "reconstructed_sequential", calibration=calibration)
    mask = space.random(0.5, "layerwise", torch.Generator().manual_seed(1))
    with torch.no_grad():
        repaired = ms.reconstruct(model, space, mask, calibration, sequential=True)(inputs)
        expected = -F.kl_div(
            repaired.log_softmax(1), model(inputs).log_softmax(1), log_target=True, reduction="batchmean"
        )
    assert scorer(mask).value == pytest.approx(float(expected), rel=1e-3)
    assert scorer(mask).value != pytest.approx(
        ms.Scorer(model, space, split, "reconstructed", calibration=calibration)(mask).value
    )
    shared = Reconstruction(model, space, calibration)
    again = ms.Scorer(model, space, split, "reconstructed_sequential", calibration=shared)
    assert again(mask).value == pytest.approx(scorer(mask).value, rel=1e-3)


def test_reconstructed_is_zero_for_the_full_mask_and_above_the_masked_distance():
    model, calibration, inputs = regression(), torch.randn(256, 10), torch.randn(64, 10)
    space = ms.filter_space(model, inputs[:1])
    split = Split(inputs, torch.randn(64, 2), task="regression")
    scorer = ms.Scorer(model, space, split, "reconstructed", calibration=calibration)
    masked = ms.Scorer(model, space, split, "distance")
    assert scorer(space.full()).value == pytest.approx(0, abs=1e-6)
    mask = space.random(0.6, "layerwise", torch.Generator().manual_seed(0))
    assert masked(mask).value < scorer(mask).value < 0


def test_reconstructed_scores_a_mask_that_empties_a_layer():
    model, inputs = convolutional(), images(64)
    space = ms.filter_space(model, inputs[:1])
    bits = torch.ones(space.n_units, dtype=torch.bool)
    bits[space.layers[0].slice] = False
    scorer = ms.Scorer(model, space, Split(inputs, torch.randint(0, 3, (64,))), "reconstructed", calibration=inputs)
    assert scorer(ms.Mask(space, bits)).value < 0


def test_missing_or_unused_calibration_raises_input_error():
    model, inputs = convolutional(), images(64)
    space, split = ms.filter_space(model, inputs[:1]), Split(inputs, torch.randint(0, 3, (64,)))
    with pytest.raises(ms.InputError, match=r"calibration: none; objective 'reconstructed' needs inputs"):
        ms.Scorer(model, space, split, "reconstructed")
    with pytest.raises(ms.InputError, match=r"calibration: given; objective 'loss' repairs no masks"):
        ms.Scorer(model, space, split, "loss", calibration=inputs)
