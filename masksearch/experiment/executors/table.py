"""The table of executors, and the choice of processes and threads for a sweep."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from masksearch.data import Data
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.executors.crew import Crew, run_by_crew
from masksearch.experiment.executors.processes import ProcessCrew
from masksearch.experiment.executors.ray_actors import RayCrew, cluster_cpus
from masksearch.experiment.executors.worker import WorkerPlan
from masksearch.experiment.group import Group, run_inline
from masksearch.experiment.machine import must_be_alone, uses_one_thread
from masksearch.experiment.settings.combined import RunSettings, Settings
from masksearch.utils.errors import InputError
from masksearch.utils.registry import Table

__all__ = ["EXECUTORS", "Executor", "Plan", "plan_of", "run_groups"]

_CELLS_EACH = 4  # at least, for a process to be worth the two seconds that its start takes


@dataclass(frozen=True)
class Plan:
    """How a sweep runs: its executor, the number of cells that run at the same time, and CPU threads of each cell."""

    executor: str
    workers: int
    threads: int
    address: str = ""  # of a Ray cluster


@dataclass(frozen=True)
class Executor:
    """Definition of a way to run the cells of a sweep: a description, and the function that starts workers."""

    about: str
    crew: Callable[[RunSettings, Plan, Path, torch.device], Crew] | None = None  # None: this process runs the cells


def _processes(run: RunSettings, plan: Plan, path: Path, device: torch.device) -> Crew:
    return ProcessCrew(WorkerPlan(run, plan.threads, path), plan.workers, device)


def _ray(run: RunSettings, plan: Plan, path: Path, device: torch.device) -> Crew:
    return RayCrew(WorkerPlan(run, plan.threads, path), plan.workers, run.gpus_per_cell, stop=not plan.address)


EXECUTORS: Table[Executor] = Table(
    "executor",
    {
        "inline": Executor("run one cell after the other in this process"),
        "processes": Executor(
            "processes:N runs N cells at a time on this machine; with GPUs, one cell per GPU", _processes
        ),
        "ray": Executor("ray runs cells on a local Ray, ray:ADDRESS on a cluster (auto, ray://HOST:10001)", _ray),
    },
)


def plan_of(parts: Sequence[Settings], data: Sequence[Data], n_cells: int, device: torch.device) -> Plan:
    """Choose the executor, the number of processes and their CPU threads for a sweep's unfinished cells.

    Small networks (no convolutions, fewer than 1,000,000 parameters) on the CPU calculate on one thread each, so that
    results are the same for any number of processes. With the executor ``auto``, as many processes run them as there
    are threads, but no more than one for every four cells; all else runs inline. ``auto`` also runs inline on GPUs, for
    budgets in seconds, for measured latencies, and for studies that sweeps share.

    Raises
    ------
    InputError
        For an unknown executor, or a wrong number of processes.
    """
    run, allowed = parts[0].run, torch.get_num_threads()
    name, _, argument = run.executor.partition(":")
    small = device.type == "cpu" and all(map(uses_one_thread, parts, data))
    if name == "auto" and not argument:
        useful = n_cells // _CELLS_EACH if small and not any(map(must_be_alone, parts)) else 1
        workers = max(1, min(allowed, useful))
        return Plan("inline" if workers == 1 else "processes", workers, 1 if small else max(1, allowed // workers))
    EXECUTORS[name]  # raises for an unknown name
    if name == "inline":
        return Plan(name, 1, 1 if small else allowed)
    if name == "processes":
        if not argument.isdigit() or int(argument) < 1:
            raise InputError(f"executor: {run.executor!r}; write processes:N, for N processes from 1 on")
        workers = int(argument)
        return Plan(name, workers, 1 if small else max(1, allowed // workers))
    cpus = os.cpu_count() or 1
    if name == "ray":
        threads = 1 if small else (run.threads or 1)
        found = cluster_cpus(argument, max(cpus, threads))
        return Plan(name, max(1, min(found // threads, max(1, n_cells))), threads, argument)
    return Plan(name, 1, allowed)


def run_groups(
    groups: Iterable[Group], path: Path, run: RunSettings, plan: Plan, device: torch.device, callback: SweepCallback
) -> None:
    """Run all groups of a sweep's cells by the executor that ``plan`` names."""
    crew = EXECUTORS[plan.executor].crew
    if crew is None:
        run_inline(groups, path, device, plan.threads, callback)
    else:
        run_by_crew(groups, path, crew(run, plan, path, device), callback)
