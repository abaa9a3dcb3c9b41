"""The calls ``compress`` and ``find_mask``: steps from a trained network to a smaller one."""

from typing import Literal

import torch
from torch import nn

from masksearch.compression.criterion_or_search import CompressionMethod, Start, check_start
from masksearch.compression.result import Compressed, Measured
from masksearch.core.mask import Mask
from masksearch.core.search_budget import Budget
from masksearch.data import Data
from masksearch.pruning.physical import Removable, prune
from masksearch.pruning.reconstruction import reconstruct
from masksearch.searchers import Searcher
from masksearch.spaces import FilterSpace, Granularity
from masksearch.spaces.base_space import unwrapped
from masksearch.training import TrainFunction, Training, TrainSettings, train
from masksearch.training.own_loop import call_train_function, check_train_function
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError, check_type
from masksearch.utils.forward_passes import device_of
from masksearch.utils.nested import as_device
from masksearch.utils.progress import Steps, steps
from masksearch.utils.seeds import derive

_FINE_TUNING = TrainSettings(epochs=5, optimizer="adamw", lr=3e-4, lr_schedule="cosine", batch_size=64)


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
    budget: int | Budget = 300,
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
    budget : int or Budget
        Number of masks that a search scores, or a limit in seconds, ``ms.Budget(seconds=60)``. Criteria score no masks,
        and do not use it.
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
        Whether to show the current step, its progress and the time left, in a terminal or a notebook.

    Returns
    -------
    Compressed
        The smaller network (filters, blocks) or the masked one (weights), mask, space, and the measurements.

    Raises
    ------
    InputError
        Before any work, if the arguments don't fit each other, the data or the network.
    """
    if train is not False:
        check_type("train", train, TrainSettings, "ms.TrainSettings(...), or False for no fine-tuning")
    settings = _FINE_TUNING if train is False else train
    if train is False and train_fn is not None:
        raise InputError("train: False leaves fine-tuning out; leave train_fn out, too")
    if train_fn is not None:
        check_train_function(train_fn)
    dense = _on_device(model, device)
    where = device_of(dense)
    check_start(start)
    with steps(progress) as bars:
        finder = CompressionMethod(dense, data, method, granularity, budget, objective, seed, bars)
        amount = finder.amount(sparsity=sparsity, macs=macs, params=params, latency=latency)
        if repair and finder.space.granularity in ("block", "union"):
            raise InputError(
                "repair: True; it is for weights and filters, and here whole blocks are removed; give repair=None"
            )
        bars.begin("measuring the dense network")
        before = Measured.of(dense, data, finder.example, None if isinstance(finder.space, Removable) else {})
        mask, history = finder.find(amount, start)
        repaired = isinstance(finder.space, FilterSpace) if repair is None else repair
        network, masks = _pruned(dense, finder, mask, repaired, bars)
        bars.begin("measuring the pruned network")
        pruned = after = Measured.of(network, data, finder.example, masks)
        training = None
        if train_fn is not None:
            call_train_function(
                train_fn, network, data, masks=masks or {}, epochs=settings.epochs, seed=seed, device=where
            )
        elif train is not False:
            training = _fine_tuned(network, dense, data, train, masks, seed, bars)
        if train is not False:
            after = Measured.of(network, data, finder.example, masks)
    return Compressed(
        model=network.eval(),
        mask=mask,
        space=finder.space,
        before=before,
        pruned=pruned,
        after=after,
        method=finder.name,
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
    budget: int | Budget = 300,
    objective: str | None = None,
    start: Start = "criterion",
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Mask:
    """Return a pruning mask for a trained network, found by the same methods as in :func:`compress`.

    Parameters and errors are those of :func:`compress`.
    """
    check_start(start)
    with steps(progress) as bars:
        finder = CompressionMethod(_on_device(model, device), data, method, granularity, budget, objective, seed, bars)
        return finder.find(finder.amount(sparsity=sparsity, macs=macs, params=params, latency=latency), start)[0]


def _pruned(
    dense: nn.Module, finder: CompressionMethod, mask: Mask, repaired: bool, bars: Steps
) -> tuple[nn.Module, dict[str, torch.Tensor] | None]:
    """Return a copy of the network without the removed units, or with zeros in their place, and the zeros' masks."""
    if repaired:
        bars.begin("repairing kept weights")
        network = reconstruct(dense, finder.space, mask, finder.repair_inputs())
    else:
        network = copy_network(dense)
        finder.space.apply(network, mask)
    if isinstance(finder.space, Removable):
        return prune(network, finder.space, mask), None
    return network, finder.space.parameter_masks(mask)


def _fine_tuned(
    network: nn.Module,
    dense: nn.Module,
    data: Data,
    settings: TrainSettings,
    masks: dict[str, torch.Tensor] | None,
    seed: int,
    bars: Steps,
) -> Training:
    """Train the network, and leave it with the weights of the best epoch by validation; return the training."""
    bars.begin("fine-tuning")
    training = train(
        network,
        data.train,
        settings,
        val=data.val,
        masks=masks,
        seed=derive(seed, "fine-tuning"),
        device=device_of(dense),
        augment=data.augment,
        teacher=dense if settings.distill else None,
        on_epoch=lambda row: bars.reach(row.epoch / settings.epochs, f"loss {row.train_loss:.4g}"),
    )
    if training.best is not None:
        network.load_state_dict(training.best.weights)
    return training


def _on_device(model: nn.Module, device: torch.device | str | None) -> nn.Module:
    network = copy_network(unwrapped(model))
    types = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    if other := types - {torch.float32}:
        raise InputError(
            f"model: has parameters of {', '.join(map(str, other))}, and inputs of data sets are float32; give "
            "model.float()"
        )
    return (network if device is None else network.to(as_device(device))).eval()
