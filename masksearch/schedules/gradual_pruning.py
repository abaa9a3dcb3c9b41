"""Gradual pruning during a training: the density falls, and pruned units stay pruned (Zhu and Gupta 2017)."""

from collections.abc import Callable
from dataclasses import asdict
from typing import cast

from torch import nn

from masksearch.core.mask import Mask
from masksearch.schedules.changing_mask import ChangingMask, ScheduleState, default_end, default_interval
from masksearch.schedules.ramp import Ramp
from masksearch.spaces import NetworkSpace
from masksearch.utils.errors import InputError

Choose = Callable[[float, Mask], Mask]
"""Function (density, mask) -> mask of this density that keeps only units of the given mask."""


class Gradual(ChangingMask):
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
        """Return mask, last requested density and density curve of gradual pruning, to save them in a checkpoint."""
        return super().state_dict() | {"reached": self._reached}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the mask and the last requested density of gradual pruning from a checkpoint."""
        super().load_state_dict(state)
        self._reached = cast(ScheduleState, state)["reached"]
