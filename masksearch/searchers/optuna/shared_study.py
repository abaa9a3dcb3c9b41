"""A study of a storage that several searches read and write: how they learn from one another's trials."""

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from masksearch.core.protocol import Problem
from masksearch.searchers.optuna.parametrisations import Parametrisation
from masksearch.searchers.optuna.study_storage import name_metrics, opened, quiet, storage_errors
from masksearch.utils.errors import InputError

__all__ = ["SharedStudy", "identity"]

_IDENTITY = "masksearch"  # user attribute of the study: whose trials belong into it
_MADE = "made"  # and a number that no other study has, also where a storage uses a deleted one's ids again
_PATIENCE = 2.0  # seconds between another process's making a study and its saying what the study is of


class SharedStudy:
    """One study of a storage, written trial by trial as they are finished; it never holds a running one.

    Parameters
    ----------
    url : str
        Of the storage: ``sqlite:///file.db``, ``postgresql://...``.
    name : str
        Of the study, which is made if it isn't there.
    directions : sequence of StudyDirection
        Of the trials' values.
    identity : dict
        What :func:`identity` says of the search: a study of another one is refused.
    seed : int
        Of this search; a user attribute of the trials that it writes.

    Raises
    ------
    InputError
        If the storage can't be opened, or its study of that name is of other searches.

    Attributes
    ----------
    known : set of int
        The storage's ids of the trials that were written or taken in: what is neither taken in again nor missed.
    """

    def __init__(
        self, url: str, name: str, directions: Sequence[StudyDirection], identity: Mapping[str, Any], seed: int
    ) -> None:
        self._name, self._seed = name, int(seed)
        self.known: set[int] = set()
        self._storage = get_storage(opened(url))  # remembers finished trials: only new ones are read
        identity = json.loads(json.dumps(identity))
        try:
            with quiet():
                self._id = self._storage.create_new_study(directions, name)
                name_metrics(optuna.load_study(study_name=name, storage=self._storage))
            self._storage.set_study_user_attr(self._id, _MADE, secrets.token_hex(8))
            self._storage.set_study_user_attr(self._id, _IDENTITY, identity)
        except DuplicatedStudyError:
            self._id = self._storage.get_study_id_from_name(name)
        there = self._identity()
        names = [key for key in {**there, **identity} if there.get(key) != identity.get(key)]
        if names:
            differ = "; ".join(f"its {key} is {there.get(key)}, this one's is {identity.get(key)}" for key in names)
            raise InputError(f"study: {name!r} of the storage is of other searches: {differ}")

    def _identity(self) -> dict[str, Any]:
        """What the study in the storage is of."""
        waited = time.monotonic()
        while True:
            attributes = self._storage.get_study_user_attrs(self._id)
            if _IDENTITY in attributes:
                return dict(attributes[_IDENTITY])
            if time.monotonic() - waited > _PATIENCE or self._storage.get_all_trials(self._id, deepcopy=False):
                raise InputError(
                    f"study: {self._name!r} of the storage wasn't made to be shared by searches; give another name"
                )
            time.sleep(0.05)

    def state_dict(self) -> dict[str, Any]:
        """Which study this is, and what is known of it."""
        return {"made": self._storage.get_study_user_attrs(self._id)[_MADE], "known": sorted(self.known)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises
        ------
        InputError
            If the study is not the one that the search has been writing to.
        """
        if state["made"] != self._storage.get_study_user_attrs(self._id)[_MADE]:
            raise InputError(
                f"study: {self._name!r} of the storage is not the one with the {len(state['known'])} trials that this "
                "search knows; it goes on with its own storage alone"
            )
        self.known = set(state["known"])

    def news(self) -> list[FrozenTrial]:
        """The finished trials that are not known yet, in order; from now on they are."""
        there = self._trials()
        new = [trial for trial in there if trial.state.is_finished() and trial._trial_id not in self.known]
        self.known.update(trial._trial_id for trial in new)
        return new

    def write(self, trials: Iterable[FrozenTrial]) -> None:
        """Add finished trials of this search."""
        for trial in trials:
            signed = copy(trial)
            signed.user_attrs = {"seed": self._seed}
            try:
                self.known.add(self._storage.create_new_trial(self._id, signed))
            except KeyError:
                raise self._is_gone() from None
            except storage_errors() as error:
                raise self._fails(error) from None

    def _trials(self) -> list[FrozenTrial]:
        try:
            return self._storage.get_all_trials(self._id, deepcopy=False)
        except KeyError:
            raise self._is_gone() from None
        except storage_errors() as error:
            raise self._fails(error) from None

    def _fails(self, error: Exception) -> InputError:
        reason = str(error).split("\n", 1)[0]
        return InputError(f"study: {self._name!r} can't be read or written ({reason}); the same search goes on later")

    def _is_gone(self) -> InputError:
        return InputError(f"study: {self._name!r} is no longer in the storage; searches that share it end with it")


def identity(searcher: object, problem: Problem, points: Parametrisation) -> dict[str, Any]:
    """What must be the same for searches to learn from one another's trials: everything but seed and budget.

    Two saliencies are the same if all their bits are; the first one may be what ranks units, so their order counts. Of
    ``refine`` and a cost that is a function only whether there is one: that they do the same is up to the caller. A
    warm start only says where a search begins.
    """
    saliencies = [
        f"{name} {hashlib.sha256(saliency.detach().cpu().double().numpy().tobytes()).hexdigest()[:16]}"
        for name, saliency in problem.saliencies.items()
    ]
    bounds = repr([points.names, points.low.tolist(), points.high.tolist()])
    return {
        "searcher": repr(searcher),
        "space": problem.space.fingerprint,
        "density": problem.density,
        "hold": problem.hold,
        "on_empty": problem.on_empty,
        "refined": problem.refine is not None,
        "cost": problem.cost if isinstance(problem.cost, str) else problem.cost is not None,
        "saliencies": ", ".join(saliencies) or "none",
        "parameters": f"{len(points.names)}, {hashlib.sha256(bounds.encode()).hexdigest()[:16]}",
    }
