"""Planted problems: the planted mask is the optimum, moves have the score of their masks, tables and curves."""

import importlib
import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Budget, Problem, Proposal
from masksearch.core.space import MaskSpace
from masksearch.searchers import Annealing, Evolution, RandomSearch
from masksearch.searchers.moves.any_swap import Partition
from masksearch.searching.search_function import search
from masksearch.utils.errors import InputError

sys.path.insert(0, str(Path(__file__).parents[2]))
problems = importlib.import_module("benchmarks.problems")
curves = importlib.import_module("benchmarks.planted_curves")

every = pytest.mark.parametrize("name", problems.PROBLEMS)


def planted(name, space, density, seed=0):
    return problems.PROBLEMS[name](space, density, np.random.default_rng(seed))


def value(scorer, mask):
    return scorer.score([Proposal.of(mask)])[0].value


@every
@pytest.mark.parametrize("kept", [4, 8])
def test_planted_mask_is_the_unique_optimum(name, kept):
    space = MaskSpace([("a", (1, 7), 7), ("b", (1, 4), 4)])
    scorer = planted(name, space, kept / 11)
    everything = [Mask.of_units(space, np.array(units)) for units in itertools.combinations(range(11), kept)]
    best = max(everything, key=lambda mask: value(scorer, mask))
    assert value(scorer, best) == 1.0
    assert sorted(scorer.planted) == best.bits.nonzero().flatten().tolist()
    assert [value(scorer, mask) for mask in everything].count(1.0) == 1


@every
def test_units_outside_of_blocks_have_no_value(name):
    space = problems.space_of(100)
    scorer = planted(name, space, 0.11)
    rest = np.setdiff1d(np.arange(100), scorer.planted)[: 11 - len(scorer.planted)]
    assert value(scorer, Mask.of_units(space, np.concatenate([scorer.planted, rest]))) == 1.0


@every
def test_move_has_the_score_of_its_mask(name):
    space = problems.space_of(300)
    walking, afresh = planted(name, space, 0.3), planted(name, space, 0.3)
    rng = np.random.default_rng(1)
    mask = space.random(0.3, generator=torch.Generator().manual_seed(0))
    partition = Partition(mask)
    for _ in range(200):
        move = partition.draw(int(rng.integers(1, 12)), rng)
        proposal = Proposal.moving(mask, move)
        expected = value(afresh, Mask(space, proposal.mask.bits))
        assert walking.score([proposal])[0].value == expected
        if rng.random() < 0.4:
            partition.make(move)
            mask = proposal.mask


def test_deceptive_problem_lowers_the_score_towards_its_optimum():
    """Dropping a planted unit pays until the last of a block of four is there."""
    space = problems.space_of(40)
    scorer = planted("deceptive", space, 0.1)  # a single block
    others = np.setdiff1d(np.arange(40), scorer.planted)
    worth = [value(scorer, Mask.of_units(space, np.append(scorer.planted[:n], others[: 4 - n]))) for n in range(5)]
    assert worth == [0.75, 0.5, 0.25, 0.0, 1.0]


def test_coupled_units_have_value_only_together():
    space = problems.space_of(40)
    scorer = planted("coupled", space, 0.1)  # two pairs
    pairs, others = scorer.planted.reshape(2, 2), np.setdiff1d(np.arange(40), scorer.planted)
    assert value(scorer, Mask.of_units(space, np.concatenate([pairs[:, 0], others[:2]]))) == 0.0
    assert value(scorer, Mask.of_units(space, np.concatenate([pairs[0], others[:2]]))) == 0.5


@pytest.mark.parametrize("units", [100, 1000, 12_345])
def test_space_of_has_all_its_units_in_unequal_layers(units):
    space = problems.space_of(units)
    assert space.n_units == units
    assert [layer.size / units for layer in space.layers] == pytest.approx([0.7, 0.2, 0.1], abs=0.02)


def test_solve_counts_scorings_up_to_the_optimum():
    space = problems.space_of(60)
    given = Problem(space, 0.05, Budget(2000), 0, on_empty="allow")
    scorer = planted("equal", space, 0.05)
    run = problems.solve(Evolution(), scorer, given, [10, 2000])
    history = search(space, Evolution(), planted("equal", space, 0.05), 0.05, 2000, seed=0, on_empty="allow")
    curve = history.best_so_far()
    assert run.scorings == curve.index(1.0) + 1 < 2000
    assert run.best == [curve[9], 1.0]
    assert run.seconds > 0
    lost = problems.solve(RandomSearch(), scorer, replace(given, budget=Budget(20)), [10, 20])
    assert lost.scorings == math.inf
    assert lost.best[0] <= lost.best[1] < 1


def test_table_has_random_search_and_the_settings(capsys):
    searcher = "evolution:population=4,scope=erk"
    sizes = ["--units", "100", "--seeds", "3", "--budget", "90"]
    problems.main(["--problems", "equal", "coupled", *sizes, "--searchers", searcher])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ")[0] for line in lines if line.startswith(("| evolution", "| random"))]
    assert rows == 2 * [f"| {searcher}", "| random_search"]
    heads = [line for line in lines if line.startswith("| searcher")]
    assert all("at 3 | at 9 | at 30 | at 90" in head for head in heads)
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "equal: 10 of 100 units kept, seeds 0 to 2, 90 scorings at most" in lines


def test_only_the_optimum_is_shown_with_score_one():
    run = problems.Run(math.inf, [0.99999], 0.001, curves.Climb())
    assert problems._row("x", [run], 50) == "| x | 0 of 1 | > 50 | 0.999 | 1.000 |"
    found = problems.Run(7, [1.0], 0.001, curves.Climb())
    assert problems._row("x", [found, found], 50) == "| x | 2 of 2 | 7 (7 to 7) | 1.000 (±0.000) | 1.000 |"


def climb(*steps, end):
    made = curves.Climb(whole=dict(zip(("scorings", "seconds"), end, strict=True)))
    for step in steps:
        made.step(*step)
    return made


def test_climb_is_a_step_function_up_to_the_end_of_its_search():
    lost = climb((1, 0.1, 0.2), (5, 0.9, 0.6), end=(10, 2.0))
    assert np.array_equal(lost.at("scorings", np.array([1, 4, 5, 10])), [0.2, 0.2, 0.6, 0.6])
    assert np.isnan(lost.at("scorings", np.array([0.5, 11]))).all()
    assert np.array_equal(lost.at("seconds", np.array([0.1, 0.8, 0.9, 2.0])), [0.2, 0.2, 0.6, 0.6])
    found = climb((1, 0.1, 0.2), (3, 0.4, 1.0), end=(3, 0.4))
    assert np.array_equal(found.at("seconds", np.array([0.2, 100.0])), [0.2, 1.0])  # the optimum stays the best


def test_mean_curves_end_with_the_shortest_unsolved_seed():
    lost = climb((1, 0.1, 0.2), (5, 0.9, 0.6), end=(10, 2.0))
    found = climb((1, 0.2, 0.4), (3, 0.4, 1.0), end=(3, 0.4))
    for axis, first, last in (("scorings", 1, 10), ("seconds", 0.2, 2.0)):
        places, over_seeds = curves.along([lost, found], axis)
        assert (places[0], places[-1]) == pytest.approx((first, last))
        assert (over_seeds.mean[0], over_seeds.mean[-1]) == pytest.approx((0.3, 0.8))
        assert not np.isnan(over_seeds.mean).any()
    assert curves.along([found, found], "scorings")[0][-1] == pytest.approx(3)


def test_solve_records_the_climb_of_its_search():
    space = problems.space_of(60)
    given = Problem(space, 0.05, Budget(2000), 0, on_empty="allow")
    run = problems.solve(Evolution(), planted("equal", space, 0.05), given, [10, 2000])
    assert run.climb.best == sorted(set(run.climb.best))
    assert run.climb.scorings[-1] == run.scorings == run.climb.whole["scorings"]
    assert run.climb.at("scorings", np.array([10.0]))[0] == run.best[0]
    assert 0 < run.climb.seconds[0] < run.climb.seconds[-1] <= run.climb.whole["seconds"]


def test_curves_are_drawn_for_each_problem(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(problems, "HERE", tmp_path)
    (tmp_path / "figures").mkdir()
    flags = ["--units", "100", "--seeds", "2", "--budget", "30", "--searchers", "eda", "--figure", "curves"]
    problems.main(["--problems", "equal", "coupled", *flags])
    assert (tmp_path / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "![curves](figures/curves.png)" in capsys.readouterr().out


def test_searcher_of_parses_settings_and_raises_input_error_for_mistakes():
    assert problems.searcher_of("annealing:accept_end=1e-6,scope=erk") == Annealing(accept_end=1e-6, scope="erk")
    for text in ("annealing:accept=1", "annealing:accept_end", "anealing", "annealing:scope=er"):
        with pytest.raises(InputError, match=text.split(":")[0]):
            problems.searcher_of(text)


def test_density_below_a_block_raises_input_error():
    with pytest.raises(InputError, match="one block takes 4"):
        planted("deceptive", problems.space_of(30), 0.1)
