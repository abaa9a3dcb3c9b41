"""The contracts of components, as functions that your own can be held to; no test framework is needed.

``check_searcher(make)``, ``check_criterion(row)``, ``check_model(row, shape)`` and ``check_schedule(row)`` go
through all promises of one component and raise AssertionError at the first that is broken. The modules
:mod:`~masksearch.testing.searchers`, :mod:`~masksearch.testing.criteria` and :mod:`~masksearch.testing.models` have
them one by one. The package's own tests call the same functions.
"""

from masksearch.testing.criteria import check_criterion
from masksearch.testing.models import check_model
from masksearch.testing.schedules import check_schedule
from masksearch.testing.searchers import check_searcher

__all__ = ["check_criterion", "check_model", "check_schedule", "check_searcher"]
