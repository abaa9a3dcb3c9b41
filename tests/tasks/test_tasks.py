"""Metrics by hand, distances against torch.distributions, losses of tokens and pixels that count."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from masksearch.tasks import TASKS, as_task
from masksearch.utils.errors import InputError

G = torch.Generator().manual_seed(0)


def metric(task, outputs, targets, parts=2):
    meter = next(iter(as_task(task).meters(main_only=True).values()))
    for chunk in zip(outputs.chunk(parts), targets.chunk(parts), strict=True):
        meter.update(*as_task(task).selected(*chunk))
    return float(meter.compute())


def test_kl_of_classes_and_labels():
    dense, masked = torch.randn(2, 6, 4, generator=G)
    expected = kl_divergence(Categorical(logits=dense), Categorical(logits=masked)).mean()
    assert torch.allclose(TASKS["classification"].distance_of(dense, masked), expected, atol=1e-6)
    expected = kl_divergence(Bernoulli(logits=dense), Bernoulli(logits=masked)).sum(1).mean()
    assert torch.allclose(TASKS["multilabel"].distance_of(dense, masked), expected, atol=1e-6)


def test_padding_counts_in_no_distance():
    dense, masked = torch.randn(2, 3, 5, 7, generator=G)
    tokens = torch.randint(7, (3, 5), generator=G)
    tokens[:, 3:] = -100
    each = kl_divergence(Categorical(logits=dense), Categorical(logits=masked))
    expected = each[:, :2].mean()  # positions 0 and 1 have a next token
    assert torch.allclose(TASKS["language_model"].distance_of(dense, masked, tokens), expected, atol=1e-6)
    assert TASKS["language_model"].n_parts(tokens, 3) == 6


def test_metrics_by_hand():
    logits = torch.tensor([[2.0, 0, 1], [0, 3, 0], [0, 0, 1], [1, 0, 0]])
    assert metric("classification", logits, torch.tensor([0, 1, 1, 2])) == 0.5
    y, p = torch.tensor([1.0, 2, 3, 6]), torch.tensor([1.0, 2, 4, 5])
    assert metric("regression", p, y) == pytest.approx(1 - 2 / 14)
    # predicted 1, 1, 0, 1 for 1, 0, 1, 1: two hits, one false alarm, one miss
    assert metric("binary", torch.tensor([1.0, 1, -1, 1]), torch.tensor([1, 0, 1, 1])) == pytest.approx(2 / 3)
    maps = torch.tensor([[[0, 0], [1, 1]]]).repeat(2, 1, 1)
    outputs = torch.nn.functional.one_hot(torch.tensor([[[0, 1], [1, 1]]]).repeat(2, 1, 1), 2).movedim(-1, 1).float()
    assert metric("segmentation", outputs, maps) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_perplexity_of_a_uniform_model_is_the_vocabulary():
    assert metric("language_model", torch.zeros(4, 5, 9), torch.zeros(4, 5, dtype=torch.long)) == pytest.approx(9)
    assert TASKS["language_model"].score(9.0) == -9
    assert math.isclose(
        float(TASKS["language_model"].loss_of(torch.zeros(4, 5, 9), torch.ones(4, 5).long())), math.log(9), rel_tol=1e-6
    )


def test_targets_that_do_not_fit():
    with pytest.raises(InputError, match="regression needs floating-point targets"):
        TASKS["regression"].check(torch.arange(3), "targets")
    with pytest.raises(InputError, match="0 and 1"):
        TASKS["multilabel"].check(torch.full((3, 2), 2.0), "targets")
