"""Draws of masks from scores: gradients against derivations by hand, exact densities."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from supermask_cases import F64, METHODS, generator, make_mlp, ones_of, scored

from masksearch.spaces import weight_space
from masksearch.supermasks import draw_edge_popup, draw_zhou, top


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_edge_popup_gradients_equal_backpropagation_by_hand(power):
    """Ramanujan et al. 2020, equation 4: for kept and pruned weights, times the sign of s."""
    model = make_mlp(5, 7, 3, dtype=F64)
    space = weight_space(model)
    learner = scored("edge_popup", model, space, 0.4, power=power)
    images, labels = torch.randn(6, 5, generator=generator(1), dtype=F64), torch.tensor([0, 1, 2, 2, 1, 0])
    F.cross_entropy(learner(images), labels).backward()

    weights = [p.detach() for p in model.parameters()]
    effective, factors = [], []
    for weight, score in zip(weights, learner.scores, strict=True):
        kept = round(0.4 * weight.numel())
        keep = score.abs() >= score.abs().flatten().sort(descending=True).values[kept - 1]
        factors.append((weight.numel() / kept) ** power)
        effective.append(weight * keep * factors[-1])
    before = images @ effective[0].T
    hidden = before.clamp(min=0)
    delta = (torch.softmax(hidden @ effective[1].T, 1) - F.one_hot(labels, 3)) / 6
    of_effective = [((delta @ effective[1]) * (before > 0)).T @ images, delta.T @ hidden]
    for score, grad, weight, factor in zip(learner.scores, of_effective, weights, factors, strict=True):
        wanted = grad * weight * factor * score.sign()
        assert torch.allclose(score.grad, wanted, rtol=1e-12, atol=1e-15)
        assert (wanted != 0).sum() > 0.4 * wanted.numel()  # pruned weights have gradients, too


def test_zhou_gradients_pass_through_the_sigmoid():
    scores = torch.randn(9, generator=generator(3), dtype=F64, requires_grad=True)
    back = torch.randn(9, generator=generator(4), dtype=F64)
    torch.manual_seed(5)
    noise = torch.rand(9, dtype=F64).logit()
    torch.manual_seed(5)
    mask = draw_zhou(scores, 4)
    (mask * back).sum().backward()
    noisy = scores.detach() + noise
    threshold = noisy.sort(descending=True).values[3]
    p = 1 / (1 + torch.exp(threshold - scores.detach()))
    assert torch.equal(mask.detach(), (noisy >= threshold).to(F64))
    assert torch.allclose(scores.grad, back * p * (1 - p), rtol=1e-12)


def test_zhou_draws_weights_with_bernoulli_frequencies():
    """Against sigmoid(s + c), with c by bisection so that the mean is the density."""
    scores = torch.randn(400, generator=generator(6), dtype=F64) * 2
    low, high = -20.0, 20.0
    for _ in range(60):
        c = (low + high) / 2
        low, high = (c, high) if torch.sigmoid(scores + c).mean() < 0.25 else (low, c)
    wanted = torch.sigmoid(scores + c)
    torch.manual_seed(0)
    draws = 4000
    seen = sum(draw_zhou(scores, 100) for _ in range(draws)) / draws
    assert (seen - wanted).abs().max() < 5 * 0.5 / draws**0.5
    assert (seen - wanted).abs().mean() < 0.01


def test_drawn_masks_are_0_or_1_and_pass_gradients_unchanged():
    scores = torch.randn(1001, generator=generator()).mul(1e-3).requires_grad_()
    mask = draw_edge_popup(scores, 333)
    assert set(mask.detach().unique().tolist()) == {0.0, 1.0}
    back = torch.randn(1001, generator=generator(1))
    mask.backward(back)
    assert torch.equal(scores.grad, back * scores.detach().sign())


# Densities


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([-1.5, -1.0, 0.0, 0.0, 1.0, 2.0]), min_size=1, max_size=30),
    share=st.floats(0, 1),
)
def test_top_marks_the_exact_number_of_highest_values_also_with_ties(values, share):
    kept = round(share * len(values))
    values = torch.tensor(values)
    mask = top(values, kept)
    assert int(mask.sum()) == kept
    assert torch.equal((values * mask).sum(), values.sort(descending=True).values[:kept].sum())
    assert set(mask.tolist()) <= {0.0, 1.0}


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(METHODS),
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    density=st.floats(0.05, 1),
    scope=st.sampled_from(["layerwise", "erk", "global"]),
    seed=st.integers(0, 3),
)
def test_drawn_masks_have_the_exact_density_in_every_scope(name, sizes, density, scope, seed):
    model = make_mlp(*sizes)
    space = weight_space(model)
    if round(density * space.n_units) < len(space.layers):
        return
    learner = scored(name, model, space, density, scope, seed=seed)
    torch.manual_seed(seed)
    for mode in (True, False):
        ones = ones_of(learner.train(mode).masks())
        assert sum(ones) == round(density * space.n_units)
        if scope != "global":
            assert ones == space.quotas(density, scope)
