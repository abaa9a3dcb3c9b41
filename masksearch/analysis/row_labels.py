"""Labels of cells that are equal in method, sparsity, moment and schedule: the settings in which they differ."""

from collections.abc import Hashable, Sequence

from masksearch.experiment.results import CellResult

__all__ = ["row_labels"]

_WORDS: dict[str, dict[str, str]] = {
    "scope": {"erk": "ERK", "global": "global", "layerwise": "layerwise"},
    "connected": {"True": "connected", "False": ""},
}
_OF_A_SEED = ("seed", "file")


def row_labels(cells: Sequence[CellResult], keys: Sequence[Hashable]) -> list[str]:
    """Label every cell by the settings in which it differs from others of the same key, seeds aside.

    A setting that differs between some cells of one key, such as the scope of a criterion in two parts of a sweep, is
    part of the label of all cells that have it.

    Parameters
    ----------
    cells : sequence of CellResult
        Cells with the ``settings`` that decide their results: nested tables of plain values.
    keys : sequence
        The key of each cell.

    Returns
    -------
    list of str
        One label a cell, such as ``ERK`` or ``budget 100, radius 2``; empty where nothing differs.
    """
    settings = [_texts(cell) for cell in cells]
    first: dict[Hashable, dict[str, str]] = {}
    differing: dict[str, None] = {}
    for key, own in zip(keys, settings, strict=True):
        other = first.setdefault(key, own)
        differing |= dict.fromkeys(name for name in other | own if other.get(name) != own.get(name))
    labels = [[_label(name, own[name]) for name in differing if name in own] for own in settings]
    return [", ".join(filter(None, own)) for own in labels]


def _texts(cell: CellResult) -> dict[str, str]:
    return {
        name: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in cell.flat_settings.items()
        if name.rpartition(".")[2] not in _OF_A_SEED
    }


def _label(name: str, value: str) -> str:
    own_name = name.rpartition(".")[2]
    if own_name in _WORDS:
        return _WORDS[own_name].get(value, value)
    return f"{own_name.replace('_', ' ')} {value}"
