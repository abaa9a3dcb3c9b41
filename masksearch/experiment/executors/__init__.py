"""Executors of a sweep: they run its cells in this process, in several processes, or on a Ray cluster."""

from masksearch.experiment.executors.executor_choice import EXECUTORS, Executor, Plan, plan_of, run_groups

__all__ = ["EXECUTORS", "Executor", "Plan", "plan_of", "run_groups"]
