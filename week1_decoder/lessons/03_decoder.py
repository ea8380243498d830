# %% [markdown]
# # The decoder
#
# Attention moves information between positions. A GPT is attention plus four plain things: a way to know
# *where* a token stands, a norm that keeps numbers in range, a small network that works on each position
# alone, and a sum that runs through all layers. Put together they are about a hundred lines. This lesson
# writes them all, and then loads GPT-2's weights into them, under three different naming schemes, and gets
# GPT-2's logits.
#
# The `GPT` that you write here is the model of all six weeks: it is trained in week 2, judged in week 3,
# fine-tuned in week 4, made fast in week 5 and aligned in week 6.
#
# Reading and writing: about 150 minutes, in two sittings if you like: the model, then what it weighs and
# costs. Papers: Vaswani et al. 2017 ([arXiv:1706.03762](https://arxiv.org/abs/1706.03762)), section 3;
# Radford et al. 2019, *Language Models are Unsupervised Multitask Learners* (GPT-2), section 2.3.

# %%
import math
import re
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from shared import borrow, check, explore, hint, mine, progress
from shared.data import corpus
from shared.plotting import COLOURS, HATCHES, LINES, figure
from shared.runtime import pick_device, seed_everything
from shared.training import train

_ = seed_everything(0)  # for modules that start from the global seed

# %% [markdown]
# From lesson 02 you bring the module:

# %%
MultiHeadAttention = mine("MultiHeadAttention")

# %% [markdown]
# ## Where a token stands
#
# Attention sees a *set*: shuffle the earlier tokens, and a query gets the same average. The order has to be
# told. Both ways in this lesson add a vector to each token's embedding, one for each position:
#
# - **learned**: a second embedding matrix, one row a position, trained like the first. GPT-2 does this.
# - **sinusoidal**: fixed waves, from the shortest to the longest, as in the original Transformer:
#
# $$PE_{t,\,2i} = \sin\!\left(\frac{t}{10000^{2i/d}}\right), \qquad PE_{t,\,2i+1} = \cos\!\left(\frac{t}{10000^{2i/d}}\right)$$
#
# where $d$ is `d_model`. Each pair of columns is the hand of a clock; the first goes round in 6 positions,
# the last, in a wide model, in about 60,000. (A third way, RoPE, turns queries and keys instead of adding anything. It comes in
# week 5, and is made of these same clocks.)

# %% tags=["exercise"]
from week1_decoder.solutions.decoder import sinusoidal_positions

# %% [markdown]
# **Predict.** Take the dot product of the rows for positions 10 and 13, and of those for 40 and 43. Which is
# larger?

# %%
table = sinusoidal_positions(128, 64)
for t in (0, 10, 40, 124):
    print(f"row {t:3d} · row {t + 3:3d} = {(table[t] @ table[t + 3]).item():.4f}")

# %%
centre = 64
similarity = table @ table[centre]
assert torch.allclose(table[3:].mul(table[:-3]).sum(-1), table[3] @ table[0], atol=1e-3)
fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
axes[0].imshow(table.T, cmap="cividis", aspect="auto")
axes[0].set(xlabel="position (tokens)", ylabel="column")
axes[0].set_title("Each pair of columns is a slower clock", loc="left", fontsize=11)
axes[1].plot(torch.arange(128) - centre, similarity, color=COLOURS[0])
axes[1].set(xlabel="distance between two positions (tokens)", ylabel="dot product")
axes[1].set_title("The dot product depends on the distance alone", loc="left", fontsize=11)
axes[1].spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# They are equal. For each pair, $\sin a \sin b + \cos a \cos b = \cos(a - b)$: only the difference of the two
# angles is left. So a head can learn "three tokens back" once, for all positions. With learned rows it has to
# find that out from data.
#
# </details>
#
# ## LayerNorm
#
# Deep sums drift. LayerNorm takes one token's vector, moves its mean to 0 and its standard deviation to 1,
# and then lets two learned vectors, $\gamma$ (`weight`) and $\beta$ (`bias`), undo as much of that as is
# useful:
#
# $$\operatorname{LayerNorm}(x) = \gamma \odot \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta, \qquad
# \mu = \frac1d \sum_i x_i, \quad \sigma^2 = \frac1d \sum_i (x_i - \mu)^2$$
#
# Mean and variance are over the last axis, so tokens and rows of a batch know nothing of each other. (Ba,
# Kiros and Hinton 2016, [arXiv:1607.06450](https://arxiv.org/abs/1607.06450). Batch norm, which takes them
# over the batch, would let a token see its neighbours, also the future ones.)
#
# **Predict.** A new LayerNorm gets `x`, then `1000 * x`, then `x + 50`. How do the three outputs differ?

# %% tags=["exercise"]
from week1_decoder.solutions.decoder import LayerNorm

# %%
x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
norm, library = LayerNorm(64), nn.LayerNorm(64)
difference = (norm(x) - library(x)).abs().max().item()
print(f"largest difference from nn.LayerNorm: {difference:.0e}")
assert difference < 1e-5
print("x, 1000 x, x + 50:", [round(norm(y)[0, 0, 0].item(), 3) for y in (x, 1000 * x, x + 50)])

# %% [markdown]
# <details><summary>Answer</summary>
#
# They do not differ, up to rounding: a common factor and a common shift are just what is taken out. What a
# layer reads through a norm is a *direction*. So later layers still read well when the stream has grown.
#
# </details>
#
# ## The feed-forward network
#
# After attention has brought information to a position, a network with one hidden layer works on it there,
# the same for every position:
#
# $$\operatorname{FFN}(x) = W_\text{out}\, \operatorname{GELU}(W_\text{in}\, x + b_\text{in}) + b_\text{out}$$
#
# $W_\text{in}$ is usually four times as wide as the stream (`d_ff = 4 * d_model`). Two thirds of a block's
# weights are here.
#
# GELU (Hendrycks and Gimpel 2016, [arXiv:1606.08415](https://arxiv.org/abs/1606.08415)) is $h\,\Phi(h)$, with
# $\Phi$ the normal distribution function: a soft ReLU. The paper also gives an approximation, cheaper at the
# time, and **GPT-2 was trained with that one**:
#
# $$\operatorname{GELU}(h) \approx \tfrac12 h \left(1 + \tanh\!\left(\sqrt{2/\pi}\,\left(h + 0.044715\,h^3\right)\right)\right)$$

# %% tags=["exercise"]
from week1_decoder.solutions.decoder import FeedForward

# %%
net = FeedForward(64, 256)
difference = (net(x) - net.w_out(F.gelu(net.w_in(x), approximate="tanh"))).abs().max().item()
print(f"largest difference from F.gelu(approximate='tanh'): {difference:.0e}")
assert difference < 1e-6

h = torch.linspace(-4, 4, 400)
gap = F.gelu(h, approximate="tanh") - F.gelu(h)
fig, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
axes[0].plot(h, torch.relu(h), "--", color=COLOURS[1], label="ReLU")
axes[0].plot(h, F.gelu(h, approximate="tanh"), color=COLOURS[0], label="GELU")
axes[0].legend(frameon=False)
axes[0].set_title("GELU lets small negative values through", loc="left", fontsize=11)
axes[1].plot(h, 1e4 * gap, color=COLOURS[3])
axes[1].set_title(f"The two GELUs differ by at most {gap.abs().max().item():.4f}", loc="left", fontsize=11)
axes[0].set(xlabel="h", ylabel="activation")
axes[1].set(xlabel="h", ylabel="tanh form - exact form (1/10,000)")
plt.show()

# %% [markdown]
# That gap looks like nothing. Further down you will see what it does to the logits of a whole model.
#
# ## The residual stream and the block
#
# No layer *replaces* what came before. Each reads the stream `x` and **adds** an update to it:
#
# ```
#   token + position                                                        logits
#         |                                                                   ^
#         v                                                                   |  compare with each
#   x ----+----------------------->(+)---------------------->(+)--- ... --> final_norm   token's embedding
#         |                         ^ |                       ^
#         '--> norm_1 --> attention-' '--> norm_2 --> feed_forward
# ```
#
# Follow the upper line backwards: it is a path without a single multiplication from the last layer to the
# embeddings. Gradients take it too. That is what lets a model have 12, 48 or 96 such layers.
#
# Where the norm sits is a choice. **Pre-norm** (GPT-2, and nearly everything since) is the drawing: the norm
# is in the side branch. **Post-norm** (the original Transformer) normalises the sum, so the norm sits *on*
# the line:
#
# $$\text{pre:}\quad x \leftarrow x + f(\operatorname{norm}(x)) \qquad\qquad \text{post:}\quad x \leftarrow \operatorname{norm}(x + f(x))$$
#
# One frozen dataclass describes a model. It is given; run it. Later weeks add options to it.

# %% tags=["given"]
from week1_decoder.solutions.decoder import GPTConfig

# %%
for wrong in (dict(d_model=100, n_heads=12), dict(norm_placement="before")):
    try:
        GPTConfig(**wrong)
    except ValueError as error:
        print(error)

# %% tags=["given"]
from week1_decoder.solutions.decoder import make_norm

# %% tags=["exercise"]
from week1_decoder.solutions.decoder import Block

# %% [markdown]
# PyTorch's `nn.TransformerEncoderLayer` is the same block, if it gets a causal mask ("encoder" refers to
# having no second attention to another sequence). It stacks `w_q`, `w_k`, `w_v` in one matrix. Both
# placements are there: `norm_first`.

# %%
causal = nn.Transformer.generate_square_subsequent_mask(16)
x = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(1))
for placement in ("pre", "post"):
    config = GPTConfig(d_model=48, n_heads=4, norm_placement=placement)
    block = Block(config)
    library = nn.TransformerEncoderLayer(
        48, 4, config.d_ff, dropout=0.0, batch_first=True, norm_first=placement == "pre",
        activation=lambda h: F.gelu(h, approximate="tanh"),
    )
    attention = block.attention
    with torch.no_grad():
        library.self_attn.in_proj_weight.copy_(torch.cat([attention.w_q.weight, attention.w_k.weight, attention.w_v.weight]))
        library.self_attn.in_proj_bias.copy_(torch.cat([attention.w_q.bias, attention.w_k.bias, attention.w_v.bias]))
    library.self_attn.out_proj.load_state_dict(attention.w_o.state_dict())
    library.linear1.load_state_dict(block.feed_forward.w_in.state_dict())
    library.linear2.load_state_dict(block.feed_forward.w_out.state_dict())
    difference = (block(x) - library(x, src_mask=causal, is_causal=True)).abs().max().item()
    print(f"{placement}-norm, largest difference from nn.TransformerEncoderLayer: {difference:.0e}")
    assert difference < 1e-5

# %% [markdown]
# ## Where the weights start
#
# GPT-2 draws every matrix from $N(0, 0.02^2)$, sets biases to 0 and norm weights to 1. One kind of matrix is
# special: those that *write into the stream* (`w_o` and `w_out`). A model of $L$ layers adds $2L$ updates;
# independent updates add their variances, so the stream would grow like $\sqrt{2L}$. Dividing their standard
# deviation by $\sqrt{2L}$ cancels that:
#
# $$\operatorname{std}(w_o) = \operatorname{std}(w_\text{out}) = \frac{0.02}{\sqrt{2L}}$$

# %% tags=["exercise"]
from week1_decoder.solutions.decoder import init_weights

# %% [markdown]
# ## The whole model
#
# What is left is short. Three things to know before you write it:
#
# - **Weight tying.** The head that turns the stream into logits is the embedding matrix $E$ itself: a token's
#   logit is the dot product of the stream with that token's embedding (Press and Wolf 2017,
#   [arXiv:1608.05859](https://arxiv.org/abs/1608.05859)). In GPT-2 small this saves 38.6 million parameters.
# - **The size of the embeddings.** They start at 0.02, learned positions too. Sinusoids have size 1; next to
#   them, tokens would be noise. So the original Transformer multiplies the token embeddings by
#   $\sqrt{d_\text{model}}$ first, and so does ours, for sinusoidal positions only.
# - **Padding takes no positions.** A token's position is the number of *real* tokens before it. With padding
#   on the right nothing changes. With padding on the left, as for generation, a row gets the same logits as
#   it does alone. This is what transformers' `generate` does when it makes `position_ids` from the attention
#   mask.
#
# `hidden_states` is a method of its own because later weeks put other heads on it: a reward model, a value
# function.

# %% tags=["exercise"]
from week1_decoder.solutions.decoder import GPT

# %% [markdown]
# **Predict.** A new model of 500 tokens knows nothing. What is its mean cross-entropy, in nats? And with
# PyTorch's own start for embeddings, $N(0, 1)$, in place of 0.02? (The logits are dot products of `d_model`
# numbers.)

# %%
config = GPTConfig(vocab_size=500, context_length=32, d_model=64, n_heads=4, n_layers=4)
token_ids = torch.randint(500, (16, 33), generator=torch.Generator().manual_seed(2))
for label, size in (("0.02", 0.02), ("1", 1.0)):
    model = GPT(config, torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.token_embedding.weight.mul_(size / 0.02)
        loss = F.cross_entropy(model(token_ids[:, :-1]).flatten(0, 1), token_ids[:, 1:].flatten())
    print(f"embeddings of size {label:4s}: loss {loss:5.2f} nats    (ln 500 = {math.log(500):.2f})")

# %% [markdown]
# <details><summary>Answer</summary>
#
# $\ln 500 = 6.21$: all tokens equally likely. With embeddings of size 1 most logits are about
# $\sqrt{64} = 8$ in size. But the stream is still nearly the embedding of the token just read, and its product
# with itself is about 64. The model is certain that every token comes twice, and wrong. A first loss well
# above $\ln V$ is a bug in the start, seen before any training: the cheapest test there is.
#
# </details>
#
# ### What the scaled start does
#
# The size of the stream after each of 24 layers, at the start, with the residual matrices at $0.02$ and at
# $0.02/\sqrt{2L}$:

# %%
def stream_sizes(scaled: bool, seed: int) -> list[float]:
    """Standard deviation of the residual stream before the first and after each layer."""
    config = GPTConfig(vocab_size=500, context_length=32, d_model=128, n_heads=4, n_layers=24)
    model = GPT(config, torch.Generator().manual_seed(seed))
    token_ids = torch.randint(500, (4, 32), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        x = model.token_embedding(token_ids) + model.position_embedding.weight
        sizes = [x.std().item()]
        for block in model.blocks:
            if not scaled:
                block.attention.w_o.weight.mul_(math.sqrt(2 * config.n_layers))
                block.feed_forward.w_out.weight.mul_(math.sqrt(2 * config.n_layers))
            x = block(x)
            sizes.append(x.std().item())
    return sizes


fig, ax = figure("", "layers passed", "size of the stream (standard deviation)")
growth = {}
for scaled, colour, label in ((False, COLOURS[3], "0.02 everywhere"), (True, COLOURS[0], "0.02 / √(2L) for w_o, w_out")):
    runs = torch.tensor([stream_sizes(scaled, seed) for seed in tqdm(range(5), desc=label, leave=False)])
    mean, spread = runs.mean(0), 2 * runs.std(0)
    growth[scaled] = (mean[-1] / mean[0]).item()
    ax.plot(mean, "-" if scaled else "--", color=colour, label=label)
    ax.fill_between(range(len(mean)), mean - spread, mean + spread, color=colour, alpha=0.25)
ax.set_ylim(0, None)
ax.set_title(f"Through 24 layers the stream grows {growth[False]:.1f}-fold, with the scaled start {growth[True]:.1f}-fold",
             loc="left", fontsize=11)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The band is two standard deviations over 5 seeds. The dashed curve is a square root of depth, as promised.
#
# ## GPT-2's weights in your model
#
# The same architecture exists under different names, and reading other people's names is half of the work
# with models:
#
# | yours | Hugging Face, nanoGPT, minGPT | |
# |---|---|---|
# | `token_embedding`, `position_embedding` | `wte`, `wpe` | word token, word position embedding |
# | `blocks.0` | `h.0` | hidden layer |
# | `norm_1`, `norm_2` | `ln_1`, `ln_2` | |
# | `attention.w_q`, `w_k`, `w_v` | `attn.c_attn` | one matrix three times as wide |
# | `attention.w_o` | `attn.c_proj` | |
# | `feed_forward.w_in`, `w_out` | `mlp.c_fc`, `mlp.c_proj` | |
# | `final_norm` | `ln_f` | |
# | none (tied) | `lm_head.weight` | outside of `transformer.` |
#
# Four traps, all real:
#
# 1. **Conv1D.** OpenAI's code called its linear layer `conv1d` and stored matrices as (in, out). Hugging Face
#    kept both. nanoGPT and minGPT use `nn.Linear`, (out, in), under the *same names*. So a name does not tell
#    the layout; a shape does. But `attn.c_proj` is square and fits both ways. Only a matrix that is not
#    square can tell, and it tells for the whole file.
# 2. **`attn.bias` is not a bias.** minGPT, nanoGPT (where it does not use the fused kernel) and older Hugging
#    Face files register the causal mask as a buffer called `bias` in the attention module, so it stands among
#    the weights as `h.0.attn.bias`, with four axes. Older Hugging Face files have `attn.masked_bias` too: the
#    number that was put where the mask hides. Both are left out. The true bias is `h.0.attn.c_attn.bias`.
# 3. **Prefixes.** `GPT2LMHeadModel` puts `transformer.` before the names, the bare `GPT2Model` and the files
#    on the hub do not, and `torch.compile` puts `_orig_mod.` before everything (look for `unwanted_prefix` in
#    nanoGPT's `sample.py`).
# 4. **Is the head tied?** In nanoGPT and Hugging Face, `lm_head.weight` and `wte.weight` are one tensor.
#    minGPT trains them apart, so its own checkpoints do not fit into a tied model. To refuse them is right;
#    to drop the head without a word is a silent bug.

# %% tags=["exercise"]
from week1_decoder.solutions.decoder import from_gpt2_state_dict

# %% [markdown]
# The test that counts. A small GPT-2 of transformers with random weights, larger than at the start so that
# every part matters:

# %%
small = dict(vocab_size=311, n_positions=64, n_embd=96, n_layer=4, n_head=6, bos_token_id=0, eos_token_id=0)
gpt2 = GPT2LMHeadModel(GPT2Config(**small)).eval()
generator = torch.Generator().manual_seed(4)
with torch.no_grad():
    for parameter in gpt2.parameters():
        parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))

config = GPTConfig(vocab_size=311, context_length=64, d_model=96, n_heads=6, n_layers=4)
token_ids = torch.randint(311, (2, 64), generator=generator)
with torch.no_grad():
    expected = gpt2(token_ids).logits


def difference_from_gpt2(state_dict: dict[str, Tensor]) -> float:
    """Load published weights into your GPT; the largest difference of its logits from transformers'."""
    model = GPT(config)
    model.load_state_dict(from_gpt2_state_dict(state_dict, config))
    with torch.no_grad():
        return (model(token_ids) - expected).abs().max().item()


published = gpt2.state_dict()
linear = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
as_nanogpt = {name: value.T if name.endswith(linear) else value for name, value in published.items()}
mask = torch.ones(64, 64).tril()[None, None]
as_mingpt = as_nanogpt | {f"transformer.h.{i}.attn.bias": mask for i in range(4)}

print(f"logits of size {expected.std():.1f}; largest difference")
for label, state_dict in (("Hugging Face", published), ("nanoGPT", as_nanogpt), ("minGPT", as_mingpt)):
    difference = difference_from_gpt2(state_dict)
    print(f"  {label:12s} {difference:.0e}")
    assert difference < 1e-4

# %% [markdown]
# And the other GELU? nanoGPT uses `nn.GELU()`, the exact form, where OpenAI, transformers and minGPT use the
# tanh form. The same weights, in transformers, with one word changed:

# %%
other = GPT2LMHeadModel(GPT2Config(**small, activation_function="gelu")).eval()
other.load_state_dict(gpt2.state_dict())
with torch.no_grad():
    gap = (other(token_ids).logits - expected).abs().max().item()
print(f"exact GELU against tanh GELU: logits differ by up to {gap:.4f}")

# %% [markdown]
# Harmless for the text that comes out, and hundreds of times more than rounding. If your port of a model is
# off by *this* much, look at the activation.
#
# Now the real one, 124 million parameters. It is loaded where it is on the disk already or where a GPU
# suggests a machine with a fast line; otherwise set `download = True` (548 MB).

# %% tags=["nbval-ignore-output"]
download = pick_device().type == "cuda"
try:
    real = GPT2LMHeadModel.from_pretrained("gpt2", local_files_only=not download).eval()
except OSError:
    real = None
    print("gpt2 is not on this machine. The comparison above is the same one with random weights.")

if real is not None:
    model = GPT(GPTConfig()).eval()
    model.load_state_dict(from_gpt2_state_dict(real.state_dict(), GPTConfig()))
    token_ids_real = torch.randint(50257, (1, 128), generator=generator)
    with torch.no_grad():
        theirs, ours = real(token_ids_real).logits, model(token_ids_real)
    relative = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f"gpt2: largest difference {relative:.0e} of the largest logit")
    assert relative < 1e-4

# %% [markdown]
# ## Find the bug
#
# This loader is from a code review. It goes through the names that *your* model wants, looks each up, and
# transposes what does not fit. It loads without a complaint, strict, every shape right:

# %%
def suspicious_loader(state_dict: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    theirs = {name.removeprefix("transformer."): value for name, value in state_dict.items()}
    words = [("blocks", "h"), ("norm_", "ln_"), ("attention.w_o", "attn.c_proj"), ("feed_forward.w_in", "mlp.c_fc"),
             ("feed_forward.w_out", "mlp.c_proj"), ("token_embedding", "wte"), ("position_embedding", "wpe"),
             ("final_norm", "ln_f")]
    ours = {}
    for name, wanted in GPT(config).state_dict().items():
        parts = re.fullmatch(r"blocks\.(\d+)\.attention\.w_([qkv])\.(weight|bias)", name)
        if parts:
            layer, letter, kind = parts.groups()
            value = theirs[f"h.{layer}.attn.c_attn.{kind}"].chunk(3, dim=-1)["qkv".index(letter)]
            value = value.T if kind == "weight" else value
        else:
            their_name = name
            for new, old in words:
                their_name = their_name.replace(new, old)
            value = theirs[their_name]
            if value.shape != wanted.shape:
                value = value.T
        ours[name] = value
    return ours


suspect = GPT(config)
print(suspect.load_state_dict(suspicious_loader(published, config)))
with torch.no_grad():
    print(f"largest difference of the logits: {(suspect(token_ids) - expected).abs().max():.1f}")

# %% [markdown]
# When a port is wrong, do not stare at the logits: **compare from the bottom up, and stop at the first
# difference.** transformers hands out the stream after each block; a loop over yours gives the same.

# %%
good = GPT(config)
good.load_state_dict(from_gpt2_state_dict(published, config))
with torch.no_grad():
    theirs = gpt2(token_ids, output_hidden_states=True).hidden_states
    x = suspect.token_embedding(token_ids) + suspect.position_embedding.weight
    print(f"embeddings        {(x - theirs[0]).abs().max():.0e}")
    block, right = suspect.blocks[0], good.blocks[0]
    for part in ("norm_1", "attention", "norm_2", "feed_forward"):
        gap = (getattr(block, part)(x) - getattr(right, part)(x)).abs().max()
        print(f"block 0, {part:12s} {gap:.0e}    (both fed the same x)")

# %% [markdown]
# Only attention is off. Which of its four matrices, and why did nothing complain? Decide before you open the
# answer.
#
# <details><summary>Answer</summary>
#
# `attn.c_proj` is square: (96, 96) fits (96, 96), so it was never transposed. "Transpose what does not fit"
# works for all matrices but the one where nothing else would have caught it. The rule that holds: `c_attn` is
# never square, so it decides for the whole file.
#
# </details>

# %%
fixed = {name: value.T if name.endswith("w_o.weight") else value
         for name, value in suspicious_loader(published, config).items()}
suspect.load_state_dict(fixed)
with torch.no_grad():
    print(f"largest difference of the logits: {(suspect(token_ids) - expected).abs().max():.0e}")

# %% [markdown]
# ## What it weighs
#
# **Predict.** Of GPT-2 small's 124 million parameters, which share are token embeddings? And in GPT-2 XL,
# with 1.6 billion?

# %% tags=["exercise"]
from week1_decoder.solutions.decoder import count_parameters

# %% [markdown]
# On the *meta* device tensors have shapes but no numbers, so any model is built in no time and no memory.
# Three counts of the same model:

# %%
with torch.device("meta"):
    by_module = sum(parameter.numel() for parameter in GPT(GPTConfig()).parameters())
    by_transformers = GPT2LMHeadModel(GPT2Config()).num_parameters()
print(f"formula {count_parameters(GPTConfig()):,}, your module {by_module:,}, transformers {by_transformers:,}")
assert count_parameters(GPTConfig()) == by_module == by_transformers == 124_439_808

sizes = {"small": (768, 12, 12), "medium": (1024, 16, 24), "large": (1280, 20, 36), "XL": (1600, 25, 48)}
print("\nGPT-2    d_model  n_layers     parameters  token embeddings")
for name, (d_model, n_heads, n_layers) in sizes.items():
    shape = GPTConfig(d_model=d_model, n_heads=n_heads, n_layers=n_layers)
    total = count_parameters(shape)
    print(f"{name:8s} {d_model:7d} {n_layers:9d} {total:14,} {50257 * d_model / total:17.0%}")

# %% [markdown]
# Table 2 of the GPT-2 paper says 117M, 345M, 762M and 1542M. The README of
# [openai/gpt-2](https://github.com/openai/gpt-2) corrects that: the counts in the paper were wrong. Yours are
# right.
#
# ## What it computes
#
# Nearly all time goes into matrix products. $(m, k) @ (k, n)$ takes $2\,m\,k\,n$ floating-point operations, a
# multiply and an add for each of $m\,k\,n$ terms.

# %% tags=["exercise"]
from week1_decoder.solutions.decoder import transformer_flops

# %% [markdown]
# PyTorch can count while a model runs. The numbers are exact, so they must be equal. (Its counter does not see
# into fused attention on a CPU. `SDPBackend.MATH` takes that apart into products, in case you use it.)

# %%
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

model = GPT(config)
with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
    model(token_ids[:1])
print(f"PyTorch counts {counter.get_total_flops():,}, your formula {sum(transformer_flops(config, 64).values()):,}")
assert counter.get_total_flops() == sum(transformer_flops(config, 64).values())

# %% [markdown]
# **Predict.** GPT-2 small reads 1,024 tokens. What share of the work are the two products with the (query,
# key) square? And at 16,384 tokens?

# %%
def draw_flops(lengths: list[int], d_model: int = 768):
    """Stacked bars: the share of each part in a forward pass of a 12-layer GPT."""
    shape = GPTConfig(d_model=d_model, n_heads=d_model // 64)
    flops = {n: transformer_flops(shape, n) for n in lengths}
    totals = {n: sum(parts.values()) for n, parts in flops.items()}
    share = [flops[n]["attention"] / totals[n] for n in lengths]
    fig, ax = figure(f"The square of attention takes {' and '.join(f'{s:.0%}' for s in share)} of the work",
                     "share of the FLOPs of one forward pass (%)", "", width=8, height=2.6)
    left = [0.0] * len(lengths)
    for part, colour, hatch in zip(("attention", "projections", "feed_forward", "logits"), COLOURS, HATCHES, strict=False):
        width = [100 * flops[n][part] / totals[n] for n in lengths]
        ax.barh(range(len(lengths)), width, left=left, color=colour, hatch=hatch, edgecolor="white", label=part.replace("_", "-"))
        left = [a + b for a, b in zip(left, width, strict=True)]
    ax.set_yticks(range(len(lengths)), [f"{n:,} tokens\n{totals[n] / 1e12:.2f} TFLOPs" for n in lengths])
    ax.invert_yaxis()
    ax.legend(ncols=4, frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.28))
    return fig


fig = draw_flops([1024, 16_384])
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# 13 % and 71 %. In a layer the square costs $4 n^2 d$ and everything else $24 n d^2$ (with
# $d_\text{ff} = 4d$): they are equal at $n = 6d$, which is 4,608 tokens for GPT-2 small. So for usual lengths
# the matrices dominate, and the rule of thumb "2 FLOPs a parameter and token" works. At long lengths
# attention takes over: weeks 2 and 5 come back to both. (A kernel that skips the masked half of the square
# saves half of it.)
#
# </details>
#
# Wider models push that point out. Move the sliders:

# %%
def flops_at(thousand_tokens: int, d_model: int):
    return draw_flops([1024 * thousand_tokens], d_model)


explore(flops_at, thousand_tokens=(1, 128, 4), d_model=[768, 1600, 4096, 12288])

# %% [markdown]
# ## What each part is for
#
# The best way to see what a part does is to leave it out. Five models of two layers learn to predict the
# next character of the course's stories, 120 steps each, with three seeds: yours, and yours without
# positions, without any norm, with post-norm, and without the residual sum. The last needs no option of the
# config, just another block:

# %%
class BlockWithoutResidual(Block):
    def forward(self, x, key_mask=None):
        return self.feed_forward(self.norm_2(self.attention(self.norm_1(x), key_mask)))


text = corpus(200_000)
characters = sorted(set(text))
ids = torch.tensor([characters.index(character) for character in text])
frequency = ids.bincount() / len(ids)
unigram_entropy = -(frequency * frequency.log()).sum().item()
print(f"{len(characters)} characters; knowing only how frequent each is: {unigram_entropy:.2f} nats")

# %% [markdown]
# **Predict.** Put the five in order of their loss after 120 steps. Which ones, if any, learn nothing beyond
# how frequent each character is?

# %% tags=["nbval-ignore-output"]
def ablation(changes: dict, residual: bool, seed: int, steps: int = 120, learning_rate: float = 3e-3) -> list[float]:
    """Train one small model; the loss of each step."""
    generator = torch.Generator().manual_seed(seed)
    shape = GPTConfig(vocab_size=len(characters), context_length=32, d_model=32, n_heads=4, n_layers=2, **changes)
    model = GPT(shape, generator)
    if not residual:
        model.blocks = nn.ModuleList(BlockWithoutResidual(shape) for _ in range(shape.n_layers))
        init_weights(model, shape.n_layers, generator)

    def get_batch(step: int) -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(ids) - 33, (8, 1), generator=generator)
        rows = ids[starts + torch.arange(33)]  # (8, 33)
        return rows[:, :-1], rows[:, 1:]

    return train(model, get_batch, steps, learning_rate, description=f"seed {seed}")


variants = {
    "GPT": ({}, True),
    "no positions": ({"positions": "none"}, True),
    "post-norm": ({"norm_placement": "post"}, True),
    "no norm": ({"norm": "none"}, True),
    "no residual": ({}, False),
}
torch.set_num_threads(1)  # for tensors this small, a second core costs more than it brings
runs = [(name, seed) for name in variants for seed in range(3)]
losses = {name: [] for name in variants}
for name, seed in tqdm(runs, desc="15 small models"):
    losses[name].append(ablation(*variants[name], seed))

# %% tags=["nbval-ignore-output"]
fig, ax = figure("", "step", "loss, mean of 10 steps (nats per character)", width=7.5, height=4)
final = {}
for (name, curves), colour, style in zip(losses.items(), COLOURS, LINES, strict=False):
    smooth = torch.tensor(curves).unfold(1, 10, 1).mean(-1)  # (seed, step)
    final[name] = smooth[:, -1].mean().item()
    steps = torch.arange(10, 10 + smooth.shape[1])
    ax.plot(steps, smooth.mean(0), linestyle=style, color=colour, label=f"{name}: {final[name]:.2f}")
    ax.fill_between(steps, smooth.min(0).values, smooth.max(0).values, color=colour, alpha=0.2)
ax.axhline(unigram_entropy, color="grey", linewidth=0.8)
ax.annotate("frequencies alone", (2, unigram_entropy), xytext=(0, -10), textcoords="offset points", fontsize=8)
ax.set_ylim(min(final.values()) - 0.1, 3.8)
stuck = [name for name in final if final[name] > unigram_entropy - 0.1]
ax.set_title(f"After 120 steps, stuck at the frequencies: {', '.join(stuck) or 'none'}", loc="left", fontsize=11)
ax.legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# The bands go from the lowest to the highest of three seeds.
#
# <details><summary>Answer, and how far to trust it</summary>
#
# On our machine: GPT and no positions level at about 2.5, post-norm at about 2.9 and only just under way, no
# norm (3.05) and no residual (3.08) where the frequencies alone would put them.
#
# - **No residual.** Layers of small random matrices let almost nothing of the input through, forward or
#   backward. The model learns the only thing that needs no input.
# - **No norm.** The stream starts at a size of 0.03 and nothing lifts it, so at first the layers work on
#   numbers near zero. Call `ablation` with `learning_rate=0.01`, and such a model reaches 2.65, while the one
#   with norms gets worse, 2.8. Norms change which learning rates work.
# - **Post-norm** waits for a long time. Xiong et al. 2020
#   ([arXiv:2002.04745](https://arxiv.org/abs/2002.04745)) show why: at the start its gradients near the
#   output are large, so it wants a *warm-up*, small steps first. The original Transformer had one. Pre-norm
#   can do without.
# - **No positions** costs nothing here, and that surprises most people. Most of what is learnt in 120 steps
#   is which letter follows which. And the causal mask itself tells where a token stands: the first can look
#   at 1 token, the tenth at 10. Haviv et al. 2022 ([arXiv:2203.16634](https://arxiv.org/abs/2203.16634)) find
#   large models without positions nearly as good.
#
# This is one learning rate, one size and 120 steps. It shows what makes training *start*, not which model is
# best in the end.
#
# </details>
#
# ## What to read
#
# - **Vaswani et al. 2017**, sections 3.1 to 3.5. You have written everything but the encoder. Look for the
#   two things that GPT-2 changed: where the norm is, and what follows the last block.
# - **GPT-2 paper** (Radford et al. 2019), section 2.3: the whole architecture is one paragraph, and the
#   scaled start one sentence of it.
# - **Xiong et al. 2020**, figure 1 and table 1: both placements side by side. **Ba et al. 2016**, section 3.
#   **Press and Wolf 2017**, section 3, for what tying does to each of the two matrices.
# - **nanoGPT**, [`model.py`](https://github.com/karpathy/nanoGPT/blob/master/model.py): find your
#   `LayerNorm`, `FeedForward` (`MLP`), `Block` and `GPT`. Then three details: in `GPT.__init__` the line that
#   ties the weights and the loop over `c_proj.weight`; in `forward` the logits of the last position alone
#   when there are no targets (why is that enough to generate?); and `from_pretrained`, which transposes by a
#   list of names, where you let a shape decide.
# - **minGPT**, [`mingpt/model.py`](https://github.com/karpathy/minGPT/blob/master/mingpt/model.py): `NewGELU`
#   is your tanh form. Find the buffer called `bias`, and check that the head is not tied.
# - transformers,
#   [`modeling_gpt2.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt2/modeling_gpt2.py):
#   `GPT2Block.forward`. Count how many of its lines you need.
# - GPT-2 also had *dropout* of 0.1 on embeddings, attention weights and updates. Models that see their text
#   only once, as today, mostly have none; nanoGPT's default is 0. That is why our config has none.
#
# ## Recap
#
# - A GPT is embeddings plus positions, then blocks that add to one stream, a final norm, and the embeddings
#   again as the head.
# - Attention moves information between positions; the feed-forward net works on each alone and holds two
#   thirds of a block's weights.
# - The residual sum is the path on which signal and gradient travel; pre-norm keeps it clear; the scaled
#   start keeps it from growing.
# - A new model's loss is $\ln V$. Anything else is a bug.
# - To port weights: compare names as sets, tell layouts by shapes that are not square, and compare
#   activations from the bottom up.
# - 124,439,808 parameters, 2 FLOPs for each and token, plus a square that takes over beyond
#   $n = 6\,d_\text{model}$.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("decoder")

# %%
progress("week1_decoder")
