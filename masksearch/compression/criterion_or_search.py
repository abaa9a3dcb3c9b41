"""How ``compress`` finds the mask of a network at a wanted size: by a criterion or by a searcher."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from masksearch.compression.result import TIMED
from masksearch.core.density_allocation import Amount, DensityTooLowError, Hold, Scope
from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.core.search_budget import Budget
from masksearch.criteria import CRITERIA, USUAL_CRITERION, saliency, select, start_criterion
from masksearch.data import Data
from masksearch.pruning.energy_after_repair import repair_energy
from masksearch.pruning.gram_matrices import calibration_inputs
from masksearch.pruning.physical import Removable
from masksearch.scoring import OBJECTIVES, LatencyShare, Scorer
from masksearch.scoring.latency import macs_within_latency
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.searching.search_function import search
from masksearch.spaces import REMOVED, UNITS, FilterSpace, Granularity, NetworkSpace, ranked_units, space_of
from masksearch.utils.errors import InputError, check_real, check_type, require
from masksearch.utils.nested import describe
from masksearch.utils.progress import Steps
from masksearch.utils.registry import choose
from masksearch.utils.seeds import check_seed, torch_generator

Start = Mask | Literal["criterion", "random"]
"""Mask that a search starts from, or the way to make it: by the usual criterion, or at random."""

_RANKED, _RANKED_BATCH = 512, 64  # numbers of training examples, in all and per batch, for gradients of criteria
_REPAIRED = 1024  # training examples whose inputs the repair uses
_NM_SPARSITY = 0.5  # of 2:4 masks


def check_start(start: Start) -> None:
    """Raise an InputError unless ``start``, where a search starts, is a mask, ``"criterion"`` or ``"random"``."""
    if isinstance(start, str):
        choose("start", start, ["criterion", "random"])
    elif not isinstance(start, Mask):
        raise InputError(f"start: a {type(start).__name__}; allowed is a mask, 'criterion' or 'random'")


class CompressionMethod:
    """Method that finds a mask of one network: a criterion or a searcher, with the data and the seed that it uses.

    :meth:`amount` makes the space of masks and comes before :meth:`find`.
    """

    space: NetworkSpace
    _kind: Granularity  # of the space
    _target: tuple[str, float]  # name and value of the target given, such as ("macs", 0.5)

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        method: str | Searcher | None,
        granularity: Granularity | None,
        budget: int | Budget,
        objective: str | None,
        seed: int,
        bars: Steps,
    ) -> None:
        if not isinstance(data, Data):
            tensors = isinstance(data, tuple) and all(isinstance(part, torch.Tensor) for part in data)
            raise InputError(
                f"data: {describe(data) if tensors else f'a {type(data).__name__}'}; allowed is a data set, made by "
                "ms.Data.from_tensors(name, train=(inputs, targets), test=(inputs, targets)), from_datasets or "
                "from_loaders"
            )
        check_seed(seed)
        check_type("budget", budget, (int, Budget), "a number of scorings, or ms.Budget(scorings=..., seconds=...)")
        budget = Budget.of(budget)
        if granularity is not None:
            choose("granularity", granularity, list(UNITS))
        if isinstance(method, str):
            choose("method", method, [*CRITERIA, *SEARCHERS])
        elif isinstance(method, type):
            raise InputError(f"method: {method.__name__} is a class; give an object, {method.__name__}()")
        elif method is not None and not isinstance(method, Searcher):
            raise InputError(f"method: a {type(method).__name__}; allowed is a name or a searcher")
        self.model, self.data, self.budget, self.seed, self.bars = model, data, budget, seed, bars
        self.granularity, self.objective, self._method = granularity, objective, method
        self.example = data.test.sample(TIMED)[0]

    @property
    def name(self) -> str:
        """Name of the pruning method, as results show it."""
        method = self._method or USUAL_CRITERION[self._kind]
        return method if isinstance(method, str) else type(method).__name__

    def amount(self, **given: float | None) -> Amount:
        """Return the density that masks must have, computed from the target: a sparsity, macs, params or latency.

        Also make the space of masks.
        """
        named = {name: value for name, value in given.items() if value is not None}
        if self.granularity == "nm" and not named:
            named = {"sparsity": _NM_SPARSITY}
        if len(named) != 1:
            what = ", ".join(named) or "none of them"
            raise InputError(f"sparsity, macs, params, latency: exactly one is needed, and {what} is given")
        [(name, share)] = named.items()
        kept = f"a number in (0, 1], the share of the dense network's {name} that is kept"
        allowed = "a number in [0, 1), the share of units that is removed" if name == "sparsity" else kept
        check_real(name, share, allowed)
        require(name, share, 0 <= share < 1 if name == "sparsity" else 0 < share <= 1, allowed)
        self._target = name, share
        self._kind = granularity = self.granularity or ("weight" if name == "sparsity" else "filter")
        if granularity not in REMOVED and name != "sparsity":
            raise InputError(f"{name}: masked weights save no {name}; give sparsity, or granularity='filter'")
        if granularity == "nm" and share != _NM_SPARSITY:
            raise InputError(f"sparsity: {share}; 2:4 masks remove {_NM_SPARSITY} of the weights: leave sparsity out")
        self._check_method(ranked_units(granularity))
        self.bars.begin("finding the units that can be removed")
        self.space = space_of(granularity, self.model, self.example)
        scope: Scope = self._own_scope or ("layerwise" if granularity in ("filter", "union") else "global")
        if name == "sparsity":
            return Amount.of(None, sparsity=share, scope=scope, on_empty="keep_one")
        hold: Hold = "params" if name == "params" else "macs"
        amount = Amount(share, hold=hold, scope=scope, on_empty="keep_one")
        if name == "latency":
            assert isinstance(self.space, Removable)
            self.bars.begin("measuring latencies")
            measure = LatencyShare(self.model, self.space, self.example, TIMED)
            usual = self.name if self._own_scope else USUAL_CRITERION[granularity]
            macs = macs_within_latency(share, measure, lambda macs: self.criterion_mask(usual, amount.at(macs)))
            return amount.at(macs)
        return amount

    @property
    def _own_scope(self) -> Scope | None:
        """Scope that the method's source has; None for most criteria and for searchers."""
        return CRITERIA[self._method].scope if isinstance(self._method, str) and self._method in CRITERIA else None

    @property
    def _needs_energy(self) -> bool:
        """Whether the method is a searcher that needs an energy."""
        method = self._method
        if isinstance(method, str):
            return method in SEARCHERS and SEARCHERS[method]().needs_energy
        return method is not None and method.needs_energy

    def _check_method(self, granularity: str) -> None:
        if self._needs_energy and granularity != "filter":
            raise InputError(f"method: {self._method!r} searches filters, not {granularity} units; give another method")
        if isinstance(self._method, str) and self._method in CRITERIA:
            row = CRITERIA[self._method]
            if granularity not in row.granularities:
                fitting = [name for name, other in CRITERIA.items() if granularity in other.granularities]
                raise InputError(
                    f"method: {self._method!r} ranks {' and '.join(row.granularities)} units, not {granularity}; "
                    f"there are {', '.join([*fitting, *SEARCHERS])}"
                )

    def repair_inputs(self) -> list[Any]:
        """Return batches of training inputs for the least-squares repair of kept weights."""
        return calibration_inputs(self.data.train, _REPAIRED, torch_generator(self.seed, "compress", "repair"))

    def criterion_mask(self, name: str, amount: Amount) -> Mask:
        """Return the mask that the criterion ``name`` chooses at the density ``amount``, from the network's weights."""
        return select(
            name,
            self.model,
            self.space,
            self._ranked_batches(name),
            amount,
            loss=self.data.task.loss_of,
            generator=torch_generator(self.seed, "compress", "ties"),
        )

    def _saliency(self, name: str) -> torch.Tensor:
        """Return the saliencies (n_units,) of one round of a criterion, for searchers that rank units."""
        batches, generator = self._ranked_batches(name), torch_generator(self.seed, "compress", "ties")
        return saliency(name, self.model, self.space, batches, loss=self.data.task.loss_of, generator=generator)

    def _ranked_batches(self, name: str) -> list[tuple[Any, Any]]:
        """Return batches of training examples for a criterion; none if it reads weights only."""
        row = CRITERIA[name]
        if row.unlabelled:
            return [(inputs, None) for inputs in self.repair_inputs()]
        generator = torch_generator(self.seed, "compress", "examples")
        order = torch.randperm(len(self.data.train), generator=generator)[:_RANKED]
        sizes = [len(part) for part in order.split(_RANKED_BATCH)]
        return list(self.data.train.batches(order, sizes)) if row.needs_batches else []

    def find(self, amount: Amount, start: Start) -> tuple[Mask, History | None]:
        """Return the mask that the pruning method finds, and the search history (None if the method is no search)."""
        self.bars.begin("ranking units")
        try:
            return self._found(amount, start)
        except DensityTooLowError as error:
            raise error.of_target(*self._target) from None

    def _found(self, amount: Amount, start: Start) -> tuple[Mask, History | None]:
        method = self._method or USUAL_CRITERION[self._kind]
        if isinstance(method, str) and method in CRITERIA:
            return self.criterion_mask(method, amount), None
        searcher = SEARCHERS[method]() if isinstance(method, str) else method
        usual = start_criterion(searcher, self._kind)
        first = start if isinstance(start, Mask) else None
        if start == "criterion" and usual is not None:
            first = self.criterion_mask(usual, amount)
        energy = repair_energy(self.model, self.space, self.repair_inputs()) if searcher.needs_energy else None
        objective = self.objective or self._usual_objective()
        repairs = objective in OBJECTIVES and OBJECTIVES[objective].reconstructs
        calibration = self.repair_inputs() if repairs else None
        scorer = Scorer(self.model, self.space, self.data.search, objective, calibration=calibration)
        # Units move between layers in a search, so that only the criterion's mask is layer by layer.
        history = search(
            self.space,
            searcher,
            scorer,
            replace(amount, scope="global"),
            self.budget,
            self.seed,
            start=first,
            saliencies={USUAL_CRITERION[self._kind]: self._saliency(USUAL_CRITERION[self._kind])},
            energy=energy,
            progress=self.bars,
        )
        return searcher.predicted_best or history.best_mask, history

    def _usual_objective(self) -> str:
        """Return what a search maximises by default: for filters, the score after the repair that ``compress`` does."""
        if isinstance(self.space, FilterSpace) and OBJECTIVES["reconstructed"].fits(self.data.task):
            return "reconstructed"
        return "distance" if self.data.search.sample(1)[1] is None else "loss"
