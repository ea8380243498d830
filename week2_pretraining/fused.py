"""Week 1's attention and LayerNorm over the same parameters, computed by PyTorch's fused kernels."""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class FusedAttention(nn.Module):
    """The four projections of a `MultiHeadAttention`, with scaled_dot_product_attention between them.

    The kernel reads and writes tiles, and never keeps the (query, key) matrix for the backward pass (week 5). Rows
    have no padding here: ValueError for a `key_mask`.
    """

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.n_heads = attention.n_heads
        self.w_q, self.w_k, self.w_v, self.w_o = attention.w_q, attention.w_k, attention.w_v, attention.w_o

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], key_mask: None = None
    ) -> Float[Tensor, "batch seq d_model"]:
        if key_mask is not None:
            raise ValueError("FusedAttention is for rows without padding; it takes no key_mask")
        q, k, v = (
            rearrange(project(x), "batch seq (head d_head) -> batch head seq d_head", head=self.n_heads)
            for project in (self.w_q, self.w_k, self.w_v)
        )
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.w_o(rearrange(heads, "batch head seq d_head -> batch seq (head d_head)"))


def fused_norm(norm: nn.Module) -> nn.LayerNorm:
    """nn.LayerNorm with the parameters of week 1's."""
    fused = nn.LayerNorm(norm.weight.shape, norm.eps, bias=norm.bias is not None)
    fused.weight, fused.bias = norm.weight, norm.bias
    return fused


def fuse(model: nn.Module) -> nn.Module:
    """Replace attention and norms of a GPT in place; parameters, their names and the logits stay what they were."""
    for block in model.blocks:
        block.attention = FusedAttention(block.attention)
        block.norm_1, block.norm_2 = fused_norm(block.norm_1), fused_norm(block.norm_2)
    model.final_norm = fused_norm(model.final_norm)
    return model
