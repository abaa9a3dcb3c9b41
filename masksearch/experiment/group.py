"""Groups of a sweep: a dense network with the cells that need its weights, and the data and space that they share."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from masksearch.data import DATASETS, Data, load_data
from masksearch.experiment.cell import AUTO, Cell
from masksearch.experiment.cell_run import run_cell
from masksearch.experiment.context import CellContext, DenseNetwork
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.identity import short_hash
from masksearch.experiment.settings.combined import Settings
from masksearch.experiment.steps.dense import dense_network
from masksearch.models import build_model
from masksearch.spaces import NetworkSpace, filter_space, weight_space
from masksearch.training.duration import Duration
from masksearch.utils.errors import InputError

__all__ = ["Group", "data_digest", "data_key", "load_part", "moments_of", "part_space", "run_inline"]


@dataclass(frozen=True)
class Group:
    """A dense network and the cells of one part of a sweep that share it, with their data and mask space."""

    users: list[Cell]  # all cells of the dense network; at least one
    to_do: list[Cell]  # those of them that run now
    data: Data
    space: NetworkSpace

    def dense(self, device: torch.device, callback: SweepCallback) -> DenseNetwork:
        """Train the dense network, or read it if it is already on disk."""
        first = self.users[0]
        callback.dense_begins(first.seed, first.settings.train.epochs)
        return dense_network(self.users, self.data, self.space, moments_of(self.users), device, callback.epoch)

    def run(self, dense: DenseNetwork, path: Path, device: torch.device, callback: SweepCallback) -> None:
        """Run the unfinished cells in order, in their folders under ``path``."""
        for cell in self.to_do:
            run_cell(CellContext(cell, self.space, self.data, dense, device), path, callback)


def run_inline(
    groups: Iterable[Group], path: Path, device: torch.device, threads: int, callback: SweepCallback
) -> None:
    """Run the cells of all groups in this process, each group after its dense network."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for group in groups:
            group.run(group.dense(device, callback), path, device, callback)
    finally:
        torch.set_num_threads(before)


def data_key(part: Settings) -> tuple[object, ...]:
    """Return everything that decides the data of a part of a sweep; parts with equal keys share their data."""
    scoring = part.scoring
    sizes = scoring.search_examples, scoring.train_examples, scoring.val_examples
    return part.sweep.dataset, part.sweep.image_size, part.run.data_root, *sizes


def load_part(part: Settings) -> Data:
    """Load the data of a part of a sweep; raise an InputError if the data is for another task than ``sweep.task``."""
    data = load_data(
        part.sweep.dataset,
        part.run.data_root,
        download=part.run.download,
        image_size=part.sweep.image_size,
        search_examples=part.scoring.search_examples,
        train_examples=part.scoring.train_examples,
        val_examples=part.scoring.val_examples,
    )
    if part.sweep.task not in (None, data.task.name):
        raise InputError(f"task: {part.sweep.task}; {data.name} returns data for {data.task.name}: leave task out")
    return data


def data_digest(part: Settings, data: Data) -> str:
    """Return a digest of the examples and the task, part of what decides results; empty for published data.

    Streamed examples count by number, by the first ones, and by the identity that the user has given them.
    """
    if part.sweep.dataset.partition(":")[0] in DATASETS:
        return data.content
    content: object = data.digest()
    if data.streamed:
        content = [split.digest() for split in (data.train, data.val, data.test)]
    return short_hash({"content": content, "task": data.task.identity})


def part_space(part: Settings, data: Data) -> NetworkSpace:
    """Return the mask space of a part of a sweep, which is the same for all seeds."""
    model = build_model(part.sweep.model, data, seed=0)
    if part.sweep.granularity == "filter":
        return filter_space(model, data.example(1))
    return weight_space(model, part.scoring.layers)


def moments_of(cells: Iterable[Cell]) -> set[str]:
    """Return the moments of the dense training at which the cells need its weights."""
    moments = set()
    for cell in cells:
        moments |= {cell.find_at} - {AUTO}
        moments |= {cell.rewind_to} - {"none", "lr", "random"}
        if cell.searches:
            named = (source.moment for source in cell.settings.search.sources)
            moments |= {str(Duration.parse(moment)) for moment in named if moment}
        if cell.settings.sweep.dense == "auto":  # another training has no moments left to keep
            moments |= set(map(str, map(Duration.parse, cell.settings.schedules.save_at)))
    return moments
