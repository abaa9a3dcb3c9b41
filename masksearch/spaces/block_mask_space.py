"""Block space of a network: pruning masks with one bit per residual branch."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.density_allocation import Amount, DensityTooLowError, Hold
from masksearch.core.mask import Mask
from masksearch.spaces.base_space import table_lines, unwrapped
from masksearch.spaces.block_branches import Branch, branches_of, innermost
from masksearch.spaces.block_proof import NOT_IN_MODULES, prove_blocks, zeroed_parameters
from masksearch.spaces.block_removal import Replacements, replacements_of, with_replacements
from masksearch.spaces.filter_cut import named_tensors
from masksearch.spaces.float64_comparison import first_example, float64_defaults, refused_example, scratch_copy
from masksearch.spaces.operation_graph import Graph, operations_of
from masksearch.spaces.removable_space import RemovableSpace
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested
from masksearch.utils.registry import choose


@dataclass(frozen=True)
class Block:
    """Residual branch that a mask can remove: its parameters, those that switch it off when zero, and its cost."""

    name: str
    zeroed: tuple[str, ...]  # parameters of its last layer; if they are zero, the branch adds nothing
    removed: tuple[str, ...]  # parameters that the pruned network does not have
    params: int  # entries of these parameters
    macs: int  # multiply-adds per input


ADDITIONS = ("add", "add_")  # names of operations


@dataclass(frozen=True)
class Addition:
    """Place of the addition x + f(x) of a residual branch: a module, and the addition's number in its forward."""

    module: str
    number: int  # of the addition, in the order in which the module's own code runs them
    total: int  # additions that the module's own code runs
    shortcut: int  # operand that is the shortcut, 0 or 1


class BlockSpace(RemovableSpace):
    """Block masks of a network: one bit per residual branch, the f(x) of x + f(x).

    Made by :func:`block_space`. Masked, the parameters of the branch's last layer are zero, so that the branch adds
    nothing; pruned, its modules are gone. Every block is a layer of the space with one unit, and may be removed.

    Attributes
    ----------
    blocks : tuple of Block
        Name, parameters and costs of every unit.
    left_out : tuple of (str, str)
        (branch, reason) for every residual branch that can't be removed.
    """

    def __init__(
        self,
        graph: Graph,
        branches: Sequence[Branch],
        blocks: Sequence[Block],
        full: Mapping[str, bool],
        shapes: Mapping[str, tuple[int, ...]],
        left_out: Sequence[tuple[str, str]],
    ) -> None:
        self.blocks = tuple(blocks)
        self._graph, self._branches, self._full = graph, tuple(branches), dict(full)
        self._shapes = dict(shapes)
        super().__init__([(block.name, shapes[self._weight(block)], 1) for block in blocks], "block")
        self.left_out = tuple(left_out)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {parameter or buffer of the full network: shape}."""
        return self._shapes

    def __str__(self) -> str:
        rows = [("block", "params", "MACs")]
        rows += [(block.name, f"{block.params:,}", f"{block.macs:,}") for block in self.blocks]
        return "\n".join([repr(self), *table_lines(rows), *(f"left out: {name}: {why}" for name, why in self.left_out)])

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash (16 hex digits) of blocks and parameters; a mask fits every space with the same hash."""
        digest = hashlib.sha256(super().fingerprint.encode())
        for block in self.blocks:
            digest.update(f"{block.name}/{block.zeroed}/{block.removed}/{block.params}".encode())
        return digest.hexdigest()[:16]

    @property
    def needed(self) -> np.ndarray:
        """Return, for each layer, whether masks must keep a unit of it: False, since every block can be removed."""
        return np.zeros(len(self.layers), dtype=bool)

    @cached_property
    def topologies(self) -> tuple[str, ...]:
        """Return a text per block that lists kinds of its parameters; blocks of equal structure have equal texts."""
        kinds = [
            sorted(f"{name.rpartition('.')[2]} {len(self.shapes[name])}d" for name in b.removed) for b in self.blocks
        ]
        return tuple("; ".join(kind) for kind in kinds)

    def additions(self) -> list[Addition]:
        """Return the additions x + f(x) of all blocks in the space, in the order of the blocks."""
        graph = self._graph
        places = [place for place, operation in enumerate(graph.operations) if operation.name in ADDITIONS]
        modules = {place: innermost(graph, place).module for place in places}
        found = []
        for branch in self._branches:
            module = modules[branch.add]
            own = [place for place in places if modules[place] == module]
            shortcut = graph.operations[branch.add].inputs.index(branch.shortcut)
            found.append(Addition(module, own.index(branch.add), len(own), shortcut))
        return found

    def products_of(self, macs: Sequence[int]) -> list[list[int]]:
        """Return, for each block, the indices of the products of two activations (query x key, say) that it computes.

        ``macs`` lists the multiply-adds of products in the order in which they run; not all products of the network
        need be among them.
        """
        places: list[int] = []  # operation of every product
        for place, operation in enumerate(self._graph.operations):
            is_product = operation.macs and not operation.parameters and len(places) < len(macs)
            if is_product and operation.macs == macs[len(places)]:
                places.append(place)
        regions = [branch.region for branch in self._branches]
        return [[number for number, place in enumerate(places) if place in region] for region in regions]

    def without(self, names: Sequence[str], reason: str) -> "BlockSpace":
        """Return a copy of this space without the named blocks; its ``left_out`` lists them with ``reason``."""
        stay = [place for place, block in enumerate(self.blocks) if block.name not in names]
        branches, blocks = [self._branches[place] for place in stay], [self.blocks[place] for place in stay]
        left_out = [*self.left_out, *((name, reason) for name in names)]
        return BlockSpace(self._graph, branches, blocks, self._full, self.shapes, left_out)

    def _weight(self, block: Block) -> str:
        """Return the zeroed parameter of a block with most dimensions."""
        return max(block.zeroed, key=lambda name: len(self.shapes[name]))

    def parameter_masks(self, mask: Mask) -> dict[str, Tensor]:
        """Return {name: bool tensor, True = kept} for each branch's last parameters; zeros there switch it off."""
        return {
            name: torch.full(self.shapes[name], kept)
            for block, kept in zip(self.blocks, mask.bits.tolist(), strict=True)
            for name in block.zeroed
        }

    def layer_weights(self) -> list[str]:
        """Return, for every block, the name of the weight in its last layer."""
        return [self._weight(block) for block in self.blocks]

    def unit_sums(self, tensors: Mapping[str, Tensor], part: str = "all") -> Tensor:
        """Sum tensors, given by parameter name, over the last layer of each branch; return one sum per branch.

        ``tensors`` holds them by parameter name; missing ones count as 0. ``part`` is ``"all"``, or ``"filters"`` for
        the weights of :meth:`layer_weights` alone.
        """
        choose("part", part, ["all", "filters"])
        if not any(name in tensors for block in self.blocks for name in block.zeroed):
            raise InputError(f"tensors: none of {list(tensors)[:4]} belongs to this {self.describe()}")
        names = [block.zeroed if part == "all" else (self._weight(block),) for block in self.blocks]
        zero = next(iter(tensors.values())).new_zeros(())
        sums = []
        for group in names:
            present = [tensors[name].detach().sum() for name in group if name in tensors]
            sums.append(torch.stack(present).sum() if present else zero)
        return torch.stack(sums)

    def replacements(self, mask: Mask) -> Replacements:
        """Return {module name: description, for JSON, of its replacement} for the modules that a mask removes."""
        self.check_mask(mask)
        kept = mask.bits.tolist()
        removed = [branch for branch, keep in zip(self._branches, kept, strict=True) if not keep]
        replacements = replacements_of(self._graph, removed, self._full)
        assert replacements is not None, "the proof removes these branches"
        return replacements

    def without_units(self, model: nn.Module, mask: Mask) -> nn.Module:
        """Return a copy of the network without the blocks that the mask prunes.

        Raises
        ------
        InputError
            If the mask or the model is not of this space.
        """
        self._masked_parameters(model, mask)  # checks both
        blocks = [block for block, keep in zip(self.blocks, mask.bits.tolist(), strict=True) if not keep]
        removed = [name for block in blocks for name in block.removed]
        return with_replacements(unwrapped(model), self.replacements(mask), removed)

    without_blocks = without_units

    # Costs: every block saves the same, whatever else is removed.

    def unit_costs(self, hold: Hold = "params") -> Tensor:
        """Return the parameters or MACs (chosen by ``hold``) that removing each block saves: float64 (n_units,).

        ``hold`` selects the quantity: ``"params"``, ``"macs"``, or ``"units"``, for which every block saves 1.
        """
        choose("hold", hold, list(get_args(Hold)))
        return torch.tensor([1 if hold == "units" else getattr(block, hold) for block in self.blocks]).double()

    def _total(self, hold: Hold) -> int:
        return {"units": self.n_units, "params": sum(self._graph.sizes.values()), "macs": self._graph.macs}[hold]

    def cost_of(self, kept: np.ndarray, hold: Hold) -> int:
        """Return the units, parameters or MACs (chosen by ``hold``) of the network with only the blocks in ``kept``."""
        return self._total(hold) - int(self.unit_costs(hold).numpy()[~kept.astype(bool)].sum())

    def _top(self, saliency: Tensor, amount: Amount, generator: torch.Generator) -> Mask:
        """Return the mask of the blocks of highest saliency; with ``hold``, a block that doesn't fit is skipped.

        Raises
        ------
        InputError
            As :meth:`MaskSpace.top_k`; also if the network without any block is already too large.
        """
        if amount.per_layer is None:
            amount = replace(amount, scope="global")  # a block is a layer: there is nothing to share out
        if amount.hold == "units":
            return super()._top(saliency, amount, generator)
        shuffled = torch.randperm(self.n_units, generator=generator)
        ranking = shuffled[saliency[shuffled].argsort(descending=True, stable=True)].tolist()
        allowed, costs = self.allowed(amount), self.unit_costs(amount.hold).tolist()
        spent = self.cost_of(np.zeros(self.n_units, dtype=bool), amount.hold)
        if spent > allowed:
            raise DensityTooLowError(
                amount.density,
                f"of the {amount.hold} is less than {spent / self._total(amount.hold):.3g}, the share of the network "
                "without any block",
            )
        kept = []
        for block in ranking:
            if spent + costs[block] <= allowed:
                kept.append(block)
                spent += costs[block]
        return Mask.of_units(self, np.array(kept, dtype=np.int64))


def block_space(model: nn.Module, example_input: Nested) -> BlockSpace:
    """Find the residual branches of a network that can be removed; return the space of masks with a bit for each.

    One unit is one branch f of an addition x + f(x): a block of a ResNet, the attention or the MLP of a transformer. A
    projection in the shortcut stays. A float64 copy of the network runs once on the CPU, and additions that join a
    branch with what the branch began from are units. Then the outputs of masked and pruned copies are compared for
    random masks; branches that fail, and branches that contain others, are left out (``space.left_out``).

    Parameters
    ----------
    model : nn.Module
        Any module whose outputs hold tensors. It is not changed, nor is the random state.
    example_input : Tensor (n, ...), or a tuple or dict of such tensors
        A batch for ``model(x)``, ``model(*x)`` or ``model(**x)``; only shapes and types matter (and the values of
        integers).

    Raises
    ------
    InputError
        If the network doesn't take the example, or has no residual branch that can be removed.
    """
    model = unwrapped(model)
    name = type(model).__name__
    inputs = first_example(example_input)
    scratch = scratch_copy(model)
    with float64_defaults():
        return _proved(scratch, inputs, name)


def _proved(scratch: nn.Module, inputs: Nested, name: str) -> BlockSpace:
    try:
        graph = operations_of(scratch_copy(scratch), inputs)  # a trace may leave tensors in its copy
    except Exception as error:  # any exception of a user's forward means that the input does not fit
        raise refused_example(scratch, inputs, error) from None
    found = branches_of(graph)
    zeroed = zeroed_parameters(scratch, graph, found, inputs) if found else {}
    reasons = {branch.name: "no parameters of its last layers make it zero" for branch in found}
    branches: list[Branch] = []
    for branch in sorted(found, key=lambda branch: len(branch.region)):
        if branch.name in zeroed and replacements_of(graph, [branch], {}) is None:
            reasons[branch.name] = NOT_IN_MODULES
        elif branch.name in zeroed and (inner := next((b.name for b in branches if b.add in branch.region), None)):
            reasons[branch.name] = f"it contains the branch {inner!r}"
        elif branch.name in zeroed:
            branches.append(branch)
    branches.sort(key=lambda branch: branch.add)
    full, failed = prove_blocks(scratch, graph, branches, zeroed, inputs) if branches else ({}, {})
    reasons |= failed
    branches = [branch for branch in branches if branch.name in full]
    kept = {branch.name for branch in branches}
    left_out = [(branch.name, reasons[branch.name]) for branch in found if branch.name not in kept]
    if not branches:
        why = "; ".join(f"{branch}: {reason}" for branch, reason in left_out[:3])
        raise InputError(f"model: {name} has no residual branch that can be removed ({why or 'it has no x + f(x)'})")
    blocks = [
        Block(
            branch.name,
            zeroed[branch.name],
            branch.parameters,
            sum(graph.sizes[parameter] for parameter in branch.parameters),
            branch.macs,
        )
        for branch in branches
    ]
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(scratch).items()}
    return BlockSpace(graph, branches, blocks, full, shapes, left_out)
