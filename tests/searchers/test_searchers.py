"""Every searcher keeps the contract."""

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
def test_scores_may_come_late_where_a_searcher_says_so(name):
    assert contract.check_late_scores(SEARCHERS[name]) == (name in LATE)


def test_chains_take_scores_late():
    assert contract.check_late_scores(MAKES["annealing, chains"])


@every
def test_so_have_batches(make):
    contract.check_density(make, batch=5)
    contract.check_batches(make)


@every
def test_proposals_stay_within_the_radius(make):
    contract.check_radius(make)


@every
def test_arguments_and_the_global_random_state_stay_as_they_are(make):
    contract.check_arguments_unmodified(make)


@every
def test_same_seed_same_path_other_seed_other_path(make):
    contract.check_same_seed_same_path(make)


@every
@pytest.mark.parametrize("batch", [1, 4])
def test_a_state_from_a_file_continues_the_same_path(make, batch, tmp_path):
    assert contract.check_state_round_trip(make, tmp_path, batch)


@every
def test_a_state_is_a_snapshot(make):
    contract.check_state_is_a_snapshot(make)


@every
def test_nan_is_survived_and_never_stood_on(make):
    contract.check_nan(make)
    contract.check_recovers_from_an_unscorable_start(make)


@every
def test_bounds_are_no_values(make):
    contract.check_bounds(make)


@every
def test_warm_starts_are_honoured(make):
    assert contract.check_warm_start(make)


@every
@pytest.mark.parametrize("density", [2 / 60, 59 / 60, 1.0])
def test_searches_end_at_extreme_densities(make, density):
    contract.check_ends(make, density)


@every
@pytest.mark.parametrize("on_empty", ["allow", "keep_one", "raise"])
def test_layers_are_emptied_only_where_that_is_allowed(make, on_empty):
    emptied = contract.check_empty_layers(make, on_empty)
    if not make().refuses_problems:  # those choose the layers' densities, and may choose none of 0
        assert emptied == (on_empty == "allow" and getattr(make(), "scope", "global") == "global")


@every
def test_densities_per_layer_are_held_or_refused(make):
    assert contract.check_layer_densities(make) != (isinstance(make(), ThesisAnnealing) or make().refuses_problems)


@pytest.mark.parametrize("chains", [1, 3])
def test_densities_alone_keep_the_contract_too(chains, tmp_path):
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


def test_the_same_paths_in_a_fresh_process():
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
    """Checks that can't fail say nothing: searchers that break one promise each."""

    def test_a_searcher_that_forgets_its_generator_is_caught(self, tmp_path):
        class Forgetful(RandomSearch):
            def state_dict(self):
                return {**super().state_dict(), "generator": torch.Generator().get_state()}

        with pytest.raises(AssertionError):
            contract.check_state_round_trip(Forgetful, tmp_path)

    def test_a_searcher_that_believes_bounds_is_caught(self):
        class Gullible(Annealing):
            def tell(self, proposals, scores):
                super().tell(proposals, [Score(score.value) for score in scores])

        with pytest.raises(AssertionError):
            contract.check_bounds(Gullible)

    def test_a_searcher_with_the_wrong_density_is_caught(self):
        class Fat(RandomSearch):
            def ask(self, n=1):
                self.problem = problem(density=0.4)
                return super().ask(n)

        with pytest.raises(AssertionError):
            contract.check_density(Fat)

    def test_a_searcher_that_draws_from_the_global_state_is_caught(self):
        class Global(RandomSearch):
            def start(self, problem):
                super().start(problem)
                self.generator = torch.default_generator

        with pytest.raises(AssertionError, match="global random state"):
            contract.check_arguments_unmodified(Global)


def test_random_search_checks_its_scope_and_keeps_its_quotas():
    with pytest.raises(InputError, match="did you mean 'layerwise'"):
        RandomSearch("layerwis")
    searcher = RandomSearch("erk")
    searcher.start(problem())
    for proposal in drive(searcher, Planted(), 10):
        assert list(proposal.mask.kept_per_layer().values()) == SPACE.quotas(0.3, "erk")


class UniformSearch(Searcher):
    """A whole searcher: random masks, independent of all scores."""

    def ask(self, n=1):
        return [Proposal.of(self.problem.random_mask(self.generator)) for _ in range(n)]

    def tell(self, proposals, scores):
        pass


class TestSearcherOfTwoMethods:
    def test_it_keeps_the_contract(self):
        check_searcher(UniformSearch)
        assert not contract.check_warm_start(UniformSearch)  # it may ignore the start

    def test_its_generator_is_all_its_state(self, tmp_path):
        assert contract.check_state_round_trip(UniformSearch, tmp_path)

    def test_a_searcher_with_other_attributes_cannot_be_resumed_and_says_so(self, tmp_path):
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


def test_a_state_of_all_kinds_of_values_goes_through_a_file(tmp_path):
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
def test_a_state_of_another_version_is_refused_in_one_sentence(make):
    searcher = make()
    searcher.start(problem())
    old = {"rng": 1, "scalars": {}}
    for state in (old, {**searcher.state_dict(), "state": old}):
        with pytest.raises(InputError, match="can't be resumed; start it again in another folder") as caught:
            searcher.load_state_dict(state)
        assert "\n" not in str(caught.value)
