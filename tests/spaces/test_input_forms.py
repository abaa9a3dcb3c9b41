"""Filter spaces of networks with inputs and outputs of several forms, and of networks that keep or share tensors."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import masksearch as ms
from masksearch.utils.nested import call_model, output_tensors


@dataclass
class Outputs:
    logits: Tensor
    features: tuple[Tensor, ...]


class TwoBranches(nn.Module):
    """Two inputs; returns a dataclass that holds a tuple."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x, y, scale=None):
        hidden = F.relu(self.left(x) + self.right(y))
        logits = self.head(hidden)
        return Outputs(logits, (logits.sum(1),))


class Detector(nn.Module):
    """One input; returns a dict with a list."""

    def __init__(self):
        super().__init__()
        self.body, self.boxes, self.classes = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        features = F.relu(self.body(x))
        return {"boxes": self.boxes(features), "scores": [self.classes(features), None], "name": "detector"}


class StoresTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.f = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        self.last = [F.relu(self.b(F.relu(self.a(x))))]
        return self.f(self.last[0].mean((2, 3)))


class OneNumber(nn.Module):
    """Takes tokens and returns one number per example."""

    def __init__(self):
        super().__init__()
        self.embedding, self.gru, self.out = nn.Embedding(11, 6), nn.GRU(6, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, tokens):
        return self.out(self.gru(self.embedding(tokens))[0].mean(1)).squeeze(-1)


EXAMPLES = [
    (TwoBranches, (torch.randn(2, 4), torch.randn(2, 5))),
    (TwoBranches, {"y": torch.randn(2, 5), "x": torch.randn(2, 4)}),
    (Detector, torch.randn(2, 3, 6, 6)),
    (StoresTensor, torch.randn(2, 3, 8, 8)),
    (OneNumber, torch.randint(11, (2, 5))),
]


@pytest.mark.parametrize(("make", "example"), EXAMPLES)
def test_masked_network_equals_pruned_network_for_all_forms_of_inputs_and_outputs(make, example):
    model = make().eval()
    call_model(model, example)  # leaves a tensor with a gradient in StoresTensor
    space = ms.filter_space(model, example)
    mask = space.random(density=0.5, scope="layerwise", generator=torch.Generator().manual_seed(1))
    small = ms.prune(model, space, mask)
    with torch.no_grad(), space.applied(model, mask):
        masked = output_tensors(call_model(model, example))
    with torch.no_grad():
        pruned = output_tensors(call_model(small, example))
    assert len(masked) == len(pruned) > 0
    for one, other in zip(masked, pruned, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert ms.cost.macs(small, example) < ms.cost.macs(model, example)
    assert ms.cost.latency(small, example, batch_sizes=(3,), seconds=0.01)[3].batch_size == 3
    assert ms.cost.peak_memory(small, example) > 0


def test_layers_before_a_repeated_layer_or_a_shared_weight_have_units():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 8)
            self.d, self.e = nn.Linear(8, 3), nn.Linear(8, 3)
            self.e.weight = self.d.weight

        def forward(self, x):
            hidden = F.relu(self.c(self.b(self.b(self.a(x)))))
            return self.d(hidden), self.e(hidden)

    class Mixed(Twice):
        def __init__(self):
            super().__init__()
            self.f, self.g = nn.Linear(4, 9), nn.Linear(9, 2)

        def forward(self, x):
            return *super().forward(x), self.g(F.relu(self.f(x)))

    space = ms.filter_space(Mixed().eval(), torch.randn(1, 4))
    assert [(layer.name, layer.size) for layer in space.layers] == [("a", 6), ("c", 8), ("f", 9)]
    reasons = dict(space.left_out)
    assert reasons["d"] == "its weight is also 'e.weight'; channels are outputs of Mixed"
    model, inputs = Mixed().eval(), torch.randn(9, 4)
    small = ms.prune(model, space, mask := space.random(0.5, "layerwise", torch.Generator().manual_seed(1)))
    with torch.no_grad(), space.applied(model, mask):
        for masked, pruned in zip(model(inputs), small(inputs), strict=True):
            torch.testing.assert_close(masked, pruned)
    assert small.e.weight is small.d.weight
    assert space.kept_macs(mask) == ms.cost.macs(small, inputs)


def test_masked_equals_pruned_in_branches_that_depend_on_the_input():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            hidden = F.relu(self.a(x))
            return self.c(F.relu(self.b(hidden)) if x.mean() > 0 else hidden)

    model = Branch().eval()
    for example in (torch.ones(2, 4), -torch.ones(2, 4)):
        space = ms.filter_space(model, example)
        assert [(layer.name, layer.size) for layer in space.layers] == [("a", 6)]
        small = ms.prune(model, space, mask := space.random(0.5, generator=torch.Generator().manual_seed(1)))
        for inputs in (torch.rand(9, 4), -torch.rand(9, 4)):
            with torch.no_grad(), space.applied(model, mask):
                torch.testing.assert_close(model(inputs), small(inputs))


def test_wrapped_and_compiled_networks_have_the_space_of_the_plain_network():
    model = Detector().eval()
    example = torch.randn(1, 3, 6, 6)
    bare, wrapped = ms.filter_space(model, example), ms.filter_space(nn.DataParallel(model), example)
    compiled = ms.filter_space(torch.compile(model), example)
    assert bare.fingerprint == wrapped.fingerprint == compiled.fingerprint
    mask = bare.random(density=0.5)
    small = ms.prune(nn.DataParallel(model), bare, mask)
    assert type(small) is Detector
