"""``nn.RNN``, ``nn.GRU`` and ``nn.LSTM`` after pruning: layers and directions may have different hidden sizes.

torch's modules have one hidden size. Where pruning leaves equal sizes, the pruned network keeps torch's class; where
not, the module becomes an :class:`UnequalRNN`, :class:`UnequalGRU` or :class:`UnequalLSTM`, which runs one layer and
one direction at a time. Parameters keep their names, so that state dicts of both fit.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from masksearch.utils.errors import InputError


class States(tuple[Tensor, ...]):
    """Last states of a recurrent network with unequal hidden sizes: a (batch, units) tensor per layer and direction.

    ``states[-1]`` and ``states[-1, :, 0]`` work as for a tensor (layers * directions, n, units).
    """

    def __getitem__(self, key: Any) -> Any:
        """Return the state, or the part of it that further indices select."""
        if isinstance(key, tuple):
            return super().__getitem__(key[0])[key[1:]]
        return super().__getitem__(key)


def cells(module: nn.RNNBase) -> list[tuple[bool, list[Tensor]]]:
    """Return a pair for each layer and direction of a recurrent module: whether it is backwards, and its parameters."""
    result = []
    for layer, backwards in product(range(module.num_layers), (False, True)[: 1 + module.bidirectional]):
        suffix = f"l{layer}_reverse" if backwards else f"l{layer}"
        kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if module.bias else [])]
        kinds += ["weight_hr"] if module.proj_size else []
        result.append((backwards, [getattr(module, f"{kind}_{suffix}") for kind in kinds]))
    return result


def hidden_sizes(module: nn.RNNBase) -> list[int]:
    """Return the hidden size of each layer and direction of a recurrent module, in torch's order of states."""
    gates = gate_count(module)
    return [parameters[0].shape[0] // gates for _, parameters in cells(module)]


def output_sizes(module: nn.RNNBase) -> list[int]:
    """Return the output size (after any LSTM projection) of each layer and direction of a recurrent module."""
    return [parameters[1].shape[1] for _, parameters in cells(module)]


def gate_count(module: nn.RNNBase) -> int:
    """Return how many rows of ``weight_ih`` a hidden unit has: 4 in an LSTM, 3 in a GRU, 1 in an RNN."""
    return {"LSTM": 4, "GRU": 3}.get(module.mode, 1)


class _Unequal(nn.RNNBase):
    """Base class of recurrent modules whose layers and directions have hidden sizes of their own.

    ``hidden_size`` is that of the last direction of the last layer.
    """

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Return (outputs, last states) as torch's module does, with each tensor of states as :class:`States`.

        Parameters
        ----------
        input : Tensor or PackedSequence
            As for the torch module.
        hx : States, or a pair of them for an LSTM, optional
            Start states, as an earlier call returned them. Zeros by default.
        """
        start = hx if hx is None or self.mode == "LSTM" else (hx,)
        if isinstance(input, PackedSequence):
            data, batch_sizes, order, inverse = input
            outputs, last = self._run(data, batch_sizes, _each(start, lambda state: _ordered(state, order)))
            last = _each(last, lambda state: _ordered(state, inverse))
            return PackedSequence(outputs, batch_sizes, order, inverse), self._returned(last)
        batched = input.dim() == 3
        data = input if batched else input.unsqueeze(1)
        data = data.transpose(0, 1) if batched and self.batch_first else data
        outputs, last = self._run(data, None, start if batched else _each(start, lambda state: state.unsqueeze(0)))
        if not batched:
            return outputs.squeeze(1), self._returned(_each(last, lambda state: state.squeeze(0)))
        return outputs.transpose(0, 1) if self.batch_first else outputs, self._returned(last)

    def _returned(self, last: Any) -> Any:
        states = tuple(States(each) for each in last)
        return states if self.mode == "LSTM" else states[0]

    def _run(self, data: Tensor, batch_sizes: Tensor | None, start: Any) -> tuple[Tensor, Any]:
        """Return outputs (steps, n, units) or packed (entries, units), and the last states by kind and cell."""
        n = data.shape[1] if batch_sizes is None else int(batch_sizes[0])
        outputs: list[Tensor] = []
        last: list[list[Tensor]] = [[] for _ in range(1 + (self.mode == "LSTM"))]
        for number, (backwards, parameters) in enumerate(cells(self)):
            if number and not backwards:  # the next layer starts
                data = F.dropout(torch.cat(outputs, -1), self.dropout, self.training)
                outputs = []
            if start is None:
                sizes = (output_sizes(self)[number], hidden_sizes(self)[number])[: len(last)]
                states = [data.new_zeros(1, n, size) for size in sizes]
            elif not _runs_in_torch(self, parameters):
                raise InputError(
                    "hx: a pruned LSTM whose proj_size isn't smaller than its hidden_size can only start with zeros; "
                    "leave hx out"
                )
            else:
                states = [kind[number].unsqueeze(0) for kind in start]
            made, after = self._cell(data, batch_sizes, states, parameters, backwards)
            outputs.append(made)
            for kind, state in zip(last, after, strict=True):
                kind.append(state[0])
        return torch.cat(outputs, -1), last

    def _cell(
        self,
        data: Tensor,
        batch_sizes: Tensor | None,
        states: list[Tensor],
        parameters: list[Tensor],
        backwards: bool,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Run one layer in one direction.

        torch runs projected LSTMs only if ``proj_size`` is smaller than ``hidden_size``. Others run without projection,
        with the product of ``weight_hh`` and ``weight_hr`` as ``weight_hh``; the outputs are projected at the end.
        """
        projection = None
        if not _runs_in_torch(self, parameters):
            weight_ih, weight_hh, *biases, projection = parameters
            parameters = [weight_ih, weight_hh @ projection, *biases]
            states = [torch.zeros_like(states[1]), states[1]]
        start = tuple(states) if self.mode == "LSTM" else states[0]
        kernel = getattr(torch._VF, self.mode.lower())
        settings = (parameters, self.bias, 1, 0.0, self.training, False)  # one layer, no dropout, one direction
        order = _backwards(data, batch_sizes) if backwards else None
        data = data if order is None else data.index_select(0, order)
        if batch_sizes is None:
            made, *after = kernel(data, start, *settings, False)
        else:
            made, *after = kernel(data, batch_sizes, start, *settings)
        if projection is not None:
            made, after = F.linear(made, projection), [F.linear(after[0], projection), after[1]]
        return made if order is None else made.index_select(0, order), after

    def flatten_parameters(self) -> None:
        """Store the parameters of each layer and direction in one piece of memory, as cuDNN needs; no-op on CPUs."""
        for number, (_, parameters) in enumerate(cells(self)):
            if _runs_in_torch(self, parameters) and all(
                each.is_cuda and torch.backends.cudnn.is_acceptable(each) for each in parameters
            ):
                mode = torch.backends.cudnn.rnn.get_cudnn_mode(self.mode)
                projected = parameters[-1].shape[0] if self.proj_size else 0
                sizes = (parameters[0].shape[1], mode, hidden_sizes(self)[number], projected, 1)
                with torch.no_grad(), torch.cuda.device_of(parameters[0]):
                    torch._cudnn_rnn_flatten_weight(parameters, len(parameters), *sizes, self.batch_first, False)

    def extra_repr(self) -> str:
        """Return, for the printed network, the sizes of the input and of each layer and direction."""
        projected = f", proj_sizes={output_sizes(self)}" if self.proj_size else ""
        return f"{self.input_size}, hidden_sizes={hidden_sizes(self)}{projected}, bidirectional={self.bidirectional}"


class UnequalRNN(_Unequal, nn.RNN):
    """``nn.RNN`` in which each layer and direction has its own hidden size."""


class UnequalGRU(_Unequal, nn.GRU):
    """``nn.GRU`` in which each layer and direction has its own hidden size."""


class UnequalLSTM(_Unequal, nn.LSTM):
    """``nn.LSTM`` in which each layer and direction has its own hidden size."""


_UNEQUAL: dict[type[nn.RNNBase], type[nn.RNNBase]] = {nn.RNN: UnequalRNN, nn.GRU: UnequalGRU, nn.LSTM: UnequalLSTM}
RECURRENT: tuple[type[nn.RNNBase], ...] = (*_UNEQUAL, *_UNEQUAL.values())  # subclasses may compute more


def fit_recurrent(module: nn.RNNBase) -> None:
    """Set a pruned recurrent module's sizes from its parameters; if hidden sizes differ, also change its class."""
    module.input_size = cells(module)[0][1][0].shape[1]
    if type(module) not in RECURRENT:
        return
    sizes = list(zip(hidden_sizes(module), output_sizes(module), strict=True))
    module.hidden_size = sizes[-1][0]
    if module.proj_size:
        module.proj_size = sizes[-1][1]
    torchs, unequal = next(pair for pair in _UNEQUAL.items() if isinstance(module, pair[0]))
    equal = len(set(sizes)) == 1 and _runs_in_torch(module, cells(module)[-1][1])
    module.__class__ = torchs if equal else unequal
    module.flatten_parameters()


def _runs_in_torch(module: nn.RNNBase, parameters: list[Tensor]) -> bool:
    """Whether torch can run a layer: without projection, or with one to fewer positions than there are cells."""
    return not module.proj_size or parameters[-1].shape[0] < parameters[-1].shape[1]


def _each(states: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return None if states is None else [[function(state) for state in kind] for kind in states]


def _ordered(state: Tensor, order: Tensor | None) -> Tensor:
    return state if order is None else state.index_select(0, order)


def _backwards(data: Tensor, batch_sizes: Tensor | None) -> Tensor:
    """Return the indices that reverse time in data (steps, n, features), or in each packed sequence."""
    if batch_sizes is None:
        return torch.arange(len(data) - 1, -1, -1, device=data.device)
    starts = batch_sizes.cumsum(0) - batch_sizes
    step = torch.arange(len(batch_sizes)).repeat_interleave(batch_sizes)
    sequence = torch.arange(len(data)) - starts[step]
    lengths = (batch_sizes > torch.arange(int(batch_sizes[0]))[:, None]).sum(1)
    return (starts[lengths[sequence] - 1 - step] + sequence).to(data.device)
