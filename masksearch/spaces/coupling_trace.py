"""Trace of a forward pass: which channels of a network must be removed together, and the MACs of each weight.

A dispatch mode of torch intercepts every ATen operation of the pass and calls the operation's coupling rule with the
real tensors. Hooks on the modules give the operations the name of their layer, for messages. A layer that runs twice,
or a weight that two layers share, has one set of labels: channels of both places are tied.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from masksearch.spaces.aten_call import Call
from masksearch.spaces.attention_rules import count_product
from masksearch.spaces.axis_splits import next_axes
from masksearch.spaces.channel_attributes import note_sizes
from masksearch.spaces.control_flow import attributes_restored
from masksearch.spaces.coupling_labels import Coupling, described
from masksearch.spaces.coupling_rules import rule_of
from masksearch.spaces.masked_norms import following_norms
from masksearch.spaces.recurrent_rules import following_recurrent
from masksearch.spaces.view_sizes import CallCounter, ViewRecorder
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, call_model, output_tensors


class _OperationTracer(TorchDispatchMode):
    """Calls the coupling rule of every operation, and adds the operation's MACs to those of its weight."""

    def __init__(self, coupling: Coupling, network: str) -> None:
        super().__init__()
        self.coupling = coupling
        self.running = [network]  # innermost module last
        self.modules: list[tuple[str, nn.Module]] = []  # the same modules, by name
        self.counting = True  # the MACs of a network are those of the first input
        self.paused = False  # while an LSTM runs, for example, which has a rule as a whole
        self.counters = [CallCounter()]  # of calls of views in each of them

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, object] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.paused:
            return result
        call = Call(func, args, kwargs or {}, result, self.running[-1], tuple(self.modules))
        if call.inputs or call.outputs:
            rule_of(call)(self.coupling, call)
            note_sizes(self.coupling, call)
        if self.counting and func._overloadpacket in flop_registry:
            self._count(call)
        return result

    def _count(self, call: Call) -> None:
        count = flop_registry[call.function._overloadpacket]
        macs = int(count(*call.args, **call.kwargs, out_val=call.result)) // 2
        weight = call.inputs[1] if call.name == "convolution" else call.inputs[-1]
        name = self.coupling.weight_name(weight)
        if name is None:
            count_product(self.coupling, call, macs)
        else:
            self.coupling.macs[name] = self.coupling.macs.get(name, 0) + macs


def trace(model: nn.Module, inputs: Sequence[Nested], *, norms: bool = False) -> Coupling:
    """Run a network in eval mode on the CPU, and return which of its channels must be removed together.

    A network that splits channels into axes (heads of attention) runs again for every other axis that is tried. With
    several inputs, channels that must be removed together in any of the runs are coupled.

    With ``norms``, channels of a LayerNorm or RMSNorm are not fixed: such norms are taken over the kept channels.

    Raises
    ------
    InputError
        If the network returns no tensor.
    """
    axes: dict[int, int] = {}
    while True:
        with attributes_restored(model):
            coupling = _traced(model, inputs, axes, norms)
        classes, reasons = coupling.classes()
        again = next_axes(coupling.splits, reasons, classes, axes)
        if again == axes:
            return coupling
        axes = again


def _traced(model: nn.Module, inputs: Sequence[Nested], axes: dict[int, int], norms: bool) -> Coupling:
    """Run the network on each input; ``axes`` says which axes of split channels get labels."""
    coupling = Coupling(model, axes)
    coupling.notes |= {first: f"its weight is also {name!r}" for name, first in shared_parameters(model).items()}
    advice = {name: text for name, module in model.named_modules() if (text := _advice_on_weight(module))}
    for name, text in advice.items():
        for parameter in model.get_submodule(name).parameters():
            coupling.fix_all(parameter, text, first=True)
    tracer = _OperationTracer(coupling, type(model).__name__)
    runs: dict[str, int] = {}
    following = following_norms(coupling, model) if norms else nullcontext()
    views = ViewRecorder(coupling, tracer.modules, tracer.counters)
    outputs: list[Tensor] = []
    caches: list[Tensor] = []  # keys and values of Hugging Face's decoders
    calls = _following_modules(coupling, model, tracer, runs)
    # Without gradients some modules take fused paths, which have no rules.
    with calls, torch.enable_grad(), tracer, views, following_recurrent(coupling, model, tracer), following:
        for number, each in enumerate(inputs):
            tracer.counting = number == 0
            runs.clear()
            result = call_model(model, each)
            outputs += output_tensors(result)
            caches += output_tensors(getattr(result, "past_key_values", None))
    normed = {f"{type(model.get_submodule(name)).__name__} {name!r}" for name in advice}
    coupling.unmaskable = [item for item in coupling.unmaskable if item[0] not in normed] + list(advice.items())
    if not outputs:
        raise InputError(f"model: {type(model).__name__} returns no tensor; a filter space needs at least one")
    reason = f"channels are outputs of {type(model).__name__}"
    for cache in caches:
        coupling.fix_all(cache, f"{reason}, to which config.use_cache adds keys and values")
    for output in outputs:
        coupling.fix_all(output, reason)
    return coupling


@contextmanager
def _following_modules(
    coupling: Coupling, model: nn.Module, tracer: _OperationTracer, runs: dict[str, int]
) -> Iterator[None]:
    """Within the block, keep the tracer's stack of running modules; count each module's calls in ``runs``."""
    hooks = ExitStack()
    for name, module in model.named_modules():
        where = described(module, name)

        def enter(module: nn.Module, inputs: Any, where: str = where, name: str = name) -> None:
            tracer.running.append(where)
            tracer.modules.append((name, module))
            tracer.counters.append(CallCounter())
            runs[name] = runs.get(name, 0) + 1
            if runs[name] == 2:
                for own, _ in module.named_parameters(prefix=name, recurse=False):
                    coupling.notes[own] = f"{where} runs twice in one forward pass"

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            tracer.running.pop()
            tracer.modules.pop()
            tracer.counters.pop()

        hooks.enter_context(module.register_forward_pre_hook(enter))
        hooks.enter_context(module.register_forward_hook(leave))
    with hooks:
        yield


def _advice_on_weight(module: nn.Module) -> str | None:
    """Return a sentence that says how to make a module's computed weight a parameter; None without such a weight."""
    if parametrize.is_parametrized(module):
        name = next(iter(module.parametrizations))  # type: ignore[arg-type]
        call = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"
        return f"its {name} is computed by a parametrization; make it permanent with {call}"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            call, by = f"torch.nn.utils.prune.remove(layer, {hook._tensor_name!r})", "a mask of torch.nn.utils.prune"
        elif isinstance(hook, WeightNorm):
            call, by = f"torch.nn.utils.remove_weight_norm(layer, {hook.name!r})", "weight_norm"
        elif isinstance(hook, SpectralNorm):
            call, by = f"torch.nn.utils.remove_spectral_norm(layer, {hook.name!r})", "spectral_norm"
        else:
            continue
        return f"its weight is computed by {by}; make it permanent with {call}"
    return None


def shared_parameters(model: nn.Module) -> dict[str, str]:
    """Return {other name: first name} of the parameters that a network has under several names."""
    first: dict[int, str] = {}
    shared = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            shared[name] = first[id(parameter)]
    return shared
