"""Filter space of a network: pruning masks with one bit per group of channels that are removed together."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.density_allocation import Amount, Hold
from masksearch.core.limits import Limits
from masksearch.core.mask import Mask
from masksearch.spaces.base_space import table_lines, unwrapped
from masksearch.spaces.control_flow import with_branches
from masksearch.spaces.cost_knapsack import knapsack_mask, longest_prefix
from masksearch.spaces.coupling_labels import FIXED, Coupling
from masksearch.spaces.coupling_trace import trace
from masksearch.spaces.filter_choice import Layers, choose_layers, limits_of
from masksearch.spaces.filter_costs import Costs
from masksearch.spaces.filter_cut import cut, filled_tensors
from masksearch.spaces.filter_groups import Groups, Run, groups_of
from masksearch.spaces.filter_proof import prove
from masksearch.spaces.float64_comparison import first_example, float64_defaults, refused_example, scratch_copy
from masksearch.spaces.masked_norms import set_norm_hooks
from masksearch.spaces.removable_space import RemovableSpace
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, as_nested, call_model, tensors_of
from masksearch.utils.registry import choose

_COUPLED_SHOWN = 4  # tensors per layer in the printed table


class FilterSpace(RemovableSpace):
    """Filter masks of a network: one bit per group of channels that must be removed together.

    Made by :func:`filter_space`. A unit is such a group. A layer of the space is a family of units that cut the same
    dimensions of the same weights; it is named after the first layer that makes their channels. ``groups`` lists the
    positions of each unit. ``print(space)`` shows a table.

    Attributes
    ----------
    left_out : tuple of (str, str)
        (layer, reason) for every layer of which some or all channels can't be removed.
    """

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
                if run.within(layer.slice).any():
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
        """Return a hash (16 hex digits) of layers and units; a mask fits every space with the same hash."""
        digest = hashlib.sha256(super().fingerprint.encode())
        for run in self.groups.runs:
            digest.update(f"{run.tensor}/{run.dim}/{self.groups.shapes[run.tensor]}".encode())
            digest.update(run.units.astype("<i8").tobytes())
        for module, dim in self.groups.norms:
            digest.update(f"{module}/{dim}".encode())
        return digest.hexdigest()[:16]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {parameter or buffer of the full network: shape}."""
        return self.groups.shapes

    def without_units(self, model: nn.Module, mask: Mask) -> nn.Module:
        """Return a copy of the network without the channels that the mask prunes.

        Raises
        ------
        InputError
            If the mask or the model is not of this space, or the mask keeps nothing of a layer.
        """
        self.check_mask(mask)
        return cut(unwrapped(model), self.groups, mask.bits)

    def _cut_shapes(self, mask: Mask) -> dict[str, tuple[int, ...]]:
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        for run in self.groups.runs:
            shapes[run.tensor][run.dim] = run.n_kept(mask.bits)
        return {name: tuple(shape) for name, shape in shapes.items()}

    def restored(self, mask: Mask, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the pruned network in the full network's sizes, with zeros for removed channels."""
        return filled_tensors(self.groups, mask.bits, state)

    def parameter_masks(self, mask: Mask) -> dict[str, Tensor]:
        """Return a mask as {parameter name: bool tensor, True = kept}, for all parameters that masks can change.

        A removed channel prunes its filter, bias and normalisation parameters, and the weights that read it.
        """
        return self.groups.kept_entries(mask.bits)

    @cached_property
    def norm_units(self) -> Tensor:
        """Return, for each unit, whether it has channels in norms that normalise over kept channels only.

        All False without ``norms=True``: then masks only zero parameters.
        """
        units = torch.zeros(self.n_units + 1, dtype=torch.bool)
        for run, _ in self.groups.norm_runs().values():
            units[run.numbers] = True
        return units[:-1]

    def kept_in_norms(self, mask: Mask) -> dict[str, tuple[Tensor, int]]:
        """Return {module name of a norm: (indices of its kept channels, their dimension in its input)} under a mask."""
        return self.groups.kept_in_norms(mask.bits)

    def set_norms(self, model: nn.Module, mask: Mask) -> None:
        """Add hooks by which a network's norms, such as LayerNorm, normalise only over channels that a mask keeps.

        Copies of the network keep the hooks; pruning removes them.
        """
        if self.groups.norms:
            set_norm_hooks(unwrapped(model), self.kept_in_norms(mask))

    @cached_property
    def topologies(self) -> tuple[str, ...]:
        """Return a text per layer that names its kind, such as attention heads; layers of a kind have equal texts.

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
        """Sum tensors, given by parameter name, over each group of channels; return one sum per group.

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
                sums.index_add_(0, run.numbers.to(sums.device) % len(sums), per_position)
        if sums is None:
            raise InputError(f"tensors: none of {list(tensors)[:4]} belongs to this {self.describe()}")
        return sums[:-1]

    def widths(self, mask: Mask) -> np.ndarray:
        """Return the number of output channels that a mask keeps in each layer with removable channels, as an array."""
        return self.costs.widths(mask.kept_counts)

    def cost_of(self, kept: np.ndarray, hold: Hold) -> int:
        """Return the units, parameters or MACs (chosen by ``hold``) of a network with ``kept[i]`` units in layer i."""
        return self.costs.of(hold, kept)

    @cached_property
    def costs(self) -> Costs:
        """Parameters and MACs of pruned networks, from the numbers of kept units."""
        return Costs(self.groups)

    def _top(self, saliency: Tensor, amount: Amount, generator: torch.Generator) -> Mask:
        """Return the mask of the units of highest saliency; with ``hold``, of those that fit.

        Raises
        ------
        InputError
            As :meth:`MaskSpace.top_k`; also if a network with one unit per layer is already too large.
        """
        if amount.hold == "units":
            return super()._top(saliency, amount, generator)
        if amount.scope == "knapsack":
            return knapsack_mask(self, saliency, amount, generator)
        state = generator.get_state()

        def prefix(units: Amount) -> Mask:
            generator.set_state(state)  # the same ties broken the same way: prefixes of one ranking
            return super(FilterSpace, self)._top(saliency, units, generator)

        return longest_prefix(self, amount, prefix)


def _uncounted(tensor: Tensor, run: Run, earlier: Run) -> Tensor:
    """Return ``tensor`` with zeros where both dimensions belong to the same unit: those entries must count once."""
    if not np.intersect1d(run.units[run.units != FIXED], earlier.units).size:
        return tensor
    units, earlier_units = (
        each.numbers.to(tensor.device).view([-1 if dim == each.dim else 1 for dim in range(tensor.ndim)])
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
    """Return the space of filter masks of a network: one bit per group of channels that must be removed together.

    Channels are coupled by residual additions, concatenations, depthwise and grouped convolutions and flattenings;
    hidden units of MLPs are units, too. A float64 copy of the network runs once on the CPU, and a rule per operation
    couples the channels; then the outputs of masked and pruned copies are compared for random masks. Outputs, channels
    that a normalisation or reduction combines, and families that fail the comparison are left out, with a reason
    (``space.left_out``).

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
    inputs = first_example(example_input)
    _check_types(model, as_nested(example_input, "example_input"))
    scratch = scratch_copy(model)
    with float64_defaults():
        branches = with_branches(scratch, inputs)
        groups = groups_of(scratch, _trace(scratch, branches, norms))
        groups = choose_layers(model, groups, include, exclude)
        if groups.families:
            scratch = scratch_copy(scratch)  # the trace may have left tensors in its copy
            groups = prove(scratch, groups, branches)
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
            raise refused_example(model, inputs[0], error) from None
        raise
