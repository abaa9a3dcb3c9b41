"""The machine that runs a sweep: its device and versions, and whether several cells may run at the same time."""

import os
import platform
from importlib.metadata import version

import torch
from torch.nn.modules.conv import _ConvNd

from masksearch.data import Data
from masksearch.experiment.settings.all_settings import RunSettings, Settings
from masksearch.models import build_model
from masksearch.utils.nested import as_device

_SMALL = 1_000_000  # parameters: a batch of a smaller network is too little work for a second thread


def prepare(run: RunSettings) -> torch.device:
    """Set PyTorch's number of threads and its determinism for this process; return the device that the settings name.

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
    return as_device(run.device, "auto, ", "--device auto")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine(device: torch.device) -> dict[str, str]:
    """Return versions (Python, torch, numpy, masksearch), operating system and device as {name: text}."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "masksearch": version("masksearch"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "system": platform.platform(),
        "device": f"{device} ({name})",
    }


def uses_one_thread(part: Settings, data: Data) -> bool:
    """Return whether one thread suffices for a network: it has no convolutions and fewer than 1,000,000 parameters."""
    model = build_model(part.sweep.model, data, seed=0)
    convolves = any(isinstance(module, _ConvNd) for module in model.modules())
    return not convolves and sum(parameter.numel() for parameter in model.parameters()) < _SMALL


def must_be_alone(part: Settings) -> bool:
    """Return whether a sweep's runs can't go in parallel: they measure times, share a study or use several scorers."""
    timed = part.scoring.seconds is not None or part.sweep.capped == "latency"
    return timed or part.optuna.study is not None or part.search.scorers > 1
