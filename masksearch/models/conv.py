"""Conv-2, Conv-4 and Conv-6: the small VGG-like networks of the lottery-ticket paper."""

from torch import nn

from masksearch.models.chain import Named, Shape, chain, flat_size, scaled
from masksearch.models.initial import glorot_normal

__all__ = ["conv"]


def conv(shape: Shape, classes: int, width: float, depth: int) -> nn.Module:
    """Pairs of padded 3x3 convolutions (64, 128, 256 filters) with max pooling after each pair, then 256-256-10.

    Frankle & Carbin 2019, figure 2, initial weights (Glorot normal) included. On CIFAR-10 they have 4.3, 2.4 and
    2.3 million parameters.
    """
    channels, layers = shape[0], list[Named]()
    for number in range(1, depth + 1):
        pair = (number - 1) // 2
        filters = scaled(64 * 2**pair, width)
        layers += [(f"conv{number}", nn.Conv2d(channels, filters, 3, padding=1)), (f"relu{number}", nn.ReLU())]
        if number % 2 == 0:
            layers.append((f"pool{pair + 1}", nn.MaxPool2d(2)))
        channels = filters
    layers.append(("flatten", nn.Flatten()))
    hidden = scaled(256, width)
    layers += [
        ("fc1", nn.Linear(flat_size(layers, shape), hidden)),
        (f"relu{depth + 1}", nn.ReLU()),
        ("fc2", nn.Linear(hidden, hidden)),
        (f"relu{depth + 2}", nn.ReLU()),
        ("fc3", nn.Linear(hidden, classes)),
    ]
    return glorot_normal(chain(layers))
