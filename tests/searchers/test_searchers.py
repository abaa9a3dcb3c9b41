"""Every searcher keeps the contract: densities, radii, states, NaN scores, bounds, starts and empty layers."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.searchers import SEARCHERS, Annealing, EnergyAnnealing, RandomSearch, Searcher, ThesisAnnealing
from masksearch.searchers.state import load_state, saved_state
from masksearch.testing import check_searcher
from masksearch.testing import check_searchers as contract
from masksearch.testing.planted_problem import SPACE, Planted, drive, problem
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tree, save_tree

MAKES = {
    **{name: make for name, make in SEARCHERS.items() if not name.startswith("optuna_")},  # slow: test_optuna.py
    "energy_annealing": lambda: EnergyAnnealing(moves=2000),
    "energy_annealing, one walk": lambda: EnergyAnnealing(moves=2000, exchanges=0.5, replicas=1),
    "annealing, large radius": lambda: Annealing(radius_start=1.0, radius_end=0.2, probe_every=3),
    "annealing, within layers": lambda: Annealing(within=0.7, radius_start=0.3),
    "annealing, chains": lambda: Annealing(chains=3, within=0.2),
    "random_search, erk": lambda: RandomSearch("erk"),
}
every = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)


@every
@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.9])
def test_every_proposal_has_the_exact_density(make, density):
    contract.check_density(make, density)


LATE = {"annealing", "random_search", "eda", "evolution"} | {
    f"optuna_{name}" for name in ("random", "tpe", "qmc", "nsga2", "nsga3")
}


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "optuna_gp"])  # a minute
def test_only_some_searchers_support_late_scores(name):
    assert contract.check_late_scores(SEARCHERS[name]) == (name in LATE)


def test_annealing_with_chains_supports_late_scores():
    assert contract.check_late_scores(MAKES["annealing, chains"])


@every
def test_batches_have_the_exact_density_and_at_most_n_proposals(make):
    contract.check_density(make, batch=5)
    contract.check_batches(make)


@every
def test_proposals_stay_within_the_radius(make):
    contract.check_radius(make)


@every
def test_searchers_leave_arguments_and_global_random_state_unchanged(make):
    contract.check_arguments_unmodified(make)


@every
def test_same_seed_gives_the_same_path_and_another_seed_another_path(make):
    contract.check_same_seed_same_path(make)


@every
@pytest.mark.parametrize("batch", [1, 4])
def test_searcher_restored_from_a_file_continues_the_same_path(make, batch, tmp_path):
    assert contract.check_state_round_trip(make, tmp_path, batch)


@every
def test_saved_state_does_not_change_while_the_search_continues(make):
    contract.check_state_is_a_snapshot(make)


@every
def test_search_goes_on_after_nan_scores_and_never_accepts_a_mask_with_nan(make):
    contract.check_nan(make)
    contract.check_recovers_from_an_unscorable_start(make)


@every
def test_searchers_reject_masks_with_upper_bounds_in_place_of_scores(make):
    contract.check_bounds(make)


@every
def test_search_begins_at_a_start_mask(make):
    assert contract.check_warm_start(make)


@every
@pytest.mark.parametrize("density", [2 / 60, 59 / 60, 1.0])
def test_proposals_keep_extreme_densities(make, density):
    contract.check_ends(make, density)


@every
@pytest.mark.parametrize("on_empty", ["allow", "keep_one", "raise"])
def test_layers_are_emptied_only_with_on_empty_allow(make, on_empty):
    emptied = contract.check_empty_layers(make, on_empty)
    if not make().refuses_problems:  # searchers of layer densities may choose no density of 0
        assert emptied == (on_empty == "allow" and getattr(make(), "scope", "global") == "global")


@every
def test_searchers_keep_layer_densities_or_refuse_them(make):
    assert contract.check_layer_densities(make) != (isinstance(make(), ThesisAnnealing) or make().refuses_problems)


@pytest.mark.parametrize("chains", [1, 3])
def test_annealing_of_densities_keeps_the_contract(chains, tmp_path):
    def make():
        return Annealing(densities=True, chains=chains)

    for density in (0.05, 0.3, 0.9):
        contract.check_density(make, density, batch=2)
    contract.check_radius(make)
    contract.check_batches(make)
    contract.check_arguments_unmodified(make)
    contract.check_same_seed_same_path(make)
    assert contract.check_state_round_trip(make, tmp_path, 4)
    contract.check_state_is_a_snapshot(make)
    contract.check_nan(make)
    contract.check_bounds(make)
    assert contract.check_warm_start(make)
    for density in (2 / 60, 1.0):
        contract.check_ends(make, density)
    assert not contract.check_empty_layers(make, "raise")
    assert not contract.check_layer_densities(make)


def test_paths_are_the_same_in_a_fresh_process():
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from masksearch.testing import check_searchers as c\nfrom masksearch.searchers import SEARCHERS\n"
        "print(json.dumps({name: c.check_same_seed_same_path(SEARCHERS[name]) for name in sys.argv[2:]}))"
    )
    names = [name for name in SEARCHERS if not name.startswith("optuna_")]
    command = [sys.executable, "-c", script, str(Path(__file__).parent), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    mine = {name: contract.check_same_seed_same_path(SEARCHERS[name]) for name in names}
    assert json.loads(done.stdout) == json.loads(json.dumps(mine))


class TestContract:
    """Every check of the contract fails for a searcher that breaks it."""

    def test_check_of_saved_states_fails_without_the_generator(self, tmp_path):
        class WithoutGenerator(RandomSearch):
            def state_dict(self):
                return {**super().state_dict(), "generator": torch.Generator().get_state()}

        with pytest.raises(AssertionError):
            contract.check_state_round_trip(WithoutGenerator, tmp_path)

    def test_check_of_bounds_fails_if_bounds_count_as_scores(self):
        class BoundsAsScores(Annealing):
            def tell(self, proposals, scores):
                super().tell(proposals, [Score(score.value) for score in scores])

        with pytest.raises(AssertionError):
            contract.check_bounds(BoundsAsScores)

    def test_check_of_density_fails_at_a_wrong_density(self):
        class TooDense(RandomSearch):
            def ask(self, n=1):
                self.problem = problem(density=0.4)
                return super().ask(n)

        with pytest.raises(AssertionError):
            contract.check_density(TooDense)

    def test_check_of_arguments_fails_if_the_global_random_state_changes(self):
        class GlobalRandomState(RandomSearch):
            def start(self, problem):
                super().start(problem)
                self.generator = torch.default_generator

        with pytest.raises(AssertionError, match="global random state"):
            contract.check_arguments_unmodified(GlobalRandomState)


def test_random_search_rejects_an_unknown_scope_and_keeps_erk_quotas():
    with pytest.raises(InputError, match="did you mean 'layerwise'"):
        RandomSearch("layerwis")
    searcher = RandomSearch("erk")
    searcher.start(problem())
    for proposal in drive(searcher, Planted(), 10):
        assert list(proposal.mask.kept_per_layer().values()) == SPACE.quotas(0.3, "erk")


class UniformSearch(Searcher):
    """A complete searcher of two methods: random masks, independent of all scores."""

    def ask(self, n=1):
        return [Proposal.of(self.problem.random_mask(self.generator)) for _ in range(n)]

    def tell(self, proposals, scores):
        pass


class TestSearcherOfTwoMethods:
    def test_searcher_of_ask_and_tell_keeps_the_contract(self):
        check_searcher(UniformSearch)
        assert not contract.check_warm_start(UniformSearch)  # it may ignore the start

    def test_searcher_of_ask_and_tell_resumes_from_its_generator(self, tmp_path):
        assert contract.check_state_round_trip(UniformSearch, tmp_path)

    def test_state_dict_of_a_searcher_with_attributes_outside_of_state_raises_input_error(self, tmp_path):
        class Counting(UniformSearch):
            def tell(self, proposals, scores):
                self.told = len(proposals)

        check_searcher(Counting)
        assert not contract.check_state_round_trip(Counting, tmp_path)
        searcher = Counting()
        searcher.start(problem())
        drive(searcher, Planted(), 1)
        with pytest.raises(InputError, match=r"Counting keeps told outside of self\.state"):
            searcher.state_dict()


@dataclass
class Nested:
    mask: Mask | None
    values: list[tuple[float, Mask]]


@dataclass
class OfAllKinds:
    number: float
    text: str | None
    flags: np.ndarray
    tensor: torch.Tensor
    rng: np.random.Generator
    generator: torch.Generator
    nested: list[Nested]


def test_state_with_every_type_of_value_round_trips_through_a_file(tmp_path):
    mask = SPACE.random(0.3, generator=torch.Generator().manual_seed(0))

    def fresh():
        nested = [Nested(mask, [(0.5, mask)]), Nested(None, [])]
        flags, tensor = np.arange(15).reshape(3, 5) % 2 == 0, torch.arange(3)
        return OfAllKinds(1.5, "a", flags, tensor, np.random.default_rng(0), torch.Generator().manual_seed(0), nested)

    state = fresh()
    state.rng.random(3)
    torch.rand(3, generator=state.generator)
    save_tree(tmp_path / "state", saved_state(state))
    draws = state.rng.random(), torch.rand(1, generator=state.generator).item()
    again = load_state(fresh(), load_tree(tmp_path / "state"), SPACE)
    assert (again.rng.random(), torch.rand(1, generator=again.generator).item()) == draws
    assert (again.number, again.text, again.nested) == (1.5, "a", state.nested)
    assert again.flags.dtype == bool
    assert np.array_equal(again.flags, state.flags)
    assert torch.equal(again.tensor, state.tensor)


@pytest.mark.parametrize("make", [Annealing, RandomSearch, UniformSearch])
def test_state_of_another_version_raises_input_error(make):
    searcher = make()
    searcher.start(problem())
    old = {"rng": 1, "scalars": {}}
    for state in (old, {**searcher.state_dict(), "state": old}):
        with pytest.raises(InputError, match="can't be resumed; start it again in another folder") as caught:
            searcher.load_state_dict(state)
        assert "\n" not in str(caught.value)
