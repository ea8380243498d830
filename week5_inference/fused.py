"""The cached pass of a GPT in few, large operations: the same logits, with less time between them."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class FusedForward:
    """What `cached_forward` computes, for one model: one product for q, k, v; a kernel each for norms, attention, GELU.

    The weights are copied once, so make a new one when the model has changed. A model of a million parameters does
    little work in each operation; most of a step is the time to start them, and here are fewer than half as many.
    """

    def __init__(self, model: nn.Module) -> None:
        config = model.config
        if config.norm_placement != "pre" or config.norm != "layernorm" or config.positions not in ("learned", "none"):
            raise ValueError(f"only for GPTs with layer norms before the sublayers, got {config}")
        self.model, self.config, self.layers = model, config, []
        for block in model.blocks:
            maps = (block.attention.w_q, block.attention.w_k, block.attention.w_v)
            bias = torch.cat([one.bias for one in maps]).detach() if config.bias else None
            projections = partial(F.linear, weight=torch.cat([one.weight for one in maps]).detach(), bias=bias)
            inner, outer = linear(block.feed_forward.w_in), linear(block.feed_forward.w_out)
            w_o, norm_1, norm_2 = linear(block.attention.w_o), norm(block.norm_1), norm(block.norm_2)
            self.layers.append((norm_1, projections, w_o, norm_2, inner, outer))
        self.final_norm, self.token_embedding = norm(model.final_norm), model.token_embedding.weight
        self.position_embedding = model.position_embedding.weight if config.positions == "learned" else None

    def __call__(
        self,
        model: nn.Module,
        token_ids: Int[Tensor, "batch new"],
        cache,
        real: Bool[Tensor, "batch new"] | None = None,
    ) -> Float[Tensor, "batch new vocab"]:
        if model is not self.model:
            raise ValueError("these are the fused weights of another model")
        batch, new = token_ids.shape
        x = F.embedding(token_ids, self.token_embedding)
        if self.position_embedding is not None:
            before = torch.arange(new, device=x.device) if real is None else real.cumsum(dim=1) - 1
            x = x + F.embedding((cache.lengths[:, None] + before).clamp(min=0), self.position_embedding)
        n_heads, d_head = self.config.n_heads, self.config.d_head
        for layer, (norm_1, projections, w_o, norm_2, w_in, w_out) in enumerate(self.layers):
            heads = projections(norm_1(x)).view(batch, new, -1, d_head).transpose(1, 2)
            n_kv_heads = (heads.shape[1] - n_heads) // 2
            q, k, v = heads.split((n_heads, n_kv_heads, n_kv_heads), dim=1)
            k, v, visible = cache.append(layer, k, v, real)
            # A query that sees no key is padding: its numbers are never read, and reach no other row or position.
            mixed = F.scaled_dot_product_attention(q, k, v, visible[:, None], enable_gqa=n_kv_heads != n_heads)
            x = x + w_o(mixed.transpose(1, 2).reshape(batch, new, -1))
            x = x + w_out(F.gelu(w_in(norm_2(x)), approximate="tanh"))
        return F.linear(self.final_norm(x), self.token_embedding)


def norm(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return partial(
        F.layer_norm, normalized_shape=layer.weight.shape, weight=layer.weight, bias=layer.bias, eps=layer.eps
    )


def linear(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return partial(F.linear, weight=layer.weight, bias=layer.bias)
