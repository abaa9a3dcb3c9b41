"""Networks to prune: the table of image classifiers and language models, and the function that builds them by name.

A row's function takes the shape of an example, the number of classes and a width multiplier. Flattening, pooling and
activations are modules, so that a network still runs when channels are removed.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from masksearch.models.byte_gpt import byte_gpt
from masksearch.models.hugging_face import from_transformers
from masksearch.models.mlp_lenet_vgg import basic_cnn, conv, fc, lenet5, lenet_300_100, thesis_mlp, vgg
from masksearch.models.mobilenet import mobilenet_v2
from masksearch.models.network_construction import Shape
from masksearch.models.resnet import basic_resnet, bottleneck_resnet, resnet18
from masksearch.models.torchvision_and_timm import from_timm, from_torchvision
from masksearch.utils.errors import InputError, check_type, first_line
from masksearch.utils.registry import Table
from masksearch.utils.seeds import derive
from masksearch.utils.user_functions import call_function, import_function, names_function

__all__ = ["MODELS", "BuiltAs", "ModelRow", "build_model", "built_as", "is_own_function"]


@dataclass(frozen=True)
class ModelRow:
    """Definition of a network in the table :data:`MODELS`: the function that builds it, and a description."""

    build: Callable[..., nn.Module]  # (shape of an example, number of classes, width multiplier) -> network
    about: str  # architecture in a few words
    task: str = "classification"  # of images; language_model: of text, of shape (length,), with 256 classes


MODELS: Table[ModelRow] = Table(
    "model",
    {
        "lenet_300_100": ModelRow(lenet_300_100, "MLP 784-300-100-10 with biases, Glorot normal initial weights"),
        "thesis_mlp": ModelRow(thesis_mlp, "MLP 784-300-100-10 without biases"),
        "fc": ModelRow(fc, "MLP 784-100-100-100-100-100-10"),
        "lenet5": ModelRow(lenet5, "two 5x5 convolutions, 120-84-10"),
        "basic_cnn": ModelRow(basic_cnn, "four unpadded 3x3 convolutions, 960 filters"),
        **{
            f"conv{n}": ModelRow(partial(conv, depth=n), f"{n} convolutions, then linear layers 256-256-10")
            for n in (2, 4, 6)
        },
        **{
            f"vgg{n}{'_bn' * norm}": ModelRow(
                partial(vgg, depth=n, norm=norm), f"VGG-{n} for 32x32{', batch normalisation' * norm}"
            )
            for norm in (False, True)
            for n in (11, 13, 16, 19)
        },
        "resnet18": ModelRow(resnet18, "ResNet-18 for 32x32, 64 to 512 filters"),
        **{
            f"resnet{n}": ModelRow(partial(basic_resnet, depth=n), f"ResNet-{n} for 32x32, basic blocks")
            for n in (20, 32, 44, 56, 110)
        },
        **{
            f"resnetb{n}": ModelRow(partial(bottleneck_resnet, depth=n), f"ResNet-{n} for 32x32, bottlenecks")
            for n in (20, 29, 47, 56, 110)
        },
        "byte_gpt": ModelRow(byte_gpt, "text: GPT on bytes, 6 blocks of width 256", task="language_model"),
        "mobilenet_v2": ModelRow(mobilenet_v2, "MobileNetV2 for 32x32, inverted bottlenecks"),
    },
)


@dataclass(frozen=True)
class BuiltAs:
    """Arguments of the :func:`build_model` call that made a network; they build the same architecture again."""

    name: str
    shape: Shape
    classes: int


class _HasShapeAndClasses(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def classes(self) -> int | None: ...


def build_model(
    name: str, data_or_shape: _HasShapeAndClasses | Shape, classes: int | None = None, seed: int = 0
) -> nn.Module:
    """Build a network by name on the CPU, in training mode, with random (``transformers:``: pretrained) weights.

    Parameters
    ----------
    name : str
        A name in :data:`MODELS`; ``name:width`` multiplies the size of every hidden layer, as ``vgg16:0.25``;
        ``torchvision:NAME`` and ``timm:NAME`` are classifiers of these packages; ``transformers:FOLDER`` is the
        pretrained network of a local folder (language models and text classifiers); ``module:function`` and
        ``path/to/file.py:function`` name a function of yours, called with ``data_or_shape`` if it takes an argument.
    data_or_shape : Data or (channels, height, width)
        Shape of the images; a Data object also gives the number of classes. Functions of yours get any data, language
        models text or (length,).
    classes : int, optional
        Number of classes. Default: that of the data; 10 for a shape.
    seed : int
        Seed of the initial weights. Torch's global random state is not changed.

    Raises
    ------
    InputError
        For unknown names, depths and widths, and for image shapes that the network can't process.
    """
    check_type("model", name, str, "a name of ms.models.MODELS, torchvision:NAME, timm:NAME or module:function")
    if is_own_function(name):
        return _own(name, data_or_shape, seed)
    if name.startswith("transformers:") or _row_task(name) == "language_model":
        return _of_text(name, data_or_shape, seed)
    shape, classes = _shape_and_classes(data_or_shape, classes)
    with _drawing(seed):
        try:
            model = _construct(name, shape, classes)
            logits = _logits(model, shape)
        except InputError:
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            sizes = "x".join(map(str, shape))
            raise InputError(f"model {name!r} can't take images of {sizes}: {first_line(error)}") from None
    if not isinstance(logits, Tensor) or logits.shape != (1, classes):
        raise InputError(f"model {name!r} is no classifier: it must return one tensor (n, {classes})")
    vars(model)["built_as"] = BuiltAs(
        name, shape, classes
    )  # setattr of nn.Module is typed for tensors and modules only
    return model


def is_own_function(name: str) -> bool:
    """Return whether a model's name refers to a user's own function: ``module:function`` or ``file.py:function``."""
    base = name.partition(":")[0]
    return base not in (*MODELS, "torchvision", "timm", "transformers") and names_function(name)


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Within the block, networks are made on the CPU, with random weights from a seed."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "initial weights"))
        yield


def _own(name: str, data: Any, seed: int) -> nn.Module:
    """Return the network that a user's function makes."""
    function = import_function(name, "model")
    takes_data = bool(signature(function).parameters)
    with _drawing(seed):
        model = call_function(function, name, "model", *([data] if takes_data else []))
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {name} returned a {type(model).__name__}; an nn.Module is needed")
    return model.train()


def _row_task(name: str) -> str | None:
    """Return the task of a table's network; None for names that are not in the table."""
    base = name.partition(":")[0]
    return MODELS[base].task if base in MODELS else None


def _of_text(name: str, data: Any, seed: int) -> nn.Module:
    """Return a network that reads text: that of a folder of Transformers, or a language model of the table."""
    base, colon, tail = name.partition(":")
    task = getattr(getattr(data, "task", None), "name", "language_model")
    if base == "transformers":
        with _drawing(seed):
            return from_transformers(tail, task, getattr(data, "classes", None))
    shape = tuple(data) if isinstance(data, tuple | list) else data.shape
    if task != "language_model" or len(shape) != 1:
        raise InputError(f"model {name!r} reads text; give data such as standard_library or text:FOLDER")
    with _drawing(seed):
        return MODELS[base].build(shape, 256, _width(name, tail) if colon else 1.0).train()


def built_as(model: nn.Module) -> BuiltAs | None:
    """Return the :func:`build_model` arguments of a network or a copy of it; None if the network was made otherwise."""
    return vars(model).get("built_as")


def _shape_and_classes(data_or_shape: _HasShapeAndClasses | Shape, classes: int | None) -> tuple[Shape, int]:
    shape: tuple[int, ...]
    if isinstance(data_or_shape, tuple | list):
        shape, classes = tuple(data_or_shape), 10 if classes is None else classes
    elif hasattr(data_or_shape, "classes"):
        shape = data_or_shape.shape
        if classes not in (None, data_or_shape.classes):
            raise InputError(f"classes is {classes}, and the data has {data_or_shape.classes}; leave classes out")
        classes = data_or_shape.classes
        if classes is None:
            raise InputError("model: the data has no classes, and networks of the table classify; give module:function")
    else:
        raise InputError(
            f"{type(data_or_shape).__name__} has no classes; allowed are data, and (channels, height, width)"
        )
    if len(shape) != 3 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise InputError(f"shape is {tuple(shape)}; allowed are three positive integers (channels, height, width)")
    if classes < 2:
        raise InputError(f"classes is {classes}; allowed is 2 or more")
    c, h, w = shape
    return (c, h, w), classes


def _construct(name: str, shape: Shape, classes: int) -> nn.Module:
    base, colon, tail = name.partition(":")
    if base == "torchvision":
        return from_torchvision(tail, shape, classes)
    if base == "timm":
        return from_timm(tail, shape, classes)
    return _row(base).build(shape, classes, _width(name, tail) if colon else 1.0)


def _row(name: str) -> ModelRow:
    """Return the table row of a name; the error for an unknown depth of a family lists the family's depths."""
    parts = re.fullmatch(r"([a-z]+)\d+(_bn)?", name)
    if parts and name not in MODELS:
        family = re.compile(rf"{parts[1]}\d+{parts[2] or ''}")
        depths = [row for row in MODELS if family.fullmatch(row)]
        if len(depths) > 1:
            raise InputError(f"model {name!r} has no such depth; allowed are {', '.join(depths)}")
    return MODELS[name]


_MAX_WIDTH = 100.0


def _width(name: str, text: str) -> float:
    try:
        width = float(text)
    except ValueError:
        width = 0.0
    if not 0 < width <= _MAX_WIDTH:
        raise InputError(
            f"model {name!r}: {text!r} is no width; allowed are numbers above 0, up to {_MAX_WIDTH:g}, as in vgg16:0.25"
        )
    return width


def _logits(model: nn.Module, shape: Shape) -> object:
    """Return the outputs for one image of zeros, in eval mode; buffers do not change."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, *shape))
    model.train()
    return logits
