"""Sizes in calls of ``view``, ``reshape``, ``expand`` and ``split`` that pruning of channels changes.

``x.reshape(b, n, 3, self.heads, width // self.heads)`` with the width of the input can't be made right by changing
``heads``. A pruned module with such calls gets two hooks. They multiply the sizes of heads in these calls by the share
of heads that stays, and change nothing else; parameters, class and call of the module stay the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import SymInt, Tensor, nn
from torch.overrides import TorchFunctionMode

from masksearch.spaces.coupling_labels import Coupling

_Size = int | Tensor | SymInt  # tracers of torch put tensors and symbols in the place of numbers
Shares = dict[str, dict[int, tuple[int, int]]]
_SIZED = ("view", "reshape", "expand", "split")


@dataclass(frozen=True, eq=False)
class ViewCall:
    """Call of ``view``, ``reshape``, ``expand`` or ``split`` in which a size is a number of removable channels."""

    owner: str  # name of the module whose forward makes the call
    call: str  # "reshape3#1": the second call of reshape with a result of three dimensions while the module runs
    dim: int  # dimension of the result
    labels: np.ndarray  # int64 (size of the dimension,)
    maps: bool = False  # channels of feature maps that a view makes of features, (n, c * h * w) -> (n, c, h, w)


def _sizes(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any] | None:
    """Return the sizes that a call asks for, one per dimension; None if it gives them in another way."""
    sizes = args[1] if len(args) == 2 and isinstance(args[1], Sequence) else args[1:]
    if name == "split":
        if len(args) < 2 or not isinstance(args[1], _Size):
            return None
        ndim = args[0].ndim
        dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % ndim
        return [args[1] if axis == dim else -1 for axis in range(ndim)]
    return list(sizes) if sizes and all(isinstance(size, _Size) for size in sizes) and not kwargs else None


class CallCounter:
    """Counter that names a module's calls of ``view`` and similar functions, to find them in later forward passes."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def name(self, function: str, sizes: Sequence[Any]) -> str:
        """Return a name for the next call: ``"reshape3#1"`` is the second ``reshape`` to 3 dimensions."""
        kind = f"{function}{len(sizes)}"
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"{kind}#{self._counts[kind] - 1}"


class ViewRecorder(TorchFunctionMode):
    """Recorder of the calls of ``view``, ``split`` and the like in a forward pass that pass a number of channels.

    Parameters
    ----------
    coupling : Coupling
        The record of labels; its ``calls`` gets the entries.
    modules : list of (str, nn.Module)
        Running modules by name, the innermost last.
    """

    def __init__(self, coupling: Coupling, modules: list[tuple[str, nn.Module]], counters: list[CallCounter]) -> None:
        super().__init__()
        self.coupling, self.modules, self.counters = coupling, modules, counters

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function, kwargs = getattr(func, "__name__", ""), kwargs or {}
        result = func(*args, **kwargs)
        sizes = _sizes(function, args, kwargs) if function in _SIZED else None
        if sizes is not None:
            calls = [counter.name(function, sizes) for counter in self.counters]
            first = result if isinstance(result, Tensor) else result[0]
            owner = self.modules[-1][0] if self.modules else ""
            for dim, labels in enumerate(self.coupling.labels(first)):
                if labels is not None and sizes[dim] > 1:
                    maps = dim == 1 and first.ndim > 3 and args[0].ndim == 2
                    self.coupling.calls.append(ViewCall(owner, calls[-1], dim, labels, maps))
        return result


class _Resize(TorchFunctionMode):
    """Multiply sizes of calls, {call: {dimension: (kept, of)}}, by kept / of."""

    def __init__(self, shares: Shares) -> None:
        super().__init__()
        self.shares, self.counter = shares, CallCounter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function, kwargs = getattr(func, "__name__", ""), kwargs or {}
        sizes = _sizes(function, args, kwargs) if function in _SIZED else None
        if sizes is not None and (shares := self.shares.get(self.counter.name(function, sizes))):
            wrong = [dim for dim in shares if not _right(function, args[0], sizes, dim)]
            for dim in wrong:
                kept, of = shares[dim]
                sizes[dim] = sizes[dim] * kept // of
            args = (args[0], max(sizes), *args[2:]) if function == "split" else (args[0], tuple(sizes))
        return func(*args, **kwargs)


def _right(function: str, tensor: Tensor, sizes: Sequence[Any], dim: int) -> bool:
    """Whether a size is -1, or comes from the shape of a pruned tensor and is right as it is."""
    if function == "expand":
        old = dim - (len(sizes) - tensor.ndim)
        return sizes[dim] == -1 or (old >= 0 and tensor.shape[old] != 1 and tensor.shape[old] == sizes[dim])
    return sizes[dim] == -1 or (function != "split" and -1 not in sizes and prod(sizes) == tensor.numel())


class SizedCalls:
    """Hooks of a pruned module that correct sizes in its forward's calls of ``view`` and similar functions.

    Parameters
    ----------
    shares : dict
        {name of the call: {dimension: (heads that stay, heads of the full network)}}.
    """

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self._running: list[_Resize] = []

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Begin to correct the sizes in calls of ``view`` and similar functions, before the module's forward pass."""
        self._running.append(_Resize(self.shares))
        self._running[-1].__enter__()

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Stop correcting the sizes in calls of ``view`` and similar functions, after the module's forward."""
        if self._running:
            self._running.pop().__exit__(None, None, None)


def fit_calls(module: nn.Module, shares: Shares) -> None:
    """Make a pruned module correct the sizes in its calls of ``view`` and similar functions; replace earlier hooks."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for number, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), SizedCalls):
                del hooks[number]
    calls = SizedCalls(shares)
    module.register_forward_pre_hook(calls.enter)
    module.register_forward_hook(calls.leave, always_call=True)
