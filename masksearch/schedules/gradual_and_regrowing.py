"""Mask schedules within a training: gradual pruning, and dynamic sparse training (SET, RigL).

Changes depend on the network, the mask and the step only, so that a checkpoint needs no other state than the mask.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Literal, NotRequired, TypedDict, cast, get_args

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.schedules.ramp import Ramp
from masksearch.schedules.set_and_rigl_updates import cosine_share, rigl_update, set_update
from masksearch.spaces import NetworkSpace
from masksearch.training import MaskSchedule
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose as choose_name
from masksearch.utils.seeds import torch_generator

Choose = Callable[[float, Mask], Mask]
"""Function (density, mask) -> mask of this density that keeps only units of the given mask."""
Kind = Literal["set", "rigl"]


def default_interval(steps: int) -> int:
    """Return the default number of steps between mask changes: 100, or ``steps`` / 40 if that is less.

    100 is the number of Evci et al. 2020.
    """
    return max(1, min(100, steps // 40))


def default_end(steps: int, begin: int = 0) -> int:
    """Return the default step after which masks no longer change: 75 % of the training (Evci et al. 2020)."""
    return begin + (steps - begin) * 3 // 4


class _State(TypedDict):
    """State of a schedule in a checkpoint."""

    settings: dict[str, object]
    bits: Tensor  # bool (n_units,)
    reached: NotRequired[float]  # density that gradual pruning requested last


class _ChangingMask(MaskSchedule, ABC):
    """Base class of schedules with one mask; subclasses define when it changes, and the next mask.

    The mask does not change if a weight is not finite: then weights can't be ranked, and the training ends.
    """

    def __init__(self, model: nn.Module, space: NetworkSpace, mask: Mask, settings: Mapping[str, object]) -> None:
        space.check_mask(mask)
        self.model, self.space = model, space
        self._settings = dict(settings)
        self._set(mask)

    def _set(self, mask: Mask) -> None:
        self.mask, self._masks = mask, self.space.parameter_masks(mask)
        self.space.set_norms(self.model, mask)

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Current masks of the training: {parameter name: bool tensor of the parameter's shape, True = kept}."""
        return self._masks

    @abstractmethod
    def _due(self, step: int) -> bool: ...

    @abstractmethod
    def _next(self, step: int) -> Mask: ...

    def __call__(self, step: int) -> bool:
        """Change the mask if a change is due at ``step``; return whether the mask changed."""
        if not self._due(step) or not _finite(self.model):
            return False
        before = self.mask
        self._set(self._next(step))
        return self.mask != before

    def state_dict(self) -> dict[str, object]:
        """Return the mask and the settings of the pruning schedule, to save them in a checkpoint."""
        return {"settings": self._settings, "bits": self.mask.bits}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the mask of the pruning schedule from a checkpoint.

        Raises
        ------
        InputError
            If the state is of other settings; the message names the first difference.
        """
        saved_state = cast(_State, state)
        for name, value in self._settings.items():
            if (saved := saved_state["settings"].get(name)) != value:
                raise InputError(
                    f"checkpoint: its masks changed with {name} {saved}, and this training has {value}; give the same"
                )
        self._set(Mask(self.space, saved_state["bits"]))


class Gradual(_ChangingMask):
    """Gradual pruning during a training: density falls along a cubic curve, and pruned units stay pruned.

    Zhu and Gupta 2017, with any criterion; the curve is a :class:`Ramp`. A training that begins later than the ramp
    reaches it at the latest in its first step after the ramp's end.

    Parameters
    ----------
    model : nn.Module
        The network that is trained.
    space : NetworkSpace
        Space of weights or filters.
    choose : callable
        Called between two steps with a density and the current mask; returns a mask of this density within it, by
        ranking the current network. It must not change the network, and equal calls must give equal masks:
        ``masksearch.criteria.select`` with ``density`` and ``alive``, for example.
    density : float
        Final density, in the unit of ``choose``'s hold.
    steps : int
        Step at which the training ends. All steps are counted from epoch 0 of the learning-rate schedule.
    begin, end : int, optional
        Steps between which density falls. Default: the beginning of the training, and 75 % of it.
    interval : int, optional
        Steps between two changes. Default: :func:`default_interval`.
    alive : Mask, optional
        Mask to begin with; density falls from its density. Default: the full mask.

    Raises
    ------
    InputError
        For a mask of another space, a density above that of ``alive``, or an end after the training's; during the
        training, if ``choose`` regrows units.
    """

    def __init__(
        self,
        model: nn.Module,
        space: NetworkSpace,
        choose: Choose,
        density: float,
        steps: int,
        *,
        begin: int = 0,
        end: int | None = None,
        interval: int | None = None,
        alive: Mask | None = None,
    ) -> None:
        mask = space.full() if alive is None else alive
        end = max(begin + 1, default_end(steps, begin)) if end is None else end
        if end > steps:
            raise InputError(f"end: {end}; allowed is 1 to {steps}, the steps of the training")
        interval = default_interval(steps - begin) if interval is None else interval
        self.ramp = Ramp(density, begin, end, interval, mask.density)
        super().__init__(model, space, mask, asdict(self.ramp))
        self._choose = choose
        self._reached = self.ramp.start

    def _due(self, step: int) -> bool:
        return self.ramp.due(step) or (step > self.ramp.end and self._reached > self.ramp.density)

    def _next(self, step: int) -> Mask:
        density = self.ramp.at(step)
        mask = self._choose(density, self.mask)
        if regrown := int((mask.bits & ~self.mask.bits).sum()):
            raise InputError(
                f"choose: kept {regrown} pruned units at density {density:.6g}; it must keep units of the given mask"
            )
        self._reached = density
        return mask

    def state_dict(self) -> dict[str, object]:
        """Return the mask, its requested density and the density curve, to save them in a checkpoint."""
        return super().state_dict() | {"reached": self._reached}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the mask and its requested density from a checkpoint."""
        super().load_state_dict(state)
        self._reached = cast(_State, state)["reached"]


class Regrowing(_ChangingMask):
    """Dynamic sparse training: at intervals, each layer prunes its smallest weights and restores as many pruned ones.

    ``set`` (Mocanu et al. 2018) regrows at random, ``rigl`` (Evci et al. 2020) where gradients are largest: the
    gradients of the last batch before its step, a step that the published RigL omits. The published SET changes masks
    after every epoch except the last one; set ``interval`` and ``end`` accordingly.

    Parameters
    ----------
    model : nn.Module
        The network that is trained.
    space : NetworkSpace
        A weight space. A filter that is regrown at zero would get no gradient.
    mask : Mask
        Mask to begin with. Every layer keeps its number of weights.
    kind : {"set", "rigl"}
        Which weights are regrown.
    steps : int
        Step at which the training ends. All steps are counted from epoch 0 of the learning-rate schedule.
    begin : int
        Step at which the training begins.
    share : float
        Share of a layer's kept weights to drop per change: SET's zeta, constant, or RigL's alpha, which falls along a
        cosine.
    interval : int, optional
        Steps between two changes. Default: :func:`default_interval`.
    end : int, optional
        Step after which the mask does not change. Default: 75 % of the training.
    seed : int
        Seed of random regrowth and of ties.

    Raises
    ------
    InputError
        For filters, a mask of another space or with an empty layer, and numbers out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        space: NetworkSpace,
        mask: Mask,
        kind: Kind = "rigl",
        *,
        steps: int,
        begin: int = 0,
        share: float = 0.3,
        interval: int | None = None,
        end: int | None = None,
        seed: int = 0,
    ) -> None:
        choose_name("kind of regrowing", kind, list(get_args(Kind)))
        if space.granularity != "weight":
            raise InputError(
                f"{kind}: is for weight masks, not {space.granularity}; a filter regrown at zero gets no gradient"
            )
        if not 0 < share < 1:
            raise InputError(f"share: {share}; allowed is a number between 0 and 1")
        self.interval = default_interval(steps - begin) if interval is None else interval
        if self.interval < 1:
            raise InputError(f"interval: {interval}; allowed is 1 or more steps")
        self.kind, self.share, self.seed = kind, share, seed
        self.begin, self.end = begin, default_end(steps, begin) if end is None else end
        settings = {"kind": kind, "share": share, "interval": self.interval, "begin": begin, "end": self.end}
        settings |= {"seed": seed}
        super().__init__(model, space, mask, settings)
        if empty := mask.empty_layers():
            raise InputError(f"mask: keeps nothing of layer {empty[0]!r}; regrowing needs weights in every layer")

    def _due(self, step: int) -> bool:
        return step < self.end and step % self.interval == 0

    def _next(self, step: int) -> Mask:
        generator = torch_generator(self.seed, self.kind, step)
        parameters = {name: self.model.get_parameter(name) for name in self.space.layer_weights()}
        weights = self.space.unit_sums(parameters)
        if self.kind == "set":
            return set_update(self.space, self.mask, weights, self.share, generator)
        gradients = {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in parameters.items()
        }
        share = cosine_share(step - self.begin, self.end - self.begin, self.share)
        return rigl_update(self.space, self.mask, weights, self.space.unit_sums(gradients), share, generator)


def _finite(model: nn.Module) -> bool:
    with torch.no_grad():
        return bool(torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all())
