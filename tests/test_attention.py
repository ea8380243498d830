"""The reference of 02_attention against PyTorch and transformers, and its invariants."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from week1_decoder.solutions.attention import (
    MultiHeadAttention,
    attention,
    causal_mask,
    multi_head_attention,
    softmax,
)

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # one float32 operation


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 2**20), st.sampled_from([-3, -2, -1, 0, 1, 2]), st.sampled_from([1e-3, 1.0, 1e4]))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_softmax_equals_torch_and_sums_to_one(seed, dim, scale):
    x = scale * random(2, 3, 4, seed=seed)
    torch.testing.assert_close(softmax(x, dim), torch.softmax(x, dim), **CLOSE)
    torch.testing.assert_close(softmax(x, dim).sum(dim), torch.ones_like(x.sum(dim)), **CLOSE)


def test_softmax_does_not_change_when_all_scores_shift():
    x = random(5, 7)
    torch.testing.assert_close(softmax(x + 100.0, -1), softmax(x, -1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("n_query", "n_key"), [(1, 1), (1, 7), (3, 7), (7, 7)])
def test_attention_equals_the_fused_kernel(n_query, n_key, causal):
    q, k, v = random(2, 3, n_query, 8), random(2, 3, n_key, 8, seed=1), random(2, 3, n_key, 5, seed=2)
    mask = causal_mask(n_query, n_key) if causal else None
    torch.testing.assert_close(attention(q, k, v, causal), F.scaled_dot_product_attention(q, k, v, mask), **CLOSE)


def test_the_gradients_equal_those_of_the_fused_kernel():
    leaves = [random(2, 5, 8, seed=seed).requires_grad_() for seed in range(3)]
    ours = torch.autograd.grad(attention(*leaves).square().sum(), leaves)
    theirs = torch.autograd.grad(F.scaled_dot_product_attention(*leaves, is_causal=True).square().sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_later_token_changes_no_earlier_output():
    q, k, v = random(6, 4), random(6, 4, seed=1), random(6, 4, seed=2)
    before = attention(q, k, v)
    k[4:], v[4:] = 9.0, 9.0
    torch.testing.assert_close(attention(q, k, v)[:4], before[:4], rtol=0, atol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention_equals_the_library(masked):
    d_model, n_heads = 24, 4
    x = random(2, 6, d_model)
    weights = [random(d_model, d_model, seed=seed) / math.sqrt(d_model) for seed in range(1, 5)]
    key_mask = torch.tensor([[True] * 6, [True, False, True, True, False, True]]) if masked else None
    library = nn.MultiheadAttention(d_model, n_heads, bias=False, batch_first=True)
    with torch.no_grad():
        library.in_proj_weight.copy_(torch.cat([w.T for w in weights[:3]]))
        library.out_proj.weight.copy_(weights[3].T)
    padding = None if key_mask is None else ~key_mask
    theirs, _ = library(x, x, x, key_padding_mask=padding, attn_mask=~causal_mask(6, 6), need_weights=False)
    torch.testing.assert_close(multi_head_attention(x, *weights, n_heads, key_mask), theirs, **CLOSE)


def test_the_module_equals_transformers_gpt2_attention():
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

    config = GPT2Config(n_embd=24, n_head=4, attn_pdrop=0.0, resid_pdrop=0.0, attn_implementation="eager")
    theirs = GPT2Attention(config, layer_idx=0).eval()
    ours = MultiHeadAttention(24, 4).eval()
    with torch.no_grad():
        for index, layer in enumerate((ours.w_q, ours.w_k, ours.w_v)):
            columns = slice(24 * index, 24 * (index + 1))
            layer.weight.copy_(theirs.c_attn.weight[:, columns].T)
            layer.bias.copy_(theirs.c_attn.bias[columns])
        ours.w_o.weight.copy_(theirs.c_proj.weight.T)
        ours.w_o.bias.copy_(theirs.c_proj.bias)
    x = random(2, 5, 24)
    hidden = torch.zeros(5, 5).masked_fill(~causal_mask(5, 5), -torch.inf)[None, None]
    torch.testing.assert_close(ours(x), theirs(x, attention_mask=hidden)[0], **CLOSE)


def test_left_padding_changes_no_real_token():
    module = MultiHeadAttention(12, 3).eval()
    x = random(1, 4, 12)
    padded = torch.cat([random(1, 3, 12, seed=1), x], dim=1)
    key_mask = torch.tensor([[False] * 3 + [True] * 4])
    torch.testing.assert_close(module(padded, key_mask)[:, 3:], module(x), **CLOSE)


def test_the_module_works_on_other_devices_and_dtypes():
    module = MultiHeadAttention(12, 3)
    assert module.to(torch.float64)(random(1, 4, 12).double()).dtype == torch.float64
    assert module.to(torch.bfloat16)(random(1, 4, 12).bfloat16()).dtype == torch.bfloat16
    on_meta = MultiHeadAttention(12, 3).to("meta")
    assert on_meta(torch.empty(2, 5, 12, device="meta")).shape == (2, 5, 12)
