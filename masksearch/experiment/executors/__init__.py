"""Executors: what runs the cells of a sweep, one after the other or in several processes side by side."""

from masksearch.experiment.executors.choice import Plan, plan_workers
from masksearch.experiment.executors.inline import run_inline
from masksearch.experiment.executors.processes import run_in_processes

__all__ = ["Plan", "plan_workers", "run_in_processes", "run_inline"]
