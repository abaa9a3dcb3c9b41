"""Export and import: networks as ONNX and torch.export files, weight masks as torch.nn.utils.prune and state dicts."""

from masksearch.pruning.export.onnx_and_programs import Exported, to_onnx, to_program
from masksearch.pruning.export.torch_prune import from_torch_prune, mask_of_state, masked_state, to_torch_prune

__all__ = [
    "Exported",
    "from_torch_prune",
    "mask_of_state",
    "masked_state",
    "to_onnx",
    "to_program",
    "to_torch_prune",
]
