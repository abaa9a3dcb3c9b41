"""Width levels of layers: the dynamic programme equals brute force, and its levels fit the budget."""

import itertools

import numpy as np
import pytest

from masksearch.core.width_levels import Levels, cheapest, filled


def brute_force(losses, cost, budget):
    choices = itertools.product(*(range(len(loss)) for loss in losses))
    return min(
        sum(loss[level] for loss, level in zip(losses, levels, strict=True))
        for levels in choices
        if cost(np.array(levels)) <= budget
    )


def total(losses, levels):
    return sum(loss[level] for loss, level in zip(losses, levels, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_cheapest_levels_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    losses = [rng.random(rng.integers(1, 6)) for _ in range(4)]
    costs = [rng.integers(-5, 30, len(loss)).astype(float) for loss in losses]
    budget = sum(cost.min() for cost in costs) + rng.integers(0, 60)

    def cost(levels):
        return sum(one[level] for one, level in zip(costs, levels, strict=True))

    found = cheapest(losses, costs, budget)
    assert cost(found) <= budget
    assert total(losses, found) == pytest.approx(brute_force(losses, cost, budget))


def test_cheapest_levels_with_buckets_never_exceed_the_budget():
    rng = np.random.default_rng(0)
    losses = [np.sort(rng.random(8))[::-1] for _ in range(5)]
    costs = [np.sort(rng.random(8)) for _ in range(5)]
    found = cheapest(losses, costs, 2.0, buckets=500)
    assert sum(cost[level] for cost, level in zip(costs, found, strict=True)) <= 2.0
    exact = cheapest(losses, costs, 2.0, buckets=100_000)
    assert total(losses, found) == pytest.approx(total(losses, exact), abs=0.05)
    assert cheapest(losses, costs, -1.0) is None


@pytest.mark.parametrize("seed", range(10))
def test_best_levels_of_costs_with_products_are_near_brute_force(seed):
    """A chain of layers: MACs are the sum of products of neighbouring widths."""
    rng = np.random.default_rng(seed)
    kept = [np.arange(1, 9)] * 4
    losses = [np.sort(rng.random(8))[::-1] for _ in kept]

    def cost(numbers):
        widths = np.array([3, *numbers, 10])
        return float(widths[1:] @ widths[:-1])

    levels = Levels(kept, cost, 150.0)
    found = levels.best(losses)
    assert levels.fits(found)
    best = brute_force(losses, lambda choice: cost(choice + 1), 150.0)
    assert best <= total(losses, found) + 1e-12
    assert total(losses, found) <= best + 0.25
    for layer in range(4):
        more = found.copy()
        more[layer] += 1
        assert more[layer] == 8 or not levels.fits(more)


def test_even_levels_are_the_largest_equal_levels_within_the_budget():
    levels = Levels([np.arange(11), np.arange(0, 101, 10)], lambda numbers: float(numbers.sum()), 55.0)
    assert levels.even().tolist() == [5, 5]


def test_filled_adds_units_to_layers_in_the_given_order():
    kept = filled(np.array([1, 1, 1]), [2, 0], np.array([10, 10, 4]), lambda kept: kept.sum() <= 9)
    assert kept.tolist() == [4, 1, 4]
