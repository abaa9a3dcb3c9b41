"""Criteria: a value per unit, higher = keep. Functions that leave the model as they found it, and their table."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from masksearch.criteria.batches import balanced_batch
from masksearch.criteria.filters import bn_scale, filter_l1, filter_l2, fpgm
from masksearch.criteria.gradients import snip, taylor
from masksearch.criteria.weights import mag_sign, magnitude, random
from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.space import Density, Hold, OnEmpty, Scope
from masksearch.spaces import NetworkSpace
from masksearch.table import Table

__all__ = [
    "CRITERIA",
    "Criterion",
    "balanced_batch",
    "bn_scale",
    "filter_l1",
    "filter_l2",
    "fpgm",
    "mag_sign",
    "magnitude",
    "random",
    "select",
    "snip",
    "taylor",
]


@dataclass(frozen=True)
class Criterion:
    """A row of the table: the saliency and what it needs."""

    saliency: Callable[..., Tensor]  # f(model, space, batches, *, initial=None, alive=None) -> (n_units,)
    source: str
    weights: Literal["none", "any", "trained"] = "any"  # it looks at; trained: means little before training
    needs_batches: bool = False
    needs_initial: bool = False
    draws: bool = False  # takes generator=
    rounds: int = 1  # rounds of ranking and pruning from density 1 down to the target
    granularities: tuple[str, ...] = ("weight",)


_BOTH, _FILTER = ("weight", "filter"), ("filter",)

CRITERIA: Table[Criterion] = Table(
    "criterion",
    {
        "random": Criterion(random, "uniform noise", weights="none", draws=True, granularities=_BOTH),
        "magnitude": Criterion(magnitude, "|w| (Han et al. 2015)", weights="trained"),
        "mag_sign": Criterion(
            mag_sign,
            "large final weights of the same sign (Zhou et al. 2019); filters: thesis 2020",
            weights="trained",
            needs_initial=True,
            granularities=_BOTH,
        ),
        "snip": Criterion(snip, "|g w| (Lee et al. 2019)", needs_batches=True, granularities=_BOTH),
        "mag": Criterion(magnitude, "filters: mean |w| (thesis 2020)", weights="trained", granularities=_FILTER),
        "filter_l1": Criterion(
            filter_l1, "filters: L1 norm (Li et al. 2017)", weights="trained", granularities=_FILTER
        ),
        "filter_l2": Criterion(
            filter_l2, "filters: L2 norm (He et al. 2018)", weights="trained", granularities=_FILTER
        ),
        "fpgm": Criterion(fpgm, "filters: geometric median (He et al. 2019)", weights="trained", granularities=_FILTER),
        "bn_scale": Criterion(
            bn_scale, "filters: |gamma| of BatchNorm (Liu et al. 2017)", weights="trained", granularities=_FILTER
        ),
        "taylor": Criterion(
            taylor,
            "filters: |sum of g w| (Molchanov et al. 2019)",
            weights="trained",
            needs_batches=True,
            granularities=_FILTER,
        ),
    },
)


def select(
    name: str,
    model: nn.Module,
    space: NetworkSpace,
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    density: Density = 0.1,
    *,
    scope: Scope = "global",
    generator: torch.Generator | None = None,
    initial: Mapping[str, Tensor] | None = None,
    on_empty: OnEmpty = "raise",
    hold: Hold = "units",
) -> Mask:
    """The mask that a criterion chooses, after as many rounds as its row says.

    Round r of n keeps density ** (r / n) of the units, among those still alive.

    Parameters
    ----------
    name : str
        A row of ``CRITERIA``.
    batches : iterable of (images, labels)
        Gone through once a round.
    generator : torch.Generator, optional
        Breaks ties, and feeds criteria that draw.
    initial : mapping, optional
        Weights at initialisation, by parameter name.
    hold : {"units", "params", "macs"}
        What ``density`` is a share of.

    Raises
    ------
    InputError
        If the criterion doesn't know the space's granularity, or lacks something that it needs.
    """
    row = CRITERIA[name]
    if space.granularity not in row.granularities:
        raise InputError(f"criterion {name!r}: is for {' and '.join(row.granularities)} masks, not {space.granularity}")
    generator = generator or torch.Generator().manual_seed(0)
    extras: dict[str, Any] = {"generator": generator} if row.draws else {}
    batches = list(batches)
    alive: Mask | None = None
    for r in range(1, row.rounds + 1):
        saliency = row.saliency(model, space, batches, initial=initial, alive=alive, **extras)
        if alive is not None:
            saliency = saliency.masked_fill(~alive.bits, -torch.inf)
        last = r == row.rounds
        step = density if last or isinstance(density, Mapping) else density ** (r / row.rounds)
        alive = space.top_k(saliency, step, scope, generator, on_empty, hold)
    assert alive is not None
    return alive
