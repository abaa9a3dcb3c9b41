"""A trained network from a file: any state dict that fits the model, of any origin."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from masksearch.training.record import Weights
from masksearch.utils.errors import InputError, first_line
from masksearch.utils.files import load_tensors

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # under which training scripts keep it


def check_is_file(path: Path) -> None:
    """Raise an InputError unless ``path`` is a file."""
    if not path.is_file():
        raise InputError(f"dense: {path} is no file; auto, or a file with a state dict, is needed")


def read_weights_file(path: str | Path, model: nn.Module) -> Weights:
    """Read a network's state dict from a safetensors or ``torch.save`` file; check that it fits ``model``.

    Reads safetensors, and what ``torch.save`` has written as far as it is tensors and plain containers (nothing is
    executed); one level of wrapping (``{"state_dict": ...}``) and the prefix of ``DataParallel`` come off.

    Raises
    ------
    InputError
        If the file isn't there, can't be read, doesn't fit the model or holds no finite numbers; the first tensor that
        doesn't is named.
    """
    path = Path(path)
    check_is_file(path)
    state = _unwrapped(_read(path), path)
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in state and name.endswith("num_batches_tracked"):
            state[name] = tensor.clone()  # older files have none, and nothing reads it
        has = tuple(state[name].shape) if name in state else "nothing"
        if has != tuple(tensor.shape):
            raise InputError(
                f"dense: {path} has {has} for {name!r}; {type(model).__name__} needs {tuple(tensor.shape)}"
            )
        _check_numbers(state[name], tensor, f"dense: {path} has", repr(name))
    extra = sorted(set(state) - set(wanted))
    if extra:
        raise InputError(f"dense: {path} has {extra[0]!r}, which {type(model).__name__} does not have")
    return state


def _check_numbers(tensor: Tensor, wanted: Tensor, has: str, name: str) -> None:
    plain = tensor.layout == torch.strided and not tensor.is_meta
    if not plain or tensor.is_floating_point() != wanted.is_floating_point():
        raise InputError(f"{has} a {tensor.type()} for {name}; a dense {wanted.type()} is needed")
    if not tensor.double().isfinite().all():
        raise InputError(f"{has} NaN or infinite values for {name}; finite weights are needed")


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises all kinds for files that are no checkpoints
        reason = first_line(error)
        if reason.startswith("Weights only load failed"):
            reason = "it holds other objects than tensors and containers, which are not loaded for safety"
        raise InputError(f"dense: {path} can't be read as a state dict: {reason}") from None


def _unwrapped(content: object, path: Path) -> Weights:
    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"dense: {path} holds no state dict; names and tensors are needed")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
