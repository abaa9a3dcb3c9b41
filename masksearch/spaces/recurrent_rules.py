"""Rules that follow channels through ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM``: hidden units and input features.

A hidden unit is its rows in all gates of ``weight_ih``, ``weight_hh`` and biases, its column of ``weight_hh``, and the
columns of the next layer. With zero parameters and a zero start state the unit stays zero: in an LSTM i = o = 1/2 and
g = tanh 0 = 0, so c = f c + i g = 0 and h = o tanh c = 0; in a GRU n = 0, so h = (1 - z) n + z h = 0.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from masksearch.spaces.aten_call import Call
from masksearch.spaces.coupling_labels import Coupling, Labels, described
from masksearch.spaces.pruned_recurrent import RECURRENT, cells, gate_count
from masksearch.utils.nested import output_tensors


class _Pausable(Protocol):
    paused: bool  # True: single operations are not followed


@contextmanager
def following_recurrent(coupling: Coupling, model: nn.Module, tracer: _Pausable) -> Iterator[None]:
    """Context manager in which coupling rules treat a recurrent module as a whole, not operation by operation.

    While a recurrent module runs, ``tracer`` is paused.
    """
    recurrent = {name: module for name, module in model.named_modules() if isinstance(module, nn.RNNBase)}
    if not recurrent:
        yield
        return
    hooks = ExitStack()
    for name, module in recurrent.items():
        if type(module) not in RECURRENT:
            continue
        where = described(module, name)

        def enter(module: nn.Module, inputs: Any) -> None:
            tracer.paused = True

        def leave(module: nn.RNNBase, inputs: Any, named: Mapping[str, Any], output: Any, where: str = where) -> None:
            tracer.paused = False
            arguments = dict(zip(("input", "hx"), inputs, strict=False)) | dict(named)
            _follow(coupling, module, where, arguments, output)

        hooks.enter_context(module.register_forward_pre_hook(enter))
        hooks.enter_context(module.register_forward_hook(leave, with_kwargs=True))
    with hooks, _Unpacking(coupling, tracer):
        yield


class _Unpacking(TorchFunctionMode):
    """Follow ``pad_packed_sequence``, which torch runs as many copies into an empty tensor."""

    def __init__(self, coupling: Coupling, tracer: _Pausable) -> None:
        super().__init__()
        self.coupling, self.tracer = coupling, tracer

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") != "_pad_packed_sequence":
            return func(*args, **(kwargs or {}))
        self.tracer.paused = True
        padded, lengths = func(*args, **(kwargs or {}))
        self.tracer.paused = False
        # Padding gives all features the same value at positions of no sequence, with every mask.
        self.coupling.write(padded, [None, None, *self.coupling.labels(args[0])[1:]])
        return padded, lengths


def pack(coupling: Coupling, call: Call) -> None:
    """Coupling rule for packing sequences, which rearranges only batch and time: the result has the same channels."""
    data = call.inputs[0]
    labels = coupling.labels(data)
    for dim_labels in labels[:2]:
        coupling.fix(dim_labels, f"{call.where} packs these positions")
    coupling.write(call.outputs[0], [None, *labels[2:]])


def _follow(coupling: Coupling, module: nn.RNNBase, where: str, arguments: Mapping[str, Any], output: Any) -> None:
    """Tie the hidden units of a recurrent module to the features that it reads and to those that it makes.

    Parameters
    ----------
    arguments : mapping
        Arguments of the call: ``input``, and ``hx``, the start states, if the network passes any.
    """
    data = arguments["input"]
    data = data.data if isinstance(data, PackedSequence) else data
    *others, features = coupling.labels(data)
    for labels in others:
        coupling.fix(labels, f"{where} runs over these positions")
    start = output_tensors(arguments.get("hx"))
    reason = ""
    if start:
        reason = f"{where} begins with a start state that the network passes"
        for state in start:
            coupling.fix_all(state, reason)
    made: list[Labels] = []
    states: list[list[Labels]] = [[], []]  # of hidden states; of cells of an LSTM
    for number, (backwards, parameters) in enumerate(cells(module)):
        if number and not backwards:  # the next layer starts
            features, made = _joined(made), []
        coupling.tie([features, coupling.labels(parameters[0])[1]], f"{where} reads channels that can't be removed")
        units, cell = _units(coupling, module, parameters, where, reason)
        made.append(units)
        states[0].append(units)
        states[1].append(cell)
        for weight in parameters:
            name = coupling.weight_name(weight)
            if name is not None and weight.ndim == 2:
                steps = data.numel() // data.shape[-1]
                coupling.macs[name] = coupling.macs.get(name, 0) + steps * weight.numel()
    outputs, last = output
    outputs = outputs.data if isinstance(outputs, PackedSequence) else outputs
    coupling.write(outputs, [*[None] * (outputs.ndim - 1), _joined(made)])
    for state, kind in zip(output_tensors(last), states, strict=False):
        coupling.write_stack(state, [[*[None] * (state.ndim - 2), labels] for labels in kind])


def _units(
    coupling: Coupling, module: nn.RNNBase, parameters: list[Tensor], where: str, reason: str
) -> tuple[Labels, Labels]:
    """Tie rows of all gates, and columns of the weight that reads the units; fix all for a ``reason``.

    Returns labels of the outputs and of the cells; they differ in an LSTM with a projection, ``weight_hr``.
    """
    if reason:
        for parameter in parameters[1:]:
            coupling.fix_all(parameter, reason)
        coupling.fix(coupling.labels(parameters[0])[0], reason)
    projection = parameters[-1] if module.proj_size else None
    gates: list[Labels] = []
    for parameter in parameters[: len(parameters) - bool(module.proj_size)]:
        rows = coupling.labels(parameter)[0]
        gates += [None] if rows is None else np.split(rows, gate_count(module))
    makes = f"{where} makes units that can't be removed"
    recurrent = coupling.labels(parameters[1])[1]
    for weight in [parameters[0]] if projection is None else [parameters[0], projection]:
        name = coupling.weight_name(weight)
        if name is not None:
            coupling.produce(name, coupling.labels(weight)[0])
    if projection is None:
        units = coupling.tie([*gates, recurrent], makes)
        return units, units
    outputs, columns = coupling.labels(projection)
    return coupling.tie([outputs, recurrent], makes), coupling.tie([*gates, columns], makes)


def _joined(labels: list[Labels]) -> Labels:
    """Return the labels of the concatenated outputs of all directions."""
    known = [each for each in labels if each is not None]
    return np.concatenate(known) if len(known) == len(labels) else None
