"""Pruning criteria: functions that rate every weight or filter by a saliency (higher = keep), and masks from them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from masksearch.core.density_allocation import Amount, Density, Hold, OnEmpty, Scope
from masksearch.core.mask import Mask
from masksearch.criteria.batches_and_loss import Batches, Loss, input_batches, is_split
from masksearch.criteria.block_criteria import block_cosine
from masksearch.criteria.disconnected_units import Connectivity, connected
from masksearch.criteria.filter_criteria import bn_scale, energy, filter_l1, filter_l2, fpgm
from masksearch.criteria.fisher_information import fisher, rearranged
from masksearch.criteria.gradient_criteria import grasp, snip, taylor
from masksearch.criteria.iterative_densities import step_amounts
from masksearch.criteria.magnitude_and_movement import lamp, mag_sign, magnitude, magnitude_increase, movement, random
from masksearch.criteria.synaptic_flow import synflow
from masksearch.criteria.wanda_and_sparsegpt import owl, sparsegpt, sparsegpt_mask, wanda
from masksearch.data.in_memory_split import balanced_batch
from masksearch.searchers import Searcher
from masksearch.spaces import Granularity, NetworkSpace
from masksearch.spaces.base_space import unwrapped
from masksearch.utils.errors import InputError, check_type
from masksearch.utils.registry import Table

__all__ = [
    "CRITERIA",
    "USUAL_CRITERION",
    "Connectivity",
    "Criterion",
    "balanced_batch",
    "block_cosine",
    "bn_scale",
    "connected",
    "energy",
    "filter_l1",
    "filter_l2",
    "fisher",
    "fpgm",
    "grasp",
    "input_batches",
    "lamp",
    "mag_sign",
    "magnitude",
    "magnitude_increase",
    "mask",
    "movement",
    "owl",
    "random",
    "saliency",
    "select",
    "snip",
    "sparsegpt",
    "start_criterion",
    "synflow",
    "taylor",
    "wanda",
]


@dataclass(frozen=True)
class Criterion:
    """Definition of a pruning criterion: its saliency function and the inputs that the function needs."""

    saliency: Callable[..., Tensor]  # f(model, space, batches, *, initial=None, alive=None) -> (n_units,)
    source: str  # formula and paper
    weights: Literal["none", "any", "trained"] = "any"  # weights that it reads; trained: of little use before training
    needs_batches: bool = False  # reads batches of (images, labels)
    unlabelled: bool = False  # needs_batches: of the inputs of some hundred examples alone
    needs_initial: bool = False  # reads the weights at initialisation, initial=
    draws: bool = False  # random: takes generator=
    rounds: int = 1  # rounds of ranking and pruning from density 1 down to the target
    granularities: tuple[str, ...] = ("weight",)  # masks of single weights, of filters, or both
    takes_loss: bool = False  # from gradients of a loss: takes loss=
    scope: Scope | None = None  # how its source spreads a density over layers; the default of ms.compress
    rearrange: Callable[..., Mask] | None = None  # (model, space, batches, mask, *, alive, loss) -> mask of equal costs
    by_block: str = "sparsegpt"  # method of ms.one_shot that prunes at the densities of this criterion's mask


_DENSITY = 0.1  # of a mask, if neither density nor sparsity is given
_BOTH, _FILTER, _PARTS = ("weight", "filter"), ("filter",), ("filter", "block", "union")
_ALL = ("weight", *_PARTS)

CRITERIA: Table[Criterion] = Table(
    "criterion",
    {
        "random": Criterion(random, "uniform noise", weights="none", draws=True, granularities=_ALL),
        "magnitude": Criterion(magnitude, "|w| (Han et al. 2015)", weights="trained", by_block="magnitude"),
        "mag_sign": Criterion(
            mag_sign,
            "w sign(w0): large weights with the sign of the initial w0 (Zhou et al. 2019); filters: thesis 2020",
            weights="trained",
            needs_initial=True,
            granularities=_BOTH,
        ),
        "magnitude_increase": Criterion(
            magnitude_increase,
            "|w| - |w0|, with the initial weight w0 (Zhou et al. 2019)",
            weights="trained",
            needs_initial=True,
            granularities=_BOTH,
        ),
        "movement": Criterion(
            movement,
            "|w - w0|, with the initial weight w0 (Zhou et al. 2019)",
            weights="trained",
            needs_initial=True,
            granularities=_ALL,
        ),
        "lamp": Criterion(
            lamp,
            "w^2 / sum of all v^2 >= w^2 over weights v of the layer (Lee et al. 2021)",
            weights="trained",
            granularities=_BOTH,
        ),
        "snip": Criterion(
            snip, "|gradient x w| (Lee et al. 2019)", needs_batches=True, granularities=_ALL, takes_loss=True
        ),
        "grasp": Criterion(
            grasp, "(Hessian x gradient) w (Wang et al. 2020)", needs_batches=True, granularities=_ALL, takes_loss=True
        ),
        "synflow": Criterion(
            synflow,
            "|dR/dw w|, R = sum of outputs for an input of ones and weights |w|; 100 rounds (Tanaka et al. 2020)",
            needs_batches=True,  # for the shape of an input
            rounds=100,
            granularities=_BOTH,
        ),
        "mag": Criterion(magnitude, "filters, blocks: mean |w| (thesis 2020)", weights="trained", granularities=_PARTS),
        "filter_l1": Criterion(
            filter_l1, "filters: L1 norm (Li et al. 2017)", weights="trained", granularities=_FILTER
        ),
        "filter_l2": Criterion(
            filter_l2, "filters: L2 norm (He et al. 2018)", weights="trained", granularities=_FILTER
        ),
        "fpgm": Criterion(
            fpgm,
            "filters: sum of distances to the layer's other filters (He et al. 2019)",
            weights="trained",
            granularities=_FILTER,
        ),
        "bn_scale": Criterion(
            bn_scale, "filters: |gamma| of BatchNorm (Liu et al. 2017)", weights="trained", granularities=_FILTER
        ),
        "taylor": Criterion(
            taylor,
            "filters, blocks: |sum of gradient x w| (Molchanov et al. 2019)",
            weights="trained",
            needs_batches=True,
            granularities=_PARTS,
            takes_loss=True,
        ),
        "energy": Criterion(
            energy,
            "filters: order of greedy removal by the error after least-squares repair (OBS; ZipLM, Kurtic et al. 2023)",
            weights="trained",
            needs_batches=True,
            unlabelled=True,
            granularities=_FILTER,
        ),
        "fisher": Criterion(
            fisher,
            "heads, neurons, filters: Fisher information of the unit's mask variable, rearranged within layers "
            "(Kwon et al. 2022)",
            weights="trained",
            needs_batches=True,
            granularities=_FILTER,
            takes_loss=True,
            scope="knapsack",
            rearrange=rearranged,
        ),
        "wanda": Criterion(
            wanda,
            "|w| x norm of the weight's input, compared within an output (Sun et al. 2024)",
            weights="trained",
            needs_batches=True,
            by_block="wanda",
        ),
        "owl": Criterion(
            owl,
            "as wanda, with higher densities of layers with outliers at scope global (Yin et al. 2024)",
            weights="trained",
            needs_batches=True,
        ),
        "sparsegpt": Criterion(
            sparsegpt,
            "squared output error after the optimal-brain update, in blocks of columns (Frantar and Alistarh 2023)",
            weights="trained",
            needs_batches=True,
            unlabelled=True,
            scope="layerwise",
            rearrange=sparsegpt_mask,
        ),
        "block_cosine": Criterion(
            block_cosine,
            "blocks: 1 - cosine similarity of input and output (Men et al. 2024)",
            weights="trained",
            needs_batches=True,
            granularities=("block",),
        ),
    },
)


USUAL_CRITERION: dict[Granularity, str] = {
    "weight": "magnitude",
    "filter": "fpgm",
    "block": "block_cosine",
    "union": "taylor",
    "nm": "magnitude",
}
"""Granularity -> criterion of ``ms.compress``, whose mask searches on trained weights start from."""


def start_criterion(searcher: Searcher, granularity: Granularity) -> str | None:
    """Return the name of the criterion whose mask a search starts from by default; None: a random mask.

    The rule of ``ms.find_mask``, ``ms.compress`` and ``masksearch run``. ``ms.search`` starts from a random mask.
    """
    if searcher.needs_energy:
        return "energy"
    return USUAL_CRITERION[granularity] if searcher.takes_criterion_start else None


def saliency(
    name: str,
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    *,
    generator: torch.Generator | None = None,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    loss: Loss | None = None,
) -> Tensor:
    """Return a criterion's saliency of every unit of a network, (n_units,), higher = keep; an error if not finite.

    Units of equal saliency are ranked at random, so weights that are all equal give a random mask. For criteria that
    read examples, equal saliencies of all units of the unpruned network are an error: the loss doesn't depend on the
    weights. Once units are pruned, they are allowed: the mask may have cut all paths.

    Parameters
    ----------
    name, model, space, batches, generator, initial, alive, loss
        As in :func:`select`.

    Raises
    ------
    InputError
        If the criterion returns anything but a tensor (n_units,), or saliencies of units that are alive are not finite,
        or all equal as described above.
    """
    row = CRITERIA[name]
    extras: dict[str, object] = {}
    if row.draws:
        extras["generator"] = generator or torch.Generator().manual_seed(0)
    if row.takes_loss and loss is not None:
        extras["loss"] = loss
    values = row.saliency(unwrapped(model), space, batches, initial=initial, alive=alive, **extras)
    if not isinstance(values, Tensor) or values.shape != (space.n_units,):
        found = f"a tensor {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise InputError(
            f"criterion {name!r}: returned {found}; a tensor ({space.n_units},) is needed, one value per unit"
        )
    ranked = values if alive is None else values[alive.bits]
    if not ranked.isfinite().all():
        raise InputError(
            f"criterion {name!r}: {int((~ranked.isfinite()).sum())} of {len(ranked)} saliencies are NaN or infinite; "
            "check weights, inputs and loss"
        )
    whole = alive is None or alive.n_kept == space.n_units
    if row.needs_batches and whole and len(ranked) > 1 and bool((ranked == ranked[0]).all()):
        raise InputError(
            f"criterion {name!r}: all {len(ranked)} saliencies are {float(ranked[0]) + 0.0:g}, which ranks no unit; "
            "check that outputs and loss depend on the weights, and give the loss of the task with loss= or a Split"
        )
    return values


def select(
    name: str,
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    density: Density | Amount | None = None,
    *,
    sparsity: Density | None = None,
    scope: Scope | None = None,
    generator: torch.Generator | None = None,
    initial: Mapping[str, Tensor] | None = None,
    on_empty: OnEmpty | None = None,
    hold: Hold | None = None,
    alive: Mask | None = None,
    connectivity: Connectivity | None = None,
    loss: Loss | None = None,
) -> Mask:
    """Return the mask of the requested density that a pruning criterion chooses for a network.

    Most criteria rank and prune in one round, SynFlow in 100. Round r of n keeps density ** (r / n) of all units
    (weights or filters), or of each layer's where the scope fixes the layers' densities. Units that a round prunes stay
    pruned.

    Parameters
    ----------
    name : str
        A criterion in ``CRITERIA``.
    batches : Split, streamed split, or iterable of (inputs, targets)
        Read once per round. A split gives the loss of its task, too.
    density : float, {layer name: float} or Amount, optional
        How much the mask keeps; 0.1 if density and sparsity are both left out.
    sparsity : float or {layer name: float}, optional
        1 - density; at most one of the two is given.
    scope, on_empty, hold : str, optional
        Fields of an :class:`~masksearch.Amount`: ``"global"``, ``"raise"`` and ``"units"`` by default.
    generator : torch.Generator, optional
        Source of random numbers for ties and for the criterion ``random``; default: a generator with seed 0.
    initial : mapping, optional
        Weights at initialisation, by parameter name.
    alive : Mask, optional
        The mask to start from: units that it prunes stay pruned, and densities fall from its density. By default,
        nothing is pruned yet.
    connectivity : Connectivity, optional
        Finds kept units that no signal passes through; they are replaced by the next best units. Default: they stay.
    loss : callable, optional
        (outputs as the network returns them, targets) -> scalar tensor, for criteria from gradients. Default: the loss
        of the split's task; of plain batches, the cross-entropy of integer classes.

    Raises
    ------
    InputError
        If the criterion isn't defined for the space's granularity, or lacks an input that it needs; if a round empties
        a layer and ``on_empty`` forbids it; if ``density`` keeps more units than ``alive``; or if saliencies don't
        rank the units, as :func:`saliency` has it.
    """
    row = CRITERIA[name]
    if space.granularity not in row.granularities:
        raise InputError(
            f"criterion {name!r}: is for {' and '.join(row.granularities)} masks, not {space.granularity}; "
            "give another criterion"
        )
    if density is None and sparsity is None:
        density = _DENSITY if space.fixed_density is None else space.fixed_density
    amount = Amount.of(density, sparsity=sparsity, hold=hold, scope=scope, on_empty=on_empty)
    generator = generator or torch.Generator().manual_seed(0)
    if not is_split(batches):
        check_type("batches", batches, Iterable, "a split, or (inputs, targets) batches")
        batches = list(batches)
        for batch in batches:
            check_type("batches", batch, (tuple, list), "a split, or (inputs, targets) batches")
    if alive is not None:
        check_type("alive", alive, Mask, "a mask of the space")
        space.check_mask(alive)
    rounds = row.rounds if space.fixed_density is None else 1
    steps = step_amounts(space, amount, rounds, space.full() if alive is None else alive)
    for step in steps:
        values = saliency(name, model, space, batches, generator=generator, initial=initial, alive=alive, loss=loss)
        if alive is not None:
            values = values.masked_fill(~alive.bits, -torch.inf)
        rank = partial(space.top_k, density=step, generator=generator)
        chosen = rank(values) if connectivity is None else connected(values, rank, connectivity)
        if row.rearrange is not None:
            chosen = row.rearrange(model, space, batches, chosen, alive=alive, loss=loss)
        # Held in params or MACs, a cheap unit that is pruned already could fit below the limit again.
        alive = chosen if alive is None else Mask(space, chosen.bits & alive.bits)
    assert alive is not None
    return alive


mask = select
"""The same function as :func:`select`."""
