# %% [markdown]
# # Week 5, solved
#
# Every exercise of the week: the solution, why it is right, and its comparison with the library that people use for it. Try
# the lessons first; a solution that you have only read is soon forgotten. At the end the grader judges the solutions above,
# and then your own notebooks.
#
# Everything from outside is imported here, once. The grader puts what an answer needs back in the notebook's order, so a name
# that is imported again further down would come too late for the answers above.

# %% tags=["nbval-ignore-output"]
import json
import logging
import math
import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import bitsandbytes.functional as BF
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, Int8, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.utils import logging as transformers_logging

from shared.course import ROOT
from shared.data import stories
from shared.grading import grade
from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week2_pretraining.solutions.sampling import generate, inference, next_token_probs, sample_next_token
from week5_inference.solutions.attention_kernels import FlashAttention, check_d_head, check_tiles, tile_scores
from week5_inference.solutions.kv_cache import check_heads, check_prompts, empty_cache
from week5_inference.solutions.prompting import JSON_TYPES, EndlessToolLoop, Message, Tool, ToolError
from week5_inference.solutions.quantization import (
    check_grid,
    check_hessian,
    check_weight,
    int8_product,
    zero_point_dequantize,
)
from week5_inference.solutions.serving import (
    OutOfBlocks,
    Request,
    blocks_for,
    check_requests,
    check_speculation,
    static_batching,
)

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", message="`past_key_values` is deprecated")
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(ours: Tensor, theirs: Tensor, atol: float = 1e-5) -> bool:
    return bool((ours.float() - theirs.float()).abs().max() < atol)


gpt, tokenizer = load_pretrained(course_folder("base"), GPT)
library = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
gpt = gpt.eval()

# %% [markdown]
# ## 01 Prompting

# %% [markdown]
# ### `contextual_calibration`
#
# Dividing probabilities is subtracting their logarithms, and the last softmax makes each row sum to 1. The content-free inputs are averaged as
# probabilities, not as logarithms: it is their mean answer that the prompt is biased to.

# %% tags=["solution"]
from week5_inference.solutions.prompting import contextual_calibration

# %%
biased = torch.tensor([[0.7, 0.3], [0.6, 0.4]]).log()
free = torch.tensor([[0.8, 0.2], [0.6, 0.4]]).log()
by_hand = torch.tensor([[0.7 / 0.7, 0.3 / 0.3], [0.6 / 0.7, 0.4 / 0.3]])
print("equal to W p of the paper:", near(contextual_calibration(biased, free), by_hand / by_hand.sum(dim=1, keepdim=True)))

# %% [markdown]
# ### `majority_vote`
#
# A path from which nothing could be read has not voted for "nothing". `Counter` keeps the order of first appearance, so a tie goes to the answer
# that came first, on every machine.

# %% tags=["solution"]
from week5_inference.solutions.prompting import majority_vote

# %%
print(majority_vote([7.0, None, 5.0, 5.0, 7.0, 7.0]), majority_vote(["b", "a", "a", "b"]), majority_vote([None]))

# %% [markdown]
# ### `scratchpad_target`
#
# From the right, since a carry moves to the left: at each digit the model needs only what stands just before. That is what makes worked steps
# learnable where the sum at once is not.

# %% tags=["solution"]
from week5_inference.solutions.prompting import scratchpad_target

# %%
print(scratchpad_target(87, 5))

# %% [markdown]
# ### `parse_tool_call`
#
# Everything that a model can write wrong is one kind of error, with a sentence that the model can read. In JSON true is no number, but in Python
# `True` is an `int`: hence the extra test.

# %% tags=["solution"]
from week5_inference.solutions.prompting import parse_tool_call

# %%
tools = [Tool("add", "Adds two numbers.", {"a": "number", "b": "number"}, lambda a, b: a + b)]
for text in (
    '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>',
    "No tool is needed.",
    "<tool_call>add(2, 3)</tool_call>",
    '<tool_call>{"name": "sum", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"a": 2, "b": true}}</tool_call>',
):
    try:
        print(parse_tool_call(text, tools))
    except ToolError as error:
        print("ToolError:", error)

# %% [markdown]
# ### `run_tools`
#
# The `try` stands around parsing and calling alike, and not around the model: what the tool does wrong is for the model to read, what the model's code
# does wrong is for you. The loop is bounded by a `for`, so it cannot run for ever.

# %% tags=["solution"]
from week5_inference.solutions.prompting import run_tools

# %%
script = iter(["<tool_call>{}</tool_call>", '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>', "It is 5."])
for message in run_tools(lambda messages: next(script), tools, [{"role": "user", "content": "2 + 3?"}]):
    print(f"{message['role']}: {message['content']}")
try:
    run_tools(lambda messages: "<tool_call>", tools, [], max_steps=3)
except EndlessToolLoop as error:
    print("EndlessToolLoop:", error)

# %% [markdown]
# ## 02 The KV cache

# %% [markdown]
# ### `grouped_query_attention`
#
# One more axis for q, of length 1 in k and v: broadcasting lends each key head to its whole group, and nothing is copied.

# %% tags=["solution"]
from week5_inference.solutions.kv_cache import grouped_query_attention

# %%
q = torch.randn(2, 6, 3, 8, generator=seeded(0))
k, v = torch.randn(2, 2, 2, 5, 8, generator=seeded(1))
print("equal to SDPA's enable_gqa to 1e-5:", near(grouped_query_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, enable_gqa=True)))

# %% [markdown]
# ### `KVCache`
#
# Where the new tokens go is worked out once a step, at the first layer. As long as nothing has been overwritten, what is returned is a view.
# With a full window, the new tokens overwrite what the first of them still see, so what is read is put together before it is written.

# %% tags=["solution"]
from week5_inference.solutions.kv_cache import KVCache

# %%
cache = KVCache(n_layers=1, batch=2, n_kv_heads=1, d_head=4, capacity=9, window=3)
for real in ([[1, 1, 1], [1, 0, 0]], [[1, 1, 1], [1, 1, 0]]):
    keys, values, visible = cache.append(0, *torch.randn(2, 2, 1, 3, 4, generator=seeded(2)), torch.tensor(real).bool())
    print("lengths", cache.lengths.tolist(), "keys that each new token sees", visible.sum(dim=2).tolist())
print("bytes", cache.bytes)

# %% [markdown]
# ### `cached_forward`
#
# The model's own layers, in the model's own order. Only positions and attention know that there was something before.

# %% tags=["solution"]
from week5_inference.solutions.kv_cache import cached_forward

# %%
token_ids = torch.randint(0, 2000, (2, 20), generator=seeded(3))
cache, theirs, same = empty_cache(gpt, 2), DynamicCache(config=library.config), []
with torch.no_grad():
    for start, end in ((0, 12), (12, 13), (13, 20)):
        ours = cached_forward(gpt, token_ids[:, start:end], cache)
        expected = library(token_ids[:, start:end], past_key_values=theirs).logits
        same.append(near(ours, expected, 1e-4) and near(ours, gpt(token_ids)[:, start:end], 1e-4))
print("equal to the full pass and to transformers with DynamicCache, to 1e-4, in three pieces:", same)

# %% [markdown]
# ### `generate_cached`
#
# The prompts are padded on the right here, so the first new token of a row comes from the column of its last real one. Rows that have ended
# are fed on, with `real` False: their caches do not grow, and nobody reads their logits.

# %% tags=["solution"]
from week5_inference.solutions.kv_cache import generate_cached

# %%
prompts = [token_ids[0, :5].tolist(), token_ids[1].tolist()]
rows = generate_cached(gpt, prompts, 16)
plain = [generate(gpt, torch.tensor([p]), 16, temperature=0.0)[0, len(p) :].tolist() for p in prompts]
print("two prompts of 5 and 20 tokens, as week 2's generate writes them alone:", rows == plain)

# %% [markdown]
# ### `kv_cache_bytes`
#
# Keys and values, of each layer, row, key head and kept token.

# %% tags=["solution"]
from week5_inference.solutions.kv_cache import kv_cache_bytes

# %%
print(f"Llama 2 7B {kv_cache_bytes(32, 32, 128, 1):,} bytes a token, Llama 3 8B {kv_cache_bytes(32, 8, 128, 1):,}")

# %% [markdown]
# ## 03 Rotary positions and attention in tiles

# %% [markdown]
# ### `apply_rope`
#
# The first half of a head against the second: pair $i$ is (i, i + d/2). Angles in float32, whatever x is: in 16 bits, position 4,097 and 4,096 would be
# one.

# %% tags=["solution"]
from week5_inference.solutions.attention_kernels import apply_rope

# %%
x, y, positions = torch.randn(1, 2, 6, 8, generator=seeded(4)), torch.randn(1, 2, 6, 8, generator=seeded(5)), torch.arange(6)
angles = positions[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
cos, sin = torch.cat([angles, angles], dim=1)[None].cos(), torch.cat([angles, angles], dim=1)[None].sin()
print("equal to transformers' Llama to 1e-5:", near(apply_rope(x, positions), apply_rotary_pos_emb(x, y, cos, sin)[0]))
scores = [apply_rope(x, positions + shift) @ apply_rope(y, positions + shift).transpose(-2, -1) for shift in (0, 50)]
print("scores depend on distances only, to 1e-4:", near(*scores, 1e-4))

# %% [markdown]
# ### `interleaved_to_half`
#
# Only the order of rows within a head changes, of w_q and of w_k alike. Scores are sums over the head's numbers, and do not ask for their order.

# %% tags=["solution"]
from week5_inference.solutions.attention_kernels import interleaved_to_half

# %%
print(interleaved_to_half(torch.arange(8)[:, None], 2).flatten().tolist())

# %% [markdown]
# ### `rope_frequencies`
#
# Interpolation squeezes all positions into the trained range. NTK changes the base instead, by just so much that the slowest pair is squeezed as
# much, and the fastest not at all.

# %% tags=["solution"]
from week5_inference.solutions.attention_kernels import rope_frequencies

# %%
for method, kind in (("interpolation", "linear"), ("ntk", "dynamic")):
    config = LlamaConfig(hidden_size=32, num_attention_heads=2, max_position_embeddings=64)
    config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0 if kind == "linear" else 1.0}
    expected, _ = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=256)
    print(f"{method}: equal to transformers' {kind!r} to 1e-6:", near(rope_frequencies(16, 10000.0, 64, 256, method), expected, 1e-6))

# %% [markdown]
# ### `online_softmax`
#
# A new maximum makes all that was summed up so far too large by the same factor. So one product repairs it, and no score has to be kept.

# %% tags=["solution"]
from week5_inference.solutions.attention_kernels import online_softmax

# %%
scores = 50 * torch.randn(3, 40, generator=seeded(6))
m, l = online_softmax(scores.split(7, dim=1))
print("log of the sum equal to torch.logsumexp to 1e-4:", near(m + l.log(), scores.logsumexp(dim=1), 1e-4))

# %% [markdown]
# ### `flash_attention`
#
# `online_softmax` with one thing more to repair: the output so far. Tiles that lie wholly in the future are never computed.

# %% tags=["solution"]
from week5_inference.solutions.attention_kernels import flash_attention

# %%
q, k, v = torch.randn(3, 1, 2, 50, 16, generator=seeded(7))
out, logsumexp = flash_attention(q, k, v, block=16)
expected, expected_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, is_causal=True)[:2]
print("equal to SDPA's kernel to 1e-5:", near(out, expected), "and its log-sum-exp:", near(logsumexp, expected_lse))

# %% [markdown]
# ### `flash_attention_backward`
#
# The log-sum-exp is all that has to be kept to compute any tile of weights again. And the sum that the softmax's gradient needs,
# $\sum_j P_{ij}\, dP_{ij}$, is $dO_i \cdot O_i$: no pass over the keys.

# %% tags=["solution"]
from week5_inference.solutions.attention_kernels import flash_attention_backward

# %%
leaves = [x.clone().requires_grad_() for x in (q, k, v)]
grad_out = torch.randn(q.shape, generator=seeded(8))
F.scaled_dot_product_attention(*leaves, is_causal=True).backward(grad_out)
ours = flash_attention_backward(grad_out, q, k, v, out, logsumexp, block=16)
print("gradients equal to SDPA's to 1e-5:", [near(a, b.grad) for a, b in zip(ours, leaves, strict=True)])

# %% [markdown]
# ## 04 Quantization

# %% [markdown]
# ### `int8_quantize`
#
# Symmetric, so -128 is not used, and 0 is 0. The clamp is for a row of zeros, whose scale is 0: its codes are 0 / tiny = 0.

# %% tags=["solution"]
from week5_inference.solutions.quantization import int8_quantize

# %%
w = torch.randn(8, 64, generator=seeded(9))
codes, scale = int8_quantize(w)
theirs, absmax, _ = BF.int8_vectorwise_quant(w.half())
print("codes of bitsandbytes, on 16-bit weights:", torch.equal(int8_quantize(w.half())[0], theirs))
print("its scales, to 1e-6:", near(int8_quantize(w.half())[1].flatten() * 127, absmax, 1e-6))

# %% [markdown]
# ### `int8_dequantize`
#
# One product a row. The error is at most half a step.

# %% tags=["solution"]
from week5_inference.solutions.quantization import int8_dequantize

# %%
print("within half a scale:", bool(((int8_dequantize(codes, scale) - w).abs() <= scale / 2 * 1.0001).all()))

# %% [markdown]
# ### `zero_point_quantize`
#
# The range is made to hold 0, and the zero point is a whole number, so that 0 stays exactly 0: padding and pruned weights depend on it.

# %% tags=["solution"]
from week5_inference.solutions.quantization import zero_point_quantize

# %%
stored = load_file(ROOT / "tests" / "fixtures" / "gptq" / "affine.safetensors")
print("what torchao gave is stored for", len(stored), "tensors; compared in the lesson and in the tests")
codes, scale, zero = zero_point_quantize(w, bits=4, group_size=16)
print("16 codes:", int(codes.min()), "to", int(codes.max()), "| within half a step:", end=" ")
print(bool(((zero_point_dequantize(codes, scale, zero) - w).abs() <= 0.51 * scale.repeat_interleave(16, dim=1)).all()))

# %% [markdown]
# ### `stochastic_round`
#
# A uniform number lies below the fraction with a probability of just that fraction.

# %% tags=["solution"]
from week5_inference.solutions.quantization import stochastic_round

# %%
x = torch.full((200_000,), -0.25)
print("mean of many draws of -0.25, to 0.01:", near(stochastic_round(x, seeded(10)).mean(), torch.tensor(-0.25), 0.01))

# %% [markdown]
# ### `llm_int8_matmul`
#
# A few features are a hundred times larger than the rest. In one scale with them, all else would be rounded to nothing. They are few, so their
# part can be computed in full.

# %% tags=["solution"]
from week5_inference.solutions.quantization import llm_int8_matmul

# %%
x = torch.randn(16, 64, generator=seeded(11))
x[:, 5] *= 60
exact = x @ w.T
errors = [((llm_int8_matmul(x, w, threshold) - exact).norm() / exact.norm()).item() for threshold in (0.0, 6.0)]
print("an outlier feature: the error without the decomposition is more than three times as large:", errors[0] > 3 * errors[1])

# %% [markdown]
# ### `gptq_quantize`
#
# Each column's rounding error is made good by the columns that come after it, by the row of the Cholesky factor that says how. The grid is
# that of the untouched weight: GPTQ chooses other codes, not other scales. It gains where inputs go together, as they do here.

# %% tags=["solution"]
from week5_inference.solutions.quantization import gptq_quantize

# %%
inputs = torch.randn(400, 12, generator=seeded(12)) @ torch.randn(12, 64, generator=seeded(13)) + torch.randn(400, 64, generator=seeded(18)) / 3
hessian = inputs.T @ inputs / len(inputs)
errors = {}
for name, (codes, scale, zero) in {
    "nearest": zero_point_quantize(w, 3, 32),
    "GPTQ": gptq_quantize(w, hessian, 3, 32),
    "GPTQ, act_order": gptq_quantize(w, hessian, 3, 32, act_order=True),
}.items():
    errors[name] = (inputs @ (zero_point_dequantize(codes, scale, zero) - w).T).square().mean().item()
print("3 bits: GPTQ's output error is less than half of nearest rounding's:", errors["GPTQ"] < 0.5 * errors["nearest"])
print("and with act_order too:", errors["GPTQ, act_order"] < 0.5 * errors["nearest"])

# %% [markdown]
# ### `awq_scale_search`
#
# A weight that meets large inputs should be rounded more finely, and it is, if it is made larger first. Too much of that widens the group's range
# for the others: so the exponent is searched for, and 0, plain rounding, is among the candidates.

# %% tags=["solution"]
from week5_inference.solutions.quantization import awq_scale_search

# %%
spread = inputs * torch.exp(1.5 * torch.randn(64, generator=seeded(14)))
s, alpha, errors = awq_scale_search(w, spread, bits=3, group_size=32)
print("inputs of different sizes: the best alpha is above 0:", alpha > 0, "| its error is below plain rounding's:", bool(errors.min() < errors[0]))

# %% [markdown]
# ## 05 Serving

# %% [markdown]
# ### `PagedKVCache`
#
# A table of blocks for each sequence, and a count for each block. A shared block is copied when somebody wants to write into it, and not
# earlier; a block is free when its count is 0.

# %% tags=["solution"]
from week5_inference.solutions.serving import PagedKVCache

# %%
pool = PagedKVCache(n_layers=1, n_blocks=4, block_size=2, n_kv_heads=1, d_head=3)
first = torch.randn(2, 1, 1, 3, 3, generator=seeded(15))
more = torch.randn(2, 1, 1, 1, 3, generator=seeded(16))
pool.add("a")
pool.append("a", *first)
pool.fork("a", "b")
pool.append("b", *more)
print("tables", {name: len(table) for name, table in pool.tables.items()}, "free", len(pool.free_blocks))
print("a is as it was:", torch.equal(pool("a")[0], first[0]), "| b holds both:", torch.equal(pool("b")[1], torch.cat([first[1], more[1]], dim=2)))
pool.free("a")
print("after a has gone, free", len(pool.free_blocks))

# %% [markdown]
# ### `continuous_batching`
#
# In each step whoever is done leaves, and whoever waits comes in. In a static batch the slot of a short request runs on empty until the longest is
# done.

# %% tags=["solution"]
from week5_inference.solutions.serving import continuous_batching

# %%
requests = [Request(0.0, 10, n_new) for n_new in (2, 40, 3, 30, 2, 50, 4, 20)]
costs = (lambda n_prompt: 0.01, lambda batch: 0.02 + 0.001 * batch)
ends = {f.__name__: max(last for _, last in f(requests, 2, *costs)) for f in (static_batching, continuous_batching)}
print({name: f"{end:.2f} s" for name, end in ends.items()})

# %% [markdown]
# ### `acceptance_probability`
#
# Drawn with probability q(x), kept with min(1, p(x)/q(x)): together min(p(x), q(x)).

# %% tags=["solution"]
from week5_inference.solutions.serving import acceptance_probability

# %%
p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.2, 0.4, 0.4])
print(f"{acceptance_probability(p, q):.2f}, one minus the total variation distance {1 - 0.5 * (p - q).abs().sum():.2f}")

# %% [markdown]
# ### `speculative_decode`
#
# What was accepted has the probability min(p, q), and what replaces a refusal is drawn from what is missing to p. Their sum is p.

# %% tags=["solution"]
from week5_inference.solutions.serving import speculative_decode


# %%
def fixed(probs: list[float]) -> Callable:
    """A model that gives these probabilities everywhere."""
    return lambda ids: torch.tensor(probs).log().expand(*ids.shape, -1)


target, draft, dice = fixed([0.6, 0.3, 0.1]), fixed([0.2, 0.3, 0.5]), seeded(17)
drawn = [speculative_decode(target, draft, torch.tensor([0]), 3, 4, generator=dice)[0][1:] for _ in range(1500)]
shares = torch.bincount(torch.cat(drawn), minlength=3) / 6000
print("6,000 tokens are spread as the target says, to 0.03:", near(shares, torch.tensor([0.6, 0.3, 0.1]), 0.03))
ids = torch.tensor(prompts[0])
tokens, _ = speculative_decode(gpt, lambda ids: gpt(ids) + 0.5 * torch.sin(torch.arange(2048.0)), ids, 4, 12, temperature=0.0)
print("temperature 0: the target's own tokens:", tokens[5:].tolist() == rows[0][:12])

# %% [markdown]
# ### `stop_at`
#
# What has been sent cannot be called back. So an end that may yet become a stop string waits for the next token.

# %% tags=["solution"]
from week5_inference.solutions.serving import stop_at

# %%
print([stop_at(text, ["User:"]) for text in ("one. Us", "one. Use it", "one. User: two")])

# %% [markdown]
# ## The grade
#
# The grader takes the answers out of a notebook by name, each with just what it needs, and runs each alone in a process of
# its own, on numbers that no lesson has shown. First this notebook:

# %%
grade()

# %% [markdown]
# And yours: the lesson notebooks of this week as they are saved on the disk. (Save them first: Ctrl-S.)

# %% tags=["nbval-ignore-output"]
grade("week5_inference")
