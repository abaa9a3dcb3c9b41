"""Checks that every network in the table of networks must pass.

Each check takes a row of the table of networks and the shape of an image, and raises AssertionError if it fails.
"""

import torch
from torch import nn

from masksearch.models import ModelRow
from masksearch.spaces import weight_space

Shape = tuple[int, int, int]


def check_model(row: ModelRow, shape: Shape = (3, 32, 32)) -> None:
    """Run all checks of a network in the table of networks, for images of one shape (channels, height, width)."""
    check_classifies(row, shape)
    check_same_seed_same_weights(row, shape)
    check_width(row, shape)
    check_units(row, shape)


def check_classifies(row: ModelRow, shape: Shape) -> None:
    """Check that a network gives finite logits, gradients for all parameters, and unchanged buffers in eval mode."""
    classes = 7
    model = _built(row, shape, classes)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    logits = model.train()(images)
    assert logits.shape == (3, classes), f"outputs {tuple(logits.shape)}, not (3, {classes})"
    assert logits.isfinite().all(), "outputs that are not finite"
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2]) % classes).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without, f"no gradient for {without[0]}"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        assert model.eval()(images[:1]).shape == (1, classes)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), (
        "evaluation changed it"
    )


def check_same_seed_same_weights(row: ModelRow, shape: Shape) -> None:
    """Check that a network's initial weights are equal for equal torch seeds, and differ for different seeds."""
    first, again, other = (_built(row, shape, width=0.25, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items()), "other weights from the same seed"
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items()), "one network for all seeds"


def check_width(row: ModelRow, shape: Shape) -> None:
    """Check that a network with a smaller width factor has the same layers and fewer parameters."""
    narrow, full = _built(row, shape, width=0.25), _built(row, shape)
    assert list(narrow.state_dict()) == list(full.state_dict()), "width changes the layers"
    assert _size(narrow) < 0.6 * _size(full), "a quarter of the width is hardly smaller"


def check_units(row: ModelRow, shape: Shape) -> None:
    """Check that a network has weights to mask, and gives finite outputs under a mask."""
    model = _built(row, shape, width=0.25).eval()
    space = weight_space(model)
    assert space.n_units > 0
    mask = space.random(0.5, generator=torch.Generator().manual_seed(0), on_empty="allow")
    with space.applied(model, mask), torch.no_grad():
        assert model(torch.zeros(1, *shape)).isfinite().all(), "outputs under a mask that are not finite"


def _built(row: ModelRow, shape: Shape, classes: int = 10, width: float = 1.0, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return row.build(shape, classes, width)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
