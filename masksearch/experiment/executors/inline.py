"""The inline executor: all cells in this process, one after the other."""

from collections.abc import Iterable
from pathlib import Path

import torch

from masksearch.experiment.cell_run import run_cell
from masksearch.experiment.context import CellContext
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.group import Group

__all__ = ["run_inline"]


def run_inline(
    groups: Iterable[Group], path: Path, device: torch.device, threads: int, callback: SweepCallback
) -> None:
    """Run the cells of the groups on some CPU threads, in order, each group after its dense network."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _run(groups, path, device, callback)
    finally:
        torch.set_num_threads(before)


def _run(groups: Iterable[Group], path: Path, device: torch.device, callback: SweepCallback) -> None:
    for group in groups:
        dense = group.dense(device, callback)
        for cell in group.to_do:
            run_cell(CellContext(cell, group.space, group.data, dense, device), path, callback)
