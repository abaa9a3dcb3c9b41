"""Choice of the layers whose channels can be pruned, by name, and limits on how many channels a layer keeps."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import ceil, gcd

from torch import nn

from masksearch.core.limits import Limits
from masksearch.spaces.filter_groups import Groups
from masksearch.utils.errors import InputError

Layers = str | nn.Module | Sequence[str | nn.Module]
"""Layers of a network: names, patterns such as ``"layer4.*"`` or modules; a name means all layers within it, too."""


def choose_layers(model: nn.Module, groups: Groups, include: Layers | None, exclude: Layers) -> Groups:
    """Return the channel groups of the layers that ``include`` names (None: all) and ``exclude`` does not name.

    A family belongs to a pattern if any of the layers that make its channels does.

    Raises
    ------
    InputError
        If a pattern or a module fits no layer.
    """
    made = _layers_of_families(groups)
    known = [name for names in made for name in names] + [layer for layer, _ in groups.left_out]
    kept = _patterns(model, known, include, "include") if include is not None else None
    dropped = _patterns(model, known, exclude, "exclude")
    if kept is not None:
        others = [number for number, names in enumerate(made) if not any(_fits(name, kept) for name in names)]
        groups = groups.without(others, "include doesn't name it")
        made = [names for number, names in enumerate(made) if number not in set(others)]
    named = [number for number, names in enumerate(made) if any(_fits(name, dropped) for name in names)]
    return groups.without(named, "exclude names it, or a layer that must lose the same channels") if named else groups


def _layers_of_families(groups: Groups) -> list[list[str]]:
    """For every family, its name and the layers that make its channels."""
    filters = set(groups.filters)
    runs = [run for run in groups.runs if (run.tensor, run.dim) in filters]
    layers = []
    for family, part in zip(groups.families, groups.slices, strict=True):
        own = [run.tensor for run in runs if run.within(part).any()]
        layers.append([family.name, *(tensor.rpartition(".")[0] or tensor for tensor in own)])
    return layers


def _patterns(model: nn.Module, known: Sequence[str], layers: Layers, what: str) -> list[str]:
    given = [layers] if isinstance(layers, str | nn.Module) else layers
    if not isinstance(given, Sequence) or not all(isinstance(layer, str | nn.Module) for layer in given):
        raise InputError(f"{what}: {ascii(layers)[:60]}; allowed are patterns of layers' names, and modules")
    names = {id(module): name for name, module in model.named_modules()}
    patterns = []
    for layer in given:
        if isinstance(layer, nn.Module) and id(layer) not in names:
            raise InputError(f"{what}: a {type(layer).__name__} that is no module of the network; give one of its own")
        pattern = names[id(layer)] if isinstance(layer, nn.Module) else layer
        if pattern and not any(_fits(name, [pattern]) for name in known):
            raise InputError(f"{what}: {pattern!r} fits no layer; the layers are {', '.join(dict.fromkeys(known))}")
        patterns.append(pattern)
    return patterns


def _fits(name: str, patterns: Sequence[str]) -> bool:
    plain = name.partition("#")[0]
    return any(
        not pattern or fnmatchcase(each, pattern) or each.startswith(f"{pattern}.")
        for pattern in patterns
        for each in (name, plain)
    )


def limits_of(groups: Groups, min_units: float, multiple_of: int) -> Limits | None:
    """Return the limits (minimum and multiple) of kept channels per layer; None if both are 1.

    ``multiple_of`` counts channels: in a layer where a unit has several channels, fewer units are a multiple.

    Raises
    ------
    InputError
        If ``min_units`` is no int of at least 1 and no share in (0, 1), or ``multiple_of`` no int of at least 1.
    """
    share = isinstance(min_units, float)
    if (share and not 0 < min_units < 1) or (not share and (not isinstance(min_units, int) or min_units < 1)):
        raise InputError(f"min_units: {min_units!r}; a number of units, at least 1, or a share in (0, 1) is needed")
    if not isinstance(multiple_of, int) or multiple_of < 1:
        raise InputError(f"multiple_of: {multiple_of!r}; a number of channels, at least 1, is needed")
    if min_units == 1 and multiple_of == 1:
        return None
    sizes = tuple(family.size for family in groups.families)
    least = tuple(min(size, ceil(min_units * size) if share else int(min_units)) for size in sizes)
    steps = []
    for part, size in zip(groups.slices, sizes, strict=True):
        made = next(run for run in groups.runs if (run.tensor, run.dim) in groups.filters and part.start in run.units)
        channels = int(made.within(part).sum()) // size
        steps.append(multiple_of // gcd(multiple_of, channels))
    return Limits(sizes, least, tuple(steps))
