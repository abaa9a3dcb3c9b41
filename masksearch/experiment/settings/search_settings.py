"""Settings of searches: start masks, saliencies, short trainings, second scorings, and Optuna's studies."""

import re
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from masksearch.core.problem_and_trials import Budget
from masksearch.core.space import Hold, OnEmpty, Scope
from masksearch.criteria import CRITERIA
from masksearch.experiment.settings.text_values import check_fields, check_least
from masksearch.scoring import OBJECTIVES
from masksearch.searchers.optuna.optuna_search import is_in_memory
from masksearch.spaces import LayerKind
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError, check_numbers, require
from masksearch.utils.registry import choose

USUAL_START = "auto"
"""Value of ``warm_start`` for the method's default start, which depends on the weights that masks are found on."""

ScoredWeights = Literal["own", "signed_constant"]


def split_method(text: str) -> tuple[str, str]:
    """Split a method's text into its name and the moment of training after @: (``snip``, ``3ep``) for ``snip@3ep``."""
    name, _, moment = text.partition("@")
    return name, moment


@dataclass(frozen=True)
class Source:
    """Criterion by which a search ranks units, with the moment of dense training whose weights it reads."""

    name: str
    moment: str = ""  # of the dense training; empty: the weights that masks are found at
    epochs: int | None = None  # of gradual pruning, from those weights on
    scope: Scope | None = None  # of its mask; the sweep's if None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Parse the text of a criterion, such as ``magnitude@3ep:erk``: name, moment of the ranked weights, and scope.

        ``magnitude@3ep:erk`` ranks after 3 epochs and has the scope ERK; ``magnitude@gradual:2ep`` ranks by gradual
        pruning over 2 epochs.

        Raises
        ------
        InputError
            For an unknown criterion, or another text behind ``@``.
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
            TrainingMoment.parse(moment, f"saliencies, warm_start or finalists: {text}")
        return cls(name, moment)


@dataclass(frozen=True)
class ScoringSettings:
    """Settings of criteria and searches, such as numbers of examples, how units are compared, and time limits."""

    seconds: float | None = None
    """Time limit of each search in seconds; the search also ends when its budget is used up.
    If not given, there is no limit. The time includes gradual pruning, proposing and scoring. With a limit, results
    depend on the speed of the machine."""
    search_examples: int | None = None
    """Number of validation examples on which searches score masks.
    If not given, 2,000 or half of the validation examples, whichever is less."""
    train_examples: int | None = None
    """Number of training examples to use; if not given, all."""
    val_examples: int | None = None
    """Number of validation examples to use, including those on which searches score masks; if not given, all."""
    weights: ScoredWeights = "own"
    """Weights of the network in which masks are scored: own or signed_constant.
    "own" uses the network's weights; "signed_constant" replaces each weight by its sign times its layer's standard
    deviation."""
    scope: Scope | None = None
    """How a criterion compares units of different layers: global, layerwise, erk, isomorphic or knapsack.
    "global" compares all units together. "layerwise" keeps the same density in each layer, "erk" the density of an
    Erdős-Rényi kernel. "isomorphic" compares layers of the same kind, such as all attention heads, and keeps the same
    density of each kind. "knapsack" keeps the units with the largest sum of saliencies that the density allows. If not
    given, "global" for weights and blocks, and "layerwise" for filters."""
    hold: Hold = "units"
    """Quantity of which a density is a share: units, params or macs.
    params and macs are only for filters and blocks."""
    on_empty: OnEmpty | None = None
    """What happens when a mask empties a layer: allow, keep_one (of the layer's units) or raise (an error).
    With "allow" the empty layer is reported. If not given, "allow" for weights and "keep_one" for filters."""
    connected: bool = False
    """Prune kept weights that lie on no path from input to output, and keep the next best weights instead.
    Only for weight masks of criteria and of optuna_* samplers."""
    layers: LayerKind = "all"
    """Kind of layers whose weights are pruned, for granularity = "weight" or "nm": all, conv or linear."""
    examples_per_class: int = 10
    """Number of training examples per class from which gradient-based criteria compute their saliencies."""
    calibration_examples: int = 1024
    """Number of training examples for least-squares repair: with reconstruct or with objective = "reconstructed"."""
    channel_swaps: int = 0
    """Number of channel swaps per layer to try, for an order of channels that suits 2:4 masks; 0 keeps the order.
    The outputs of the dense network do not change. With granularity = "nm" and reconstruct = "blockwise" only."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, examples_per_class=1, calibration_examples=8, channel_swaps=0)
        check_numbers(self, channel_swaps=1_000_000_000)
        if self.seconds is not None:
            Budget(seconds=self.seconds)


@dataclass(frozen=True)
class SearchSettings:
    """Settings of searches: start masks, saliencies, and the second scoring that chooses among the best masks."""

    saliencies: tuple[str, ...] = ()
    """Criteria by which searchers rank units: NAME, NAME@MOMENT or NAME@gradual:2ep.
    NAME@MOMENT reads the weights at that moment of the dense training, NAME@gradual:2ep the weights after 2
    epochs of gradual pruning. The methods optuna_*, eda, evolution, spdy, ziplm, legr, evopress, fastnas, and annealing
    with densities use these criteria."""
    warm_start: str | None = None
    """Mask that searches start from: "none" (a random mask), a criterion's mask (its name), or "auto".
    "auto" is the mask of magnitude for weights and of fpgm for filters if masks are found on trained weights; otherwise
    "none". NAME:layerwise, NAME:erk, NAME:global or NAME:isomorphic sets the scope, by which the criterion's mask
    divides the density among layers. The setting "saliencies" takes the same names."""
    proposals: int = 1
    """Number of masks that a search proposes per step.
    On a GPU, weight masks of small networks are then scored together."""
    scorers: int = 1
    """Number of processes on this machine that score masks of the same search in parallel.
    Each holds the network and the examples, and computes on the number of CPU threads that the setting threads gives.
    With scorer_order = "fixed", give proposals at least this number."""
    scorer_order: Literal["fixed", "as_finished"] = "fixed"
    """Order in which a search with several scorer processes gets its scores: fixed or as_finished.
    "fixed" repeats the same search with any number of scorers from 2 on. With "as_finished", no process waits for the
    slowest, and the search can't be repeated exactly."""
    training_steps: int = 250
    """Optimiser steps of the training that scores a mask, with objective = "short_training" or "training_loss"."""
    training_lr: float | None = None
    """Learning rate of the training that scores a mask, with objective = "short_training" or "training_loss".
    If not given, the rate of retraining. A larger rate separates masks in fewer steps."""
    rescore: int = 1
    """Number of a search's best masks (1 to 5) to score again, on validation examples that the search did not use.
    With 1, the best mask is scored again only if other masks are compared with it: see finalists and rescore_by."""
    rescore_by: str | None = None
    """Objective by which a search's best masks are scored again; if not given, the objective of the search.
    The masks of warm_start and finalists are then scored too."""
    finalists: tuple[str, ...] = ()
    """Criteria whose masks are scored again together with the search's best masks.
    They are written as in warm_start, for example bn_scale:layerwise."""
    rescore_steps: int | None = None
    """Optimiser steps of the short training that scores a mask again; if not given, training_steps.
    Only for rescore_by (or, without it, objective) = "short_training" or "training_loss"."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, proposals=1, scorers=1, training_steps=1, rescore_steps=1)
        check_numbers(self, proposals=100_000, scorers=1000, training_steps=100_000_000, training_lr=1e6)
        require("warm_start", repr(self.warm_start), self.warm_start != "", "a criterion, or none")
        for text in self.saliencies:
            source = Source.parse(text)
            if source.scope is not None:
                raise InputError(
                    f"saliencies: {text}; they rank units, and only masks have a scope: write {source.name}"
                )
        _ = self.sources  # raises for an unknown criterion
        lr = self.training_lr
        if lr is not None and not 0 < lr < float("inf"):
            raise InputError(f"training_lr: {lr}; a finite number above 0 is needed")
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
        """Whether some of a search's masks are scored a second time at the end of the search."""
        return self.rescore > 1 or bool(self.finalists) or (self.rescore_by is not None and self.warm_start is not None)

    @property
    def criteria(self) -> tuple[str, ...]:
        """All criteria that searches use, for saliencies and start masks, say, as texts such as ``magnitude@3ep``."""
        start = () if self.warm_start in (None, USUAL_START) else (self.warm_start,)
        return (*self.saliencies, *start, *self.finalists)

    @property
    def sources(self) -> tuple[Source, ...]:
        """All criteria that searches use, for saliencies and start masks, say, parsed into name, moment and scope."""
        return tuple(map(Source.parse, self.criteria))


@dataclass(frozen=True)
class OptunaSettings:
    """Settings of Optuna's samplers: how the numbers that they choose define a mask, and where studies are stored."""

    parametrisation: Literal["layers", "mixture", "blocks", "bits"] = "layers"
    """What the numbers that Optuna's samplers choose stand for: layers, mixture, blocks or bits.
    "layers": densities of layers; "mixture": weights of a mixture of saliencies; "blocks": which blocks of units are
    kept; "bits": which single units are kept."""
    densities: bool = False
    """For parametrisation = "mixture", also search the densities of layers, not only the weights of the saliencies."""
    spread: float = 3.0
    """How far Optuna's samplers may move layers' densities apart: log-odds of two layers differ by at most twice this.
    The log-odds of a density d are log(d / (1 - d)). For parametrisation = "layers", and "mixture" with densities."""
    blocks: int = 32
    """For parametrisation = "blocks": approximate number of blocks that the units of all layers are divided into."""
    storage: str | None = None
    """URL of the database in which Optuna stores its studies; if not given, a SQLite file in the folder of each search.
    A study is written to the storage after its search."""
    study: str | None = None
    """Name of an Optuna study that several sweeps share through the storage; a search learns from all their trials.
    There is one study per method, sparsity and seed."""

    def __post_init__(self) -> None:
        check_numbers(self, blocks=100_000, spread=1000)
        if self.study is not None and self.storage is not None and is_in_memory(self.storage):
            raise InputError(
                f"optuna.storage: {self.storage!r} is in memory, which no other process can share, and which an "
                "interruption deletes; give a file, as sqlite:///studies.db"
            )
        if self.study is not None and (not self.study or self.storage is None):
            raise InputError(
                f"optuna.study: {self.study!r}, optuna.storage: {self.storage!r}; to share studies, a name and the URL "
                "of a storage are needed"
            )
