"""Data and networks of every kind of task, as functions that sweeps name: ``own_tasks.py:regression``."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import masksearch as ms

SIZES = {"train": 64, "test": 32, "val": 32}
SEARCH, REST = slice(16), slice(16, 32)


def floats(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def splits(make) -> dict:
    """Return {split: make(n, seed)} of every split."""
    return {part: make(n, seed) for seed, (part, n) in enumerate(SIZES.items())}


def regression_splits():
    weights = floats(6, 1, seed=9)

    def make(n, seed):
        inputs = floats(n, 6, seed=seed)
        return inputs, inputs @ weights + 0.1 * floats(n, 1, seed=seed + 50)

    return splits(make)


def regression():
    return ms.Data.from_tensors("own", **regression_splits(), task="regression")


def scaled_regression():
    """The same data with other targets."""
    pairs = {part: (inputs, 2 * targets) for part, (inputs, targets) in regression_splits().items()}
    return ms.Data.from_tensors("own", **pairs, task="regression")


def multilabel():
    def make(n, seed):
        inputs = floats(n, 6, seed=seed)
        return inputs, (inputs[:, :3] > 0).float()

    return ms.Data.from_tensors("own", **splits(make), task="multilabel")


def segmentation():
    def make(n, seed):
        images = floats(n, 2, 6, 6, seed=seed)
        return images, (images[:, 0] > 0).long() + (images[:, 1] > 0.5).long()

    return ms.Data.from_tensors("own", **splits(make), task="segmentation")


def tokens():
    def make(n, seed):
        ids = torch.arange(8).add(torch.randint(9, (n, 1), generator=torch.Generator().manual_seed(seed))) % 9
        return {"ids": ids, "mask": torch.ones(n, 8)}, ids

    return ms.Data.from_tensors("own", **splits(make), task="language_model")


def pairs():
    def make(n, seed):
        left, right = floats(n, 4, seed=seed), floats(n, 3, seed=seed + 50)
        return (left, right), left[:, :1] * 2 - right[:, :1]

    return ms.Data.from_tensors("own", **splits(make), task="regression")


class Items(Dataset):
    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, place):
        return self.inputs[place], self.targets[place]


def streamed():
    sets = {part: Items(*pair) for part, pair in regression_splits().items()}
    return ms.Data.from_datasets("own", **sets, task="regression", stream=True, identity="first")


def loaders():
    known = regression_splits()
    known["search"], known["val"] = (tuple(part[chosen] for part in known["val"]) for chosen in (SEARCH, REST))
    made = {part: DataLoader(TensorDataset(*pair), batch_size=16) for part, pair in known.items()}
    return ms.Data.from_loaders("own", **made, task="regression", identity="first")


def net():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))


def labels_net():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


class PixelsNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        return {"out": self.last(torch.relu(self.norm(self.first(images))))}


class TokensNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)

    def forward(self, ids, mask):
        return self.head(torch.tanh(self.hidden(self.embedding(ids) * mask[..., None])))


class PairNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, left, right):
        return self.head(torch.tanh(self.left(left) + self.right(right)))


def own_loop(model, data, *, masks, epochs, seed, device):
    """A training loop with noise, which lets pruned weights grow."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01 + 0.01 * torch.rand(()).item())
    for _ in range(epochs):
        order = torch.randperm(len(data.train))
        for inputs, targets in data.train.batches(order, [16] * (len(order) // 16)):
            optimizer.zero_grad()
            data.task.loss_of(model(inputs.to(device)), targets.to(device)).backward()
            optimizer.step()


def loop_without_masks(model, data, epochs):
    """A function with other parameters."""


def unread():
    raise AssertionError("the data is read")
