"""The search of a front: done once, shared by all caps and sweeps that ask for it."""

from pathlib import Path

from torch import nn

from masksearch.core.protocol import Cost
from masksearch.experiment.cell import Cell
from masksearch.experiment.context import CellContext
from masksearch.experiment.identity import short_hash
from masksearch.scoring import LatencyShare
from masksearch.spaces import FilterSpace

__all__ = ["FRONTS", "front_cost", "front_folder"]

FRONTS = "fronts"
"""The folder of all searches of fronts, beside the sweeps."""


def front_folder(cell: Cell) -> Path:
    """Where a cell's search of a front lies: under ``runs/fronts``, named by the hash of what decides it."""
    sweep = cell.settings.sweep
    name = f"{sweep.dataset}_{sweep.model}_{cell.method}_{cell.front}_k{cell.find_at}_seed{cell.seed}"
    name = name.replace("/", "-").replace(":", "-")
    return Path(cell.settings.run.runs) / FRONTS / f"{name}_{short_hash(cell.front_identity)}"


def front_cost(context: CellContext, model: nn.Module) -> Cost:
    """What the masks of a cell's front cost; latencies are measured on the device of ``model``."""
    front = context.cell.front
    assert front is not None, "only cells with a front have a cost"
    if front != "latency":
        return front
    assert isinstance(context.space, FilterSpace), "settings with caps have filters"
    return LatencyShare(model, context.space, context.example)
