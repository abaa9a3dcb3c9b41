"""Metrics of a data split, collected from batches of a network's outputs."""

from typing import Any

import torch
from torch import Tensor, nn

from masksearch.tasks import Task
from masksearch.utils.errors import InputError, first_line
from masksearch.utils.nested import tensors_of

_PENDING_BYTES = 1 << 26


class MetricCollector:
    """Collector of a task's metrics over batches, which rarely makes the CPU wait for the GPU.

    Parameters
    ----------
    task : Task
        Metrics, and how to read outputs.
    device : torch.device
        Device of the outputs.
    main_only : bool
        Leave out the metrics that are reported only.
    """

    def __init__(self, task: Task, device: torch.device, *, main_only: bool = True) -> None:
        self._task, self._meters = task, task.meters(main_only=main_only)
        for meter in self._meters.values():
            if isinstance(meter, nn.Module):  # torchmetrics
                meter.to(device)
        self._pending: list[tuple[Any, Any]] = []
        self._bytes = 0

    def add(self, outputs: Any, targets: Any) -> None:
        """Add a batch to the metrics: the outputs as the network returned them, and the targets."""
        outputs = _detached(self._task.read(outputs))
        if self._task.select is not None:
            outputs, targets = self._task.select(outputs, targets)
        self._pending.append((outputs, targets))
        self._bytes += sum(part.nbytes for part in tensors_of(outputs))
        if self._bytes > _PENDING_BYTES:
            self._update()

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """Return {metric name: value} over all added batches; the task's main metric is first.

        Raises
        ------
        InputError
            If a metric fails.
        """
        self._update()
        values = {}
        for name, meter in self._meters.items():
            try:
                values[name] = float(meter.compute())
            except InputError:
                raise
            except Exception as error:
                raise InputError(f"metric: {name} fails: {first_line(error)}; give the task another metric") from error
        return values

    def _update(self) -> None:
        pending, self._pending, self._bytes = self._pending, [], 0
        if len({_form(part) for batch in pending for part in batch}) == 2 and self._task.classifies:
            pending = [(torch.cat([outputs for outputs, _ in pending]), torch.cat([t for _, t in pending]))]
        for outputs, targets in pending:
            for meter in self._meters.values():
                meter.update(outputs, targets)


def _form(part: Any) -> Any:
    return (part.dtype, part.shape[1:]) if isinstance(part, Tensor) else type(part)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {name: _detached(part) for name, part in value.items()}
    return tuple(map(_detached, value)) if isinstance(value, tuple | list) else value
