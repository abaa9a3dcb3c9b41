"""Executors of a sweep: one process, several processes, or a Ray cluster."""

from masksearch.experiment.executors.table import EXECUTORS, Executor, Plan, plan_of, run_groups

__all__ = ["EXECUTORS", "Executor", "Plan", "plan_of", "run_groups"]
