# %% [markdown]
# # Perplexity
#
# The first question to a language model is how surprised it is by a text that it has not seen. It needs no labels, no judges and
# no prompts, every text has an answer, and small differences between models show. So perplexity is what is watched while a model
# is trained, what scaling laws are about, and what tells how much a quantized model has lost (week 5).
#
# It is also easy to get wrong. A text is longer than the model's window; two models cut it into different tokens; the first token
# has nothing before it; and averages can be taken in several ways. Each can move a result more than the difference
# that you want to see. In this lesson you write an evaluation that is fair, and measure what the unfair ones cost.
#
# Reading and writing: about 90 minutes. Papers: Press, Smith and Lewis 2021, *Shortformer*
# ([arXiv:2012.15832](https://arxiv.org/abs/2012.15832)); Gao et al. 2020, *The Pile*
# ([arXiv:2101.00027](https://arxiv.org/abs/2101.00027)); Biderman et al. 2024, *Lessons from the Trenches on Reproducible
# Evaluation of Language Models* ([arXiv:2405.14782](https://arxiv.org/abs/2405.14782)). Repository:
# [lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness).

# %%
import logging
import math
import random
import re
import zlib
from collections.abc import Callable, Iterator

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from shared import borrow, check, hint, mine, progress
from shared.course import ROOT
from shared.data import stories
from shared.models import course_folder, smollm2
from shared.plotting import COLOURS, figure
from shared.runtime import pick_device, preset, seed_everything
from week2_pretraining.solutions.pretraining import load_pretrained
from week2_pretraining.solutions.sampling import inference

seed_everything(0)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
logging.getLogger("lm_eval").setLevel(logging.ERROR)
device = pick_device()
print(device)

# %% [markdown]
# Two models, as different as can be: the course model of week 2, in your own `GPT`, and SmolLM2-135M-Instruct, which is a hundred times
# larger and was trained on text of many kinds. From week 1 come `perplexity` and `bits_per_byte`.
#
# (Where the Hugging Face hub is not reached, SmolLM2 comes in a copy whose weights were once stored in 4 bits. It is somewhat
# worse than the original, so your figures may differ from those of someone else.)

# %%
model, tokenizer = load_pretrained(course_folder("base"), mine("GPT"))
model = model.to(device)
smol, smol_tokenizer = smollm2(device=device)
perplexity, bits_per_byte = mine("perplexity"), mine("bits_per_byte")


def smol_logits(token_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
    return smol(token_ids).logits


context_length = model.config.context_length
for name, m, t in (("course model", model, tokenizer), ("SmolLM2", smol, smol_tokenizer)):
    print(
        f"{name:12s} {sum(p.numel() for p in m.parameters()) / 1e6:6.1f} million parameters, {len(t):6,} tokens in its vocabulary"
    )

# %% [markdown]
# ## What a text costs
#
# A model gives each text a probability, factor by factor, and so each text has a cost in nats:
#
# $$-\ln p(x_1 \ldots x_n) = \sum_{t=1}^{n} -\ln p(x_t \mid x_0 \ldots x_{t-1}), \qquad
# \text{perplexity} = \exp\Big(\frac{1}{n} \sum_t -\ln p(x_t \mid \ldots)\Big)$$
#
# $x_0$ is the question that many reports leave open. A model predicts the *next* token, so the first token of a text is either not
# counted, or something stands before it. We want each byte of the text to be paid for, so something must. The course
# model was trained with `<|endoftext|>` before each story, and SmolLM2's vocabulary has a token of that name too, its token 0. We take
# it as $x_0$ for both, and look at other choices below. (It is not counted itself.)

# %%
START = "<|endoftext|>"


def encode(tok, text: str, start: str = START) -> Int[Tensor, "seq"]:
    """The start token, then the text's own tokens: no template, no special tokens of the tokenizer's choice."""
    before = [tok.convert_tokens_to_ids(start)] if start else []
    return torch.tensor(before + tok(text, add_special_tokens=False).input_ids, device=device)


story = stories(1, split="validation")[0].text
print(story[:150], "...")
for name, t in (("course model", tokenizer), ("SmolLM2", smol_tokenizer)):
    token_ids = encode(t, story)
    print(
        f"{name:12s} {len(story.encode())} bytes in {len(token_ids) - 1} tokens: {[t.decode([i]) for i in token_ids[:8].tolist()]}"
    )

# %% [markdown]
# ## A window over a long text
#
# A model reads `window` tokens at once, at most as many as it was trained for. A longer text must be read in pieces. The quick way
# is to cut it into blocks and forget each one before the next. Then the first token of each block is predicted from one token,
# the second from two; Press et al. call it the *early token curse*. The exact way is to move the window by one token at a time; then
# each token costs a whole forward pass. In between lies the **stride**: the window moves by `stride` tokens, and of its
# predictions only the new ones are scored.
#
# ```
#   window 4, stride 2        0  1  2  3  4  5  6  7       read (r), scored (S)
#   (0, 4, 4)                 r  rS rS rS S
#   (2, 6, 2)                       r  r  r  rS S
#   (3, 7, 1)                          r  r  r  r  S
# ```
#
# Token 4 is scored by the first window, though that has not read it: it has read what stands *before* it. The last window
# moves back a little, so that it too is full. So all windows of a text are of one length, which will make batches simple.
#
# **Predict.** A text of 1,000 tokens after the start token, a window of 100. How many tokens does the model read with stride 100, and
# how many with stride 10?

# %% tags=["exercise"]
from week3_evaluation.solutions.perplexity import rolling_windows

# %%
for stride in (100, 50, 10, 1):
    windows = rolling_windows(1001, 100, stride)
    least = min(end - n_scored + 1 - begin for begin, end, n_scored in windows[1:])
    print(f"stride {stride:3d}: {len(windows):3d} windows, {sum(end - begin for begin, end, _ in windows):6,} tokens read, "
          f"after the first window each token has at least {least} before it")  # fmt: skip

# %% [markdown]
# <details><summary>Answer</summary>
#
# 10 windows of 100 tokens: 1,000. With stride 10 one window and then 90 more for the other 900 tokens: 9,100. The price is
# window / stride.
#
# </details>
#
# lm-evaluation-harness has such a function too, with another name for the same thing: its `context_len` is the least number of tokens
# before each scored one, window - stride + 1. The harness's own `loglikelihood_rolling` calls it with 1: no overlap.

# %%
dice = random.Random(0)
for _ in range(1000):
    n_tokens, window = dice.randint(2, 300), dice.randint(1, 70)
    stride, token_ids = dice.randint(1, window), list(range(n_tokens))
    theirs = list(get_rolling_token_windows(token_ids[1:], token_ids[0], window, window - stride + 1))
    ours = rolling_windows(n_tokens, window, stride)
    assert [(token_ids[begin:end], token_ids[end - n + 1 : end + 1]) for begin, end, n in ours] == theirs
print("1,000 random texts, windows and strides: all windows equal")

# %% [markdown]
# Now the cost of each token. Return one number for each, not only the sum: then the cost can be plotted by place, shared out over words
# or documents, and summed by whoever needs the sum. `inference(model)` is from week 2: no gradients, no dropout, and afterwards
# the mode that was before.

# %% tags=["exercise"]
from week3_evaluation.solutions.perplexity import sliding_window_nll

# %% [markdown]
# Three libraries' worth of comparison. A text that fits the window: transformers' own loss with `labels=`, for both models. A text
# that does not fit: the harness's `loglikelihood_rolling`, which reads the model from the same folder. And with overlap: transformers'
# loss again, with label -100 at all that an earlier window has scored.

# %%
theirs = AutoModelForCausalLM.from_pretrained(course_folder("base")).to(device).eval()
long_text = " ".join(s.text for s in stories(6, split="validation"))
long_ids = encode(tokenizer, long_text)
harness = HFLM(pretrained=str(course_folder("base")), batch_size=8, device=str(device))
pairs = {}  # ours, theirs

for name, logits_of, library, token_ids in (
    ("course model, one window", model, theirs, encode(tokenizer, story)),
    ("SmolLM2, one window", smol_logits, smol, encode(smol_tokenizer, story)),
):
    with torch.no_grad():
        loss = library(token_ids[None], labels=token_ids[None]).loss.item()
    pairs[name] = sliding_window_nll(logits_of, token_ids, len(token_ids), len(token_ids)).mean().item(), loss

rolling = harness.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (long_text,), 0)], disable_tqdm=True)[0]
nats = sliding_window_nll(model, long_ids, context_length, context_length)
pairs["course model, the harness's windows"] = nats.mean().item(), -rolling / (len(long_ids) - 1)

window, total = 128, 0.0
for begin, end, n_scored in rolling_windows(len(long_ids), window, 48):
    read = long_ids[None, begin : end + 1]  # transformers shifts the labels itself, so the last target is read too
    labels = read.clone()
    labels[:, :-n_scored] = -100
    with torch.no_grad():
        total += n_scored * theirs(read, labels=labels).loss.item()
nats = sliding_window_nll(model, long_ids, window, 48)
pairs["course model, window 128, stride 48"] = nats.mean().item(), total / (len(long_ids) - 1)

for name, (ours, library) in pairs.items():
    print(f"{name:36s} ours {ours:.4f}, theirs {library:.4f} nats per token")
    assert abs(ours / library - 1) < 1e-4

# %% [markdown]
# ## Find the bug
#
# A colleague does it with transformers' loss, window by window, and takes the mean. "Each window is right," he says,
# "I have checked them." That is true. His perplexity is another one than yours all the same.


# %%
def colleagues_perplexity(token_ids: Int[Tensor, "seq"], window: int, stride: int) -> float:
    losses = []
    for begin, end, n_scored in rolling_windows(len(token_ids), window, stride):
        read = token_ids[None, begin : end + 1]
        labels = read.clone()
        labels[:, :-n_scored] = -100
        with torch.no_grad():
            losses.append(theirs(read, labels=labels).loss)
    return torch.stack(losses).mean().exp().item()


for name, text in (("one story", stories(5, split="validation")[4].text), ("six stories", long_text)):
    token_ids = encode(tokenizer, text)
    nats = sliding_window_nll(model, token_ids, 128, 128)
    print(f"{name:11s} {len(nats):3d} tokens, windows of {[n for _, _, n in rolling_windows(len(token_ids), 128, 128)]}: "
          f"yours {perplexity(nats, torch.ones_like(nats)):.3f}, his {colleagues_perplexity(token_ids, 128, 128):.3f}")  # fmt: skip

# %% [markdown]
# <details><summary>Answer</summary>
#
# He averages the windows, not the tokens: the few tokens of the last window have as much say as all of the first. They are
# easier than the rest, or harder, and he is off in that direction; with many windows the error gets small, so it is not noticed. The
# code in [transformers' guide to perplexity](https://huggingface.co/docs/transformers/perplexity) did the same until 2024
# ([pull request 34387](https://github.com/huggingface/transformers/pull/34387)); for the long text there the change was from 16.4541 to
# 16.4443.
#
# </details>
#
# ## What the split costs
#
# Eight streams of five held-out stories each, `<|endoftext|>` before each story. Three windows, from disjoint to strides of an
# eighth.
#
# **Predict.** Does the cost always fall as the stride gets smaller? And what would be cheaper still: reading each story
# alone, from its beginning, without any other story before it?

# %%
N_STREAMS, windows = preset(laptop=8, gpu=24), (64, 128, 256)
told = [s.text for s in stories(5 * N_STREAMS, seed=3, split="validation")]
streams = [torch.cat([encode(tokenizer, text) for text in told[i : i + 5]]) for i in range(0, len(told), 5)]


def with_interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval."""
    return torch.tensor(values).mean().item(), stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


cost = {}  # (window, stride) -> nats per token of each stream
by_place = {}  # window -> nats of each token in disjoint windows after the first: (windows, window)
settings = [(window, window // part) for window in windows for part in (1, 2, 4, 8)]
for window, stride in tqdm(settings, desc="windows and strides"):
    nats = [sliding_window_nll(model, stream, window, stride, batch_size=32) for stream in streams]
    cost[window, stride] = [n.mean().item() for n in nats]
    if window == stride:
        whole = [n[window : len(n) // window * window].view(-1, window) for n in nats]
        by_place[window] = torch.cat(whole).cpu()
alone = []
for i in tqdm(range(0, len(told), 5), desc="each story alone"):
    ids = [encode(tokenizer, text) for text in told[i : i + 5]]
    ids = [torch.cat([one, one[:1]]) for one in ids[:-1]] + ids[-1:]  # the next story's start is scored in the streams too
    alone.append(
        torch.cat([sliding_window_nll(model, one, context_length, context_length) for one in ids]).mean().item()
    )

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
ax, parts = axes[0], [1, 2, 4, 8]
for window, colour, marker in zip(windows, COLOURS, "os^", strict=False):
    mean, half = zip(*(with_interval(cost[window, window // part]) for part in parts), strict=True)
    ax.errorbar(parts, mean, half, fmt=f"{marker}-", color=colour, capsize=4, label=f"window {window}")
mean, half = with_interval(alone)
ax.axhline(mean, color="black", linestyle="--", label="each story alone")
ax.axhspan(mean - half, mean + half, color="black", alpha=0.1, linewidth=0)
ax.set_xscale("log", base=2)
ax.set_xticks(parts, parts)
ax.set(xlabel="window / stride (passes over the text)", ylabel="nats per token")
split, best = (with_interval(cost[64, 64 // part])[0] for part in (1, 8))
ax.set_title(f"Window 64: {split:.2f} when split, {best:.2f} with overlap", loc="left", fontsize=11)
ax.legend(frameon=False, fontsize=8)

ax, edges = axes[1], [0, 1, 2, 4, 8, 16, 32, 64, 128]
places = by_place[128]
mean, half = zip(
    *(with_interval(places[:, a:b].mean(dim=1).tolist()) for a, b in zip(edges, edges[1:], strict=False)), strict=True
)
ax.errorbar(range(len(mean)), mean, half, fmt="s-", color=COLOURS[1], capsize=4)
ax.set_xticks(
    range(len(mean)),
    [f"{a + 1}" if b == a + 1 else f"{a + 1}-{b}" for a, b in zip(edges, edges[1:], strict=False)],
    fontsize=8,
)
ax.set(xlabel="tokens that the window shows before the scored one", ylabel="nats per token")
ax.set_title(
    f"Window 128: {mean[0]:.1f} nats at its start, {mean[-1]:.2f} late", loc="left", fontsize=11
)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

for window in windows:
    first = cost[window, window]
    told_of = []
    for part in parts[1:]:
        gain, half = with_interval([a - b for a, b in zip(first, cost[window, window // part], strict=True)])
        told_of.append(f"{gain:+.3f} ± {half:.3f} (1/{part})")
    print(f"window {window:3d}: split costs {with_interval(first)[0]:.3f}; saved by strides of {', '.join(told_of)}")
largest, few, many = windows[-1], cost[windows[-1], windows[-1] // 2], cost[windows[-1], windows[-1] // 8]
for name, other in ((f"eight passes with window {largest}", many), ("each story alone", alone)):
    more, half = with_interval([b - a for a, b in zip(few, other, strict=True)])
    print(f"{name}: {with_interval(other)[0]:.3f}, {more:+.3f} ± {half:.3f} against two passes with window {largest}")

# %% [markdown]
# (95 % intervals, on the left and in the table over streams, on the right over windows. Some streams are harder than others, for all
# settings alike; the table takes differences within each stream, which leaves that out.)
#
# A stride of half the window brings most of what there is to gain, for a second pass over the text. The right plot shows why: what
# costs is the start of a window.
#
# Do more passes always help? Look at the last two lines of the table. A smaller stride gives each token more of the text before it, but for
# this model more is not always better: what is added stands far back, and most of it belongs to other stories, which say nothing of
# this one. Most of the course model's training rows began where a story begins, and so it is at its best with each story alone.
# The rule is not "as much context as possible". It is: **evaluate the way the model will be used, and say how.** Here that is one
# story at a time.
#
# ## Bits per byte, and how sure
#
# The course model's vocabulary has 2,048 tokens, SmolLM2's 49,152. Their nats per token cannot be compared, nor
# can their perplexities. The bytes are the same for both. With texts $i$ of $\text{bits}_i$ and $\text{bytes}_i$:
#
# $$r = \frac{\sum_i \text{bits}_i}{\sum_i \text{bytes}_i}, \qquad
# \text{standard error} = \frac{1}{\sum_i \text{bytes}_i} \sqrt{\frac{n}{n-1} \sum_i (\text{bits}_i - r \, \text{bytes}_i)^2}$$
#
# The texts are the sample, not the tokens: the tokens of one text share its topic, and are easy or hard together. $r$ is not the
# mean of the texts' own ratios, but that of the whole, in which a long text has more weight. Its error comes from how far each
# text lies from what $r$ would give it.

# %% tags=["exercise"]
from week3_evaluation.solutions.perplexity import bits_per_byte_interval

# %% [markdown]
# Against scipy: the bootstrap draws the texts anew 4,000 times and looks at how the ratio scatters. It knows nothing of our formula.

# %%
generator = torch.Generator().manual_seed(0)
n_bytes = torch.randint(100, 2000, (200,), generator=generator)
nats = n_bytes * (1.5 + 0.3 * torch.randn(200, generator=generator))


def ratio(nats, n_bytes, axis):
    return nats.sum(axis=axis) / n_bytes.sum(axis=axis) / math.log(2)


data = (nats.double().numpy(), n_bytes.double().numpy())
drawn = stats.bootstrap(data, ratio, paired=True, vectorized=True, n_resamples=4000, method="percentile", rng=0)
r, low, high = bits_per_byte_interval(nats, n_bytes)
print(
    f"ours {r:.4f}: {low:.4f} to {high:.4f};  bootstrap: {drawn.confidence_interval.low:.4f} to {drawn.confidence_interval.high:.4f}"
)
assert abs((drawn.confidence_interval.high - drawn.confidence_interval.low) / (high - low) - 1) < 0.05
assert abs(r - bits_per_byte(nats.double().sum().item(), "x" * n_bytes.sum().item())) < 1e-9

# %% [markdown]
# ## The first token
#
# What if $x_0$ is another token, or there is none? SmolLM2's tokenizer names `<|im_start|>` as its start token, for chats begin with it.

# %%
n = len(story.encode())
for start in (START, "<|im_start|>", ""):
    token_ids = encode(smol_tokenizer, story, start)
    nats = sliding_window_nll(smol_logits, token_ids, 1024, 1024)
    print(f"{start or 'none':15s} {len(nats)} tokens counted, the first {nats[0]:5.2f} nats, all {nats.sum():6.1f}: "
          f"{bits_per_byte(nats.sum().item(), story):.3f} bits per byte")  # fmt: skip

# %% [markdown]
# On a text of five hundred bytes each choice moves the result by about two percent. `<|endoftext|>` leads to a better first token than
# the start of a chat; without a start, the first token comes free of charge. None is a mistake if it is said, and the same for all
# models that are compared.
#
# ## Two models, four kinds of text
#
# The same bytes for both: stories that the course model has never seen (but of the world that it was trained on), the prose of this
# course's first lessons, the licence of this repository, and its Python code. Two landmarks: 8 bits per byte is the text as it
# is on disk; zlib is a program that knows nothing but the piece itself.
#
# **Predict.** Where does the model of 1 million parameters win against that of 135 million? Where it loses, how far can it fall:
# can it be worse than 8 bits?

# %%
N_TEXTS = preset(laptop=6, gpu=30)


def pieces(text: str, size: int = 420) -> list[str]:
    """The text in pieces of whole lines, at most `size` bytes each; N_TEXTS of them, spread over the text."""
    found, piece = [], ""
    for line in text.splitlines(keepends=True):
        if piece and len((piece + line).encode()) > size:
            found.append(piece.strip("\n"))
            piece = ""
        piece += line
    return [found[i * len(found) // N_TEXTS] for i in range(N_TEXTS)]


def prose_lines() -> Iterator[str]:
    """Lines of week 1's lessons that are plain sentences."""
    for path in sorted((ROOT / "week1_decoder" / "lessons").glob("0*.py")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.fullmatch(r"# [A-Za-z][^$|`<\[\\{}]{60,}", line):
                yield line[2:]


solutions = sorted((ROOT / "week1_decoder" / "solutions").glob("*.py"))
kinds = {
    "held-out stories": [s.text for s in stories(N_TEXTS, split="validation")],
    "prose of the lessons": pieces("\n".join(prose_lines())),
    "licence": pieces(re.sub(" +", " ", (ROOT / "LICENSE").read_text(encoding="utf-8"))),
    "Python": pieces("".join(path.read_text(encoding="utf-8") for path in solutions)),
}
models = {"course model": (model, tokenizer, context_length), "SmolLM2": (smol_logits, smol_tokenizer, 1024)}
costs = {}  # (kind, model) -> nats of each token of each text
for kind, texts in tqdm(kinds.items(), desc="kinds of text"):
    for name, (logits_of, tok, window) in models.items():
        ids = [encode(tok, text) for text in texts]
        costs[kind, name] = [sliding_window_nll(logits_of, one, window, window // 2).cpu() for one in ids]

# %%
sizes = {kind: torch.tensor([len(text.encode()) for text in texts]) for kind, texts in kinds.items()}
totals = {key: torch.stack([nats.sum() for nats in found]) for key, found in costs.items()}
bits = {key: bits_per_byte_interval(found, sizes[key[0]]) for key, found in totals.items()}
print(f"{'':22s}{'bytes per token':>22s}{'perplexity':>24s}{'bits per byte':>20s}{'difference, 95 % interval':>32s}")
for kind, n_bytes in sizes.items():
    shown = {}
    for name in models:
        nats = torch.cat(costs[kind, name])
        shown[name] = n_bytes.sum().item() / len(nats), perplexity(nats, torch.ones_like(nats)), bits[kind, name][0]
    columns = zip(*shown.values(), strict=True)
    told_of = [" and ".join(f"{x:,.{d}f}" for x in column) for column, d in zip(columns, (1, 1, 2), strict=True)]
    r, low, high = bits_per_byte_interval(totals[kind, "course model"] - totals[kind, "SmolLM2"], n_bytes)
    print(
        f"{kind:22s}{told_of[0]:>22s}{told_of[1]:>24s}{told_of[2]:>20s}{f'{r:+.2f} ({low:+.2f} to {high:+.2f})':>32s}"
    )
print("(course model and SmolLM2; the difference in bits per byte, course model minus SmolLM2)")

# %%
home, away = bits["held-out stories", "course model"][0], bits["Python", "course model"][0]
fig, ax = figure(
    f"The course model: {home:.2f} bits per byte on stories, {away:.1f} on Python",
    ylabel="bits per byte (log)",
    width=8,
    height=4,
)
for i, (name, colour, marker) in enumerate(zip(models, COLOURS, "os", strict=False)):
    r, low, high = (torch.tensor(x) for x in zip(*(bits[kind, name] for kind in kinds), strict=True))
    x = torch.arange(len(kinds)) + 0.16 * (i - 0.5)
    ax.errorbar(x, r, torch.stack([r - low, high - r]), fmt=marker, color=colour, capsize=5, markersize=8, label=name)
packed = [
    8 * sum(len(zlib.compress(text.encode(), 9)) for text in texts) / sizes[kind].sum().item()
    for kind, texts in kinds.items()
]
ax.plot(range(len(kinds)), packed, "x", color="grey", markersize=8, label="zlib, each piece alone")
ax.axhline(8, color="grey", linestyle=":", label="uncompressed")
ax.set_yscale("log")
ax.set_yticks([0.25, 0.5, 1, 2, 4, 8, 16], ["0.25", "0.5", "1", "2", "4", "8", "16"])
ax.set_xticks(range(len(kinds)), kinds)
ax.legend(frameon=False, fontsize=8, loc="lower right")
plt.show()

# %% [markdown]
# (95 % intervals over texts.) Four things to see:
#
# - **Domain shift.** At home the small model is far ahead: it has seen thousands of stories of this world, SmolLM2 none. Outside it
#   collapses, on some texts to more than 8 bits per byte. That is no error in the sum: a model that is sure, and wrong, pays more than
#   one that knows nothing. A held-out set from the training distribution says nothing of this.
# - **The unit.** Look at SmolLM2's columns alone, and compare Python with the licence and the stories. The order by perplexity is not the
#   order by bits per byte, though it is one model with one tokenizer: a token of code holds fewer bytes than one of prose. So even
#   perplexities of one model cannot be compared between texts.
# - **A low figure is not always skill.** The licence is a text of which the web holds countless copies. What a model has read again and again,
#   it does not need to understand. Lesson 05 comes back to this under the name of contamination.
# - **The interval of a difference** is that of the same texts under both models. Do not look whether two error bars overlap; take the
#   difference.
#
# Last, the split for the large model, with windows of 16 and 64 tokens on the same prose, against each text as a whole:

# %%
kind = "prose of the lessons"
ids = [encode(smol_tokenizer, text) for text in kinds[kind]]
for window in tqdm((16, 64), desc="windows"):
    split = torch.stack([sliding_window_nll(smol_logits, one, window, window).sum().cpu() for one in ids])
    r, low, high = bits_per_byte_interval(split - totals[kind, "SmolLM2"], sizes[kind])
    print(f"SmolLM2 in disjoint windows of {window:2d} tokens: {r:+.2f} bits per byte ({low:+.2f} to {high:+.2f}) "
          f"on top of {bits[kind, 'SmolLM2'][0]:.2f}")  # fmt: skip

# %% [markdown]
# ## What to read
#
# - **Press et al. 2021** (Shortformer): look for the *early token curse*, and for what a sliding window costs in tokens per second. Which part of
#   their gain is a better model, and which a better evaluation of the same model?
# - **Gao et al. 2020** (The Pile): why do they report bits per byte, and what do they count as a byte? The largest GPT-3
#   has 0.7177 on the Pile. Find the parts of the Pile on which it and GPT-2 are worst.
# - **Biderman et al. 2024**: what has to be said beside a number, so that someone else can get it again? Which of that have you
#   seen in this lesson?
# - **lm-evaluation-harness**, [`lm_eval/utils.py`](https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/utils.py):
#   `get_rolling_token_windows` and `make_disjoint_window`. In
#   [`models/huggingface.py`](https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/models/huggingface.py), `prefix_token_id` is
#   its $x_0$: what does it choose for SmolLM2?
# - **transformers**, [Perplexity of fixed-length models](https://huggingface.co/docs/transformers/perplexity): where do its windows
#   begin, and how much context has its last one? Compare with yours.
#
# ## Recap
#
# - A text costs a sum of nats. Perplexity is the exponential of their mean over tokens, never a mean over windows.
# - Each token is scored once, with as much context as its window gives; half-overlapping windows get most of the gain for two
#   passes.
# - Between tokenizers, and between kinds of text, compare bits per byte of the same bytes, from the same start token.
# - The sample are the texts. Give an interval, and for two models the interval of the difference.
# - A perplexity belongs to a text: one domain says nothing of the next.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("perplexity")

# %%
progress("week3_evaluation")
