"""An Optuna study that several searches share: each learns from the trials of the others."""

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from masksearch.core.problem_and_trials import LARGER_BUDGETS, Problem
from masksearch.searchers.optuna.parametrisations import Parametrisation
from masksearch.searchers.optuna.study_storage import name_metrics, opened, quiet, storage_errors
from masksearch.searchers.searcher import Searcher
from masksearch.utils.errors import InputError, first_line

_IDENTITY = "masksearch"  # user attribute of the study: the identity that its searches have in common
_MADE = "made"  # user attribute of the study: a unique random number, since storages reuse ids of deleted studies
_PATIENCE = 2.0  # seconds that another process may take to write the identity of a study it has created


class SharedStudy:
    """Optuna study in a storage that several searches share, so that each learns from the others' trials.

    Only finished trials are written, so that the study never has a running trial.

    Parameters
    ----------
    url : str
        URL of the storage: ``sqlite:///file.db``, ``postgresql://...``.
    name : str
        Name of the study, which is created if it doesn't exist.
    directions : sequence of StudyDirection
        Directions of the trials' values: maximise or minimise.
    identity : dict
        What :func:`identity` returns for the search; a study with another identity is refused.
    seed : int
        Seed of this search; a user attribute of the trials that this search writes.

    Raises
    ------
    InputError
        If the storage can't be opened, or if its study of that name has another identity.

    Attributes
    ----------
    known_ids : set of int
        The storage's ids of all trials that this search has written or read.
    """

    def __init__(
        self, url: str, name: str, directions: Sequence[StudyDirection], identity: Mapping[str, Any], seed: int
    ) -> None:
        self._name, self._seed = name, int(seed)
        self.known_ids: set[int] = set()
        self._storage = get_storage(opened(url))  # caches finished trials, so that only new trials are read
        identity = json.loads(json.dumps(identity))
        try:
            with quiet():
                self._id = self._storage.create_new_study(directions, name)
                name_metrics(optuna.load_study(study_name=name, storage=self._storage))
            self._storage.set_study_user_attr(self._id, _MADE, secrets.token_hex(8))
            self._storage.set_study_user_attr(self._id, _IDENTITY, identity)
        except DuplicatedStudyError:
            self._id = self._storage.get_study_id_from_name(name)
        existing = self._identity()
        names = [key for key in {**existing, **identity} if existing.get(key) != identity.get(key)]
        if names:
            differ = "; ".join(
                f"its {key} is {existing.get(key)}, and this search has {identity.get(key)}" for key in names
            )
            raise InputError(f"study: {name!r} in the storage belongs to other searches: {differ}; give another name")

    def _identity(self) -> dict[str, object]:
        """The identity of the study in the storage."""
        started = time.monotonic()
        while True:
            attributes = self._storage.get_study_user_attrs(self._id)
            if _IDENTITY in attributes:
                return dict(attributes[_IDENTITY])
            if time.monotonic() - started > _PATIENCE or self._storage.get_all_trials(self._id, deepcopy=False):
                raise InputError(
                    f"study: {self._name!r} in the storage was not made by a search of masksearch; give another name"
                )
            time.sleep(0.05)

    def state_dict(self) -> dict[str, object]:
        """Return the shared study's unique number, and which of its trials this search has written or read."""
        return {"made": self._storage.get_study_user_attrs(self._id)[_MADE], "known": sorted(self.known_ids)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore from :meth:`state_dict` which trials of the shared study this search has written or read.

        Raises
        ------
        InputError
            If the storage has another study of this name now.
        """
        if state["made"] != self._storage.get_study_user_attrs(self._id)[_MADE]:
            raise InputError(
                f"study: {self._name!r} in the storage is another study than the one with {len(state['known'])} trials "
                "that this search continues; restore the storage, or remove the folder of the search and run again"
            )
        self.known_ids = set(state["known"])

    def new_trials(self) -> list[FrozenTrial]:
        """Return the shared study's finished trials that this search has neither written nor read before."""
        with self._access():
            trials = self._storage.get_all_trials(self._id, deepcopy=False)
        new = [trial for trial in trials if trial.state.is_finished() and trial._trial_id not in self.known_ids]
        self.known_ids.update(trial._trial_id for trial in new)
        return new

    def write(self, trials: Iterable[FrozenTrial]) -> None:
        """Write finished trials of this search to the shared study."""
        for trial in trials:
            signed = copy(trial)
            signed.user_attrs = {"seed": self._seed}
            with self._access():
                self.known_ids.add(self._storage.create_new_trial(self._id, signed))

    @contextmanager
    def _access(self) -> Iterator[None]:
        """Turn the storage's exceptions into an InputError."""
        try:
            yield
        except KeyError:
            raise InputError(
                f"study: {self._name!r} was deleted from the storage; restore the storage, or remove the folder of the "
                "search and run again"
            ) from None
        except storage_errors() as error:
            raise InputError(
                f"study: {self._name!r} can't be read or written ({first_line(error)}); run again later to "
                "continue this search"
            ) from None


def identity(searcher: Searcher, problem: Problem, points: Parametrisation) -> dict[str, object]:
    """Return what must be equal in all searches of a shared study: all settings except seed, budget and start mask.

    Saliencies are compared bit by bit, and in order, since the first one may rank the units. Functions can't be
    compared: of ``refine`` and of a cost function, the identity only records their presence.
    """
    saliencies = [
        f"{name} {hashlib.sha256(saliency.detach().cpu().double().numpy().tobytes()).hexdigest()[:16]}"
        for name, saliency in problem.saliencies.items()
    ]
    bounds = json.dumps([points.names, points.low.tolist(), points.high.tolist()])
    own = ("budget", LARGER_BUDGETS, "seed", "start")
    return {
        "searcher": searcher.identity(),
        **{name: value for name, value in problem.identity().items() if name not in own},
        "saliencies": ", ".join(saliencies) or "none",
        "parameters": f"{len(points.names)}, {hashlib.sha256(bounds.encode()).hexdigest()[:16]}",
    }
