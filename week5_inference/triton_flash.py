"""Attention in tiles as one GPU kernel, forward only, in Triton: the algorithm of `flash_attention`, tile by tile.

`flash_attention_triton(q, k, v, causal)` -> (out, logsumexp). Each program of the grid takes one tile of queries of one
head, walks over the tiles of keys, and keeps its running maximum, sum and output in registers. Dao et al. 2022,
algorithm 1, with the loop over queries spread over the GPU (Dao 2023, section 3.2).

Triton comes with PyTorch's CUDA builds for Linux. Without it, or without a GPU, the call raises RuntimeError and says
so. TRITON_INTERPRET=1 in the environment runs the kernel on a CPU, slowly, statement by statement: the tests do that.
"""

from __future__ import annotations

import os

import torch
from jaxtyping import Float
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

LOG2_E = 1.4426950408889634  # the GPU has an instruction for 2^x, and e^x = 2^(x log2 e)


def why_not(device: torch.device | str) -> str:
    """Why the kernel cannot run on tensors of this device; empty where it can."""
    if triton is None:
        return "Triton is not installed: it comes with PyTorch's CUDA builds for Linux"
    if torch.device(device).type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the kernel runs on a CUDA GPU, and the tensors are on {device}"
    return ""


if triton is not None:

    @triton.jit
    def _forward(
        q_ptr, k_ptr, v_ptr, out_ptr, logsumexp_ptr,
        n_query, n_key, scale_log2,
        D_HEAD: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    ):  # fmt: skip
        """One tile of QUERIES queries of one head. All tensors are contiguous, (head, seq, D_HEAD)."""
        head, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)  # int64: head · n · d may pass 2^31
        rows = tile * QUERIES + tl.arange(0, QUERIES)
        columns = tl.arange(0, KEYS)
        numbers = tl.arange(0, D_HEAD)
        q_at = q_ptr + head * n_query * D_HEAD + rows[:, None] * D_HEAD + numbers[None, :]
        q = tl.load(q_at, mask=rows[:, None] < n_query, other=0.0)
        k_head, v_head = k_ptr + head * n_key * D_HEAD, v_ptr + head * n_key * D_HEAD

        m = tl.full([QUERIES], float("-inf"), tl.float32)
        total = tl.zeros([QUERIES], tl.float32)
        o = tl.zeros([QUERIES, D_HEAD], tl.float32)
        position = rows + n_key - n_query  # the last query is at the position of the last key
        stop = n_key
        if CAUSAL:  # tiles of keys after the tile's last query are left out
            stop = tl.minimum(n_key, tile * QUERIES + QUERIES + n_key - n_query)
        for start in range(0, stop, KEYS):
            keys = start + columns
            k_at = k_head + keys[None, :] * D_HEAD + numbers[:, None]  # transposed as it is read
            k = tl.load(k_at, mask=keys[None, :] < n_key, other=0.0)
            scores = tl.dot(q, k, input_precision="ieee") * scale_log2
            visible = keys[None, :] < n_key
            if CAUSAL:
                visible = visible & (keys[None, :] <= position[:, None])
            scores = tl.where(visible, scores, float("-inf"))
            new_m = tl.maximum(m, tl.max(scores, 1))  # finite: key 0 is visible to every query
            weights = tl.exp2(scores - new_m[:, None])
            shrink = tl.exp2(m - new_m)
            total = total * shrink + tl.sum(weights, 1)
            v_at = v_head + keys[:, None] * D_HEAD + numbers[None, :]
            v = tl.load(v_at, mask=keys[:, None] < n_key, other=0.0)
            o = o * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            m = new_m

        out_at = out_ptr + head * n_query * D_HEAD + rows[:, None] * D_HEAD + numbers[None, :]
        tl.store(out_at, (o / total[:, None]).to(out_ptr.dtype.element_ty), mask=rows[:, None] < n_query)
        natural = (m + tl.log2(total)) / 1.4426950408889634  # back from powers of 2 to powers of e
        tl.store(logsumexp_ptr + head * n_query + rows, natural, mask=rows < n_query)


def flash_attention_triton(
    q: Float[Tensor, "... query d_head"],
    k: Float[Tensor, "... key d_head"],
    v: Float[Tensor, "... key d_head"],
    causal: bool = True,
    queries: int = 64,
    keys: int = 64,
) -> tuple[Float[Tensor, "... query d_head"], Float[Tensor, "... query"]]:
    """(attention, log-sum-exp in float32); the last query sees the last key. d_head is 16, 32, 64 or 128.

    Raises RuntimeError where the kernel cannot run (`why_not` tells), ValueError for shapes or dtypes that do not fit.
    """
    d_head = q.shape[-1]
    if d_head not in (16, 32, 64, 128) or v.shape != k.shape or q.shape[:-2] != k.shape[:-2] or k.shape[-1] != d_head:
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        raise ValueError(f"q, k and v must have the same heads and a d_head of 16, 32, 64 or 128: {shapes}")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"float16, bfloat16 or float32, the same for all: got {q.dtype}, {k.dtype}, {v.dtype}")
    n_query, n_key = q.shape[-2], k.shape[-2]
    if min(n_query, n_key) < 1 or (causal and n_query > n_key):
        raise ValueError(f"each query must see a key: {n_query} queries, {n_key} keys, causal={causal}")
    reason = why_not(q.device)
    if reason:
        raise RuntimeError(f"{reason}. `flash_attention` does the same in PyTorch.")
    q, k, v = (x.contiguous() for x in (q, k, v))
    out, logsumexp = torch.empty_like(q), torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    grid = (q[..., 0, 0].numel(), triton.cdiv(n_query, queries))  # the second axis ends at 65,535
    _forward[grid](
        q, k, v, out, logsumexp, n_query, n_key, LOG2_E / d_head**0.5,
        D_HEAD=d_head, QUERIES=queries, KEYS=keys, CAUSAL=causal,
    )  # fmt: skip
    return out, logsumexp
