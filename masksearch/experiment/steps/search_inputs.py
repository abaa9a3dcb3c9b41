"""Inputs of a search: saliencies, the mask to start from, and masks of criteria to compare the result with."""

import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from masksearch.core.density_allocation import Amount
from masksearch.core.mask import Mask
from masksearch.criteria import Connectivity, connected
from masksearch.criteria.gradual import gradual_saliency
from masksearch.experiment.context import CellContext
from masksearch.experiment.settings.search_settings import Source
from masksearch.experiment.steps.criterion import cell_energy, criterion_batches, criterion_mask, criterion_saliency
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.pruning.energy_after_repair import RepairEnergy
from masksearch.utils.files import load_tensors, save_tensors
from masksearch.utils.integrity import check_tensors, refusing
from masksearch.utils.seeds import derive

__all__ = ["SearchInputs"]


@dataclass
class SearchInputs:
    """Inputs of a search: saliencies of units, start mask, masks of criteria to compare with, an estimator of errors.

    Saliencies that took a training are stored in ``folder``; ``callback`` is called with the training's epochs.
    """

    context: CellContext
    model: nn.Module  # left unchanged
    amount: Amount
    alive: Mask | None  # units that earlier rounds have kept
    folder: Path
    callback: SweepCallback
    saliencies: dict[str, Tensor] = field(init=False)  # (n_units,) each, by the text of the setting that names them
    start: Mask | None = field(init=False)
    finalists: dict[str, Mask] = field(init=False)  # by the text of the setting that names them
    energy: RepairEnergy | None = field(init=False)  # for searchers that need one
    seconds: float = field(init=False)  # of computing all this, an earlier process included
    pruning_seconds: float = 0.0  # of gradual pruning, in this process or an earlier one: equal in every process
    _seconds_before: float = 0.0  # of an earlier process

    def __post_init__(self) -> None:
        begun, search = perf_counter(), self.context.settings.search
        self.saliencies = {text: self._saliency(text) for text in search.saliencies}
        self.start = None if search.warm_start is None else self._mask(search.warm_start)
        self.finalists = {text: self._mask(text) for text in search.finalists}
        needs_energy = self.context.cell.searcher().needs_energy
        self.energy = cell_energy(self.context, self.model) if needs_energy else None
        self.seconds = perf_counter() - begun + self._seconds_before

    def _saliency(self, text: str) -> Tensor:
        source = Source.parse(text)
        if source.epochs is not None:
            return self._gradual(source.name, source.epochs)
        return criterion_saliency(self.context, self._network_at(source.moment), source.name, self.alive)

    def _mask(self, text: str) -> Mask:
        source, context = Source.parse(text), self.context
        if source.epochs is None:
            amount = self.amount if source.scope is None else self.amount.across(source.scope)
            return criterion_mask(context, self._network_at(source.moment), amount, self.alive, source.name)
        name = text if source.scope is None else text.removesuffix(f":{source.scope}")
        saliency = self.saliencies[name] if name in self.saliencies else self._saliency(name)
        rank = partial(context.space.top_k, density=self.amount.across(source.scope or "global"))
        if not context.settings.scoring.connected:
            return rank(saliency)
        return connected(saliency, rank, Connectivity(self.model, context.space, context.example))

    def _gradual(self, name: str, epochs: int) -> Tensor:
        """The saliency of gradual pruning. It is stored: a second training might differ in the last bits."""
        file = self.folder / f"{name}_gradual{epochs}ep.safetensors"
        if file.exists():
            remedy = "remove this file and run again"
            tensors, seconds = load_tensors(file, remedy)
            saved = tensors.get("saliency")  # of a criterion in float32 or float64
            dtype = torch.float64 if saved is not None and saved.dtype == torch.float64 else torch.float32
            needed = {"saliency": torch.empty(self.context.space.n_units, dtype=dtype)}
            check_tensors(tensors, needed, file, remedy)
            with refusing(file, remedy):
                self._seconds_before += seconds
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
            replace(train, epochs=epochs, bn_l1=0.0, lr_schedule=lr_schedule, stop_after=None, distill=0.0),
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
