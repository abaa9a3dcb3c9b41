"""What a search knows before its first scoring: saliencies, a mask to start from, and masks to be compared with."""

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.core.space import Density
from masksearch.criteria import Connectivity, connected
from masksearch.criteria.gradual import gradual_saliency
from masksearch.data import Data
from masksearch.experiment.cell import Cell
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.settings.search_settings import Source
from masksearch.experiment.steps.criterion import criterion_batches, criterion_mask, criterion_saliency
from masksearch.experiment.steps.dense import DenseNetwork
from masksearch.spaces import NetworkSpace
from masksearch.training.duration import Duration
from masksearch.utils.files import load_tensors, save_tensors
from masksearch.utils.seeds import derive

__all__ = ["SearchInputs", "known"]


@dataclass(frozen=True)
class SearchInputs:
    """What a search is given."""

    saliencies: dict[str, Tensor]  # by the text that asked for them, (n_units,) each
    start: Mask | None
    finalists: dict[str, Mask]  # by the text that asked for them
    seconds: float  # that finding it out took, also in an earlier process
    pruning: float  # of them, those of gradual pruning: the same in every process


def known(
    cell: Cell,
    model: nn.Module,
    space: NetworkSpace,
    data: Data,
    dense: DenseNetwork,
    device: torch.device,
    density: Density,
    alive: Mask | None,
    folder: Path,
    callback: SweepCallback,
) -> SearchInputs:
    """The criteria of a cell's search, each at the weights that it looks at.

    Parameters
    ----------
    model : nn.Module
        With the weights that the mask is found at; left as it is.
    folder : Path
        The search's; what took a training is kept there, for a process that goes on.
    callback : SweepCallback
        Hears of that training.
    """
    looking = _Looking(cell, model, space, data, dense, device, density, alive, folder, callback)
    begun, search = perf_counter(), cell.settings.search
    saliencies = {text: looking.saliency(text) for text in search.saliencies}
    start = None if search.warm_start is None else looking.mask(search.warm_start, saliencies)
    finalists = {text: looking.mask(text, saliencies) for text in search.finalists}
    seconds = perf_counter() - begun + looking.seconds_before
    return SearchInputs(saliencies, start, finalists, seconds, looking.pruning)


@dataclass
class _Looking:
    cell: Cell
    model: nn.Module
    space: NetworkSpace
    data: Data
    dense: DenseNetwork
    device: torch.device
    density: Density
    alive: Mask | None
    folder: Path
    callback: SweepCallback
    seconds_before: float = 0.0  # of an earlier process
    pruning: float = 0.0  # seconds of gradual pruning, in this process or an earlier one

    def saliency(self, text: str) -> Tensor:
        """A criterion's saliency (n_units,)."""
        source = Source.parse(text)
        if source.epochs is not None:
            return self._gradual(source.name, source.epochs)
        initial = self.dense.weights["0"]
        there = self._at(source.moment)
        return criterion_saliency(
            self.cell, there, self.space, self.data, initial, self.device, source.name, self.alive
        )

    def mask(self, text: str, saliencies: dict[str, Tensor]) -> Mask:
        """A criterion's mask."""
        source = Source.parse(text)
        if source.epochs is None:
            there, initial = self._at(source.moment), self.dense.weights["0"]
            return criterion_mask(
                *(self.cell, there, self.space, self.data, initial, self.device, self.density, self.alive),
                criterion=source.name,
                scope=source.scope,
            )
        plain = text if source.scope is None else text.removesuffix(f":{source.scope}")
        saliency = saliencies[plain] if plain in saliencies else self.saliency(plain)
        scoring, hold = self.cell.settings.scoring, self.cell.settings.hold
        rank = partial(
            self.space.top_k, density=self.density, scope=source.scope or "global", on_empty=scoring.on_empty, hold=hold
        )
        if not scoring.connected:
            return rank(saliency)
        return connected(saliency, rank, Connectivity(self.model, self.space, self.data.test.images[:1]))

    def _gradual(self, name: str, epochs: int) -> Tensor:
        """That of gradual pruning, which is kept: a second training might not give the same to the bit."""
        file = self.folder / f"{name}_gradual{epochs}ep.safetensors"
        if file.exists():
            tensors, seconds = load_tensors(file)
            self.seconds_before += seconds
            self.pruning += seconds
            return tensors["saliency"]
        assert isinstance(self.density, float), "refused with the settings"
        begun = perf_counter()
        self.callback.gradual_begins(self.cell, name, epochs)
        train, scoring = self.cell.settings.train, self.cell.settings.scoring
        lr_schedule = "constant" if train.lr_schedule == "plateau" else train.lr_schedule
        saliency = gradual_saliency(
            *(self.model, self.space, self.data.train),
            replace(train, epochs=epochs, bn_l1=0.0, lr_schedule=lr_schedule),
            self.density,
            name,
            criterion_batches(self.cell, self.data, name),
            scope=scoring.scope,
            initial={key: tensor.to(self.device) for key, tensor in self.dense.weights["0"].items()},
            on_empty=scoring.on_empty,
            hold=self.cell.settings.hold,
            alive=self.alive,
            seed=derive(self.cell.seed, "gradual saliency"),
            device=self.device,
            augment=self.data.augment,
            on_epoch=self.callback.epoch,
        )
        self.callback.search_begins(self.cell)
        self.folder.mkdir(parents=True, exist_ok=True)
        seconds = perf_counter() - begun
        save_tensors(file, {"saliency": saliency}, seconds)
        self.pruning += seconds
        return saliency

    def _at(self, moment: str) -> nn.Module:
        """The network at a moment of the dense training: ``model`` itself if none is named."""
        if not moment:
            return self.model
        there = copy.deepcopy(self.model)
        there.load_state_dict(self.dense.weights[str(Duration.parse(moment))])
        if self.alive is not None:
            self.space.apply(there, self.alive)
        return there
