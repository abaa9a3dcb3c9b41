"""Checks for your own searchers, criteria, networks and schedules; no test framework is needed.

``check_searcher(make)``, ``check_criterion(row)``, ``check_model(row, shape)`` and ``check_schedule(row)`` go
through all promises of one component and raise AssertionError at the first that is broken. The modules
``check_searchers``, ``check_criteria`` and ``check_models`` have them one by one.
The package's own tests call the same functions.
"""

from masksearch.testing.check_criteria import check_criterion
from masksearch.testing.check_models import check_model
from masksearch.testing.check_schedules import check_schedule
from masksearch.testing.check_searchers import check_searcher

__all__ = ["check_criterion", "check_model", "check_schedule", "check_searcher"]
