"""The inline executor: all cells in this process, one after the other."""

from collections.abc import Iterable
from pathlib import Path

import torch

from masksearch.experiment.group import Group
from masksearch.experiment.run_cell import run_cell
from masksearch.experiment.watcher import Watcher

__all__ = ["run_inline"]


def run_inline(groups: Iterable[Group], path: Path, device: torch.device, threads: int, watcher: Watcher) -> None:
    """Run the cells of the groups on some CPU threads, in order, each group after its dense network."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _run(groups, path, device, watcher)
    finally:
        torch.set_num_threads(before)


def _run(groups: Iterable[Group], path: Path, device: torch.device, watcher: Watcher) -> None:
    for group in groups:
        dense = group.dense(device, watcher)
        for cell in group.to_do:
            run_cell(cell, group.data, group.space, dense, path, device, watcher)
