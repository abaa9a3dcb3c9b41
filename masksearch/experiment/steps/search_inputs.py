"""Inputs of a search: saliencies, the mask to start from, and masks of criteria to compare the result with."""

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

from torch import Tensor, nn

from masksearch.core.amount import Amount
from masksearch.core.mask import Mask
from masksearch.criteria import Connectivity, connected
from masksearch.criteria.gradual import gradual_saliency
from masksearch.experiment.context import CellContext
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.settings.search_settings import Source
from masksearch.experiment.steps.criterion import criterion_batches, criterion_mask, criterion_saliency
from masksearch.utils.files import load_tensors, save_tensors
from masksearch.utils.seeds import derive

__all__ = ["SearchInputs", "search_inputs"]


@dataclass(frozen=True)
class SearchInputs:
    """What a search is given beside its space and scorer."""

    saliencies: dict[str, Tensor]  # (n_units,) each, by the text of the setting that names them
    start: Mask | None
    finalists: dict[str, Mask]  # by the text of the setting that names them
    seconds: float  # of computing all this, an earlier process included
    pruning_seconds: float  # those of gradual pruning: the same in every process


def search_inputs(
    context: CellContext,
    model: nn.Module,
    amount: Amount,
    alive: Mask | None,
    folder: Path,
    callback: SweepCallback,
) -> SearchInputs:
    """The saliencies, the start and the finalists of a cell's search.

    Parameters
    ----------
    model : nn.Module
        With the weights that the mask is found at; left unchanged.
    alive : Mask, optional
        Units that earlier rounds have kept.
    folder : Path
        The search's; saliencies that took a training are stored there.
    callback : SweepCallback
        Called with the epochs of that training.
    """
    inputs = _Inputs(context, model, amount, alive, folder, callback)
    begun, search = perf_counter(), context.settings.search
    saliencies = {text: inputs.saliency(text) for text in search.saliencies}
    start = None if search.warm_start is None else inputs.mask(search.warm_start, saliencies)
    finalists = {text: inputs.mask(text, saliencies) for text in search.finalists}
    seconds = perf_counter() - begun + inputs.seconds_before
    return SearchInputs(saliencies, start, finalists, seconds, inputs.pruning_seconds)


@dataclass
class _Inputs:
    """Saliencies and masks of the criteria that a search's settings name, each at the weights that they name."""

    context: CellContext
    model: nn.Module
    amount: Amount
    alive: Mask | None
    folder: Path
    callback: SweepCallback
    seconds_before: float = 0.0  # of an earlier process
    pruning_seconds: float = 0.0  # of gradual pruning, in this process or an earlier one

    def saliency(self, text: str) -> Tensor:
        """A criterion's saliency (n_units,)."""
        source = Source.parse(text)
        if source.epochs is not None:
            return self._gradual(source.name, source.epochs)
        return criterion_saliency(self.context, self._network_at(source.moment), source.name, self.alive)

    def mask(self, text: str, saliencies: dict[str, Tensor]) -> Mask:
        """A criterion's mask."""
        source, context = Source.parse(text), self.context
        if source.epochs is None:
            amount = self.amount if source.scope is None else self.amount.across(source.scope)
            return criterion_mask(context, self._network_at(source.moment), amount, self.alive, source.name)
        name = text if source.scope is None else text.removesuffix(f":{source.scope}")
        saliency = saliencies[name] if name in saliencies else self.saliency(name)
        rank = partial(context.space.top_k, density=self.amount.across(source.scope or "global"))
        if not context.settings.scoring.connected:
            return rank(saliency)
        return connected(saliency, rank, Connectivity(self.model, context.space, context.example))

    def _gradual(self, name: str, epochs: int) -> Tensor:
        """The saliency of gradual pruning. It is stored: a second training might differ in the last bits."""
        file = self.folder / f"{name}_gradual{epochs}ep.safetensors"
        if file.exists():
            tensors, seconds = load_tensors(file)
            self.seconds_before += seconds
            self.pruning_seconds += seconds
            return tensors["saliency"]
        begun, context = perf_counter(), self.context
        self.callback.gradual_begins(context.cell, name, epochs)
        train = context.settings.train
        lr_schedule = "constant" if train.lr_schedule == "plateau" else train.lr_schedule
        saliency = gradual_saliency(
            self.model,
            context.space,
            context.data.train,
            replace(train, epochs=epochs, bn_l1=0.0, lr_schedule=lr_schedule),
            self.amount,
            name,
            criterion_batches(context, name),
            initial=context.initial_weights(),
            alive=self.alive,
            seed=derive(context.cell.seed, "gradual saliency"),
            device=context.device,
            augment=context.data.augment,
            on_epoch=self.callback.epoch,
        )
        self.callback.search_begins(context.cell)
        self.folder.mkdir(parents=True, exist_ok=True)
        seconds = perf_counter() - begun
        save_tensors(file, {"saliency": saliency}, seconds)
        self.pruning_seconds += seconds
        return saliency

    def _network_at(self, moment: str) -> nn.Module:
        """The network at a moment of the dense training: ``model`` itself if no moment is named."""
        if not moment:
            return self.model
        network = copy.deepcopy(self.model)
        network.load_state_dict(self.context.weights_at(moment))
        if self.alive is not None:
            self.context.space.apply(network, self.alive)
        return network
