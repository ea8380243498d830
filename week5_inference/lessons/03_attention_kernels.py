# %% [markdown]
# # Rotary positions and attention in tiles
#
# Two parts of every current model hide in its attention layer. *Rotary positions* (RoPE) tell the model where a token stands, without any
# learnt table. *FlashAttention* computes the same attention as you did in week 1, and never writes down the matrix of scores.
#
# In this lesson you write both: RoPE with the ways to stretch it to longer texts, and attention in tiles, forward and backward. You find
# out what a wrong layout of rotary weights does to a real model, and you measure how memory grows with the length of a text.
#
# Reading and writing: about 150 minutes. Papers: Su et al. 2021, *RoFormer* ([arXiv:2104.09864](https://arxiv.org/abs/2104.09864)); Chen et al.
# 2023, *Extending Context Window via Positional Interpolation* ([arXiv:2306.15595](https://arxiv.org/abs/2306.15595)); Milakov and Gimelshein
# 2018, *Online normalizer calculation for softmax* ([arXiv:1805.02867](https://arxiv.org/abs/1805.02867)); Dao et al. 2022, *FlashAttention*
# ([arXiv:2205.14135](https://arxiv.org/abs/2205.14135)).

# %%
import copy
import inspect
import math
import warnings
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention
from tqdm.auto import tqdm
from transformers import AttentionInterface, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.data import stories
from shared.models import smollm2
from shared.plotting import COLOURS, MARKERS, figure
from shared.runtime import seed_everything
from week3_evaluation.trial import bootstrap
from week5_inference.memory import LiveBytes, flash_traffic, standard_traffic
from week5_inference.rope_model import corpus_ids, load_rope_gpt, set_frequencies, windows

warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
seed_everything(0)
attention = mine("attention")  # week 1's, with the whole matrix of scores

# %% [markdown]
# ## Positions as angles
#
# GPT-2 adds a learnt vector to each token, one for each of 1,024 positions, and has none for position 1,025. What a sentence means does not
# depend on where it stands. So it would be better if the score of a query and a key depended on their *distance* alone.
#
# RoPE does that by turning. The numbers of a head are put into pairs, and each pair is a point in the plane. At position $m$, pair $i$ is
# turned by the angle $m\,\theta_i$:
#
# $$\begin{pmatrix} a' \\ b' \end{pmatrix} = \begin{pmatrix} \cos m\theta_i & -\sin m\theta_i \\ \sin m\theta_i & \cos m\theta_i \end{pmatrix}
# \begin{pmatrix} a \\ b \end{pmatrix}, \qquad \theta_i = 10000^{-2i/d_{head}} \qquad \text{(eq. 14, 15)}$$
#
# If a query is turned by $m\theta$ and a key by $n\theta$, then the angle between them has grown by $(m - n)\theta$. Their dot product knows
# the difference and nothing else. Only q and k are turned. The values are not.
#
# The first pairs turn fast and tell neighbours apart. The last ones hardly move over thousands of tokens.
#
# Which numbers make a pair? The paper takes neighbours. Llama in transformers, and we, take number $i$ and number $i + d_{head}/2$ (the *half*
# layout): two slices in place of a shuffle. You may have met both. We come back to that.

# %% tags=["given"]
from week5_inference.solutions.attention_kernels import check_d_head

# %% tags=["exercise"]
from week5_inference.solutions.attention_kernels import apply_rope

# %% [markdown]
# **Predict.** A fixed query and a fixed key are placed at all distances from 0 to 100: with the key at position 0, at 50, and at 500. How do
# the three curves of scores differ?

# %%
generator = torch.Generator().manual_seed(1)
one_query = torch.randn(64, generator=generator)
one_key = 0.5 * one_query + torch.randn(64, generator=generator)  # they have something in common
distances = torch.arange(101)
fig, ax = figure("Scores depend on the distance, not on the place", "distance of query and key, tokens", "score")
curves = {}
for start, style in ((0, "-"), (50, "--"), (500, ":")):
    q = apply_rope(one_query.expand(101, 64), start + distances)
    k = apply_rope(one_key[None], torch.tensor([start]))
    curves[start] = (q @ k.T)[:, 0] / 8
    ax.plot(
        distances,
        curves[start],
        style,
        linewidth=5 - 2 * list(curves).index(start) + 1,
        label=f"key at position {start}",
    )
ax.set_ylim(top=4.2)
ax.legend(frameon=False, ncols=3, loc="upper right", fontsize=8)
print(
    f"largest difference of the curves: {max((curves[0] - curve).abs().max().item() for curve in curves.values()):.0e}"
)

# %% [markdown]
# They lie on each other, up to the rounding of the angles. The score is highest where the two vectors stand at one place, and falls as the pairs
# get out of step. Then it swings: for single vectors nothing falls steadily. The decay in section 3.4.3 of the paper is that of a bound.
#
# The same in transformers:

# %%
q, k = torch.randn(2, 2, 4, 7, 16, generator=generator)  # (batch, head, seq, d_head) each
positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [3, 9, 10, 40, 41, 200, 900]])  # a row with gaps
angles = positions[..., None] * 10000.0 ** (-torch.arange(0, 16, 2) / 16)
angles = torch.cat((angles, angles), dim=-1)
theirs = apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
ours = [apply_rope(x, positions[:, None]) for x in (q, k)]
print(
    f"largest difference from transformers: {max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)):.0e}"
)

# %% [markdown]
# ## The layout, and a bug that loads without an error
#
# The first Llama checkpoints, and the paper, have the pairs (0, 1), (2, 3), …: *interleaved*. A model trained so can still be run with the half
# layout: reorder the rows of $W_q$ and $W_k$, and each pair lands where the code looks for it. A score is a sum over pairs, so their order does
# not matter. $W_v$ stays as it is.
#
# ```
#   rows of one head   interleaved   a0 b0 a1 b1 a2 b2
#                      half          a0 a1 a2 b0 b1 b2
# ```
#
# Every converter has this line. If it is forgotten, all shapes fit.

# %% tags=["exercise"]
from week5_inference.solutions.attention_kernels import interleaved_to_half

# %% [markdown]
# Now with a real model. SmolLM2 is in the half layout. We write its $W_q$ and $W_k$ as a checkpoint in the paper's layout would have them, and load
# that in four ways: reordered; with the keys forgotten; reordered as if all heads were one large head; and as it is. **Predict:** the last one turns q and k
# by the same wrong pairs. So is it harmless?

# %%
smol, tokenizer = smollm2()
texts = [story.text for story in stories(8, seed=7, split="validation")]
rows = tokenizer(texts, return_tensors="pt", truncation=True, max_length=48, padding=True, padding_side="right")
HEADS = {"q_proj": smol.config.num_attention_heads, "k_proj": smol.config.num_key_value_heads}
in_half = {n: p.detach().clone() for n, p in smol.named_parameters() if n.split(".")[-2] in HEADS}


def half_to_interleaved(weight: Tensor, n_heads: int) -> Tensor:
    return weight.reshape(n_heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


checkpoint = {name: half_to_interleaved(weight, HEADS[name.split(".")[-2]]) for name, weight in in_half.items()}


@torch.no_grad()
def text_losses() -> np.ndarray:
    """Nats a token, for each text."""
    logits = smol(**rows).logits[:, :-1]
    targets = rows.input_ids[:, 1:].masked_fill(rows.attention_mask[:, 1:] == 0, -100)
    nats = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (nats.sum(1) / (targets != -100).sum(1)).numpy()


def load(change) -> None:
    with torch.no_grad():
        for name, weight in checkpoint.items():
            smol.get_parameter(name).copy_(change(weight, name.split(".")[-2]))


ways = {
    "reordered, as it should be": lambda weight, layer: interleaved_to_half(weight, HEADS[layer]),
    "keys forgotten": lambda weight, layer: weight if layer == "k_proj" else interleaved_to_half(weight, HEADS[layer]),
    "as if all heads were one": lambda weight, layer: interleaved_to_half(weight, 1),
    "loaded as it is": lambda weight, layer: weight,
}
found = {"the original": text_losses()}
for name, change in tqdm(ways.items(), desc="loading"):
    load(change)
    found[name] = text_losses()
load(ways["reordered, as it should be"])
print(f"{'SmolLM2':30s}perplexity, with its 95 % interval over {len(texts)} texts")
for name, values in found.items():
    print(f"{name:30s}" + "{:10,.1f}  ({:,.1f} to {:,.1f})".format(*np.exp(bootstrap(np.mean, values))))
same = all(torch.equal(smol.get_parameter(name), weight) for name, weight in in_half.items())
print("the reordered weights are the original ones, bit for bit:", same)

# %% [markdown]
# No exception, no warning, the right number of parameters. If q and k are paired differently, nothing of the language is left. If both are paired wrongly
# in the same way, then their scores at distance 0 are right, and nearby ones not far off: the perplexity is two to three times too high. That mild bug
# is the worse one: such a number is easily taken for the model's own. When you load weights, compare logits with those of a known implementation,
# or measure the perplexity of a plain text, before anything else.
#
# ## Beyond the trained length
#
# RoPE has no table that ends. Does a model then work at any length? We trained a small one to see: week 1's GPT without positions, its attention
# replaced by `RopeAttention`, on windows of 64 tokens of the course corpus (`python -m week5_inference.rope_model`; the weights are stored). This is
# all that is new in it:

# %%
from week5_inference.rope_model import RopeAttention

print(inspect.getsource(RopeAttention.forward))
small, about = load_rope_gpt(mine("GPT"), apply_rope)
TRAINED = about["trained_length"]
D_HEAD = small.config.d_head
print("\n".join(f"{key}: {value}" for key, value in about.items()))

# %% [markdown]
# Beyond position 64 the slow pairs come to angles that the model has never seen. Two remedies change the frequencies alone, with
# $s = L_{new} / L_{trained}$:
#
# - **Position interpolation** (Chen et al. 2023, eq. 4): squeeze the positions into the trained range, $\theta_i / s$. All angles are then known, but
#   neighbours are now only $1/s$ of a step apart, which the model has never seen either.
# - **NTK-aware** (a proposal on a web forum in 2023, soon in every library): multiply the base by $s^{d_{head}/(d_{head}-2)}$. The fastest pair, which tells
#   neighbours apart, is not touched. The slowest is divided by $s$, as in interpolation. Those between are divided by something between.

# %% tags=["exercise"]
from week5_inference.solutions.attention_kernels import rope_frequencies

# %%
METHODS = {"none": COLOURS[3], "interpolation": COLOURS[0], "ntk": COLOURS[2]}
settings = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": TRAINED}
for method, kind, factor in (("interpolation", "linear", 4.0), ("ntk", "dynamic", 1.0)):
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": factor}
    theirs, _ = ROPE_INIT_FUNCTIONS[kind](LlamaConfig(**settings, rope_parameters=rope), "cpu", seq_len=4 * TRAINED)
    ours = rope_frequencies(D_HEAD, 10000.0, TRAINED, 4 * TRAINED, method)
    print(
        f"{method:14s} transformers' {kind!r}: largest relative difference {((ours - theirs) / theirs).abs().max().item():.0e}"
    )
print(
    "turns of each pair over 64 tokens: ",
    [round(t, 2) for t in (rope_frequencies(D_HEAD, 1e4, 64, 64, "none") * 64 / (2 * math.pi)).tolist()],
)

# %% [markdown]
# **Predict.** The model is read at 256 tokens, four times its length. Which of the three has the lowest loss on tokens 1 to 64, and which on tokens
# 193 to 256?

# %%
NEW, COUNT = 4 * TRAINED, 32
validation = corpus_ids(200_000, "validation")
token_ids, targets = windows(validation, NEW, COUNT, torch.Generator().manual_seed(2))


@torch.no_grad()
def position_losses(model) -> np.ndarray:
    """Nats of each token, (window, position)."""
    nats = [
        F.cross_entropy(model(ids).transpose(1, 2), goal, reduction="none")
        for ids, goal in zip(token_ids.split(8), targets.split(8), strict=True)
    ]
    return torch.cat(nats).numpy()


def intervals(nats: np.ndarray, width: int = 32) -> np.ndarray:
    """(piece of the positions, (mean, low, high)) by a bootstrap over the windows."""
    pieces = nats.reshape(len(nats), -1, width).mean(axis=2)
    return np.array([bootstrap(np.mean, piece) for piece in pieces.T])


def plot_positions(ax, curves: dict[str, np.ndarray], width: int = 32) -> None:
    centres = np.arange(NEW // width) * width + width / 2
    for (name, nats), colour, marker in zip(curves.items(), METHODS.values(), MARKERS, strict=False):
        mean, low, high = intervals(nats, width).T
        ax.errorbar(centres, mean, (mean - low, high - mean), marker=marker, capsize=3, color=colour, label=name)
    ax.axvline(TRAINED, color="grey", linewidth=1)
    ax.legend(frameon=False)


curves = {}
for method in tqdm(METHODS, desc="methods"):
    set_frequencies(small, rope_frequencies(D_HEAD, 10000.0, TRAINED, NEW, method))
    curves[method] = position_losses(small)
fig, ax = figure(
    "Beyond 64 tokens plain RoPE breaks down, NTK holds longest",
    "position in the text, tokens (trained up to the line)",
    "loss, nats a token",
)
plot_positions(ax, curves)
print(f"{'nats a token':16s}{'tokens 1 to 64':>26s}{f'tokens {NEW - 63} to {NEW}':>28s}")
for method, nats in curves.items():
    first, last = (bootstrap(np.mean, part.mean(axis=1)) for part in (nats[:, :64], nats[:, -64:]))
    print(f"{method:16s}" + "".join("{:12.2f} ({:.2f} to {:.2f})".format(*part) for part in (first, last)))

# %% [markdown]
# Look at both ends. Without a change the model is at its best up to 64 and for some way beyond, then it breaks down. Interpolation is level, as promised, but at a
# high loss: it also slows the fast pairs, with which this model tells neighbours apart. NTK leaves those alone, costs little on the first 64 tokens, and
# holds up best at the end. Since every change of the frequencies costs something on short texts, transformers' `dynamic` changes them only for longer ones.
#
# Chen et al. do not leave it at that. Their claim is that a *short* tuning on long texts is enough once the positions are squeezed. Let us give
# each of the three the same few steps on windows of 256 tokens.

# %%
STEPS = 24
training = corpus_ids(400_000, "train", seed=3)
tuned, moved = {}, {}
with tqdm(total=3 * STEPS, desc="tuning") as bar:
    for method in METHODS:
        model, generator = copy.deepcopy(small).train(), torch.Generator().manual_seed(4)
        set_frequencies(model, rope_frequencies(D_HEAD, 10000.0, TRAINED, NEW, method))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(STEPS):
            ids, goal = windows(training, NEW, 4, generator)
            loss = F.cross_entropy(model(ids).flatten(0, 1), goal.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update()
        tuned[method] = position_losses(model.eval())
fig, ax = figure(
    f"After {STEPS} more steps, on 256 tokens",
    "position in the text, tokens (first trained up to the line)",
    "loss, nats a token",
)
plot_positions(ax, tuned)
print(f"{'loss of all 256 tokens':26s}{'before':>24s}{'after':>26s}")
for method in METHODS:
    parts = [bootstrap(np.mean, nats.mean(axis=1)) for nats in (curves[method], tuned[method])]
    print(f"{method:26s}" + "".join("{:10.2f} ({:.2f} to {:.2f})  ".format(*part) for part in parts))

# %% [markdown]
# All three learn. Interpolation gains most and stays level, but after so few steps NTK is still ahead of it everywhere, and on the average of all
# tokens even no change may beat it. That is not what the paper reports: there, with models of 7 billion parameters and more and up to 1,000 steps, interpolation
# is as good on long texts as the model was on short ones. Ours has a third of a million parameters, and half its pairs turn by a tenth of a circle or less in
# 64 tokens. Which method to choose, and how many steps suffice, is to be measured on the model at hand.
#
# ## Softmax without seeing all scores
#
# Now the second half: the attention itself. Week 1's softmax needs the maximum and the sum of a whole row before it can give the first weight. But both can
# be kept up to date, block by block. If a block brings a larger maximum, the sum so far is corrected by one factor:
#
# $$m' = \max(m, \max_j x_j), \qquad \ell' = \ell\, e^{m - m'} + \sum_j e^{x_j - m'} \qquad \text{(Milakov and Gimelshein 2018, algorithm 3)}$$

# %% tags=["exercise"]
from week5_inference.solutions.attention_kernels import online_softmax

# %%
scores = 20 * torch.randn(3, 1000, generator=torch.Generator().manual_seed(5))
m, total = online_softmax(scores.split(64, dim=-1))
print(
    f"largest difference from torch.softmax:   {((scores - m[:, None]).exp() / total[:, None] - scores.softmax(-1)).abs().max().item():.0e}"
)
print(f"largest difference from torch.logsumexp: {(m + total.log() - scores.logsumexp(-1)).abs().max().item():.0e}")

# %% [markdown]
# ## Attention in tiles
#
# What is to be computed is a sum over keys, $\sum_j e^{s_j} v_j / \sum_j e^{s_j}$. The numerator can be carried along like the sum: it is relative to the same
# maximum, and corrected by the same factor. So a tile of queries walks over the tiles of keys, keeps $m$, $\ell$ and $O$, and forgets the scores.
#
# $$O' = O\, e^{m - m'} + e^{S - m'}\, V_j, \qquad \text{at the end} \quad O / \ell, \quad L = m + \log \ell \qquad \text{(Dao et al. 2022, algorithm 1)}$$
#
# ```
#               keys →                       one tile of scores is alive at a time
#   queries   ┌────┬────┬────┐
#      ↓      │ 1  │    │    │    causal: the empty tiles are never computed,
#             ├────┼────┼────┤            those on the diagonal are masked inside
#             │ 2  │ 3  │    │
#             ├────┼────┼────┤    each row keeps  m (maximum), l (sum), O (output so far)
#             │ 4  │ 5  │ 6  │
#             └────┴────┴────┘
# ```
#
# The log-sum-exp $L$ of each query is all that is needed to get any weight back later: $P_{ij} = e^{S_{ij} - L_i}$. The paper's algorithm has the keys in the
# outer loop. With the queries outside, as in its successor (Dao 2023), a tile of queries is finished before the next one starts.

# %% tags=["given"]
from week5_inference.solutions.attention_kernels import check_tiles

# %% tags=["given"]
from week5_inference.solutions.attention_kernels import tile_scores

# %% tags=["exercise"]
from week5_inference.solutions.attention_kernels import flash_attention

# %% [markdown]
# PyTorch has the same algorithm inside `scaled_dot_product_attention` (SDPA), on a CPU too. The function below it also returns the log-sum-exp.
# `flex_attention` takes the mask as a Python function and compiles it into such a kernel. (On a CPU it is forward only. Not compiled, as here, it makes
# the whole matrix: good for comparison.)

# %%
q, k, v = torch.randn(3, 2, 4, 300, 32, generator=torch.Generator().manual_seed(6))
sdpa = F.scaled_dot_product_attention(q, k, v, is_causal=True)
_, sdpa_logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
hidden = torch.tensor(-math.inf)
flex, extra = flex_attention(
    q, k, v, score_mod=lambda s, b, h, i, j: torch.where(j <= i, s, hidden), return_aux=AuxRequest(lse=True)
)
for block in (1, 7, 64, 512):
    if block == 1:  # 300 × 300 tiles take a while in Python: a few queries will do
        out, logsumexp = flash_attention(q[..., -3:, :], k, v, block)
        others = [x[..., -3:, :] for x in (sdpa, flex)] + [
            x.view(2, 4, 300)[..., -3:] for x in (sdpa_logsumexp, extra.lse)
        ]
    else:
        out, logsumexp = flash_attention(q, k, v, block)
        others = [sdpa, flex, sdpa_logsumexp.view(2, 4, 300), extra.lse]
    differences = [
        (ours - other).abs().max().item() for ours, other in zip((out, out, logsumexp, logsumexp), others, strict=True)
    ]
    print(
        f"block {block:3d}: output against SDPA {differences[0]:.0e}, flex {differences[1]:.0e}; log-sum-exp {differences[2]:.0e}, {differences[3]:.0e}"
    )

# %% [markdown]
# And inside a real model: transformers lets you register an attention function of your own. SmolLM2 has 3 heads of keys for 9 of queries
# (lesson 02), so each is repeated.


# %%
def tiled(module, query, key, value, attention_mask, scaling=None, **_):
    repeats = query.shape[1] // key.shape[1]
    out, _ = flash_attention(query, key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1), block=16)
    return out.transpose(1, 2), None


prompt = tokenizer(texts[0], return_tensors="pt").input_ids[:, :50]
AttentionInterface.register("tiled", tiled)
with torch.no_grad():
    before = smol(prompt).logits
    smol.set_attn_implementation("tiled")
    after = smol(prompt).logits
    smol.set_attn_implementation("sdpa")
print(
    f"SmolLM2 with your attention in its {smol.config.num_hidden_layers} layers: logits within {(after - before).abs().max().item():.0e}, of up to {before.abs().max().item():.0f}"
)
del smol, checkpoint, in_half

# %% [markdown]
# ## Backward, by computing everything again
#
# To go backward, week 1's attention keeps its weights: the very matrix that we avoid. The paper throws them away and computes them a second time, tile by
# tile, from $L$. With $dO$ the gradient of the output,
#
# $$dV = P^\top dO, \quad dP = dO\,V^\top, \quad dS = P \circ (dP - D), \quad D_i = dO_i \cdot O_i, \quad dQ = \tfrac{1}{\sqrt{d}}\, dS\,K, \quad dK = \tfrac{1}{\sqrt{d}}\, dS^\top Q$$
#
# (algorithm 4, appendix B.2). The one surprise is $D$. The softmax's derivative needs, for each query, $\sum_j P_{ij}\, dP_{ij}$: a sum over the whole row, which
# no tile has. But it equals $dO_i \cdot O_i$, which is one number a query and known before the first tile. More arithmetic, less memory, and on a GPU less time.

# %% tags=["exercise"]
from week5_inference.solutions.attention_kernels import flash_attention_backward

# %% [markdown]
# This joins the two for autograd:

# %% tags=["given"]
from week5_inference.solutions.attention_kernels import FlashAttention

# %%
leaves = [x.clone().requires_grad_() for x in (q, k, v)]
grad_out = torch.randn(q.shape, generator=torch.Generator().manual_seed(7))
theirs = torch.autograd.grad(F.scaled_dot_product_attention(*leaves, is_causal=True), leaves, grad_out)
ours = torch.autograd.grad(FlashAttention.apply(*leaves, 64, True)[0], leaves, grad_out)
for name, a, b in zip(("dq", "dk", "dv"), ours, theirs, strict=True):
    print(
        f"{name}: largest difference from SDPA's {(a - b).abs().max().item():.0e}, of values up to {b.abs().max().item():.1f}"
    )
exact = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 7, 7)]
print(
    "gradcheck in float64, 5 queries on 7 keys, blocks of 3:",
    torch.autograd.gradcheck(lambda *x: FlashAttention.apply(*x, 3, True)[0], exact),
)

# %% [markdown]
# ## Memory against length
#
# How do we measure memory? The process's resident size would be the natural thing, but the allocator keeps pages and gives them out again, so that a second
# measurement in one process shows nothing. `LiveBytes` counts instead: it sees each operation that PyTorch dispatches, adds the storage of each new tensor, and
# takes it away when it is freed. The count is exact, and the same on every machine. It does not see what a kernel uses for itself, so SDPA's own tiles are not in it.
#
# **Predict.** On log-log axes a power law is a line, and its slope the exponent. Which slopes do you expect, forward and with backward?

# %%
LENGTHS, BLOCK = [512, 1024, 2048], 32
WAYS = {
    "whole matrix": attention,
    "tiles": lambda q, k, v: FlashAttention.apply(q, k, v, BLOCK, True)[0],
    "SDPA": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
}


def peak(attend, n: int, backward: bool) -> int:
    leaves = [torch.randn(1, 1, n, 64, requires_grad=True) for _ in range(3)]
    with LiveBytes() as memory:
        out = attend(*leaves)
        if backward:
            out.sum().backward()
    return memory.peak


for backward, name in ((False, "forward"), (True, "forward and backward")):
    fig, ax = figure(f"Slopes of 2 and 1, {name}", "length, tokens", "peak of live tensors, MB")
    for (way, attend), marker in zip(WAYS.items(), "os^", strict=True):
        peaks = [peak(attend, n, backward) / 1e6 for n in tqdm(LENGTHS, desc=f"{name}, {way}", leave=False)]
        slope = np.polyfit(np.log(LENGTHS), np.log(peaks), 1)[0]
        ax.loglog(LENGTHS, peaks, marker=marker, label=f"{way}: slope {slope:.2f}")
        print(f"{name:22s}{way:14s}slope {slope:.2f}; {peaks[-1]:8.2f} MB at {LENGTHS[-1]:,} tokens")
    ax.set_xticks(LENGTHS, LENGTHS)
    ax.minorticks_off()
    ax.legend(frameon=False)

# %% [markdown]
# The slopes are fits to exact counts, so there is no noise in them. What is left of a difference from 1 and 2 comes from parts that do not grow, the tiles,
# and parts that grow otherwise, such as q, k and v beside the matrix.
#
# Time and memory up to 8,192 tokens are measured by `python -m benchmarks.attention`. One run on one thread, forward, one head, 8,192 tokens: 2.5 s and 1,147 MB
# for the whole matrix, 0.44 s and 10 MB for the tiles (blocks of 256), 0.18 s and 8 MB for SDPA. Half of the tiles are never computed, and a tile stays in the
# cache. Small blocks are slower in Python, where each tile is a dozen calls. That a fast memory is what makes tiles fast is the paper's main point:
#
# ## Bytes moved
#
# A GPU computes far faster than it reads. An A100 does 312 TFLOP/s in half precision and reads 1.5 TB/s from its large memory (HBM): 200 operations for each byte.
# Attention with a stored matrix writes and reads $n^2$ numbers several times and does little with each. On the chip there is a fast memory (SRAM), of about 100 KB
# for each of its processors. Theorem 2 of the paper counts what crosses the border between the two, with a fast memory of $M$ numbers:
#
# $$\text{whole matrix } \Theta(nd + n^2), \qquad \text{tiles } \Theta(n^2 d^2 / M)$$
#
# We count every load and store of the paper's algorithms 0 and 1, with their tile sizes $\lceil M/4d \rceil$ and $\min(\lceil M/4d \rceil, d)$:

# %%
N, D = 1024, 64
sizes = 2 ** np.arange(9, 18)
traffic = [flash_traffic(N, D, int(size)) for size in sizes]
fig, ax = figure("More fast memory, fewer numbers moved", "fast memory, thousand numbers", "numbers moved, millions")
ax.loglog(sizes / 1e3, np.array(traffic) / 1e6, marker="s", label="tiles (algorithm 1)")
ax.loglog(sizes / 1e3, N * N * D * D / sizes / 1e6 * 4, ":", color="grey", label="a line of slope -1")
ax.axhline(standard_traffic(N, D) / 1e6, color=COLOURS[1], label="whole matrix (algorithm 0)")
ax.legend(frameon=False)
for kilobytes in (16, 64, 100, 192):
    moved = flash_traffic(N, D, kilobytes * 1024 // 2)
    print(
        f"{kilobytes:4d} KB of half-precision numbers: tiles move {moved / 1e6:6.2f} million, the whole matrix {standard_traffic(N, D) / 1e6:.2f}: {standard_traffic(N, D) / moved:.1f} times as many"
    )
slope = np.polyfit(np.log(sizes[:6]), np.log(traffic[:6]), 1)[0]
print(f"slope of the first part: {slope:.2f} (Theorem 2: -1)")

# %% [markdown]
# The curve also has a left end. With a fast memory below a few times $d^2$, tiles would move *more* than the whole matrix: $d^2/M$ is then above 1.
# A CPU has caches in place of SRAM, and the same trade.
#
# ## On a GPU: the same in Triton
#
# In Triton you write what one program does with one tile, in Python, and the compiler makes GPU code of it. `week5_inference/triton_flash.py` is your forward pass as
# such a kernel. Compare it line by line with yours: the outer loop has become the grid, and `tl.load` and `tl.store` are the border that was counted above.

# %%
from week5_inference import triton_flash

source = inspect.getsource(triton_flash)
print(source[source.index("    @triton.jit") : source.index("def flash_attention_triton")])

# %%
GPU = torch.cuda.is_available() and not triton_flash.why_not("cuda")
if GPU:
    q, k, v = torch.randn(3, 4, 8, 1000, 64, device="cuda", dtype=torch.float16)
    out, _ = triton_flash.flash_attention_triton(q, k, v)
    print(
        f"largest difference from SDPA on the GPU: {(out - F.scaled_dot_product_attention(q, k, v, is_causal=True)).abs().max().item():.0e}"
    )
else:
    try:
        triton_flash.flash_attention_triton(q, k, v)
    except RuntimeError as error:
        print(f"not run here: {error}")

# %% [markdown]
# To be plain about it: this kernel was not run on a GPU when the course was made. It was run in Triton's interpreter, on a CPU, and gave your numbers to
# $5 \cdot 10^{-6}$; the course's tests do that wherever Triton is installed. The interpreter says nothing about speed, or about what fits on a chip.
#
# ## Find the bug
#
# A colleague's version is right on short texts and for a good part of the long ones. What is wrong? Read it before you run the check.


# %%
def colleagues_flash(q, k, v, block, causal=True):
    check_tiles(q, k, v, block, causal)
    n_query, n_key = q.shape[-2], k.shape[-2]
    outs, logs = [], []
    for i in range(0, n_query, block):
        position = i + n_key - n_query
        first = tile_scores(q[..., i : i + block, :], k[..., :block, :], position, 0, causal)
        m = first.amax(dim=-1)
        total = (first - m[..., None]).exp().sum(dim=-1)
        o = (first - m[..., None]).exp() @ v[..., :block, :].to(first.dtype)
        for j in range(block, n_key, block):
            scores = tile_scores(q[..., i : i + block, :], k[..., j : j + block, :], position, j, causal)
            new_m = torch.maximum(m, scores.amax(dim=-1))
            weights = (scores - new_m[..., None]).exp()
            total = total * (m - new_m).exp() + weights.sum(dim=-1)
            o = o + weights @ v[..., j : j + block, :].to(first.dtype)
            m = new_m
        outs.append(o / total[..., None])
        logs.append(m + total.log())
    return torch.cat(outs, dim=-2).to(q.dtype), torch.cat(logs, dim=-1)


print(run_check("flash_attention", colleagues_flash).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The output so far, `o`, is not multiplied by exp(m - new_m). Whenever the first tile holds a query's largest score, that factor is 1 and nothing is wrong. The
# log-sum-exp is right everywhere. A test with one tile, or with scores that fall, would have passed it.
#
# </details>
#
# ## What to read
#
# - **Dao et al. 2022.** Algorithm 1 with your function beside it. Where does it divide by the sum, and how often? Section 3.2 has Theorem 2 and its short proof: find the step
#   at which the tile's size meets $M$. Figure 2 (left) says how many more FLOPs, and how many fewer bytes, the backward pass has.
# - **Su et al. 2021**, section 3.4: equations 14, 15 and 34. Which of the two layouts is equation 34 written for?
# - **Chen et al. 2023**, section 2: why is extrapolation so bad, where interpolation is bounded? Figure 2 tells it.
# - **FlashAttention**, [Dao-AILab/flash-attention](https://github.com/Dao-AILab/flash-attention): `flash_attn/flash_attn_triton.py` is a forward *and* a backward pass in
#   Triton. How does it keep two programs from adding to the same `dq`?
# - **vLLM**, [vllm-project/vllm](https://github.com/vllm-project/vllm): look for `rotary_embedding`. How many ways to extend a context does it know, and where does it decide
#   between the two layouts (`is_neox_style`)?
# - **transformers**, `modeling_rope_utils.py`: the functions that you compared with, and `yarn`, which treats fast and slow pairs differently.
#
# ## Recap
#
# - RoPE turns pairs of q and k by position times frequency. Scores then depend on distances alone.
# - There are two layouts of pairs. Weights for one in code for the other load without an error and ruin the model.
# - Beyond the trained length, plain RoPE meets unknown angles. Interpolation and NTK change the frequencies, at some cost on short texts; tuning helps further.
# - Maximum and sum of a softmax can be kept up to date, and so can the output: attention needs one tile of scores at a time. The log-sum-exp brings back any weight.
# - Memory grows with $n$ in place of $n^2$, and fewer bytes cross between slow and fast memory. The number of operations is the same, or larger.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("attention_kernels")

# %%
progress("week5_inference")
