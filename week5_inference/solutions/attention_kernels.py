"""Rotary positions and their extension; attention in tiles, forward and backward, without the matrix of scores."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def check_d_head(d_head: int) -> None:
    """Raise ValueError unless the numbers of a head can be put into pairs."""
    if d_head < 2 or d_head % 2:
        raise ValueError(f"RoPE turns pairs of numbers, so d_head must be even and at least 2; got {d_head}")


def apply_rope(
    x: Float[Tensor, "... seq d_head"],
    positions: Int[Tensor, "... seq"] | Float[Tensor, "... seq"],
    base: float = 10000.0,
    frequencies: Float[Tensor, " pairs"] | None = None,
) -> Float[Tensor, "... seq d_head"]:
    """Turn pair i, (a, b) = (x[i], x[i + d_head/2]), by position · θ_i with θ_i = base^(-2i/d_head): the half layout.

    (a, b) -> (a cos - b sin, b cos + a sin). Su et al. 2021, eq. 15 and 34. `positions` broadcasts against x without
    its last axis; `frequencies` takes the place of θ. Angles, sines and cosines are float32; x's dtype is kept.
    Raises ValueError for an odd d_head. Example: x=[1, 0], position 1 -> [cos 1, sin 1].
    """
    check_d_head(x.shape[-1])
    # BEGIN SOLUTION
    d_head = x.shape[-1]
    if frequencies is None:
        frequencies = base ** (-torch.arange(0, d_head, 2, device=x.device, dtype=torch.float32) / d_head)
    angles = positions.to(x.device, torch.float32)[..., None] * frequencies.to(x.device)  # (... seq, d_head / 2)
    cos, sin = angles.cos(), angles.sin()
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
    # END SOLUTION


def interleaved_to_half(weight: Float[Tensor, "d_out ..."], n_heads: int) -> Float[Tensor, "d_out ..."]:
    """Reorder the rows of w_q or w_k: in each head, rows 0, 2, 4, … first, then 1, 3, 5, … A bias has rows too.

    Weights made for RoPE on the pairs (0, 1), (2, 3), … then work with `apply_rope`, whose pairs are (i, i + d_head/2).
    Raises ValueError unless each head has an even number of rows. Example: one head, rows [a, b, c, d] -> [a, c, b, d].
    """
    if n_heads < 1 or weight.shape[0] % (2 * n_heads):
        raise ValueError(f"{weight.shape[0]} rows do not make {n_heads} heads with an even number of rows each")
    # BEGIN SOLUTION
    rest = weight.shape[1:]
    pairs = weight.reshape(n_heads, -1, 2, *rest)  # (head, pair, which of the two, ...)
    return pairs.transpose(1, 2).reshape(-1, *rest)
    # END SOLUTION


def rope_frequencies(
    d_head: int, base: float, trained_length: int, new_length: int, method: str
) -> Float[Tensor, " pairs"]:
    """θ_i for a context of new_length, given a model trained on trained_length; s = new_length / trained_length, or 1.

    "none": base^(-2i/d_head). "interpolation": the same divided by s (Chen et al. 2023, eq. 4). "ntk": the base is
    multiplied by s^(d_head/(d_head - 2)), so that θ_0 stays and the last θ is divided by s. s is never below 1.
    Raises ValueError for another method, an odd d_head (for "ntk", one below 4) or a length below 1.
    """
    check_d_head(d_head)
    if method not in ("none", "interpolation", "ntk"):
        raise ValueError(f'method must be "none", "interpolation" or "ntk", got {method!r}')
    if min(trained_length, new_length) < 1:
        raise ValueError(f"lengths must be at least 1, got trained_length={trained_length}, new_length={new_length}")
    if method == "ntk" and d_head < 4:
        raise ValueError(f'"ntk" keeps the first frequency, changes the last: d_head must be at least 4, got {d_head}')
    # BEGIN SOLUTION
    stretch = max(1.0, new_length / trained_length)
    if method == "ntk":
        base = base * stretch ** (d_head / (d_head - 2))
    frequencies = base ** (-torch.arange(0, d_head, 2, dtype=torch.float32) / d_head)
    return frequencies / stretch if method == "interpolation" else frequencies
    # END SOLUTION


def online_softmax(
    blocks: Iterable[Float[Tensor, "... block"]],
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """(m, l), the maximum of all scores and Σ exp(score - m), from blocks of scores that come once and are not kept.

    Milakov and Gimelshein 2018, algorithm 3: m' = max(m, max block), l' = l exp(m - m') + Σ exp(block - m').
    Blocks may differ in width, and may be the same memory filled anew. Scores may be -inf (hidden); where all are, m is
    -inf and l is 0. Raises ValueError if no block comes. Example: [[0., 1.]], [[3.]] -> [3.], [1 + e^-2 + e^-3].
    """
    # BEGIN SOLUTION
    m = None
    for block in blocks:
        if m is None:
            m, l = block.new_full(block.shape[:-1], -math.inf), block.new_zeros(block.shape[:-1])  # noqa: E741
        new_m = torch.maximum(m, block.amax(dim=-1))
        shift = new_m.masked_fill(new_m == -math.inf, 0.0)  # -inf - (-inf) would be nan
        l = l * (m - shift).exp() + (block - shift[..., None]).exp().sum(dim=-1)  # noqa: E741
        m = new_m
    if m is None:
        raise ValueError("the softmax of no scores is not defined: at least one block must come")
    return m, l
    # END SOLUTION


# --- attention in tiles ----------------------------------------------------------------------------------------


def check_tiles(q: Tensor, k: Tensor, v: Tensor, block: int, causal: bool) -> None:
    """Raise ValueError for a block below 1, shapes that do not fit, or a query that could see no key."""
    if not isinstance(block, int) or block < 1:
        raise ValueError(f"block must be a whole number of at least 1, got {block!r}")
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if q.shape[:-2] != k.shape[:-2] or k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q (..., query, d_head), k (..., key, d_head) and v (..., key, d_value) do not fit: {shapes}")
    if min(q.shape[-2], k.shape[-2]) < 1:
        raise ValueError(f"there must be at least one query and one key: {shapes}")
    if causal and q.shape[-2] > k.shape[-2]:
        raise ValueError(f"causal attention needs no more queries than keys, else the first see no key: {shapes}")


def tile_scores(
    q_tile: Float[Tensor, "... query d_head"],
    k_tile: Float[Tensor, "... key d_head"],
    query_position: int,
    key_position: int,
    causal: bool,
) -> Float[Tensor, "... query key"]:
    """q kᵀ / √d_head of one tile, in float32 or better, and -inf where a key comes after a query.

    The two positions are those of the tile's first query and first key, both counted on the axis of the keys.
    """
    kind = torch.promote_types(q_tile.dtype, torch.float32)
    scores = q_tile.to(kind) @ k_tile.to(kind).transpose(-2, -1) / math.sqrt(q_tile.shape[-1])
    n_query, n_key = scores.shape[-2:]
    if causal and key_position + n_key - 1 > query_position:  # else the whole tile is visible
        query = query_position + torch.arange(n_query, device=scores.device)[:, None]
        scores = scores.masked_fill(key_position + torch.arange(n_key, device=scores.device) > query, -math.inf)
    return scores


def flash_attention(
    q: Float[Tensor, "... query d_head"],
    k: Float[Tensor, "... key d_head"],
    v: Float[Tensor, "... key d_value"],
    block: int,
    causal: bool = True,
) -> tuple[Float[Tensor, "... query d_value"], Float[Tensor, "... query"]]:
    """(attention, log Σ exp of each query's scores), from block × block tiles. The last query sees the last key.

    Dao et al. 2022, algorithm 1, with the queries in the outer loop. Running maximum, sum and output are in float32 (or
    float64) and so is the log-sum-exp; the output has q's dtype. Tiles that lie in the future are not computed.
    Raises ValueError for a block below 1, shapes that do not fit, or, if causal, more queries than keys.
    """
    check_tiles(q, k, v, block, causal)
    # BEGIN SOLUTION
    kind = torch.promote_types(q.dtype, torch.float32)
    n_query, n_key = q.shape[-2], k.shape[-2]
    out = q.new_empty(*q.shape[:-1], v.shape[-1])
    logsumexp = q.new_empty(q.shape[:-1], dtype=kind)
    for i in range(0, n_query, block):
        q_tile = q[..., i : i + block, :]
        position = i + n_key - n_query  # the last query is at the position of the last key
        m = q_tile.new_full(q_tile.shape[:-1], -math.inf, dtype=kind)
        l = torch.zeros_like(m)  # noqa: E741
        o = q_tile.new_zeros(*m.shape, v.shape[-1], dtype=kind)  # Σ exp(score - m) v, not yet divided by l
        for j in range(0, min(n_key, position + q_tile.shape[-2]) if causal else n_key, block):
            scores = tile_scores(q_tile, k[..., j : j + block, :], position, j, causal)
            new_m = torch.maximum(m, scores.amax(dim=-1))
            weights = (scores - new_m[..., None]).exp()
            shrink = (m - new_m).exp()  # what was summed up so far was relative to the old maximum
            l = l * shrink + weights.sum(dim=-1)  # noqa: E741
            o = o * shrink[..., None] + weights @ v[..., j : j + block, :].to(kind)
            m = new_m
        out[..., i : i + block, :] = o / l[..., None]
        logsumexp[..., i : i + block] = m + l.log()
    return out, logsumexp
    # END SOLUTION


def flash_attention_backward(
    grad_out: Float[Tensor, "... query d_value"],
    q: Float[Tensor, "... query d_head"],
    k: Float[Tensor, "... key d_head"],
    v: Float[Tensor, "... key d_value"],
    out: Float[Tensor, "... query d_value"],
    logsumexp: Float[Tensor, "... query"],
    block: int,
    causal: bool = True,
) -> tuple[Float[Tensor, "... query d_head"], Float[Tensor, "... key d_head"], Float[Tensor, "... key d_value"]]:
    """(dq, dk, dv): each tile's weights are computed again, P = exp(scores - logsumexp), and never kept.

    dv = Pᵀ dO, dP = dO vᵀ, dS = P ∘ (dP - D) with D = rowsum(dO ∘ O), dq = dS k / √d_head, dk = dSᵀ q / √d_head.
    Dao et al. 2022, algorithm 4 and appendix B.2. Sums in float32 or better, results in the dtypes of q, k and v.
    Raises ValueError as `flash_attention` does.
    """
    check_tiles(q, k, v, block, causal)
    # BEGIN SOLUTION
    kind = torch.promote_types(q.dtype, torch.float32)
    n_query, n_key = q.shape[-2], k.shape[-2]
    dq, dk, dv = (torch.zeros_like(x, dtype=kind) for x in (q, k, v))
    grad_out = grad_out.to(kind)
    row_sums = (grad_out * out.to(kind)).sum(dim=-1, keepdim=True)  # D, eq. 4 of appendix B
    scale = 1 / math.sqrt(q.shape[-1])
    for i in range(0, n_query, block):
        queries = slice(i, i + block)
        q_tile, d_tile = q[..., queries, :].to(kind), grad_out[..., queries, :]
        position = i + n_key - n_query
        for j in range(0, min(n_key, position + q_tile.shape[-2]) if causal else n_key, block):
            keys = slice(j, j + block)
            k_tile, v_tile = k[..., keys, :].to(kind), v[..., keys, :].to(kind)
            scores = tile_scores(q_tile, k_tile, position, j, causal)
            weights = (scores - logsumexp[..., queries, None]).exp()
            d_scores = weights * (d_tile @ v_tile.transpose(-2, -1) - row_sums[..., queries, :])
            dv[..., keys, :] += weights.transpose(-2, -1) @ d_tile
            dq[..., queries, :] += scale * (d_scores @ k_tile)
            dk[..., keys, :] += scale * (d_scores.transpose(-2, -1) @ q_tile)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)
    # END SOLUTION


class FlashAttention(torch.autograd.Function):
    """`flash_attention` for autograd: keeps q, k, v, the output and one number a query, not the weights."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, block: int, causal: bool) -> tuple[Tensor, Tensor]:
        out, logsumexp = flash_attention(q, k, v, block, causal)
        ctx.save_for_backward(q, k, v, out, logsumexp)
        ctx.block, ctx.causal = block, causal
        ctx.mark_non_differentiable(logsumexp)
        return out, logsumexp

    @staticmethod
    def backward(ctx, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *flash_attention_backward(grad_out, *ctx.saved_tensors, ctx.block, ctx.causal), None, None
