"""Rounds of ranking and pruning: how many units each of them keeps, so that what is pruned never has to come back."""

from collections.abc import Iterator, Mapping

from masksearch.core.mask import Mask
from masksearch.core.space import Density, Hold, Scope
from masksearch.spaces import NetworkSpace
from masksearch.utils.errors import InputError

__all__ = ["step_densities"]


def step_densities(
    space: NetworkSpace, density: Density, scope: Scope, hold: Hold, rounds: int, alive: Mask
) -> Iterator[Density]:
    """Densities after each of the rounds, falling exponentially from that of ``alive`` to ``density``, which is last.

    Where the scope fixes the layers' densities, each layer's falls to its own. They are given as whole numbers of units
    that never rise: densities that every round rounds for itself, by largest remainder, could ask for a unit more than
    the round before has left. Held in params or MACs, densities fall from 1, and rounds above ``alive`` prune nothing.

    Raises
    ------
    InputError
        If ``density`` asks for more units than are alive.
    """
    if hold != "units":
        if isinstance(density, Mapping) or not 0 < density <= 1:
            yield density  # for the ranking to refuse
            return
        yield from (density ** (r / rounds) for r in range(1, rounds + 1))
        return
    wanted = space.count(density)
    if wanted > alive.n_kept:
        raise InputError(f"density: {density} keeps {wanted} units, and only {alive.n_kept} are alive")
    if isinstance(density, Mapping) or scope != "global":
        before = list(alive.kept_per_layer().values())
        after = _within(space.quotas(density, scope), before)
        for r in range(1, rounds):
            # A layer of which nothing is to stay keeps a unit until the last round: without it nothing flows.
            kept = [_between(b, max(a, 1), r / rounds) for b, a in zip(before, after, strict=True)]
            yield _shares(space, kept)
        yield _shares(space, after)
    else:
        yield from (alive.density * (density / alive.density) ** (r / rounds) for r in range(1, rounds))
        yield density


def _between(before: int, after: int, share: float) -> int:
    return round(before * (after / before) ** share) if before else 0


def _shares(space: NetworkSpace, kept: list[int]) -> dict[str, float]:
    return {layer.name: k / layer.size for layer, k in zip(space.layers, kept, strict=True)}


def _within(quotas: list[int], available: list[int]) -> list[int]:
    """``quotas`` with none above what is available; the excess is shared out in proportion to the room there is."""
    kept = [min(quota, there) for quota, there in zip(quotas, available, strict=True)]
    room = [there - k for there, k in zip(available, kept, strict=True)]
    excess, total = sum(quotas) - sum(kept), max(1, sum(room))
    shares = [excess * r // total for r in room]
    by_remainder = sorted(range(len(room)), key=lambda i: -(excess * room[i] % total))
    for i in by_remainder[: excess - sum(shares)]:
        shares[i] += 1
    return [k + share for k, share in zip(kept, shares, strict=True)]
