"""Result of ``ms.compress``: the smaller network, and measurements before and after, printed as a table."""

from dataclasses import dataclass

from torch import nn

from masksearch import cost
from masksearch.core.amount import Amount
from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.spaces import NetworkSpace
from masksearch.training import Training

__all__ = ["Compressed", "Measured"]


@dataclass(frozen=True)
class Measured:
    """Measurements of one network: metric and loss on the test examples, parameters, MACs and latency."""

    metric_name: str
    metric: float | None  # main metric of the task on the test examples
    loss: float  # mean loss on the test examples
    params: int  # number of parameters that are not zero
    macs: int  # multiply-adds per input, of weights that are not pruned
    latency: cost.Latency  # latency of a batch, on this device


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

    def __str__(self) -> str:
        measured = (self.before, self.pruned, self.after)
        kept = "parameters" if self.space.removes_parts else "non-zero parameters"
        latency = f"ms per batch of {self.before.latency.batch_size}"
        rows = [
            ("", "before", "pruned", "fine-tuned"),
            (self.before.metric_name, *(_number(one.metric) for one in measured)),
            ("loss", *(_number(one.loss) for one in measured)),
            (kept, *(f"{one.params:,}" for one in measured)),
            ("MACs", *(f"{one.macs:,}" for one in measured)),
            (latency, *(f"{one.latency.median * 1e3:.3g}" for one in measured)),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join(f"{cell:{'<' if place == 0 else '>'}{widths[place]}}" for place, cell in enumerate(row))
            for row in rows
        ]
        asked, hold = self.amount.single("a result has one density"), self.amount.hold
        share = f"{asked:.4g} of the {hold}"
        got = f" ({self.space.share(self.mask, hold):.4g} are)" if self.space.limits is not None else ""
        where = f"{self.after.latency.device}, {self.after.latency.threads} threads"
        return "\n".join([*lines, f"{self.method}, {self.space.granularity} mask, at most {share} kept{got}; {where}"])

    def __repr__(self) -> str:
        name, after = self.before.metric_name, _number(self.after.metric)
        return f"Compressed({self.method!r}, {name} {_number(self.before.metric)} -> {after}, {self.mask!r})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
