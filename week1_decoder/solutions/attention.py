"""Attention, from the softmax to the module that every later week uses."""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


def softmax(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """exp(x) / Σ exp(x) along `dim`, finite for inputs of any size.

    A constant taken from all scores of a row cancels, so the largest may become 0 before `exp`.
    Example: x=[0., 0.] -> [0.5, 0.5]; x=[1000., 0.] -> [1., 0.].
    """
    # BEGIN SOLUTION
    shifted = x - x.amax(dim=dim, keepdim=True)
    weights = shifted.exp()
    return weights / weights.sum(dim=dim, keepdim=True)
    # END SOLUTION


def causal_mask(n_query: int, n_key: int) -> Bool[Tensor, "query key"]:
    """True where a query may look: at its own position and before it. The last query sees the last key.

    Example: n_query=2, n_key=3 -> [[True, True, False], [True, True, True]].
    """
    # BEGIN SOLUTION
    offset = n_key - n_query
    query = torch.arange(n_query)[:, None]
    key = torch.arange(n_key)[None, :]
    return key <= query + offset
    # END SOLUTION


def attention(
    q: Float[Tensor, "... query d_head"],
    k: Float[Tensor, "... key d_head"],
    v: Float[Tensor, "... key d_value"],
    causal: bool = True,
) -> Float[Tensor, "... query d_value"]:
    """softmax(q kᵀ / √d_head) v; with `causal`, a query sees no key after its own position.

    Vaswani et al. 2017, eq. 1.
    """
    # BEGIN SOLUTION
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        visible = causal_mask(q.shape[-2], k.shape[-2]).to(q.device)
        scores = scores.masked_fill(~visible, -math.inf)
    return softmax(scores, dim=-1) @ v
    # END SOLUTION


def multi_head_attention(
    x: Float[Tensor, "batch seq d_model"],
    w_q: Float[Tensor, "d_model d_model"],
    w_k: Float[Tensor, "d_model d_model"],
    w_v: Float[Tensor, "d_model d_model"],
    w_o: Float[Tensor, "d_model d_model"],
    n_heads: int,
    key_mask: Bool[Tensor, "batch seq"] | None = None,
) -> Float[Tensor, "batch seq d_model"]:
    """concat(head_1 … head_h) W_o with head_i = causal attention on the i-th slice of x W_q, x W_k, x W_v.

    Heads are contiguous slices of the last axis. `key_mask` is True for real tokens; no query looks at the others.
    It leaves every query at least one key. Vaswani et al. 2017, section 3.2.2.
    """
    # BEGIN SOLUTION
    q, k, v = (
        rearrange(x @ w, "batch seq (head d_head) -> batch head seq d_head", head=n_heads) for w in (w_q, w_k, w_v)
    )
    visible = causal_mask(x.shape[1], x.shape[1]).to(x.device)
    if key_mask is not None:
        visible = visible & key_mask[:, None, None, :]
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    weights = softmax(scores.masked_fill(~visible, -math.inf), dim=-1)
    heads = rearrange(weights @ v, "batch head seq d_head -> batch seq (head d_head)")
    return heads @ w_o
    # END SOLUTION


class MultiHeadAttention(nn.Module):
    """Causal multi-head attention with its four projections `w_q, w_k, w_v, w_o` as `nn.Linear(d_model, d_model)`.

    `dropout` falls on the attention weights, in training only. A query that may see no key (the padding of a
    left-padded row) gets a finite output. ValueError if `n_heads` does not divide `d_model`.
    """

    def __init__(self, d_model: int, n_heads: int, bias: bool = True, dropout: float = 0.0):
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model={d_model} cannot be split into n_heads={n_heads} equal heads.")
        self.n_heads = n_heads
        self.w_q = nn.Linear(d_model, d_model, bias=bias)
        self.w_k = nn.Linear(d_model, d_model, bias=bias)
        self.w_v = nn.Linear(d_model, d_model, bias=bias)
        self.w_o = nn.Linear(d_model, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], key_mask: Bool[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "batch seq d_model"]:
        # BEGIN SOLUTION
        q, k, v = (
            rearrange(project(x), "batch seq (head d_head) -> batch head seq d_head", head=self.n_heads)
            for project in (self.w_q, self.w_k, self.w_v)
        )
        visible = causal_mask(x.shape[1], x.shape[1]).to(x.device)
        if key_mask is not None:
            visible = visible & key_mask[:, None, None, :]
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        # The lowest finite number, not -inf: a row in which everything is hidden stays finite.
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = self.dropout(softmax(scores, dim=-1))
        heads = rearrange(weights @ v, "batch head seq d_head -> batch seq (head d_head)")
        return self.w_o(heads)
        # END SOLUTION
