"""Trace of a forward pass: a graph of its operations and of the module calls that ran them, without tensors."""

from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from masksearch.spaces.coupling_trace import shared_parameters
from masksearch.utils.nested import Nested, call_model, output_tensors


@dataclass(frozen=True, eq=False)
class Operation:
    """One ATen operation of a traced forward pass: its inputs (earlier operations and parameters) and its MACs."""

    name: str  # "add", or "add_" in place
    inputs: tuple[int, ...]  # tensors among its arguments, in order: index of the operation; negative: network inputs
    parameters: frozenset[str]
    macs: int  # multiply-adds for one example
    same_shape: bool  # two tensors of the shape of the result are its inputs


@dataclass(eq=False)
class ModuleCall:
    """One call of a module in a traced forward pass: the operations that ran in it, its input and its output."""

    module: str
    start: int
    stop: int = -1
    input: int | None = None  # operation that made the input, where it is the only argument
    output: int | None = None  # operation that made the output, where it is one tensor
    form: Any = None  # of the output, as _form returns it
    has_form: bool = False  # the output is made of own tensors, arguments, None and tuples
    arguments: dict[int, int | str] = field(default_factory=dict)  # id of a tensor -> place or name of the argument


@dataclass(frozen=True, eq=False)
class Graph:
    """Operations and module calls of one traced forward pass, in the order in which they began."""

    operations: list[Operation]
    calls: list[ModuleCall]
    outputs: frozenset[int]  # operations that made the outputs of the network
    sizes: dict[str, int] = field(default_factory=dict)  # parameter -> number of entries
    zero: frozenset[int] = frozenset()  # operations with results of only zeros, of those that were watched

    @cached_property
    def live(self) -> set[int]:
        """Return the indices (positions in the trace) of the operations on which an output of the network depends."""
        found: set[int] = set()
        stack = list(self.outputs)
        while stack:
            place = stack.pop()
            if place >= 0 and place not in found:
                found.add(place)
                stack += self.operations[place].inputs
        return found

    @cached_property
    def users(self) -> dict[int, set[int]]:
        """Return {operation: operations that read its result}, for those on which a network output depends."""
        users: dict[int, set[int]] = {}
        for place in self.live:
            for made in self.operations[place].inputs:
                users.setdefault(made, set()).add(place)
        return users

    @cached_property
    def ancestors(self) -> list[int]:
        """Return what each operation depends on (operations and network inputs), as the bits of an int."""
        sets: list[int] = []
        for operation in self.operations:
            bits = 0
            for made in operation.inputs:
                bits |= 1 if made < 0 else sets[made] | (2 << made)
            sets.append(bits)
        return sets

    def depends(self, place: int, on: int) -> bool:
        """Return whether operation ``place`` is or depends on operation ``on``; ``on`` < 0 means a network input."""
        if place == on or place < 0:
            return place == on
        return bool(self.ancestors[place] & (1 if on < 0 else 2 << on))

    def is_constant(self, place: int) -> bool:
        """Return whether the result of operation ``place`` depends on no input of the network."""
        return place >= 0 and not self.ancestors[place] & 1

    @cached_property
    def readers(self) -> dict[str, set[int]]:
        """Return {parameter: operations that read it}, for operations on which a network output depends."""
        readers: dict[str, set[int]] = {}
        for place in self.live:
            for name in self.operations[place].parameters:
                readers.setdefault(name, set()).add(place)
        return readers

    @cached_property
    def runs(self) -> dict[str, int]:
        """Return {module: number of its calls in the traced forward pass}."""
        return Counter(call.module for call in self.calls)

    @cached_property
    def macs(self) -> int:
        """Return the multiply-adds of the traced forward pass for one example."""
        return sum(operation.macs for operation in self.operations)


class _GraphTracer(TorchDispatchMode):
    """Append every operation to a list; tensors are recognised as objects."""

    def __init__(self, model: nn.Module, inputs: list[Tensor], watched: Collection[int]) -> None:
        super().__init__()
        self.watched, self.zero = watched, set[int]()
        self.operations: list[Operation] = []
        self.kept: list[Any] = [inputs]  # objects with an entry in `made`, which must live on
        self.made = {id(tensor): -1 - place for place, tensor in enumerate(inputs)}
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, object] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        shape = results[0].shape if len(results) == 1 else None
        self.operations.append(
            Operation(
                func._overloadpacket.__name__,
                tuple(self.made[id(tensor)] for tensor in tensors if id(tensor) in self.made),
                frozenset(self.names[id(tensor)] for tensor in tensors if id(tensor) in self.names),
                _macs(func, args, kwargs or {}, result),
                len(tensors) == 2 and all(tensor.shape == shape for tensor in tensors),
            )
        )
        place = len(self.operations) - 1
        if place in self.watched and results and not results[0].detach().count_nonzero():
            self.zero.add(place)
        self.kept.append(results)
        self.made.update((id(tensor), place) for tensor in results)
        return result


def _macs(func: OpOverload, args: Any, kwargs: Any, result: Any) -> int:
    packet = func._overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result)) // 2
    if packet.__name__.startswith("_scaled_dot_product"):  # on a CPU, which torch's registry leaves out
        query, key, value = (tensor.shape for tensor in args[:3])
        return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return 0


def operations_of(model: nn.Module, inputs: Nested, watched: Collection[int] = ()) -> Graph:
    """Run a network once, in its present mode, and return the graph of its operations and module calls.

    ``watched`` are numbers of operations whose results are tested for zeros.
    """
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    tracer = _GraphTracer(model, tensors, watched)
    calls: list[ModuleCall] = []
    running: list[ModuleCall] = []

    def enter(module: nn.Module, args: Any, kwargs: Any, name: str) -> None:
        call = ModuleCall(name, len(tracer.operations))
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            call.input = tracer.made.get(id(args[0]))
        arguments = {**dict(enumerate(args)), **kwargs}
        call.arguments = {id(value): key for key, value in arguments.items() if isinstance(value, Tensor)}
        calls.append(call)
        running.append(call)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        call = running.pop()
        call.stop = len(tracer.operations)
        if isinstance(output, Tensor):
            call.output = tracer.made.get(id(output))
        try:
            call.form, call.has_form = _form(output, call, tracer), True
        except TypeError:
            call.has_form = False
        call.arguments = {}

    hooks = ExitStack()
    for name, module in model.named_modules():
        hooks.enter_context(
            module.register_forward_pre_hook(
                lambda module, args, kwargs, name=name: enter(module, args, kwargs, name), with_kwargs=True
            )
        )
        hooks.enter_context(module.register_forward_hook(leave))
    with hooks, torch.enable_grad(), tracer:  # without gradients, attention takes fused paths without additions
        outputs = output_tensors(call_model(model, inputs))
    made = frozenset(tracer.made[id(output)] for output in outputs if id(output) in tracer.made)
    shared = set(shared_parameters(model))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name not in shared}
    return Graph(tracer.operations, calls, made, sizes, frozenset(tracer.zero))


def _form(output: Any, call: ModuleCall, tracer: _GraphTracer) -> Any:
    """Return the form of a module's output: dimensions of own tensors, {"argument": key} of passed ones, None, list.

    TypeError for other objects.
    """
    if isinstance(output, Tensor):
        if tracer.made.get(id(output), -1) >= call.start and output.is_floating_point():
            return output.ndim
        if id(output) in call.arguments:
            return {"argument": call.arguments[id(output)]}
        raise TypeError
    if output is None:
        return None
    if type(output) in (tuple, list):
        return [_form(part, call, tracer) for part in output]
    raise TypeError
