"""The table of executors, and the choice of processes and threads for a sweep."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from masksearch.data import Data
from masksearch.experiment.dense_group import DenseGroup, run_inline
from masksearch.experiment.executors.cell_processes import ProcessCrew
from masksearch.experiment.executors.crew import Crew, run_by_crew
from masksearch.experiment.executors.ray_cells import RayCrew, Resources, cluster_resources
from masksearch.experiment.executors.worker import WorkerPlan
from masksearch.experiment.process_setup import cores, must_be_alone, uses_one_thread
from masksearch.experiment.settings.all_settings import RunSettings, Settings
from masksearch.experiment.store.mirror import LOCAL, Mirror
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.utils.errors import InputError
from masksearch.utils.registry import Table

_CELLS_EACH = 4  # at least, for a process to be worth the two seconds that its start takes


@dataclass(frozen=True)
class Plan:
    """How a sweep is executed: its executor, the number of runs at the same time, and the CPU threads of each run."""

    executor: str
    workers: int
    threads: int
    address: str = ""  # of a Ray cluster
    mirror: Mirror = LOCAL  # of a run folder at a URL


@dataclass(frozen=True)
class Executor:
    """Definition of an executor, which is a way to run a sweep: a description, and a function that starts workers."""

    about: str
    crew: Callable[[RunSettings, Plan, Path, torch.device], Crew] | None = None  # None: this process runs the cells


def _processes(run: RunSettings, plan: Plan, path: Path, device: torch.device) -> Crew:
    return ProcessCrew(WorkerPlan(run, plan.threads, path, plan.mirror), plan.workers, device)


def _ray(run: RunSettings, plan: Plan, path: Path, device: torch.device) -> Crew:
    worker = WorkerPlan(run, plan.threads, path, plan.mirror)
    return RayCrew(worker, plan.workers, stop=not plan.address)


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


def plan_of(
    parts: Sequence[Settings], data: Sequence[Data], n_cells: int, device: torch.device, *, idle: bool = False
) -> Plan:
    """Choose how to execute a sweep's unfinished runs: executor, number of processes, CPU threads of each run.

    ``threads`` in the settings is the number of threads of each cell. If it is not given, cells in several processes
    and on Ray have one thread, and so have small networks (no convolutions, fewer than 1,000,000 parameters) on the
    CPU; all others have PyTorch's number. The executor ``auto`` is ``inline``; small networks run in as many processes
    as PyTorch has threads, but in no more than one for every four cells. Those stay inline, too, if ``threads`` is
    given, on GPUs, for budgets in seconds, for measured latencies, and for studies that sweeps share.

    With ``idle``, nothing is left to run, so that Ray is not started.

    Raises
    ------
    InputError
        For an unknown executor, a wrong number of processes, or more threads than a Ray cluster has CPUs.

    Warns
    -----
    UserWarning
        If all cells that run at the same time have more threads than the machine has cores.
    """
    run, usual = parts[0].run, torch.get_num_threads()
    check_executor(run.executor)
    name, _, argument = run.executor.partition(":")
    small = device.type == "cpu" and all(map(uses_one_thread, parts, data))
    if name == "auto" and not argument:
        shared = small and run.threads is None and not any(map(must_be_alone, parts))
        workers = max(1, min(usual, n_cells // _CELLS_EACH)) if shared else 1
        name, argument = ("inline", "") if workers == 1 else ("processes", str(workers))
    if name == "processes":
        plan = Plan(name, int(argument), run.threads or 1)
        _warn_of_crowd(plan, cores())
        return plan
    if name == "ray":
        threads = run.threads or 1
        if idle:
            return Plan(name, 1, threads, argument)
        cell = Resources(threads, run.gpus_per_cell, run.memory_per_cell)
        cluster = cluster_resources(argument, max(cores(), threads))
        room = cluster.room(cell)
        if not room and n_cells:
            raise InputError(
                f"executor: the Ray cluster has {cluster}, and each cell needs {cell}; give smaller --threads, "
                "run.gpus_per_cell or run.memory_per_cell"
            )
        plan = Plan(name, max(1, min(room, n_cells)), threads, argument)
        _warn_of_crowd(plan, cluster.cpus if argument else cores())
        return plan
    return Plan(name, 1, run.threads or (1 if small else usual))


def check_executor(executor: str) -> None:
    """Raise an InputError unless ``executor`` names an executor, such as ``auto``, ``ray`` or ``processes:4``."""
    name, _, argument = executor.partition(":")
    if executor != "auto":
        EXECUTORS.check(name)
    if name == "processes" and (not argument.isdigit() or int(argument) < 1):
        raise InputError(f"executor: {executor!r}; write processes:N, for N processes from 1 on")


def _warn_of_crowd(plan: Plan, cores: int) -> None:
    if plan.workers * plan.threads > cores:
        threads = f"{plan.threads} thread{'s' * (plan.threads != 1)}"
        warnings.warn(
            f"executor: {plan.workers} cells at the same time with {threads} each share {cores} "
            f"core{'s' * (cores != 1)}, and slow one another down; give fewer processes, or fewer threads for each "
            "cell",
            stacklevel=3,
        )


def run_groups(
    groups: Iterable[DenseGroup],
    path: Path,
    run: RunSettings,
    plan: Plan,
    device: torch.device,
    callback: SweepCallback,
) -> None:
    """Execute a sweep by the executor in ``plan``; ``groups`` are dense networks with the runs that prune them."""
    crew = EXECUTORS[plan.executor].crew
    if crew is None:
        run_inline(groups, path, device, plan.threads, callback)
    else:
        run_by_crew(groups, path, crew(run, plan, path, device), callback)
