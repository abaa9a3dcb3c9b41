"""Attention heads as units in networks of Hugging Face's transformers and of timm, from small configurations."""

import copy

import pytest
import torch
from attention_cases import (
    check_exact,
    heads,
    outputs,
)

from masksearch.pruning.physical import load_pruned, save_pruned
from masksearch.spaces.filter_mask_space import filter_space

IDS = torch.arange(12)[None] * 3 % 90


def hugging_face(name, attention="sdpa", **settings):
    transformers = pytest.importorskip("transformers", reason="needs Hugging Face's transformers")
    config = getattr(transformers, name.removesuffix("Model").removesuffix("Encoder") + "Config")
    torch.manual_seed(0)
    made = config(use_cache=False, attn_implementation=attention, **settings)
    return getattr(transformers, name)(made).eval()


def bert(attention="sdpa"):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
    return hugging_face("BertModel", attention, vocab_size=90, **sizes), IDS


def distilbert():
    return hugging_face("DistilBertModel", vocab_size=90, dim=32, n_layers=2, n_heads=4, hidden_dim=20), IDS


def vit(attention="sdpa"):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
    return hugging_face("ViTModel", attention, image_size=16, patch_size=4, **sizes), torch.randn(1, 3, 16, 16)


def gpt2(attention="sdpa"):
    tokens = {"vocab_size": 90, "bos_token_id": 0, "eos_token_id": 0}
    return hugging_face("GPT2Model", attention, n_embd=32, n_layer=2, n_head=4, n_positions=16, **tokens), IDS


def llama(key_value_heads=4, attention="sdpa", name="LlamaModel"):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 20}
    return hugging_face(name, attention, vocab_size=90, num_key_value_heads=key_value_heads, **sizes), IDS


def t5():
    model = hugging_face("T5Model", vocab_size=90, d_model=32, d_kv=8, num_layers=2, num_heads=4, d_ff=20)
    return model, {"input_ids": IDS, "decoder_input_ids": IDS[:, :7]}


def image_network(name, size, **settings):
    timm = pytest.importorskip("timm", reason="needs timm")
    return timm.create_model(name, img_size=size, **settings).eval(), torch.randn(1, 3, size, size)


def swin():
    sizes = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
    return image_network("swin_tiny_patch4_window7_224", 56, window_size=7, **sizes)


# name -> (network and example, word in the names of layers with heads, heads per layer)
NETWORKS = {
    "bert": (bert, "query", [4, 4]),
    "bert, written out": (lambda: bert("eager"), "query", [4, 4]),
    "distilbert": (distilbert, "q_lin", [4, 4]),
    "vit": (vit, "q_proj", [4, 4]),
    "vit, written out": (lambda: vit("eager"), "q_proj", [4, 4]),
    "gpt2": (gpt2, "c_attn", [4, 4]),
    "gpt2, written out": (lambda: gpt2("eager"), "c_attn", [4, 4]),
    "llama": (llama, "q_proj", [4, 4]),
    "llama, written out": (lambda: llama(attention="eager"), "q_proj", [4, 4]),
    "llama, one key-value head": (lambda: llama(1), "q_proj", [8, 8]),
    "mistral": (lambda: llama(2, name="MistralModel"), "q_proj", [2, 2]),
    "t5": (t5, "Attention", [4, 4, 4]),
    "deit_tiny": (lambda: image_network("deit_tiny_patch16_224", 32, depth=2), "qkv", [3, 3]),
    "vit_tiny": (lambda: image_network("vit_tiny_patch16_224", 32, depth=2), "qkv", [3, 3]),
    "swin": (swin, "qkv", [2, 2, 4, 4]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_of_transformers_and_timm_networks_are_units_and_pruned_exactly(name, tmp_path):
    make, word, expected = NETWORKS[name]
    model, inputs = make()
    config = copy.deepcopy(getattr(model, "config", None))
    space = filter_space(model, inputs)
    assert heads(space, word) == expected, space
    small, mask = check_exact(model, inputs, space)
    if config is not None:
        assert model.config.to_dict() == config.to_dict()
        assert small.config.to_dict() == config.to_dict()
    save_pruned(tmp_path, small, space, mask)
    back = load_pruned(tmp_path, make()[0])
    for loaded, pruned in zip(outputs(back, inputs), outputs(small, inputs), strict=True):
        torch.testing.assert_close(loaded, pruned)
