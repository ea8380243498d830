# %% [markdown]
# # The KV cache
#
# Your `generate` of week 2 gives the model the whole text for each new token. So the hundredth token pays for the ninety-nine before it
# once more, although nothing about them has changed: a token's keys and values depend only on what stands before it. Keep them, and a new
# token costs one row of the attention matrix in place of the whole. Every server does this. The price is memory, and it is why long
# contexts are expensive.
#
# In this lesson you write the cache, the forward pass that uses it, and generation for prompts of different lengths. You compare with
# transformers' caches, number by number, and measure what the cache saves and what it holds.
#
# Reading and writing: about 150 minutes. Papers: Shazeer 2019, *Fast Transformer Decoding: One Write-Head is All You Need*
# ([arXiv:1911.02150](https://arxiv.org/abs/1911.02150)); Ainslie et al. 2023, *GQA* ([arXiv:2305.13245](https://arxiv.org/abs/2305.13245));
# Jiang et al. 2023, *Mistral 7B* ([arXiv:2310.06825](https://arxiv.org/abs/2310.06825)). Repositories:
# [vLLM](https://github.com/vllm-project/vllm), [transformers](https://github.com/huggingface/transformers).

# %%
import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache
from transformers.masking_utils import sliding_window_causal_mask_function
from transformers.utils import logging as transformers_logging

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.data import stories
from shared.models import course_folder, smollm2_folder
from shared.plotting import COLOURS, figure
from shared.runtime import pick_device, seed_everything
from week2_pretraining.solutions.pretraining import load_pretrained
from week2_pretraining.solutions.sampling import inference, sample_next_token
from week3_evaluation.trial import bootstrap

seed_everything(0)
warnings.filterwarnings("ignore", message="`past_key_values` is deprecated")
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
device = pick_device()
model, tokenizer = load_pretrained(course_folder("base"), mine("GPT"))
model = model.to(device).eval()
library = AutoModelForCausalLM.from_pretrained(course_folder("base")).to(device).eval()
print(f"the course model: {sum(p.numel() for p in model.parameters()):,} parameters, a context of {model.config.context_length} tokens")

# %% [markdown]
# ## What is worth keeping
#
# Attention computes, for the query of token $t$ and all keys and values up to it,
#
# $$o_t = \sum_{s \le t} \frac{e^{q_t \cdot k_s / \sqrt{d_{head}}}}{\sum_{r \le t} e^{q_t \cdot k_r / \sqrt{d_{head}}}}\; v_s$$
#
# For the next token only $q_{t+1}$, $k_{t+1}$ and $v_{t+1}$ are new. No later token ever asks for an old *query* again.
#
# **Predict.** In week 1's model, does $k_s$ of layer 3 change when a token is added at the end? What about a model without the causal mask?
#
# <details><summary>Answer</summary>
#
# No: what enters layer 3 at position $s$ depends on positions up to $s$ alone. Without the mask, all positions change in every layer above
# the first, and nothing can be kept. That is one reason why generating models are causal.
#
# </details>
#
# Generation so has two phases. *Prefill* reads the whole prompt at once, and fills the cache: large matrix products, which keep the processor busy. *Decode*
# then takes one token at a time: small products of a vector with every weight of the model. Its time is that of reading the weights and the
# cache from memory, and of starting each operation.
#
# ## Fewer keys than queries
#
# The cache holds 2 numbers (a key's and a value's) for each layer, head, and dimension of a head. The heads are where one can save: several query
# heads may share one key head. With all in one group it is *multi-query attention* (MQA), with groups in between *grouped-query attention*
# (GQA); ordinary attention has groups of one.
#
# ```
#   MHA   q0 q1 q2 q3        GQA   q0 q1 q2 q3        MQA   q0 q1 q2 q3
#         k0 k1 k2 k3              k0 k0 k1 k1              k0 k0 k0 k0
# ```
#
# SmolLM2 has 9 query heads and 3 key heads. The check of the shapes is given:

# %% tags=["given"]
from week5_inference.solutions.kv_cache import check_heads

# %% tags=["exercise"]
from week5_inference.solutions.kv_cache import grouped_query_attention

# %%
generator = torch.Generator().manual_seed(0)
q = torch.randn(2, 12, 5, 16, generator=generator)
for n_kv_heads in (12, 3, 1):
    k, v = torch.randn(2, 2, n_kv_heads, 7, 16, generator=generator)
    theirs = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    difference = (grouped_query_attention(q, k, v) - theirs).abs().max()
    print(f"12 query heads, {n_kv_heads:2d} key heads: differs from PyTorch's enable_gqa by {difference:.0e}")
    assert difference < 1e-5

# %% [markdown]
# ## The cache
#
# It must do five things.
#
# 1. **Take several tokens at once.** The prompt comes in one piece, and so do the guesses of a draft model (lesson 05). Among the new tokens
#    each still sees only itself and what stands before it.
# 2. **Keep rows of different lengths.** In a batch one prompt is short and another long, and one row has ended while another goes on. `real` says which
#    of the new tokens count.
# 3. **Forget.** A row that is done makes room for another (`reset`), and a guess that was wrong is taken back (`truncate`).
# 4. **Slide.** With a window of $w$, a query sees the last $w$ tokens. Then $w$ slots are enough for ever: position $p$ lies in slot $p \bmod w$, and
#    overwrites what no one will ask for again. (Mistral 7B: $w$ = 4,096.)
# 5. **Refuse** what does not fit.
#
# Each layer hands over its new keys and values, and gets back what to attend to, with a mask:
#
# ```python
# keys, values, visible = cache.append(layer, k, v, real)
# ```
#
# **Predict.** A window of 4, and 4 tokens are kept. Now 3 tokens come at once. Which old keys does the first of them see? What if you write
# before you read?
#
# <details><summary>Answer</summary>
#
# It sees itself and the last 3 of the old ones. If all three were written first, they would have overwritten the three oldest, and two of them
# are among those that it sees.
#
# </details>

# %% tags=["exercise"]
from week5_inference.solutions.kv_cache import KVCache

# %% [markdown]
# ## The forward pass
#
# It is `GPT.forward`, with two changes: new tokens stand behind those in the cache, and attention reads from there. `empty_cache` makes a cache
# that fits a model.

# %% tags=["given"]
from week5_inference.solutions.kv_cache import empty_cache

# %% tags=["exercise"]
from week5_inference.solutions.kv_cache import cached_forward

# %% [markdown]
# Three implementations on the same tokens, in pieces of 12, 1 and 7: yours, transformers' `DynamicCache`, which grows, and its `StaticCache`, which
# takes its room at the start as yours does. And the full forward pass, which must agree at every position.

# %%
token_ids = torch.randint(0, 2000, (2, 20), generator=generator).to(device)
pieces = ((0, 12), (12, 13), (13, 20))
caches = {"DynamicCache": DynamicCache(config=library.config), "StaticCache": StaticCache(config=library.config, max_cache_len=32)}
cache, largest = empty_cache(model, 2), dict.fromkeys((*caches, "full pass"), 0.0)
with torch.no_grad():
    whole = model(token_ids)
    for start, end in pieces:
        ours = cached_forward(model, token_ids[:, start:end], cache)
        others = {name: library(token_ids[:, start:end], past_key_values=c).logits for name, c in caches.items()}
        for name, theirs in (others | {"full pass": whole[:, start:end]}).items():
            largest[name] = max(largest[name], (ours - theirs).abs().max().item())
for name, difference in largest.items():
    print(f"logits differ from {name:12s} by at most {difference:.0e}")
    assert difference < 1e-4
print("tokens in the cache:", cache.lengths.tolist())

# %% [markdown]
# ## Generation
#
# Prompts of different lengths are put into one tensor, with padding behind the shorter ones. Prefill takes them all; then each step draws a
# token for each row, and feeds just these. A row that has ended stays in the batch, but its cache does not grow.
#
# **Predict.** After the prefill, from which column of the logits do you draw a row's first token?

# %% tags=["given"]
from week5_inference.solutions.kv_cache import check_prompts

# %% tags=["exercise"]
from week5_inference.solutions.kv_cache import generate_cached

# %%
texts = [story.text for story in stories(3, seed=3, split="validation")]
prompts = [tokenizer(tokenizer.eos_token + text).input_ids[:n] for text, n in zip(texts, (8, 40, 21), strict=True)]
written = generate_cached(model, prompts, 40, eos_id=tokenizer.eos_token_id)
week_2 = mine("generate")
for prompt, row in zip(prompts, written, strict=True):
    ids = torch.tensor([prompt], device=device)
    before = week_2(model, ids, 40, temperature=0.0, eos_id=tokenizer.eos_token_id)[0, len(prompt) :].tolist()
    options = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    theirs = library.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()
    print(f"the same as week 2's: {row == before}, as transformers': {row == theirs} | …{tokenizer.decode(prompt[-6:])}|{tokenizer.decode(row[:16])}…")
    assert row == before == theirs

# %% [markdown]
# <details><summary>Answer</summary>
#
# From the column of its last real token, which is another one in each row. The last column of the tensor belongs to the longest prompt.
#
# </details>
#
# ## What it saves
#
# Tokens a second, by how many tokens are there already. The median of some runs, and the range of all.
#
# **Predict.** With a cache, is the 200th token slower than the 20th? By how much? And without?

# %%
def seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


story = tokenizer(tokenizer.eos_token + " ".join(texts * 3)).input_ids
lengths, rounds = (8, 32, 64, 128, 192, 240), 7
next_token = {"without a cache": {}, "with a cache": {}}
with torch.no_grad():
    for n in tqdm(lengths, desc="decode"):
        ids = torch.tensor([story[:n]], device=device)
        cache = empty_cache(model, 1)
        cached_forward(model, ids[:, :-1], cache)
        left = cache.lengths.clone()

        def all_again(ids=ids):
            model(ids)

        def one_more(ids=ids, cache=cache, left=left):
            cached_forward(model, ids[:, -1:], cache)
            cache.truncate(left)

        found = {"without a cache": [], "with a cache": []}
        for _ in range(rounds + 1):  # in turns, so that a slow moment hits both
            found["without a cache"].append(seconds(all_again))
            found["with a cache"].append(seconds(one_more))
        for name, values in found.items():
            next_token[name][n] = np.array(values[1:]) * 1000  # the first sets things up

fig, ax = figure("With a cache a token costs the same wherever it stands", "tokens in the context", "ms for the next token (median, range)")
for i, (name, by_length) in enumerate(next_token.items()):
    middle = np.array([np.median(by_length[n]) for n in lengths])
    low, high = (np.array([f(by_length[n]) for n in lengths]) for f in (np.min, np.max))
    ax.errorbar(lengths, middle, [middle - low, high - middle], fmt="os"[i] + "-", color=COLOURS[3 * i], capsize=3, label=name)
ax.set_ylim(0, None)
ax.legend(frameon=False)
plt.show()
for n in (lengths[0], lengths[-1]):
    a, b = (np.median(next_token[name][n]) for name in next_token)
    print(f"the token after {n:3d}: {a:5.1f} ms without, {b:4.1f} ms with, {a / b:.1f} times as fast")

# %% [markdown]
# At a million parameters the cached step hardly depends on the length: the time goes into starting some two hundred small operations. On a large
# model it grows slowly, with the bytes of the cache that have to be read.
#
# And prefill against decode, for the same number of tokens: the prompt in one pass, or one by one.

# %%
n = 128
ids = torch.tensor([story[:n]], device=device)


def prefill():
    cached_forward(model, ids, empty_cache(model, 1))


def decode():
    cache = empty_cache(model, 1)
    for i in range(n):
        cached_forward(model, ids[:, i : i + 1], cache)


with torch.no_grad():
    prefill()
    times = {name: [n / seconds(run) for _ in range(3)] for name, run in (("prefill", prefill), ("decode", decode))}
for name, found in times.items():
    print(f"{name:8s}{np.median(found):9,.0f} tokens a second ({min(found):,.0f} to {max(found):,.0f})")

# %% [markdown]
# The same products of the same weights, and a prompt token is many times cheaper than a generated one. This is why providers charge less for the tokens
# they read than for those they write, and why a server puts many users' decode steps into one batch (lesson 05).
#
# ## Fewer operations
#
# Where does the time of a decode step go, if not into arithmetic? `FusedForward` in `week5_inference/fused.py` computes what your
# `cached_forward` does with fewer than half of the operations (views not counted): one product for q, k and v together, and one kernel each for a norm, for attention, for GELU.
# It uses your cache. Beside it transformers' `generate`.
#
# **Predict.** How many tokens a second more?

# %%
from week5_inference.fused import FusedForward

fused = FusedForward(model)
assert generate_cached(model, prompts, 20, forward=fused) == generate_cached(model, prompts, 20)
prompt, new = story[:32], 48
ids = torch.tensor([prompt], device=device)
options = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
ways = {
    "week 2, no cache": lambda: week_2(model, ids, new, temperature=0.0),
    "cached": lambda: generate_cached(model, [prompt], new),
    "cached, fused": lambda: generate_cached(model, [prompt], new, forward=fused),
    "transformers": lambda: library.generate(ids, attention_mask=torch.ones_like(ids), **options),
}
speeds = {name: [] for name in ways}
for _ in tqdm(range(5), desc="rounds"):
    for name, run in ways.items():
        speeds[name].append(new / seconds(run))
for name, found in speeds.items():
    ratios = np.array(found) / np.array(speeds["transformers"])
    print(f"{name:18s}{np.median(found):7.0f} tokens a second ({min(found):.0f} to {max(found):.0f}), {np.median(ratios):.2f} times transformers'")

# %% [markdown]
# (`python -m benchmarks.generation` measures this with more rounds and in batches; its figures stand in `benchmarks/README.md`.) The larger the
# model, the less this matters, for the products take the time then.
#
# ## What it holds
#
# Nothing about a cache is hard to compute, and few numbers in this course decide as much about what a GPU can serve.

# %% tags=["exercise"]
from week5_inference.solutions.kv_cache import kv_cache_bytes

# %%
MODELS = {  # n_layers, n_kv_heads, d_head, window, parameters (from the models' papers and configurations)
    "Llama 2 7B (MHA)": (32, 32, 128, None, 6.7e9),
    "Llama 3 8B (GQA, 8)": (32, 8, 128, None, 8.0e9),
    "Mistral 7B (GQA, 8, window)": (32, 8, 128, 4096, 7.2e9),
    "Falcon 7B (MQA)": (32, 1, 64, None, 7.2e9),
}
config = AutoConfig.from_pretrained(smollm2_folder())
MODELS["SmolLM2-135M (GQA, 3)"] = (
    config.num_hidden_layers, config.num_key_value_heads, config.hidden_size // config.num_attention_heads, None, 0.1345e9,
)  # fmt: skip
print(f"{'float16':30s}{'a token':>10s}{'8,192 tokens':>15s}{'of the weights':>16s}{'rows of 8,192 in 80 GB':>24s}")
for name, (n_layers, n_kv_heads, d_head, window, parameters) in MODELS.items():
    token, row = (kv_cache_bytes(n_layers, n_kv_heads, d_head, n, window=window) for n in (1, 8192))
    rows = (80e9 - 2 * parameters) / row
    print(f"{name:30s}{token / 1024:7.0f} kB{row / 1e6:12.0f} MB{row / (2 * parameters):16.1%}{rows:24,.0f}")

cache = empty_cache(model, 3)
c = model.config
computed = kv_cache_bytes(c.n_layers, c.n_heads, c.d_head, c.context_length, batch=3, bytes_per_number=4)
print(f"\nthe course model, 3 rows: {computed:,} bytes by the formula, {cache.bytes:,} by the cache, "
      f"{cache.keys.nbytes + cache.values.nbytes if hasattr(cache, 'keys') else cache.bytes:,} in its tensors")  # fmt: skip
assert computed == cache.bytes

# %% [markdown]
# The last factor, the bytes of a number, can shrink too. The keys and values of your cache may be kept in fewer bits than the model computes in:
# `append` rounds what it keeps, and gives back what fits the queries.

# %%
ids = torch.tensor([story[:200]], device=device)
shape = c.n_layers, 1, c.n_heads, c.d_head, c.context_length, None
kept = {dtype: KVCache(*shape, dtype, device) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
with torch.no_grad():
    logits = {dtype: cached_forward(model, ids, cache) for dtype, cache in kept.items()}
for dtype, cache in kept.items():
    difference = (logits[dtype] - logits[torch.float32]).abs().max()
    print(f"kept in {str(dtype)[6:]:9s}{cache.bytes:10,} bytes, logits differ from float32 by at most {difference:.0e}")

# %%
tokens = np.array([2**i for i in range(8, 18)])
fig, ax = figure("Shared key heads and a window decide what a long context costs", "tokens", "GB in float16, one row")
for i, (name, (n_layers, n_kv_heads, d_head, window, _)) in enumerate(MODELS.items()):
    sizes = [kv_cache_bytes(n_layers, n_kv_heads, d_head, int(n), window=window) / 1e9 for n in tokens]
    ax.plot(tokens, sizes, "os^vDP"[i] + "-", color=COLOURS[i], label=name, markersize=4)
ax.set(xscale="log", yscale="log")
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## From MHA to GQA
#
# A model trained with as many key heads as query heads can be turned into one with fewer: Ainslie et al. (§2.1) take the *mean* of the
# projections of each group, and train on for 5 % of the steps. First the mean alone, on held-out stories: what does it cost, before any further training?
# The other choice is to keep the first head of each group.
#
# **Predict.** Four heads become two, or one. Does the loss go up by a hundredth, a tenth, or more than one nat?

# %%
class GroupedAttention(nn.Module):
    """Week 1's attention with any number of key heads, for training: without a cache."""

    def __init__(self, attention: nn.Module, w_k: nn.Linear, w_v: nn.Linear):
        super().__init__()
        self.w_q, self.w_k, self.w_v, self.w_o = attention.w_q, w_k, w_v, attention.w_o
        self.d_head = self.w_q.out_features // attention.n_heads

    def forward(self, x: Tensor, key_mask: None = None) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (-1, self.d_head)).transpose(1, 2) for w in (self.w_q, self.w_k, self.w_v))
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril().expand(len(x), -1, -1)
        return self.w_o(grouped_query_attention(q, k, v, causal).transpose(1, 2).flatten(2))


def with_fewer_key_heads(model: nn.Module, n_kv_heads: int, how: str) -> nn.Module:
    """A copy whose key and value projections have n_kv_heads heads, of the mean or the first of each group."""
    new = copy.deepcopy(model)
    d_head, d_model = model.config.d_head, model.config.d_model
    for block in new.blocks:
        projections = []
        for old in (block.attention.w_k, block.attention.w_v):
            linear = nn.Linear(d_model, n_kv_heads * d_head, bias=old.bias is not None).to(old.weight.device)
            with torch.no_grad():
                for target, source in ((linear.weight, old.weight), (linear.bias, old.bias)):
                    grouped = source.view(n_kv_heads, -1, d_head, *source.shape[1:])
                    target.copy_((grouped.mean(dim=1) if how == "mean" else grouped[:, 0]).flatten(0, 1))
            projections.append(linear)
        block.attention = GroupedAttention(block.attention, *projections)
    return new


held_out = [tokenizer(tokenizer.eos_token + s.text).input_ids[:160] for s in stories(60, seed=9, split="validation")]


@torch.no_grad()
def story_losses(model: nn.Module, rows: list[list[int]] = held_out) -> np.ndarray:
    """Nats a token of each story, by the cached pass, which takes any number of key heads."""
    width = max(map(len, rows))
    real = torch.tensor([[i < len(row) for i in range(width)] for row in rows], device=device)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    logits = cached_forward(model, ids, empty_cache(model, len(rows)), real)
    nats = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none") * real[:, 1:]
    return (nats.sum(dim=1) / real[:, 1:].sum(dim=1)).cpu().numpy()


base_losses = story_losses(model)
print(f"key heads: {c.n_heads}, {base_losses.mean():.3f} nats a token")
for n_kv_heads in (2, 1):
    for how in ("mean", "first"):
        more = story_losses(with_fewer_key_heads(model, n_kv_heads, how)) - base_losses
        print(f"key heads: {n_kv_heads}, {how:5s} of each group: {{:+.2f}} nats ({{:+.2f}} to {{:+.2f}})".format(*bootstrap(np.mean, more)))

# %% [markdown]
# Then some training heals it: forty steps here, for two heads. And as a control, the same steps with all four heads, so
# that the comparison is not with a model that has trained less.

# %%
def trained_on(model: nn.Module, steps: int = 40, max_lr: float = 1e-3) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=max_lr, weight_decay=0.1)
    rows = [tokenizer(tokenizer.eos_token + s.text).input_ids[:129] for s in stories(1000, seed=20)]
    rows = torch.tensor([row for row in rows if len(row) == 129], device=device)
    for step in tqdm(range(steps), desc="training", leave=False):
        batch = rows[torch.randint(len(rows), (8,), generator=generator)]
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        for group in optimizer.param_groups:
            group["lr"] = max_lr * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


control = story_losses(trained_on(copy.deepcopy(model)))
for how in ("mean", "first"):
    healed = story_losses(trained_on(with_fewer_key_heads(model, 2, how)))
    print(f"2 key heads, {how:5s}, after 40 steps: {{:+.3f}} nats ({{:+.3f}} to {{:+.3f}}) against 4 heads after the same steps".format(
        *bootstrap(np.mean, healed - control)))  # fmt: skip

# %% [markdown]
# <details><summary>Answer</summary>
#
# More than half a nat, and with the mean more than one: the heads of a trained model look for different things, and no mean of them is one
# of them. Most of it is won back in forty steps, for half of the cache. And there the order turns: when we ran it the first head was the
# better beginning, and the mean the better end, as in the paper's figure 4. One small model, one run each.
#
# </details>
#
# ## A window
#
# With a window the cache stops growing. What is lost? The course model was trained without one. Each token then suddenly sees less than in training.
#
# First, that the window is the same as transformers': its GPT-2, with the whole text and its own mask for a window, against your cache, which
# by then has overwritten most of what it was given.

# %%
rule, zero = sliding_window_causal_mask_function(16), torch.zeros((), dtype=torch.long, device=device)
positions = torch.arange(120, device=device)
ids, cache = torch.tensor([story[:120]], device=device), empty_cache(model, 1, window=16)
with torch.no_grad():
    theirs = library(ids, attention_mask=rule(zero, zero, positions[:, None], positions)[None, None], use_cache=False).logits
    ours = torch.cat([cached_forward(model, ids[:, i : i + 24], cache) for i in range(0, 120, 24)], dim=1)
difference = (ours - theirs).abs().max()
print(f"a window of 16, 120 tokens: logits differ by at most {difference:.0e}")
assert difference < 1e-4

# %% [markdown]
# **Predict.** The stories have about 140 tokens. From which window on does the loss notice?

# %%
@torch.no_grad()
def window_losses(window: int | None) -> np.ndarray:
    found = []
    for row in held_out[:30]:
        ids = torch.tensor([row], device=device)
        logits = cached_forward(model, ids, empty_cache(model, 1, window))
        found.append(F.cross_entropy(logits[0, :-1], ids[0, 1:]).item())
    return np.array(found)


full = window_losses(None)
windows = (4, 8, 16, 32, 64, 128)
more = [bootstrap(np.mean, window_losses(w) - full) for w in windows]
fig, ax = figure("The model was trained without a window: the shorter it is, the faster its cost grows", "window (tokens)", "nats a token more (95 % interval)")
middle, low, high = np.array(more).T
ax.errorbar(windows, middle, [middle - low, high - middle], fmt="o-", color=COLOURS[0], capsize=3)
ax.axhline(0, color="grey", linewidth=0.8)
ax.set_xscale("log", base=2)
ax.set_xticks(windows, windows)
plt.show()
for w, (middle, low, high) in zip(windows, more, strict=True):
    print(f"window {w:3d}: {middle:+.3f} nats ({low:+.3f} to {high:+.3f}), {kv_cache_bytes(c.n_layers, c.n_heads, c.d_head, 256, window=w, bytes_per_number=4):,} bytes")

# %% [markdown]
# ## Find the bug
#
# A colleague's cache is right with one prompt, and with prompts of one length. With a ragged batch her shorter rows write nonsense from the second
# token on.

# %%
def colleagues_forward(model, token_ids, cache, real=None):
    config = model.config
    before = torch.arange(token_ids.shape[1]) if real is None else real.cumsum(dim=1) - 1
    if int((cache.lengths[:, None] + before).max()) >= config.context_length:
        raise ValueError("too long")
    x = model.token_embedding(token_ids)
    x = x + model.position_embedding((cache.lengths[:, None] + before).clamp(min=0))
    for layer, block in enumerate(model.blocks):
        a, normed = block.attention, block.norm_1(x)
        q, k, v = (w(normed).unflatten(-1, (-1, config.d_head)).transpose(1, 2) for w in (a.w_q, a.w_k, a.w_v))
        heads = grouped_query_attention(q, *cache.append(layer, k, v))
        x = x + a.w_o(heads.transpose(1, 2).flatten(2))
        x = x + block.feed_forward(block.norm_2(x))
    return F.linear(model.final_norm(x), model.token_embedding.weight)


print(run_check("cached_forward", colleagues_forward).card)

# %% [markdown]
# ## What to read
#
# - **Shazeer 2019**, §2.4 and §3: count the bytes that a decode step has to read. Which term does one key head remove?
# - **Ainslie et al. 2023**, figures 3 to 6: quality and time against the number of groups. Where would you stop?
# - **Jiang et al. 2023**, §2: the rolling buffer, and why information travels farther than one window in a deep model.
# - **transformers**, [`cache_utils.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/cache_utils.py): `DynamicLayer`,
#   `StaticLayer`, `SlidingWindowLayer`. Find your `append` in each of them. Which of them copies, and when?
# - **vLLM**, [`docs/design`](https://github.com/vllm-project/vllm/tree/main/docs/design): your cache takes room for `capacity` tokens in
#   each row from the start. What does vLLM do in its place? (Lesson 05.)
#
# ## Recap
#
# - In a causal model keys and values never change, so they are computed once. Positions go on where the cache ends.
# - Prefill is bound by arithmetic, decode by memory and by the number of operations.
# - The cache's size: 2 · layers · key heads · d_head · tokens · bytes. GQA and windows make it smaller, at a price that can be measured.
# - Equal to the full pass at every position, in ragged batches, beyond the window and after a reset: anything less is a bug that shows only
#   now and then.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("kv_cache")

# %%
progress("week5_inference")
