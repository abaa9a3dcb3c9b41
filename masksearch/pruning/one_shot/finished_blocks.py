"""Finished blocks of a one-shot pruning on disk, so that an interrupted call continues after them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from masksearch.pruning.matrix_layers import MatrixLayer
from masksearch.pruning.one_shot.layer_methods import Kept
from masksearch.spaces import WeightSpace
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, save_tensors
from masksearch.utils.nested import Nested, tensors_of

__all__ = ["BlockLayer", "FinishedBlocks", "LayerReport", "call_digest", "weights_digest"]


@dataclass(frozen=True)
class LayerReport:
    """Result of pruning one layer: its density, and the relative squared error of its outputs."""

    name: str
    density: float  # kept weights / weights
    error: float  # squared error of the layer's outputs / squared dense outputs, on the inputs of the pruned network


@dataclass(frozen=True)
class BlockLayer:
    """Result of pruning one layer of a block: its new weights, its mask, and a report of its error."""

    matrix: Tensor
    keep: Tensor
    report: LayerReport


class FinishedBlocks:
    """Folder of the blocks that a one-shot pruning run has finished, one safetensors file per block."""

    def __init__(self, folder: Path, call: str) -> None:
        self.folder, self.call = folder, call

    def _path(self, number: int) -> Path:
        return self.folder / f"block_{number:04d}.safetensors"

    def load(self, number: int, weights: str) -> dict[str, BlockLayer] | None:
        """Return {layer name: pruned layer} of a block that was finished earlier; None if the block has no file.

        Raises
        ------
        InputError
            If the file is of another call, or of other weights.
        """
        path = self._path(number)
        if not path.exists():
            return None
        tensors, about = load_tensors(path)
        if not isinstance(about, dict) or about.get("call") != self.call or about.get("weights") != weights:
            raise InputError(
                f"{path}: belongs to another network, method, density or examples; give another folder, or remove it"
            )
        return {
            report["name"]: BlockLayer(
                tensors[f"{report['name']}/matrix"], tensors[f"{report['name']}/keep"], LayerReport(**report)
            )
            for report in about["layers"]
        }

    def save(self, number: int, weights: str, results: Mapping[str, BlockLayer]) -> None:
        """Write the pruned layers of a finished block to the block's safetensors file, atomically."""
        tensors = {f"{name}/matrix": result.matrix for name, result in results.items()}
        tensors |= {f"{name}/keep": result.keep for name, result in results.items()}
        reports = [asdict(result.report) for result in results.values()]
        save_tensors(self._path(number), tensors, {"call": self.call, "weights": weights, "layers": reports})


def call_digest(space: WeightSpace, method: str, kept: Mapping[str, Kept], batches: Sequence[Nested]) -> str:
    """Return a hash of a one-shot pruning's arguments: mask space, method, densities and examples, but no weights."""
    digest = hashlib.sha256(
        f"{space.fingerprint}/{method}/{sorted((n, k.density, k.pattern) for n, k in kept.items())}".encode()
    )
    for batch in batches:
        for tensor in tensors_of(batch):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def weights_digest(network: nn.Module, layers: Mapping[str, MatrixLayer]) -> str:
    """Return a hash of the weights that the layers of a block have before pruning."""
    digest = hashlib.sha256()
    for layer in layers.values():
        weight = network.get_parameter(layer.weight_name)
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
