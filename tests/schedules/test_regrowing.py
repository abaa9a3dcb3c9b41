"""SET and RigL within a training: layers' counts, the published update, draws."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from in_training_cases import (
    KINDS,
    SPACES,
    SPLIT,
    STEPS,
    Watched,
    make_model,
    regrowing,
    trained,
)
from torch import nn

from masksearch.core.mask import Mask
from masksearch.schedules.dynamic_sparse_training import Regrowing
from masksearch.spaces import weight_space
from masksearch.training import TrainSettings, train
from masksearch.utils.errors import InputError


@pytest.mark.parametrize("kind", ["set", "rigl"])
def test_regrowing_keeps_the_count_of_every_layer(kind):
    _, watched = trained(KINDS[kind])
    counts = watched.changes[0].kept_per_layer()
    assert all(mask.kept_per_layer() == counts for mask in watched.changes.values())
    assert all(step < 18 and step % 2 == 0 for step in watched.changes)


def test_rigl_training_equals_the_algorithm_on_autograd_gradients():
    """Gradients from autograd at the weights before the step, the mask by sorting, layer by layer."""
    split = SimpleNamespace(inputs=SPLIT.inputs.double(), targets=SPLIT.targets)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) / 4)
    space = weight_space(model)
    remask = Regrowing(model, space, space.random(0.3, "layerwise"), "rigl", steps=20, interval=2)
    space.apply(model, remask.mask)
    last = {name: p.detach().clone() for name, p in model.named_parameters()}
    regrown = []

    class Checked(Watched):
        def __call__(self, step):
            nonlocal last
            before = {name: keep.clone() for name, keep in self.masks.items()}
            start = {name: weight.requires_grad_() for name, weight in last.items()}
            loss = F.cross_entropy(torch.func.functional_call(model, start, split.inputs).float(), split.targets)
            gradients = dict(zip(start, torch.autograd.grad(loss, list(start.values())), strict=True))
            now = {name: p.detach().clone() for name, p in model.named_parameters()}
            changed = super().__call__(step)
            for name, was in before.items():
                keep = self.masks[name]
                if step % 2 or step >= 15:
                    assert torch.equal(keep, was)
                    continue
                active = was.flatten().nonzero().flatten()
                count = int(0.15 * (1 + math.cos(math.pi * step / 15)) * len(active))
                order = now[name].flatten()[active].abs().argsort()
                stay = torch.zeros(was.numel(), dtype=torch.bool)
                stay[active[order[count:]]] = True
                others = (~stay).nonzero().flatten()
                order = gradients[name].flatten()[others].abs().argsort(descending=True)
                expected = stay.clone()
                expected[others[order[:count]]] = True
                assert torch.equal(keep.flatten(), expected)
                regrown.append(int((keep & ~was).sum()))
                now[name] *= keep
            last = now
            return changed

    train(model, split, TrainSettings(epochs=20, batch_size=150, lr=0.1), remask=Checked(remask))
    assert len(regrown) == 14
    assert sum(regrown) > 100


def test_set_masks_differ_by_seed():
    masks = [trained(regrowing("set", interval=2, seed=seed))[1].inner.mask for seed in (0, 0, 1)]
    assert masks[0] == masks[1] != masks[2]


def test_set_masks_differ_by_step():
    masks = []
    for step in (2, 2, 4):
        remask = regrowing("set", interval=2)(make_model())
        assert remask(step)
        masks.append(remask.mask)
    assert masks[0] == masks[1] != masks[2]


def test_regrowing_filters_or_empty_layers_raises_input_error():
    space = SPACES["filter"]
    with pytest.raises(InputError, match="rigl: is for weight masks, not filter"):
        Regrowing(make_model(), space, space.full(), steps=STEPS)
    space = SPACES["weight"]
    bits = space.full().bits.clone()
    bits[space.layers[1].slice] = False
    with pytest.raises(InputError, match="mask: keeps nothing of layer '3'"):
        Regrowing(make_model(), space, Mask(space, bits), steps=STEPS)
