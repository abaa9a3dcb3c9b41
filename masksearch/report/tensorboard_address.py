"""TensorBoard's address for a sweep, with the charts of some runs already selected."""

import base64
import json
from collections.abc import Sequence
from urllib.parse import quote

from masksearch.analysis import Group
from masksearch.experiment import SweepResult
from masksearch.report.figures.drawing import one_sparsity, percent

_ADDRESS = "http://localhost:6006/#custom_scalars"
_RUNS = 12  # more can't be distinguished
_MAX_SELECTED = 40  # TensorBoard selects all runs of a folder that has at most 40 runs


def board_link(result: SweepResult, groups: Sequence[Group]) -> tuple[str, str] | None:
    """Return TensorBoard's address with all methods at one sparsity selected, and a text on it; None without runs."""
    if not groups:
        return None
    sparsity = one_sparsity(groups)
    chosen = [group for group in groups if group.sparsity == sparsity][:_RUNS]
    # TensorBoard lists every folder that has curves as a run: those of earlier rounds and unfinished cells, too.
    files = result.path.rglob("events.out.tfevents.*")
    others = sorted({file.parent.relative_to(result.path).as_posix() for file in files})
    states = dict.fromkeys(others if len(others) <= _MAX_SELECTED else (), False)
    states |= {result.folders[group.places[0]].name: True for group in chosen}
    state = base64.b64encode(json.dumps(states).encode()).decode()
    address = f"{_ADDRESS}&runSelectionState={quote(state)}&_smoothingWeight=0"
    return address, f"searches and trainings at {percent(sparsity)}, seed {chosen[0].cells[0].seed}"
