"""What tells cells apart that are equal in all that results are usually told by: settings of a sweep's parts."""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["told_apart"]

_WORDS: dict[str, dict[str, str]] = {
    "scope": {"erk": "ERK", "global": "global", "layerwise": "layerwise"},
    "connected": {"True": "connected", "False": ""},
}
_OF_A_SEED = ("dense.seed", "dense.file")


def told_apart(cells: Sequence[Mapping[str, Any]], keys: Sequence[Hashable]) -> list[str]:
    """Words for every cell that tell it from others of the same key, seeds aside; none where there is nothing to tell.

    What differs between some cells of one key, as the scope of a criterion that a sweep has in two parts, is told of
    all cells that have it.

    Parameters
    ----------
    cells : sequence of mapping
        Metrics of cells, each with the ``settings`` that decide its result.
    keys : sequence
        What each cell is known by so far.
    """
    flat = [{name: value for name, value in _flat(cell["settings"]) if name not in _OF_A_SEED} for cell in cells]
    first: dict[Hashable, dict[str, str]] = {}
    told: dict[str, None] = {}
    for key, own in zip(keys, flat, strict=True):
        other = first.setdefault(key, own)
        told |= dict.fromkeys(name for name in other | own if other.get(name) != own.get(name))
    words = [[_word(name, own[name]) for name in told if name in own] for own in flat]
    return [", ".join(filter(None, own)) for own in words]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif name == "searcher":  # its settings, as Python writes them
            for own, text in re.findall(r"(\w+)=('[^']*'|\([^)]*\)|[^,()]*)", value):
                yield f"{prefix}{name}.{own}", text.strip("'")
        else:
            yield f"{prefix}{name}", " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _word(name: str, value: str) -> str:
    if name in _WORDS:
        return _WORDS[name].get(value, value)
    return f"{name.rpartition('.')[2].replace('_', ' ')} {value}"
