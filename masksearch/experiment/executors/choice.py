"""How many processes run the cells of a sweep, and on how many threads each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.modules.conv import _ConvNd

from masksearch.data import Data
from masksearch.experiment.settings.combined import RunSettings, Settings
from masksearch.models import build_model
from masksearch.utils.errors import InputError

__all__ = ["Plan", "plan_workers"]

_SMALL = 1_000_000  # parameters: a batch of a smaller network is too little work for a second thread
_CELLS_EACH = 4  # at least, for a process to be worth the two seconds that its start takes


@dataclass(frozen=True)
class Plan:
    """Processes that run cells, 1 for this process alone, and the CPU threads of each."""

    workers: int
    threads: int


def plan_workers(parts: Sequence[Settings], data: Sequence[Data], n_cells: int, device: torch.device) -> Plan:
    """Share the allowed threads out to processes.

    Small networks (no convolutions, fewer than 1,000,000 parameters) on the CPU calculate on one thread each, so that
    results are the same for any number of processes. As many processes run as there are threads, but no more than one
    for every four cells. Larger networks, GPUs, budgets in seconds, measured latencies and studies that sweeps share
    have one process, unless ``workers`` is given.

    Parameters
    ----------
    parts : sequence of Settings
        The parts of the sweep.
    data : sequence of Data
        Of each part.
    n_cells : int
        Cells that are left to run.

    Raises
    ------
    InputError
        For several processes on a GPU.
    """
    run: RunSettings = parts[0].run
    allowed, asked = torch.get_num_threads(), run.workers
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
