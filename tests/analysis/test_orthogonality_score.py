"""The orthogonality score against the thesis' figures and by hand."""

import pytest
import torch
from torch import nn

from masksearch.analysis.similarity_and_orthogonality import orthogonality_score
from masksearch.core.mask import Mask
from masksearch.spaces import weight_space


def test_orthogonality_score_matches_the_published_values_of_the_thesis():
    """Full .0132, with a random mask .0141, at torch's own initial weights; which random mask is not published."""
    torch.manual_seed(0)
    layers = [nn.Linear(a, b, bias=False) for a, b in ((784, 300), (300, 100), (100, 10))]
    model = nn.Sequential(*layers)
    space = weight_space(model)
    mask = space.random(0.3, generator=torch.Generator().manual_seed(0))
    assert orthogonality_score(model, space) == pytest.approx(0.0132, abs=1e-4)
    assert orthogonality_score(model, space, mask) == pytest.approx(0.0141, abs=4e-4)


def test_orthogonality_score_matches_values_computed_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, (1, 2), bias=False))
    space = weight_space(model)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [4.0, 1.0]]).view(2, 1, 1, 2))
    before = model[0].weight.clone()
    assert orthogonality_score(model, space) == pytest.approx((24**2 + 4**2 + 4**2 + 0**2) / 4)
    without_four = Mask(space, torch.tensor([True, True, False, True]))
    assert orthogonality_score(model, space, without_four) == pytest.approx(8**2 / 4)
    assert torch.equal(model[0].weight, before)


def test_orthogonality_score_of_orthonormal_columns_is_zero():
    model = nn.Sequential(nn.Linear(4, 9))
    nn.init.orthogonal_(model[0].weight)
    assert orthogonality_score(model, weight_space(model)) == pytest.approx(0, abs=1e-12)
