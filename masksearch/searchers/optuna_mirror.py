"""A copy of a search's trials in a storage of Optuna's, for dashboards and plots; the search itself never reads it."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from masksearch.errors import InputError

__all__ = ["Mirror", "opened", "quiet", "storage_errors"]

_TRIES = 10  # at opening a storage whose tables another process is just making


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna says nothing short of an error; the user's own setting holds again afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def storage_errors() -> tuple[type[Exception], ...]:
    """What Optuna raises where a storage that was opened can't be read or written: a full disk, a lock, no server."""
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError


def opened(url: str) -> optuna.storages.RDBStorage:
    """The storage of that URL, its tables made if they aren't there; InputError if it can't be opened."""
    from sqlalchemy.engine import make_url  # importing it takes its time
    from sqlalchemy.exc import ArgumentError, DBAPIError

    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None  # seconds, for another's writing
    reason = ""
    for _ in range(_TRIES):
        try:
            with quiet():
                return optuna.storages.RDBStorage(url, engine_kwargs=waits)
        except Exception as error:  # of a driver, of SQLAlchemy, of the operating system
            reason = str(error).split("\n", 1)[0]
            if not isinstance(error, DBAPIError | StorageInternalError):
                break
            time.sleep(0.1)
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        raise InputError(f"storage: {url!r} is no URL; sqlite:///FILE is one, of a file here") from None
    raise InputError(f"storage: {shown!r} can't be opened ({reason})")


class Mirror:
    """One study of a storage, kept equal to a growing list of trials. What others wrote there is left alone.

    A killed search may have left trials there that it doesn't remember. It makes them again: where they turn out the
    same they stay. Where they don't, the study is another search's, and this one's gets the next free number.

    Parameters
    ----------
    url : str
        Of the storage: ``sqlite:///file.db``, ``postgresql://...``.
    study : str
        Name of the study.
    directions : sequence of StudyDirection
        Of the trials' values.
    """

    def __init__(self, url: str, study: str, directions: Sequence[StudyDirection]) -> None:
        self._name, self._directions, self._number = study, directions, 1
        self._lost = False  # the storage has failed
        self._storage = opened(url)
        self._open()

    def _open(self) -> None:
        """The study of the current number, as it is or new."""
        name = self._name if self._number == 1 else f"{self._name} ({self._number})"
        if name in [other.study_name for other in self._storage.get_all_studies()]:
            self._id = self._storage.get_study_id_from_name(name)
        else:
            with quiet():
                self._id = self._storage.create_new_study(self._directions, name)
        self._there = self._storage.get_all_trials(self._id, deepcopy=False)
        self._equal = 0  # trials known to be the same here and there

    def write(self, trials: Sequence[FrozenTrial]) -> None:
        """Make the study hold ``trials``, of which those of the last call are the first.

        A storage that fails is left alone from then on, with a warning: a search doesn't end for want of its copy.
        """
        if self._lost:
            return
        try:
            self._write(trials)
        except storage_errors() as error:
            self._lost = True
            reason = str(error).split("\n", 1)[0]
            warnings.warn(f"storage: study {self._name!r} can't be copied there any more ({reason})", stacklevel=2)

    def _write(self, trials: Sequence[FrozenTrial]) -> None:
        while not all(map(_same, trials[self._equal :], self._there[self._equal :])):
            self._number += 1
            self._open()
        self._equal = max(self._equal, min(len(trials), len(self._there)))
        for trial in trials[self._equal :]:
            self._storage.create_new_trial(self._id, trial)
        self._equal = len(trials)


def _same(mine: FrozenTrial, theirs: FrozenTrial) -> bool:
    return all(
        getattr(mine, name) == getattr(theirs, name) for name in ("state", "values", "params", "intermediate_values")
    )
