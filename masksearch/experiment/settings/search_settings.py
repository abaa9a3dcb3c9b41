"""Settings of searches beside the budget: their start, their saliencies, short trainings, and second scorings."""

import re
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from masksearch.core.space import Scope
from masksearch.criteria import CRITERIA
from masksearch.experiment.settings.schedule_settings import check_some
from masksearch.scoring import OBJECTIVES
from masksearch.training.duration import Duration
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["OptunaSettings", "SearchSettings", "Source", "split_method"]


def split_method(text: str) -> tuple[str, str]:
    """``snip@3ep`` as (``snip``, ``3ep``); without a moment the second is empty."""
    name, _, moment = text.partition("@")
    return name, moment


@dataclass(frozen=True)
class Source:
    """A criterion that a search uses, and the weights that the criterion ranks."""

    name: str
    moment: str = ""  # of the dense training; empty: the weights that masks are found at
    epochs: int | None = None  # of gradual pruning, from those weights on
    scope: Scope | None = None  # of its mask; the sweep's if None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read ``magnitude``, ``magnitude@3ep`` or ``magnitude@gradual:2ep``, each with ``:erk`` or another scope.

        Raises
        ------
        InputError
            For an unknown criterion, or anything else behind an ``@``.
        """
        before, _, after = text.rpartition(":")
        if before and after in get_args(Scope):
            return replace(cls.parse(before), scope=cast(Scope, after))
        name, moment = split_method(text)
        choose("criterion", name, list(CRITERIA))
        if moment.startswith("gradual"):
            match = re.fullmatch(r"gradual:(\d+)ep", moment)
            if match is None or not int(match[1]):
                raise InputError(
                    f"saliencies, warm_start or finalists: {text}; write {name}@gradual:2ep, for 1 epoch or more"
                )
            return cls(name, epochs=int(match[1]))
        if moment:
            Duration.parse(moment, f"saliencies, warm_start or finalists: {text}")
        return cls(name, moment)


@dataclass(frozen=True)
class SearchSettings:
    """The start and the saliencies of searches, and the second scoring that chooses among their best masks."""

    saliencies: tuple[str, ...] = ()
    """Criteria by which optuna_*, eda, evolution and annealing with densities rank units: NAME, NAME@MOMENT or
    NAME@gradual:2ep."""
    warm_start: str | None = None
    """Criterion whose mask searches start from: as saliencies, or NAME:layerwise, NAME:erk, NAME:global; if not
    given, searches start from a random mask."""
    proposals: int = 1
    """Masks proposed per step of a search; on a GPU, weight masks of small networks are then scored together."""
    training_steps: int = 250
    """Optimiser steps of a ticket per scoring by short_training or training_loss."""
    training_lr: float | None = None
    """Learning rate of these steps; if not given, that of retraining. A larger rate separates masks in fewer steps."""
    rescore: int = 1
    """Number of a search's best masks (1 to 5) that are scored again, on the validation examples that the search did
    not use."""
    rescore_by: str | None = None
    """Objective of the second scoring; if not given, that of --objective. The masks of --warm-start and --finalists
    are scored with it, too."""
    finalists: tuple[str, ...] = ()
    """Criteria whose masks are scored again beside the search's best masks: as warm_start, for example
    bn_scale:layerwise."""
    rescore_steps: int | None = None
    """Optimiser steps per second scoring by short_training or training_loss; if not given, training_steps."""

    def __post_init__(self) -> None:
        if self.saliencies:
            check_some("saliencies", self.saliencies)
        if self.finalists:
            check_some("finalists", self.finalists)
        for text, source in zip(self.criteria, self.sources, strict=True):  # raises for one that can't be
            if source.scope is not None and text in self.saliencies:
                raise InputError(
                    f"saliencies: {text}; they rank units, and only masks have a scope: write {source.name}"
                )
        if self.proposals < 1:
            raise InputError(f"proposals: {self.proposals}; at least 1 is needed")
        if self.training_steps < 1:
            raise InputError(f"training_steps: {self.training_steps}; at least 1 is needed")
        if self.training_lr is not None and not 0 < self.training_lr < float("inf"):
            raise InputError(f"training_lr: {self.training_lr}; a finite number above 0 is needed")
        if self.rescore_steps is not None and self.rescore_steps < 1:
            raise InputError(f"rescore_steps: {self.rescore_steps}; at least 1 is needed")
        if not 1 <= self.rescore <= 5:
            raise InputError(f"rescore: {self.rescore}; 1 to 5 of the best masks can be scored again")
        if self.rescore_by is not None:
            OBJECTIVES.check(self.rescore_by, "rescore_by")
            if not self.rescores:
                raise InputError(
                    f"rescore_by: {self.rescore_by}; the search has one mask only: give a warm_start, finalists, or "
                    "a rescore of 2 to 5"
                )

    @property
    def rescores(self) -> bool:
        """Whether there is more than one mask to choose from when a search is over."""
        return self.rescore > 1 or bool(self.finalists) or (self.rescore_by is not None and self.warm_start is not None)

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria that searches need, with their moments."""
        return self.saliencies + ((self.warm_start,) if self.warm_start else ()) + self.finalists

    @property
    def sources(self) -> tuple[Source, ...]:
        """The same, read."""
        return tuple(map(Source.parse, self.criteria))


@dataclass(frozen=True)
class OptunaSettings:
    """Meaning of the numbers that Optuna's samplers choose: see :class:`masksearch.searchers.OptunaSearch`."""

    parametrisation: Literal["layers", "mixture", "blocks", "bits"] = "layers"
    """Numbers that samplers choose: densities of layers, weights of a mixture of saliencies, blocks of units, or
    single bits."""
    densities: bool = False
    """Search the layers' densities beside a mixture's weights."""
    spread: float = 3.0
    """Largest difference of a layer's density from the mean, in log-odds."""
    blocks: int = 32
    """Approximate number of blocks in all layers together."""
    storage: str | None = None
    """URL of the storage that gets each study after its search; if not given, a SQLite file in the search's folder."""
    study: str | None = None
    """Name of a study in this storage. Sweeps that give the same name search together: one study per cell."""

    def __post_init__(self) -> None:
        if self.study is not None and (not self.study or self.storage is None):
            raise InputError(
                f"optuna.study: {self.study!r}, optuna.storage: {self.storage!r}; to share studies, a name and the URL "
                "of a storage are needed"
            )
