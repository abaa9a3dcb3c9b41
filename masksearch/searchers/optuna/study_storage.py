"""Storages of Optuna's: opening one, and writing the study of a search that is over, for dashboards and plots."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from masksearch.utils.errors import InputError

__all__ = ["check_url", "name_metrics", "opened", "quiet", "storage_errors", "write_study"]

_TRIES = 10  # at opening a storage whose tables another process is just making


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna logs errors alone; afterwards the user's own setting holds again."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def storage_errors() -> tuple[type[Exception], ...]:
    """What Optuna raises if an open storage can't be read or written: the disk is full, a lock is held, no server."""
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError


def opened(url: str) -> optuna.storages.RDBStorage:
    """The storage of that URL, with its tables made where there are none; InputError if it can't be opened."""
    from sqlalchemy.engine import make_url  # importing it takes its time
    from sqlalchemy.exc import DBAPIError

    check_url(url)
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
    shown = make_url(url).render_as_string(hide_password=True)
    raise InputError(f"storage: {shown!r} can't be opened ({reason})")


def check_url(url: str) -> None:
    """InputError if ``url`` isn't of a URL's form; nothing is opened."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url)
    except ArgumentError:
        raise InputError(f"storage: {url!r} is no URL; sqlite:///FILE is one, of a file here") from None


def name_metrics(study: optuna.Study) -> None:
    """Name the values of a study's trials: ``score``, and ``cost`` where trials have one. Dashboards show the names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["score", "cost"][: len(study.directions)])


def write_study(url: str, name: str, directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial]) -> None:
    """Write a finished or interrupted search to a storage, as one study.

    If the study is there already and its trials are the first ones of ``trials``, the others are added: the search went
    on after an interruption. If it has other trials, they stay as they are, and the next free name is taken: ``name``
    and a number.

    Parameters
    ----------
    url : str
        Of the storage: ``sqlite:///file.db``, ``postgresql://...``.
    name : str
        Of the study.
    directions : sequence of StudyDirection
        Of the trials' values.
    trials : sequence of FrozenTrial
        Finished ones, in order.

    Raises
    ------
    InputError
        If the storage can't be opened.
    """
    storage = opened(url)
    with quiet():
        for number in count(1):
            study = optuna.create_study(
                study_name=name if number == 1 else f"{name} ({number})",
                storage=storage,
                directions=directions,
                load_if_exists=True,
            )
            there = study.get_trials(deepcopy=False)
            if all(map(_same, trials, there)):
                name_metrics(study)
                study.add_trials(trials[len(there) :])
                return


def _same(one: FrozenTrial, other: FrozenTrial) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ("state", "values", "params"))
