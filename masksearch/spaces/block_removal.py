"""Physical removal of residual branches: cheap modules without parameters replace a network's modules.

Where a block is left with its shortcut and activations, a :class:`SkippedBlock` runs these alone. Elsewhere the modules
of the branch become a :class:`RemovedBranch`, which returns zeros of one element that the addition broadcasts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.spaces.block_branches import Branch, innermost
from masksearch.spaces.operation_graph import Graph, ModuleCall
from masksearch.utils.copies import copy_network


class Replacement(TypedDict, total=False):
    """Arguments, for JSON, of a module that replaces another: of a SkippedBlock (``steps``) or of a RemovedBranch."""

    steps: list[list[str]]
    form: Any
    full: bool


Replacements = dict[str, Replacement]
"""{name of a module: what replaces it}."""

_ACTIVATIONS = {"relu": F.relu, "silu": F.silu, "hardswish": F.hardswish}


class SkippedBlock(nn.Module):
    """Module in place of a residual block whose branches are removed: runs only its shortcut and activations.

    Parameters
    ----------
    steps : sequence of (str, str)
        ``("module", name)`` for a child of the block, ``("function", name)`` for an activation.
    """

    def __init__(self, block: nn.Module, steps: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.steps = [(kind, name) for kind, name in steps]
        for kind, name in self.steps:
            if kind == "module":
                self.add_module(name, block.get_submodule(name))
        for module in self.modules():
            if getattr(module, "inplace", False):  # it would change the block's input
                module.inplace = False  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the residual block's shortcut and activations to x; return x if the block has neither."""
        for kind, name in self.steps:
            x = self.get_submodule(name)(x) if kind == "module" else _ACTIVATIONS[name](x)
        return x


class RemovedBranch(nn.Module):
    """Module in place of one that belonged to a removed residual branch: it returns zeros.

    Parameters
    ----------
    form : int, dict, None or list
        Form of the output: dimensions of a tensor, {"argument": place or name} of a tensor that is passed on, None, or
        a list of forms for a tuple.
    full : bool
        Whether zeros have the shape of the input, instead of one element.
    """

    in_proj_bias: None = None  # nn.TransformerEncoderLayer then takes no fused path, which reads weights

    def __init__(self, module: nn.Module, form: Any, full: bool) -> None:
        super().__init__()
        for name, value in vars(module).items():  # sizes, which the code around the module may read
            if isinstance(value, bool | int | float | str) and not name.startswith("_") and name != "training":
                setattr(self, name, value)
        self._form, self._full = form, full

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return zeros in the form of the replaced module's output, with type and device of its first float input."""
        arguments: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}  # type: ignore[dict-item]
        tensors = (value for value in arguments.values() if isinstance(value, Tensor) and value.is_floating_point())
        return self._output(self._form, next(tensors), arguments)

    def _output(self, form: Any, tensor: Tensor, arguments: Mapping[int | str, Any]) -> Any:
        if isinstance(form, dict):
            return arguments[form["argument"]]
        if form is None:
            return None
        if isinstance(form, int):
            return torch.zeros_like(tensor) if self._full else tensor.new_zeros((1,) * form)
        return tuple(self._output(part, tensor, arguments) for part in form)


def replacements_of(graph: Graph, branches: Sequence[Branch], full: Mapping[str, bool]) -> Replacements | None:
    """Return which modules to replace, and by what, to remove residual branches; None if that isn't possible.

    Parameters
    ----------
    full : mapping
        Branch name -> whether zeros must have the shape of their input.
    """
    replacements: Replacements = {}
    rest = list(branches)
    blocks = {branch.add: innermost(graph, branch.add) for branch in branches}
    for block in dict.fromkeys(blocks.values()):
        inside = [branch for branch in branches if blocks[branch.add] is block]
        if (steps := _steps(graph, block, inside)) is not None:
            replacements[block.module] = {"steps": steps}
            rest = [branch for branch in rest if branch not in inside]
    for branch in rest:
        if not branch.is_covered:
            return None
        for number in branch.calls:
            call = graph.calls[number]
            replacements[call.module] = {"form": call.form, "full": full.get(branch.name, False)}
    return replacements


def _steps(graph: Graph, block: ModuleCall, branches: Sequence[Branch]) -> list[list[str]] | None:
    """Return the modules and activations that are left of a block without branches; None if there is other code."""
    places = range(block.start, block.stop)
    if not block.module or block.input is None or block.output is None or graph.runs[block.module] > 1:
        return None
    if any(place not in places for branch in branches for place in branch.region):
        return None
    adds = {branch.add: branch for branch in branches}
    covered: set[int] = set()
    steps: list[list[str]] = []
    place = block.output
    while place != block.input:
        if place in adds:
            covered |= {place, *adds[place].region}
            place = adds[place].shortcut
            continue
        if place not in places:
            return None
        step = _step(graph, block, place, set(adds))
        operation = graph.operations[place]
        function = operation.name.removesuffix("_")
        if step is not None and step.input is not None:
            steps.insert(0, ["module", step.module.removeprefix(f"{block.module}.")])
            covered |= set(range(step.start, step.stop))
            place = step.input
        elif function in _ACTIVATIONS and len(operation.inputs) == 1:
            steps.insert(0, ["function", function])
            covered.add(place)
            place = operation.inputs[0]
        else:
            return None
    return steps if all(place in covered or place not in graph.live for place in places) else None


def _step(graph: Graph, block: ModuleCall, place: int, adds: set[int]) -> ModuleCall | None:
    """Return the call of a child of a block that makes the result of an operation, and runs no removed addition."""
    for call in graph.calls:
        inside = block.start <= call.start <= place < call.stop <= block.stop and call is not block
        child = call.module.removeprefix(f"{block.module}.")
        if inside and call.output == place and "." not in child and call.input is not None:
            return call if adds.isdisjoint(range(call.start, call.stop)) else None
    return None


def with_replacements(model: nn.Module, replacements: Replacements, removed: Sequence[str] = ()) -> nn.Module:
    """Return a copy of a network with some modules replaced, and without the parameters named in ``removed``."""
    parameters = dict(model.named_parameters())
    empty = {
        id(parameters[name]): nn.Parameter(parameters[name].new_empty(0)) for name in removed if name in parameters
    }
    network = copy_network(model, empty)
    instead: dict[nn.Module, nn.Module] = {}
    for name, spec in replacements.items():
        old = network.get_submodule(name)
        new = SkippedBlock(old, spec["steps"]) if "steps" in spec else RemovedBranch(old, spec["form"], spec["full"])
        instead[old] = new.train(old.training)
    for module in list(network.modules()):
        for name, child in module._modules.items():
            if child is not None and child in instead:
                module._modules[name] = instead[child]
    for module in network.modules():
        children = module.children()
        if isinstance(module, nn.TransformerEncoderLayer) and any(isinstance(c, RemovedBranch) for c in children):
            module.activation_relu_or_gelu = 0  # no fused path, which reads the weights of all parts
    return network
