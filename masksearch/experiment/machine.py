"""The machine a sweep runs on: its device and versions, and the processes and threads that share its CPU."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch.nn.modules.conv import _ConvNd

from masksearch.data import Data
from masksearch.experiment.settings.combined import RunSettings, Settings
from masksearch.models import build_model
from masksearch.utils.errors import InputError

__all__ = ["Plan", "describe_machine", "plan_workers", "prepare"]

_SMALL = 1_000_000  # parameters: a batch of a smaller network is too little work for a second thread
_CELLS_EACH = 4  # at least, for a process to be worth the two seconds that its start takes


def prepare(run: RunSettings) -> torch.device:
    """Set PyTorch's number of threads and determinism for this process; return the device of the settings.

    Raises
    ------
    InputError
        If there is no such device.
    """
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    if run.deterministic:  # cuBLAS is deterministic only with fixed workspaces
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.are_deterministic_algorithms_enabled() != run.deterministic:
        torch.use_deterministic_algorithms(run.deterministic)  # its first call imports torch's compiler: a second
    # Timing cuDNN's algorithms costs seconds at every new width, and may choose others when a run is taken up again.
    torch.backends.cudnn.benchmark = False
    if run.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(run.device)
        (torch.ones(1, device=device) + 1).item()  # fails on devices that have no memory, such as meta
    except Exception as error:  # of a backend: a missing module, a driver, a name
        found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        found += ["mps"] if torch.backends.mps.is_available() else []
        if run.device in found or (
            run.device == "cuda" and "cuda:0" in found
        ):  # a device that is there, and is full or in use
            raise InputError(f"device: {run.device!r}; PyTorch can't use it: {_first_line(error)}") from None
        raise InputError(
            f"device: {run.device[:40]!r}; allowed are auto, cpu, cuda, cuda:1 or mps, and PyTorch finds only "
            f"{' and '.join(found)} on this machine: give --device auto"
        ) from None
    return device


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def describe_machine(device: torch.device, plan: "Plan") -> dict[str, str]:
    """Return versions, device, number of workers and threads of each worker, as ``sweep.json`` records them."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "masksearch": version("masksearch"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "system": platform.platform(),
        "device": f"{device} ({name})",
        "threads": str(plan.threads),
        "workers": str(plan.workers),
    }


@dataclass(frozen=True)
class Plan:
    """Number of processes that run cells (1: the main process alone), and CPU threads of each process."""

    workers: int
    threads: int


def plan_workers(parts: Sequence[Settings], data: Sequence[Data], n_cells: int, device: torch.device) -> Plan:
    """Choose how many processes run the ``n_cells`` unfinished cells of a sweep, and on how many CPU threads each.

    Small networks (no convolutions, fewer than 1,000,000 parameters) on the CPU calculate on one thread each, so that
    results are the same for any number of processes. As many processes run as there are threads, but no more than one
    for every four cells. Larger networks, GPUs, budgets in seconds, measured latencies and studies that sweeps share
    have one process, unless ``workers`` is given.

    Parameters
    ----------
    parts : sequence of Settings
        The parts of the sweep.
    data : sequence of Data
        The data of each part.

    Raises
    ------
    InputError
        For several processes on a GPU.
    """
    allowed, asked = torch.get_num_threads(), parts[0].run.workers
    if device.type != "cpu":
        if asked is not None and asked > 1:
            raise InputError(f"workers: {asked}; on {device} cells run one after the other, so workers must be 1")
        return Plan(1, allowed)
    small = all(_is_small(part, own) for part, own in zip(parts, data, strict=True))
    if asked is None:
        useful = n_cells // _CELLS_EACH if small and not any(map(_must_be_alone, parts)) else 1
        asked = max(1, min(allowed, useful))
    return Plan(asked, 1 if small else max(1, allowed // asked))


def _is_small(part: Settings, data: Data) -> bool:
    model = build_model(part.sweep.model, data, seed=0)
    convolves = any(isinstance(module, _ConvNd) for module in model.modules())
    return not convolves and sum(parameter.numel() for parameter in model.parameters()) < _SMALL


def _must_be_alone(part: Settings) -> bool:
    """Whether other cells at the same time would change the results: by time, or through a shared study."""
    timed = part.scoring.seconds is not None or part.sweep.capped == "latency"
    return timed or part.optuna.study is not None
