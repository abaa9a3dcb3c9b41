"""``Amount``: a density with scope, hold and on_empty in a single value, and the functions that accept it."""

import pytest
import torch

import masksearch as ms
from masksearch.core.density_allocation import Amount
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError

SPACE = MaskSpace([("first", (5, 8), 40), ("second", (4, 5), 20)])
SALIENCY = torch.rand(60, generator=torch.Generator().manual_seed(0))
PER_LAYER = {"first": 0.25, "second": 0.5}


def generator():
    return torch.Generator().manual_seed(3)


def test_amount_equals_a_density_with_scope_and_on_empty():
    for companions in ({}, {"scope": "erk"}, {"scope": "layerwise", "on_empty": "keep_one"}):
        amount = Amount(0.1, **companions)
        assert SPACE.top_k(SALIENCY, amount) == SPACE.top_k(SALIENCY, 0.1, **companions)
        assert SPACE.random(amount, generator=generator()) == SPACE.random(0.1, generator=generator(), **companions)
        assert SPACE.count(amount) == 6
    assert SPACE.quotas(Amount(0.1, scope="erk")) == SPACE.quotas(0.1, "erk")
    assert SPACE.quotas(Amount(PER_LAYER)) == SPACE.quotas(PER_LAYER) == [10, 10]
    assert SPACE.fits(torch.tensor([4, 2]).numpy(), Amount(0.1))


def test_sparsity_gives_the_mask_of_density_1_minus_sparsity():
    for sparsity in (0.0, 0.5, 0.7, 0.9, 0.95):
        density = round(1 - sparsity, 12)
        mask = SPACE.top_k(SALIENCY, sparsity=sparsity, on_empty="allow")
        assert mask == SPACE.top_k(SALIENCY, density, on_empty="allow")
        assert mask == SPACE.from_saliency(SALIENCY, sparsity=sparsity, on_empty="allow")
        assert mask.n_kept == round(density * 60)
    by_layer = SPACE.random(sparsity={"first": 0.75, "second": 0.5}, generator=generator())
    assert by_layer == SPACE.random(PER_LAYER, generator=generator())


BAD = {
    "neither": ({}, "density: neither density nor sparsity is given"),
    "both": ({"density": 0.1, "sparsity": 0.9}, "sparsity: 0.9 beside a density"),
    "both, one layer's": ({"density": Amount(0.1), "sparsity": 0.9}, "sparsity: 0.9 beside a density"),
    "scope beside": ({"density": Amount(0.1), "scope": "erk"}, "scope: 'erk' beside an Amount"),
    "hold beside": ({"density": Amount(0.1), "hold": "units"}, "hold: 'units' beside an Amount"),
    "on_empty beside": ({"density": Amount(0.1), "on_empty": "raise"}, "on_empty: 'raise' beside an Amount"),
    "all removed": ({"sparsity": 1.0}, r"sparsity: 1.0; it must lie in \[0, 1\)"),
    "negative": ({"sparsity": -0.1}, "sparsity: -0.1"),
    "of a layer": ({"sparsity": {"first": 1.5, "second": 0.5}}, "sparsity of layer 'first': 1.5"),
    "text": ({"sparsity": "0.9"}, "sparsity: '0.9'"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_conflicting_densities_and_sparsities_raise_input_error(arguments, message):
    for function in (lambda **given: SPACE.top_k(SALIENCY, **given), SPACE.random):
        with pytest.raises(InputError, match=message) as caught:
            function(**arguments)
        assert "\n" not in str(caught.value)


def test_wrong_fields_of_amount_raise_input_error():
    for arguments, message in (
        ({"density": 0.0}, "density: 0.0; it must lie in"),
        ({"density": {"first": 1.5}}, "density of layer 'first': 1.5"),
        ({"density": 0.1, "scope": "layer_wise"}, "did you mean 'layerwise'"),
        ({"density": 0.1, "hold": "mac"}, "unknown hold 'mac'"),
        ({"density": 0.1, "on_empty": "keepone"}, "did you mean 'keep_one'"),
        ({"density": PER_LAYER, "hold": "macs"}, "one per layer can't hold macs"),
    ):
        with pytest.raises(InputError, match=message):
            Amount(**arguments)


def test_amount_distinguishes_single_and_layer_densities():
    single, per_layer, erk = Amount(0.1), Amount(PER_LAYER), Amount(0.2, scope="erk")
    assert (single.per_layer, per_layer.per_layer) == (None, PER_LAYER)
    assert [amount.fixes_layers for amount in (single, per_layer, erk)] == [False, True, True]
    assert single.single("one density is needed") == 0.1
    with pytest.raises(InputError, match="density: one per layer; one density is needed"):
        per_layer.single("one density is needed")
    assert erk.at(0.5) == Amount(0.5, scope="erk")
    assert single.across("erk") == Amount(0.1, scope="erk")
    assert [Amount(0.1, on_empty=policy).lenient().on_empty for policy in ("raise", "allow", "keep_one")] == [
        *("keep_one", "allow", "keep_one")
    ]
    assert erk.by_layer(SPACE).quotas(SPACE) == erk.quotas(SPACE)
    assert single.by_layer(SPACE) is single
    with pytest.raises(InputError, match="scope: 'erk' with hold 'macs'"):
        Amount(0.1, hold="macs", scope="erk").by_layer(SPACE)


def test_rounds_prune_equal_shares_and_end_at_the_amount():
    amount = Amount(0.25, hold="macs", on_empty="keep_one")
    assert amount.in_rounds(2) == [amount.at(0.5), amount]
    assert amount.in_rounds(1) == [amount]
    half, whole = Amount(PER_LAYER).in_rounds(2)
    assert whole == Amount(PER_LAYER)
    assert half.density == pytest.approx({name: density**0.5 for name, density in PER_LAYER.items()})


def test_amount_copies_the_given_mapping():
    densities = dict(PER_LAYER)
    amount = Amount(densities)
    densities["first"] = 1.0
    assert amount.density == PER_LAYER


def test_problem_makes_an_amount_of_density_hold_and_on_empty():
    problem = ms.Problem(SPACE, 0.1, 20, 0, hold="units", on_empty="allow")
    assert problem.amount == Amount(0.1, on_empty="allow")
    assert (problem.density, problem.hold, problem.on_empty) == (0.1, "units", "allow")
    assert ms.Problem(SPACE, Amount(0.1, on_empty="allow"), 20, 0) == problem
    with pytest.raises(InputError, match="on_empty: 'allow' beside an Amount"):
        ms.Problem(SPACE, Amount(0.1), 20, 0, on_empty="allow")
    erk = ms.Problem(SPACE, Amount(0.3, scope="erk"), 20, 0)
    assert erk.space.quotas(erk.amount) == SPACE.quotas(0.3, "erk")


class Sum:
    """Scores a mask by the sum of what it keeps of the saliency."""

    def score(self, proposals):
        return [ms.Score(float(SALIENCY[proposal.mask.bits].sum())) for proposal in proposals]


def test_search_accepts_amounts_and_sparsities():
    def best(*arguments, **more):
        history = ms.search(SPACE, "annealing", Sum(), *arguments, budget=40, seed=1, **more)
        return [trial.mask_hash for trial in history]

    expected = best(0.3, on_empty="keep_one")
    assert best(Amount(0.3, on_empty="keep_one")) == expected
    assert best(sparsity=0.7, on_empty="keep_one") == expected
    assert best(Amount(0.3, scope="erk")) == best(SPACE.densities(SPACE.quotas(0.3, "erk")))
    for arguments, message in (
        ({}, "neither density nor sparsity"),
        ({"density": 0.3, "sparsity": 0.7}, "sparsity: 0.7 beside a density"),
        ({"density": Amount(0.3), "hold": "units"}, "hold: 'units' beside an Amount"),
    ):
        with pytest.raises(InputError, match=message):
            ms.search(SPACE, "annealing", Sum(), budget=40, **arguments)
    with pytest.raises(InputError, match="budget: neither scorings nor seconds"):
        ms.search(SPACE, "annealing", Sum(), 0.3)


def test_criteria_select_accepts_amounts_and_sparsities():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    space = ms.weight_space(model)
    expected = ms.criteria.select("magnitude", model, space, density=0.2, scope="erk")
    assert ms.criteria.select("magnitude", model, space, density=Amount(0.2, scope="erk")) == expected
    assert ms.criteria.select("magnitude", model, space, sparsity=0.8, scope="erk") == expected
    assert ms.criteria.select("magnitude", model, space) == ms.criteria.select("magnitude", model, space, density=0.1)
    with pytest.raises(InputError, match="scope: 'erk' beside an Amount"):
        ms.criteria.select("magnitude", model, space, density=Amount(0.2), scope="erk")


def test_problem_accepts_a_sparsity_in_place_of_a_density():
    assert ms.Problem(SPACE, sparsity=0.9, budget=5).amount == ms.Problem(SPACE, 0.1, 5).amount
    with pytest.raises(InputError, match="exactly one"):
        ms.Problem(SPACE, 0.1, 5, sparsity=0.9)
