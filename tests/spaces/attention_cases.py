"""Small networks with attention of all forms, and a check that masked and pruned networks are equal."""

import torch
import torch.nn.functional as F
from torch import nn

from masksearch.cost import macs
from masksearch.pruning.physical import prune
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
    """Check that masked equals pruned in both types, and that a pruned network trains and has the MACs of the space."""
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
