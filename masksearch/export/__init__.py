"""Ways out, and in: networks as ONNX and torch.export files, weight masks as torch.nn.utils.prune and state dicts."""

from masksearch.export.masks import from_torch_prune, mask_of_state, masked_state, to_torch_prune
from masksearch.export.programs import Exported, to_onnx, to_program

__all__ = [
    "Exported",
    "from_torch_prune",
    "mask_of_state",
    "masked_state",
    "to_onnx",
    "to_program",
    "to_torch_prune",
]
