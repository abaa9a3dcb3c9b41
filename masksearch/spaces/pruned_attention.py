"""``nn.MultiheadAttention`` after pruning, with fewer heads than its ``embed_dim`` asks for."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PrunedMultiheadAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` without pruned heads: the same parameter names, call and results.

    The heads keep their size, ``head_dim``: ``embed_dim`` of the inputs and outputs is more than ``num_heads *
    head_dim``. ``nn.TransformerEncoderLayer`` calls this module in its slow path, as its fast path has no such heads.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (output, attention weights or None), as ``nn.MultiheadAttention`` does.

        A mask per head (n * num_heads, l, s) needs the remaining heads only.
        """
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        heads = [self._heads(part, source) for part, source in enumerate((query, key, value))]
        mask = self._mask(query, key_padding_mask, attn_mask)
        queries, keys, values = heads
        if self.bias_k is not None and self.bias_v is not None:
            keys, values = (
                torch.cat([each, row.view(1, 1, -1, self.head_dim).transpose(1, 2).expand(len(each), -1, -1, -1)], 2)
                for each, row in ((keys, self.bias_k), (values, self.bias_v))
            )
        if self.add_zero_attn:
            keys, values = (F.pad(each, (0, 0, 0, 1)) for each in (keys, values))
        if mask is not None:
            mask = F.pad(mask, (0, keys.shape[2] - mask.shape[-1]))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = queries @ keys.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            mixed = weights @ values
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, mask, dropout)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return (output if self.batch_first else output.transpose(0, 1)), weights

    def _heads(self, part: int, source: Tensor) -> Tensor:
        """Return queries (part 0), keys (1) or values (2) of a source (n, s, features): (n, heads, s, head_dim)."""
        if self.in_proj_weight is not None:
            weight = self.in_proj_weight.chunk(3)[part]
        else:
            weight = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)[part]
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[part]
        return F.linear(source, weight, bias).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _mask(self, query: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Return both masks as one that is added to the scores (n, heads, l, s); None without masks."""
        total = None
        if mask is not None:
            total = _added(mask, query)
            total = total.unflatten(0, (-1, self.num_heads)) if total.dim() == 3 and len(total) > 1 else total
        if padding is not None:
            each = _added(padding, query)[:, None, None]
            total = each if total is None else total + each
        return total


def _added(mask: Tensor, query: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    return torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill(mask, -math.inf)


def fit_attention(model: nn.Module) -> None:
    """Replace each ``nn.MultiheadAttention`` that pruning made smaller by a :class:`PrunedMultiheadAttention`.

    ``nn.TransformerEncoder`` does not get nested tensors any more, which only the fast path of its layers takes.
    """
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            width, rows = module.out_proj.weight.shape
            if (rows, width) != (module.num_heads * module.head_dim, module.embed_dim):
                module.__class__ = PrunedMultiheadAttention
                module.num_heads, module.embed_dim = rows // module.head_dim, width
                module._qkv_same_embed_dim = False  # then nn.TransformerEncoderLayer takes its slow path
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            pruned = any(isinstance(inner, PrunedMultiheadAttention) for inner in module.modules())
            module.use_nested_tensor = module.use_nested_tensor and not pruned
