"""Attention heads as units: found in every form of attention, exact, trainable, saved and loaded, with exact MACs."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import masksearch as ms
from masksearch.cost import macs
from masksearch.pruning.physical import load_pruned, prune, save_pruned
from masksearch.spaces.filter_mask_space import filter_space
from masksearch.spaces.pruned_attention import PrunedMultiheadAttention
from masksearch.utils.nested import call_model, output_tensors

D, H = 16, 4
TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A normalised residual branch of attention between two linear layers; and one of hidden neurons."""

    def __init__(self, attention, hidden=0):
        super().__init__()
        self.embed, self.norm, self.attention, self.head = nn.Linear(6, D), nn.LayerNorm(D), attention, nn.Linear(D, 3)
        self.mlp = nn.Sequential(nn.Linear(D, hidden), nn.GELU(), nn.Linear(hidden, D)) if hidden else None

    def forward(self, tokens):
        tokens = self.embed(tokens)
        tokens = tokens + self.attention(self.norm(tokens))
        return self.head(tokens if self.mlp is None else tokens + self.mlp(tokens))


class Packed(nn.Module):
    """One qkv layer with fused attention, as in timm."""

    def __init__(self, per_head=False):
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim, self.per_head = H, D // H, D, per_head
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.norm = nn.LayerNorm(self.head_dim if per_head else D)

    def forward(self, x):
        n, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.per_head:
            q, k = self.norm(q), self.norm(k)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, self.attn_dim))


class FromShape(Packed):
    """Sizes of views from the width of the input, as in nanoGPT and the first ViTs."""

    def forward(self, x):
        n, tokens, width = x.shape
        parts = self.qkv(x).split(width, dim=-1)
        q, k, v = (each.view(n, tokens, self.num_heads, width // self.num_heads).transpose(1, 2) for each in parts)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()
        return self.proj(self.checked(mixed.view(n, tokens, width)))

    def checked(self, mixed):
        return mixed


class WithBias(Packed):
    """A table of biases per head, read by position and kept in eval mode, as in LeViT."""

    def __init__(self):
        super().__init__()
        self.table, self.kept = nn.Parameter(torch.randn(H, 5)), None
        self.register_buffer("distance", (torch.arange(5)[:, None] - torch.arange(5)).abs(), persistent=False)

    def train(self, mode=True):
        self.kept = None
        return super().train(mode)

    def bias(self):
        if self.training:
            return self.table[:, self.distance]
        if self.kept is None:
            self.kept = self.table[:, self.distance]
        return self.kept

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) + self.bias()).softmax(-1)
        return self.proj((scores @ v).transpose(1, 2).flatten(2))


class Strict(FromShape):
    def checked(self, mixed):
        assert mixed.shape[-1] == D
        return mixed


class Separate(nn.Module):
    """Three layers and the written-out softmax, as in BERT of 2019."""

    def __init__(self, mix=False, norm=False):
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = H, D // H, D
        self.query, self.key, self.value, self.out = (nn.Linear(D, D) for _ in range(4))
        self.mix = nn.Parameter(torch.randn(1, H, H, 1, 1)) if mix else None
        self.norm = nn.LayerNorm(D) if norm else nn.Identity()
        self.dropout = nn.Dropout(0.1)

    def heads(self, x):
        return x.view(*x.shape[:-1], self.num_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

    def forward(self, x):
        q, k, v = self.heads(self.norm(self.query(x))), self.heads(self.key(x)), self.heads(self.value(x))
        scores = self.dropout((torch.matmul(q, k.transpose(-1, -2)) / 2).softmax(-1))
        if self.mix is not None:
            scores = (self.mix * scores[:, None]).sum(2)
        context = torch.matmul(scores, v).permute(0, 2, 1, 3).contiguous()
        return self.out(context.view(*context.shape[:-2], self.all_head_size))


class Grouped(nn.Module):
    """Query heads in groups that share a key-value head; rotary positions."""

    def __init__(self, kv, enable_gqa):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, kv * D // H), nn.Linear(D, kv * D // H)
        self.o, self.groups, self.enable_gqa = nn.Linear(D, D), H // kv, enable_gqa

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (-1, D // H)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype).repeat(2)
        q, k = (each * angles.cos() + self.rotated(each) * angles.sin() for each in (q, k))
        if not self.enable_gqa:
            k, v = (each.repeat_interleave(self.groups, 1) for each in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.enable_gqa)
        return self.o(mixed.transpose(1, 2).flatten(2))

    @staticmethod
    def rotated(x):
        first, second = x.chunk(2, -1)
        return torch.cat([-second, first], -1)


class Multihead(nn.Module):
    """``nn.MultiheadAttention`` with the arguments of a call."""

    def __init__(self, call=None, batch_first=True, **settings):
        super().__init__()
        self.attention, self.call = nn.MultiheadAttention(D, H, batch_first=batch_first, **settings), call or {}
        self.width = settings.get("kdim", D)

    def forward(self, x):
        queries = x if self.attention.batch_first else x.transpose(0, 1)
        keys = queries if self.width == D else queries[..., : self.width]
        call = dict(self.call)
        if call.pop("padding", False):
            call["key_padding_mask"] = torch.arange(x.shape[1]).expand(len(x), -1) > 3
        output, _ = self.attention(queries, keys, keys, **call)
        return output if self.attention.batch_first else output.transpose(0, 1)


CAUSAL = torch.ones(5, 5).triu(1).bool()
# name -> (attention, heads)
FORMS = {
    "packed": (lambda: Packed(), 4),
    "packed with a norm per head": (lambda: Packed(per_head=True), 4),
    "sizes from shapes": (lambda: FromShape(), 4),
    "a kept table of biases": (lambda: WithBias(), 4),
    "separate": (lambda: Separate(), 4),
    "grouped": (lambda: Grouped(2, False), 2),
    "grouped by the operation": (lambda: Grouped(2, True), 2),
    "multihead": (lambda: Multihead(), 4),
    "multihead without weights": (lambda: Multihead({"need_weights": False}), 4),
    "multihead, sequence first": (lambda: Multihead(batch_first=False), 4),
    "multihead, no bias": (lambda: Multihead(bias=False), 4),
    "multihead, other keys": (lambda: Multihead(kdim=8, vdim=8), 4),
    "multihead, causal": (lambda: Multihead({"attn_mask": CAUSAL, "is_causal": True, "need_weights": False}), 4),
    "multihead, padding": (lambda: Multihead({"padding": True, "need_weights": False}), 4),
    "multihead, both masks": (lambda: Multihead({"padding": True, "attn_mask": CAUSAL}), 4),
    "multihead, added rows": (lambda: Multihead({"padding": True}, add_bias_kv=True, add_zero_attn=True), 4),
}


def randomise(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.ndim == 1 else max(parameter.shape[1:]) ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + (parameter.ndim == 1))
    return model.eval()


def outputs(model, inputs):
    with torch.no_grad():
        return [each for each in output_tensors(call_model(model, inputs)) if each.is_floating_point()]


def in_type(inputs, dtype):
    def converted(tensor):
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return {name: converted(each) for name, each in inputs.items()} if isinstance(inputs, dict) else converted(inputs)


def half(space, density=0.5, seed=0):
    return space.random(density, "layerwise", torch.Generator().manual_seed(seed), on_empty="keep_one")


def check_exact(model, inputs, space):
    """Masked equals pruned in both types; a pruned network trains; its MACs are those of the space."""
    randomise(model)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        model, given = model.to(dtype), in_type(inputs, dtype)
        for density in (0.9, 0.5, 0.2):
            mask = half(space, density)
            small = prune(model, space, mask)
            with space.applied(model, mask):
                masked = outputs(model, given)
            for full, pruned in zip(masked, outputs(small, given), strict=True):
                assert float((full - pruned).abs().max()) <= tolerance * float(full.std())
    assert space.kept_macs(mask) == macs(small, given)
    before = [parameter.detach().clone() for parameter in small.parameters()]
    loss = sum(each.square().mean() for each in output_tensors(call_model(small.train(), given)))
    loss.backward()
    torch.optim.SGD(small.parameters(), 0.1).step()
    assert any(not torch.equal(old, new) for old, new in zip(before, small.parameters(), strict=True))
    return small.eval(), mask


def heads(space, word="attention"):
    return [layer.size for layer in space.layers if word in layer.name]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_attention_has_heads_as_units(name, tmp_path):
    make, n = FORMS[name]
    model = Block(make(), hidden=8).eval()
    space = filter_space(model, TOKENS)
    assert heads(space) == [n], space
    small, mask = check_exact(model, TOKENS, space)
    save_pruned(tmp_path, small, space, mask)
    back = load_pruned(tmp_path, Block(make(), hidden=8))
    torch.testing.assert_close(outputs(back, TOKENS)[0], outputs(small, TOKENS)[0])


def test_a_removed_head_takes_its_rows_biases_and_columns_and_numbers_follow():
    model = randomise(Block(Separate()))
    space = filter_space(model, TOKENS)
    mask = ms.Mask(space, torch.tensor([True, False, True, True]))
    small = prune(model, space, mask)
    assert small.attention.query.weight.shape == (12, 16)
    assert small.attention.value.bias.shape == (12,)
    assert small.attention.out.weight.shape == (16, 12)
    kept = torch.arange(16).view(4, 4)[[0, 2, 3]].flatten()
    torch.testing.assert_close(small.attention.key.weight, model.attention.key.weight[kept])
    numbers = vars(small.attention)
    assert (numbers["num_attention_heads"], numbers["all_head_size"], numbers["attention_head_size"]) == (3, 12, 4)
    assert model.attention.num_attention_heads == 4


def test_queries_of_a_removed_key_value_head_go_with_it():
    space = filter_space(Block(Grouped(2, False)).eval(), TOKENS)
    kept = space.parameter_masks(ms.Mask(space, torch.tensor([False, True])))
    assert kept["attention.q.weight"][:, 0].tolist() == [False] * 8 + [True] * 8
    assert kept["attention.k.weight"][:, 0].tolist() == [False] * 4 + [True] * 4
    assert kept["attention.o.weight"][0].tolist() == [False] * 8 + [True] * 8


def test_queries_of_one_key_value_head_go_one_by_one():
    class MultiQuery(Grouped):
        def forward(self, x):
            q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            k, v = (each.expand(-1, q.shape[1], -1, -1) for each in (k, v))
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model = Block(MultiQuery(1, False)).eval()
    space = filter_space(model, TOKENS)
    assert [layer.name for layer in space.layers] == ["attention.q"]
    check_exact(model, TOKENS, space)


def test_at_least_one_head_stays():
    model = Block(Packed()).eval()
    space = filter_space(model, TOKENS)
    with pytest.raises(ms.InputError, match="at least 1 unit"):
        prune(model, space, ms.Mask(space, torch.zeros(4, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("make", "left", "reason"),
    [
        (lambda: Separate(norm=True), [], "LayerNorm 'attention.norm' normalises over channels"),
        (lambda: Separate(mix=True), ["attention.value"], "sum in Separate 'attention' reduces over channels"),
        (Strict, [], "no change of attn_dim, num_heads makes"),
    ],
    ids=["norm over all heads", "mixed heads", "a forward pass that insists on its width"],
)
def test_heads_that_can_not_go_are_left_out_with_the_reason(make, left, reason):
    space = filter_space(Block(make(), hidden=8).eval(), TOKENS)
    assert [layer.name for layer in space.layers] == [*left, "mlp.0"]
    assert any(reason in why for layer, why in space.left_out if layer.startswith("attention"))


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layers_with_fewer_heads_take_their_slow_path(norm_first):
    layer = nn.TransformerEncoderLayer(D, H, 24, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
    model = randomise(nn.Sequential(nn.Linear(6, D), encoder, nn.Linear(D, 3)))
    space = filter_space(model, TOKENS)
    assert heads(space, "self_attn") == [4, 4]
    small, mask = check_exact(model, TOKENS, space)
    assert isinstance(small[1].layers[0].self_attn, PrunedMultiheadAttention)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    model, tokens = model.double(), torch.randn(2, 5, D, dtype=torch.float64)
    small = prune(model, space, mask)
    with torch.inference_mode(), space.applied(model, mask):
        full = encoder(tokens, src_key_padding_mask=padding)
        pruned = small[1](tokens, src_key_padding_mask=padding)
    torch.testing.assert_close(full[~padding][:8], pruned[~padding][:8])


def test_encoder_and_decoder_of_a_transformer():
    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(6, D), nn.Linear(D, 3)
            self.transformer = nn.Transformer(D, H, 1, 2, 24, batch_first=True)

        def forward(self, tokens):
            tokens = self.embed(tokens)
            return self.head(self.transformer(tokens, tokens[:, :3]))

    model = Translator().eval()
    space = filter_space(model, TOKENS)
    assert heads(space, "attn") == [4] * 5
    check_exact(model, TOKENS, space)


def test_a_network_is_pruned_twice_and_loaded_into_a_fresh_one(tmp_path):
    model = randomise(Block(Separate()))
    first = filter_space(model, TOKENS)
    small = prune(model, first, ms.Mask(first, torch.tensor([True, False, True, True])))
    second = filter_space(small, TOKENS)
    assert heads(second) == [3]
    smaller = prune(small, second, mask := ms.Mask(second, torch.tensor([True, False, True])))
    assert smaller.attention.num_attention_heads == 2
    save_pruned(tmp_path, smaller, second, mask)
    torch.testing.assert_close(outputs(load_pruned(tmp_path, copy.deepcopy(small)), TOKENS), outputs(smaller, TOKENS))


def test_sizes_of_views_are_changed_again_in_a_second_pruning_and_survive_pickling_and_export():
    model = randomise(Block(FromShape()))
    first = filter_space(model, TOKENS)
    small = prune(model, first, ms.Mask(first, torch.tensor([True, False, True, True])))
    second = filter_space(small, TOKENS)
    check_exact(small, TOKENS, second)
    smaller = prune(small.float(), second, ms.Mask(second, torch.tensor([True, False, True])))
    assert smaller.attention.qkv.weight.shape == (24, 16)
    again = pickle.loads(pickle.dumps(copy.deepcopy(smaller)))
    torch.testing.assert_close(outputs(again, TOKENS), outputs(smaller, TOKENS))
    exported = torch.export.export(smaller, (TOKENS,)).module()
    torch.testing.assert_close(exported(TOKENS), outputs(smaller, TOKENS)[0])


def test_heads_are_scored():
    model = randomise(Block(Multihead()))
    space = filter_space(model, TOKENS)
    sums = space.unit_sums({name: each.detach().abs() for name, each in model.named_parameters()})
    assert sums.shape == (4,)
    assert (sums > 0).all()
    assert (
        space.unit_costs("macs").tolist()
        == [(space.kept_macs(space.full()) - least) / 3 for least in (one_head(space),)] * 4
    )


def one_head(space):
    return space.kept_macs(ms.Mask(space, torch.tensor([True, False, False, False])))


# Networks of other packages, from small configurations.
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
def test_heads_of_other_packages_networks(name, tmp_path):
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
