"""Sparse kernels: linear layers with 2:4 zeros run on the sparse tensor cores of NVIDIA GPUs where that is faster."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from masksearch.pruning.sparse_layer_choice import Choice, check_equal, choose_form, inputs_of
from masksearch.utils.errors import InputError
from masksearch.utils.forward_passes import batch_of, check_batch, copied, device_of, evaluated
from masksearch.utils.nested import Nested, call_model

_ROWS = 1024  # inputs of a layer to measure it with, if there is no example


class SemiStructured(NamedTuple):
    """Result of :func:`semi_structured`: the network, its layers' measured times, and why other layers stay dense."""

    model: nn.Module
    choices: list[Choice]  # one per measured layer; "dense" where the sparse product is not faster
    left_dense: dict[str, str]  # name of a linear layer that was not measured -> reason


def semi_structured(model: nn.Module, example_input: Nested | None = None, seconds: float = 0.2) -> SemiStructured:
    """Return a copy of a network whose linear layers with 2:4 zeros use sparse GPU kernels, where these are faster.

    A weight has 2:4 zeros if at most two of every four consecutive inputs of an output are not zero, as under masks of
    ``ms.nm_space(model, 2, 4)``. Such layers in float16 or bfloat16 on a CUDA device, with sizes that torch supports,
    are timed dense and as ``torch.sparse.to_sparse_semi_structured``. A layer becomes semi-structured only if the 95 %
    interval of its time lies below that of the dense layer.

    Parameters
    ----------
    model : nn.Module
        It does not change. The copy is in eval mode, and its new weights can't be trained.
    example_input : Tensor (n, ...), or a tuple or dict of such tensors, optional
        A batch of the intended size, on which layers are timed and the outputs of the copy are checked. Default: every
        layer is timed on 1024 random inputs, and no output is checked.
    seconds : float
        Time to measure each layer.

    Raises
    ------
    InputError
        If the network is not on a CUDA device, or can't process ``example_input``, or the copy's outputs differ.
    """
    device = device_of(model)
    if device.type != "cuda":
        raise InputError(
            f"model: {type(model).__name__} is on {device.type}, where 2:4 weights save no time; move it to a CUDA "
            "device, or use deploy.sparse"
        )
    if example_input is not None:
        check_batch(model, example_input)
    replaced: dict[nn.Module, nn.Module] = {}
    choices: list[Choice] = []
    left_dense: dict[str, str] = {}
    with evaluated(model), torch.no_grad():
        batch = None
        inputs: dict[str, Tensor] = {}
        if example_input is not None:
            batch = batch_of(example_input, None, device)
            inputs, outputs = inputs_of(model, batch)
        for name, layer in model.named_modules():
            if not isinstance(layer, nn.Linear):
                continue
            if reason := _reason_for_dense(layer, measured=batch is None or name in inputs):
                left_dense[name] = reason
                continue
            try:
                sparse_layer = _sparse_form(layer)
                x = layer.weight.new_empty(_ROWS, layer.in_features).normal_() if batch is None else inputs[name]
                choice = choose_form(name, layer, sparse_layer, x, seconds)
            except (RuntimeError, ValueError, NotImplementedError) as error:  # sizes, or a GPU without sparse cores
                left_dense[name] = f"torch refuses it ({str(error).splitlines()[0]})"
                continue
            choices.append(choice)
            if choice.chosen == "sparse":
                replaced[layer] = sparse_layer
        deployed = copied(model, replaced).eval()
        if batch is not None:
            check_equal(outputs, call_model(deployed, batch), type(model).__name__)
    return SemiStructured(deployed, choices, left_dense)


def _reason_for_dense(layer: nn.Linear, measured: bool) -> str:
    """Return why a layer can't become semi-structured; "" if it may."""
    weight = layer.weight
    if type(layer) is not nn.Linear:
        return f"a {type(layer).__name__}, which may compute more than nn.Linear"
    if not _has_zeros(weight):
        return "its weight has no 2:4 zeros"
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return f"{str(weight.dtype).removeprefix('torch.')}; 2:4 products need float16 or bfloat16"
    return "" if measured else "the example does not run it alone"


def _has_zeros(weight: Tensor) -> bool:
    """Return whether at most two of every four consecutive inputs of every output are not zero."""
    return weight.shape[1] % 4 == 0 and bool((weight.detach().reshape(-1, 4).count_nonzero(1) <= 2).all())


def _sparse_form(layer: nn.Linear) -> nn.Linear:
    """Return a linear layer with a semi-structured weight and the bias of ``layer``."""
    sparse = copy.copy(layer)
    weight = to_sparse_semi_structured(layer.weight.detach().contiguous())
    sparse._parameters = {**layer._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
    return sparse
