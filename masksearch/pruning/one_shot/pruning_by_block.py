"""Pruning of a trained network's weights in one pass over its blocks, from a few inputs without labels."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.pruning.gram_matrices import calibration_batches
from masksearch.pruning.matrix_layers import MatrixLayer, matrix_layers, reading
from masksearch.pruning.one_shot.block_runs import BlockRuns, block_names, block_runs
from masksearch.pruning.one_shot.finished_blocks import (
    BlockLayer,
    FinishedBlocks,
    LayerReport,
    call_digest,
    weights_digest,
)
from masksearch.pruning.one_shot.layer_methods import METHODS, Kept, outlier_share, relative_error, weight_shaped
from masksearch.spaces import WeightSpace, nm_space, weight_space
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError, check_real, require
from masksearch.utils.forward_passes import device_of
from masksearch.utils.nested import Nested, as_device, to_device
from masksearch.utils.progress import steps
from masksearch.utils.registry import choose

__all__ = ["LayerReport", "OneShot", "block_weights", "one_shot", "outlier_densities"]


@dataclass(frozen=True)
class OneShot:
    """Result of :func:`one_shot`: the pruned network, its mask, and the error of every layer. Prints as a table."""

    model: nn.Module
    mask: Mask
    space: WeightSpace
    method: str
    layers: tuple[LayerReport, ...]
    seconds: float

    def __str__(self) -> str:
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [f"{'layer':{width}}  density   error"]
        lines += [f"{layer.name:{width}}  {layer.density:7.4f}  {layer.error:.2e}" for layer in self.layers]
        share = f"{self.mask.n_kept:,} of {self.space.n_units:,} weights kept"
        return "\n".join([*lines, f"{self.method}: {share} ({self.mask.density:.4g}), {self.seconds:.1f} s"])

    def __repr__(self) -> str:
        return f"OneShot({self.method!r}, {len(self.layers)} layers, {self.mask!r})"


@torch.no_grad()
def one_shot(
    model: nn.Module,
    examples: Nested | Iterable[Nested],
    density: float | Mapping[str, float] | None = None,
    *,
    sparsity: float | None = None,
    method: str = "sparsegpt",
    pattern: tuple[int, int] | None = None,
    blocks: Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
    folder: str | Path | None = None,
    in_place: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> OneShot:
    """Prune the weights of a trained network block by block, without retraining, from a few inputs without labels.

    Each block is calibrated on what the pruned blocks before it return. Only linear layers, convolutions and the
    projections of ``nn.MultiheadAttention`` inside the blocks are pruned; embeddings and the head of a language model
    are not. Input projections are left out where query, key and value are different tensors.

    Memory besides the network: the activations of all examples at one boundary between blocks, and a Gram matrix
    (k, k) in float64 for every layer of one block, k = inputs x kernel size.

    Parameters
    ----------
    model : nn.Module
        A trained network; copied unless ``in_place``.
    examples : tensor (n, ...), tuple or dict of tensors, or iterable of batches of them
        Inputs of the network, such as 128 chunks of text as tokens. At least 8.
    density : float or {layer name: float}
        Share of the weights that each layer keeps; one for all, or one per layer, as :func:`outlier_densities` returns.
    sparsity : float
        1 - density. Exactly one of ``density``, ``sparsity`` and ``pattern`` is given.
    method : {"sparsegpt", "wanda", "magnitude"}
        SparseGPT (Frantar and Alistarh 2023) updates the kept weights; Wanda (Sun et al. 2024) and magnitude don't.
    pattern : (n, m), optional
        Keep exactly n of every m consecutive inputs of each output, as (2, 4).
    blocks : sequence of str, optional
        Names of the blocks. Default: see :func:`~masksearch.pruning.one_shot.block_runs.block_names`.
    exclude : str or sequence of str
        Shell patterns of layers that stay dense.
    folder : path, optional
        Finished blocks are stored here. The same call on the same folder continues after them.
    device : torch.device or str, optional
        Where blocks are computed, one after the other; default: where the network is.
    progress : bool
        Whether to show the current block and the time left, in a terminal or a notebook.

    Returns
    -------
    OneShot
        The network of full size with zeros, in eval mode, its mask and the layers' errors.

    Raises
    ------
    InputError
        For invalid arguments, a network without layers to prune, or a folder of another call.
    """
    started = time.perf_counter()
    choose("method", method, list(METHODS))
    network = (model if in_place else copy_network(model)).eval()
    where = device_of(model) if device is None else as_device(device)
    batches = calibration_batches(examples, device_of(model))
    names, layers, space = _layers(network, batches, blocks, pattern, exclude)
    kept = _kept(space, density, sparsity, pattern)
    store = None if folder is None else FinishedBlocks(Path(folder), call_digest(space, method, kept, batches))
    reports: dict[str, LayerReport] = {}
    keep: dict[str, Tensor] = {}
    with _without_cache(network), steps(progress) as line:
        line.begin("pruning blocks")
        order, runs = block_runs(network, names, batches, where)
        for number, name in enumerate(order):
            line.reach(number / len(order), name)
            own = _inside(name, layers)
            block = network.get_submodule(name)
            home = device_of(block)
            digest = weights_digest(network, own)
            done = None if store is None else store.load(number, digest)
            if done is None:
                done = _prune_block(network, name, own, runs, method, kept)
                if store is not None:
                    store.save(number, digest, done)
            for layer, result in done.items():
                own[layer].store(network.get_submodule(own[layer].name), result.matrix)
                reports[layer], keep[layer] = result.report, result.keep
            runs.advance(name)
            block.to(home)
    mask = Mask(space, torch.cat([keep[layer.name].flatten() for layer in space.layers]))
    space.apply(network, mask)
    in_order = tuple(reports[layer.name] for layer in space.layers)
    return OneShot(network, mask, space, method, in_order, time.perf_counter() - started)


@torch.no_grad()
def outlier_densities(
    model: nn.Module,
    examples: Nested | Iterable[Nested],
    density: float,
    *,
    spread: float = 0.08,
    factor: float = 5.0,
    blocks: Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
) -> dict[str, float]:
    """Return {layer name: density}: blocks with many weights of unusually high |w| x input norm get higher densities.

    OWL, the method of Yin et al. 2024. An outlier is a weight whose |w_ij| sqrt(G_jj) is above ``factor`` times the
    mean of its layer. Shares of outliers are scaled to a range of 2 x ``spread`` and shifted, so that all layers
    together keep ``density``. All layers of a block have one density.

    Parameters
    ----------
    model, examples, blocks, exclude
        As in :func:`one_shot`; inputs are those of the dense network.
    spread : float
        Largest distance between two blocks' densities / 2.

    Raises
    ------
    InputError
        If ``density`` is outside (0, 1), or a block's density would be.
    """
    require("density", density, 0 < density < 1, "in (0, 1)")
    require("spread", spread, spread >= 0, "0 or more")
    batches = calibration_batches(examples, device_of(model))
    network = _in_eval_mode(model)
    names, layers, _ = _layers(network, batches, blocks, None, exclude)
    shares: list[tuple[list[str], float, int]] = []
    with _without_cache(network):
        order, runs = block_runs(network, names, batches, device_of(model))
        for name in order:
            own = _inside(name, layers)
            counts = [
                outlier_share(own[layer].matrix(network.get_submodule(own[layer].name))[group, :, :-1], gram, factor)
                for layer, grams in _grams(network, name, own, runs).items()
                for group, gram in enumerate(grams)
            ]
            runs.advance(name)
            if counts:
                n_weights = sum(n for _, n in counts)
                shares.append((list(own), sum(found for found, _ in counts) / n_weights, n_weights))
    values = torch.tensor([share for _, share, _ in shares], dtype=torch.float64)
    weights = torch.tensor([float(n) for _, _, n in shares], dtype=torch.float64)
    distance = float(values.max() - values.min())
    scaled = (values - values.min()) * (2 * spread / distance) if distance > 0 else torch.zeros_like(values)
    found = scaled - (scaled * weights).sum() / weights.sum() + density
    if float(found.min()) <= 0 or float(found.max()) > 1:
        raise InputError(
            f"spread: {spread} gives densities from {float(found.min()):.3f} to {float(found.max()):.3f} at a mean of "
            f"{density}; allowed are densities in (0, 1], so give a smaller spread"
        )
    return {layer: float(value) for (own, _, _), value in zip(shares, found, strict=True) for layer in own}


def block_weights(model: nn.Module, examples: Nested, pattern: tuple[int, int] | None = None) -> WeightSpace:
    """Return the default mask space of :func:`one_shot`: a bit per weight of the layers in the network's blocks.

    ``examples`` are inputs of the network; with ``pattern`` (n, m), masks keep n of every m consecutive inputs.

    Raises
    ------
    InputError
        If the blocks have no linear layer or convolution.
    """
    network = _in_eval_mode(model)
    return _layers(network, [to_device(examples, device_of(network))], None, pattern, ())[2]


def _in_eval_mode(model: nn.Module) -> nn.Module:
    """Return the network itself if all its modules are in eval mode, else a copy that is."""
    return copy_network(model).eval() if any(module.training for module in model.modules()) else model


def _layers(
    network: nn.Module,
    batches: Sequence[Nested],
    blocks: Sequence[str] | None,
    pattern: tuple[int, int] | None,
    exclude: str | Sequence[str],
) -> tuple[list[str], dict[str, MatrixLayer], WeightSpace]:
    """Return blocks, the layers to prune by name, and the space of their weights."""
    if pattern is not None and (not isinstance(pattern, tuple | list) or len(pattern) != 2):
        raise InputError(f"pattern: {ascii(pattern)[:60]}; allowed is a pair (n, m) of whole numbers, such as (2, 4)")
    names = block_names(network, blocks)
    include = [f"{name}.*" if name else "*" for name in names]
    exclude = [exclude] if isinstance(exclude, str) else list(exclude)
    with _without_cache(network):
        layers = {layer.mask_name: layer for layer in matrix_layers(network, batches[0])}
    every = weight_space(network, "all", include, exclude)
    other = [layer.name for layer in every.layers if layer.name not in layers]
    if len(other) == len(every.layers):
        raise InputError(f"model: no linear layer or convolution in {', '.join(names[:5])}; give other blocks=")
    exclude += other
    space = nm_space(network, *pattern, "all", include, exclude) if pattern else weight_space(
        network, "all", include, exclude
    )  # fmt: skip
    return names, {layer.name: layers[layer.name] for layer in space.layers}, space


def _inside(block: str, layers: Mapping[str, MatrixLayer]) -> dict[str, MatrixLayer]:
    return {name: layer for name, layer in layers.items() if not block or name.startswith(f"{block}.")}


def _kept(
    space: WeightSpace, density: float | Mapping[str, float] | None, sparsity: float | None, pattern: Any
) -> dict[str, Kept]:
    """Return what each layer keeps."""
    if pattern is not None:
        if density is not None or sparsity is not None:
            raise InputError(f"pattern: {pattern} fixes the density; leave density and sparsity out")
        return {layer.name: Kept(pattern[0] / pattern[1], tuple(pattern)) for layer in space.layers}
    if (density is None) == (sparsity is None):
        raise InputError("density, sparsity, pattern: none or several are given; give exactly one")
    if sparsity is not None:
        check_real("sparsity", sparsity, "a number in [0, 1)")
        require("sparsity", sparsity, 0 <= sparsity < 1, "a number in [0, 1)")
        density = 1 - sparsity
    if not isinstance(density, Mapping):
        check_real("density", density, "a number in (0, 1], or {layer name: number}")
        assert density is not None
        require("density", density, 0 < density <= 1, "a number in (0, 1], or {layer name: number}")
        density = {layer.name: density for layer in space.layers}
    missing = [layer.name for layer in space.layers if layer.name not in density]
    if missing:
        raise InputError(
            f"density: no value for layer {missing[0]!r} and {len(missing) - 1} others; every layer needs one"
        )
    for name, value in density.items():
        check_real(f"density of {name}", value, "a number in (0, 1]")
        require(f"density of {name}", value, 0 < value <= 1, "in (0, 1]")
    return {layer.name: Kept(density[layer.name]) for layer in space.layers}


def _prune_block(
    network: nn.Module,
    name: str,
    layers: Mapping[str, MatrixLayer],
    runs: BlockRuns,
    method: str,
    kept: Mapping[str, Kept],
) -> dict[str, BlockLayer]:
    """Prune all layers of a block on the inputs that they have while the block is dense."""
    results = {}
    for layer, grams in _grams(network, name, layers, runs).items():
        own = layers[layer]
        module: Any = network.get_submodule(own.name)
        matrix = own.matrix(module).to(grams[0].device)
        keep = torch.empty(matrix[..., :-1].shape, dtype=torch.bool)
        new, errors = matrix.clone(), []
        for group, gram in enumerate(grams):
            dense = matrix[group, :, :-1]
            keep[group], new[group, :, :-1] = METHODS[method](dense, gram, kept[layer])
            errors.append(relative_error(dense, new[group, :, :-1], gram))
        report = LayerReport(layer, float(keep.double().mean()), sum(errors) / len(errors))
        results[layer] = BlockLayer(new, weight_shaped(keep, own, getattr(module, own.weight).shape), report)
    return results


def _grams(
    network: nn.Module, block: str, layers: Mapping[str, MatrixLayer], runs: BlockRuns
) -> dict[str, list[Tensor]]:
    """Return the Gram matrices (k, k) of the layers' inputs, one per group of the layer, in float64."""
    sums: dict[str, list[Tensor]] = {}
    by_module = {layer.name: layer for layer in layers.values()}

    def add(name: str, inputs: Tensor) -> None:
        layer = by_module[name]
        for group, rows in enumerate(layer.input_rows(network.get_submodule(name), inputs)):
            gram = (rows.float().T @ rows.float()).double()
            own = sums.setdefault(layer.mask_name, [])
            if len(own) == group:
                own.append(gram)
            else:
                own[group] += gram

    with reading(network, layers.values(), add):
        if layers:
            runs.run(block)
    return sums


@contextmanager
def _without_cache(network: nn.Module) -> Iterator[None]:
    """Within the block, a Transformers network keeps no keys and values between calls of its blocks."""
    found = [getattr(module, "config", None) for module in network.modules()]
    configs: dict[int, Any] = {id(config): config for config in found if hasattr(config, "use_cache")}
    before = {key: config.use_cache for key, config in configs.items()}
    try:
        for config in configs.values():
            config.use_cache = False
        yield
    finally:
        for key, config in configs.items():
            config.use_cache = before[key]
