# %% [markdown]
# # Language modelling
#
# A GPT is trained on one question, asked at every position of every text: *which token comes next?* Nobody labels
# anything; the text is its own answer. How well the model answers is one number, the loss. People choose tokenizers, model
# sizes and data by it; and GPT-3, which was trained for nothing else, does tasks that nobody trained it for.
#
# In this lesson you write the objective and everything that is measured with it: targets, cross-entropy, perplexity, bits
# per byte, a baseline that a model has to beat, and the score of an answer. Then you train the `GPT` that you wrote in
# lesson 03, on the tokens of lesson 01, for 45 seconds, and read what it writes. At the end you do what made GPT-3
# famous: show a model a task in its prompt, on a model of yours and on a real one.
#
# Reading and writing: about 90 minutes. Papers: Brown et al. 2020, *Language Models are Few-Shot Learners* (GPT-3,
# [arXiv:2005.14165](https://arxiv.org/abs/2005.14165)), sections 1 to 3; Vaswani et al. 2017, section 5.

# %%
import math
import random
import time
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from shared import borrow, check, explore, hint, mine, progress
from shared.data import corpus, stories
from shared.plotting import COLOURS, figure
from shared.runtime import pick_device, preset, seed_everything

seed_everything(0)
device = pick_device()
print(device)

# %% [markdown]
# The text, as tokens. The held-out stories are about combinations of hero, thing and place that never occur in the
# training stories.

# %%
train_bpe, encode_bpe, decode_bpe = mine("train_bpe"), mine("encode_bpe"), mine("decode_bpe")

train_text = corpus(2_000_000)
held_out_text = corpus(100_000, split="validation")
vocab, merges = train_bpe(train_text[:300_000], 2048)
vocab_size = len(vocab)
train_ids = torch.tensor(encode_bpe(train_text, vocab, merges))
held_out_ids = torch.tensor(encode_bpe(held_out_text, vocab, merges))
print(train_text[:300], "...")
print(f"{len(train_ids):,} training tokens of {len(train_text) / len(train_ids):.2f} characters, {len(held_out_ids):,} held out")

# %% [markdown]
# ## The question
#
# The chain rule turns the probability of a whole text into one prediction at each position:
#
# $$p(x_1, \dots, x_n) = p(x_1) \cdot p(x_2 \mid x_1) \cdots p(x_n \mid x_1, \dots, x_{n-1})$$
#
# The causal mask lets the decoder give all these predictions in one pass: the logits at position $t$ have seen
# $x_1 \dots x_t$. So the target at position $t$ is the token at $t+1$:
#
# ```
#   token_ids    5     6     7     8               with padding (P):    5     6     7     P
#   targets      6     7     8   -100                                   6     7   -100  -100
# ```
#
# -100 stands for "nothing to learn here"; PyTorch and transformers skip that value.
#
# **Predict.** A row with left padding: `P P 5 6 7`. What are its five targets?

# %% tags=["exercise"]
from week1_decoder.solutions.language_modeling import next_token_targets

# %%
print(next_token_targets(torch.tensor([[0, 0, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1, 1]])))
first_ids = train_ids[None, :7]
for token_id, target in list(zip(first_ids[0].tolist(), next_token_targets(first_ids)[0].tolist(), strict=True))[:-1]:
    print(f"after {decode_bpe([token_id], vocab)!r:10} comes {decode_bpe([target], vocab)!r}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# `-100 -100 6 7 -100`. The second P stands right before the 5, but it has read no text, so there is nothing to predict
# the 5 *from*. The 7 has no next token.
#
# </details>
#
# ## The loss
#
# How good is a prediction? Look up the probability $p$ of the token that came, and take $-\ln p$: 0 if the model was
# certain and right, large if it was certain and wrong. With $p$ from a softmax over the logits $z$ and target $y$:
#
# $$\operatorname{loss} = -\ln \frac{e^{z_y}}{\sum_j e^{z_j}} = \ln \sum_j e^{z_j} - z_y$$
#
# averaged over all targets that count. The unit is the *nat* (with $\log_2$ it would be the bit; 1 nat = 1.44 bits).
#
# **Predict.** What is the loss of a model that knows nothing, with our 2,048 tokens? And what do the two forms of the
# equation give in float32 for a single position with logits $(300, 0, -300)$ and target 2?

# %%
z, y = torch.tensor([300.0, 0.0, -300.0]), 2
print("knows nothing:", round(-math.log(1 / vocab_size), 3), "nats")
print("left form:    ", -torch.log(z.exp()[y] / z.exp().sum()).item())
print("softmax first:", -torch.log(torch.softmax(z, dim=0)[y]).item())
print("right form:   ", (torch.logsumexp(z, dim=0) - z[y]).item())

# %% [markdown]
# <details><summary>Answer</summary>
#
# $\ln 2048 = 7.62$ nats. A new model should start there; a first loss of 20 means that its logits are too large.
# $e^{300}$ overflows to infinity, so the left form says $-\ln 0$. A stable softmax does not help: it rounds $e^{-600}$ to 0,
# and the loss is infinite again. Only the right form, with a log-sum-exp that subtracts the maximum, says 600.
#
# </details>

# %% tags=["exercise"]
from week1_decoder.solutions.language_modeling import cross_entropy

# %% [markdown]
# `F.cross_entropy` wants the axes flattened. Hugging Face models compute the loss when they are given `labels`, and
# shift them *inside*: there the labels are the inputs themselves.

# %%
small = {"vocab_size": 97, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
logging.set_verbosity_error()  # no remarks on how small this model is
gpt2 = GPT2LMHeadModel(GPT2Config(**small)).eval()  # random weights
generator = torch.Generator().manual_seed(0)
attention_mask = (torch.arange(12) < torch.tensor([[12], [7], [2]])).long()
token_ids = torch.randint(1, 97, (3, 12), generator=generator) * attention_mask
targets = next_token_targets(token_ids, attention_mask)

theirs = gpt2(token_ids, attention_mask=attention_mask, labels=token_ids.masked_fill(attention_mask == 0, -100))
logits = theirs.logits.detach().requires_grad_()
ours, torchs = cross_entropy(logits, targets), F.cross_entropy(logits.flatten(0, 1), targets.flatten())
(our_gradient,), (torch_gradient,) = torch.autograd.grad(ours, logits), torch.autograd.grad(torchs, logits)
differences = {
    "F.cross_entropy": (ours - torchs).abs().item(),
    "its gradient": (our_gradient - torch_gradient).abs().max().item(),
    "GPT2LMHeadModel(labels=...)": (ours - theirs.loss).abs().item(),
}
for name, difference in differences.items():
    print(f"{name:28s} {difference:.0e}")
assert max(differences.values()) < 1e-5

# %% [markdown]
# The gradient is worth a look, because all learning is in it: $\partial \operatorname{loss} / \partial z_j = p_j - [j = y]$,
# divided by the number of counted tokens. Every token is pushed down by the probability that it got, and the right one up by
# what it lacks. When prediction and text agree, nothing moves.
#
# ## Perplexity
#
# $e^{\text{loss}}$ is the *perplexity*: the number of equally likely tokens that would be as hard to choose from. It
# belongs to a corpus, and a corpus is evaluated in pieces of different lengths:
#
# $$\operatorname{perplexity} = \exp \frac{\sum_i n_i \,\operatorname{loss}_i}{\sum_i n_i}$$
#
# **Predict.** A story of 300 tokens with a loss of 1 nat, and a stray line of 3 tokens with a loss of 9. What is the
# perplexity, and what comes out if you average the two perplexities?

# %% tags=["exercise"]
from week1_decoder.solutions.language_modeling import perplexity

# %%
losses, counts = torch.tensor([1.0, 9.0]), torch.tensor([300, 3])
print(f"of the corpus:     {perplexity(losses, counts):8.2f}")
print(f"mean of the two:   {losses.exp().mean().item():8.2f}")

parts = (1, 25, 14)
generator = torch.Generator().manual_seed(1)
logits, targets = 2 * torch.randn(40, 13, generator=generator), torch.randint(0, 13, (40,), generator=generator)
losses = torch.stack([cross_entropy(z, y) for z, y in zip(logits.split(parts), targets.split(parts), strict=True)])
whole = F.cross_entropy(logits, targets).exp().item()
print(f"cut in three: {perplexity(losses, torch.tensor(parts)):.4f}, exp(F.cross_entropy) of the whole: {whole:.4f}")
assert abs(perplexity(losses, torch.tensor(parts)) / whole - 1) < 1e-5

# %% [markdown]
# Three stray tokens in 303 move the corpus perplexity from 2.72 to 2.94, and the mean of the perplexities to 4,053.
# Reports that do not say how they averaged are hard to compare.
#
# ## What has to be beaten
#
# A loss means nothing alone. Three models that need no network give it a scale:
#
# - **uniform**: every token is as likely as any other, $\ln V$;
# - **unigram**: each token as likely as it is frequent, whatever came before;
# - **bigram**: a table, $p(b \mid a)$, from counting which token follows which.
#
# A pair that was never seen would have probability 0 and a loss of infinity. So every count is raised by a little ($s$), which
# is called additive smoothing:
#
# $$p(b \mid a) = \frac{n(a, b) + s}{\sum_c n(a, c) + s V}$$

# %% tags=["exercise"]
from week1_decoder.solutions.language_modeling import bigram_cross_entropy

# %%
unigram = (torch.bincount(train_ids, minlength=vocab_size) + 0.01) / (len(train_ids) + 0.01 * vocab_size)
ladder = {
    "uniform": math.log(vocab_size),
    "unigram": -unigram[held_out_ids].log().mean().item(),
    "bigram": bigram_cross_entropy(train_ids, held_out_ids, vocab_size, smoothing=0.01),
}
for name, nats in ladder.items():
    print(f"{name:8s} {nats:.2f} nats per token, perplexity {math.exp(nats):6.1f}")

table = torch.full((vocab_size, vocab_size), 0.01)
table.index_put_((train_ids[:-1], train_ids[1:]), torch.tensor(1.0), accumulate=True)
theirs = F.cross_entropy(table.log()[held_out_ids[:-1]], held_out_ids[1:]).item()  # it normalizes each row itself
print(f"difference from F.cross_entropy on the logarithm of the table: {abs(ladder['bigram'] - theirs):.0e}")
assert abs(ladder["bigram"] - theirs) < 1e-4

# %% [markdown]
# ## A fair unit
#
# Nats per token compare two models only if both use the same tokens. Take a model of random bytes. With one byte per
# token its loss is $\ln 256$; with two bytes per token it is $\ln 65{,}536$, twice as much, for the same knowledge. What does
# not depend on the tokenizer is the whole text: its probability, and its length in bytes.
#
# $$\text{bits per byte} = \frac{\text{total nats}}{\ln 2 \cdot \text{bytes of the text}}$$
#
# It has a plain meaning: with this model and an arithmetic coder, the text can be stored in that many bits per byte.

# %% tags=["exercise"]
from week1_decoder.solutions.language_modeling import bits_per_byte

# %%
text = "sixteen bytes ok"
for bytes_per_token in (1, 2, 4):
    nats_per_token = math.log(256**bytes_per_token)
    bits = bits_per_byte(len(text) // bytes_per_token * nats_per_token, text)
    print(f"random bytes, {bytes_per_token} per token: {nats_per_token:5.2f} nats per token, {bits:.2f} bits per byte")

# %% [markdown]
# **Predict.** One bigram model on bytes (256 tokens), others on BPE tokens (up to 2,048). Which has the lowest loss per
# token? Which one would you use to compress the text?

# %%
told = [story.text for story in stories(200, split="validation")]
blocks = ["\n\n".join(told[i : i + 10]) for i in range(0, 200, 10)]
per_token, per_byte, sizes = [], [], [256, 512, 1024, 2048]
for size in tqdm(sizes, desc="vocabularies"):
    v, m = train_bpe(train_text[:300_000], size)
    ids = torch.tensor(encode_bpe(train_text[:1_000_000], v, m))
    held_out = [torch.tensor(encode_bpe(block, v, m)) for block in blocks]
    nats = [bigram_cross_entropy(ids, block_ids, size, smoothing=0.01) for block_ids in held_out]
    # The first token of a block is given, not predicted; among hundreds it does not matter.
    bits = [bits_per_byte(n * (len(b) - 1), text) for n, b, text in zip(nats, held_out, blocks, strict=True)]
    per_token.append(torch.tensor(nats))
    per_byte.append(torch.tensor(bits))

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
rows = ((axes[0], per_token, "nats per token", "Per token, bytes look best"),
        (axes[1], per_byte, "bits per byte", "Per byte of text, they are the worst"))
for ax, values, unit, title in rows:
    mean = torch.stack([v.mean() for v in values])
    error = torch.stack([1.96 * v.std() / len(v) ** 0.5 for v in values])
    ax.errorbar(sizes, mean, error, fmt="o-", color=COLOURS[0], capsize=4)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, sizes)
    ax.set(xlabel="vocabulary of the bigram model (256 = bytes)", ylabel=unit)
    ax.set_title(f"{title}: {mean[0]:.2f} against {mean[-1]:.2f}", loc="left", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# The bars are 95 % intervals over 20 blocks of ten stories (on the right, smaller than the points). The same data, the
# same kind of model, and the ranking is reversed. A longer token is harder to guess, but there are fewer of them, and a bigram
# over long tokens sees more text. Whenever you read that a model has a lower perplexity than another, ask: with whose tokens?
#
# ## First overfit one batch
#
# Before a model sees much data, let it learn one batch by heart. If the loss does not go to nearly zero, something is broken
# (the mask, the optimizer, the learning rate), and you know it after seconds.

# %%
GPT = mine("GPT")

# %% tags=["given"]
from week1_decoder.solutions.decoder import GPTConfig

# %%
config = GPTConfig(
    vocab_size=vocab_size,
    context_length=128,
    d_model=preset(laptop=128, gpu=384),
    n_heads=preset(laptop=4, gpu=6),
    n_layers=preset(laptop=2, gpu=6),
)


def random_rows(batch_size: int, generator: torch.Generator) -> Int[Tensor, "batch seq"]:
    """Windows of the training text that begin anywhere."""
    starts = torch.randint(len(train_ids) - config.context_length, (batch_size, 1), generator=generator)
    return train_ids[starts + torch.arange(config.context_length)].to(device)


# %% tags=["nbval-ignore-output"]
generator = torch.Generator().manual_seed(0)
model = GPT(config, generator=generator).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
one_batch = random_rows(2, generator)

memorized = []
for _ in tqdm(range(60), desc="one batch"):
    loss = cross_entropy(model(one_batch), next_token_targets(one_batch))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    memorized.append(loss.item())
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
print(f"first loss {memorized[0]:.2f} (ln V = {math.log(vocab_size):.2f}), after {len(memorized)} steps {memorized[-1]:.3f}")

# %% [markdown]
# ## Train
#
# Now a new model, and a new batch at each step. The learning rate rises for 60 steps and falls in a straight line measured
# by the clock, so that any machine, fast or slow, ends after 45 seconds with a learning rate of zero. Every nine seconds we
# measure the loss on held-out rows.

# %%
@torch.no_grad()
def row_losses(model, rows: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch"]:
    """Mean nats per token of each row."""
    logits = torch.cat([model(part.to(device)).cpu() for part in rows.split(16)])
    return torch.stack([cross_entropy(z, y) for z, y in zip(logits, next_token_targets(rows), strict=True)])


n_rows = len(held_out_ids) // config.context_length
held_out_rows = held_out_ids[: n_rows * config.context_length].view(n_rows, config.context_length)

# %% tags=["nbval-ignore-output"]
seconds, peak, batch_size = 45, 6e-3, preset(laptop=4, gpu=64)
generator = torch.Generator().manual_seed(1)
model = GPT(config, generator=generator).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.1)
losses, measured = [], []
start = time.monotonic()
with tqdm(total=seconds, desc="training", bar_format="{l_bar}{bar}| {n:.0f}/{total} s{postfix}") as bar:
    while (elapsed := time.monotonic() - start) < seconds:
        if elapsed >= seconds * len(measured) / 5:
            measured.append((len(losses), row_losses(model, held_out_rows[:32])))
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (len(losses) + 1) / 60) * (1 - elapsed / seconds)
        token_ids = random_rows(batch_size, generator)
        loss = cross_entropy(model(token_ids), next_token_targets(token_ids))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(steps=len(losses), loss=f"{loss.item():.2f}", refresh=False)
        bar.update(elapsed - bar.n)

# %% tags=["nbval-ignore-output"]
final = row_losses(model, held_out_rows)
measured.append((len(losses), final))
error = final.std() / len(final) ** 0.5
counts = torch.full((n_rows,), config.context_length - 1)
total_nats = (final.sum() * (config.context_length - 1)).item()
predicted_text = decode_bpe(held_out_rows[:, 1:].flatten().tolist(), vocab)
print(f"{len(losses)} steps, {len(losses) * batch_size * config.context_length:,} tokens")
print(f"held-out loss {final.mean():.3f} ± {error:.3f} nats per token (standard error over {n_rows} rows)")
bigram_bits = bits_per_byte(ladder["bigram"] * counts.sum().item(), predicted_text)
print(f"perplexity {perplexity(final, counts):.1f}; "
      f"bits per byte {bits_per_byte(total_nats, predicted_text):.2f}, bigram {bigram_bits:.2f}")

# %% tags=["nbval-ignore-output"]
better = "below" if final.mean() < ladder["bigram"] else "not yet below"
fig, ax = figure(
    f"After {len(losses)} steps the held-out loss is {final.mean():.2f}, {better} the bigram's {ladder['bigram']:.2f}",
    "training step",
    "loss (nats per token)",
)
ax.plot(losses, color=COLOURS[5], linewidth=0.6, alpha=0.7, label="training, each batch")
at, values = [step for step, _ in measured], [v for _, v in measured]
ax.errorbar(at, [v.mean() for v in values], [1.96 * v.std() / len(v) ** 0.5 for v in values],
            fmt="o-", color=COLOURS[3], capsize=4, label="held out, 95 % interval over rows")
for (name, nats), style in zip(ladder.items(), (":", "-.", "--"), strict=True):
    ax.axhline(nats, color="grey", linestyle=style)
    ax.annotate(f"{name} {nats:.2f}", (1, nats), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                textcoords="offset points", ha="right", fontsize=8, color="grey")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The curve falls fast through uniform and unigram: those two need only the frequencies of tokens. What the model has to earn
# is the part below the bigram line: there it must use more than the last token. (The rows are neighbours in the
# text, so the interval is a little too narrow.)
#
# ## Read its text
#
# To write, draw the next token from the model's probabilities, append it, repeat. Dividing the logits by a temperature
# below 1 makes likely tokens likelier still. Week 2 has more to say about sampling.
#
# **Predict.** What goes wrong first at temperature 0.3, and what at 1.3?

# %%
@torch.no_grad()
def write(model, prompt: str, temperatures: list[float], n_tokens: int, generator: torch.Generator) -> list[str]:
    """One continuation for each temperature."""
    divisor = torch.tensor(temperatures)[:, None]
    token_ids = torch.tensor([encode_bpe(prompt, vocab, merges)] * len(temperatures))
    for _ in tqdm(range(n_tokens), desc="writing", leave=False):
        logits = model(token_ids[:, -config.context_length :].to(device))[:, -1].cpu()  # (batch, vocab)
        next_ids = torch.multinomial(torch.softmax(logits / divisor, dim=-1), 1, generator=generator)
        token_ids = torch.cat([token_ids, next_ids], dim=1)
    return [decode_bpe(row.tolist(), vocab) for row in token_ids]


# %% tags=["nbval-ignore-output"]
temperatures = [0.3, 0.8, 1.3]
for temperature, text in zip(
    temperatures, write(model, "One morning, Anna", temperatures, 100, torch.Generator().manual_seed(2)), strict=True
):
    print(f"--- temperature {temperature}\n{text}\n")

# %% [markdown]
# <details><summary>What to look for</summary>
#
# After less than a minute most words are spelt right, quotation marks open and close, and phrases of four or five words hold
# together. Whole sentences often do not, and who has what is forgotten from one to the next. At 0.3 the safest
# phrases come again and again; at 1.3 words break apart. Week 2 trains for minutes, and the threads begin to hold.
#
# </details>
#
# ## Find the bug
#
# A colleague trains the same model with targets of his own, which he took over from a script for Hugging Face models. He has
# overfitted one batch first, as he should. Now he sends you this curve and is proud of it.

# %%
def colleagues_targets(token_ids, attention_mask=None):
    targets = token_ids.clone()
    if attention_mask is not None:
        targets[attention_mask == 0] = -100  # padding does not count
    return targets


# %% tags=["nbval-ignore-output"]
generator = torch.Generator().manual_seed(3)
his_model = GPT(config, generator=generator).to(device)
optimizer = torch.optim.AdamW(his_model.parameters(), lr=3e-3)
his_losses = []
for _ in tqdm(range(120), desc="his run"):
    token_ids = random_rows(4, generator)
    loss = cross_entropy(his_model(token_ids), colleagues_targets(token_ids))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    his_losses.append(loss.item())

with torch.no_grad():
    rows = held_out_rows[:32]
    his_held_out = cross_entropy(his_model(rows.to(device)).cpu(), colleagues_targets(rows)).item()
fig, ax = figure(
    f"His held-out loss is {his_held_out:.2f} after {len(his_losses)} steps, the bigram's {ladder['bigram']:.2f}",
    "training step",
    "loss (nats per token)",
)
ax.plot(his_losses, "-.", color=COLOURS[3], label="his training loss")
ax.plot(losses[: len(his_losses)], color=COLOURS[0], label="yours")
ax.axhline(ladder["bigram"], color="grey", linestyle="--", label="bigram")
ax.legend(frameon=False)
plt.show()
print(write(his_model, "One morning, Anna", [0.8], 30, torch.Generator().manual_seed(4))[0])

# %% [markdown]
# **Predict.** What is wrong with his targets? Why did overfitting one batch not show it, and which two things in the last
# cell do? Then let the check tell you:

# %%
from shared.checking import run_check

print(run_check("next_token_targets", colleagues_targets).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# None of the lines that are there: the shift is missing. (Hugging Face models shift labels inside, ours does not.) The model is
# asked for the token that it is reading at this very position, and the residual stream hands it straight from the
# embedding to the output. Learning by heart works with any targets, so one batch shows nothing. The ladder does: no honest
# model gets from nothing to a tenth of the bigram's loss in 120 steps, on text that it has not seen. And the text does: asked
# what comes next, the model repeats what is there. *A loss that is too good is a bug until proven otherwise*: a missing
# shift, a missing causal mask, or test text in the training data.
#
# </details>
#
# ## Tasks in the prompt
#
# GPT-3 (175 billion parameters) was trained on the objective that you have just written, and on nothing else. Its paper
# shows that such a model does new tasks when a few examples stand in its prompt, with no gradient step: *in-context
# learning*. An example in the prompt is called a *shot*.
#
# Answers of a model are often compared by their probability (section 2.4 of the paper): put each candidate after the prompt
# and add up the log-probabilities of its tokens. The prompt itself is not scored, and padding neither.

# %% tags=["exercise"]
from week1_decoder.solutions.language_modeling import completion_log_prob

# %%
token_ids = torch.randint(0, 97, (1, 9), generator=torch.Generator().manual_seed(5))
completion = torch.arange(9)[None] >= 6
with torch.no_grad():
    theirs = gpt2(token_ids, labels=token_ids.masked_fill(~completion, -100))
ours = completion_log_prob(theirs.logits, token_ids, completion)
print(f"yours {ours.item():.4f}, GPT2LMHeadModel: {-3 * theirs.loss.item():.4f} (its mean over three tokens, times -3)")
assert abs(ours.item() + 3 * theirs.loss.item()) < 1e-4

# %% [markdown]
# ### A task that only the examples can tell
#
# Each line is a word, its opposite, and a word that means nearly the same. The prompt shows some words with one of the two,
# and the model chooses between the two answers for a new word:
#
# ```
#   big -> small                      big -> large
#   wet -> dry                        wet -> damp
#   foolish ->    wise or silly?      foolish ->    wise or silly?
# ```
#
# Without examples the two tasks have the same prompt, so whatever the model prefers is right in one and wrong in the
# other: **exactly 50 %, by construction**. All that is above 50 % was learned from the prompt.

# %%
words = [line.split() for line in """
big small large/happy sad glad/fast slow quick/begin end start/hard easy difficult/rich poor wealthy/ill healthy sick
shut open close/loud quiet noisy/clever stupid smart/wet dry damp/angry calm mad/strong weak powerful/wide narrow broad
buy sell purchase/find lose discover/love hate like/laugh cry smile/empty full vacant/near far close/old new ancient
correct wrong right/huge tiny enormous/cold hot chilly/dirty clean muddy/kind cruel gentle/build destroy construct
arrive leave come/thin thick slim/raise lower lift/dark light dim/simple complex plain/safe dangerous secure
lazy busy idle/remember forget recall/victory defeat win/friend enemy pal/guest host visitor/boring exciting dull
allow forbid permit/increase decrease grow/peace war harmony/smooth rough even/sour sweet tart/top bottom peak
deep shallow profound/foolish wise silly/sharp blunt keen/""".replace("\n", "/").split("/") if line]  # fmt: skip
examples, questions = words[:16], words[16 : preset(laptop=40, gpu=48)]
print(len(examples), "words for examples,", len(questions), "to ask about")


def few_shot_prompt(word: str, relation: int, shots: int, dice: random.Random) -> str:
    """`shots` example lines with the opposite (relation 1) or the like (2), then the word alone."""
    lines = [f"{example[0]} -> {example[relation]}\n" for example in dice.sample(examples, shots)]
    return "".join(lines) + f"{word} ->"


print(few_shot_prompt("foolish", 1, 2, random.Random(0)))

# %% [markdown]
# **Predict.** Your model has read stories for 45 seconds, and never a list. SmolLM2 has 135 million parameters, has read two
# trillion tokens (its model card says) and was then tuned to follow instructions. Where will each be after 8 examples?

# %%
from shared.models import smollm2

pad_batch = mine("pad_batch")
smol, smol_tokenizer = smollm2(device=device)
models = {
    "SmolLM2-135M-Instruct": (
        lambda token_ids, last: smol(token_ids, logits_to_keep=last).logits,
        lambda text: smol_tokenizer(text).input_ids,
    ),
    "yours": (lambda token_ids, last: model(token_ids)[:, -last:], lambda text: encode_bpe(text, vocab, merges)),
}


@torch.no_grad()
def answer_log_probs(get_logits, encode, prompts: list[str], answers: list[str]) -> Float[Tensor, "batch"]:
    """ln p(answer | prompt) of each pair."""
    rows = [(encode(prompt), encode(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    token_ids, _ = pad_batch([prompt + answer for prompt, answer in rows], pad_id=0)
    starts = torch.tensor([[len(prompt)] for prompt, _ in rows])
    ends = torch.tensor([[len(prompt) + len(answer)] for prompt, answer in rows])
    places = torch.arange(token_ids.shape[1])
    mask = (places >= starts) & (places < ends)
    last = len(places) - int(starts.min()) + 1  # the logits before the first answer are not needed
    logits = get_logits(token_ids.to(device), last).float().cpu()
    return completion_log_prob(logits, token_ids[:, -last:], mask[:, -last:])


# %% tags=["nbval-ignore-output"]
shot_counts = [0, 1, 2, 4, 8]
right = {}  # (model, shots) -> (question, relation) of 0 or 1
with tqdm(total=len(models) * len(shot_counts) * 2, desc="asking") as bar:
    for name, (get_logits, encode) in models.items():
        for shots in shot_counts:
            dice = random.Random(shots)
            columns = []
            for relation in (1, 2):
                prompts = [few_shot_prompt(question[0], relation, shots, dice) for question in questions]
                prompts = [prompt for prompt in prompts for _ in (1, 2)]  # once for each candidate
                answers = [f" {question[i]}" for question in questions for i in (1, 2)]
                scores = torch.cat([
                    answer_log_probs(get_logits, encode, prompts[i : i + 16], answers[i : i + 16])
                    for i in range(0, len(prompts), 16)
                ])
                columns.append(scores.view(-1, 2).argmax(dim=1) + 1 == relation)
                bar.update()
            right[name, shots] = torch.stack(columns, dim=1).float()


def interval(hits: Float[Tensor, "question relation"]) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval; both relations of a word are drawn together."""
    per_word = hits.mean(dim=1)
    drawn = torch.randint(len(per_word), (2000, len(per_word)), generator=torch.Generator().manual_seed(0))
    low, high = per_word[drawn].mean(dim=1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return per_word.mean().item(), low, high


for (name, shots), hits in right.items():
    mean, low, high = interval(hits)
    print(f"{name:22s} {shots} shots: {mean:4.0%}  [{low:.0%}, {high:.0%}]")

# %%
PAPER = {  # LAMBADA, accuracy in %, of the eight models of the paper (Table H.1; the last column also in Table 3.2)
    "parameters": [0.125e9, 0.35e9, 0.76e9, 1.3e9, 2.7e9, 6.7e9, 13e9, 175e9],
    "zero-shot": [42.7, 54.3, 60.4, 63.6, 67.1, 70.3, 72.5, 76.2],
    "few-shot (15)": [22.0, 40.4, 63.2, 57.0, 78.1, 79.1, 81.3, 86.4],
}

fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
ax = axes[0]
for (name, colour), marker in zip((("SmolLM2-135M-Instruct", COLOURS[0]), ("yours", COLOURS[3])), "os", strict=True):
    mean, low, high = (torch.tensor(column) for column in zip(*(interval(right[name, s]) for s in shot_counts), strict=True))
    ax.errorbar(shot_counts, 100 * mean, 100 * torch.stack([mean - low, high - mean]), fmt=f"{marker}-", color=colour,
                capsize=4, label=name)
ax.axhline(50, color="grey", linestyle=":")
ax.annotate("chance", (6, 50), xytext=(0, -11), textcoords="offset points", ha="center", fontsize=8, color="grey")
ax.set_xticks(shot_counts)
ax.set(xlabel="examples in the prompt", ylabel="right answers (%)", ylim=(30, 100))
smol_8, yours_8 = interval(right["SmolLM2-135M-Instruct", 8])[0], interval(right["yours", 8])[0]
ax.set_title(f"Measured: 8 examples, {smol_8:.0%} against {yours_8:.0%}", loc="left", fontsize=11)
ax.legend(frameon=False, loc="upper left")

ax = axes[1]
for (setting, colour), marker in zip((("zero-shot", COLOURS[5]), ("few-shot (15)", COLOURS[0])), "so", strict=True):
    ax.plot(PAPER["parameters"], PAPER[setting], f"{marker}-", color=colour, label=setting)
ax.set_xscale("log")
ax.set(xlabel="parameters", ylabel="LAMBADA, right last words (%)")
ax.set_title("GPT-3 paper: examples hurt the smallest, help the largest", loc="left", fontsize=11)
ax.legend(frameon=False)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Left: the bars are 95 % bootstrap intervals over the words. Your model stays at chance; it has no notion of a list, let
# alone of opposites. (Where its bar is missing, it gave each word the same answer in both tasks.) SmolLM2 finds out from a
# few lines which of two tasks is meant. It is about as large as the smallest GPT-3, but that one read 300 billion tokens
# (table 2.1): size is not all that counts.
#
# Right, from the paper: in LAMBADA the last word of a passage is to be found. Written as fill-in-the-blank examples, the
# task gets *harder* for the smallest model, by 21 points, and easier for the largest, by 10 (section 3.1.2, figure 3.2). The
# same in two more tables, for the model with 175 billion parameters:
#
# | accuracy, % | zero-shot | one-shot | few-shot | where |
# |---|---|---|---|---|
# | sum of two numbers below 100 | 76.9 | 99.6 | 100.0 | table 3.9 |
# | difference of two numbers below 1,000 | 48.3 | 78.7 | 94.2 | table 3.9 |
# | remove signs put between letters, `s.u!c/c!e.s s i/o/n` | 8.26 | 45.4 | 67.2 | table 3.10 |
# | read a word backwards, `stcejbo` | 0.09 | 0.48 | 0.44 | table 3.10 |
#
# On the first line, the second largest model (13 billion parameters) is right about half the time even with examples (section
# 3.9.1). The last line has to do with lesson 01: the model reads tokens of 0.7 words on average (section 3.9.2), not letters.
#
# ## What to read
#
# - **GPT-3 paper**, sections 1 to 3. Figure 1.2 is your left plot, with more models. In section 2.4, look for the two ways to
#   correct for the length of an answer (per token, and divided by its probability without the question) and think about which
#   candidates in your word list would profit. Table 2.2: which data was seen more than once?
# - **Vaswani et al. 2017**, section 5. In 5.4, *label smoothing* makes perplexity worse and translations better: the
#   objective that you measure and the one that you care about can part ways.
# - **nanoGPT**, [`train.py`](https://github.com/karpathy/nanoGPT/blob/master/train.py): `get_batch` shifts where you call
#   `next_token_targets`; `estimate_loss` averages 200 random batches and reports no interval; find the learning rate schedule.
#   In [`model.py`](https://github.com/karpathy/nanoGPT/blob/master/model.py) the ignored target is -1, not -100.
# - **transformers**, [`loss/loss_utils.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/loss/loss_utils.py):
#   `ForCausalLMLoss` pads the labels by one and drops the first: the shift that you wrote. What does
#   `num_items_in_batch` do, and which mistake of averaging does it prevent?
#
# ## Recap
#
# - The targets are the inputs, one place earlier; padding and the last position do not count.
# - The loss is $\ln\sum e^{z} - z_y$, in nats. A new model starts at $\ln V$; what it has to beat is a bigram table.
# - Average over tokens, then exponentiate. Compare tokenizers by bits per byte.
# - A loss that is too good is a bug. Overfit one batch first, then read the text.
# - The probability of an answer turns a language model into a solver of tasks; with scale, examples in the prompt are enough.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("language_modeling")

# %%
progress("week1_decoder")
