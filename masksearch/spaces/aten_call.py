"""One executed ATen operation of a forward pass, as the rules that follow channels through operations read it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from masksearch.spaces.coupling_labels import Coupling


@dataclass(frozen=True)
class Call:
    """One executed ATen operation of a forward pass: its arguments, its results, and the module that ran it."""

    function: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    where: str  # for messages: "LayerNorm 'encoder.ln'"
    running: tuple[tuple[str, nn.Module], ...] = ()  # that module and those that it is within, by name; innermost last

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Return all arguments of the operation, with defaults, as {name in the operation's schema: value}."""
        names = [argument.name for argument in self.function._schema.arguments]
        defaults = {
            argument.name: argument.default_value
            for argument in self.function._schema.arguments
            if argument.has_default_value()
        }
        return defaults | dict(zip(names, self.args, strict=False)) | self.kwargs

    @property
    def name(self) -> str:
        """Return the bare name of the operation: ``add`` for ``aten::add_.Tensor``."""
        return self.function._schema.name.split("::")[1].strip("_")

    @property
    def described(self) -> str:
        """Return the operation with the module that ran it, for messages: ``sum in LayerNorm 'encoder.ln'``."""
        return f"{self.name} in {self.where}"

    @property
    def inputs(self) -> list[Tensor]:
        """Return every tensor among the operation's arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def outputs(self) -> list[Tensor]:
        """Return every tensor among the operation's results."""
        return [leaf for leaf in tree_leaves(self.result) if isinstance(leaf, Tensor)]

    def dims(self, name: str, ndim: int) -> set[int]:
        """Return the dimensions in the operation's argument ``name``, counted from 0; all dimensions if it has none."""
        value = self.arguments.get(name)
        if value is None or value == []:
            return set(range(ndim))
        return {dim % max(ndim, 1) for dim in (value if isinstance(value, list | tuple) else [value])}


Rule = Callable[[Coupling, Call], None]


def unknown(coupling: Coupling, call: Call) -> None:
    """Coupling rule for operations that have no other: no channel of their inputs can be removed."""
    for tensor in call.inputs:
        coupling.fix_all(tensor, f"{call.described} is an operation without a rule for following channels")
