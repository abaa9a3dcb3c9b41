"""``norms=True`` with attention: channels of the residual stream of transformers, checked with published formulas."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import masksearch as ms
from masksearch.utils.nested import call_model, output_tensors

D, HEADS = 16, 4


class KeptNorm(nn.Module):
    """LayerNorm or RMSNorm by formula, over the channels that ``keep`` (channels,) selects; zero elsewhere."""

    def __init__(self, norm, keep, centred):
        super().__init__()
        self.weight, self.bias, self.keep, self.centred = norm.weight, getattr(norm, "bias", None), keep, centred
        self.eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon

    def forward(self, x):
        n, mean = self.keep.sum(), 0
        if self.centred:
            mean = (x * self.keep).sum(-1, keepdim=True) / n
        variance = ((x - mean).square() * self.keep).sum(-1, keepdim=True) / n
        normalised = (x - mean) / (variance + self.eps).sqrt() * self.weight
        return self.keep * (normalised if self.bias is None else normalised + self.bias)


class Attention(nn.Module):
    """One pre-norm block with fused attention, and a gated MLP; tied embedding and head."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, D), nn.Linear(D, 20, bias=False)
        self.head.weight = self.embed.weight
        self.n1, self.n2, self.n3 = nn.LayerNorm(D), nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.gate, self.down = nn.Linear(D, 24), nn.Linear(D, 24), nn.Linear(24, D)

    def forward(self, ids):
        x = self.embed(ids)
        q, k, v = self.qkv(self.n1(x)).unflatten(-1, (3, -1, D // HEADS)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        x = x + self.down(F.silu(self.up(self.n2(x))) * self.gate(self.n2(x)))
        return self.head(self.n3(x))


def transformer(model, config, **sizes):
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, model)(getattr(transformers, config)(vocab_size=20, **sizes))


def vit():
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=3, num_classes=7, weight_init="skip"
    )


IDS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NETWORKS = {
    "small attention": (Attention, IDS, {"heads": 4, "trunk": 16}),
    "gpt2": (
        lambda: transformer(
            "GPT2LMHeadModel",
            "GPT2Config",
            n_embd=16,
            n_layer=2,
            n_head=4,
            use_cache=False,
            bos_token_id=1,
            eos_token_id=2,
        ),
        {"input_ids": IDS},
        {"heads": 8, "trunk": 16},
    ),
    "llama with grouped queries": (
        lambda: transformer(
            "LlamaForCausalLM",
            "LlamaConfig",
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            use_cache=False,
        ),
        {"input_ids": IDS},
        {"heads": 4, "trunk": 16},
    ),
    "vit": (vit, IMAGES, {"heads": 6, "trunk": 48}),
}


def built(name):
    make, inputs, counts = NETWORKS[name]
    net, generator = make().eval().double(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(-1, 1, generator=generator)
    return net, inputs, counts


def outputs(net, inputs):
    with torch.no_grad():
        return output_tensors(call_model(net, inputs))


def by_formula(net, space, mask):
    """Return a copy with zeroed weights, whose norms are computed by formula."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name, kept in space.parameter_masks(mask).items():
            net.get_parameter(name).mul_(kept)
    for name, norm in list(net.named_modules()):
        if isinstance(norm, nn.LayerNorm) or "RMSNorm" in type(norm).__name__:
            keep = space.parameter_masks(mask)[f"{name}.weight"].double()
            parent = net.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], KeptNorm(norm, keep, isinstance(norm, nn.LayerNorm)))
    return net


@pytest.mark.parametrize("density", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("name", NETWORKS)
def test_masked_channels_of_the_residual_stream_equal_pruned_network_and_formula(name, density):
    net, inputs, counts = built(name)
    space = ms.filter_space(net, inputs, norms=True)
    plain = ms.filter_space(net, inputs)
    assert int(space.norm_units.sum()) == counts["trunk"] == space.n_units - plain.n_units
    mask = space.random(density, "layerwise", torch.Generator().manual_seed(2), on_empty="keep_one")
    small = ms.prune(net, space, mask)
    with space.applied(net, mask):
        masked = outputs(net, inputs)
    for one, pruned, formula in zip(
        masked, outputs(small, inputs), outputs(by_formula(net, space, mask), inputs), strict=True
    ):
        assert float((one - pruned).abs().max() / one.std()) <= 1e-9
        tolerance = 1e-5 if "llama" in name else 1e-9  # Llama's norm calculates in float32
        assert float((one - formula).abs().max() / one.std()) <= tolerance
    heads = sum(layer.size for layer in plain.layers if layer.size <= HEADS)
    assert heads == counts["heads"]


def test_tied_embeddings_stay_tied():
    net, inputs, _ = built("small attention")
    space = ms.filter_space(net, inputs, norms=True)
    small = ms.prune(net, space, space.random(0.5, "layerwise", torch.Generator().manual_seed(2)))
    assert small.head.weight is small.embed.weight
    assert small.head.weight.shape == (20, 8)
