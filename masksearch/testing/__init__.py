"""Checks for your own searchers, criteria, networks and schedules; no test framework is needed.

``check_searcher(make)``, ``check_criterion(row)``, ``check_model(row, shape)`` and ``check_schedule(row)`` go
through all promises of one component and raise AssertionError at the first that is broken. The modules
``check_searchers``, ``check_criteria`` and ``check_models`` have them one by one.
The package's own tests call the same functions.
"""

from masksearch.experiment.settings.schedule_settings import parse_rewind
from masksearch.schedules import Schedule
from masksearch.testing.check_criteria import check_criterion
from masksearch.testing.check_model_builders import check_model
from masksearch.testing.check_searchers import check_searcher

__all__ = ["check_criterion", "check_model", "check_schedule", "check_searcher"]


def check_schedule(row: Schedule) -> None:
    """Check that a pruning schedule's settings are consistent; raise AssertionError or InputError if they are not."""
    assert row.about, "no word about what it does"
    assert "\n" not in row.about, "more than one line about what it does"
    assert row.rounds >= 1, f"{row.rounds} rounds"
    parse_rewind(row.rewind_to)
    assert row.epochs is None or row.epochs > 0, f"{row.epochs} epochs"
    assert row.bn_l1 >= 0, f"an L1 term of {row.bn_l1}"
    assert not (row.changes and row.detects), "a mask that is found once can't change within the training"
    if row.changes or row.detects:
        # A mask that changes during its round has no single moment at which it was found.
        assert row.rounds == 1, "a mask that changes, or is detected, has no rounds"
    assert row.has_own_moment == (row.detects or row.changes == "ramp")
