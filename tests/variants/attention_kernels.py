"""Right answers to lesson 03 of week 5, written otherwise: they must pass."""

import math

import torch
from einops import rearrange

from week5_inference.solutions.attention_kernels import check_d_head, check_tiles


def apply_rope__rotate_half(x, positions, base=10000.0, frequencies=None):
    """As transformers writes it: x cos + rotate_half(x) sin with the angles twice."""
    check_d_head(x.shape[-1])
    half = x.shape[-1] // 2
    if frequencies is None:
        frequencies = 1.0 / base ** (torch.arange(half).float() * 2 / x.shape[-1])
    angles = torch.einsum("...s,f->...sf", positions.float(), frequencies.float())
    angles = torch.cat((angles, angles), dim=-1)
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x.float() * angles.cos() + rotated.float() * angles.sin()).type_as(x)


def apply_rope__complex(x, positions, base=10000.0, frequencies=None):
    """A turn is a product with a complex number of length 1."""
    d_head = x.shape[-1]
    if d_head % 2 == 1:
        raise ValueError("odd")
    if frequencies is None:
        exponents = torch.arange(d_head // 2, dtype=torch.float32) / (d_head / 2)
        frequencies = torch.exp(-math.log(base) * exponents)
    angles = positions.to(torch.float32).unsqueeze(-1) * frequencies
    turn = torch.polar(torch.ones_like(angles), angles)
    real = x if x.dtype == torch.float64 else x.float()
    numbers = torch.complex(real[..., : d_head // 2], real[..., d_head // 2 :]) * turn
    return torch.cat((numbers.real, numbers.imag), dim=-1).to(x.dtype)


def interleaved_to_half__index(weight, n_heads):
    rows = weight.shape[0]
    if rows % n_heads or (rows // n_heads) % 2:
        raise ValueError("rows")
    d_head = rows // n_heads
    order = [h * d_head + r for h in range(n_heads) for r in [*range(0, d_head, 2), *range(1, d_head, 2)]]
    return weight[torch.tensor(order)]


def interleaved_to_half__einops(weight, n_heads):
    if weight.shape[0] % (2 * n_heads):
        raise ValueError("rows")
    return rearrange(weight, "(head pair two) ... -> (head two pair) ...", head=n_heads, two=2).contiguous()


def rope_frequencies__by_positions(d_head, base, trained_length, new_length, method):
    """Each frequency is computed alone, in Python's floats."""
    check_d_head(d_head)
    if method not in ["none", "interpolation", "ntk"]:
        raise ValueError(method)
    s = new_length / trained_length if new_length > trained_length else 1.0
    found = []
    for i in range(d_head // 2):
        theta = math.pow(base, -2 * i / d_head)
        if method == "interpolation":
            theta /= s
        elif method == "ntk":
            theta *= s ** (-2 * i / (d_head - 2))
        found.append(theta)
    return torch.tensor(found)


def rope_frequencies__logs(d_head, base, trained_length, new_length, method):
    if d_head % 2 or method not in ("none", "interpolation", "ntk"):
        raise ValueError("bad input")
    log_s = max(math.log(new_length) - math.log(trained_length), 0.0)
    log_base = math.log(base) + (log_s * d_head / (d_head - 2) if method == "ntk" else 0.0)
    exponents = torch.linspace(0, (d_head - 2) / d_head, d_head // 2)
    return torch.exp(-log_base * exponents - (log_s if method == "interpolation" else 0.0))


def online_softmax__logsumexp(blocks):
    """The sum is kept as its logarithm."""
    m = total = None
    for block in blocks:
        high, log_sum = block.max(dim=-1).values, torch.logsumexp(block, dim=-1)
        m = high if m is None else torch.maximum(m, high)
        total = log_sum if total is None else torch.logaddexp(total, log_sum)
    if m is None:
        raise ValueError("no scores")
    return m, torch.where(m == -math.inf, torch.zeros_like(m), torch.exp(total - m))


def online_softmax__one_score_at_a_time(blocks):
    m, total = None, None
    for block in blocks:
        for score in block.clone().unbind(dim=-1):
            if m is None:
                m, total = torch.full_like(score, -math.inf), torch.zeros_like(score)
            grows = score > m
            total = torch.where(grows, total * torch.exp(m - score) + 1, total + torch.exp(score - m).nan_to_num(0.0))
            m = torch.where(grows, score, m)
    if m is None:
        raise ValueError("no scores")
    return m, total


def flash_attention__keys_outside(q, k, v, block, causal=True):
    """The paper's order: keys in the outer loop, every tile of queries divided at once and kept normalized."""
    check_tiles(q, k, v, block, causal)
    n_query, n_key = q.shape[-2], k.shape[-2]
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=kind)
    m = torch.full(q.shape[:-1], -math.inf, dtype=kind)
    total = torch.zeros(q.shape[:-1], dtype=kind)
    for j in range(0, n_key, block):
        k_tile, v_tile = k[..., j : j + block, :].to(kind), v[..., j : j + block, :].to(kind)
        for i in range(0, n_query, block):
            rows = slice(i, min(i + block, n_query))
            query = torch.arange(rows.start, rows.stop) + n_key - n_query
            if causal and j > query[-1]:
                continue
            s = torch.einsum("...qd,...kd->...qk", q[..., rows, :].to(kind), k_tile) * q.shape[-1] ** -0.5
            if causal:
                s = s.masked_fill(torch.arange(j, j + k_tile.shape[-2]) > query[:, None], -1e30)
            high = torch.maximum(m[..., rows], s.amax(-1))
            p = torch.exp(s - high.unsqueeze(-1))
            old = torch.exp(m[..., rows] - high) * total[..., rows]
            new = old + p.sum(-1)
            out[..., rows, :] = (old.unsqueeze(-1) * out[..., rows, :] + p @ v_tile) / new.unsqueeze(-1)
            m[..., rows], total[..., rows] = high, new
    return out.to(q.dtype), m + torch.log(total)


def flash_attention__log_weights(q, k, v, block, causal=True):
    """Each tile's own attention and log-sum-exp, joined by their log-sum-exps: as parts of a cache are joined."""
    check_tiles(q, k, v, block, causal)
    n_query, n_key = q.shape[-2], k.shape[-2]
    kind = torch.promote_types(q.dtype, torch.float32)
    outs, logs = [], []
    for start in range(0, n_query, block):
        q_tile = q[..., start : start + block, :].to(kind) / math.sqrt(q.shape[-1])
        out, log = None, None
        for j in range(0, n_key, block):
            if causal and j - n_key >= start + q_tile.shape[-2] - n_query:
                break
            s = q_tile @ k[..., j : j + block, :].to(kind).mT
            if causal:
                after = torch.arange(j, j + s.shape[-1]) - n_key > torch.arange(s.shape[-2])[:, None] + start - n_query
                s = s.masked_fill(after, -math.inf)
            part_log = torch.logsumexp(s, dim=-1)
            part = torch.nan_to_num(torch.softmax(s, dim=-1)) @ v[..., j : j + block, :].to(kind)
            if log is None:
                out, log = part, part_log
            else:
                joined = torch.logaddexp(log, part_log)
                out = out * (log - joined).exp()[..., None] + part * (part_log - joined).exp()[..., None]
                log = joined
        outs.append(out)
        logs.append(log)
    return torch.cat(outs, dim=-2).to(q.dtype), torch.cat(logs, dim=-1)


def flash_attention_backward__keys_outside(grad_out, q, k, v, out, logsumexp, block, causal=True):
    """The paper's order, with lists of finished tiles of dk and dv."""
    check_tiles(q, k, v, block, causal)
    kind = torch.promote_types(q.dtype, torch.float32)
    scale, shift = q.shape[-1] ** -0.5, k.shape[-2] - q.shape[-2]
    delta = torch.einsum("...d,...d->...", grad_out.to(kind), out.to(kind))
    dq, dks, dvs = torch.zeros(q.shape, dtype=kind), [], []
    for j in range(0, k.shape[-2], block):
        k_tile, v_tile = k[..., j : j + block, :].to(kind), v[..., j : j + block, :].to(kind)
        dk_tile, dv_tile = torch.zeros_like(k_tile), torch.zeros_like(v_tile)
        for i in range(0, q.shape[-2], block):
            rows = slice(i, i + block)
            q_tile, g = q[..., rows, :].to(kind), grad_out[..., rows, :].to(kind)
            p = torch.exp(scale * q_tile @ k_tile.mT - logsumexp[..., rows].unsqueeze(-1))
            if causal:
                query = torch.arange(i, i + q_tile.shape[-2])[:, None] + shift
                p = torch.where(torch.arange(j, j + k_tile.shape[-2]) <= query, p, 0.0)
            ds = p * (g @ v_tile.mT - delta[..., rows].unsqueeze(-1)) * scale
            dq[..., rows, :] += ds @ k_tile
            dk_tile += ds.mT @ q_tile
            dv_tile += p.mT @ g
        dks.append(dk_tile)
        dvs.append(dv_tile)
    return dq.to(q.dtype), torch.cat(dks, dim=-2).to(k.dtype), torch.cat(dvs, dim=-2).to(v.dtype)


def flash_attention_backward__rows_of_queries(grad_out, q, k, v, out, logsumexp, block, causal=True):
    """A tile of queries against all keys that it sees, in one piece of block × key scores, by autograd."""
    check_tiles(q, k, v, block, causal)
    kind = torch.promote_types(q.dtype, torch.float32)
    shift = k.shape[-2] - q.shape[-2]
    grads = [torch.zeros(x.shape, dtype=kind) for x in (q, k, v)]
    for i in range(0, q.shape[-2], block):
        rows = slice(i, i + block)
        leaves = [x.detach().to(kind).requires_grad_() for x in (q[..., rows, :], k, v)]
        with torch.enable_grad():
            s = leaves[0] @ leaves[1].mT / math.sqrt(q.shape[-1])
            if causal:
                hidden = torch.arange(k.shape[-2]) > torch.arange(i, i + s.shape[-2])[:, None] + shift
                s = s.masked_fill(hidden, -math.inf)
            made = s.softmax(dim=-1) @ leaves[2]
        dq, dk, dv = torch.autograd.grad(made, leaves, grad_out[..., rows, :].to(kind))
        grads[0][..., rows, :] = dq
        grads[1] += dk
        grads[2] += dv
    return tuple(gradient.to(x.dtype) for gradient, x in zip(grads, (q, k, v), strict=True))
