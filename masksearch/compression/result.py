"""Result of ``ms.compress``: the smaller network, and measurements before and after, printed as a table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from masksearch import cost
from masksearch.core.density_allocation import Amount
from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.data import Data
from masksearch.spaces import NetworkSpace, NMSpace
from masksearch.training import Training, evaluate
from masksearch.utils.forward_passes import device_of
from masksearch.utils.nested import Nested

TIMED = 64
"""Examples in the batch whose latency is measured."""
_SECONDS = 0.3  # of measuring one latency
_CLOSE = 0.01  # relative difference of the kept share to the allowed share from which results show both


@dataclass(frozen=True)
class Measured:
    """Measurements of one network: metric and loss on the test examples, parameters, MACs and latency."""

    metric_name: str
    metric: float | None  # main metric of the task on the test examples
    loss: float  # mean loss on the test examples
    params: int  # number of parameters; of weight masks, those that are not zero
    macs: int  # multiply-adds per input, of weights that are not pruned
    latency: cost.Latency  # latency of a batch, on this device

    @classmethod
    def of(
        cls, network: nn.Module, data: Data, inputs: Nested, masks: Mapping[str, Tensor] | None = None
    ) -> "Measured":
        """Measure a network on its device: metric and loss on test examples, MACs and latency on ``inputs``.

        Parameters
        ----------
        inputs : Tensor (n, ...), or a tuple or dict of such tensors
            Inputs that fill the timed batch.
        masks : mapping, optional
            {parameter name: bool tensor, True = kept} of a network whose pruned weights are zeros. Only parameters that
            are not zero count then, also with an empty mapping.
        """
        evaluation, counted = evaluate(network, data.test, device=device_of(network)), cost.macs(network, inputs)
        densities = {
            name: float(keep.float().mean()) for name, keep in (masks or {}).items() if name in counted.per_weight
        }
        return cls(
            metric_name=data.task.metric_name,
            metric=evaluation.metric,
            loss=evaluation.loss,
            params=cost.params(network) if masks is None else cost.nonzero_params(network, masks),
            macs=int(cost.effective_macs(counted, densities)),
            latency=cost.latency(network, inputs, batch_sizes=(TIMED,), seconds=_SECONDS)[TIMED],
        )


@dataclass(frozen=True)
class Compressed:
    """Result of ``ms.compress``: the smaller network, its mask, and measurements. ``print(result)`` shows a table."""

    model: nn.Module
    mask: Mask
    space: NetworkSpace
    before: Measured
    pruned: Measured  # measurements after pruning and repair, before fine-tuning
    after: Measured
    method: str
    amount: Amount
    history: History | None  # history of the search; None if a criterion made the mask
    training: Training | None  # None without fine-tuning, and with your own training loop
    repaired: bool = False  # whether kept weights were solved by least squares
    fine_tuned: bool = True

    @property
    def kept_start(self) -> bool:
        """Whether the mask is the first one that the search scored: none of the later masks scored higher."""
        history = self.history
        return history is not None and history.best.number == 0 and history.best_mask == self.mask

    def __str__(self) -> str:
        measured = (self.before, self.pruned, self.after)[: 3 if self.fine_tuned else 2]
        kept = "parameters" if self.space.removes_parts else "non-zero parameters"
        latency = f"ms per batch of {self.before.latency.batch_size}"
        rows = [
            ("", "before", "pruned", "fine-tuned")[: len(measured) + 1],
            (self.before.metric_name, *(_number(one.metric) for one in measured)),
            ("loss", *(_number(one.loss) for one in measured)),
            (kept, *(f"{one.params:,}" for one in measured)),
            ("MACs", *(f"{one.macs:,}" for one in measured)),
            (latency, *(f"{one.latency.median * 1e3:.3g}" for one in measured)),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(f"{cell:{'<' if place == 0 else '>'}{widths[place]}}" for place, cell in enumerate(row))
            for row in rows
        ]
        asked, hold = self.amount.single("a result has one density"), self.amount.hold
        whole = {"macs": "MACs", "params": "parameters", "units": "units" if self.space.removes_parts else "weights"}
        share = f"{asked:.4g} of the {whole[hold]}"
        reached = self.space.share(self.mask, hold)
        got = "" if math.isclose(reached, asked, rel_tol=_CLOSE) else f" ({reached:.4g} are)"
        threads = self.after.latency.threads
        where = f"{self.after.latency.device}, {threads} thread{'s' * (threads != 1)}"
        repaired = ", repaired by least squares" * self.repaired
        kind = f"{self.space.n}:{self.space.m}" if isinstance(self.space, NMSpace) else self.space.granularity
        lines.append(f"{self.method}, {kind} mask, at most {share} kept{got}{repaired}; {where}")
        if self.kept_start:
            lines.append("the search found no better mask than the first one that it scored, its start")
        left_out = [name for name, reason in self.space.left_out if not reason.startswith("channels are outputs")]
        if left_out and (self.space.removes_parts or isinstance(self.space, NMSpace)):
            layers = f"{len(left_out)} layers stay" if len(left_out) > 1 else "1 layer stays"
            whole_layer = "whole" if self.space.removes_parts else "dense"
            lines.append(f"{layers} {whole_layer}, such as {left_out[0]}; print(result.space) gives the reasons")
        return "\n".join(lines)

    def __repr__(self) -> str:
        name, after = self.before.metric_name, _number(self.after.metric)
        return f"Compressed({self.method!r}, {name} {_number(self.before.metric)} -> {after}, {self.mask!r})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
