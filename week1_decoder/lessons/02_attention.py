# %% [markdown]
# # Attention
#
# A token on its own does not say much. *Bank* needs its neighbours before it means a river's or a lender's. Attention
# is how a decoder lets each token look at the tokens before it and take over what it needs. Everything else in a GPT
# works on one position at a time; only here does anything move between positions.
#
# You will write it in five steps: the softmax, the causal mask, attention itself, several heads, and the module that
# every later week of the course uses. Each step is compared with the PyTorch function that people use for it. At the
# end you look into the heads of a real model, and measure what attention costs as texts get longer.
#
# Reading and writing: about 75 minutes. Paper: Vaswani et al. 2017, *Attention Is All You Need*
# ([arXiv:1706.03762](https://arxiv.org/abs/1706.03762)), section 3.2.

# %%
import math
import statistics
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from shared import borrow, check, explore, hint, mine, progress
from shared.plotting import COLOURS, figure, heat_map

# %% [markdown]
# ## A soft look-up
#
# A Python dictionary compares your key with its keys and returns the value of the one that is equal. Attention is a
# dictionary that cannot say no. It compares your *query* with every key by a dot product, turns the scores into
# weights that sum to 1, and returns the weighted average of all values:

# %%
keys = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, 0.0]])  # east, north, west
values = torch.tensor([[10.0], [20.0], [30.0]])
query = torch.tensor([1.0, 1.2])  # between east and north, a little more to the north

scores = keys @ query
weights = torch.softmax(scores, dim=0)
print("scores ", [round(score, 2) for score in scores.tolist()])
print("weights", [round(weight, 2) for weight in weights.tolist()])
print("answer ", [round(value, 2) for value in (weights @ values).tolist()])

# %% [markdown]
# The query points between two keys, so the answer lies between their values. Because the weights change smoothly with
# the scores, gradients flow into queries, keys and values, and the model can learn *what to look for*.
#
# ## From scores to weights
#
# $$\operatorname{softmax}(x)_i = \frac{e^{x_i}}{\sum_j e^{x_j}}$$
#
# **Predict.** In float32 the largest number is about $3.4 \cdot 10^{38}$, and $e^{89}$ is larger. What does this
# formula give, typed in as it stands, for the scores `[1000., 0.]`? And is there a way to change the scores that does
# not change the weights? Decide before you run the next cell.

# %%
large = torch.tensor([1000.0, 0.0])
print(large.exp() / large.exp().sum())

# %% [markdown]
# <details><summary>Answer</summary>
#
# `exp(1000)` is `inf`, and `inf / inf` is `nan`; 0 divided by `inf` is 0. Subtracting the same number $c$ from all scores
# multiplies numerator and denominator by $e^{-c}$, so the weights stay as they are. With $c$ the largest score, the
# largest exponent is 0 and nothing can overflow. You meet this trick again in cross-entropy (lesson 04) and in
# FlashAttention (week 5), where the largest score so far is kept while the scores pass by in blocks.
#
# </details>

# %% tags=["exercise"]
from week1_decoder.solutions.attention import softmax

# %% [markdown]
# The same from PyTorch. A difference of $10^{-7}$ is one unit in the last place of a float32 near 1.

# %%
x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
difference = (softmax(x, dim=-1) - torch.softmax(x, dim=-1)).abs().max().item()
print(f"largest difference from torch.softmax: {difference:.0e}")
assert difference < 1e-6

# %% [markdown]
# ## No looking ahead
#
# A decoder predicts token $t+1$ from tokens $1 \dots t$. While it trains, all positions are computed at once, and the
# answer of each position stands right behind it in the input. The causal mask hides it.
#
# While the model *generates*, there are fewer queries than keys: the keys of earlier tokens are kept (the cache of
# week 5), and only the newest tokens ask. So the mask is not always square. The rule is that **the last query sees the last
# key**:
#
# ```
#             key 0   1   2   3   4                     key 0   1   2   3   4
#   query 0       x   .   .   .   .           query 0       x   x   x   x   .
#   query 1       x   x   .   .   .           query 1       x   x   x   x   x
#   query 2       x   x   x   .   .
#   query 3       x   x   x   x   .            two new tokens after three in the cache
#   query 4       x   x   x   x   x
# ```

# %% tags=["exercise"]
from week1_decoder.solutions.attention import causal_mask

# %%
print(causal_mask(2, 5).int())

# %% [markdown]
# ## Attention
#
# Equation 1 of the paper, with $M$ the mask (0 where a query may look, $-\infty$ where not):
#
# $$\operatorname{attention}(q, k, v) = \operatorname{softmax}\!\left(\frac{q k^\top}{\sqrt{d_\text{head}}} + M\right) v$$
#
# Why the root? A dot product of two random vectors with $d$ entries of variance 1 has variance $d$. Without the scale,
# wider heads get larger scores, the softmax puts all weight on one key, and hardly any gradient reaches the others.
# You will measure this below.

# %% tags=["exercise"]
from week1_decoder.solutions.attention import attention

# %% [markdown]
# PyTorch's version is `F.scaled_dot_product_attention`. It runs as one fused kernel; the numbers are the same.
#
# Its `is_causal=True` has a trap: with fewer queries than keys it aligns the mask at the *top left*, not as generation
# needs it. That is why libraries with a cache pass an explicit mask.

# %%
generator = torch.Generator().manual_seed(1)
q, k, v = (torch.randn(2, 3, 16, 8, generator=generator) for _ in range(3))  # (batch, head, seq, d_head)

square = (attention(q, k, v) - F.scaled_dot_product_attention(q, k, v, is_causal=True)).abs().max().item()
late = q[..., -4:, :]
with_mask = F.scaled_dot_product_attention(late, k, v, attn_mask=causal_mask(4, 16))
rectangular = (attention(late, k, v) - with_mask).abs().max().item()
top_left = (attention(late, k, v) - F.scaled_dot_product_attention(late, k, v, is_causal=True)).abs().max().item()

print(f"square:                        {square:.0e}")
print(f"4 queries on 16 keys, mask:    {rectangular:.0e}")
print(f"4 queries on 16, is_causal:    {top_left:.1f}   <- aligned at the top left")
assert max(square, rectangular) < 1e-5

# %% [markdown]
# ### What the scale is for
#
# The entropy of a row of weights says how many keys it really looks at: $\ln 64 = 4.16$ nats when 64 keys share evenly,
# 0 when one key takes all.
#
# **Predict.** Random queries and keys, 64 keys, and heads from 1 to 1,024 wide. Without the scale, at which width does a
# query look at fewer than two keys, that is, when does the entropy fall below $\ln 2 = 0.69$?

# %%
def entropies(d_head: int, scaled: bool, seed: int, n_key: int = 64) -> Float[Tensor, "query"]:
    """Entropy (nats) of the softmax rows of 200 random queries."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(200, d_head, generator=generator)
    k = torch.randn(n_key, d_head, generator=generator)
    scores = q @ k.T / (math.sqrt(d_head) if scaled else 1.0)
    return torch.distributions.Categorical(logits=scores).entropy()


widths = [2**i for i in range(11)]
fig, ax = figure("", "d_head", "entropy of the weights (nats)")
mean_at = {}
for scaled, colour, label in ((True, COLOURS[0], "divided by √d_head"), (False, COLOURS[3], "not divided")):
    runs = torch.stack([torch.stack([entropies(d, scaled, seed).mean() for d in widths]) for seed in range(20)])
    mean, spread = runs.mean(0), 2 * runs.std(0)
    mean_at[scaled] = dict(zip(widths, mean.tolist(), strict=True))
    ax.plot(widths, mean, "o-" if scaled else "s--", color=colour, label=label)
    ax.fill_between(widths, mean - spread, mean + spread, color=colour, alpha=0.2)
ax.axhline(math.log(2), color="grey", linestyle=":")
ax.annotate("two keys", (1, math.log(2)), xytext=(0, 3), textcoords="offset points", fontsize=8)
ax.set_xscale("log", base=2)
ax.set_title(
    f"At width 1,024 an unscaled query looks at {math.exp(mean_at[False][1024]):.1f} keys, a scaled one at "
    f"{math.exp(mean_at[True][1024]):.0f}",
    loc="left",
    fontsize=11,
)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The band is two standard deviations over 20 draws of queries and keys.
#
# <details><summary>Answer</summary>
#
# The unscaled curve crosses $\ln 2$ between widths 32 and 64. A head of GPT-2 is 64 wide, one of a Llama 128. Random
# weights are what a model starts from, so without the scale it would start with most of its gradient gone: the
# derivative of a softmax weight $p$ by its own score is $p(1-p)$, which vanishes at 0 and at 1.
#
# </details>
#
# ## Several heads
#
# One softmax gives one average. A token often needs two things at once: the noun that it belongs to, and the verb. So
# the last axis is cut into `n_heads` slices, each slice does its own attention, and one more matrix mixes the results:
#
# $$\operatorname{head}_i = \operatorname{attention}(x W_q^{(i)},\; x W_k^{(i)},\; x W_v^{(i)}), \qquad
# \text{out} = \operatorname{concat}(\operatorname{head}_1 \dots \operatorname{head}_h)\, W_o$$
#
# ```
#   x @ w_q   (batch, seq, d_model)
#             | head 0 | head 1 | head 2 |      contiguous slices, d_head = d_model / n_heads
#                 |        |        |
#             (batch, head, seq, d_head)        a head is one more batch axis for attention
#                 |        |        |
#             | head 0 | head 1 | head 2 |      put side by side again
#             @ w_o                             and mixed
# ```
#
# Batches bring **padding**: rows of different lengths, filled up. `key_mask` says which tokens are real. A key is visible
# when it is not in the future *and* is real.

# %% tags=["exercise"]
from week1_decoder.solutions.attention import multi_head_attention

# %% [markdown]
# PyTorch's `nn.MultiheadAttention` stores the three input matrices stacked and transposed, as `nn.Linear` does, and its
# masks mean the opposite: True **hides**. Most wrong results with it come from one of these two.

# %%
d_model, n_heads = 24, 4
generator = torch.Generator().manual_seed(2)
x = torch.randn(2, 6, d_model, generator=generator)
w_q, w_k, w_v, w_o = (torch.randn(d_model, d_model, generator=generator) / math.sqrt(d_model) for _ in range(4))
key_mask = torch.tensor([[True] * 6, [True, True, True, True, False, False]])

library = nn.MultiheadAttention(d_model, n_heads, bias=False, batch_first=True)
with torch.no_grad():
    library.in_proj_weight.copy_(torch.cat([w_q.T, w_k.T, w_v.T]))
    library.out_proj.weight.copy_(w_o.T)
    theirs, _ = library(x, x, x, key_padding_mask=~key_mask, attn_mask=~causal_mask(6, 6), need_weights=False)

ours = multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads, key_mask)
difference = (ours - theirs).abs().max().item()
print(f"largest difference from nn.MultiheadAttention: {difference:.0e}")
assert difference < 1e-5

# %% [markdown]
# ## The module
#
# The same with layers that hold their weights and biases. Two things are new. *Dropout* falls on the weights while
# training. And in a batch padded on the **left**, as for generation, the first positions see nothing at all: their
# output does not matter, but it must not be `nan`, because $0 \cdot \text{nan}$ is `nan` and spreads through everything.

# %% tags=["exercise"]
from week1_decoder.solutions.attention import MultiHeadAttention

# %%
module = MultiHeadAttention(d_model, n_heads, bias=False)
with torch.no_grad():
    for layer, weight in ((module.w_q, w_q), (module.w_k, w_k), (module.w_v, w_v), (module.w_o, w_o)):
        layer.weight.copy_(weight.T)
print(f"module against function: {(module(x, key_mask) - ours).abs().max().item():.0e}")
print(f"parameters: {sum(p.numel() for p in module.parameters()):,} = 4 · {d_model}²")

# %% [markdown]
# nanoGPT and minGPT write the same module in about 40 lines (`CausalSelfAttention` in
# [`model.py`](https://github.com/karpathy/nanoGPT/blob/master/model.py) of nanoGPT and in
# [`mingpt/model.py`](https://github.com/karpathy/minGPT/blob/master/mingpt/model.py)). Look for three differences: one
# matrix `c_attn` makes queries, keys and values together; the mask is a buffer called `bias`, which has nothing to do
# with the biases of the layers; and there is no `key_mask`, because neither ever pads.
#
# ## Find the bug
#
# This version was in a pull request. Its loss in training looks *better* than yours. Read it, decide what is wrong,
# then let the check tell you.

# %%
def suspicious_attention(q, k, v, causal=True):
    weights = softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)
    if causal:
        weights = weights * causal_mask(q.shape[-2], k.shape[-2])
    return weights @ v


# %%
from shared.checking import run_check

print(run_check("attention", suspicious_attention).card)

# %% [markdown]
# Why would the loss look better? The denominator of the softmax still sums over the future. A row whose weights sum to
# 0.3 says: the strong keys are still to come. That is a leak.
#
# ## What real heads look at
#
# SmolLM2-135M-Instruct has 30 layers with 9 heads each. (The first time, this fetches about 100 MB.) We read out the
# weights of every head on one sentence and ask three questions of each head: how much of its weight goes to the first
# token, how much to the previous token, and, on random tokens that are repeated once, how much to *the token after the last
# occurrence of the current one*. A head that does the last is an **induction head**: it finds where the text stood
# like this before, and copies what came next (Olsson et al. 2022, [arXiv:2209.11895](https://arxiv.org/abs/2209.11895)).

# %%
from shared.models import smollm2

model, tokenizer = smollm2(attn_implementation="eager")


@torch.no_grad()
def head_weights(token_ids: list[int]) -> Float[Tensor, "layer head query key"]:
    """Attention weights of all heads on one sequence."""
    outputs = model(torch.tensor([token_ids]), output_attentions=True)
    return torch.stack([layer[0] for layer in outputs.attentions]).float()


sentence = "When Mary and John went to the park, John gave a ball to Mary"
token_ids = tokenizer(sentence).input_ids
tokens = [tokenizer.decode([token_id]).strip() or "␣" for token_id in token_ids]
real = head_weights(token_ids)
print(tuple(real.shape), "(layer, head, query, key)")

# %% [markdown]
# **Predict.** The model has 270 heads. How many of them give more than 40 % of their weight to the very first token,
# whatever it says? And is an induction head more likely in an early layer or in a later one? (It has to know, at each
# position, which token came before.)

# %%
generator = torch.Generator().manual_seed(3)
half = 40
repeated = [torch.randint(1000, 20000, (half,), generator=generator).tolist() * 2 for _ in range(4)]
twice = torch.stack([head_weights(ids) for ids in tqdm(repeated, desc="random tokens, twice")]).mean(0)

first_token = real[..., 1:, 0].mean(-1)
previous_token = real.diagonal(-1, -2, -1).mean(-1)
induction = twice.diagonal(1 - half, -2, -1)[..., 1:].mean(-1)  # queries of the second half

for name, score in (("first token", first_token), ("previous token", previous_token), ("induction", induction)):
    layer, head = divmod(score.argmax().item(), score.shape[1])
    print(f"{name:15s} strongest in layer {layer:2d}, head {head}: {score.max():.2f}"
          f"   heads above 0.4: {(score > 0.4).sum().item():3d} of {score.numel()}")

# %% [markdown]
# Most heads have nothing to report most of the time, and the softmax does not let them be silent: the weights must go
# somewhere, and the first token, which every query can see, is where they are parked. Xiao et al. 2023
# ([arXiv:2309.17453](https://arxiv.org/abs/2309.17453)) call it an *attention sink*, and show that a model breaks down
# when a sliding cache throws that token away. The strongest induction head sits past the middle: it needs a
# previous-token head in a layer below it.

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
for ax, name, score in ((axes[0], "previous token", previous_token), (axes[1], "first token", first_token)):
    layer, head = divmod(score.argmax().item(), score.shape[1])
    heat_map(ax, real[layer, head], tokens, tokens, f"layer {layer}, head {head}: {name}, {score.max():.0%} of the weight")
    ax.set(xlabel="key (looked at)", ylabel="query (looking)")
plt.show()

# %% [markdown]
# Every map is empty above the diagonal: the causal mask. Look at other heads with the sliders (in JupyterLab or Colab;
# elsewhere you see one picture). Can you find a head in which the second *John* looks back at the first?

# %%
def show_head(layer: int, head: int):
    fig, ax = figure("", "key (looked at)", "query (looking)", width=5.4, height=4.6)
    heat_map(ax, real[layer, head], tokens, tokens, f"layer {layer}, head {head}")
    return fig


explore(show_head, layer=(0, real.shape[0] - 1, 0), head=(0, real.shape[1] - 1, 0))

# %% [markdown]
# ## What attention costs
#
# The scores are a square of $n \times n$ numbers for a sequence of $n$ tokens, so time and memory should grow with
# $n^2$: a slope of 2 where both axes are logarithmic. The projections around it grow with $n$.
#
# **Predict.** Twice as long a text: how much longer does attention take at 256 tokens, and at 2,048?

# %% tags=["nbval-ignore-output"]
lengths = [64, 128, 256, 512, 1024, 2048]
generator = torch.Generator().manual_seed(4)
milliseconds = {}
for length in tqdm(lengths, desc="measuring"):
    q, k, v = (torch.randn(1, 8, length, 64, generator=generator) for _ in range(3))
    attention(q, k, v)  # the first call warms up
    times = []
    for _ in range(9):
        start = time.perf_counter()
        attention(q, k, v)
        times.append(1000 * (time.perf_counter() - start))
    milliseconds[length] = statistics.quantiles(times, n=4)  # quartiles

low, middle, high = (torch.tensor([milliseconds[n][i] for n in lengths]) for i in range(3))
slope = (math.log(middle[-1]) - math.log(middle[-3])) / (math.log(lengths[-1]) - math.log(lengths[-3]))
fig, ax = figure(f"From 512 to 2,048 tokens, time grows with length to the power {slope:.1f}", "tokens", "time (ms)")
ax.errorbar(lengths, middle, yerr=[middle - low, high - middle], fmt="o-", color=COLOURS[0], capsize=3,
            label="your attention, 8 heads of 64 (median, quartiles of 9)")
ax.plot(lengths, middle[-1] * (torch.tensor(lengths) / lengths[-1]) ** 2, ":", color="grey", label="slope 2")
ax.set_xscale("log", base=2)
ax.set_yscale("log")
ax.legend(frameon=False)
plt.show()
print(f"the scores alone at 2,048 tokens: {8 * 2048**2 * 4 / 2**20:.0f} MB; at 131,072: {8 * 131072**2 * 4 / 2**30:.0f} GB")

# %% [markdown]
# Short texts sit above the dotted line: there the fixed cost of each call counts, not the arithmetic. The memory is the harder
# limit. In week 5 you write FlashAttention, which never stores the square at all.
#
# ## What to read
#
# - Vaswani et al. 2017, section 3.2 and footnote 4 (the variance of a dot product: the reason for the root). Section 3.2.3
#   lists three uses of attention; a GPT has only the third.
# - Brown et al. 2020 (GPT-3, [arXiv:2005.14165](https://arxiv.org/abs/2005.14165)), section 2.1 and table 2.1: eight
#   sizes of one design. In which two rows is n_heads · d_head not d_model?
# - nanoGPT, `CausalSelfAttention.forward`: it holds both versions, the fused kernel and the four lines that you wrote.
#
# ## Recap
#
# - Attention is a soft look-up: scores from dot products, weights from a softmax, an average of values.
# - The scale keeps the entropy of the weights independent of the width of the head.
# - The mask goes in *before* the softmax, and the last query sees the last key.
# - Heads are slices of the last axis. They cost no extra parameters.
# - The square of scores makes time and memory grow with the second power of the length.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("attention")

# %%
progress("week1_decoder")
