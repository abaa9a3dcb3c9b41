"""Costs of networks: multiply-adds (MACs), parameters, bytes on disk, seconds and memory of a forward pass."""

from masksearch.cost.mac_counting import Macs, effective_macs, macs
from masksearch.cost.memory import peak_memory
from masksearch.cost.sizes import Disk, disk, nonzero_params, params
from masksearch.cost.timing import Latency, Timing, latency, time_runs

__all__ = [
    "Disk",
    "Latency",
    "Macs",
    "Timing",
    "disk",
    "effective_macs",
    "latency",
    "macs",
    "nonzero_params",
    "params",
    "peak_memory",
    "time_runs",
]
