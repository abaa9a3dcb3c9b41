"""Networks and splits of every task, and streamed splits, that the tests of scoring share."""

import torch
import torch.nn.functional as F
from torch import nn

import masksearch as ms
from masksearch.data import Split
from masksearch.utils.nested import take

N = 23


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def floats(*shape, seed=1):
    return torch.randn(*shape, generator=generator(seed))


def integers(high, *shape, seed=2):
    return torch.randint(high, shape, generator=generator(seed))


class Pixels(nn.Module):
    """Images (b, 2, 6, 6) -> {"out": logits (b, 3, 6, 6)}, as torchvision's segmentation networks return them."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        return {"out": self.last(F.relu(self.norm(self.first(images))))}


class Tokens(nn.Module):
    """Tokens (b, t) by name, with a mask -> a tuple of logits (b, t, 9) and hidden states."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)

    def forward(self, ids, mask):
        hidden = torch.tanh(self.hidden(self.embedding(ids) * mask[..., None]))
        return self.head(hidden), hidden


class Pair(nn.Module):
    """Two inputs by position -> one value per example (b, 1)."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, left, right):
        return self.head(torch.tanh(self.left(left) + self.right(right)))


class Named(nn.Module):
    """Series (b, 1, 12) -> {"logits": (b, 4)}."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 6, 3), nn.Linear(6, 4)

    def forward(self, series):
        return {"logits": self.head(F.relu(self.conv(series)).mean(2))}


def mlp(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, outputs))


def padded_tokens():
    tokens = integers(9, N, 7)
    tokens[::3, 4:] = -100
    return tokens


def own_task():
    return ms.Task(
        loss=lambda outputs, targets: (outputs.mean(1) - targets).abs().mean(),
        metric=lambda outputs, targets: float((outputs.mean(1) - targets).abs().max()),
        higher_is_better=False,
        output=lambda outputs: outputs * 2,
    )


CASES = {
    "classification": (lambda: mlp(4), (floats(N, 6), integers(4, N))),
    "named logits": (Named, (floats(N, 1, 12), integers(4, N)), "classification"),
    "binary": (lambda: mlp(1), (floats(N, 6), integers(2, N))),
    "multilabel": (lambda: mlp(5), (floats(N, 2, 3), integers(2, N, 5).float())),
    "regression": (Pair, ((floats(N, 4), floats(N, 3, seed=3)), floats(N, 1))),
    "segmentation": (Pixels, (floats(N, 2, 6, 6), integers(3, N, 6, 6))),
    "language_model": (Tokens, ({"ids": integers(9, N, 7), "mask": integers(2, N, 7, seed=5)}, padded_tokens())),
    "own": (lambda: nn.Linear(6, 3), (floats(N, 6), floats(N)), own_task()),
}  # fmt: skip


def case(name):
    """The network in eval mode and the resident split of a case."""
    make, (inputs, targets), *task = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    return model.eval(), Split(inputs, targets, task[0] if task else name)


class Streamed:
    """A streamed split of the examples of a resident one: a data set (own_order False) or a loader (True)."""

    resident = False
    identity = None

    def __init__(self, split, loader_batch=None, shuffles=False):
        self._split, self.task, self._shuffles = split, split.task, shuffles
        self.own_order, self._batch = loader_batch is not None, loader_batch
        self.n_batches = -(-len(split) // loader_batch) if loader_batch else None
        self.passes = 0

    def __len__(self):
        return len(self._split)

    def sample(self, n):
        return self._split.sample(n)

    def batches(self, order, sizes):
        self.passes += 1
        order = torch.arange(len(self)) if order is None else order
        if self._shuffles:
            order = torch.randperm(len(self), generator=generator(self.passes))
        if self.own_order:
            sizes = [min(self._batch, len(self) - start) for start in range(0, len(self), self._batch)]
        for index in order.split(list(sizes)):
            yield take(self._split.inputs, index), take(self._split.targets, index)

    def __getitem__(self, chosen):
        return Streamed(self._split[chosen])
