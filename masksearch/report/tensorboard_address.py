"""TensorBoard's address for a sweep, with the charts of some runs already selected."""

from collections.abc import Sequence
from urllib.parse import quote

from masksearch.analysis import Group
from masksearch.report.figures.drawing import one_sparsity
from masksearch.utils.number_text import percent

_ADDRESS = "http://localhost:6006/#custom_scalars"
_MAX_SELECTED = 40  # TensorBoard selects all runs that match its regular expression if there are at most 40


def board_link(groups: Sequence[Group]) -> tuple[str, str] | None:
    """Return (address, text) of a link to TensorBoard that selects all methods at one sparsity; None without results.

    The address has a regular expression for the names of runs, which are folders of cells. With more than 40 cells at
    the sparsity, it selects those of the first method.
    """
    if not groups:
        return None
    sparsity = one_sparsity(groups)
    chosen = [group for group in groups if group.sparsity == sparsity]
    method = f"^{chosen[0].method}_.*" if len(chosen) > _MAX_SELECTED else "_"
    seed = chosen[0].cells[0].seed
    runs = rf"{method}s{sparsity:g}_.*seed{seed}_\w*$"  # the end leaves out earlier rounds: CELL/round1
    address = f"{_ADDRESS}&regexInput={quote(runs, safe='*$')}&_smoothingWeight=0"
    return address, f"searches and trainings at {percent(sparsity)}, seed {seed}"
