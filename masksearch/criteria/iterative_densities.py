"""Densities of repeated ranking and pruning: how much each round keeps, so that pruned units stay pruned."""

from collections.abc import Iterator

from masksearch.core.density_allocation import Amount
from masksearch.core.mask import Mask
from masksearch.spaces import NetworkSpace
from masksearch.utils.errors import InputError


def step_amounts(space: NetworkSpace, amount: Amount, rounds: int, alive: Mask) -> Iterator[Amount]:
    """Yield how much to keep after each of several pruning rounds, from what mask ``alive`` keeps down to ``amount``.

    The density falls exponentially. Where the scope fixes the layers' densities, each layer's falls to its own. The
    layers' densities are whole numbers of units that never rise: with independent rounding by largest remainder, a
    round could keep a unit more than the round before has left. For shares of parameters or MACs (``hold``), densities
    fall from 1; a round whose density is above that of ``alive`` prunes nothing.

    Raises
    ------
    InputError
        If ``amount`` keeps more units than ``alive``.
    """
    if amount.hold != "units":
        final = amount.single(f"hold {amount.hold!r} needs one density")
        yield from (amount.at(final ** (r / rounds)) for r in range(1, rounds + 1))
        return
    count = amount.count(space)
    if count > alive.n_kept:
        raise InputError(
            f"density: {amount.density} keeps {count} units, and earlier rounds left {alive.n_kept}: give a lower one"
        )
    if amount.fixes_layers and not space.nested:
        before = list(alive.kept_per_layer().values())
        after = _within(amount.quotas(space), before)
        for r in range(1, rounds):
            # Every alive layer keeps a unit until the last round, even with quota 0: an empty layer cuts the network.
            kept = [_between(b, max(a, 1), r / rounds) for b, a in zip(before, after, strict=True)]
            yield amount.at(space.densities(kept))
        yield amount.at(space.densities(after))
    else:
        final = amount.single("scope 'global' has one density")
        yield from (amount.at(alive.density * (final / alive.density) ** (r / rounds)) for r in range(1, rounds))
        yield amount


def _between(before: int, after: int, share: float) -> int:
    return round(before * (after / before) ** share) if before else 0


def _within(quotas: list[int], available: list[int]) -> list[int]:
    """Return ``quotas`` limited to ``available``; the excess is distributed in proportion to free units."""
    kept = [min(quota, limit) for quota, limit in zip(quotas, available, strict=True)]
    free = [limit - k for limit, k in zip(available, kept, strict=True)]
    excess, total = sum(quotas) - sum(kept), max(1, sum(free))
    shares = [excess * r // total for r in free]
    by_remainder = sorted(range(len(free)), key=lambda i: -(excess * free[i] % total))
    for i in by_remainder[: excess - sum(shares)]:
        shares[i] += 1
    return [k + share for k, share in zip(kept, shares, strict=True)]
