"""Controls beside what they are controls of, seed by seed."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from masksearch.analysis.estimate import Estimate
from masksearch.analysis.groups import Group

__all__ = ["ControlRow", "control_rows"]


@dataclass(frozen=True)
class ControlRow:
    """A control over all seeds that its ticket is finished for, too; test accuracies after the last epoch."""

    group: Group
    treated: Estimate  # the ticket as it is
    control: Estimate
    difference: Estimate  # control minus ticket, seed by seed


def control_rows(groups: Iterable[Group]) -> list[ControlRow]:
    """A row for every group of controls, in their order; those without a ticket that is finished are left out."""
    groups = list(groups)
    tickets = {_ticket(cell): _accuracy(cell) for group in groups for cell in group.cells if cell["control"] == "none"}
    rows = []
    for group in groups:
        if group.control == "none":
            continue
        pairs = [(tickets[_ticket(cell)], _accuracy(cell)) for cell in group.cells if _ticket(cell) in tickets]
        if pairs:
            whole = [(one, other) for one, other in pairs if one is not None and other is not None]
            difference = Estimate.of(other - one for one, other in whole)
            treated, control = (Estimate.of(side) for side in zip(*pairs, strict=True))
            rows.append(ControlRow(group, treated, control, difference))
    return rows


def _ticket(cell: Mapping[str, Any]) -> str:
    """What a control and its ticket have in common: all that decides the result, but for the control."""
    return json.dumps(cell["settings"] | {"control": "none"}, sort_keys=True)


def _accuracy(cell: Mapping[str, Any]) -> float | None:
    return cell["trained"]["test_accuracy"]
