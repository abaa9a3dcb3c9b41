"""The blocks of a network, and their inputs: each block is run on what the pruned blocks before it return.

In most transformers, a block reads the output of the block before it, and otherwise the same arguments (attention mask,
positions) as all blocks. Then one block and the activations at one boundary suffice (:class:`_Chain`). A forward pass
of two examples checks this. Other networks are run from their start for every block (:class:`_Reruns`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, call_model, output_tensors, take

__all__ = ["BlockRuns", "block_names", "block_runs"]


class BlockRuns(Protocol):
    """Protocol of an object that runs the blocks of a network, one after the other, on all calibration batches."""

    def run(self, name: str) -> None:
        """Run a block on all calibration batches, so that hooks on the block's layers receive the layers' inputs."""

    def advance(self, name: str) -> None:
        """Run a block with its present weights on all batches; the outputs become the next block's inputs."""


def block_names(model: nn.Module, blocks: Sequence[str] | None = None) -> list[str]:
    """Return the names of a network's blocks, such as transformer layers; ``[""]`` (the whole network) if none exist.

    Parameters
    ----------
    blocks : sequence of str, optional
        Names of modules. By default, the members of every ``nn.ModuleList`` or ``nn.Sequential`` of two or more modules
        of one class that have layers of their own, outermost first.

    Raises
    ------
    InputError
        If the network has no module of a name, or one block is inside another one.
    """
    modules = dict(model.named_modules())
    if blocks is None:
        found: list[str] = []
        for name, module in modules.items():
            if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1 and not _inside(name, found):
                kinds = {type(child) for child in module}
                if len(kinds) == 1 and all(list(child.children()) for child in module):
                    found += [f"{name}.{place}" if name else str(place) for place in range(len(module))]
        return found or [""]
    for place, name in enumerate(blocks):
        if name not in modules:
            near = [other for other in modules if other.count(".") == name.count(".")][:10]
            raise InputError(
                f"blocks: {name!r} is no module of the {type(model).__name__}; there are {', '.join(near)}"
            )
        if _inside(name, [*blocks[:place], *blocks[place + 1 :]]):
            raise InputError(
                f"blocks: {name!r} is inside another block, or twice in the list; name the outer one alone"
            )
    if not blocks:
        raise InputError("blocks: an empty list; name at least one module")
    return list(blocks)


def _inside(name: str, blocks: Sequence[str]) -> bool:
    return any(name == block or name.startswith(f"{block}.") for block in blocks)


def block_runs(
    model: nn.Module, names: Sequence[str], batches: Sequence[Nested], device: torch.device
) -> tuple[list[str], BlockRuns]:
    """Return the names of a network's blocks in order of execution, and an object that runs the blocks one by one.

    Raises
    ------
    InputError
        If a block doesn't run at all.
    """
    seen: list[tuple[str, _Call, Any]] = []
    with _recorded(model, names, lambda name, call, output: seen.append((name, call, output))):
        call_model(model, take(batches[0], slice(2)))
    order = list(dict.fromkeys(name for name, _, _ in seen))
    missing = [name for name in names if name not in order]
    if missing:
        raise InputError(f"blocks: {', '.join(missing)} did not run in a forward pass; leave them out")
    if _is_chain(seen):
        return order, _Chain(model, order[0], batches, device)
    return order, _Reruns(model, batches)


@dataclass(frozen=True)
class _Call:
    """Arguments of one call of a block. Its first tensor is what the block before returned."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def hidden(self) -> Any:
        """Return the hidden state that a transformer block got: the first argument of the call, positional or named."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()), None)

    def of(self, hidden: Tensor) -> "_Call":
        """Return a copy of the arguments of a block's call, in which ``hidden`` replaces the first argument."""
        if self.args:
            return replace(self, args=(hidden, *self.args[1:]))
        return replace(self, kwargs={**self.kwargs, next(iter(self.kwargs)): hidden})

    def moved(self, device: torch.device) -> "_Call":
        """Return a copy of a block's call arguments on ``device``, with the tensors inside tuples, lists and dicts."""
        return _Call(_moved(self.args, device), _moved(dict(self.kwargs), device))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(_moved(part, device) for part in value)
    if type(value) is dict:
        return {name: _moved(part, device) for name, part in value.items()}
    return value


def _is_chain(seen: Sequence[tuple[str, _Call, Any]]) -> bool:
    """Whether every block runs once, on the output of the block before, with the other arguments of the first one."""
    if len({name for name, _, _ in seen}) != len(seen) or not seen:
        return False
    first = seen[0][1]
    for (_, _, output), (_, call, _) in pairwise(seen):
        returned = _first_tensor(output)
        if returned is None or not isinstance(call.hidden, Tensor) or not _same(call.hidden, returned):
            return False
        if not _same(call.of(returned).args, first.of(returned).args):
            return False
        if not _same(dict(call.of(returned).kwargs), dict(first.of(returned).kwargs)):
            return False
    return isinstance(first.hidden, Tensor)


def _first_tensor(output: Any) -> Tensor | None:
    return output if isinstance(output, Tensor) else next(iter(output_tensors(output)), None)


def _same(one: Any, other: Any) -> bool:
    """Whether two arguments are the same object, equal tensors, or equal containers of those."""
    if one is other:
        return True
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        return both and one.shape == other.shape and bool(torch.equal(one, other))
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return isinstance(one, int | float | str) and one == other


class _Stop(Exception):  # noqa: N818 (no error: it ends a forward pass early)
    """Ends a forward pass whose rest is not needed."""


class _Chain:
    """Runs of blocks that follow each other. Holds one block's arguments per batch; moves one block at a time."""

    def __init__(self, model: nn.Module, first: str, batches: Sequence[Nested], device: torch.device) -> None:
        self.model, self.device = model, device
        self.calls: list[_Call] = []

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.calls.append(_Call(args, kwargs).moved(device))
            raise _Stop

        with model.get_submodule(first).register_forward_pre_hook(stop, with_kwargs=True):
            for batch in batches:
                try:
                    call_model(model, batch)
                except _Stop:
                    continue

    def run(self, name: str) -> None:
        """Run a block on all calibration batches, so that hooks on the block's layers receive the layers' inputs."""
        for _ in self._outputs(name):
            pass

    def advance(self, name: str) -> None:
        """Run one block of the network on all batches, and store the outputs as the inputs of the next block."""
        outputs = list(self._outputs(name))
        self.calls = [call.of(output) for call, output in zip(self.calls, outputs, strict=True)]

    def _outputs(self, name: str) -> Iterator[Tensor]:
        block = self.model.get_submodule(name).to(self.device)
        for call in self.calls:
            fresh = call.of(call.hidden.clone())  # a block may change its input in place
            output = _first_tensor(block(*fresh.args, **fresh.kwargs))
            assert output is not None  # checked for two examples
            yield output


class _Reruns:
    """Runs of blocks from the start of the network: the network up to the block is computed once per block."""

    def __init__(self, model: nn.Module, batches: Sequence[Nested]) -> None:
        self.model, self.batches = model, batches

    def run(self, name: str) -> None:
        """Run the whole network on all calibration batches, so that hooks see the inputs of all layers."""
        for batch in self.batches:
            call_model(self.model, batch)

    def advance(self, name: str) -> None:
        """Do nothing between two blocks: the next :meth:`run` runs the whole network, and needs no stored outputs."""


@contextmanager
def _recorded(model: nn.Module, names: Sequence[str], record: Callable[[str, _Call, Any], None]) -> Iterator[None]:
    """Within the block, call ``record(name, call, output)`` after every run of a named module."""
    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(
                model.get_submodule(name).register_forward_hook(
                    lambda _, args, kwargs, output, name=name: record(name, _Call(args, kwargs), output),
                    with_kwargs=True,
                )
            )
        yield
