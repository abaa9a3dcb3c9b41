"""Gradual pruning as a criterion: weights or filters rank by how long they survive pruning during training.

The weights of a dense network do not show which of them suffice without the others; a network that is trained while its
density falls (Zhu & Gupta 2017) adapts to that.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from masksearch.core.density_allocation import Amount, Hold, OnEmpty, Scope
from masksearch.core.mask import Mask
from masksearch.criteria import saliency, select
from masksearch.criteria.batches_and_loss import Batches, is_split
from masksearch.schedules.gradual_pruning import Gradual
from masksearch.spaces import NetworkSpace
from masksearch.tasks import CLASSIFICATION
from masksearch.training import Examples, TrainSettings, optimizer_steps, train
from masksearch.training.training_loop import OnEpoch
from masksearch.training.training_splits import as_examples
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import torch_generator


def gradual_saliency(
    model: nn.Module,
    space: NetworkSpace,
    split: Examples,
    settings: TrainSettings,
    density: float | Amount | None = None,
    criterion: str = "magnitude",
    batches: Batches = (),
    *,
    sparsity: float | None = None,
    scope: Scope | None = None,
    initial: Mapping[str, Tensor] | None = None,
    on_empty: OnEmpty | None = None,
    hold: Hold | None = None,
    alive: Mask | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    augment: bool = False,
    on_epoch: OnEpoch | None = None,
) -> Tensor:
    """Prune a copy of a network gradually during training; return as saliency how long each unit was kept.

    A unit is a weight or a group of coupled channels.

    Parameters
    ----------
    model : nn.Module
        The network with its starting weights; it does not change.
    split : Examples
        Training examples.
    settings : TrainSettings
        How: for all of its epochs, of which density falls during the first three quarters. Its schedule of learning
        rates begins anew; ``plateau``, which would need validation examples, is refused.
    density : float or Amount, optional
        Density at the end. Exactly one of ``density`` and ``sparsity`` is given.
    criterion : str
        A criterion in ``CRITERIA``. It chooses the units to prune at each step, and orders units that are pruned in the
        same step or kept to the end.
    batches, initial
        Inputs of the criterion, as in :func:`masksearch.criteria.select`; plain batches get the loss of the task of
        ``split``.
    sparsity : float, optional
        1 - density.
    scope, on_empty, hold : str, optional
        Fields of an :class:`~masksearch.Amount`: ``"global"``, ``"raise"`` and ``"units"`` by default.
    alive : Mask, optional
        Mask to begin with. Default: the full mask.
    seed, device, augment, on_epoch
        As in :func:`masksearch.train`; the seed also breaks ties.

    Returns
    -------
    Tensor (n_units,)
        Float64, on the CPU: the number of mask changes before the unit is pruned, plus its quantile (in [0, 1)) among
        units pruned in the same step. Units that ``alive`` prunes have -1.

    Raises
    ------
    InputError
        For 0 epochs, a density above that of ``alive``, a missing argument of the criterion, or divergence.
    """
    amount = Amount.of(density, sparsity=sparsity, hold=hold, scope=scope, on_empty=on_empty)
    final = amount.single("gradual pruning follows one number")
    if settings.epochs < 1:
        raise InputError(f"epochs: {settings.epochs}; gradual pruning takes at least 1")
    network, batches = copy.deepcopy(model), batches if is_split(batches) else list(batches)
    task = as_examples(split).task
    loss = None if is_split(batches) or task is CLASSIFICATION else task.loss_of
    begin = space.full() if alive is None else alive

    def generator() -> torch.Generator:
        return torch_generator(seed, "criterion", criterion)

    def rated(alive: Mask) -> Tensor:
        return saliency(
            criterion, network, space, batches, generator=generator(), initial=initial, alive=alive, loss=loss
        )

    lifetimes = _Lifetimes(space.n_units, rated, generator)

    def choose(reached: float, before: Mask) -> Mask:
        mask = select(
            *(criterion, network, space, batches, amount.at(reached)),
            generator=generator(),
            initial=initial,
            alive=before,
            loss=loss,
        )
        if mask != before:
            lifetimes.record(before.bits & ~mask.bits, before)
        return mask

    steps = settings.epochs * optimizer_steps(split, settings)
    gradual = Gradual(network, space, choose, final, steps, alive=begin)
    training = train(
        network, split, settings, remask=gradual, seed=seed, device=device, augment=augment, on_epoch=on_epoch
    )
    if training.diverged:
        raise InputError(
            f"gradual pruning: the loss is NaN; a learning rate of {settings.lr:g} may be too high; give a lower one"
        )
    lifetimes.record(gradual.mask.bits, gradual.mask)
    return lifetimes.values


class _Lifetimes:
    """Number of mask changes that each unit has outlasted, plus its quantile among units pruned at the same change."""

    def __init__(self, n_units: int, rated: Callable[[Mask], Tensor], generator: Callable[[], torch.Generator]) -> None:
        self.values = torch.full((n_units,), -1.0, dtype=torch.float64)
        self._rated, self._generator, self._changes = rated, generator, 0

    def record(self, units: Tensor, mask: Mask) -> None:
        """Give ``units``, which are pruned now, higher saliencies than units pruned before; ``mask`` still keeps them.

        The criterion orders them; units of equal saliency are ordered at random.
        """
        saliencies = self._rated(mask)[units]
        shuffled = torch.randperm(len(saliencies), generator=self._generator())
        ranks = torch.empty(len(saliencies), dtype=torch.float64)
        ranks[shuffled[saliencies[shuffled].argsort(stable=True)]] = torch.arange(len(saliencies), dtype=torch.float64)
        self.values[units] = self._changes + ranks / max(1, len(saliencies))
        self._changes += 1
