"""The table of kinds of workers that a parallel scorer can use."""

from collections.abc import Callable

from masksearch.scoring.parallel.coroutines import CoroutineWorkers
from masksearch.scoring.parallel.processes import ProcessWorkers
from masksearch.scoring.parallel.ray_actors import RayWorkers
from masksearch.scoring.parallel.tasks import Plan, Workers
from masksearch.utils.registry import Table

__all__ = ["WORKERS"]

WORKERS: Table[Callable[[Plan], Workers]] = Table(
    "backend", {"processes": ProcessWorkers, "ray": RayWorkers, "coroutines": CoroutineWorkers}
)
"""Kinds of workers by name; each row starts the workers of a plan."""
