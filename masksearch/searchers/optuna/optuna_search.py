"""Optuna's samplers as searchers of masks."""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from masksearch.core.problem_and_trials import FOREIGN_TRIALS, LARGER_BUDGETS, Problem, Proposal, Score
from masksearch.searchers.optuna.parametrisations import Bits, Blocks, FreeDensity, Layers, Mixture, Parametrisation
from masksearch.searchers.searcher import Searcher
from masksearch.utils.errors import InputError, check_numbers, first_line
from masksearch.utils.registry import choose
from masksearch.utils.seeds import derive, numpy_generator

if TYPE_CHECKING:
    from optuna.study import StudyDirection

    from masksearch.searchers.optuna.shared_study import SharedStudy

PARAMETRISATIONS = ("layers", "mixture", "blocks", "bits")


@dataclass(frozen=True)
class Sampler:
    """Entry of the table ``SAMPLERS``: an Optuna sampler, its largest number of parameters, and what it supports."""

    max_parameters: int  # largest number of parameters with which the sampler is still fast
    time: str  # time of a proposal with max_parameters on one core, measured by benchmarks/sampler_costs.py
    supports_costs: bool = True  # whether it can search for the Pareto front of score and cost
    supports_late_scores: bool = True  # whether it proposes while others of its proposals wait for their scores
    unshared: str = ""  # the reason why searches can't share its study; empty: they can


SAMPLERS: Mapping[str, Sampler] = {
    "random": Sampler(1000, "a proposal takes 0.03 s"),
    "tpe": Sampler(1000, "a proposal takes 0.3 s after 100 trials, and more with each"),
    "cmaes": Sampler(
        1000,
        "a proposal takes 0.5 s after 100 trials",
        supports_costs=False,
        supports_late_scores=False,
        unshared="it needs all points of a population to be its own",
    ),
    "gp": Sampler(100, "a proposal takes 0.4 s after 100 trials, and more with each"),
    "qmc": Sampler(1000, "a proposal takes 0.1 s"),
    "nsga2": Sampler(1000, "a proposal takes 0.04 s"),
    "nsga3": Sampler(1000, "a proposal takes 0.04 s"),
}


@dataclass
class OptunaSearch(Searcher):
    """Search in which an Optuna sampler optimises a few numbers that define a mask (Akiba et al. 2019).

    The masks have the exact density for all values of the numbers. A parametrisation turns numbers into a mask:
    :class:`~masksearch.searchers.optuna.parametrisations.Layers`,
    :class:`~masksearch.searchers.optuna.parametrisations.Mixture`,
    :class:`~masksearch.searchers.optuna.parametrisations.Blocks`,
    :class:`~masksearch.searchers.optuna.parametrisations.Bits`.

    For problems with a cost, a study maximises the score and minimises the cost, and has the density as one more
    parameter (:class:`~masksearch.searchers.optuna.parametrisations.FreeDensity`). Multi-objective TPE: Ozaki et al.
    2022.

    A warm start is scored first. Scores that are NaN, infinite or bounds make failed trials, from which samplers don't
    learn.

    The state of the search is its list of trials. Without a ``study``, the trials are written to ``storage`` as one
    study at the end or at an interruption, for optuna-dashboard and similar tools. If the storage has another search
    under the same name, the name gets a number.

    With a ``study``, all searches that name it share the study of that name in the storage. Each search is a process
    with its own seed and folder. Before every ask it reads the new trials of the others, and after every tell it writes
    its own trials with their ``seed`` as a user attribute. TPE, the Gaussian process and NSGA learn from the trials of
    all searches; random and QMC sampling don't learn. A start that another search has scored is skipped, and each seed
    has its own order of starts. Settings, space, density and saliencies must be equal, to the bit, and so must the
    scorer, which a searcher can't check.

    Shared searches are not reproducible, since proposals depend on the speed of the processes. A search that was killed
    continues from its last checkpoint, and reads its own later trials from the study as if they came from another
    search: these are not in its history, unless they are proposed again (starts and QMC points are).
    """

    sampler: str = "tpe"  # "random", "tpe", "cmaes", "gp", "qmc", "nsga2" or "nsga3"
    parametrisation: str = "layers"  # how numbers define a mask: "layers", "mixture", "blocks" or "bits"
    saliency: str | None = None  # name of the saliency that ranks units; None: the first one, or a random ranking
    densities: bool = False  # for "mixture": whether layers' densities are parameters, too
    spread: float = 3.0  # for "layers" and "mixture": largest difference of the layers' log-odds / 2
    blocks: int = 32  # for "blocks": approximate number of blocks of units
    storage: str | None = field(default=None, repr=False)  # URL of the Optuna storage for the study
    study: str | None = None  # name of a shared study in the storage; None: not shared
    label: str = field(default="", repr=False)  # first part of the written study's name; empty: the sampler's name

    settings_group = "optuna"
    ranks_units = True
    refuses_problems = True

    def __post_init__(self) -> None:
        check_numbers(self, blocks=100_000, spread=1000)
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
            raise InputError(f"study: {study!r} in storage {self.storage!r}; a shared study needs a name and a URL")
        if is_in_memory(self.storage):
            raise InputError(
                f"storage: {self.storage!r} is in memory, which no other process can share; give a file, as "
                "sqlite:///studies.db"
            )
        if why := SAMPLERS[self.sampler].unshared:
            able = [name for name, row in SAMPLERS.items() if not row.unshared]
            raise InputError(f"study: {study!r}; {self.sampler} can't share a study ({why}); {', '.join(able)} can")

    @classmethod
    def random(cls) -> "OptunaSearch":
        """Search the layers' densities by Optuna's random sampler, as a baseline for the other samplers."""
        return cls("random")

    @classmethod
    def tpe(cls) -> "OptunaSearch":
        """Search the layers' densities by a tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023)."""
        return cls("tpe")

    @classmethod
    def cmaes(cls) -> "OptunaSearch":
        """Search the layers' densities by CMA-ES (Hansen 2016), with diagonal covariance above 100 parameters."""
        return cls("cmaes")

    @classmethod
    def gp(cls) -> "OptunaSearch":
        """Search the layers' densities by a Gaussian process with expected improvement, for a few hundred masks."""
        return cls("gp")

    @classmethod
    def qmc(cls) -> "OptunaSearch":
        """Search the layers' densities at scrambled Sobol points (quasi-Monte Carlo)."""
        return cls("qmc")

    @classmethod
    def nsga2(cls) -> "OptunaSearch":
        """Search the layers' densities by the genetic algorithm NSGA-II (Deb et al. 2002)."""
        return cls("nsga2")

    @classmethod
    def nsga3(cls) -> "OptunaSearch":
        """Search the layers' densities by the genetic algorithm NSGA-III (Deb & Jain 2014)."""
        return cls("nsga3")

    @property
    def supports_costs(self) -> bool:  # noqa: D102
        return SAMPLERS[self.sampler].supports_costs

    @property
    def supports_late_scores(self) -> bool:  # noqa: D102
        return SAMPLERS[self.sampler].supports_late_scores

    @property
    def shares_trials(self) -> bool:  # noqa: D102
        return self.study is not None

    def placed(self, folder: Path, study: str | None = None) -> "OptunaSearch":  # noqa: D102
        if self.study is not None:
            return self if study is None else replace(self, study=study)
        place = f"{folder.parent.name}/{folder.name}"
        return replace(self, storage=self.storage or sqlite_url(folder / "optuna.db"), label=place)

    def unplaced(self) -> "OptunaSearch":  # noqa: D102
        return replace(self, storage=None, study=None)

    def reset(self) -> None:  # noqa: D102
        from masksearch.searchers.optuna.memory_study import MemoryStudy, OptunaState  # importing Optuna is slow
        from masksearch.searchers.optuna.study_storage import check_url

        # Searches that share a study must have the same parametrisation, so its seed is derived from the study's name.
        problem = at = self.problem
        if self.study is not None:
            at = replace(problem, seed=derive(0, "optuna", "study", self.study))
        self._points = self._parametrise(at) if problem.cost is None else FreeDensity(at, self._parametrise)
        if self.study is not None:
            numpy_generator(problem.seed, "optuna", "starts").shuffle(self._points.starts)
        self._check_parameters(len(self._points.names))
        if self.storage is not None:
            check_url(self.storage)
        study = MemoryStudy(self.sampler, self._points, problem.seed, has_costs=problem.cost is not None)
        self.state = OptunaState(study, problem.start is not None, self._join(study.directions))
        self._waiting: dict[Proposal, int] = {}  # proposal that waits for its score -> number of its trial
        self._before: dict[int, int] = {}  # the same of before a resume, by the hash of the mask

    def _join(self, directions: "Sequence[StudyDirection]") -> "SharedStudy | None":
        if self.study is None or self.storage is None:
            return None
        from masksearch.searchers.optuna.shared_study import SharedStudy, identity

        common = identity(self, self.problem, self._points)
        return SharedStudy(self.storage, self.study, directions, common, self.problem.seed)

    def _parametrise(self, problem: Problem) -> Parametrisation:
        if self.parametrisation == "bits":
            self._check_parameters(problem.space.n_units)  # before the names of the parameters are made
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
        row = SAMPLERS[self.sampler]
        if n > row.max_parameters:
            raise InputError(
                f"{self.sampler}: {n} parameters ({self.parametrisation}); at most {row.max_parameters} are allowed, "
                f"with which {row.time}"
            )

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        state = self.state
        proposals: list[Proposal] = []
        if state.start_is_due and self.problem.start is not None:
            proposals.append(Proposal.of(self.problem.start))
            state.start_is_due = False
        if state.shared is not None:
            for trial in state.shared.new_trials():
                # Own trials are new only after an interruption: they are later than the last checkpoint, so they are
                # missing in the history, and their starts are proposed again.
                is_foreign = trial.user_attrs.get("seed") != self.problem.seed
                state.study.add_trial(trial, skip_start=is_foreign)
                state.foreign_trials += is_foreign
        limit = state.study.max_asks
        n = n if limit is None else min(n, len(proposals) + limit)
        while len(proposals) < n:
            number, values = state.study.ask()
            proposals.append(Proposal.of(self._points.mask(values, number)))
            self._waiting[proposals[-1]] = number
        return proposals

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        state, numbers = self.state, []
        for proposal, score in zip(proposals, scores, strict=True):
            number = self._waiting.pop(proposal, None)
            if number is None:
                number = self._before.pop(proposal.mask.hash, None)
            if number is not None:  # else the warm start
                numbers.append(number)
                priced = self.problem.priced(proposal.mask, score)
                values = [priced.value] if priced.cost is None else [priced.value, priced.cost]
                is_valid = score.exact and all(map(math.isfinite, values))
                state.study.tell(number, values if is_valid else None)
        if state.shared is not None:
            state.shared.write(state.study.trials[number] for number in numbers)

    def finish(self) -> None:
        """Write the Optuna study to its storage, if there is one; if that fails, only warn.

        A shared study is there already.
        """
        if self.study is not None or self.storage is None:
            return
        from masksearch.searchers.optuna.study_storage import write_study

        study = self.state.study
        trials = [trial for trial in study.trials if trial.state.is_finished()]
        try:
            write_study(self.storage, self.study_name, study.directions, trials)
        except Exception as error:  # of any library: the result of the search must not be lost
            warnings.warn(
                f"storage: study {self.study_name!r} can't be written there ({first_line(error)})", stacklevel=2
            )

    @property
    def study_name(self) -> str:
        """Return the Optuna study's name: ``study`` if given, otherwise a label with a hash of the search."""
        if self.study is not None:
            return self.study
        identity = {"searcher": self.identity(), "saliencies": [], **self.problem.identity()}
        # A larger budget adds trials to the same study.
        identity = {name: value for name, value in identity.items() if name not in ("refined", LARGER_BUDGETS)}
        if not isinstance(self.problem.cost, str):
            identity["cost"] = None if self.problem.cost is None else "cost"
        label = self.label or f"{self.sampler} {self.parametrisation}"
        return f"{label} {hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]}"

    def metrics(self) -> dict[str, float]:  # noqa: D102
        step_size = self.state.study.step_size
        metrics = {} if step_size is None else {"step_size": step_size}
        return metrics if self.study is None else {**metrics, FOREIGN_TRIALS: self.state.foreign_trials}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        if "study" in state:  # saved before the state was a dataclass: the fields without their names' order
            fields = {"shared": None, FOREIGN_TRIALS: 0, **state}
            names = ("study", "start_is_due", "shared", FOREIGN_TRIALS)
            state = {"generator": self.generator.get_state(), "state": {name: fields[name] for name in names}}
        super().load_state_dict(state)
        waiting = self.state.study.waiting()
        self._before = {self._points.mask(values, number).hash: number for number, values in waiting.items()}


def is_in_memory(url: str) -> bool:
    """Return whether the URL of an Optuna storage names a SQLite database in memory."""
    if not url.startswith("sqlite"):
        return False
    database, _, query = url.partition("://")[2].removeprefix("/").partition("?")
    return database in ("", ":memory:", "file::memory:") or "mode=memory" in query


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file; characters that would end the path in a URL are escaped."""
    if not set(str(path)) & set("?#{}%"):
        return f"sqlite:///{path}"
    from sqlalchemy.engine import make_url  # a slow import

    text = quote(str(path.absolute()))
    if make_url(f"sqlite:///file:{text}").database != f"file:{text}":  # some versions decode the path, and SQLite again
        text = quote(text)
    return f"sqlite:///file:{text}?uri=true"
