"""Check that every pruning schedule must pass."""

from masksearch.experiment.settings.schedule_settings import parse_rewind
from masksearch.schedules import Schedule

__all__ = ["check_schedule"]


def check_schedule(row: Schedule) -> None:
    """Check that the fields of a pruning schedule fit each other; raise AssertionError or InputError if not."""
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
