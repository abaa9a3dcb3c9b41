"""Normalisations over the kept channels only, which is what masks of filter spaces with ``norms=True`` mean.

LayerNorm and RMSNorm share statistics among all channels of a position. A pruned network takes these statistics over
the channels that it keeps. A masked network does the same with a forward hook: the hook runs the module on the kept
channels and puts zeros at the other positions. The hook is copied with the network; pruning removes the hook.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from masksearch.spaces.coupling_labels import Coupling, described

Kept = Mapping[str, tuple[Tensor, int]]  # module -> (positions that it keeps, int64 (k,); dimension of the channels)


class _OverKept:
    """Forward hook that replaces a module's output by that of the module on its kept channels."""

    def __init__(self, kept: Tensor, dim: int) -> None:
        self.kept, self.dim = kept, dim

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        x = args[0] if args else next(iter(kwargs.values()))
        kept = self.kept = self.kept.to(x.device)
        result = output.new_zeros(output.shape)
        if not len(kept):
            return result
        inner = copy.copy(module)
        inner._parameters = {  # views, through which gradients reach the parameters
            name: None if parameter is None else parameter.index_select(0, kept)  # type: ignore[misc]
            for name, parameter in module._parameters.items()
        }
        if isinstance(inner, nn.LayerNorm | nn.RMSNorm):
            inner.normalized_shape = (len(kept),)
        return result.index_copy(self.dim, kept, inner.forward(x.index_select(self.dim, kept)))


def set_norm_hooks(model: nn.Module, kept: Kept) -> None:
    """Add hooks by which a network's norms, such as LayerNorm, normalise only over their kept channels."""
    remove_norm_hooks(model)
    for name, (positions, dim) in kept.items():
        model.get_submodule(name).register_forward_hook(_OverKept(positions, dim), with_kwargs=True)


def remove_norm_hooks(model: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """Remove the hooks of kept channels from all norms; return the removed {norm name: (kept channels, dimension)}."""
    removed = {}
    for name, module in model.named_modules():
        for number, hook in list(module._forward_hooks.items()):
            if isinstance(hook, _OverKept):
                del module._forward_hooks[number]
                module._forward_hooks_with_kwargs.pop(number, None)
                removed[name] = (hook.kept, hook.dim)
    return removed


@contextmanager
def norms_over(model: nn.Module, kept: Kept) -> Iterator[None]:
    """Context manager in which a network's norms, such as LayerNorm, normalise only over their kept channels."""
    before = remove_norm_hooks(model)
    set_norm_hooks(model, kept)
    try:
        yield
    finally:
        set_norm_hooks(model, before)


@contextmanager
def following_norms(coupling: Coupling, model: nn.Module) -> Iterator[None]:
    """Context manager in which traced channels that pass norms such as LayerNorm count as removable, not as fixed.

    A norm is a module without children whose parameters are vectors of one size, and which reduces over the one
    dimension of that size. Its name and dimension are added to ``coupling.norms``.
    """
    hooks = ExitStack()
    for name, module in model.named_modules():
        if not may_be_norm(module):
            continue
        where = described(module, name)
        marks: list[tuple[int, int]] = []

        def enter(module: nn.Module, args: Any, marks: list[tuple[int, int]] = marks) -> None:
            marks.append(coupling.mark())

        def leave(
            module: nn.Module,
            args: Any,
            kwargs: dict[str, Any],
            output: Any,
            marks: list[tuple[int, int]] = marks,
            where: str = where,
            name: str = name,
        ) -> None:
            mark, tensors = marks.pop(), [*args, *kwargs.values()]
            if coupling.mark()[1] == mark[1] or len(tensors) != 1 or not isinstance(tensors[0], Tensor):
                return
            vectors = list(module.parameters(recurse=False))
            labels = coupling.labels(tensors[0])
            dims = [d for d, each in enumerate(labels) if each is not None and len(each) == len(vectors[0])]
            if len(dims) != 1 or not isinstance(output, Tensor) or output.shape != tensors[0].shape:
                return
            coupling.go_back(mark)
            meeting = [labels[dims[0]], *(coupling.labels(vector)[0] for vector in vectors)]
            labels[dims[0]] = coupling.tie(meeting, f"{where} normalises channels that can't be removed")
            coupling.write(output, labels)
            coupling.norms.append((name, dims[0] - output.ndim))

        hooks.enter_context(module.register_forward_pre_hook(enter))
        hooks.enter_context(module.register_forward_hook(leave, with_kwargs=True))
    with hooks:
        yield


def may_be_norm(module: nn.Module) -> bool:
    """Return whether a module may be a norm: it has no submodules, and its parameters are vectors of one size."""
    sizes = {tuple(parameter.shape) for parameter in module.parameters(recurse=False)}
    vectors = len(sizes) == 1 and len(next(iter(sizes))) == 1 and next(iter(sizes))[0] > 1
    grouped = isinstance(module, nn.GroupNorm) and module.num_groups > 1
    return vectors and not grouped and not any(True for _ in module.children())
