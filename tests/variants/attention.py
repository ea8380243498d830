"""Right answers to the exercises of 02_attention, written in other ways than the reference."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def softmax__by_logsumexp(x, dim):
    return (x - torch.logsumexp(x, dim=dim, keepdim=True)).exp()


def softmax__axis_moved_last(x, dim):
    rows = x.movedim(dim, -1)
    e = torch.exp(rows - torch.max(rows, -1).values.unsqueeze(-1))
    return (e / torch.einsum("...i->...", e)[..., None]).movedim(-1, dim)


def causal_mask__tril(n_query, n_key):
    return torch.ones(n_query, n_key, dtype=torch.bool).tril(n_key - n_query)


def causal_mask__rows_by_loop(n_query, n_key):
    rows = []
    for i in range(n_query):
        seen = n_key - n_query + i + 1
        rows.append([True] * seen + [False] * (n_key - seen))
    return torch.tensor(rows)


def attention__additive_mask(q, k, v, causal=True):
    scores = torch.einsum("...qd,...kd->...qk", q * q.size(-1) ** -0.5, k)
    if causal:
        hidden = torch.full(scores.shape[-2:], float("-inf"), dtype=q.dtype)
        scores = scores + hidden.triu(1 + k.shape[-2] - q.shape[-2])
    return torch.einsum("...qk,...kd->...qd", F.softmax(scores, -1), v)


def attention__one_query_at_a_time(q, k, v, causal=True):
    n_query, n_key = q.shape[-2], k.shape[-2]
    rows = []
    for i in range(n_query):
        end = n_key - n_query + i + 1 if causal else n_key
        scores = (q[..., i : i + 1, :] * k[..., :end, :]).sum(-1) / math.sqrt(q.shape[-1])
        rows.append((scores.softmax(-1)[..., None] * v[..., :end, :]).sum(-2))
    return torch.stack(rows, dim=-2)


def attention__fused_kernel(q, k, v, causal=True):
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril(k.shape[-2] - q.shape[-2]) if causal else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def multi_head_attention__head_by_head(x, w_q, w_k, w_v, w_o, n_heads, key_mask=None):
    batch, seq, d_model = x.shape
    d_head = d_model // n_heads
    mask = torch.zeros(batch, seq, seq)
    mask.masked_fill_(torch.ones(seq, seq).triu(1).bool(), -torch.inf)
    if key_mask is not None:
        mask.masked_fill_(~key_mask[:, None, :], -torch.inf)
    out = torch.zeros_like(x)
    for h in range(n_heads):
        columns = slice(h * d_head, (h + 1) * d_head)
        q, k, v = x @ w_q[:, columns], x @ w_k[:, columns], x @ w_v[:, columns]
        weights = torch.softmax(q @ k.mT / d_head**0.5 + mask, dim=-1)
        out = out + weights @ v @ w_o[columns]
    return out


def multi_head_attention__fused_kernel(x, w_q, w_k, w_v, w_o, n_heads, key_mask=None):
    batch, seq, d_model = x.shape
    q, k, v = (x @ torch.cat([w_q, w_k, w_v], dim=1)).split(d_model, dim=2)
    q, k, v = (t.view(batch, seq, n_heads, -1).transpose(1, 2) for t in (q, k, v))
    mask = torch.tril(torch.ones(seq, seq)).bool().expand(batch, 1, seq, seq)
    if key_mask is not None:
        mask = mask.logical_and(key_mask.view(batch, 1, 1, seq))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).reshape(batch, seq, d_model) @ w_o


class _Projections(nn.Module):
    def __init__(self, d_model, n_heads, bias=True, dropout=0.0):
        super().__init__()
        if d_model % n_heads != 0:
            raise ValueError("d_model must be a multiple of n_heads")
        for name in ("w_q", "w_k", "w_v", "w_o"):
            setattr(self, name, nn.Linear(d_model, d_model, bias=bias))
        self.n_heads, self.p = n_heads, dropout


class MultiHeadAttention__fused_kernel(_Projections):
    def forward(self, x, key_mask=None):
        batch, seq, d_model = x.shape
        q, k, v = (w(x).view(batch, seq, self.n_heads, -1).transpose(1, 2) for w in (self.w_q, self.w_k, self.w_v))
        visible = torch.ones(seq, seq, dtype=torch.bool).tril()[None, None]
        if key_mask is not None:
            visible = visible & key_mask[:, None, None]
        bias = torch.zeros(visible.shape).masked_fill(~visible, -1e30)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=self.p if self.training else 0.0)
        return self.w_o(out.transpose(1, 2).flatten(2))


class MultiHeadAttention__padding_zeroed(_Projections):
    """Rows in which everything is hidden come out as the bias of w_o: finite, and as good as any other value."""

    def forward(self, x, key_mask=None):
        batch, seq, d_model = x.shape
        d_head = d_model // self.n_heads
        q, k, v = (w(x).reshape(batch, seq, self.n_heads, d_head) for w in (self.w_q, self.w_k, self.w_v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(d_head)
        hidden = torch.triu(torch.ones(seq, seq, dtype=torch.bool), 1)
        if key_mask is not None:
            hidden = hidden | ~key_mask[:, None, None, :]
        e = torch.exp(scores - scores.amax(-1, keepdim=True)).masked_fill(hidden, 0.0)
        weights = e / e.sum(-1, keepdim=True).clamp_min(1e-30)
        weights = F.dropout(weights, self.p, self.training)
        return self.w_o(torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape))
