"""Networks of torchvision, timm and Hugging Face with random weights, and small example inputs for each of them.

Widths and depths are those of the publications; images and texts are small. Hugging Face's networks come from small
configurations. A network of a library that is not installed can't be built.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

import masksearch as ms
from masksearch.utils.nested import Nested

__all__ = ["NETWORKS", "SMALL", "build", "examples", "missing_library"]

_TORCHVISION = (
    *("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "efficientnet_b0"),
    *("regnet_y_400mf", "shufflenet_v2_x1_0", "googlenet", "squeezenet1_1", "convnext_tiny", "vit_b_16", "swin_t"),
    *("swin_v2_t", "regnet_x_400mf", "mnasnet0_5"),
)
_TIMM = {  # name -> (side of the images, further arguments)
    "vit_tiny_patch16_224": (64, {"img_size": 64}),
    "deit_tiny_patch16_224": (64, {"img_size": 64}),
    "swin_tiny_patch4_window7_224": (64, {"img_size": 64}),
    "convnext_atto": (64, {}),
    "levit_128s": (128, {"img_size": 128}),
    "efficientformer_l1": (224, {}),
    "mobilenetv4_conv_small": (64, {}),
    "mobilenetv4_hybrid_medium": (64, {}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "coatnet_nano_rw_224": (64, {"img_size": 64}),
    "nfnet_l0": (64, {}),
}


def _ids(size: int = 12) -> Tensor:
    return torch.randint(3, 90, (2, size), generator=torch.Generator().manual_seed(2))


def _images(*shape: int) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))


def _models(name: str) -> nn.Module:
    return ms.build_model(f"torchvision:{name}", (3, 64, 64))


def _maxvit() -> nn.Module:
    from torchvision.models.maxvit import MaxVit  # maxvit_t itself takes no images under 224 x 224

    blocks = {"block_channels": [64, 128, 256, 512], "block_layers": [2, 2, 5, 2]}
    return MaxVit((64, 64), stem_channels=64, partition_size=2, head_dim=32, stochastic_depth_prob=0.2, **blocks)


def _inception() -> nn.Module:
    from torchvision.models import inception_v3

    return inception_v3(weights=None, init_weights=False)


def _segmentation(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision.models import segmentation

        return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=21)

    return make


def _backbone() -> nn.Module:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    return fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).backbone


def _video() -> nn.Module:
    from torchvision.models.video import r3d_18

    return r3d_18(weights=None)


def _timm(name: str, arguments: dict[str, Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, **arguments)

    return make


def _transformers(model: str, config: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(vocab_size=100, **arguments))

    return make


_ENCODER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "use_cache": False}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}
_WHISPER = {
    **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 128 for part in ("encoder", "decoder")},
} | {"d_model": 64, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 20, "use_cache": False}
_WHISPER |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def _texts() -> Nested:
    return {"input_ids": _ids()}


def _pairs() -> Nested:
    return {"input_ids": _ids(), "decoder_input_ids": _ids(6)}


def _speech() -> Nested:
    return {"input_features": _images(16, 40), "decoder_input_ids": _ids(6)}


_TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Nested]]] = {
    "bert": (_transformers("BertForSequenceClassification", "BertConfig", **_ENCODER), _texts),
    "distilbert": (
        _transformers(
            "DistilBertForSequenceClassification", "DistilBertConfig", dim=64, n_layers=2, n_heads=4, hidden_dim=128
        ),
        _texts,
    ),
    "vit": (
        _transformers("ViTForImageClassification", "ViTConfig", **_ENCODER, image_size=32, patch_size=8),
        lambda: {"pixel_values": _images(3, 32, 32)},
    ),
    "gpt2": (
        _transformers("GPT2LMHeadModel", "GPT2Config", **_GPT2),
        _texts,
    ),
    "llama": (
        _transformers("LlamaForCausalLM", "LlamaConfig", **_ENCODER, num_key_value_heads=2, use_cache=False),
        _texts,
    ),
    "mistral": (
        _transformers("MistralForCausalLM", "MistralConfig", **_ENCODER, num_key_value_heads=2, use_cache=False),
        _texts,
    ),
    "t5": (_transformers("T5ForConditionalGeneration", "T5Config", **_T5), _pairs),
    "whisper": (_transformers("WhisperForConditionalGeneration", "WhisperConfig", **_WHISPER), _speech),
    "mamba": (
        _transformers("MambaForCausalLM", "MambaConfig", hidden_size=64, num_hidden_layers=2, use_cache=False),
        _texts,
    ),
}

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Nested]]] = {
    **{
        name: (lambda name=name: ms.build_model(name, (3, 32, 32)), lambda: _images(3, 32, 32))
        for name, row in ms.models.MODELS.items()
        if row.task == "classification"
    },
    **{f"torchvision:{name}": (lambda name=name: _models(name), lambda: _images(3, 64, 64)) for name in _TORCHVISION},
    "torchvision:maxvit_t": (_maxvit, lambda: _images(3, 64, 64)),
    "torchvision:inception_v3": (_inception, lambda: _images(3, 96, 96)),
    "torchvision:deeplabv3_mobilenet_v3_large": (
        _segmentation("deeplabv3_mobilenet_v3_large"),
        lambda: _images(3, 64, 64),
    ),
    "torchvision:fcn_resnet50": (_segmentation("fcn_resnet50"), lambda: _images(3, 64, 64)),
    "torchvision:fasterrcnn_resnet50_fpn.backbone": (_backbone, lambda: _images(3, 64, 64)),
    "torchvision:r3d_18": (_video, lambda: _images(3, 4, 32, 32)),
    **{
        f"timm:{name}": (_timm(name, arguments), lambda side=side: _images(3, side, side))
        for name, (side, arguments) in _TIMM.items()
    },
    **{f"transformers:{name}": made for name, made in _TRANSFORMERS.items()},
}
"""{name: (function that builds the network, function that returns two example inputs)}."""

SMALL = (
    *("torchvision:mnasnet0_5", "torchvision:r3d_18", "timm:levit_128s", "timm:deit_tiny_patch16_224"),
    *("transformers:bert", "transformers:distilbert", "transformers:gpt2", "transformers:llama", "transformers:t5"),
    "transformers:mamba",
)
"""Ten networks for tests."""


def missing_library(name: str) -> str:
    """Return the library that a network needs if it is not installed; "" if the network can be built."""
    library = name.partition(":")[0] if ":" in name else "torch"
    return "" if find_spec(library) else library


def build(name: str, seed: int = 0) -> nn.Module:
    """Return a network of the table in eval mode, with new random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name][0]().eval()


def examples(name: str) -> Nested:
    """Return two example inputs of a network: a tensor, or a dict of tensors; the same in every call."""
    return NETWORKS[name][1]()
