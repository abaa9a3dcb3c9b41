"""Random search: independent masks of the right density. What every other searcher has to beat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch

from masksearch.mask import Mask
from masksearch.searchers.base import Searcher
from masksearch.seeds import torch_generator
from masksearch.space import Scope
from masksearch.table import choose
from masksearch.trial import Problem, Proposal, Score

__all__ = ["RandomSearch"]

_TRIES = 100


@dataclass
class RandomSearch(Searcher):
    """Masks drawn independently and uniformly among those of the density (Bergstra & Bengio 2012, for masks)."""

    scope: Scope = "global"  # layerwise, erk: with every layer's density fixed, a stronger baseline

    def __post_init__(self) -> None:
        choose("scope of random_search", self.scope, list(get_args(Scope)))

    def start(self, problem: Problem) -> None:  # noqa: D102
        self.problem = problem
        self._generator = torch_generator(problem.seed, "random_search")
        self._start_is_due = problem.start is not None

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        masks = []
        if self._start_is_due and self.problem.start is not None:
            masks.append(self.problem.start)
            self._start_is_due = False
        while len(masks) < n:
            masks.append(self._draw())
        return [Proposal.of(mask) for mask in masks]

    def _draw(self) -> Mask:
        """Under ``raise``, a mask that empties a layer is drawn again; an error only if hardly any draw is whole."""
        problem = self.problem
        patient = replace(problem, on_empty="allow")
        for _ in range(_TRIES if problem.on_empty == "raise" else 0):
            mask = patient.random(self._generator, self.scope)
            if not mask.empty_layers():
                return mask
        return problem.random(self._generator, self.scope)

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        pass

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"generator": self._generator.get_state(), "start_is_due": self._start_is_due}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self._generator = torch.Generator()
        self._generator.set_state(state["generator"])
        self._start_is_due = state["start_is_due"]
