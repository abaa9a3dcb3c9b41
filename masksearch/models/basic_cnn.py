"""BasicCNN: the convolutional network of the annealing thesis."""

from torch import nn

from masksearch.models.chain import Named, Shape, chain, flat_size, scaled

__all__ = ["basic_cnn"]


def basic_cnn(shape: Shape, classes: int, width: float) -> nn.Module:
    """Unpadded 3x3 convolutions of 64 (stride 2), 128, 256 (stride 2) and 512 filters, then one linear layer.

    Each convolution is followed by ReLU, dropout of 0.3 and batch normalisation, in this order; on 3x32x32 images the
    linear layer sees 512 x 4 x 4 = 8192 numbers ("Heuristic Approach Towards Early Pruning of Neural Networks", 2020).
    Torch's initial weights.
    """
    channels, layers = shape[0], list[Named]()
    for number, (size, stride) in enumerate([(64, 2), (128, 1), (256, 2), (512, 1)], start=1):
        filters = scaled(size, width)
        layers += [
            (f"conv{number}", nn.Conv2d(channels, filters, 3, stride=stride)),
            (f"relu{number}", nn.ReLU()),
            (f"dropout{number}", nn.Dropout(0.3)),
            (f"norm{number}", nn.BatchNorm2d(filters)),
        ]
        channels = filters
    layers.append(("flatten", nn.Flatten()))
    layers.append(("fc", nn.Linear(flat_size(layers, shape), classes)))
    return chain(layers)
