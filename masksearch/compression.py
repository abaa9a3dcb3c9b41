"""Compression of a trained network in one call: find a mask, prune, fine-tune, and compare before with after."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from masksearch import cost
from masksearch.core.amount import Amount, Hold, Scope
from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.criteria import CRITERIA, USUAL_CRITERION, saliency, select, start_criterion
from masksearch.data import Data
from masksearch.pruning.compressed import TIMED, Compressed, Measured
from masksearch.pruning.energy import repair_energy
from masksearch.pruning.gram_matrices import calibration_inputs
from masksearch.pruning.physical import Removable, prune
from masksearch.pruning.reconstruction import reconstruct
from masksearch.scoring import OBJECTIVES, LatencyShare, Scorer
from masksearch.scoring.latency import macs_within_latency
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.searching.loop import search
from masksearch.spaces import REMOVED, UNITS, FilterSpace, Granularity, NetworkSpace, ranked_units, space_of
from masksearch.training import TrainFunction, Training, TrainSettings, train
from masksearch.training.own_loop import call_train_function, check_train_function
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError, check_type, require
from masksearch.utils.registry import choose
from masksearch.utils.seeds import derive, torch_generator

__all__ = ["Compressed", "Measured", "compress", "find_mask"]

Start = Mask | Literal["criterion", "random"]

_FINE_TUNING = TrainSettings(epochs=5, optimizer="adamw", lr=3e-4, lr_schedule="cosine", batch_size=64)
_RANKED, _RANKED_BATCH = 512, 64  # numbers of training examples, in all and per batch, for gradients of criteria
_REPAIRED = 1024  # training examples whose inputs the repair uses
_NM_SPARSITY = 0.5  # of 2:4 masks


def compress(
    model: nn.Module,
    data: Data,
    *,
    sparsity: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    method: str | Searcher | None = None,
    granularity: Granularity | None = None,
    budget: int = 300,
    objective: str | None = None,
    start: Start = "criterion",
    repair: bool | None = None,
    train: TrainSettings | Literal[False] = _FINE_TUNING,
    train_fn: TrainFunction | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Compressed:
    """Make a trained network smaller or sparser: find a mask, prune, repair, fine-tune, and measure before and after.

    Exactly one of ``sparsity``, ``macs``, ``params`` and ``latency`` is given.

    Parameters
    ----------
    model : nn.Module
        A trained network. It is copied and does not change.
    data : Data
        Criteria and fine-tuning use ``data.train``, searches ``data.search``; the best epoch is chosen on ``data.val``.
        ``before``, ``pruned`` and ``after`` are measured on ``data.test``.
    sparsity : float
        Share of the units that is removed, in [0, 1): of the weights, or of the units of ``granularity``.
    macs, params : float
        Share of the dense network's multiply-adds or parameters that is kept, in (0, 1]. Filters and blocks only.
    latency : float
        Share of the dense network's latency that is kept, measured on this device with batches of 64. No weights.
        The share of MACs that gives it is found by bisection over masks of the granularity's usual criterion, or of
        ``fisher`` for this method.
    method : str or Searcher, optional
        A criterion (``ms.criteria.CRITERIA``), a searcher's name (``ms.searchers.SEARCHERS``), or a searcher. Default:
        ``magnitude`` for weights, ``fpgm`` for filters, ``block_cosine`` for blocks, ``taylor`` for both together.
    granularity : str, optional
        What is removed: ``weight``, ``filter``, ``block`` (whole residual branches, :func:`~masksearch.block_space`),
        ``union`` (branches and filters in one mask, :func:`~masksearch.union_space`), or ``nm`` (2 of every 4 weights,
        :func:`~masksearch.nm_space`; ``sparsity`` may be left out). Default: weights with ``sparsity``, else filters.
    budget : int
        Number of masks that a search scores.
    objective : str, optional
        Quantity that a search maximises, in ``OBJECTIVES``. Default: for filters ``"reconstructed"``, minus the
        distance to the dense network's outputs after repair; else ``"loss"``, minus the task's loss, or ``"distance"``
        without targets.
    start : Mask, "criterion" or "random"
        Mask that a search starts from: by default, that of the granularity's usual criterion. The thesis' annealing
        starts from a random mask by default, as published.
    repair : bool, optional
        Whether kept weights are solved by least squares on 1,024 training inputs, so that layers give the outputs of
        the dense network (:func:`~masksearch.reconstruct`). Default: for filters; weight masks take longer. Not for
        blocks.
    train : TrainSettings or False
        Fine-tuning; False leaves it out. Default: 5 epochs of AdamW, learning rate 3e-4 with cosine decay. The weights
        of the best epoch by validation are kept. With ``distill`` above 0, the dense network is the teacher.
    train_fn : callable, optional
        Training loop of your own, used in place of ``ms.train``, for ``train.epochs``; see
        :class:`~masksearch.training.TrainFunction`.
    seed : int
        Seed of search, fine-tuning and the choice of examples.
    device : torch.device or str, optional
        Default: the device of the model.
    progress : bool
        Whether to show progress bars on a terminal.

    Returns
    -------
    Compressed
        The smaller network (filters, blocks) or the masked one (weights), mask, space, and the measurements.

    Raises
    ------
    InputError
        Before any work, if the arguments don't fit each other, the data or the network.
    """
    settings = _FINE_TUNING if train is False else train
    if train is False and train_fn is not None:
        raise InputError("train: False leaves fine-tuning out; leave train_fn out, too")
    if train_fn is not None:
        check_train_function(train_fn)
    dense = _on_device(model, device)
    where = cost.forward_pass.device_of(dense)
    _check_start(start)
    check_type("data", data, Data, "a data set, made by ms.Data.from_tensors, from_datasets or from_loaders")
    with _bars(progress) as bars:
        task = _Task(dense, data, method, granularity, budget, objective, seed, bars)
        amount = task.amount(sparsity=sparsity, macs=macs, params=params, latency=latency)
        if repair and task.space.granularity in ("block", "union"):
            raise InputError("repair: it solves layers that lose weights or filters, and removed blocks leave none")
        before = Measured.of(dense, data, task.example)
        mask, history = task.find(amount, start)
        repaired = isinstance(task.space, FilterSpace) if repair is None else repair
        if repaired:
            network = reconstruct(dense, task.space, mask, task.repair_inputs())
        else:
            network = copy_network(dense)
            task.space.apply(network, mask)
        masks = {}
        if isinstance(task.space, Removable):
            network = prune(network, task.space, mask)
        else:
            masks = task.space.parameter_masks(mask)
        pruned = after = Measured.of(network, data, task.example, masks)
        training = None
        if train is not False:
            if train_fn is not None:
                call_train_function(
                    train_fn, network, data, masks=masks, epochs=settings.epochs, seed=seed, device=where
                )
            else:
                training = task.fine_tune(network, masks, settings)
            after = Measured.of(network, data, task.example, masks)
    return Compressed(
        model=network.eval(),
        mask=mask,
        space=task.space,
        before=before,
        pruned=pruned,
        after=after,
        method=task.method_name,
        amount=amount,
        history=history,
        training=training,
        repaired=repaired,
        fine_tuned=train is not False,
    )


def find_mask(
    model: nn.Module,
    data: Data,
    *,
    sparsity: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    method: str | Searcher | None = None,
    granularity: Granularity | None = None,
    budget: int = 300,
    objective: str | None = None,
    start: Start = "criterion",
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Mask:
    """Return a pruning mask for a trained network, found by the same methods as in :func:`compress`.

    Parameters and errors are those of :func:`compress`.
    """
    _check_start(start)
    check_type("data", data, Data, "a data set, made by ms.Data.from_tensors, from_datasets or from_loaders")
    with _bars(progress) as bars:
        task = _Task(_on_device(model, device), data, method, granularity, budget, objective, seed, bars)
        return task.find(task.amount(sparsity=sparsity, macs=macs, params=params, latency=latency), start)[0]


class _Task:
    """One network, its data, and the method that finds a mask; the space is made when the amount is known."""

    space: NetworkSpace
    _kind: Granularity  # of the space

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        method: str | Searcher | None,
        granularity: Granularity | None,
        budget: int,
        objective: str | None,
        seed: int,
        bars: Progress,
    ) -> None:
        require("budget", budget, budget >= 1, "1 or more scorings")
        if granularity is not None:
            choose("granularity", granularity, list(UNITS))
        if isinstance(method, str):
            choose("method", method, [*CRITERIA, *SEARCHERS])
        elif method is not None and not isinstance(method, Searcher):
            raise InputError(f"method: a {type(method).__name__}; allowed is a name or a searcher")
        self.model, self.data, self.budget, self.seed, self.bars = model, data, budget, seed, bars
        self.granularity, self.objective, self._method = granularity, objective, method
        self.example = data.test.sample(TIMED)[0]

    @property
    def method_name(self) -> str:
        """Name of the pruning method, as results show it."""
        method = self._method or USUAL_CRITERION[self._kind]
        return method if isinstance(method, str) else type(method).__name__

    def amount(self, **given: float | None) -> Amount:
        """Return how much masks keep, from the user's sparsity, macs, params or latency, of which exactly one is given.

        Also make the space of masks.
        """
        named = {name: value for name, value in given.items() if value is not None}
        if self.granularity == "nm" and not named:
            named = {"sparsity": _NM_SPARSITY}
        if len(named) != 1:
            what = ", ".join(named) or "none of them"
            raise InputError(f"sparsity, macs, params, latency: exactly one is needed, and {what} is given")
        [(name, share)] = named.items()
        if name == "sparsity":
            require(name, share, 0 <= share < 1, "in [0, 1), the share of units that is removed")
        else:
            require(name, share, 0 < share <= 1, f"in (0, 1], the share of the dense network's {name} that is kept")
        self._kind = granularity = self.granularity or ("weight" if name == "sparsity" else "filter")
        if granularity not in REMOVED and name != "sparsity":
            raise InputError(f"{name}: masked weights save no {name}; give sparsity, or granularity='filter'")
        if granularity == "nm" and share != _NM_SPARSITY:
            raise InputError(f"sparsity: {share}; 2:4 masks remove {_NM_SPARSITY} of the weights: leave sparsity out")
        self._check_method(ranked_units(granularity))
        self.space = space_of(granularity, self.model, self.example)
        scope: Scope = self._own_scope or ("layerwise" if granularity in ("filter", "union") else "global")
        if name == "sparsity":
            return Amount.of(None, sparsity=share, scope=scope, on_empty="keep_one")
        hold: Hold = "params" if name == "params" else "macs"
        amount = Amount(share, hold=hold, scope=scope, on_empty="keep_one")
        if name == "latency":
            assert isinstance(self.space, Removable)
            measure = LatencyShare(self.model, self.space, self.example, TIMED)
            usual = self.method_name if self._own_scope else USUAL_CRITERION[granularity]
            macs = macs_within_latency(share, measure, lambda macs: self.criterion_mask(usual, amount.at(macs)))
            return amount.at(macs)
        return amount

    @property
    def _own_scope(self) -> Scope | None:
        """Scope that the method's source has; None for most criteria and for searchers."""
        return CRITERIA[self._method].scope if isinstance(self._method, str) and self._method in CRITERIA else None

    @property
    def _needs_energy(self) -> bool:
        """Whether the method is a searcher that needs an energy."""
        method = self._method
        if isinstance(method, str):
            return method in SEARCHERS and SEARCHERS[method]().needs_energy
        return method is not None and method.needs_energy

    def _check_method(self, granularity: str) -> None:
        if self._needs_energy and granularity != "filter":
            raise InputError(f"method: {self._method!r} searches filters, not {granularity} units; give another method")
        if isinstance(self._method, str) and self._method in CRITERIA:
            row = CRITERIA[self._method]
            if granularity not in row.granularities:
                fitting = [name for name, other in CRITERIA.items() if granularity in other.granularities]
                raise InputError(
                    f"method: {self._method!r} ranks {' and '.join(row.granularities)} units, not {granularity}; "
                    f"there are {', '.join([*fitting, *SEARCHERS])}"
                )

    def repair_inputs(self) -> list[Any]:
        """Return batches of training inputs for the least-squares repair of kept weights."""
        return calibration_inputs(self.data.train, _REPAIRED, torch_generator(self.seed, "compress", "repair"))

    def criterion_mask(self, name: str, amount: Amount) -> Mask:
        """Return the mask that a pruning criterion chooses; gradients, if needed, come from some training examples."""
        return select(
            name,
            self.model,
            self.space,
            self._ranked_batches(name),
            amount,
            loss=self.data.task.loss_of,
            generator=torch_generator(self.seed, "compress", "ties"),
        )

    def _saliency(self, name: str) -> torch.Tensor:
        """Return the saliencies (n_units,) of one round of a criterion, for searchers that rank units."""
        batches, generator = self._ranked_batches(name), torch_generator(self.seed, "compress", "ties")
        return saliency(name, self.model, self.space, batches, loss=self.data.task.loss_of, generator=generator)

    def _ranked_batches(self, name: str) -> list[tuple[Any, Any]]:
        """Return batches of training examples for a criterion; none if it reads weights only."""
        row = CRITERIA[name]
        if row.unlabelled:
            return [(inputs, None) for inputs in self.repair_inputs()]
        generator = torch_generator(self.seed, "compress", "examples")
        order = torch.randperm(len(self.data.train), generator=generator)[:_RANKED]
        sizes = [len(part) for part in order.split(_RANKED_BATCH)]
        return list(self.data.train.batches(order, sizes)) if row.needs_batches else []

    def find(self, amount: Amount, start: Start) -> tuple[Mask, History | None]:
        """Return the mask that the pruning method finds, and the search history (None if the method is no search)."""
        method = self._method or USUAL_CRITERION[self._kind]
        if isinstance(method, str) and method in CRITERIA:
            return self.criterion_mask(method, amount), None
        searcher = SEARCHERS[method]() if isinstance(method, str) else method
        usual = start_criterion(searcher, self._kind)
        first = start if isinstance(start, Mask) else None
        if start == "criterion" and usual is not None:
            first = self.criterion_mask(usual, amount)
        energy = repair_energy(self.model, self.space, self.repair_inputs()) if searcher.needs_energy else None
        objective = self.objective or self._usual_objective()
        repairs = objective in OBJECTIVES and OBJECTIVES[objective].reconstructs
        calibration = self.repair_inputs() if repairs else None
        scorer = Scorer(self.model, self.space, self.data.search, objective, calibration=calibration)
        bar = self.bars.add_task("searching", total=self.budget)
        # Units move between layers in a search, so that only the criterion's mask is layer by layer.
        history = search(
            self.space,
            searcher,
            scorer,
            replace(amount, scope="global"),
            self.budget,
            self.seed,
            start=first,
            saliencies={USUAL_CRITERION[self._kind]: self._saliency(USUAL_CRITERION[self._kind])},
            energy=energy,
            callbacks=[lambda trial, history, searcher: self.bars.advance(bar)],
        )
        return searcher.predicted_best or history.best_mask, history

    def _usual_objective(self) -> str:
        """Return what a search maximises by default: for filters, the score after the repair that ``compress`` does."""
        if isinstance(self.space, FilterSpace) and OBJECTIVES["reconstructed"].fits(self.data.task):
            return "reconstructed"
        return "distance" if self.data.search.sample(1)[1] is None else "loss"

    def fine_tune(self, network: nn.Module, masks: dict[str, torch.Tensor], settings: TrainSettings) -> Training:
        """Fine-tune a pruned network in place, then load the weights of the epoch with the best validation metric."""
        bar = self.bars.add_task("fine-tuning", total=settings.epochs)
        training = train(
            network,
            self.data.train,
            settings,
            val=self.data.val,
            masks=masks,
            seed=derive(self.seed, "fine-tuning"),
            device=cost.forward_pass.device_of(self.model),
            augment=self.data.augment,
            teacher=self.model if settings.distill else None,
            on_epoch=lambda row: self.bars.advance(bar),
        )
        if training.best is not None:
            network.load_state_dict(training.best.weights)
        return training


def _check_start(start: Start) -> None:
    if isinstance(start, str):
        choose("start", start, ["criterion", "random"])
    elif not isinstance(start, Mask):
        raise InputError(f"start: a {type(start).__name__}; allowed is a mask, 'criterion' or 'random'")


def _on_device(model: nn.Module, device: torch.device | str | None) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise InputError(f"model: a {type(model).__name__}; an nn.Module is needed")
    network = copy_network(model)
    return (network if device is None else network.to(device)).eval()


@contextmanager
def _bars(progress: bool) -> Iterator[Progress]:
    """Progress bars on standard error, if it is a terminal."""
    with Progress(console=Console(stderr=True), transient=True, disable=not (progress and sys.stderr.isatty())) as bars:
        yield bars
