"""Residual branches of a network: the f(x) of additions x + f(x), where x is the shortcut.

The region of a branch holds the operations whose results are used by the branch alone. An addition a + b has the
branch b if the region of b reads a, or tensors that a depends on or that depend on a, and has parameters of its own.
Where the shortcut a has layers, too, the branch is the operand with more parameters.
"""

import heapq
from dataclasses import dataclass, replace
from math import inf

from masksearch.spaces.operation_graph import Graph, ModuleCall


@dataclass(frozen=True, eq=False)
class Branch:
    """One residual branch f(x) of x + f(x): where it is added, its operations, its parameters and its modules."""

    name: str
    add: int  # operation that adds the branch to the shortcut
    shortcut: int  # operation that makes the other operand
    end: int  # operation that makes the branch's output
    region: frozenset[int]  # operations whose results the branch alone uses
    parameters: tuple[str, ...]  # read by the region alone, in order of their last use
    macs: int  # multiply-adds of the region for one example
    calls: tuple[int, ...]  # largest calls of modules that lie within the region
    is_covered: bool  # whether these calls have all parameters and products of the region


def branches_of(graph: Graph) -> list[Branch]:
    """Return the residual branches f(x) of additions x + f(x) in a traced network, in order of the additions."""
    found: list[Branch] = []
    for place, operation in enumerate(graph.operations):
        is_addition = operation.name in ("add", "add_") and operation.same_shape and len(operation.inputs) == 2
        if is_addition and place in graph.live:
            left, right = operation.inputs
            for end, shortcut in ((right, left), (left, right)):
                is_sum = any(branch.add == shortcut for branch in found)
                if (branch := _branch(graph, place, end, shortcut, is_sum)) is not None:
                    found.append(branch)
                    break
    return _named(graph, found)


def _branch(graph: Graph, add: int, end: int, shortcut: int, is_sum: bool) -> Branch | None:
    """Return the branch with output ``end``, if it is one; ``is_sum``: the shortcut is the sum of another branch."""
    region, begins = _region(graph, end, add)
    parameters = _own_parameters(graph, region)
    if not parameters or not begins or end == shortcut:
        return None
    if not all(graph.depends(shortcut, begin) or graph.depends(begin, shortcut) for begin in begins):
        return None
    is_identity = begins == {shortcut} or is_sum
    if not is_identity and len(_between(graph, begins, shortcut)) >= len(parameters):
        return None
    calls = _calls_within(graph, region)
    covered = {place for number in calls for place in range(graph.calls[number].start, graph.calls[number].stop)}
    rest = [graph.operations[place] for place in region - covered]
    macs = sum(graph.operations[place].macs for place in region)
    is_covered = bool(calls) and not any(operation.parameters or operation.macs for operation in rest)
    return Branch("", add, shortcut, end, frozenset(region), parameters, macs, tuple(calls), is_covered)


def _region(graph: Graph, end: int, add: int) -> tuple[set[int], set[int]]:
    """Return the operations that only ``end`` needs, and the operations outside that they read, without constants."""
    region: set[int] = set()
    begins: set[int] = set()
    if end < 0 or graph.users.get(end) != {add} or end in graph.outputs:
        return region, begins
    queue, seen = [-end], {end}
    while queue:  # later operations first: all users of an operation come before it
        place = -heapq.heappop(queue)
        inside = place == end or (place >= 0 and place not in graph.outputs and graph.users.get(place, set()) <= region)
        if not inside:
            if not graph.is_constant(place):
                begins.add(place)
            continue
        region.add(place)
        for made in graph.operations[place].inputs:
            if made not in seen:
                seen.add(made)
                heapq.heappush(queue, -made)
    return region, begins


def _between(graph: Graph, begins: set[int], end: int) -> set[str]:
    """Return the parameters that a signal passes on its ways from the results of some operations to another."""
    names: set[str] = set()
    for place in graph.live:
        operation = graph.operations[place]
        if graph.depends(end, place) and any(place != begin and graph.depends(place, begin) for begin in begins):
            names |= operation.parameters
            for made in operation.inputs:
                if graph.is_constant(made):  # a transposed weight
                    names |= graph.operations[made].parameters
    return names


def _own_parameters(graph: Graph, region: set[int]) -> tuple[str, ...]:
    """Return the parameters that only a region reads, in order of their last use."""
    last: dict[str, int] = {}
    for place in region:
        for name in graph.operations[place].parameters:
            if graph.readers[name] <= region:
                last[name] = max(last.get(name, -1), place)
    return tuple(sorted(last, key=lambda name: (_use(graph, last[name], region), name)))


def _use(graph: Graph, place: int, region: set[int]) -> float:
    """Return the first operation on activations that uses a constant (a transposed weight), or the operation itself."""
    while graph.is_constant(place):
        users = [user for user in graph.users.get(place, set()) if user in region]
        if not users:
            return inf
        place = min(users)
    return place


def _calls_within(graph: Graph, region: set[int]) -> list[int]:
    """Return the largest calls that run only operations of a region; their modules run once in the forward pass."""
    calls: list[int] = []
    stop = -1
    for number, call in enumerate(graph.calls):
        places = range(call.start, call.stop)
        if call.start < stop or call.stop <= call.start or graph.runs[call.module] > 1 or not call.has_form:
            continue
        live = [place for place in places if place in graph.live]
        if call.module and live and all(place in region for place in live):
            calls.append(number)
            stop = call.stop
    return calls


def innermost(graph: Graph, place: int) -> ModuleCall:
    """Return the innermost module call that was running when a traced forward pass ran operation number ``place``."""
    return next(call for call in reversed(graph.calls) if call.start <= place < call.stop)


def _named(graph: Graph, branches: list[Branch]) -> list[Branch]:
    """Name branches by the module that holds all their parameters, or, where two branches share it, by the largest."""
    common = [_common(branch.parameters) for branch in branches]
    names: list[str] = []
    for branch, name in zip(branches, common, strict=True):
        if not name or common.count(name) > 1:
            parts = [graph.calls[number].module for number in branch.calls]
            name = max(parts, key=lambda part: _size(graph, branch, part), default=name)
        name = name or f"addition {branch.add}"
        names.append(name if name not in names else f"{name}+{names.count(name)}")
    return [replace(branch, name=name) for branch, name in zip(branches, names, strict=True)]


def _size(graph: Graph, branch: Branch, module: str) -> int:
    return sum(graph.sizes.get(name, 0) for name in branch.parameters if name.startswith(f"{module}."))


def _common(names: tuple[str, ...]) -> str:
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)
