"""GPT that predicts the next byte of a text: transformer blocks with causal attention, LayerNorm first."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ByteGpt", "byte_gpt"]

_HEADS, _LAYERS, _WIDTH = 8, 6, 256


class _Block(nn.Module):
    """Transformer block: causal attention and an MLP, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.rise, self.fall = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return a transformer block's output (batch, positions, width) for hidden states of the same shape."""
        x = self.before_attention(hidden)
        query, key, value = (
            layer(x).unflatten(-1, (_HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        mlp: Tensor = self.fall(F.gelu(self.rise(self.before_mlp(hidden))))
        return hidden + mlp


class ByteGpt(nn.Module):
    """GPT on bytes: at each position of windows of up to ``length`` bytes, 256 logits of the next byte."""

    def __init__(self, width: int, layers: int, length: int) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (batch, positions, 256) of each next byte, for bytes as int64 numbers (batch, positions)."""
        hidden = self.bytes(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


def byte_gpt(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """Build a GPT on bytes with 6 blocks of width 256 and 8 heads: 4.9 million parameters for windows of 256 bytes.

    ``shape`` is (length of a window,), ``width`` a multiplier; the width is a multiple of 8. ``classes`` is not used.
    """
    return ByteGpt(_HEADS * max(1, round(width * _WIDTH / _HEADS)), _LAYERS, shape[0])
