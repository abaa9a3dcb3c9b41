"""Optuna's samplers as searchers of masks."""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masksearch.core.protocol import FOREIGN_TRIALS, Problem, Proposal, Score
from masksearch.searchers.optuna.parametrisations import Bits, Blocks, FreeDensity, Layers, Mixture, Parametrisation
from masksearch.searchers.searcher import Searcher
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose
from masksearch.utils.seeds import derive, numpy_generator

if TYPE_CHECKING:
    from masksearch.searchers.optuna.replayed_study import MemoryStudy
    from masksearch.searchers.optuna.shared_study import SharedStudy

__all__ = ["SAMPLERS", "OptunaSearch"]

PARAMETRISATIONS = ("layers", "mixture", "blocks", "bits")


@dataclass(frozen=True)
class Sampler:
    """What is known of a sampler before it is asked."""

    most: int  # parameters that it is still fast with
    cost: str  # measured with as many, one core: benchmarks/sampler_costs.py
    supports_costs: bool = True
    unshared: str = ""  # why searches can't share its study; empty: they can


SAMPLERS: Mapping[str, Sampler] = {
    "random": Sampler(1000, "a proposal takes 0.03 s"),
    "tpe": Sampler(1000, "a proposal takes 0.3 s after 100 trials, and more with each"),
    "cmaes": Sampler(
        1000,
        "a proposal takes 0.5 s after 100 trials",
        supports_costs=False,
        unshared="its populations are its own points",
    ),
    "gp": Sampler(100, "a proposal takes 0.4 s after 100 trials, and more with each"),
    "qmc": Sampler(1000, "a proposal takes 0.1 s"),
    "nsga2": Sampler(1000, "a proposal takes 0.04 s"),
    "nsga3": Sampler(1000, "a proposal takes 0.04 s"),
}


@dataclass
class OptunaSearch(Searcher):
    """Black-box optimisation of a few numbers that a mask is made from (Akiba et al. 2019).

    The masks have the exact density whatever the numbers are; the parametrisations say how:
    :class:`~masksearch.searchers.optuna.parametrisations.Layers`,
    :class:`~masksearch.searchers.optuna.parametrisations.Mixture`,
    :class:`~masksearch.searchers.optuna.parametrisations.Blocks`,
    :class:`~masksearch.searchers.optuna.parametrisations.Bits`.

    Where the problem has a cost, studies have two directions, the score upwards and the cost downwards, and one more
    parameter, the density (:class:`~masksearch.searchers.optuna.parametrisations.FreeDensity`). Multi-objective TPE:
    Ozaki et al. 2022.

    A warm start is scored first. Scores that are NaN, infinite or mere bounds make failed trials, which teach nothing.

    The trials are the state. Without a ``study``, a ``storage`` gets them as one study when the search is over or
    interrupted, for optuna-dashboard and others. If another search has written other trials under the study's name, the
    name ends in a number.

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

    sampler: str = "tpe"  # random, tpe, cmaes, gp, qmc, nsga2, nsga3
    parametrisation: str = "layers"  # layers, mixture, blocks, bits
    saliency: str | None = None  # of the problem's, ranks units in layers and blocks; None: its first, or chance
    densities: bool = False  # mixture: one parameter per layer beside the weights
    spread: float = 3.0  # layers, mixture: densities per layer differ by log-odds of at most twice this
    blocks: int = 32  # blocks: about so many in all
    storage: str | None = field(default=None, repr=False)  # URL of the storage that gets the study, or has a shared one
    study: str | None = None  # name of a study in the storage that searches share; None: this search has its own
    label: str = field(default="", repr=False)  # first part of the written study's name; by default the sampler's

    settings_group = "optuna"
    ranks_units = True
    refuses_problems = True

    def __post_init__(self) -> None:
        choose("sampler of Optuna", self.sampler, list(SAMPLERS))
        choose("parametrisation", self.parametrisation, list(PARAMETRISATIONS))
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

    @property
    def supports_costs(self) -> bool:  # noqa: D102
        return SAMPLERS[self.sampler].supports_costs

    @property
    def shares_trials(self) -> bool:  # noqa: D102
        return self.study is not None

    def placed(self, folder: Path, study: str | None = None) -> "OptunaSearch":  # noqa: D102
        if self.study is not None:
            return self if study is None else replace(self, study=study)
        place = f"{folder.parent.name}/{folder.name}"
        return replace(self, storage=self.storage or f"sqlite:///{folder / 'optuna.db'}", label=place)

    def unplaced(self) -> "OptunaSearch":  # noqa: D102
        return replace(self, storage=None, study=None)

    def start(self, problem: Problem) -> None:  # noqa: D102
        self.problem = problem
        # What a parametrisation draws once must be the same in all searches that share a study, so it goes by its name.
        at = problem if self.study is None else replace(problem, seed=derive(0, "optuna", "study", self.study))
        self._points = self._parametrise(at) if problem.cost is None else FreeDensity(at, self._parametrise)
        if self.study is not None:
            numpy_generator(problem.seed, "optuna", "starts").shuffle(self._points.starts)
        self._check_parameters(len(self._points.names))
        if self.storage is not None:
            self._check_storage(self.storage)
        self._study = self._new_study()
        self._shared = self._join()
        self._taken_in = 0  # trials of other searches
        self._start_is_due = problem.start is not None
        self._asked: list[int | None] = []  # trial of every proposal that waits for its score; None: the warm start

    def _new_study(self) -> "MemoryStudy":
        from masksearch.searchers.optuna.replayed_study import MemoryStudy  # importing Optuna takes its time

        has_costs = self.problem.cost is not None
        return MemoryStudy(self.sampler, self._points, self.problem.seed, has_costs=has_costs)

    def _join(self) -> "SharedStudy | None":
        if self.study is None or self.storage is None:
            return None
        from masksearch.searchers.optuna.shared_study import SharedStudy, identity

        who = identity(self, self.problem, self._points)
        return SharedStudy(self.storage, self.study, self._study.directions, who, self.problem.seed)

    @staticmethod
    def _check_storage(url: str) -> None:
        from masksearch.searchers.optuna.study_storage import check_url

        check_url(url)

    def _parametrise(self, problem: Problem) -> Parametrisation:
        if self.parametrisation == "bits":
            self._check_parameters(problem.space.n_units)  # before so many names are made
            return Bits(problem)
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
        while len(proposals) < n:
            number, values = self._study.ask()
            proposals.append(Proposal.of(self._points.mask(values, number)))
            self._asked.append(number)
        return proposals

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        for number, proposal, score in zip(self._asked, proposals, scores, strict=True):
            if number is not None:
                priced = self.problem.priced(proposal.mask, score)
                values = [priced.value] if priced.cost is None else [priced.value, priced.cost]
                fine = score.exact and all(map(math.isfinite, values))
                self._study.tell(number, values if fine else None)
        if self._shared is not None:
            self._shared.write(self._study.trials[number] for number in self._asked if number is not None)

    def finish(self) -> None:
        """Write the study to the storage, if there is one and it isn't shared; a failure is a warning."""
        if self._shared is not None or self.storage is None:
            return
        from masksearch.searchers.optuna.study_storage import write_study

        trials = [trial for trial in self._study.trials if trial.state.is_finished()]
        try:
            write_study(self.storage, self.study_name, self._study.directions, trials)
        except Exception as error:  # of a driver, of SQLAlchemy, of Optuna: the search's result must not be lost
            reason = str(error).split("\n", 1)[0]
            warnings.warn(f"storage: study {self.study_name!r} can't be written there ({reason})", stacklevel=2)

    @property
    def study_name(self) -> str:
        """Name of the shared or written study: label, and a hash of what the searcher knows of the search."""
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
        return metrics if self._shared is None else {**metrics, FOREIGN_TRIALS: self._taken_in}

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        state = {"study": self._study.state_dict(), "start_is_due": self._start_is_due}
        if self._shared is None:
            return state
        return {**state, "shared": self._shared.state_dict(), FOREIGN_TRIALS: self._taken_in}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self._study = self._new_study()
        self._study.load_state_dict(state["study"])
        self._start_is_due = state["start_is_due"]
        if self._shared is not None:
            self._shared.load_state_dict(state["shared"])
            self._taken_in = state[FOREIGN_TRIALS]
