"""Networks, activations and images that the tests of scoring paths share."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from masksearch.data import Split

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "elu in place": lambda: nn.ELU(inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "dropout": lambda: nn.Dropout(0.5, inplace=True),
    "identity": nn.Identity,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_mlp(activation="relu", bias=True, dtype=torch.float64, sizes=(20, 16, 12, 5)):
    """Return a flattening and linear layers, with a single activation object between all of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        act = ACTIVATIONS[activation]()
        layers = [nn.Flatten()]
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out, bias=bias), act]
        return nn.Sequential(*layers[:-1]).to(dtype).train()


def make_split(n=40, dtype=torch.float64, shape=(1, 4, 5), classes=5):
    g = generator(1)
    return Split(torch.randn(n, *shape, generator=g, dtype=dtype), torch.randint(0, classes, (n,), generator=g))


class Net(nn.Module):
    """A residual block, BatchNorm, and a linear head behind a flattening."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.norm2 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.outer, self.norm3 = nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(6 * 9, 5)

    def forward(self, images):
        x = F.relu(self.norm1(self.stem(images)))
        y = F.relu(self.norm2(self.inner(x)))
        return self.head(self.pool(F.relu(x + self.norm3(self.outer(y)))).flatten(1))


def make_conv_net(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net().to(dtype)
        for norm in (net.norm1, net.norm2, net.norm3):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        return net.eval()
