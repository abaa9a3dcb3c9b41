"""N:M space of a network: weight masks that keep exactly n of every m consecutive inputs of each output."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.density_allocation import Amount
from masksearch.core.mask import Mask
from masksearch.spaces.base_space import unwrapped
from masksearch.spaces.weight_mask_space import LayerKind, WeightSpace, weight_space
from masksearch.utils.errors import InputError

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class NMSpace(WeightSpace):
    """Weight masks with N:M sparsity, which keep exactly ``n`` of every ``m`` consecutive inputs of each output.

    Made by :func:`nm_space`. A unit is one weight. Units of a group are consecutive, in the order of
    ``weight.flatten(1)``: along the inputs of a linear layer, along (input channel, kernel row, kernel column) of a
    convolution. The density of all masks is n / m, in every layer; functions need no density argument.

    Attributes
    ----------
    n, m : int
        Kept weights per group, and weights per group.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[str, tuple[int, ...], int]],
        weights: dict[str, str],
        left_out: Sequence[tuple[str, str]],
        n_parameters: int,
        n: int,
        m: int,
    ) -> None:
        super().__init__(sizes, weights, left_out, n_parameters)
        self.n, self.m = n, m
        self.swap_group = m
        self.fixed_density = n / m

    def __repr__(self) -> str:
        """Return one line with the pattern, the numbers of units and layers, and the fingerprint."""
        return f"{self.n}:{self.m} {super().__repr__()}"

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash (16 hex digits) of layers, n and m; a mask fits every space with the same hash."""
        return hashlib.sha256(f"{super().fingerprint}/{self.n}:{self.m}".encode()).hexdigest()[:16]

    def describe(self) -> str:
        """Return a line that describes this space in error messages: N:M pattern, layer sizes and hash."""
        return f"{self.n}:{self.m} {super().describe()}"

    def has_pattern(self, mask: Mask) -> bool:
        """Return whether a mask keeps exactly n of every m consecutive weights."""
        return bool((mask.bits.view(-1, self.m).sum(1) == self.n).all())

    def _top(self, saliency: Tensor, amount: Amount, generator: torch.Generator) -> Mask:
        """Return the mask of the best n of every m units; among equal saliencies, ``generator`` draws.

        Raises
        ------
        InputError
            For another density than n / m, and for scope ``"erk"``.
        """
        if amount.hold != "units":
            return super()._top(saliency, amount, generator)  # raises
        self._check_density(amount)
        # A stable sort of shuffled columns breaks ties at random.
        values = (saliency.float() if saliency.dtype == torch.bfloat16 else saliency).numpy().reshape(-1, self.m)
        shuffle = torch.rand(values.shape, generator=generator).numpy().argsort(1)
        ranked = np.take_along_axis(values, shuffle, 1).argsort(1, kind="stable")[:, self.m - self.n :]
        bits = np.zeros(values.shape, dtype=bool)
        np.put_along_axis(bits, np.take_along_axis(shuffle, ranked, 1), True, 1)
        return Mask(self, torch.from_numpy(bits.reshape(-1)))

    def _check_density(self, amount: Amount) -> None:
        fixed = self.fixed_density
        assert fixed is not None
        asked = {"density": amount.density} if amount.per_layer is None else amount.per_layer
        for name, density in asked.items():
            assert isinstance(density, float | int)
            if abs(density - fixed) > 1e-9:
                where = "" if amount.per_layer is None else f" of layer {name!r}"
                raise InputError(
                    f"density{where}: {density:.6g}; {self.n}:{self.m} masks keep {fixed:.6g} of every layer; "
                    "give that density, or none"
                )
        if amount.scope == "erk":
            raise InputError(f"scope: 'erk'; {self.n}:{self.m} masks keep {fixed:.6g} of every layer; leave scope out")


def nm_space(
    model: nn.Module,
    n: int = 2,
    m: int = 4,
    kinds: LayerKind = "all",
    include: str | Sequence[str] = "*",
    exclude: str | Sequence[str] = (),
) -> NMSpace:
    """Return the space of masks that keep exactly ``n`` of every ``m`` consecutive inputs of each output.

    The layers are those of :func:`masksearch.weight_space` whose number of inputs per output is a multiple of m. Groups
    run along ``weight.flatten(1)``: the inputs of a linear layer, (input channel, kernel row, kernel column) of a
    convolution. Weights that are stored with the outputs last (transposed convolutions, Transformers' ``Conv1D``) are
    left out, since their groups would not be consecutive. ``space.left_out`` has all reasons.

    Parameters
    ----------
    model : nn.Module
        Any module; it is not changed.
    n, m : int
        Kept weights per group and weights per group, 1 <= n < m. GPUs compute 2:4 faster.
    kinds, include, exclude
        As in :func:`masksearch.weight_space`.

    Raises
    ------
    InputError
        For invalid n and m, if no layer can have such masks, and for the errors of ``weight_space``.

    Notes
    -----
    Zhou et al. 2021 train networks with N:M sparsity from scratch; Mishra et al. 2021 prune trained ones to 2:4.
    """
    for name, value in (("n", n), ("m", m)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{name}: {value!r}; a whole number is needed")
    if not 1 <= n < m:
        raise InputError(f"n: {n} of m = {m}; n must lie between 1 and m - 1")
    model = unwrapped(model)
    weights = weight_space(model, kinds, include, exclude)
    modules = dict(model.named_modules())
    sizes, names, left_out = [], {}, list(weights.left_out)
    for layer, weight in zip(weights.layers, weights.layer_weights(), strict=True):
        module = modules[weight.rpartition(".")[0]]
        inputs = layer.size // layer.shape[0]
        if isinstance(module, _TRANSPOSED) or type(module).__name__ == "Conv1D":
            left_out.append((layer.name, "its weight is stored with the outputs last"))
        elif inputs % m:
            left_out.append((layer.name, f"an output has {inputs} inputs, not a multiple of {m}"))
        else:
            names[layer.name] = weight
            sizes.append((layer.name, layer.shape, layer.size))
    if not sizes:
        [(name, reason), *others] = left_out
        more = f", and {len(others)} more" * bool(others)
        raise InputError(
            f"model: {type(model).__name__} has no layer for {n}:{m} masks: {name or 'the network'}: {reason}{more}"
        )
    return NMSpace(sizes, names, left_out, weights.n_parameters, n, m)
