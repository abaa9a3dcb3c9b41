"""Annealing as in the thesis: its schedules, acceptance, running mean and tabu memory."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import ThesisAnnealing
from masksearch.searchers.moves.any_swap import Partition
from masksearch.searchers.thesis_annealing import TabuMemory
from masksearch.testing.planted_problem import SPACE, Planted, drive, problem


class TestThesis:
    """Numbers from the thesis, and its rules derived again from its text."""

    @pytest.mark.parametrize(("variant", "levels"), [("mlp", 1450), ("cnn", 1000)])
    def test_schedules_and_number_of_scorings_equal_the_thesis(self, variant, levels):
        # By its text: h0 = ones, x .99 a level, up to .75 of the last peak once below half of it; T x .999 or .995;
        # 1 or 2 scorings a level, x 1.005 up to 50 or 10.
        temperature, cooling, iterations, most = {
            "mlp": (0.006, 0.999, 1.0, 50),
            "cnn": (0.005, 0.995, 2.0, 10),
        }[variant]
        space = MaskSpace([("only", (30, 20), 600)])
        searcher = replace(getattr(ThesisAnnealing, variant)(), memory=1, tries=1)  # tabu memory plays no part
        searcher.start(problem(density=0.5, scorings=10**6, space=space))
        radius = peak = 300
        total = 0
        for _ in range(levels):
            metrics = searcher.metrics()
            assert metrics["radius"] == radius
            assert metrics["temperature"] == pytest.approx(temperature)
            for _ in range(int(iterations)):
                [proposal] = searcher.ask(5)
                assert len(proposal.dropped) == radius
                searcher.tell([proposal], [Score(0.5)])
                total += 1
            radius = max(1, int(0.99 * radius))
            if radius < 0.5 * peak:
                radius = peak = max(1, int(0.75 * peak))
            temperature *= cooling
            iterations = min(most, iterations * 1.005)
        assert searcher.ask() == []
        assert total == 42_706 if variant == "mlp" else abs(total - 8_200) < 50

    def test_mlp_variant_compares_scores_with_the_initial_mean_for_139_levels(self):
        """With a scoring per level and `a` of before that scoring, every score above 5 % is accepted."""
        searcher = ThesisAnnealing.mlp()
        searcher.start(problem(scorings=10**6))
        means = []
        for _ in range(145):
            means.append(100 * searcher.metrics()["mean_accepted"])
            [proposal] = searcher.ask()
            before = searcher.incumbent
            searcher.tell([proposal], [Score(0.4)])
            assert searcher.incumbent is proposal.mask is not before
        # from level 139 on, there are two scorings per level, and the first counts in the second
        assert means[:140] == pytest.approx([5.0] * 140)
        assert means[140] == pytest.approx((5 + 40) / 2)

    @pytest.mark.parametrize(("variant", "carry"), [("mlp", "before"), ("cnn", "after")])
    def test_running_mean_of_accepted_scores_equals_a_plain_loop(self, variant, carry):
        """`a` is the mean of the previous level's `a` and the scores accepted in this level."""
        searcher = getattr(ThesisAnnealing, variant)()
        searcher.iterations_start = 3
        searcher.start(problem(scorings=10**6))
        rng = np.random.default_rng(0)
        carried = 5.0
        for _ in range(40):  # three scorings a level for the first 57 levels
            accepted = [carried]
            for _ in range(3):
                before = float(np.mean(accepted))
                assert 100 * searcher.metrics()["mean_accepted"] == pytest.approx(before)
                [proposal] = searcher.ask()
                value = float(rng.uniform(0, 0.9))
                searcher.tell([proposal], [Score(value)])
                if value >= proposal.threshold:
                    accepted.append(100 * value)
                    assert searcher.metrics()["current"] == value
            carried = before if carry == "before" else float(np.mean(accepted))

    def test_acceptance_probability_is_exp_of_minus_loss_over_temperature(self):
        searcher = ThesisAnnealing(10**6, 0.02, 1.0, 1, 1, memory=1, tries=1, known="equal", carry="before")
        searcher.start(problem(scorings=10**6))
        thresholds = []
        for _ in range(4000):
            [proposal] = searcher.ask()
            thresholds.append(proposal.threshold)
            searcher.tell([proposal], [Score(-1.0)])
        for loss in (0.005, 0.02, 0.04):  # accuracy 5 % - loss
            assert np.mean(np.array(thresholds) <= 0.05 - loss) == pytest.approx(math.exp(-loss / 0.02), abs=0.03)
        assert max(thresholds) <= 0.05  # scores above `a` are always accepted

    @pytest.mark.parametrize("known", ["within_radius", "equal"])
    def test_remembered_masks_are_redrawn_while_new_masks_exist(self, known):
        space = MaskSpace([("only", (1, 7), 7)])
        searcher = ThesisAnnealing(10**6, 0.01, 1.0, 1, 1, memory=5, tries=200, known=known, carry="before")
        searcher.start(problem(density=3 / 7, scorings=10**6, space=space))
        searcher.state.radius = searcher.state.peak = 2
        remembered: list[Mask] = []
        rng, unknown = np.random.default_rng(0), 0
        everything = [Mask.of_units(space, np.array(units)) for units in itertools.combinations(range(7), 3)]
        for _ in range(60):
            searcher.state.radius = 2
            reach = 2 if known == "within_radius" else 1

            def is_known(mask, reach=reach):
                return any(mask.hamming(other) < reach for other in remembered[-5:])

            current = searcher.incumbent
            possible = [m for m in everything if m.hamming(current) == 4 and not is_known(m)]
            [proposal] = searcher.ask()
            if possible:
                assert not is_known(proposal.mask)
                unknown += 1
            remembered.append(proposal.mask)
            searcher.tell([proposal], [Score(float(rng.choice([-1.0, 1.0])))])
        assert unknown > 20

    def test_last_try_is_proposed_even_if_remembered(self):
        space = MaskSpace([("only", (1, 2), 2)])
        searcher = ThesisAnnealing.cnn()
        searcher.start(problem(density=0.5, scorings=100, space=space))
        proposals = drive(searcher, Planted(0.5, space=space), 20)  # two masks, both soon remembered
        assert len(proposals) == 20
        assert len({proposal.mask for proposal in proposals}) == 2


def test_tabu_distances_equal_brute_force():
    rng = np.random.default_rng(0)
    mask = SPACE.random(0.4, generator=torch.Generator().manual_seed(0))
    partition, memory, remembered = Partition(mask), TabuMemory.of_size(6, SPACE.n_units), []
    for _ in range(60):
        move = partition.draw(int(rng.integers(1, 6)), rng)
        moved = mask.moved(move)
        assert memory.distances_after(move).tolist() == [moved.hamming(other) for other in _ring(remembered, 6)]
        memory.remember(moved, len(move))
        remembered.append(moved)
        if rng.random() < 0.5:
            partition.make(move)
            memory.follow(move)
            mask = moved


def _ring(masks, size):
    """The last `size` masks, in the places of a ring."""
    places: dict[int, Mask] = {}
    for i, mask in enumerate(masks):
        places[i % size] = mask
    return [places[i] for i in sorted(places)]
