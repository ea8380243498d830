"""Right answers to lesson 02 of week 5, written otherwise: they must pass."""

import math

import torch
import torch.nn.functional as F

from week2_pretraining.solutions.sampling import inference, next_token_probs
from week5_inference.solutions.kv_cache import cached_forward, check_heads, check_prompts, empty_cache


def grouped_query_attention__repeated_keys(q, k, v, visible=None):
    check_heads(q, k, v)
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    bias = torch.zeros(q.shape[0], 1, q.shape[2], k.shape[2], dtype=q.dtype)
    if visible is not None:
        bias = bias.masked_fill(~visible[:, None], -1e30)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def grouped_query_attention__head_by_head(q, k, v, visible=None):
    check_heads(q, k, v)
    out = []
    for head in range(q.shape[1]):
        kv_head = head * k.shape[1] // q.shape[1]
        scores = torch.einsum("bqd,bkd->bqk", q[:, head], k[:, kv_head]) / math.sqrt(q.shape[-1])
        weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
        if visible is not None:
            weights = weights * visible
        out.append(weights / (weights.sum(dim=-1, keepdim=True) + 1e-30) @ v[:, kv_head])
    return torch.stack(out, dim=1)


class KVCache__lists:
    """For each layer and row a list of (position, key, value)."""

    def __init__(self, n_layers, batch, n_kv_heads, d_head, capacity, window=None, dtype=torch.float32, device="cpu"):
        self.n_layers, self.batch, self.capacity, self.window = n_layers, batch, capacity, window
        self.shape, self.dtype = (n_kv_heads, d_head), dtype
        self.rows = [[[] for _ in range(batch)] for _ in range(n_layers)]

    @property
    def lengths(self):
        last = self.rows[-1]
        return torch.tensor([row[-1][0] + 1 if row else 0 for row in last])

    @property
    def bytes(self):
        slots = min(self.capacity, self.window or self.capacity)
        return 2 * self.n_layers * self.batch * slots * math.prod(self.shape) * self.dtype.itemsize

    def append(self, layer, k, v, real=None):
        batch, _, new, _ = k.shape
        if batch != self.batch or (k.shape[1], k.shape[3]) != self.shape:
            raise ValueError("another shape")
        real = [[True] * new] * batch if real is None else real.tolist()
        rows = self.rows[layer]
        starts = [row[-1][0] + 1 if row else 0 for row in rows]
        if any(start + sum(mask) > self.capacity for start, mask in zip(starts, real, strict=True)):
            raise ValueError("full")
        placed = [[] for _ in range(batch)]
        for b in range(batch):
            for column in range(new):
                if real[b][column]:
                    position = rows[b][-1][0] + 1 if rows[b] else 0
                    entry = (x[b, :, column].to(self.dtype, copy=True) for x in (k, v))
                    rows[b].append((position, *entry))
                placed[b].append(rows[b][-1][0] if real[b][column] else -1)
        n_keys = max(map(len, rows))
        keys, values = torch.zeros(2, batch, self.shape[0], n_keys, self.shape[1], dtype=self.dtype)
        visible = torch.zeros(batch, new, n_keys, dtype=torch.bool)
        for b in range(batch):
            for i, (position, key, value) in enumerate(rows[b]):
                keys[b, :, i], values[b, :, i] = key, value
                for column, mine in enumerate(placed[b]):
                    visible[b, column, i] = position <= mine and (self.window is None or mine - position < self.window)
            if self.window is not None:
                rows[b][:] = rows[b][-self.window :]
        return keys.to(k.dtype), values.to(k.dtype), visible

    def reset(self, rows=None):
        for layer in self.rows:
            for b in range(self.batch) if rows is None else rows:
                layer[b].clear()

    def truncate(self, lengths):
        if (lengths > self.lengths).any():
            raise ValueError("longer")
        for layer in self.rows:
            for b, length in enumerate(lengths.tolist()):
                layer[b][:] = [entry for entry in layer[b] if entry[0] < length]


class KVCache__positions_beside:
    """Keys of all tokens so far with their positions beside them; the mask does the rest; old ones are cut off."""

    def __init__(self, n_layers, batch, n_kv_heads, d_head, capacity, window=None, dtype=torch.float32, device="cpu"):
        self.args = n_layers, batch, n_kv_heads, d_head, min(capacity, window or capacity)
        self.capacity, self.window, self.dtype = capacity, window, dtype
        self.stored = [
            (
                torch.zeros(batch, n_kv_heads, 0, d_head, dtype=dtype),
                torch.zeros(batch, n_kv_heads, 0, d_head, dtype=dtype),
                torch.zeros(batch, 0, dtype=torch.long),
            )
            for _ in range(n_layers)
        ]
        self.lengths = torch.zeros(batch, dtype=torch.long)

    @property
    def bytes(self):
        return 2 * math.prod(self.args) * torch.empty((), dtype=self.dtype).element_size()

    def append(self, layer, k, v, real=None):
        n_layers, batch, n_kv_heads, d_head, _ = self.args
        if k.shape[:2] != (batch, n_kv_heads) or k.shape[-1] != d_head:
            raise ValueError("shape")
        real = torch.ones(batch, k.shape[2]).bool() if real is None else real
        ends = self.lengths + real.sum(1)
        if (ends > self.capacity).any():
            raise ValueError("full")
        mine = torch.where(real, self.lengths[:, None] + real.cumsum(1) - 1, -1)
        old_k, old_v, old = self.stored[layer]
        keys, values = torch.cat([old_k, k.to(self.dtype)], 2), torch.cat([old_v, v.to(self.dtype)], 2)
        there = torch.cat([old, mine], 1)
        distance = mine[:, :, None] - there[:, None, :]
        visible = (distance >= 0) & (there >= 0)[:, None, :] & (distance < (self.window or self.capacity))
        keep = slice(0, None)
        if self.window is not None:  # columns that no row will see again
            needed = (there > (ends[:, None] - self.window)).any(0).nonzero()
            keep = slice(int(needed.min()) if len(needed) else there.shape[1], None)
        self.stored[layer] = (keys[:, :, keep].clone(), values[:, :, keep].clone(), there[:, keep])
        if layer + 1 == n_layers:
            self.lengths = ends
        return keys.type_as(k), values.type_as(v), visible

    def forget(self, lengths):
        self.stored = [(k, v, torch.where(there < lengths[:, None], there, -1)) for k, v, there in self.stored]
        self.lengths = lengths

    def reset(self, rows=None):
        lengths = self.lengths.clone()
        lengths[range(len(lengths)) if rows is None else list(rows)] = 0
        self.forget(lengths)

    def truncate(self, lengths):
        if (lengths > self.lengths).any():
            raise ValueError("longer")
        self.forget(lengths.clone())


def cached_forward__fused_kernels(model, token_ids, cache, real=None):
    batch, new = token_ids.shape
    counts = torch.full((batch,), new) if real is None else real.sum(1)
    if int((cache.lengths + counts).max()) > model.config.context_length:
        raise ValueError("too long")
    mask = torch.ones(batch, new, dtype=torch.long) if real is None else real.long()
    positions = (cache.lengths.view(-1, 1) + mask.cumsum(1) - 1).clamp_min(0)
    x = model.token_embedding.weight[token_ids]
    if model.config.positions != "none":
        x = x + model.position_embedding.weight[positions]
    for i, block in enumerate(model.blocks):
        h, att = block.norm_1(x), block.attention
        q, k, v = (w(h).unflatten(-1, (-1, model.config.d_head)).transpose(1, 2) for w in (att.w_q, att.w_k, att.w_v))
        keys, values, visible = cache.append(i, k, v, real)
        bias = torch.zeros(visible.shape).masked_fill(~visible, -1e30)
        heads = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias[:, None])
        x = x + att.w_o(heads.transpose(1, 2).flatten(2))
        x = x + block.feed_forward(block.norm_2(x))
    return model.final_norm(x) @ model.token_embedding.weight.T


def cached_forward__token_by_token(model, token_ids, cache, real=None):
    """One column after the other, each through all layers."""
    if cache.lengths.max() + (token_ids.shape[1] if real is None else real.sum(1).max()) > model.config.context_length:
        raise ValueError("too long")
    columns = range(token_ids.shape[1])
    masks = [None if real is None else real[:, i : i + 1] for i in columns]
    return torch.cat([cached_forward(model, token_ids[:, i : i + 1], cache, masks[i]) for i in columns], dim=1)


def generate_cached__one_prompt_at_a_time(
    model, prompts, max_new_tokens, temperature=0.0, top_k=0, top_p=1.0, eos_id=None, generator=None, forward=None
):
    check_prompts(model, prompts, max_new_tokens)
    forward, found = forward or cached_forward, []
    for prompt in prompts:
        cache, row, new = empty_cache(model, 1), [], torch.tensor([list(prompt)])
        with inference(model):
            while len(row) < max_new_tokens and (not row or row[-1] != eos_id):
                logits = forward(model, new, cache)[:, -1]
                probs = next_token_probs(logits, temperature, top_k, top_p)
                row.append(int(torch.multinomial(probs, 1, generator=generator)))
                new = torch.tensor([row[-1:]])
        found.append(row)
    return found


def generate_cached__padded_on_the_left(
    model, prompts, max_new_tokens, temperature=0.0, top_k=0, top_p=1.0, eos_id=None, generator=None, forward=None
):
    check_prompts(model, prompts, max_new_tokens)
    forward = forward or cached_forward
    width = max(map(len, prompts))
    token_ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    real = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts])
    cache = empty_cache(model, len(prompts))
    columns = []
    with inference(model):
        for _ in range(max_new_tokens):
            probs = next_token_probs(forward(model, token_ids, cache, real)[:, -1], temperature, top_k, top_p)
            token_ids = torch.multinomial(probs, 1, generator=generator)
            real = torch.ones_like(token_ids, dtype=torch.bool)
            columns.append(token_ids[:, 0].tolist())
    rows = [list(row) for row in zip(*columns, strict=True)] or [[] for _ in prompts]
    return [row[: row.index(eos_id) + 1] if eos_id in row else row for row in rows]


def kv_cache_bytes__token_by_token(n_layers, n_kv_heads, d_head, tokens, batch=1, window=None, bytes_per_number=2):
    numbers = sum(n_kv_heads * d_head for _ in range(n_layers) for _ in ("key", "value"))
    kept = range(tokens)[-window:] if window else range(tokens)
    return int(batch * len(kept) * numbers * bytes_per_number)


def kv_cache_bytes__by_shape(n_layers, n_kv_heads, d_head, tokens, batch=1, window=None, bytes_per_number=2):
    shape = (2, n_layers, batch, n_kv_heads, min(tokens, window or tokens), d_head)
    return math.floor(torch.empty(shape, device="meta").numel() * bytes_per_number)
