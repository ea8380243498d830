"""Week 5's 03_attention_kernels against PyTorch and transformers; invariants, memory, refusals, the Triton kernel."""

import importlib.util
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import AuxRequest, flex_attention
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from shared.course import ROOT
from tests.variants import attention_kernels as variants
from week1_decoder.solutions.attention import attention
from week5_inference import triton_flash
from week5_inference.memory import LiveBytes, flash_traffic, standard_traffic, tile_sizes
from week5_inference.rope_model import FILE, TRAINED_LENGTH, corpus_ids, load_rope_gpt, set_frequencies, windows
from week5_inference.solutions.attention_kernels import (
    FlashAttention,
    apply_rope,
    flash_attention,
    flash_attention_backward,
    interleaved_to_half,
    online_softmax,  # noqa: F401
    rope_frequencies,
)


def answers(name):
    """The reference, which this module imports, and the variants."""
    return [globals()[name], *(value for key, value in vars(variants).items() if key.startswith(f"{name}__"))]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def heads(n_query, n_key, d_head=16, dtype=torch.float32, seed=0, lead=(2, 3)):
    g = seeded(seed)
    shapes = ((n_query, d_head), (n_key, d_head), (n_key, d_head))
    return [(1.5 * torch.randn(*lead, *shape, generator=g, dtype=torch.float64)).to(dtype) for shape in shapes]


# --- rotary positions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rope", answers("apply_rope"))
@pytest.mark.parametrize("base", [10_000.0, 100_000.0])
def test_rope_equals_llamas_at_positions_of_each_row(rope, base):
    settings = {"rope_type": "default", "rope_theta": base}
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, rope_parameters=settings)
    q, k, _ = heads(9, 9, d_head=32)
    q, k = q[:, :2], k[:, :2]
    positions = torch.stack((torch.arange(9), torch.tensor([0, 0, 3, 4, 9, 90, 900, 2000, 8000])))
    cos, sin = LlamaRotaryEmbedding(config)(q, positions)
    for ours, theirs in zip((q, k), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        torch.testing.assert_close(rope(ours, positions[:, None], base), theirs, rtol=0, atol=5e-3)
        near = rope(ours, positions[:, None], base)[..., :6, :]
        torch.testing.assert_close(near, theirs[..., :6, :], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("rope", answers("apply_rope"))
def test_scores_depend_on_the_distance_only_and_lengths_stay(rope):
    q, k, _ = heads(1, 1, d_head=32)
    scores = torch.stack(
        [
            (rope(q, torch.tensor([start + 7])) * rope(k, torch.tensor([start]))).sum(dim=-1)
            for start in (0, 5, 100, 1000)
        ]
    )
    torch.testing.assert_close(scores, scores[:1].expand_as(scores), rtol=0, atol=2e-3)
    torch.testing.assert_close(rope(q, torch.tensor([1234])).norm(dim=-1), q.norm(dim=-1))


@pytest.mark.parametrize("rope", answers("apply_rope"))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rope_keeps_the_dtype_and_computes_angles_in_float32(rope, dtype):
    x = heads(4, 4, dtype=dtype)[0]
    positions = torch.tensor([0, 1, 30_000, 30_001])
    turned = rope(x, positions)
    assert turned.dtype == dtype
    torch.testing.assert_close(turned.float(), rope(x.float(), positions), rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("rope", answers("apply_rope"))
def test_rope_refuses_an_odd_head_dimension(rope):
    with pytest.raises(ValueError):
        rope(torch.zeros(2, 5), torch.arange(2))


@pytest.mark.parametrize("permute", answers("interleaved_to_half"))
@pytest.mark.parametrize("n_heads", [1, 3])
def test_the_two_layouts_give_the_same_scores_after_the_permutation(permute, n_heads):
    d_head, d_model, g = 8, 24, seeded(1)
    x = torch.randn(5, d_model, generator=g, dtype=torch.float64)
    w_q, w_k = torch.randn(2, n_heads * d_head, d_model, generator=g, dtype=torch.float64)
    frequencies = rope_frequencies(d_head, 10_000.0, 8, 8, "none").double()
    turn = torch.polar(torch.ones(5, d_head // 2, dtype=torch.float64), torch.arange(5)[:, None] * frequencies)

    def interleaved(w):  # as the RoFormer paper and Meta's code do it: neighbours are a complex number
        numbers = torch.view_as_complex((x @ w.T).view(5, n_heads, d_head // 2, 2))
        return torch.view_as_real(numbers * turn[:, None]).flatten(-2).transpose(0, 1)

    def half(w):
        return apply_rope((x @ permute(w, n_heads).T).view(5, n_heads, d_head).transpose(0, 1), torch.arange(5))

    expected = interleaved(w_q) @ interleaved(w_k).mT
    torch.testing.assert_close(half(w_q) @ half(w_k).mT, expected, rtol=1e-5, atol=1e-5)


def test_the_permutation_refuses_rows_that_do_not_fit():
    for rows, n_heads in ((6, 2), (8, 3), (8, 0)):
        with pytest.raises(ValueError, match="rows"):
            interleaved_to_half(torch.zeros(rows, 2), n_heads)


@pytest.mark.parametrize("frequencies", answers("rope_frequencies"))
@pytest.mark.parametrize(("trained", "new"), [(64, 64), (64, 256), (100, 250), (2048, 8192)])
def test_frequencies_equal_transformers(frequencies, trained, new):
    for method, kind, factor in (("interpolation", "linear", new / trained), ("ntk", "dynamic", 1.0)):
        config = LlamaConfig(
            hidden_size=64,
            num_attention_heads=2,
            max_position_embeddings=trained,
            rope_parameters={"rope_type": kind, "rope_theta": 10_000.0, "factor": factor},
        )
        theirs, scale = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=new)
        assert scale == 1.0
        torch.testing.assert_close(frequencies(32, 10_000.0, trained, new, method), theirs, rtol=1e-5, atol=1e-9)


def test_interpolation_squeezes_positions_and_ntk_keeps_the_first_and_divides_the_last_frequency():
    plain, squeezed, ntk = (rope_frequencies(16, 10_000.0, 64, 256, m) for m in ("none", "interpolation", "ntk"))
    x = heads(5, 5)[0]
    positions = torch.tensor([0, 1, 100, 200, 255])
    torch.testing.assert_close(
        apply_rope(x, positions, frequencies=squeezed), apply_rope(x, positions / 4), rtol=1e-4, atol=1e-4
    )
    assert ntk[0] == plain[0] == 1
    assert (ntk[-1] / plain[-1]).item() == pytest.approx(1 / 4, rel=1e-5)


def test_bad_settings_of_the_frequencies_are_refused():
    for arguments, word in (
        ((7, 1e4, 64, 128, "none"), "even"),
        ((8, 1e4, 64, 128, "yarn"), "method"),
        ((8, 1e4, 0, 128, "none"), "lengths"),
        ((2, 1e4, 64, 128, "ntk"), "at least 4"),
    ):
        with pytest.raises(ValueError, match=word):
            rope_frequencies(*arguments)


# --- attention in tiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("online", answers("online_softmax"))
@pytest.mark.parametrize("width", [1, 3, 7, 50])
def test_the_online_softmax_equals_torchs_whatever_the_blocks(online, width):
    scores = 30 * torch.randn(4, 23, generator=seeded(3))
    scores[:, :4] = -math.inf
    m, total = online(block.clone() for block in scores.split(width, dim=-1))
    torch.testing.assert_close((scores - m[:, None]).exp() / total[:, None], scores.softmax(dim=-1))
    torch.testing.assert_close(m + total.log(), scores.logsumexp(dim=-1))
    with pytest.raises(ValueError):
        online(iter(()))


@pytest.mark.parametrize("flash", answers("flash_attention"))
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("n_query", "n_key"), [(37, 37), (5, 37), (1, 37), (64, 64)])
def test_tiles_equal_sdpa_and_its_logsumexp(flash, causal, n_query, n_key):
    q, k, v = heads(n_query, n_key)
    mask = causal_lower_right(n_query, n_key) if causal else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    dense = mask._materialize("cpu") if causal and n_query != n_key else None
    added = None if dense is None else torch.where(dense, 0.0, -math.inf)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    _, theirs = kernel(q, k, v, 0.0, causal and n_query == n_key, attn_mask=added)
    for block in (1, 16, 100) if n_query < 64 else (16, 64):
        out, logsumexp = flash(q, k, v, block, causal)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(logsumexp, theirs.view(logsumexp.shape), rtol=1e-5, atol=2e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_tiles_equal_flex_attention_with_its_logsumexp():
    q, k, v = heads(32, 32)
    hide = lambda score, b, h, query, key: torch.where(key <= query, score, -math.inf)  # noqa: E731
    with torch.no_grad():
        expected, extra = flex_attention(q, k, v, score_mod=hide, return_aux=AuxRequest(lse=True))
    out, logsumexp = flash_attention(q, k, v, 8, True)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(logsumexp, extra.lse, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backward", answers("flash_attention_backward"))
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("n_query", "n_key"), [(21, 21), (5, 21)])
def test_gradients_equal_sdpas(backward, causal, n_query, n_key):
    q, k, v = (x.requires_grad_() for x in heads(n_query, n_key))
    mask = causal_lower_right(n_query, n_key) if causal else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    grad_out = torch.randn(expected.shape, generator=seeded(4))
    theirs = torch.autograd.grad(expected, (q, k, v), grad_out)
    q, k, v = (x.detach() for x in (q, k, v))
    for block in (1, 8, 64):
        out, logsumexp = flash_attention(q, k, v, block, causal)
        for ours, gradient in zip(backward(grad_out, q, k, v, out, logsumexp, block, causal), theirs, strict=True):
            torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_the_autograd_function_passes_gradcheck(causal):
    tensors = [x.requires_grad_() for x in heads(5, 7, d_head=3, dtype=torch.float64, lead=())]
    assert torch.autograd.gradcheck(lambda *x: FlashAttention.apply(*x, 3, causal)[0], tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_near_to_the_truth_as_sdpa(dtype):
    q, k, v = heads(50, 50, dtype=dtype)
    truth = attention(q.double(), k.double(), v.double())
    ours = (flash_attention(q, k, v, 16)[0].double() - truth).abs().max()
    theirs = (F.scaled_dot_product_attention(q, k, v, is_causal=True).double() - truth).abs().max()
    assert ours <= 1.5 * theirs + 1e-6


def test_bad_input_of_the_tiles_is_refused():
    q, k, v = heads(4, 4)
    for block in (0, -1, 2.0, None):
        with pytest.raises(ValueError, match="block"):
            flash_attention(q, k, v, block)
        with pytest.raises(ValueError, match="block"):
            flash_attention_backward(v, q, k, v, v, v[..., 0], block)
    for wrong in ((q[..., :3], k, v), (q, k[..., :3, :], v), (q[:1], k, v)):
        with pytest.raises(ValueError, match="do not fit"):
            flash_attention(*wrong, 2)
    with pytest.raises(ValueError, match="no more queries than keys"):
        flash_attention(q, k[..., :3, :], v[..., :3, :], 2, causal=True)
    with pytest.raises(ValueError, match="at least one"):
        flash_attention(q, k[..., :0, :], v[..., :0, :], 2, causal=False)


# --- memory and traffic ---------------------------------------------------------------------------------------------


def test_live_bytes_counts_what_is_alive_and_no_view_twice():
    with LiveBytes() as memory:
        a = torch.zeros(1000)
        b = a.view(10, 100)[2:]
        assert memory.live == 4000
        c = a + 1
        assert memory.live == memory.peak == 8000
        del a
        assert memory.live == 8000  # b still holds the storage
        del b, c
        assert memory.live == 0
    assert memory.peak == 8000 and memory.largest == 4000


@pytest.mark.parametrize("backward", [False, True])
def test_memory_grows_with_the_length_for_tiles_and_with_its_square_for_the_matrix(backward):
    def peak(attend, n):
        q, k, v = (x.requires_grad_() for x in heads(n, n, d_head=64, lead=(1, 1)))
        with LiveBytes() as memory:
            out = attend(q, k, v)
            if backward:
                out.sum().backward()
        return memory.peak

    lengths = [128, 256, 512]
    for attend, slope in ((attention, 2), (lambda q, k, v: FlashAttention.apply(q, k, v, 16, True)[0], 1)):
        found = np.polyfit(np.log(lengths), np.log([peak(attend, n) for n in lengths]), 1)[0]
        assert found == pytest.approx(slope, abs=0.25)  # the tiles themselves do not grow


def test_traffic_counts_as_in_the_paper():
    n, d = 1024, 64
    assert standard_traffic(n, d) == 4 * n * d + 4 * n * n
    assert tile_sizes(64, 4 * 64 * 100) == (100, 64)
    # Theorem 2: n² d² / fast. Twice the fast memory halves what is moved, twice the length makes it four times as much.
    moved = flash_traffic(n, d, 16_384)
    assert flash_traffic(n, d, 32_768) / moved == pytest.approx(0.5, abs=0.05)
    assert flash_traffic(2 * n, d, 16_384) / moved == pytest.approx(4, abs=0.1)
    with pytest.raises(ValueError, match="fast memory"):
        flash_traffic(n, d, 100)


# --- the small rotary model, and the GPU kernel ---------------------------------------------------------------------


def test_the_stored_model_is_small_and_interpolation_beats_plain_far_beyond_its_length():
    assert FILE.stat().st_size < 1_000_000
    model, about = load_rope_gpt()
    assert about["trained_length"] == TRAINED_LENGTH and about["command"].startswith("python -m")
    token_ids, targets = windows(corpus_ids(60_000, "validation"), 512, 8, seeded(5))

    def tail(method):
        set_frequencies(model, rope_frequencies(16, 10_000.0, TRAINED_LENGTH, 512, method))
        with torch.no_grad():
            return F.cross_entropy(model(token_ids)[:, 256:].transpose(1, 2), targets[:, 256:]).item()

    assert min(tail("interpolation"), tail("ntk")) < tail("none") - 0.1


def test_the_kernel_says_why_it_cannot_run():
    q, k, v = heads(4, 4)
    if triton_flash.why_not("cpu"):
        with pytest.raises(RuntimeError, match="flash_attention"):
            triton_flash.flash_attention_triton(q, k, v)
    for wrong in ((q[..., :3],) * 3, (q.double(), k.double(), v.double()), (q, k[..., :3, :], v[..., :3, :])):
        with pytest.raises(ValueError):
            triton_flash.flash_attention_triton(*wrong)


INTERPRETED = """
import torch
from week5_inference.solutions.attention_kernels import flash_attention
from week5_inference.triton_flash import flash_attention_triton
for causal in (True, False):
    for n_query, n_key in ((40, 40), (5, 37), (1, 33)):
        g = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(2, n, 16, generator=g) for n in (n_query, n_key, n_key))
        for ours, theirs in zip(flash_attention_triton(q, k, v, causal, 16, 16), flash_attention(q, k, v, 8, causal)):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-6)
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernel_equals_the_tiles_in_tritons_interpreter():
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.skipif(bool(triton_flash.why_not("cuda")) or not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_kernel_equals_sdpa_on_a_gpu():
    q, k, v = (x.cuda() for x in heads(200, 200, d_head=64, dtype=torch.float16))
    out, _ = triton_flash.flash_attention_triton(q, k, v)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, is_causal=True), rtol=1e-2, atol=1e-2)
