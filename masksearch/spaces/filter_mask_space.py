"""Filter space of a network: pruning masks with one bit per group of channels that are removed together."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.amount import Amount, Density, Hold
from masksearch.core.limits import Limits
from masksearch.core.mask import Mask
from masksearch.core.width_levels import Levels
from masksearch.spaces.branches import with_branches
from masksearch.spaces.coupling import FIXED, Coupling
from masksearch.spaces.coupling_trace import trace
from masksearch.spaces.filter_choice import Layers, choose_layers, limits_of
from masksearch.spaces.filter_costs import Costs, Part
from masksearch.spaces.filter_groups import Groups, Run, groups_of
from masksearch.spaces.filter_proof import prove, scratch_copy
from masksearch.spaces.kept_norms import set_norm_hooks
from masksearch.spaces.network_space import NetworkSpace, table_lines, unwrapped
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, as_nested, call_model, describe, map_tensors, tensors_of
from masksearch.utils.registry import choose

__all__ = ["FilterSpace", "filter_space"]


_COUPLED_SHOWN = 4  # tensors per layer in the printed table


class FilterSpace(NetworkSpace):
    """Filter masks of a network: one bit per group of channels that must be removed together.

    Made by :func:`filter_space`. A unit is such a group. A layer of the space is a family of units that cut the same
    dimensions of the same weights; it is named after the first layer that makes their channels. ``groups`` lists the
    positions of each unit. ``print(space)`` shows a table.

    Attributes
    ----------
    left_out : tuple of (str, str)
        (layer, reason) for every layer of which some or all channels can't be removed.
    """

    removes_parts = True

    def __init__(self, groups: Groups, limits: Limits | None = None) -> None:
        super().__init__([(family.name, family.shape, family.size) for family in groups.families], "filter")
        self.groups = groups
        self.left_out = groups.left_out
        self.limits = limits

    def __str__(self) -> str:
        rows = [("layer", "units", "coupled tensors (dimensions)")]
        for layer in self.layers:
            coupled: dict[str, list[str]] = {}
            for run in self.groups.runs:
                if ((run.units >= layer.start) & (run.units < layer.stop)).any():
                    coupled.setdefault(run.tensor, []).append(str(run.dim))
            shown = [f"{tensor} ({', '.join(dims)})" for tensor, dims in list(coupled.items())[:_COUPLED_SHOWN]]
            more = [f"+ {len(coupled) - len(shown)} more"] if len(coupled) > len(shown) else []
            rows.append((layer.name, str(layer.size), ", ".join(shown + more)))
        by_norms = [layer.name for layer in self.layers if self.norm_units[layer.slice].any()]
        norms = [f"masked: norms take statistics over the kept channels of {', '.join(by_norms)}"] if by_norms else []
        left_out = [f"left out: {layer}: {reason}" for layer, reason in self.left_out]
        limits = []
        if self.limits is not None:
            names = [layer.name for layer in self.layers]
            bounds = zip(names, self.limits.lowest.tolist(), self.limits.steps, strict=True)
            texts = [f"{name} at least {least}" + f", in steps of {step}" * (step > 1) for name, least, step in bounds]
            limits = [f"kept units: {'; '.join(texts)}"]
        return "\n".join([repr(self), *table_lines(rows), *limits, *norms, *left_out])

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash (16 hex digits) of layers and units; masks fit all spaces with the same fingerprint."""
        digest = hashlib.sha256(super().fingerprint.encode())
        for run in self.groups.runs:
            digest.update(f"{run.tensor}/{run.dim}/{self.groups.shapes[run.tensor]}".encode())
            digest.update(run.units.astype("<i8").tobytes())
        for module, dim in self.groups.norms:
            digest.update(f"{module}/{dim}".encode())
        return digest.hexdigest()[:16]

    def parameter_masks(self, mask: Mask) -> dict[str, Tensor]:
        """Return {parameter name: bool tensor, True = kept} of all parameters that masks can change.

        A removed channel prunes its filter, bias and normalisation parameters, and the weights that read it.
        """
        return self.groups.kept_entries(mask.bits)

    @cached_property
    def norm_units(self) -> Tensor:
        """Return which units have channels in norms that normalise over kept channels only: bool (n_units,).

        All False without ``norms=True``: then masks only zero parameters.
        """
        units = torch.zeros(self.n_units + 1, dtype=torch.bool)
        for run, _ in self.groups.norm_runs().values():
            units[run.index] = True
        return units[:-1]

    def kept_in_norms(self, mask: Mask) -> dict[str, tuple[Tensor, int]]:
        """Return {norm: (indices of its kept channels, their dimension)} of the norms that a mask makes smaller."""
        return self.groups.kept_in_norms(mask.bits)

    def set_norms(self, model: nn.Module, mask: Mask) -> None:
        """Make a network's norms normalise over kept channels only, by hooks.

        Copies of the network keep the hooks; pruning removes them.
        """
        if self.groups.norms:
            set_norm_hooks(unwrapped(model), self.kept_in_norms(mask))

    @cached_property
    def topologies(self) -> tuple[str, ...]:
        """Return one text per layer that says its kind, such as attention heads; equal kinds have equal texts.

        Layers with equal texts look alike, such as the first convolutions of all blocks, the heads of all attentions,
        or the neurons of all MLPs.
        """
        made = set(self.groups.filters)
        kinds: list[list[str]] = [[] for _ in self.layers]
        for run in self.groups.runs:
            shape = self.groups.shapes[run.tensor]
            words = [run.tensor.rpartition(".")[2], f"{len(shape)}d", f"dimension {run.dim}"]
            words += ["made"] * ((run.tensor, run.dim) in made) + ["depthwise"] * (len(shape) > 2 and shape[1] == 1)
            positions = np.bincount(self.layer_of(run.units[run.units != FIXED]), minlength=len(self.layers))
            for place in np.flatnonzero(positions):
                several = ["several"] if positions[place] > self.layers[place].size else []
                kinds[place].append(" ".join(words + several))
        return tuple("; ".join(sorted(kind)) for kind in kinds)

    def layer_weights(self) -> list[str]:
        """Return the names of the weights that make removable channels, in the order in which layers run."""
        cut = {(run.tensor, run.dim) for run in self.groups.runs}
        return [weight for weight, dim in self.groups.filters if (weight, dim) in cut]

    def unit_sums(self, tensors: Mapping[str, Tensor], part: str = "all") -> Tensor:
        """Sum tensors, {parameter name: tensor}, over each group of channels; return the sums, float (n_units,).

        Parameters
        ----------
        tensors : mapping
            Parameter name -> tensor of its shape, gradient times weight for example; missing parameters count as 0.
        part : {"all", "filters"}
            Sum over all entries that a unit removes, or over its filters, the slices of the weights that make its
            channels. An entry that belongs to two units counts for both.

        Raises
        ------
        InputError
            If no tensor belongs to this space.
        """
        choose("part", part, ["all", "filters"])
        filters = set(self.groups.filters)
        sums: Tensor | None = None
        for name, tensor in tensors.items():
            runs = self.groups.by_tensor.get(name, [])
            runs = runs if part == "all" else [run for run in runs if (name, run.dim) in filters]
            for number, run in enumerate(runs):
                counted = tensor.detach()
                for earlier in runs[:number]:
                    counted = _uncounted(counted, run, earlier)
                per_position = counted.transpose(0, run.dim).flatten(1).sum(1) if counted.ndim > 1 else counted
                if sums is None:
                    sums = per_position.new_zeros(self.n_units + 1)  # the last entry collects positions without a unit
                sums.index_add_(0, run.index.to(sums.device) % len(sums), per_position)
        if sums is None:
            raise InputError(f"tensors: none of {list(tensors)[:4]} belongs to this {self.describe()}")
        return sums[:-1]

    def widths(self, mask: Mask) -> np.ndarray:
        """Return how many output channels each layer with removable channels keeps under a mask: int64 (n,)."""
        return self._costs.widths(np.array(list(mask.kept_per_layer().values())))

    def unit_costs(self, hold: Hold = "params") -> Tensor:
        """Return the parameters or MACs per input that each unit's removal alone saves: float64 (n_units,).

        ``hold`` selects the quantity: ``"params"``, ``"macs"``, or ``"units"``, for which every unit saves 1.
        """
        choose("hold", hold, list(get_args(Hold)))
        return torch.from_numpy(self._costs.per_unit(hold))

    def kept_params(self, mask: Mask) -> int:
        """Return how many parameters the network has after physical pruning by a mask."""
        return self._cost(mask, "params")

    def kept_macs(self, mask: Mask) -> int:
        """Return how many MACs per input the network needs after physical pruning by a mask.

        1 MAC = 2 FLOPs of ``torch.utils.flop_counter``.
        """
        return self._cost(mask, "macs")

    def cost(self, hold: Hold, kept: np.ndarray, removed: Sequence[Part] = ()) -> int:
        """Return the units, parameters or MACs of the pruned network whose layers keep ``kept`` units.

        ``removed`` are parts of the network that are removed as a whole.
        """
        return self._costs.of(hold, kept, removed)

    def cost_of_part(self, parameters: Sequence[str], products: Sequence[int], macs: int) -> Part:
        """Return the cost of a part of the network with these parameters, products (indices) and MACs in all."""
        return self._costs.part(parameters, products, macs)

    def _top(self, saliency: Tensor, amount: Amount, generator: torch.Generator) -> Mask:
        """Return the mask of the units of highest saliency.

        With ``hold="params"`` or ``"macs"`` it is the longest prefix of the ranking that fits. A prefix (within the
        scope's shares of the layers) fits if its pruned network has at most ``density`` of the full network's
        parameters or MACs, those of layers outside the space included.

        Raises
        ------
        InputError
            As :meth:`MaskSpace.top_k`; also if a network with one unit per layer is already too large.
        """
        hold, density = amount.hold, amount.density
        if hold == "units":
            return super()._top(saliency, amount, generator)
        allowed = self._allowed(amount)
        if amount.scope == "knapsack":
            return self._knapsack(saliency, amount, generator, allowed)
        state = generator.get_state()
        in_units = replace(amount, hold="units")
        lower = in_units if amount.on_empty == "keep_one" else replace(in_units, on_empty="allow")

        def prefix(n: int, units: Amount) -> Mask:
            generator.set_state(state)  # the same ties broken the same way: prefixes of one ranking
            return super(FilterSpace, self)._top(saliency, units.at(n / self.n_units), generator)

        def at_least(n: int) -> int:
            """Return a lower bound of the cost of all prefixes of n or more units."""
            if amount.scope == "global":
                return self._cost(prefix(n, lower), hold)
            # Largest remainders may give a layer one unit more at n units than at n + 1 units.
            quotas = np.array(in_units.at(n / self.n_units).quotas(self))
            return self._costs.of(hold, np.maximum(quotas - 1, 0))

        # Bisection with the lower bound: the longest prefix that fits, if there is one, is no longer than ``low``.
        low, high = len(self.layers), self.n_units
        while low < high:
            middle = (low + high + 1) // 2
            if at_least(middle) <= allowed:
                low = middle
            else:
                high = middle - 1
        for n in range(low, len(self.layers) - 1, -1):
            mask = prefix(n, in_units)
            if self._cost(mask, hold) <= allowed:
                return mask
        least = self._cost(mask, hold) / self._costs.of(hold, self._sizes)
        raise InputError(
            f"density: {density} of the {hold} is less than {least:.3g}, the share of {low} units and of the layers "
            "outside the space; give a higher density"
        )

    def _knapsack(self, saliency: Tensor, amount: Amount, generator: torch.Generator, allowed: float) -> Mask:
        """Return the mask of the largest sum of saliencies within the budget; negative saliencies count as 0.

        Shen et al. 2022 (HALP): the value of a layer's next unit, by rank, against the cost of one more channel.
        """
        shuffled = torch.randperm(self.n_units, generator=generator).numpy()
        values = np.maximum(saliency.double().numpy(), 0)
        order = np.lexsort((shuffled, -saliency.double().numpy()))
        ranked = [order[(order >= layer.start) & (order < layer.stop)] for layer in self.layers]
        least = (self.needed & (amount.on_empty != "allow")).astype(int)
        kept = [np.arange(low, layer.size + 1) for low, layer in zip(least, self.layers, strict=True)]
        levels = Levels(kept, lambda numbers: self._costs.of(amount.hold, numbers), allowed)
        losses = [
            values[units].sum() - np.concatenate([[0], values[units].cumsum()])[low:]
            for units, low in zip(ranked, least, strict=True)
        ]
        best = levels.best(losses)
        if not levels.fits(best):
            share = levels.cost(levels.numbers(best)) / self._costs.of(amount.hold, self._sizes)
            raise InputError(
                f"density: {amount.density} of the {amount.hold} is less than {share:.3g}, the share of one unit per "
                "layer and of the layers outside the space; give a higher density"
            )
        numbers = levels.numbers(best)
        return Mask.of_units(self, np.concatenate([units[:n] for units, n in zip(ranked, numbers, strict=True)]))

    def fits(self, kept: np.ndarray, density: Density | Amount, hold: Hold | None = None) -> bool:
        """Return whether masks with ``kept`` units per layer, int64 (n_layers,), cost no more than the density allows.

        ``hold`` is the quantity that the density is a share of. For ``"units"`` the result is True, except in spaces
        with ``multiple_of``, where masks may keep fewer units.
        """
        amount = Amount.of(density, hold=hold)
        if amount.hold == "units":
            return self._within_count(kept, amount)
        return self._costs.of(amount.hold, kept) <= self._allowed(amount)

    def _allowed(self, amount: Amount) -> float:
        """Return the largest number of parameters or MACs that an amount allows."""
        return amount.single(f"hold {amount.hold!r} needs one density") * self._costs.of(amount.hold, self._sizes)

    def cost_of(self, kept: np.ndarray, hold: Hold) -> int:
        """Return how many units, parameters or MACs remain if layers keep ``kept`` units, int64 (n_layers,)."""
        return self._costs.of(hold, kept)

    def share(self, mask: Mask, hold: Hold) -> float:
        """Return the share of the full network's units, parameters or MACs that a mask keeps."""
        choose("cost", hold, list(get_args(Hold)))
        return self._cost(mask, hold) / self._costs.of(hold, self._sizes)

    @cached_property
    def _costs(self) -> Costs:
        return Costs(self.groups)

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([layer.size for layer in self.layers], dtype=np.int64)

    def _cost(self, mask: Mask, hold: Hold) -> int:
        return self._costs.of(hold, np.add.reduceat(mask.bits.numpy().astype(np.int64), self.starts))


def _uncounted(tensor: Tensor, run: Run, earlier: Run) -> Tensor:
    """Return ``tensor`` with zeros where both dimensions belong to the same unit: those entries must count once."""
    if not np.intersect1d(run.units[run.units != FIXED], earlier.units).size:
        return tensor
    units, earlier_units = (
        each.index.to(tensor.device).view([-1 if dim == each.dim else 1 for dim in range(tensor.ndim)])
        for each in (run, earlier)
    )
    return tensor.masked_fill((units == earlier_units) & (units != FIXED), 0)


def filter_space(
    model: nn.Module,
    example_input: Nested,
    *,
    exclude: Layers = (),
    include: Layers | None = None,
    min_units: float = 1,
    multiple_of: int = 1,
    norms: bool = False,
) -> FilterSpace:
    """Find a network's removable channels; return the space of masks with one bit per group removed together.

    One unit is one group of channels that must be removed together: through residual additions, concatenations,
    depthwise and grouped convolutions and flattenings; hidden units of MLPs are units, too. A float64 copy of the
    network runs once on the CPU, and a rule per operation couples the channels; then the outputs of masked and pruned
    copies are compared for random masks. Outputs, channels that a normalisation or reduction combines, and families
    that fail the comparison are left out, with a reason (``space.left_out``).

    Parameters
    ----------
    model : nn.Module
        Any module whose outputs hold tensors: one, or several in tuples, dicts and dataclasses. It is not changed, nor
        is the random state. DataParallel and torch.compile give the space of the network inside.
    example_input : Tensor (n, ...), or a tuple or dict of such tensors
        A batch for ``model(x)``, ``model(*x)`` or ``model(**x)``; only shapes and types matter (and the values of
        integers).
    exclude, include : str, module, or sequence of both, optional
        Layers without units, or the only layers with units: names, patterns such as ``"layer4.*"``, or modules. A name
        means all layers within it, too. Layers that must lose the same channels are chosen together.
    min_units : int or float
        Least number of units that a mask keeps of every layer, or a share in (0, 1) of the layer's units.
    multiple_of : int
        Every layer keeps a multiple of this number of channels, or all of them; 8 suits tensor cores. Masks are then
        the largest such masks within the asked density, which ``mask.density`` shows. Moves of searches swap units
        within a layer, or move this many channels from layers to others.
    norms : bool
        Whether channels that a LayerNorm or RMSNorm sees are units, too (``space.norm_units``). Masked then means that
        the norm takes its statistics over the kept channels only, as in the pruned network. ``space.apply`` and
        ``space.applied`` arrange this with hooks; zeros in a state dict don't suffice.

    Raises
    ------
    InputError
        If ``exclude`` or ``include`` fits no layer, or a limit is invalid.
        If the network doesn't take the example, returns no tensor, or has no channel that can be removed.
    """
    model = unwrapped(model)
    name = type(model).__name__
    inputs = map_tensors(_one_in_float64, as_nested(example_input, "example_input"))
    if any(not tensor.numel() for tensor in tensors_of(inputs)):
        raise InputError(
            f"example_input: {describe(inputs)} has sizes of 0; a batch (n, ...) with n at least 1 is needed"
        )
    _check_types(model, as_nested(example_input, "example_input"))
    scratch = scratch_copy(model)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)  # for tensors that a forward pass makes
        with torch.random.fork_rng(devices=[]):
            branches = with_branches(scratch, inputs)
            groups = groups_of(scratch, _trace(scratch, branches, norms))
            groups = choose_layers(model, groups, include, exclude)
            if groups.families:
                scratch = scratch_copy(scratch)  # the trace may have left tensors in its copy
                groups = prove(scratch, groups, branches)
    finally:
        torch.set_default_dtype(default)
    if not groups.families:
        most_useful = sorted(groups.left_out, key=lambda item: "make it permanent" not in item[1])
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in most_useful[:3])
        raise InputError(
            f"model: {name} has no channels that can be removed ({reasons or 'it has no layers that make any'})"
        )
    return FilterSpace(groups, limits_of(groups, min_units, multiple_of))


def _check_types(model: nn.Module, inputs: Nested) -> None:
    """Raise an InputError if a network of another floating-point type than the example stops because of that."""
    own = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    given = {tensor.dtype for tensor in tensors_of(inputs) if tensor.is_floating_point()}
    if len(own) == 1 and given and own != given and own <= {torch.float16, torch.bfloat16}:
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                call_model(copy_network(model).cpu().eval(), inputs)
        except RuntimeError:
            [dtype] = own
            raise InputError(
                f"example_input: {', '.join(map(str, given))}, and {type(model).__name__} has parameters of {dtype}; "
                f"give an example of the same type, example_input.to({dtype})"
            ) from None


def _one_in_float64(tensor: Tensor) -> Tensor:
    first = tensor[:1].clone()
    return first.double() if first.is_floating_point() else first


def _trace(model: nn.Module, inputs: Sequence[Nested], norms: bool) -> Coupling:
    try:
        return trace(model, inputs, norms=norms)
    except InputError:
        raise
    except Exception:
        try:
            with torch.no_grad():
                call_model(model, inputs[0])
        except Exception as error:  # any exception of a user's forward means that the input does not fit
            reason = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            raise InputError(
                f"example_input: {type(model).__name__} doesn't take one example of {describe(inputs[0])} ({reason}); "
                "floating-point inputs are converted to float64 for the proof"
            ) from None
        raise
