"""Annealing on an energy: it reaches low energies within the budget, and learns coefficients from scores."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import masksearch as ms
from masksearch.core.energy_protocol import removal_order
from masksearch.core.problem_and_trials import Problem, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import EnergyAnnealing
from masksearch.searching.subspace import Subspace, SubspaceEnergy
from masksearch.testing.planted_problem import SPACE, PlantedEnergy
from masksearch.utils.errors import InputError


class ByEnergy:
    """Scores are minus the energy with hidden coefficients."""

    def __init__(self, energy, coefficients=None):
        self.energy, self.coefficients = energy, coefficients

    def value(self, mask):
        return -self.energy.start(mask, self.coefficients).value

    def score(self, proposals):
        return [Score(self.value(proposal.mask)) for proposal in proposals]


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    inputs = torch.randn(256, 10)
    space = ms.filter_space(model, inputs[:1])
    return model, space, inputs, ms.repair_energy(model, space, inputs)


def greedy(energy, space, amount):
    saliency = torch.empty(space.n_units)
    saliency[torch.from_numpy(removal_order(energy, space, space.full()))] = torch.arange(space.n_units).float()
    return space.top_k(saliency, amount)


def search(energy, space, amount, scorer=None, budget=20, **settings):
    searcher = EnergyAnnealing(**{"moves": 4000, "states": 10, **settings})
    history = ms.search(space, searcher, scorer or ByEnergy(energy), amount, budget, energy=energy)
    return searcher, history


def test_energy_annealing_finds_the_best_of_all_masks():
    space = MaskSpace([("one", (3, 7), 7), ("two", (2, 5), 5)])
    energy = PlantedEnergy(space, seed=3)
    scorer = ByEnergy(energy)
    _, history = search(energy, space, 6 / 12, scorer)
    masks = (ms.Mask.of_units(space, np.array(units)) for units in itertools.combinations(range(12), 6))
    assert history.best_score == pytest.approx(max(scorer.value(mask) for mask in masks if not mask.empty_layers()))


@pytest.mark.parametrize("hold", ["units", "macs", "params"])
def test_masks_stay_within_the_budget_and_beat_greedy_removal(hold):
    _, space, _, energy = network()
    amount = ms.Amount(0.5, hold=hold, on_empty="keep_one")
    start = greedy(energy, space, amount)
    masks = []
    scorer = ByEnergy(energy)
    scorer.score = lambda proposals: [masks.append(p.mask) or Score(scorer.value(p.mask)) for p in proposals]
    searcher, history = search(energy, space, amount, scorer)
    assert all(space.share(mask, hold) <= 0.5 for mask in masks)
    assert not any(mask.empty_layers() for mask in masks)
    assert len({tuple(mask.kept_per_layer().values()) for mask in masks}) > 1
    assert len({mask.hash for mask in masks}) == 20
    assert masks[0] == start
    assert energy(history.best_mask) < energy(start)
    assert searcher.metrics()["correlation"] == pytest.approx(1)


def test_widths_do_not_change_with_layer_densities_or_without_exchanges():
    _, space, _, energy = network()
    per_layer = dict.fromkeys([layer.name for layer in space.layers], 0.5)
    for amount, exchanges in ((per_layer, 0.3), (ms.Amount(0.5, hold="macs"), 0.0)):
        searcher, history = search(energy, space, amount, exchanges=exchanges)
        widths = {tuple(trial.mask.kept_per_layer().values()) for trial in history.top}
        assert widths == {tuple(history.first.kept_per_layer().values())}
        assert searcher.metrics()["acceptance_rate"] > 0


def test_coefficients_are_learned_from_scores():
    energy = PlantedEnergy()
    hidden = np.array([4.0, 0.2])
    searcher, history = search(energy, SPACE, 0.3, ByEnergy(energy, hidden), budget=60, states=20)
    found = searcher.state.coefficients
    assert found[0] / found[1] > 8
    assert searcher.metrics()["correlation"] > 0.99
    plain, _ = search(energy, SPACE, 0.3, ByEnergy(energy), budget=20, states=20)
    assert history.best_score > ByEnergy(energy, hidden).value(plain.state.best.mask)


def test_scores_without_relation_to_the_energy_leave_coefficients_equal():
    energy = PlantedEnergy()
    searcher, _ = search(energy, SPACE, 0.3, type("Wrong", (), {"score": lambda _, ps: [Score(0.0) for _ in ps]})())
    assert (searcher.state.coefficients == 1).all()


def test_resumed_energy_annealing_equals_uninterrupted_search(tmp_path):
    _, space, _, energy = network()
    amount = ms.Amount(0.5, hold="macs", on_empty="keep_one")
    searcher = EnergyAnnealing(moves=2000, states=6)
    whole = ms.search(space, searcher, ByEnergy(energy), amount, 18, energy=energy)

    class StopError(Exception):
        pass

    def stop(trial, history, searcher):
        if trial.number == 8:
            raise StopError

    arguments = (ByEnergy(energy), amount, 18)
    with pytest.raises(StopError):
        ms.search(space, searcher, *arguments, energy=energy, folder=tmp_path, callbacks=[stop])
    resumed = ms.search(space, EnergyAnnealing(moves=2000, states=6), *arguments, energy=energy, folder=tmp_path)
    assert [trial.mask_hash for trial in resumed] == [trial.mask_hash for trial in whole]
    assert resumed.best_score == whole.best_score


def test_energy_of_a_subspace_equals_energy_of_the_lifted_masks():
    _, space, _, energy = network()
    alive = space.random(0.7, "layerwise", torch.Generator().manual_seed(0))
    left = Subspace(alive)
    rated = SubspaceEnergy(energy, left)
    mask = left.random(0.5, generator=torch.Generator().manual_seed(1))
    state = rated.start(mask)
    assert state.value == pytest.approx(energy(left.lifted(mask)))
    moves = np.array([[left.layers[1].start, 0], [left.layers[1].start + 1, 2]])
    changes = state.deltas(moves)
    assert state.singles(1)[:2] == pytest.approx(state.deltas(moves[:, :1]))
    before = state.value
    state.toggle(moves[1])
    assert state.value == pytest.approx(before + changes[1])
    assert state.value == pytest.approx(energy(left.lifted(ms.Mask(left, torch.from_numpy(state.bits)))))
    history = ms.search(left, EnergyAnnealing(moves=500, states=5), ByEnergy(rated), 0.5, 5, energy=rated)
    assert history.best_mask.n_kept == left.count(0.5)


@pytest.mark.parametrize("states", [1, 7])
def test_energy_annealing_evaluates_all_moves(states):
    class Counted(PlantedEnergy):
        moves = 0

        def start(self, mask, coefficients=None):
            state = super().start(mask, coefficients)
            deltas = state.deltas

            def counted(units):
                Counted.moves += len(units)
                return deltas(units)

            state.deltas = counted
            return state

    search(Counted(), SPACE, 0.3, ByEnergy(PlantedEnergy()), budget=states, states=states, moves=20_000, exchanges=0)
    assert Counted.moves > 20_000


def test_wrong_settings_or_a_missing_energy_raise_input_error():
    with pytest.raises(InputError, match="needs an energy of masks"):
        EnergyAnnealing().start(Problem(SPACE, 0.3, 10))
    with pytest.raises(InputError, match="accept_cold"):
        EnergyAnnealing(accept_cold=0.5)
    with pytest.raises(InputError, match="states 0"):
        EnergyAnnealing(states=0)
    with pytest.raises(InputError, match="exchanges 2"):
        EnergyAnnealing(exchanges=2)
