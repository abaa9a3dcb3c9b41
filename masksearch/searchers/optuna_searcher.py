"""Optuna's samplers as searchers of masks."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from masksearch.errors import InputError
from masksearch.searchers.base import Searcher
from masksearch.searchers.optuna_parametrisations import (
    Bits,
    Blocks,
    Enumeration,
    FreeDensity,
    Layers,
    Mixture,
    Parametrisation,
)
from masksearch.seeds import derive, numpy_generator
from masksearch.table import choose
from masksearch.trial import TAKEN_IN, Problem, Proposal, Score

if TYPE_CHECKING:
    from masksearch.searchers.optuna_mirror import Mirror
    from masksearch.searchers.optuna_shared import SharedStudy
    from masksearch.searchers.optuna_study import MemoryStudy

__all__ = ["SAMPLERS", "OptunaSearch"]

PARAMETRISATIONS = ("layers", "mixture", "blocks", "bits")
PRUNERS = ("none", "median", "successive_halving", "hyperband")


@dataclass(frozen=True)
class Sampler:
    """What is known of a sampler before it is asked."""

    most: int  # parameters that it is still fast with
    cost: str  # measured with as many, one core: benchmarks/sampler_costs.py
    weighs_costs: bool = True
    unshared: str = ""  # why searches can't share its study; empty: they can


_ONCE = "one search goes through its points"

SAMPLERS: Mapping[str, Sampler] = {
    "random": Sampler(1000, "a proposal takes 0.03 s"),
    "tpe": Sampler(1000, "a proposal takes 0.3 s after 100 trials, and more with each"),
    "cmaes": Sampler(
        1000,
        "a proposal takes 0.5 s after 100 trials",
        weighs_costs=False,
        unshared="its populations are its own points",
    ),
    "gp": Sampler(100, "a proposal takes 0.4 s after 100 trials, and more with each"),
    "qmc": Sampler(1000, "a proposal takes 0.1 s"),
    "nsga2": Sampler(1000, "a proposal takes 0.04 s"),
    "nsga3": Sampler(1000, "a proposal takes 0.04 s"),
    "grid": Sampler(13, "2 values each make 8,192 points", unshared=_ONCE),
    "brute_force": Sampler(
        20, "a proposal takes 0.06 s after 400 trials, and more with each", weighs_costs=False, unshared=_ONCE
    ),
}
_MOST_MASKS = 2_000  # gone through by brute force, in about three minutes beside their scoring
_MOST_POINTS = 10_000  # of a grid
_GRID_POINTS = 1_000  # of a grid where the budget says nothing about scorings


@dataclass
class OptunaSearch(Searcher):
    """Black-box optimisation of a few numbers that a mask is made from (Akiba et al. 2019).

    The masks have the exact density whatever the numbers are; the parametrisations say how:
    :class:`~masksearch.searchers.optuna_parametrisations.Layers`,
    :class:`~masksearch.searchers.optuna_parametrisations.Mixture`,
    :class:`~masksearch.searchers.optuna_parametrisations.Blocks`,
    :class:`~masksearch.searchers.optuna_parametrisations.Bits`.

    Where the problem has a cost, studies have two directions, the score upwards and the cost downwards, and one more
    parameter, the density (:class:`~masksearch.searchers.optuna_parametrisations.FreeDensity`). Multi-objective TPE:
    Ozaki et al. 2022.

    A warm start is scored first. Scores that are NaN, infinite or mere bounds make failed trials, which teach nothing.

    With one of Optuna's pruners, a trial is stopped early where its score so far is bad: worse than the median of the
    finished trials that far (``median``), not among the better half of all that came as far (``successive_halving``,
    Li et al. 2020), or that within brackets which ask later and later (``hyperband``, Li et al. 2018). It is a pruned
    trial of the study, with its scores so far. TPE learns from those, the others from finished trials alone, for which
    the Gaussian process isn't stopped: it would propose the same again.

    The trials are the state. Without a ``study``, a storage only gets a copy of them, for optuna-dashboard and others;
    where another search has taken the copy's name for other trials, its name ends in a number.

    Where a ``study`` is named, the storage's study of that name is shared by all searches that name it, each a process
    with a seed and a folder of its own. Before every ask a search takes in what the others have finished, and after
    every tell it writes its own, whose user attribute ``seed`` says whose they are. So TPE, the Gaussian process and
    NSGA propose from the trials of all; random and QMC points learn from none, and are only gathered. Starts that
    another search has scored are left out, the others come in an order that the seed draws. Settings, space, density
    and saliencies must be the same, to the bit, and so must the scorer, which a searcher doesn't see.

    Shared searches can't be repeated: what they propose depends on who was faster. One that was killed goes on with the
    trials that it knew at its last checkpoint and takes in the rest, also what it had scored itself after that: this is
    then in the study, but not in its history, unless it is proposed again, as starts and QMC's points are.
    """

    sampler: str = "tpe"  # random, tpe, cmaes, gp, qmc, nsga2, nsga3, grid, brute_force
    parametrisation: str = "layers"  # layers, mixture, blocks, bits
    saliency: str | None = None  # of the problem's, ranks units in layers and blocks; None: its first, or chance
    densities: bool = False  # mixture: one parameter per layer beside the weights
    spread: float = 3.0  # layers, mixture: densities per layer differ by log-odds of at most twice this
    blocks: int = 32  # blocks: about so many in all
    pruner: str = "none"  # Optuna's, of those in PRUNERS: stops trials early where the scorer has scores on the way
    storage: str | None = field(default=None, repr=False)  # Optuna storage URL for the study's copy or the shared one
    study: str | None = None  # name of a study in the storage that searches share; None: this search has its own
    label: str = field(default="", repr=False)  # of the copy, instead of the sampler's name: what is searched for

    def __post_init__(self) -> None:
        choose("sampler of Optuna", self.sampler, list(SAMPLERS))
        choose("parametrisation", self.parametrisation, list(PARAMETRISATIONS))
        choose("pruner of Optuna", self.pruner, list(PRUNERS))
        if self.sampler == "gp" and self.pruner != "none":
            raise InputError(
                f"pruner: {self.pruner!r}; gp learns from finished trials alone, and proposes again what was stopped: "
                "give 'none', or another sampler"
            )
        if self.sampler == "brute_force" and self.parametrisation != "bits":
            raise InputError(
                f"parametrisation: {self.parametrisation!r}; brute_force goes through masks, so give 'bits'"
            )
        if not 0 < self.spread < math.inf:
            raise InputError(f"spread: {self.spread}; a positive number is needed")
        if self.blocks < 2:
            raise InputError(f"blocks: {self.blocks}; at least 2 are needed")
        if self.study is not None:
            self._check_shared(self.study)

    def _check_shared(self, study: str) -> None:
        if not study or self.storage is None:
            raise InputError(f"study: {study!r} in storage {self.storage!r}; to share one, a name and a URL are needed")
        if why := SAMPLERS[self.sampler].unshared:
            able = [name for name, known in SAMPLERS.items() if not known.unshared]
            raise InputError(f"study: {study!r}; {self.sampler} can't share one, {why}; {', '.join(able)} can")
        if self.pruner == "hyperband":
            raise InputError(
                f"study: {study!r}; hyperband's brackets go by one search's trial numbers: give another pruner"
            )

    @classmethod
    def random(cls) -> "OptunaSearch":
        """Optuna's random sampler on densities per layer: what its other samplers have to beat."""
        return cls("random")

    @classmethod
    def tpe(cls) -> "OptunaSearch":
        """Tree-structured Parzen estimator on densities per layer (Bergstra et al. 2011; Watanabe 2023)."""
        return cls("tpe")

    @classmethod
    def cmaes(cls) -> "OptunaSearch":
        """CMA-ES on densities per layer (Hansen 2016), diagonal above 100 parameters."""
        return cls("cmaes")

    @classmethod
    def gp(cls) -> "OptunaSearch":
        """Gaussian process with expected improvement on densities per layer; for a few hundred scorings."""
        return cls("gp")

    @classmethod
    def qmc(cls) -> "OptunaSearch":
        """Scrambled Sobol points on densities per layer."""
        return cls("qmc")

    @classmethod
    def nsga2(cls) -> "OptunaSearch":
        """NSGA-II, with one objective a genetic algorithm, on densities per layer (Deb et al. 2002)."""
        return cls("nsga2")

    @classmethod
    def nsga3(cls) -> "OptunaSearch":
        """NSGA-III, with one objective a genetic algorithm, on densities per layer (Deb & Jain 2014)."""
        return cls("nsga3")

    @classmethod
    def grid(cls) -> "OptunaSearch":
        """The finest grid over densities per layer that the budget can finish; ends by itself."""
        return cls("grid")

    @classmethod
    def brute_force(cls) -> "OptunaSearch":
        """Every mask of the density once, in random order, for spaces of few masks; ends by itself."""
        return cls("brute_force", "bits")

    @property
    def weighs_costs(self) -> bool:  # noqa: D102
        return SAMPLERS[self.sampler].weighs_costs

    def start(self, problem: Problem) -> None:  # noqa: D102
        self.problem = problem
        if problem.cost is not None and self.pruner != "none":
            raise InputError(f"pruner: {self.pruner}; a front weighs scores and costs, and pruners look at one value")
        # What a parametrisation draws once must be the same in all searches that share a study, so it goes by its name.
        at = problem if self.study is None else replace(problem, seed=derive(0, "optuna", "study", self.study))
        self._points = self._parametrise(at) if problem.cost is None else FreeDensity(at, self._parametrise)
        if self.study is not None:
            numpy_generator(problem.seed, "optuna", "starts").shuffle(self._points.starts)
        n = len(self._points.names)
        self._check_parameters(n)
        self._grid_levels = self._levels(n, problem) if self.sampler == "grid" else 0
        self._end = self._grid_levels**n if self.sampler == "grid" else self._points.n_points
        if self.sampler == "brute_force" and self._end is not None and self._end > _MOST_MASKS:
            raise InputError(
                f"brute_force: {self._end} masks have this density; at most {_MOST_MASKS} are gone through"
            )
        self._study = self._new_study()
        self._shared = self._join()
        self._mirror = self._open_mirror()  # now, since the seconds of a search don't begin before its first proposal
        self._taken_in = 0  # trials of other searches
        self._start_is_due = problem.start is not None
        self._asked: list[int | None] = []  # trial of every proposal that waits for its score; None: the warm start

    def _new_study(self) -> "MemoryStudy":
        from masksearch.searchers.optuna_study import MemoryStudy  # importing Optuna takes its time

        weighs_costs = self.problem.cost is not None
        return MemoryStudy(
            self.sampler, self._points, self.problem.seed, self._grid_levels, self.pruner, weighs_costs=weighs_costs
        )

    def _join(self) -> "SharedStudy | None":
        if self.study is None or self.storage is None:
            return None
        from masksearch.searchers.optuna_shared import SharedStudy, identity

        who = identity(self, self.problem, self._points)
        return SharedStudy(self.storage, self.study, self._study.directions, who, self.problem.seed)

    def _open_mirror(self) -> "Mirror | None":
        if self.study is not None or self.storage is None:
            return None
        from masksearch.searchers.optuna_mirror import Mirror

        return Mirror(self.storage, self.study_name, self._study.directions)

    def _parametrise(self, problem: Problem) -> Parametrisation:
        if self.parametrisation == "bits":
            self._check_parameters(problem.space.n_units)  # before so many names are made
            return Enumeration(problem) if self.sampler == "brute_force" else Bits(problem)
        if self.parametrisation == "mixture":
            return Mixture(problem, self.densities, self.spread)
        names = list(problem.saliencies)
        ranking = None
        if self.saliency is not None or names:
            name = names[0] if self.saliency is None else choose("saliency of the problem", self.saliency, names)
            ranking = problem.saliencies[name]
        if self.parametrisation == "blocks":
            return Blocks(problem, ranking, self.blocks)
        return Layers(problem, ranking, self.spread)

    def _check_parameters(self, n: int) -> None:
        known = SAMPLERS[self.sampler]
        if n > known.most:
            raise InputError(
                f"{self.sampler}: {n} parameters ({self.parametrisation}); at most {known.most}, where {known.cost}"
            )

    def _levels(self, n: int, problem: Problem) -> int:
        """Values per parameter of the finest grid that the budget can finish."""
        scorings = problem.budget.scorings
        points = _GRID_POINTS if scorings is None else min(scorings - (problem.start is not None), _MOST_POINTS)
        levels = 1
        while (levels + 1) ** n <= points:
            levels += 1
        if levels < 2:
            raise InputError(
                f"grid: {n} parameters ({self.parametrisation}) at 2 values each are {2**n} points; at most "
                f"{points} can be scored"
            )
        return levels

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        proposals: list[Proposal] = []
        self._asked = []
        if self._start_is_due and self.problem.start is not None:
            proposals.append(Proposal.of(self.problem.start))
            self._asked.append(None)
            self._start_is_due = False
        if self._shared is not None:
            for trial in self._shared.news():
                # Its own are those after its last checkpoint, which its history has forgotten: the starts come again.
                of_others = trial.user_attrs.get("seed") != self.problem.seed
                self._study.take_in(trial, spares_starts=of_others)
                self._taken_in += of_others
        room = self._study.room
        n = n if room is None else min(n, len(proposals) + room)
        while len(proposals) < n and len(self._study) != self._end:
            number, values = self._study.ask()
            mask = self._points.mask(values, number)
            if mask is None:
                self._study.tell(number, None)
                continue
            proposal = Proposal.of(mask)
            if self.pruner != "none":
                proposal = replace(proposal, stop=partial(self._study.stops, number))
            proposals.append(proposal)
            self._asked.append(number)
        return proposals

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        for number, proposal, score in zip(self._asked, proposals, scores, strict=True):
            if number is not None:
                priced = self.problem.priced(proposal.mask, score)
                values = [priced.value] if priced.cost is None else [priced.value, priced.cost]
                fine = score.exact and all(map(math.isfinite, values))
                self._study.tell(number, values if fine else None, stopped=not score.exact)
        if self._shared is not None:
            self._shared.write(self._study.trials[number] for number in self._asked if number is not None)
        elif self._mirror is not None:
            self._mirror.write(self._study.trials)

    @property
    def study_name(self) -> str:
        """That of the shared study, or the copy's: label, and a hash of what a searcher knows of the search."""
        if self.study is not None:
            return self.study
        problem = self.problem
        identity = (
            *(repr(self), problem.space.fingerprint, problem.density, problem.budget, problem.seed),
            *(problem.start and problem.start.hash, problem.on_empty, problem.hold, list(problem.saliencies)),
            *([] if problem.cost is None else [problem.cost if isinstance(problem.cost, str) else "cost"]),
        )
        label = self.label or f"{self.sampler} {self.parametrisation}"
        return f"{label} {hashlib.sha256(repr(identity).encode()).hexdigest()[:8]}"

    def metrics(self) -> dict[str, float]:  # noqa: D102
        step_size = self._study.step_size
        metrics = {} if step_size is None else {"step_size": step_size}
        return metrics if self._shared is None else {**metrics, TAKEN_IN: self._taken_in}

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        state = {"study": self._study.state_dict(), "start_is_due": self._start_is_due}
        if self._shared is None:
            return state
        return {**state, "shared": self._shared.state_dict(), TAKEN_IN: self._taken_in}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self._study = self._new_study()
        self._study.load_state_dict(state["study"])
        self._start_is_due = state["start_is_due"]
        if self._shared is not None:
            self._shared.load_state_dict(state["shared"])
            self._taken_in = state[TAKEN_IN]
