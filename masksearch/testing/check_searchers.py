"""Checks that every searcher must pass.

Each check takes ``make``, a function without arguments that returns a new searcher, and raises AssertionError if it
fails. Scores come from ``planted_problem.Planted``: the share of a hidden mask's units that a mask keeps.
"""

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from masksearch.core.density_allocation import OnEmpty
from masksearch.core.problem_and_trials import Problem, Proposal, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import Searcher
from masksearch.testing.planted_problem import SPACE, Planted, drive, path_of, problem
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tree, save_tree

Make = Callable[[], Searcher]


def check_searcher(make: Make, folder: str | Path | None = None) -> None:
    """Run all checks that a searcher must pass, on small test problems.

    Parameters
    ----------
    make : callable
        Function without arguments that returns a new searcher, such as a searcher class.
    folder : path, optional
        Folder for files with states; by default, a temporary one.
    """
    if folder is None:
        with TemporaryDirectory() as temporary:
            check_searcher(make, temporary)
        return
    for density, batch in ((0.05, 1), (0.3, 1), (0.3, 5), (0.9, 1)):
        check_density(make, density, batch)
    check_radius(make)
    check_batches(make)
    check_arguments_unmodified(make)
    check_same_seed_same_path(make)
    for batch in (1, 4):
        check_state_round_trip(make, Path(folder), batch)
    check_state_is_a_snapshot(make)
    check_nan(make)
    check_recovers_from_an_unscorable_start(make)
    check_bounds(make)
    check_warm_start(make)
    for density in (2 / 60, 59 / 60, 1.0):
        check_ends(make, density)
    check_empty_layers(make, "keep_one")
    check_empty_layers(make, "raise")
    check_layer_densities(make)
    check_late_scores(make)


def check_density(make: Make, density: float = 0.3, batch: int = 1) -> None:
    """Check that proposed masks have the exact density and equal base mask plus move; ``probe`` masks are exempt."""
    searcher = _started(make, problem(density=density))
    for proposal in drive(searcher, Planted(density), 120, batch):
        if proposal.probe:
            continue
        assert int(proposal.mask.bits.sum()) == proposal.mask.n_kept == SPACE.count(density)
        assert proposal.base.moved(proposal.move) == proposal.mask
        assert proposal.base.hamming(proposal.mask) == len(proposal.move)
        assert len(proposal.dropped) == len(proposal.regrown)


def check_layer_densities(make: Make) -> bool:
    """Check a searcher on a problem with one density per layer; return False if the searcher refuses the problem."""
    per_layer = {"first": 0.25, "second": 0.5}
    start = SPACE.random(per_layer, generator=torch.Generator().manual_seed(5))
    for given in (problem(density=per_layer), problem(density=per_layer, start=start)):
        searcher, scorer = make(), Planted(per_layer)
        try:
            searcher.start(given)
        except InputError:
            return False
        proposals = [*drive(searcher, scorer, 100), *drive(searcher, scorer, 20, 5)]
        assert all(list(proposal.mask.kept_per_layer().values()) == [10, 10] for proposal in proposals)
        assert len({proposal.mask.hash for proposal in proposals}) > 30
    return True


def check_late_scores(make: Make) -> bool:
    """Check a searcher with five unscored masks at a time, scored in random order; return False if it can't do that.

    The searcher is saved and restored while proposals are open, and then gets the scores of their masks.
    """
    given = problem(start=SPACE.random(0.3, generator=torch.Generator().manual_seed(5)))
    searcher, scorer, rng = _started(make, given), Planted(nan_every=7), np.random.default_rng(0)
    if not searcher.supports_late_scores:
        return False
    waiting: list[Proposal] = []
    hashes = set()
    for number in range(150):
        while len(waiting) < 5 and (new := searcher.ask(1)):
            waiting += new
        assert waiting, "a searcher without open proposals has no more"
        if number % 40 == 39 and searcher.supports_resuming:
            state, searcher = searcher.state_dict(), _started(make, given)
            searcher.load_state_dict(state)
            waiting = [Proposal.of(proposal.mask) for proposal in waiting]
        proposal = waiting.pop(rng.integers(len(waiting)))
        assert int(proposal.mask.bits.sum()) == SPACE.count(0.3)
        assert proposal.base.moved(proposal.move) == proposal.mask
        hashes.add(proposal.mask.hash)
        searcher.tell([proposal], scorer.score([proposal]))
        searcher.metrics()
    assert len(hashes) > 30
    return True


def check_radius(make: Make) -> None:
    """Check that a searcher with a ``radius`` changes at most 2 x radius units of a base mask to propose a mask."""
    searcher, scorer = _started(make), Planted()
    for _ in range(150):
        radius = searcher.metrics().get("radius")
        proposals = drive(searcher, scorer, 1)
        if not proposals or radius is None:
            return
        assert proposals[0].base.hamming(proposals[0].mask) <= 2 * radius


def check_batches(make: Make) -> None:
    """Check that ``ask(n)`` of a searcher returns at least one proposal and at most n."""
    for n in (1, 2, 7):
        searcher, scorer = _started(make), Planted()
        for _ in range(20):
            proposals = searcher.ask(n)
            assert 1 <= len(proposals) <= n
            searcher.tell(proposals, scorer.score(proposals))


def check_arguments_unmodified(make: Make) -> None:
    """Check that a searcher does not change the problem, start mask, proposals, scores or torch's random state."""
    start = SPACE.random(0.3, generator=torch.Generator().manual_seed(5))
    bits, given = start.bits.clone(), problem(start=start)
    before, state = repr(given), torch.get_rng_state()
    searcher, scorer = _started(make, given), Planted()
    settings = repr(searcher)
    for _ in range(60):
        proposals = searcher.ask(3)
        scores = scorer.score(proposals)
        masks, copies = [proposal.mask.bits.clone() for proposal in proposals], (list(proposals), list(scores))
        searcher.tell(proposals, scores)
        assert (proposals, scores) == copies
        assert all(torch.equal(p.mask.bits, m) for p, m in zip(proposals, masks, strict=True))
    assert torch.equal(start.bits, bits)
    assert repr(given) == before
    assert repr(searcher) == settings
    assert torch.equal(torch.get_rng_state(), state), "torch's global random state was used"


def check_same_seed_same_path(make: Make) -> list[tuple[int, float | None]]:
    """Check that equal seeds give equal proposed masks, and other seeds others; return (mask hash, threshold) pairs."""
    first, second = make(), make()
    first.start(problem(seed=1))
    path = path_of(drive(first, Planted(), 80))
    second.start(problem(seed=2))
    assert path_of(drive(second, Planted(), 80)) != path
    second.start(problem(seed=1))
    assert path_of(drive(second, Planted(), 80)) == path
    return path


def check_state_round_trip(make: Make, folder: Path, batch: int = 1) -> bool:
    """Check that a searcher restored from a file proposes the same masks; return False if it can't be saved."""
    for moment in (0, 1, 2, 17, 60):
        whole, scorer = _started(make), Planted(nan_every=9)
        drive(whole, scorer, moment, batch)
        if not whole.supports_resuming:
            return False
        save_tree(folder / "state", whole.state_dict())
        resumed = _started(make)
        resumed.load_state_dict(load_tree(folder / "state"))
        again = Planted(nan_every=9)
        again.scored = list(scorer.scored)
        assert resumed.metrics() == whole.metrics() or math.isnan(whole.metrics().get("current", 0.0))
        expected = drive(whole, scorer, 50, batch)
        assert path_of(drive(resumed, again, 50, batch)) == path_of(expected)
        assert resumed.incumbent == whole.incumbent
        assert resumed.metrics() == whole.metrics()
    return True


def check_state_is_a_snapshot(make: Make) -> None:
    """Check that a searcher's saved state doesn't change while the search continues."""
    searcher, scorer = _started(make), Planted()
    drive(searcher, scorer, 20)
    if not searcher.supports_resuming:
        return
    state = searcher.state_dict()
    expected = path_of(drive(searcher, Planted(), 30))
    again = _started(make)
    again.load_state_dict(state)
    assert path_of(drive(again, Planted(), 30)) == expected


def check_nan(make: Make) -> None:
    """Check that a search goes on after NaN scores, and never continues from a mask whose score is NaN."""
    searcher, scorer = _started(make), Planted(nan_every=1)
    assert drive(searcher, scorer, 40)
    for nan_every in (2, 3):
        searcher, scorer = _started(make), Planted(nan_every=nan_every)
        for _ in range(100):
            proposals = searcher.ask(1)
            scores, before = scorer.score(proposals), searcher.incumbent
            searcher.tell(proposals, scores)
            if math.isnan(scores[0].value):
                assert searcher.incumbent == before


def check_recovers_from_an_unscorable_start(make: Make) -> None:
    """Check that a searcher goes on to propose other masks if the score of the first mask is NaN."""
    searcher, planted = _started(make), Planted()
    proposals = searcher.ask(1)
    searcher.tell(proposals, [Score(math.nan)])
    hashes = {proposal.mask.hash for proposal in drive(searcher, planted, 60)}
    assert len(hashes) > 30
    assert not math.isnan(searcher.metrics().get("current", 0.0))


def check_bounds(make: Make) -> None:
    """Check that a searcher never accepts a mask if it gets only an upper bound on the mask's score."""

    def path(bound: float) -> list[tuple[int, float | None]]:
        searcher, planted = _started(make), Planted()
        made, bounds = [], 0
        for number in range(100):
            proposals = searcher.ask(1)
            [score], before = planted.score(proposals), searcher.incumbent
            threshold = proposals[0].threshold
            if number % 2 and threshold is not None:
                score, bounds = Score(bound, exact=False), bounds + 1
            searcher.tell(proposals, [score])
            if not score.exact:
                assert searcher.incumbent == before
            made += path_of(proposals)
        return made

    assert path(-5.0) == path(1e6)


def check_warm_start(make: Make) -> bool:
    """Return whether a searcher uses a start mask: as its first proposed mask, or as the base of this first mask."""
    start = SPACE.random(0.3, generator=torch.Generator().manual_seed(5))
    searcher = _started(make, problem(start=start))
    [first] = searcher.ask(1)
    return start in (first.mask, first.base)


def check_ends(make: Make, density: float) -> None:
    """Check that a searcher's masks have the requested density, also one so extreme that few units can be swapped."""
    searcher = _started(make, problem(density=density))
    for proposal in drive(searcher, Planted(density), 60):
        assert proposal.probe or proposal.mask.n_kept == SPACE.count(density)


def check_empty_layers(make: Make, on_empty: OnEmpty) -> bool:
    """Check that proposed masks empty a layer only if ``on_empty`` allows it; return whether any mask empties one."""
    space = MaskSpace([("wide", (1, 60), 60), *((f"narrow{i}", (1, 4), 4) for i in range(3))])
    searcher, scorer = make(), Planted(20 / 72, space=space)
    start = space.random(20 / 72, generator=torch.Generator().manual_seed(0), on_empty="keep_one")
    searcher.start(problem(density=20 / 72, start=start, on_empty=on_empty, space=space))
    emptied = [bool(proposal.mask.empty_layers()) for proposal in drive(searcher, scorer, 200)]
    assert emptied
    assert on_empty == "allow" or not any(emptied)
    return any(emptied)


def _started(make: Make, given: Problem | None = None) -> Searcher:
    searcher = make()
    searcher.start(given or problem())
    return searcher
