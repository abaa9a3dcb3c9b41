"""Groups of a sweep: a dense network, the runs (cells) that prune it, and the data and mask space that they share."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from masksearch.data import DATASETS, Data, load_data
from masksearch.experiment.cell import AUTO, Cell
from masksearch.experiment.cell_run import run_cell
from masksearch.experiment.context import CellContext, DenseNetwork
from masksearch.experiment.identity import short_hash
from masksearch.experiment.settings.all_settings import Settings
from masksearch.experiment.steps.dense import dense_folder, dense_network
from masksearch.experiment.steps.mask_search import front_folder
from masksearch.experiment.store.mirror import LOCAL, Mirror
from masksearch.experiment.store.run_folder import clear_failure, record_failure
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.models import build_model
from masksearch.pruning.one_shot import block_weights
from masksearch.spaces import NetworkSpace, space_of
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError


@dataclass(frozen=True)
class DenseGroup:
    """A dense network and the runs of a sweep (cells) that prune it, with the data and mask space that they share."""

    users: list[Cell]  # all cells of the dense network; at least one
    to_do: list[Cell]  # those of them that run now
    data: Data
    space: NetworkSpace
    mirror: Mirror = LOCAL

    def dense(self, device: torch.device, callback: SweepCallback) -> DenseNetwork:
        """Return the dense network that all runs of this group prune: trained now, or read if it is on disk."""
        first = self.users[0]
        rows = first.settings.train.epochs if first.settings.sweep.train_fn is None else 1
        callback.dense_begins(first.seed, rows)
        with self.mirror.work(dense_folder(first), shared=True):
            return dense_network(self.users, self.data, self.space, moments_of(self.users), device, callback.epoch)

    def run(self, dense: DenseNetwork, path: Path, device: torch.device, callback: SweepCallback) -> None:
        """Execute the unfinished runs of this group, which all prune the dense network ``dense``, in order.

        An error that ends a cell is recorded in its folder; the other cells go on. An :class:`OSError`, such as that of
        a full disk, ends the sweep.
        """
        for cell in self.to_do:
            with ExitStack() as uploads:
                if cell.control != "none":
                    self.mirror.fetch(path / cell.treated.folder)
                if cell.front:
                    uploads.enter_context(self.mirror.work(front_folder(cell), shared=True))
                uploads.enter_context(self.mirror.work(path / cell.folder))
                clear_failure(path / cell.folder)
                try:
                    run_cell(CellContext(cell, self.space, self.data, dense, device), path, callback)
                except OSError:
                    raise
                except Exception as error:
                    callback.cell_fails(cell, record_failure(path, cell, error))

    def fail(self, path: Path, error: Exception, callback: SweepCallback) -> None:
        """Record, in the folders of this group's unfinished runs, that the training of their dense network failed."""
        for cell in self.to_do:
            callback.cell_fails(cell, record_failure(path, cell, error))


def run_inline(
    groups: Iterable[DenseGroup], path: Path, device: torch.device, threads: int, callback: SweepCallback
) -> None:
    """Execute a sweep in this process: train the dense network of each group, then execute the runs that prune it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    hooks = cast(SweepCallback, _OwnErrors(callback))
    try:
        for group in groups:
            try:
                dense = group.dense(device, hooks)
            except OSError:
                raise
            except Exception as error:
                group.fail(path, error, hooks)
            else:
                group.run(dense, path, device, hooks)
    except _CallbackError as stop:
        raise stop.error from None
    finally:
        torch.set_num_threads(before)


class _CallbackError(BaseException):
    """Carries an exception of a callback through code that records the errors of cells."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _OwnErrors:
    """A callback whose exceptions end the sweep, in contrast to those of cells."""

    def __init__(self, callback: SweepCallback) -> None:
        self._callback = callback

    def __getattr__(self, hook: str) -> Any:
        return partial(self._call, getattr(self._callback, hook))

    def _call(self, hook: Callable[..., Any], *arguments: object) -> None:
        try:
            hook(*arguments)
        except Exception as error:
            raise _CallbackError(error) from error


def data_key(part: Settings) -> tuple[object, ...]:
    """Return a tuple of the settings that decide the data; equal tuples mean the same data, loaded once."""
    scoring = part.scoring
    sizes = scoring.search_examples, scoring.train_examples, scoring.val_examples
    forms = part.sweep.image_size, part.sweep.text_length, part.sweep.tokenizer
    return part.sweep.dataset, part.run.data_root, *forms, *sizes


def load_part(part: Settings) -> Data:
    """Load the data that the settings name; raise an InputError if ``sweep.task`` is not the task of the data."""
    data = load_data(
        part.sweep.dataset,
        part.run.data_root,
        download=part.run.download,
        image_size=part.sweep.image_size,
        text_length=part.sweep.text_length,
        tokenizer=part.sweep.tokenizer,
        search_examples=part.scoring.search_examples,
        train_examples=part.scoring.train_examples,
        val_examples=part.scoring.val_examples,
    )
    if part.sweep.task not in (None, data.task.name):
        raise InputError(f"task: {part.sweep.task}; {data.name} returns data for {data.task.name}: leave task out")
    return data


def data_digest(part: Settings, data: Data) -> str:
    """Return a hash of the user's examples and task, to tell apart results on different data; "" for published data.

    Streamed examples count by number, by the first ones, and by the identity that the user has given them.
    """
    if part.sweep.dataset.partition(":")[0] in DATASETS:
        return data.content
    content: object = data.digest()
    if data.streamed:
        content = [split.digest() for split in (data.train, data.val, data.test)]
    return short_hash({"content": content, "task": data.task.identity})


def space_key(part: Settings) -> tuple[object, ...]:
    """Return a tuple of the settings that decide the mask space; equal tuples and equal data give equal spaces."""
    blockwise = part.schedules.reconstruct == "blockwise"
    return part.sweep.model, part.sweep.granularity, part.scoring.layers, blockwise


def part_space(part: Settings, data: Data) -> NetworkSpace:
    """Return the space of masks for the network and granularity that the settings name; it is equal for all seeds."""
    model = build_model(part.sweep.model, data, seed=0)
    if part.schedules.reconstruct == "blockwise":
        return block_weights(model, data.example(2), (2, 4) if part.sweep.granularity == "nm" else None)
    return space_of(part.sweep.granularity, model, data.example(1), part.scoring.layers)


def moments_of(cells: Iterable[Cell]) -> set[str]:
    """Return the moments of the dense training, such as ``3ep``, whose weights runs of a sweep need."""
    moments = set()
    for cell in cells:
        moments |= {cell.find_at} - {AUTO}
        moments |= {cell.rewind_to} - {"none", "lr", "random"}
        if cell.searches:
            named = (source.moment for source in cell.settings.search.sources)
            moments |= {str(TrainingMoment.parse(moment)) for moment in named if moment}
        if cell.settings.sweep.dense == "auto":  # another training has no moments left to keep
            moments |= set(map(str, map(TrainingMoment.parse, cell.settings.schedules.save_at)))
    return moments
