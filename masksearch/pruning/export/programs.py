"""Export of networks to ONNX and torch.export files; their outputs are compared with the network's before writing."""

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.cost.forward_pass import batch_of, check_batch, copied, evaluated, forward
from masksearch.utils.errors import InputError
from masksearch.utils.files import write_bytes

_TOLERANCE = 1e-4  # of the outputs' standard deviation
_TRACED = 2  # batch size of the trace; a size of 1 would become a constant
_CHECKED = (1, 5)  # batch sizes of the check, other than the traced one
_PROTOBUF_LIMIT = 2**31 - 2**20  # bytes of one ONNX file


@dataclass(frozen=True)
class Exported:
    """Exported file of a network: path, size in bytes, and how far the file's outputs differ from the network's."""

    path: Path
    bytes: int
    max_difference: float | None
    """Largest difference between outputs of file and network, in standard deviations of the outputs; None if
    onnxruntime, which runs the file, is not installed."""


def to_onnx(model: nn.Module, example_input: Tensor, path: str | Path) -> Exported:
    """Export a network in eval mode to an ONNX file for any batch size, and compare outputs of file and network.

    The graph has the input ``input`` and the output ``output``. Outputs are compared if onnxruntime is installed, for
    batches of 1 and 5, before the file is written.

    Parameters
    ----------
    model : nn.Module
        Any network; it does not change.
    example_input : Tensor (n, ...)
        Inputs for trace and comparison.
    path : str or Path
        The file, usually ``*.onnx``.

    Raises
    ------
    InputError
        If the extra ``export`` is not installed, the network can't process ``example_input``, returns anything but one
        tensor, can't be exported for every batch size, or the exported outputs differ.
    """
    for needed in ("onnx", "onnxscript"):
        if find_spec(needed) is None:
            raise InputError(f"exporting to ONNX needs the package {needed}: pip install 'masksearch[export]'")
    network, batch = _ready(model, example_input)
    size = sum(tensor.nbytes for tensor in network.state_dict().values() if isinstance(tensor, Tensor))
    if size > _PROTOBUF_LIMIT:
        raise InputError(f"model: {type(model).__name__} has {size} bytes; one ONNX file holds less than 2 GiB")

    def write() -> bytes:
        # Through torch.export, which refuses programs for one batch size only; the ONNX exporter would fix that size.
        program: Any = torch.onnx.export(
            _program(network, batch), input_names=["input"], output_names=["output"], dynamo=True, verbose=False
        )
        return program.model_proto.SerializeToString()

    content = _attempt(model, write)
    if find_spec("onnxruntime") is None:
        write_bytes(path, content)
        return Exported(Path(path), len(content), None)
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return _checked(
        network, batch, lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), path, content
    )


def to_program(model: nn.Module, example_input: Tensor, path: str | Path) -> Exported:
    """Export a network to a program file of ``torch.export``, in eval mode, on the CPU, for any batch size.

    The program's outputs are compared with the network's for batches of 1 and 5 before it is written. Load it with
    ``torch.export.load(path).module()``.

    Parameters
    ----------
    model, example_input
        As in :func:`to_onnx`.
    path : str or Path
        The file, usually ``*.pt2``.

    Raises
    ------
    InputError
        As :func:`to_onnx`; the extra is not needed.
    """
    network, batch = _ready(model, example_input)

    def write() -> bytes:
        buffer = io.BytesIO()
        torch.export.save(_program(network, batch), buffer)
        return buffer.getvalue()

    content = _attempt(model, write)
    return _checked(network, batch, torch.export.load(io.BytesIO(content)).module(), path, content)


def _ready(model: nn.Module, example_input: Tensor) -> tuple[nn.Module, Tensor]:
    """Return a copy of the network on the CPU in eval mode, and a batch of inputs for the comparison."""
    check_batch(model, example_input)
    if not isinstance(example_input, Tensor):
        raise InputError(
            f"example_input: a {type(example_input).__name__}; exports take networks with one input tensor; "
            "wrap the network in a module that takes one"
        )
    network = copied(model).cpu().eval().requires_grad_(False)
    batch = batch_of(example_input, max(_CHECKED), torch.device("cpu"))
    with evaluated(network), torch.no_grad():
        output = forward(network, batch)
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise InputError(
            f"model: {type(model).__name__} returns a {type(output).__name__}; one float tensor is needed to export it"
        )
    return network, batch


def _program(network: nn.Module, batch: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(network, (batch[:_TRACED],), dynamic_shapes=({0: torch.export.Dim("batch")},))


def _attempt(model: nn.Module, write: Callable[[], bytes]) -> bytes:
    """Export without the exporter's messages; an error becomes an :class:`InputError` of one line."""
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return write()
    except Exception as error:  # exporters raise exceptions of many types
        cause = error.__cause__ or error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        reason = lines[0] if lines else type(cause).__name__
        raise InputError(f"model: {type(model).__name__} can't be exported for every batch size ({reason})") from error


def _checked(
    network: nn.Module, batch: Tensor, run: Callable[[Tensor], Tensor], path: str | Path, content: bytes
) -> Exported:
    worst = 0.0
    with torch.no_grad():
        for size in _CHECKED:
            expected, output = network(batch[:size]).double(), run(batch[:size]).double()
            if expected.shape != output.shape:
                raise InputError(
                    f"model: exported, {type(network).__name__} gives outputs {tuple(output.shape)} for a batch of "
                    f"{size}, not {tuple(expected.shape)}"
                )
            spread = float(expected.std(correction=0)) or 1.0
            difference = float((expected - output).abs().max()) / spread
            if not difference <= _TOLERANCE:
                raise InputError(
                    f"model: exported, {type(network).__name__} gives other outputs: {difference:.2g} of their "
                    f"standard deviation apart; at most {_TOLERANCE:g} is allowed"
                )
            worst = max(worst, difference)
    write_bytes(path, content)
    return Exported(Path(path), len(content), worst)
