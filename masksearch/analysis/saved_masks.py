"""Masks saved by a finished sweep: reading them, their orthogonality scores, and means of their layers over seeds."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from masksearch.analysis.seed_groups import Group
from masksearch.analysis.similarity_and_orthogonality import weights_orthogonality
from masksearch.analysis.statistics import Estimate
from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace
from masksearch.experiment import SweepResult
from masksearch.experiment.store.sweep_plan import read_plan
from masksearch.pruning.orthogonalisation import repaired
from masksearch.utils.files import load_tensors
from masksearch.utils.integrity import refusing


def read_mask(path: Path, granularity: str) -> Mask:
    """Return the mask saved in a file. No network is needed, since the file also describes the layers."""
    _, about = load_tensors(path)
    with refusing(path):
        space = MaskSpace([(name, tuple(shape), units) for name, shape, units in about["layers"]], granularity)
        space.fingerprint = about["fingerprint"]  # that of a filter space depends on more than the sizes
    return Mask.load(path, space)


def group_masks(result: SweepResult, group: Group) -> dict[int, Mask]:
    """Return {seed: mask} of the masks that a sweep saved for one method at one sparsity."""
    masks = {}
    for place, cell in zip(group.places, group.cells, strict=True):
        path = result.folders[place] / "mask.safetensors"
        if path.exists():
            masks[cell.seed] = read_mask(path, cell.granularity)
    return masks


def group_orthogonality(
    result: SweepResult, masks: Mapping[int, Mask], seeds: list[int], repair: bool = False
) -> Estimate:
    """Return how far one method's masked initial weights are from orthogonal: mean and 95 % interval over seeds.

    Parameters
    ----------
    masks : mapping
        Seed -> weight mask; the layers of its space count.
    repair : bool
        Score the weights that :func:`masksearch.pruning.orthogonalisation.repaired` returns.
    """
    scores = []
    for seed in seeds:
        weights = _initial(result, seed)
        mask = masks.get(seed)
        if weights is None or mask is None:
            continue
        keep = {f"{layer.name}.weight": mask.bits[layer.slice].view(layer.shape) for layer in mask.space.layers}
        weights = repaired(weights, keep) if repair else weights
        scores.append(weights_orthogonality([weights[name] * bits for name, bits in keep.items()]))
    return Estimate.of(scores)


def _initial(result: SweepResult, seed: int) -> dict[str, Tensor] | None:
    files = [folder / "init.safetensors" for folder in read_plan(result.path).dense_folders(seed)]
    known = [path for path in files if path.exists()]
    return load_tensors(known[0])[0] if known else None
