"""Export of networks to ONNX and torch.export files; their outputs are compared with the network's before writing."""

import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.utils.errors import InputError
from masksearch.utils.files import write_bytes
from masksearch.utils.forward_passes import batch_of, check_batch, copied, evaluated, forward
from masksearch.utils.nested import Nested, call_model, output_tensors, take, tensors_of

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


def to_onnx(model: nn.Module, example_input: Nested, path: str | Path) -> Exported:
    """Export a network in eval mode to an ONNX file for any batch size, and compare outputs of file and network.

    The graph has the input ``input`` and the output ``output``; several are ``input_0``, ``output_0`` and so on, and
    tensors of dicts have the names of their keys. Outputs are compared if onnxruntime is installed, for batches of 1
    and 5, before the file is written.

    Parameters
    ----------
    model : nn.Module
        Any network; it does not change.
    example_input : Tensor (n, ...), or tuple or dict of such tensors
        Inputs for trace and comparison.
    path : str or Path
        The file, usually ``*.onnx``.

    Raises
    ------
    InputError
        If the extra ``export`` is not installed, the network can't process ``example_input``, returns anything but
        float tensors, can't be exported for every batch size, or the exported outputs differ.
    """
    for needed in ("onnx", "onnxscript"):
        if find_spec(needed) is None:
            raise InputError(f"exporting to ONNX needs the package {needed}: pip install 'masksearch[export]'")
    network, batch, outputs = _ready(model, example_input)
    size = sum(tensor.nbytes for tensor in network.state_dict().values() if isinstance(tensor, Tensor))
    if size > _PROTOBUF_LIMIT:
        raise InputError(f"model: {type(model).__name__} has {size} bytes; one ONNX file holds less than 2 GiB")

    inputs = _names("input", batch)
    results = _names("output", outputs)
    if set(inputs) & set(results):
        results = _names("output", tuple(output_tensors(outputs)))

    def write() -> bytes:
        # Through torch.export, which refuses programs for one batch size only; the ONNX exporter would fix that size.
        flat = network if isinstance(batch, Tensor) and isinstance(outputs, Tensor) else _Flat(network, batch)
        program: Any = torch.onnx.export(
            _program(flat, batch if flat is network else tuple(tensors_of(batch))),
            input_names=inputs,
            output_names=results,
            dynamo=True,
            verbose=False,
        )
        return program.model_proto.SerializeToString()

    content = _attempt(model, write)
    if find_spec("onnxruntime") is None:
        write_bytes(path, content)
        return Exported(Path(path), len(content), None)
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(batch: Nested) -> list[Tensor]:
        feeds = {name: tensor.numpy() for name, tensor in zip(inputs, tensors_of(batch), strict=True)}
        return [torch.from_numpy(array) for array in session.run(results, feeds)]

    return _checked(network, batch, run, path, content)


def to_program(model: nn.Module, example_input: Nested, path: str | Path) -> Exported:
    """Export a network in eval mode to a file of ``torch.export`` (``*.pt2``), for the CPU and any batch size.

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
    network, batch, _ = _ready(model, example_input)

    def write() -> bytes:
        buffer = io.BytesIO()
        torch.export.save(_program(network, batch), buffer)
        return buffer.getvalue()

    content = _attempt(model, write)
    loaded = torch.export.load(io.BytesIO(content)).module()
    return _checked(network, batch, lambda part: output_tensors(call_model(loaded, part)), path, content)


class _Flat(nn.Module):
    """A network as a function of a list of tensors, which returns one tensor or a tuple of tensors."""

    def __init__(self, network: nn.Module, batch: Nested) -> None:
        super().__init__()
        self.network = network
        self.keys = list(batch) if isinstance(batch, dict) else None

    def forward(self, *tensors: Tensor) -> Any:
        inputs = tensors if self.keys is None else dict(zip(self.keys, tensors, strict=True))
        found = output_tensors(call_model(self.network, inputs))
        return found[0] if len(found) == 1 else tuple(found)


def _ready(model: nn.Module, example_input: Nested) -> tuple[nn.Module, Nested, Any]:
    """Return a copy of the network on the CPU in eval mode, a batch of inputs for the comparison, and its outputs."""
    check_batch(model, example_input)
    network = copied(model).cpu().eval().requires_grad_(False)
    batch = batch_of(example_input, max(_CHECKED), torch.device("cpu"))
    with evaluated(network), torch.no_grad():
        outputs = forward(network, batch)
    found = output_tensors(outputs)
    if not found or not all(tensor.is_floating_point() for tensor in found):
        kinds = ", ".join(str(tensor.dtype) for tensor in found) or f"a {type(outputs).__name__} without tensors"
        raise InputError(f"model: {type(model).__name__} returns {kinds}; float tensors are needed to export it")
    return network, batch, outputs


def _names(kind: str, value: Any) -> list[str]:
    """Return the names of inputs or outputs in an ONNX graph: one per tensor."""
    if isinstance(value, Mapping) and all(isinstance(tensor, Tensor) for tensor in value.values()):
        return [str(name) for name in value]
    tensors = output_tensors(value)
    return [kind] if len(tensors) == 1 else [f"{kind}_{place}" for place in range(len(tensors))]


def _program(network: nn.Module, batch: Nested) -> torch.export.ExportedProgram:
    traced, size = take(batch, slice(_TRACED)), {0: torch.export.Dim("batch")}
    if isinstance(traced, dict):
        return torch.export.export(network, (), traced, dynamic_shapes=dict.fromkeys(traced, size))
    arguments = (traced,) if isinstance(traced, Tensor) else traced
    sizes: tuple[Any, ...] = (size,) * len(arguments)
    return torch.export.export(network, arguments, dynamic_shapes=(sizes,) if isinstance(network, _Flat) else sizes)


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
    network: nn.Module, batch: Nested, run: Callable[[Nested], list[Tensor]], path: str | Path, content: bytes
) -> Exported:
    worst = 0.0
    with torch.no_grad():
        for size in _CHECKED:
            part = take(batch, slice(size))
            for expected, output in zip(output_tensors(call_model(network, part)), run(part), strict=True):
                worst = max(worst, _difference(type(network).__name__, expected.double(), output.double(), size))
    write_bytes(path, content)
    return Exported(Path(path), len(content), worst)


def _difference(name: str, expected: Tensor, output: Tensor, size: int) -> float:
    """Return how far an output of the file is from the network's, in standard deviations; raise an error if too far."""
    if expected.shape != output.shape:
        raise InputError(
            f"model: the exported {name} returns shape {tuple(output.shape)} for a batch of {size}, "
            f"and the network {tuple(expected.shape)}; nothing is written"
        )
    spread = float(expected.std(correction=0)) or 1.0
    difference = float((expected - output).abs().max()) / spread
    if not difference <= _TOLERANCE:
        raise InputError(
            f"model: the exported {name} gives other outputs: they differ by {difference:.2g} of their standard "
            f"deviation; at most {_TOLERANCE:g} is allowed; nothing is written"
        )
    return difference
