"""Layers that multiply rows of inputs by a matrix: weights as matrices, inputs as rows, residual shortcuts."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from masksearch.utils.nested import Nested, call_model, take

_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # these change nothing in eval mode
_ADD = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}


@dataclass(frozen=True)
class MatrixLayer:
    """A layer that multiplies its inputs by a matrix: a linear layer, a convolution, or a projection of attention."""

    name: str  # of the module
    groups: int
    centred: bool  # no bias, and a BatchNorm behind it, which takes any offset of the outputs
    weight: str = "weight"  # attribute of the module
    bias: str = "bias"
    transposed: bool = False  # whether the weight is (k, out), as in Hugging Face's Conv1D
    norm: str | None = None  # the BatchNorm that reads the layer's outputs
    added: bool = False  # whether the outputs, behind the BatchNorm if there is one, are added to another tensor

    @property
    def weight_name(self) -> str:
        """Name of the layer's weight among the network's parameters."""
        return f"{self.name}.{self.weight}".lstrip(".")

    @property
    def mask_name(self) -> str:
        """Name of the layer in weight masks: the module's name, or the parameter's if a module has several weights."""
        return self.name if self.weight == "weight" else self.weight_name

    def has_bias(self, module: Any) -> bool:
        """Return whether this layer has a bias; ``module`` is the torch module that holds the layer's parameters."""
        return getattr(module, self.bias) is not None

    def matrix(self, module: Any) -> Tensor:
        """Return the layer's weight as float64 matrices, one per convolution group; the last column is the bias.

        The shape is (groups, out / groups, k + 1) for k inputs.
        """
        weight = self._rows(getattr(module, self.weight).detach()).cpu().double()
        bias = getattr(module, self.bias)
        last = torch.zeros(len(weight)) if bias is None else bias.detach().cpu()
        return torch.cat([weight, last[:, None].double()], dim=1).unflatten(0, (self.groups, -1))

    def kept_entries(self, keep: Tensor) -> Tensor:
        """Reshape the bool mask of a layer's weight to matrices, one per convolution group.

        The shape is (groups, out / groups, k) for k inputs.
        """
        return self._rows(keep.cpu()).unflatten(0, (self.groups, -1))

    def store(self, module: Any, matrix: Tensor) -> None:
        """Copy matrices, one per convolution group, into the layer's weight; their last column goes into the bias."""
        rows, weight, bias = matrix.flatten(0, 1), getattr(module, self.weight), getattr(module, self.bias)
        entries = rows[:, :-1].T if self.transposed else rows[:, :-1]
        with torch.no_grad():
            weight.copy_(entries.reshape(weight.shape).to(weight))
            if bias is not None:
                bias.copy_(rows[:, -1].to(bias))

    def input_rows(self, module: Any, inputs: Tensor) -> Tensor:
        """Reshape a layer's inputs to one matrix per convolution group, with a row for each position of each example.

        The shape is (groups, rows, k) for k inputs.
        """
        if not isinstance(module, _ConvNd):
            return inputs.flatten(0, -2)[None]
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        padded = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode)
        sizes = zip(module.kernel_size, module.dilation, module.stride, strict=True)
        for dim, (kernel, dilation, stride) in enumerate(sizes, start=2):
            padded = padded.unfold(dim, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
        n = len(module.kernel_size)  # (b, c, positions ..., kernel ...) -> (b, positions ..., c, kernel ...)
        rows = padded.movedim(1, n + 1).flatten(n + 1).flatten(0, n)
        return rows.unflatten(1, (self.groups, -1)).transpose(0, 1)

    def output_rows(self, module: Any, outputs: Tensor) -> Tensor:
        """Reshape a layer's outputs to one matrix per convolution group, with a row for each position of each example.

        The order of rows is that of :meth:`input_rows`. The shape is (groups, rows, out / groups).
        """
        rows = (outputs.movedim(1, -1) if isinstance(module, _ConvNd) else outputs).flatten(0, -2)
        return rows.unflatten(1, (self.groups, -1)).transpose(0, 1)

    def shift(self, dense: nn.Module, difference: Tensor) -> Tensor:
        """Return the tensor to add to a layer's target outputs, so that they correct the error of a pruned shortcut.

        ``difference`` is the dense network's shortcut minus the pruned network's. It is divided by the scales of the
        BatchNorm behind the layer.
        """
        if self.norm is None:
            return difference
        norm: Any = dense.get_submodule(self.norm)
        scale = norm.weight if norm.weight is not None else torch.ones_like(norm.running_var)
        scale = scale.detach() / (norm.running_var + norm.eps).sqrt()
        dead = scale.abs() < 1e-3 * scale.abs().max()  # such a channel can't take over the work of others
        factor = torch.where(dead, 0.0, 1 / torch.where(dead, 1.0, scale))
        return difference * factor.view(-1, *[1] * (difference.ndim - 2))

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.T if self.transposed else weight.flatten(1)


def matrix_layers(model: nn.Module, batch: Nested) -> list[MatrixLayer]:
    """Return a model's linear layers, convolutions and attention projections, in the order in which they first run.

    They are linear layers, Hugging Face's Conv1D, convolutions of all padding modes (not transposed ones), and the
    projections of ``nn.MultiheadAttention``: those of its inputs where query, key and value are the same tensor. A
    weight that two modules share is left out: other inputs would need other values.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    order: dict[str, None] = {}
    trace = _Trace(model)

    def note(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if isinstance(module, nn.MultiheadAttention):
            given = [*args, *kwargs.values()]
            if module.in_proj_weight is not None and all(part is given[0] for part in given[:3]):
                order[name] = None
            order[f"{name}.out_proj".lstrip(".")] = None
        elif _is_matrix(module):
            order[name] = None

    with ExitStack() as hooks, trace, torch.no_grad():
        for name, child in model.named_modules():
            hooks.enter_context(child.register_forward_pre_hook(partial(note, name), with_kwargs=True))
        call_model(model, take(batch, slice(2)))
    layers = []
    for name in order:
        module: Any = model.get_submodule(name)
        if owners[id(module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight)] > 1:
            continue
        norm, added = trace.norms.get(name), name in trace.shortcuts
        if isinstance(module, nn.MultiheadAttention):
            layers.append(MatrixLayer(name, 1, False, "in_proj_weight", "in_proj_bias"))
            continue
        centred = module.bias is None and norm is not None
        transposed = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
        groups = getattr(module, "groups", 1)
        layers.append(MatrixLayer(name, groups, centred, transposed=transposed, norm=norm, added=added))
    return layers


def input_sums(
    network: nn.Module,
    layers: Mapping[str, MatrixLayer],
    batches: Iterable[Nested],
    of_rows: Callable[[Tensor], Tensor],
) -> dict[str, tuple[Tensor, int]]:
    """Sum the function ``of_rows`` of each layer's inputs over all batches; return {layer name: (sum, number of rows)}.

    ``rows`` are the inputs of a layer in one batch, float64 (groups, n, k).
    """
    sums: dict[str, tuple[Tensor, int]] = {}

    def add(name: str, inputs: Tensor) -> None:
        rows = layers[name].input_rows(network.get_submodule(name), inputs)
        total, count = sums.get(name, (0.0, 0))
        sums[name] = total + of_rows(rows.double()), count + rows.shape[1]

    with reading(network, layers.values(), add):
        for batch in batches:
            call_model(network, batch)
    return sums


def _is_matrix(module: nn.Module) -> bool:
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # of Hugging Face
        return True
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)


@dataclass
class Observed:
    """Tensors recorded at one layer in forward passes: inputs of the layer, and shortcuts added to its outputs."""

    inputs: list[Tensor] = field(default_factory=list)
    shortcuts: list[Tensor] = field(default_factory=list)


@contextmanager
def observed(model: nn.Module, layers: Sequence[MatrixLayer], shortcuts: bool) -> Iterator[dict[str, Observed]]:
    """Context manager that records each layer's inputs; with ``shortcuts``, also tensors added to layers' outputs."""
    found = {layer.name: Observed() for layer in layers}
    with ExitStack() as stack:
        stack.enter_context(reading(model, layers, lambda name, inputs: found[name].inputs.append(inputs)))
        if shortcuts and any(layer.added for layer in layers):
            trace = stack.enter_context(_Trace(model, {layer.name for layer in layers if layer.added}))
            yield found
            for name, tensors in trace.shortcuts.items():
                found[name].shortcuts += tensors
        else:
            yield found


@contextmanager
def reading(model: nn.Module, layers: Iterable[MatrixLayer], read: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Context manager that calls ``read(layer name, inputs)`` whenever one of ``layers`` runs in a forward pass."""

    def note(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read(name, (args[0] if args else next(iter(kwargs.values()))).detach())

    with ExitStack() as stack:
        for name in [layer.name for layer in layers]:
            parent = model.get_submodule(name.rpartition(".")[0])
            if isinstance(parent, nn.MultiheadAttention):
                stack.enter_context(_reading_projection(parent, partial(read, name)))
            else:
                module = model.get_submodule(name)
                stack.enter_context(module.register_forward_pre_hook(partial(note, name), with_kwargs=True))
        yield


@contextmanager
def _reading_projection(attention: nn.MultiheadAttention, read: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the block, call ``read(inputs)`` for the output projection, which no module call shows.

    The projection is the identity meanwhile, so that the attention returns these inputs; a hook then projects them.
    """
    weight, bias = attention.out_proj.weight, attention.out_proj.bias
    own = (weight.data, None if bias is None else bias.data)

    def project(_: nn.Module, args: Any, outputs: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        read(outputs[0].detach())
        return F.linear(outputs[0], *own), outputs[1]

    weight.data = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    if bias is not None:
        bias.data = torch.zeros_like(bias)
    try:
        with attention.register_forward_hook(project):
            yield
    finally:
        weight.data = own[0]
        if bias is not None and own[1] is not None:
            bias.data = own[1]


class _Trace(TorchFunctionMode):
    """Within the block, note which BatchNorm reads a layer's outputs, and which tensors are added to them.

    Of two layers whose outputs are added to each other, the one that ran last has the other's outputs as its shortcut.
    """

    def __init__(self, model: nn.Module, names: set[str] | None = None) -> None:
        super().__init__()
        self.norms: dict[str, str] = {}
        self.shortcuts: dict[str, list[Tensor]] = {}
        self._model, self._names = model, names
        self._sources: dict[int, tuple[int, str]] = {}  # id of a tensor -> (number of its run, layer that made it)
        self._alive: list[Any] = []  # an id is that of one tensor only while the tensor lives
        self._hooks = ExitStack()

    def __enter__(self) -> "_Trace":
        for name, module in self._model.named_modules():
            if _is_matrix(module) or isinstance(module, (_BatchNorm, nn.MultiheadAttention, *_SAME)):
                self._hooks.enter_context(module.register_forward_hook(partial(self._note, name)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.close()
        self._sources.clear()
        self._alive.clear()

    def _note(self, name: str, module: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        """Note the outputs of a module: those of a layer, or of a module behind one."""
        own = name
        if isinstance(module, nn.MultiheadAttention):
            name, outputs = f"{name}.out_proj".lstrip("."), outputs[0]
        elif not _is_matrix(module):
            source = self._sources.get(id(args[0])) if args else None
            if source is None:
                return
            name = source[1]
            if isinstance(module, _BatchNorm):
                self.norms[name] = own
        self._sources[id(outputs)] = (len(self._alive), name)
        self._alive.append((args, outputs))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ADD and len(args) == 2 and all(isinstance(arg, Tensor) for arg in args) and self._sources:
            runs = [self._sources.get(id(arg), (-1, "")) for arg in args]
            (last, name), other = max(zip(runs, reversed(args), strict=True), key=lambda pair: pair[0])
            if last >= 0 and args[0].shape == args[1].shape and (self._names is None or name in self._names):
                self.shortcuts.setdefault(name, []).append(other.detach().clone())
        result = func(*args, **(kwargs or {}))
        if args and result is args[0]:  # changed in place: no longer a layer's outputs
            self._sources.pop(id(result), None)
        return result
