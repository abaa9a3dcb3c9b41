"""Checks that every pruning criterion must pass, for weights, filters, blocks, and blocks with filters.

Each check takes a row of the table of criteria and a granularity, and raises AssertionError if it fails.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from masksearch import spaces
from masksearch.core.mask import Mask
from masksearch.criteria import Criterion
from masksearch.spaces import NetworkSpace
from masksearch.utils.errors import InputError, named_first_line

Batches = list[tuple[Tensor, Tensor]]


def check_criterion(row: Criterion) -> None:
    """Run all checks of a pruning criterion, for each kind of unit (such as weights or filters) that it supports."""
    checks: list[Callable[[Criterion, str], None]] = [check_saliency, check_leaves_no_trace, check_needs, check_alive]
    for granularity in row.granularities:
        for check in checks:
            check(row, granularity)


def check_saliency(row: Criterion, granularity: str = "weight") -> None:
    """Check that a criterion returns one finite, detached number per unit, and equal numbers in a second call."""
    model = small_network(granularity)
    space = space_of(model, granularity)
    initial = initial_weights(model)
    first = saliency_of(row, model, space, small_batches(), initial)
    assert first.shape == (space.n_units,), f"{tuple(first.shape)} values for {space.n_units} units"
    assert first.is_floating_point(), f"values are {first.dtype}"
    assert first.isfinite().all(), "values that are not finite"
    assert not first.requires_grad, "values that hold on to a gradient"
    assert torch.equal(saliency_of(row, model, space, small_batches(), initial), first), "other values the second time"


def check_leaves_no_trace(row: Criterion, granularity: str = "weight") -> None:
    """Check that a criterion changes no weights, buffers, gradients, modes, batches or torch's random state."""
    for training in (True, False):
        model = small_network(granularity).train(training)
        model[1].train(not training)
        model[0].bias.requires_grad_(False)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 7.0)
        space = space_of(model, granularity)
        before = copy.deepcopy(model.state_dict())
        modes, wants = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
        batches, initial = small_batches(), initial_weights(model)
        copies, state = copy.deepcopy((batches, initial)), torch.get_rng_state()
        for alive in (None, space.random(0.7, generator=torch.Generator().manual_seed(0))):
            saliency_of(row, model, space, batches, initial, alive)
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items()), "weights changed"
        for parameter in model.parameters():
            assert parameter.grad is not None, "gradients are gone"
            assert torch.equal(parameter.grad, torch.full_like(parameter, 7.0)), "gradients changed"
        assert [m.training for m in model.modules()] == modes, "modes changed"
        assert [p.requires_grad for p in model.parameters()] == wants, "requires_grad changed"
        assert torch.equal(torch.get_rng_state(), state), "torch's global random state was used; call eval()"
        for one, other in zip(batches, copies[0], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), "batches changed"
        assert all(torch.equal(tensor, copies[1][key]) for key, tensor in initial.items()), "initial weights changed"


def check_needs(row: Criterion, granularity: str = "weight") -> None:
    """Check that a criterion raises an InputError if an input that it declares is missing, and needs no other input."""
    model = small_network(granularity)
    space = space_of(model, granularity)
    given: list[tuple[bool, Batches, Mapping[str, Tensor] | None]] = [
        (row.needs_batches, [], initial_weights(model)),
        (row.needs_initial, small_batches(), None),
    ]
    for needed, batches, initial in given:
        if needed:
            try:
                saliency_of(row, model, space, batches, initial)
            except InputError:
                continue
            except Exception as error:
                missing = "initial weights" if batches else "batches"
                raise AssertionError(
                    f"without {missing}, which its row says it needs, the criterion raised {named_first_line(error)}; "
                    "an InputError is needed"
                ) from error
            raise AssertionError("what the row says is needed was not missed")
        saliency_of(row, model, space, batches, initial)
    draws = "generator" in inspect.signature(row.saliency).parameters
    assert draws == row.draws, "a criterion that draws takes generator=, and its row says so"
    assert row.source, "no word about where it comes from"


def check_alive(row: Criterion, granularity: str = "weight") -> None:
    """Check that a criterion gives finite saliencies to all units that a mask of earlier pruning rounds keeps."""
    model = small_network(granularity)
    space = space_of(model, granularity)
    alive = space.random(0.7, generator=torch.Generator().manual_seed(0))
    values = saliency_of(row, model, space, small_batches(), initial_weights(model), alive)
    assert values.shape == (space.n_units,)
    assert values[alive.bits].isfinite().all(), "values that are not finite, of units that are alive"


def saliency_of(
    row: Criterion,
    model: nn.Module,
    space: NetworkSpace,
    batches: Iterable[tuple[Tensor, Tensor]],
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return the saliencies that a criterion computes; a criterion that uses random numbers gets a seeded generator."""
    extras: dict[str, object] = {"generator": torch.Generator().manual_seed(0)} if row.draws else {}
    return row.saliency(model, space, batches, initial=initial, alive=alive, **extras)


class _Residual(nn.Module):
    """x + f(x), f: two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 6, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y


def small_network(granularity: str = "weight") -> nn.Sequential:
    """Return a test network (convolution, BatchNorm, tanh, dropout, linear) for 1x5x5 images and 4 classes.

    For blocks, it has three residual branches behind the dropout.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.Dropout(0.5),
            *[_Residual() for _ in range(3 if granularity in ("block", "union") else 0)],
            nn.Flatten(),
            nn.Linear(54, 4),
        ).train()


def small_batches() -> Batches:
    """Return three batches of random images and labels for :func:`small_network`."""
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 5, 5, generator=g), torch.randint(0, 4, (8,), generator=g)) for _ in range(3)]


def initial_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return random weights that serve as a network's initial weights in tests; they differ from its own weights.

    Some differ in sign, too.
    """
    g = torch.Generator().manual_seed(3)
    return {name: t.detach() + 0.3 * torch.randn(t.shape, generator=g) for name, t in model.named_parameters()}


def space_of(model: nn.Module, granularity: str) -> NetworkSpace:
    """Return the mask space of a :func:`small_network`: one mask bit per unit, such as a "weight" or "filter"."""
    return spaces.space_of(cast(spaces.Granularity, granularity), model, torch.zeros(1, 1, 5, 5))
