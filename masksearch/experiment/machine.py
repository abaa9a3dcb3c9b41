"""The machine a sweep runs on: its device, threads and versions."""

import os
import platform
from importlib.metadata import version

import torch

from masksearch.experiment.settings.combined import RunSettings
from masksearch.utils.errors import InputError

__all__ = ["describe_machine", "prepare"]


def prepare(run: RunSettings) -> torch.device:
    """Choose the device and set torch's process-wide switches.

    Raises
    ------
    InputError
        If there is no such device.
    """
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    if run.deterministic:
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # cuBLAS is deterministic only with fixed workspaces
    if torch.are_deterministic_algorithms_enabled() != run.deterministic:
        torch.use_deterministic_algorithms(run.deterministic)  # its first call imports torch's compiler: a second
    # Timing cuDNN's algorithms costs seconds at every new width, and may choose others when a run is taken up again.
    torch.backends.cudnn.benchmark = False
    if run.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(run.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        found += ["mps"] if torch.backends.mps.is_available() else []
        if run.device in found or (
            run.device == "cuda" and "cuda:0" in found
        ):  # a device that is there, and is full or in use
            raise InputError(f"device: {run.device!r}; PyTorch can't use it: {str(error).splitlines()[0]}") from None
        raise InputError(
            f"device: {run.device!r}; allowed are auto, cpu, cuda, cuda:1 or mps, and PyTorch finds only "
            f"{' and '.join(found)} on this machine: give --device auto"
        ) from None
    return device


def describe_machine(device: torch.device, workers: int, threads: int) -> dict[str, str]:
    """Versions and hardware, for results to carry; ``threads`` are those of each of the ``workers``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "masksearch": version("masksearch"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "system": platform.platform(),
        "device": f"{device} ({name})",
        "threads": str(threads),
        "workers": str(workers),
    }
