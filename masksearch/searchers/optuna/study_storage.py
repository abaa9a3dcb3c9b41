"""Optuna storages: opening them, and writing the study of a finished search for dashboards and plots."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from masksearch.utils.errors import InputError, first_line

_TRIES = 10  # to open a storage while another process creates its tables


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager in which Optuna logs only errors."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def storage_errors() -> tuple[type[Exception], ...]:
    """Return the exception classes of an Optuna storage that fails: full disk, held lock or lost server."""
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError


def opened(url: str) -> optuna.storages.RDBStorage:
    """Open the Optuna storage at ``url`` and create its tables; return it, or raise an InputError if that fails."""
    from sqlalchemy.engine import make_url  # a slow import
    from sqlalchemy.exc import DBAPIError

    check_url(url)
    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None  # seconds, for a lock
    reason = ""
    for _ in range(_TRIES):
        try:
            with quiet():
                return optuna.storages.RDBStorage(url, engine_kwargs=waits)
        except Exception as error:  # from a driver, SQLAlchemy or the operating system
            reason = first_line(error)
            if not isinstance(error, DBAPIError | StorageInternalError):
                break
            time.sleep(0.1)
    shown = make_url(url).render_as_string(hide_password=True)
    raise InputError(f"storage: {shown!r} can't be opened ({reason})")


def check_url(url: str) -> None:
    """Raise an InputError if ``url`` isn't a valid URL of an Optuna storage, without opening the storage."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url)
    except ArgumentError:
        raise InputError(f"storage: {url!r} is no URL; sqlite:///FILE is one, of a file here") from None


def name_metrics(study: optuna.Study) -> None:
    """Name the values of an Optuna study's trials ``score`` and ``cost``, for display in dashboards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["score", "cost"][: len(study.directions)])


def write_study(url: str, name: str, directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial]) -> None:
    """Write all trials of a finished or interrupted search to an Optuna storage as one study.

    If the study exists and its trials are the first of ``trials``, the search was resumed, and the other trials are
    added. If the study has other trials, it stays unchanged, and the new study gets a number behind its name.

    Parameters
    ----------
    url : str
        URL of the storage: ``sqlite:///file.db``, ``postgresql://...``.
    name : str
        Name of the study.
    directions : sequence of StudyDirection
        Directions of the trials' values: maximise or minimise.
    trials : sequence of FrozenTrial
        Finished trials, in order.

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
            existing = study.get_trials(deepcopy=False)
            if all(map(_same, trials, existing)):
                name_metrics(study)
                study.add_trials(trials[len(existing) :])
                return


def _same(one: FrozenTrial, other: FrozenTrial) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ("state", "values", "params"))
