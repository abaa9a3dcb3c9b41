"""Executors: several processes that run the cells of a sweep side by side."""

from masksearch.experiment.executors.processes import run_in_processes
from masksearch.experiment.machine import Plan, plan_workers

__all__ = ["Plan", "plan_workers", "run_in_processes"]
