"""Problems with a known answer: masks with a planted optimum, and no network, so that searchers are ranked in seconds.

    python -m benchmarks.problems
    python -m benchmarks.problems --problems deceptive --units 200 --density 0.5 --searchers eda evolution --seeds 5
    python -m benchmarks.problems --problems equal --searchers annealing:accept_start=1e-4,accept_end=1e-6

Prints a Markdown table a problem. A searcher is a name of the catalogue, with settings after a colon; random_search is
always among them. Every seed plants another optimum. "reached" counts the seeds that found it; "scorings" is the median
number until then, with its quartiles, where a seed that didn't counts as more than the budget. The columns after that
hold the best score after so many scorings (1 = the optimum; mean over seeds with its 95 % interval). A searcher's
schedules aim at the whole budget, so that a smaller budget of its own gives more than the first scorings of a larger
one. The last column is what asking and telling took, scoring apart.

``--figure NAME`` draws the curves along scorings and along seconds (of asking, scoring and telling), as
``benchmarks/figures/NAME.png``.
"""

import argparse
import ast
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import torch

from benchmarks.collect import small_png
from benchmarks.page import HERE
from benchmarks.planted_curves import Climb, drawing
from masksearch.analysis import Estimate
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Budget, Problem, Proposal, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.utils.errors import InputError
from masksearch.utils.files import write_bytes
from masksearch.utils.registry import Table, choose
from masksearch.utils.seeds import numpy_generator

_SHARES = {"first": 0.7, "second": 0.2, "third": 0.1}  # of the units: layers as unequal as those of a network
_LOOKS = (1 / 30, 1 / 10, 1 / 3, 1)  # shares of the budget at which the best so far is written down


class Planted:
    """Scores masks by how much of a planted mask they hold; 1 is the optimum, and the planted mask has it.

    Units form blocks, and a block is worth its weight times ``steps[units of it that are kept]``. Scores are sums of
    whole numbers, so that the optimum is recognised exactly. A move from the last base is scored in O(radius).

    Parameters
    ----------
    space : MaskSpace
        Where the optimum is planted.
    blocks : int array (n_blocks, size)
        Units of every block; the planted mask keeps all units of the first ``planted`` ones.
    weights : int array (n_blocks,)
        What the blocks are worth.
    steps : sequence of int, size + 1
        What a block is worth by the number of its units that are kept, the most for all.
    planted : int
        Number of planted blocks.
    """

    def __init__(
        self, space: MaskSpace, blocks: np.ndarray, weights: np.ndarray, steps: Sequence[int], planted: int
    ) -> None:
        self._block_of = np.full(space.n_units, len(blocks))  # the last block is no block: of no worth
        self._block_of[blocks] = np.arange(len(blocks))[:, None]
        self._weights = np.append(weights, 0)
        self._steps = np.append(steps, np.zeros(space.n_units, dtype=np.int64))[: space.n_units + 1]
        self._base: Mask | None = None
        self._counts, self._value = np.empty(0, dtype=np.int64), 0  # of the last base
        self.planted = blocks[:planted].flatten()
        self.saliencies: dict[str, torch.Tensor] = {}  # what searchers are given, by name
        self.optimum = int(weights[:planted].sum()) * steps[-1]

    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        """One score per proposal, exact."""
        return [Score(self._worth(proposal) / self.optimum) for proposal in proposals]

    def _worth(self, proposal: Proposal) -> int:
        if proposal.base is not self._base:
            self._base = proposal.base
            kept = self._block_of[np.flatnonzero(self._base.bits.numpy())]
            self._counts = np.bincount(kept, minlength=len(self._weights))
            self._value = int(self._weights @ self._steps[self._counts])
        if not len(proposal.move):
            return self._value
        touched = self._block_of[np.concatenate([proposal.dropped, proposal.regrown])]
        blocks, place = np.unique(touched, return_inverse=True)
        signs = np.repeat([-1, 1], [len(proposal.dropped), len(proposal.regrown)])
        before = self._counts[blocks]
        after = before + np.bincount(place, signs, len(blocks)).astype(np.int64)
        return self._value + int(self._weights[blocks] @ (self._steps[after] - self._steps[before]))


def space_of(units: int) -> MaskSpace:
    """Three layers of 70, 20 and 10 % of the units."""
    sizes = [max(1, round(share * units)) for share in _SHARES.values()]
    sizes[0] += units - sum(sizes)
    return MaskSpace([(name, (1, size), size) for name, size in zip(_SHARES, sizes, strict=True)])


def equal(space: MaskSpace, density: float, rng: np.random.Generator) -> Planted:
    """Decoupled: every planted unit is worth the same, all others nothing."""
    return _blocks(space, density, rng, (0, 1))


def weighted(space: MaskSpace, density: float, rng: np.random.Generator) -> Planted:
    """Decoupled: every unit has a worth of its own, exponentially distributed; the planted ones have the highest."""
    worth = 1 + np.round(1e6 * rng.exponential(size=space.n_units)).astype(np.int64)
    ranking = np.argsort(-worth, kind="stable")
    return Planted(space, ranking[:, None], worth[ranking], (0, 1), space.count(density))


def layered(space: MaskSpace, density: float, rng: np.random.Generator) -> Planted:
    """Decoupled as ``weighted``, and units of each layer are worth three times as much as those of the one before.

    So the planted mask has a density of its own in every layer. The problem has a saliency, as criteria are: it ranks
    the units of a layer about right, and says nothing of how layers compare.
    """
    scale = 3.0 ** space.layer_of(np.arange(space.n_units))
    share = rng.exponential(size=space.n_units)
    worth = 1 + np.round(1e6 * scale * share).astype(np.int64)
    ranking = np.argsort(-worth, kind="stable")
    planted = Planted(space, ranking[:, None], worth[ranking], (0, 1), space.count(density))
    planted.saliencies["hint"] = torch.from_numpy(share * np.exp(rng.normal(size=space.n_units) / 2))
    return planted


def coupled(space: MaskSpace, density: float, rng: np.random.Generator) -> Planted:
    """Pairs of planted units, each unit worth something only beside the other."""
    return _blocks(space, density, rng, (0, 0, 1))


def deceptive(space: MaskSpace, density: float, rng: np.random.Generator) -> Planted:
    """Traps of four planted units: the fewer of them are kept, the better, but best of all is to keep the four.

    Concatenated trap functions (Deb & Goldberg 1993), for masks.
    """
    return _blocks(space, density, rng, (3, 2, 1, 0, 4))


def _blocks(space: MaskSpace, density: float, rng: np.random.Generator, steps: Sequence[int]) -> Planted:
    """Equal blocks that take up all units that a mask keeps, but for a remainder that is worth nothing."""
    size = len(steps) - 1
    planted = space.count(density) // size
    if not planted:
        raise InputError(f"density: {density} keeps {space.count(density)} units, and one block takes {size}")
    blocks = rng.permutation(space.n_units)[: planted * size].reshape(planted, size)
    return Planted(space, blocks, np.ones(planted, dtype=np.int64), steps, planted)


PROBLEMS: Table[Callable[[MaskSpace, float, np.random.Generator], Planted]] = Table(
    "problem", {"equal": equal, "weighted": weighted, "layered": layered, "coupled": coupled, "deceptive": deceptive}
)


@dataclass(frozen=True)
class Run:
    """How one search of one planted problem went."""

    scorings: float  # until the optimum; infinite: the budget ended first
    best: list[float]  # the best score at every look
    seconds: float  # of asking and telling, per proposal
    climb: Climb


def searcher_of(text: str) -> Searcher:
    """``annealing``, or with settings ``annealing:accept_start=1e-4,accept_end=1e-6``."""
    name, _, settings = text.partition(":")
    searcher = SEARCHERS[name]()
    known = [field.name for field in fields(searcher) if field.init] if is_dataclass(searcher) else []
    given = {key: value for key, _, value in (setting.partition("=") for setting in settings.split(",") if setting)}
    for key, value in given.items():
        choose(f"setting of {name}", key, known)
        if not value:
            raise InputError(f"searcher {text!r}: {key} has no value; settings are written name=value")
    try:
        return replace(searcher, **{key: _literal(value) for key, value in given.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"searcher {text!r}: {error}") from None


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def solve(searcher: Searcher, scorer: Planted, problem: Problem, looks: Sequence[int]) -> Run:
    """Search until the optimum is found or the budget is spent, one mask at a time."""
    assert problem.budget.scorings is not None
    searcher.start(problem)
    best, seen, done, seconds, climb = -math.inf, [], 0, 0.0, Climb()
    started = time.perf_counter()
    while done < problem.budget.scorings and best < 1:
        begun = time.perf_counter()
        proposals = searcher.ask(1)
        seconds += time.perf_counter() - begun
        if not proposals:
            break
        scores = scorer.score(proposals)
        begun = time.perf_counter()
        searcher.tell(proposals, scores)
        seconds += time.perf_counter() - begun
        done += 1
        if scores[0].value > best:
            best = scores[0].value
            climb.step(done, time.perf_counter() - started, best)
        if done in looks:
            seen.append(best)
    seen += [best] * (len(looks) - len(seen))
    climb.whole = {"scorings": done, "seconds": time.perf_counter() - started}
    return Run(done if best == 1 else math.inf, seen, seconds / max(1, done), climb)


def table(
    name: str, units: int, density: float, searchers: Sequence[str], seeds: Sequence[int], budget: int
) -> dict[str, list[Climb]]:
    """Print one problem's table, line by line as they come; the searches' climbs, one a seed."""
    space = space_of(units)
    looks = sorted({max(1, round(share * budget)) for share in _LOOKS})
    climbs = {}
    lines = [
        f"{_title(name, space, density)}, seeds {seeds[0]} to {seeds[-1]}, {budget:,} scorings at most",
        "",
        "| searcher | reached | scorings | " + " | ".join(f"at {look:,}" for look in looks) + " | ms per proposal |",
        "|---|---:|---:|" + "---:|" * (len(looks) + 1),
    ]
    print("\n".join(lines), flush=True)
    for text in searchers:
        runs = []
        for seed in seeds:
            scorer = PROBLEMS[name](space, density, numpy_generator(seed, "planted", name))
            problem = Problem(space, density, Budget(budget), seed, None, scorer.saliencies, "allow")
            runs.append(solve(searcher_of(text), scorer, problem, looks))
        print(_row(text, runs, budget), flush=True)
        climbs[text] = [run.climb for run in runs]
    print(flush=True)
    return climbs


def _title(name: str, space: MaskSpace, density: float) -> str:
    return f"{name}: {space.count(density):,} of {space.n_units:,} units kept"


def _row(text: str, runs: Sequence[Run], budget: int) -> str:
    low, middle, high = np.quantile([run.scorings for run in runs], (0.25, 0.5, 0.75), method="higher")
    shown = [f"{value:,.0f}" if math.isfinite(value) else f"> {budget:,}" for value in (middle, low, high)]
    reached = sum(math.isfinite(run.scorings) for run in runs)
    scorings = f"{shown[0]} ({shown[1]} to {shown[2]})" if reached else shown[0]
    best = [_interval(Estimate.of(values)) for values in zip(*(run.best for run in runs), strict=True)]
    seconds = np.median([run.seconds for run in runs])
    return f"| {text} | {reached} of {len(runs)} | {scorings} | {' | '.join(best)} | {1e3 * seconds:.3f} |"


def _interval(best: Estimate) -> str:
    """Three digits, the mean's rounded down, so that only the optimum shows as 1."""
    return replace(best, mean=math.floor(1e3 * best.mean + 1e-9) / 1e3).text(digits=3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.problems", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--searchers", nargs="+", default=["annealing", "eda", "evolution"], metavar="NAME[:SETTINGS]")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="settings are best chosen on other seeds")
    parser.add_argument("--budget", type=int, default=30_000, help="scorings")
    parser.add_argument("--figure", metavar="NAME", help="draw the curves, too")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    searchers = list(dict.fromkeys([*given.searchers, "random_search"]))
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    try:
        if not seeds:
            raise InputError(f"seeds: {given.seeds}; at least 1 is needed")
        for text in searchers:
            searcher_of(text)
        for name in given.problems:
            choose("problem", name, list(PROBLEMS))
        climbs = {
            name: table(name, given.units, given.density, searchers, seeds, given.budget) for name in given.problems
        }
        if given.figure:
            titles = {name: _title(name, space_of(given.units), given.density) for name in given.problems}
            shown = drawing(climbs, titles, given.figure)
            write_bytes(HERE / "figures" / f"{given.figure}.png", small_png(shown))
            print(f"![{given.figure.replace('_', ' ')}](figures/{given.figure}.png)\n\n{shown.caption}")
    except InputError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
