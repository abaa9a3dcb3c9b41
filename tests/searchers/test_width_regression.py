"""The regression of scores on log widths: its proposals, and predictions that are robust to noise in the scores."""

import numpy as np
import torch

from masksearch.core.problem_and_trials import Budget, Problem, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import WidthRegression

SPACE = MaskSpace([(name, (16, 4), 16) for name in "abcdef"])
WEIGHTS = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.5])
SALIENCY = {"l1": torch.rand(SPACE.n_units, generator=torch.Generator().manual_seed(0))}


def value(mask):
    return float(WEIGHTS @ np.log(list(mask.kept_per_layer().values())))


def searched(scorings, noise, seed=0, **settings):
    """The searcher after ``scorings`` noisy scores, its proposals and their noisy scores."""
    rng, searcher = np.random.default_rng(seed), WidthRegression(candidates=100, **settings)
    searcher.start(Problem(SPACE, 0.5, Budget(scorings), seed, saliencies=SALIENCY, on_empty="keep_one"))
    masks, scores = [], []
    for _ in range(scorings):
        [proposal] = searcher.ask()
        masks.append(proposal.mask)
        scores.append(value(proposal.mask) + noise * rng.normal())
        searcher.tell([proposal], [Score(scores[-1])])
    return searcher, masks, scores


def test_width_regression_predicts_the_best_candidate_without_noise():
    searcher, _, scores = searched(20, 0.0, penalty=1e-6)
    assert value(searcher.predicted_best) >= max(scores)
    assert next(iter(searcher.predicted_best.kept_per_layer().values())) > 8


def test_predicted_best_beats_the_best_scored_mask_under_noise():
    predicted, seen = [], []
    for seed in range(20):
        searcher, masks, scores = searched(12, 0.3, seed)
        predicted.append(value(searcher.predicted_best))
        seen.append(value(masks[int(np.argmax(scores))]))
    assert np.mean(predicted) > np.mean(seen) + 0.1


def test_proposals_of_width_regression_differ_and_have_the_density():
    _, masks, _ = searched(60, 0.1)
    assert len({mask.hash for mask in masks}) == 60
    assert all(mask.n_kept == 48 for mask in masks)


def test_scored_widths_vary_more_than_the_candidates():
    searcher, masks, _ = searched(10, 0.1)
    every = Problem(SPACE, 0.5, Budget(10), 0, saliencies=SALIENCY, on_empty="keep_one")
    random = [every.random_mask(torch.Generator().manual_seed(i)) for i in range(50)]

    def spread(masks):
        return np.mean([np.std(np.log(list(mask.kept_per_layer().values()))) for mask in masks])

    assert spread(masks) > 2 * spread(random)
    assert spread([searcher.predicted_best]) < spread(masks)


def test_width_regression_without_scores_has_no_predicted_best():
    searcher = WidthRegression()
    searcher.start(Problem(SPACE, 0.5, Budget(5), 0, saliencies=SALIENCY))
    assert searcher.predicted_best is None
