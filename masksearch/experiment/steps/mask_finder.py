"""Finding the mask of a sweep's cell, by a search, a criterion or a learned supermask."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from masksearch.core.density_allocation import Amount
from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Trial
from masksearch.experiment.context import CellContext
from masksearch.experiment.steps.cell_scorer import scored_network
from masksearch.experiment.steps.criterion import criterion_mask
from masksearch.experiment.steps.mask_search import MaskResult, MaskSearch, front_folder
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.searchers import Searcher
from masksearch.supermasks import learn
from masksearch.training import EpochRow
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import derive, torch_generator


@dataclass(frozen=True)
class MaskFinder:
    """Finder of masks in one run of a sweep: by a search, by a criterion, or by learning a supermask.

    Parameters
    ----------
    on_trial : callable
        A callback of :func:`masksearch.search`.
    later : bool
        Whether an earlier round has trained.
    """

    context: CellContext
    on_trial: Callable[[Trial, History, Searcher], None]
    callback: SweepCallback
    later: bool = False

    def __call__(self, model: nn.Module, amount: Amount, alive: Mask | None, folder: Path) -> MaskResult:
        """Find a mask for the weights of ``model``, within the alive units.

        Parameters
        ----------
        folder : Path
            For a search's history and a supermask's checkpoint; an unfinished one is continued.
        """
        context, cell = self.context, self.context.cell
        model.to(context.device)
        if cell.searches:
            place = front_folder(cell) if cell.front else folder
            return MaskSearch(context, model, place, self.on_trial, self.callback, self.later).run(amount, alive)
        if cell.learns:
            return self._learn(scored_network(context, model), amount, alive, folder)
        return MaskResult(criterion_mask(context, model, amount, alive))

    def _learn(self, model: nn.Module, amount: Amount, alive: Mask | None, folder: Path) -> MaskResult:
        context, cell = self.context, self.context.cell
        if alive is not None:
            raise InputError(
                f"rounds: {cell.rounds}; {cell.method} learns a mask of all weights in one round; give rounds 1"
            )
        seconds = 0.0

        def on_epoch(row: EpochRow) -> None:
            nonlocal seconds
            seconds += row.seconds
            self.callback.epoch(row)

        mask = learn(
            cell.method,
            model,
            context.space,
            context.data.train,
            # Published layer by layer; the flag's "global" means a ranking of criteria over all layers.
            amount if amount.scope == "erk" else amount.across("layerwise"),
            settings=context.settings.supermask,
            seed=derive(cell.seed, "supermask"),
            device=context.device,
            augment=context.data.augment,
            generator=torch_generator(cell.seed, "supermask", "ties"),
            checkpoint=folder / "supermask.safetensors",
            on_epoch=on_epoch,
        )
        return MaskResult(mask, seconds=seconds)
