# %% [markdown]
# # Serving
#
# So far one program, yours, asked the model one thing. A *server* has many clients, who come when they like, ask for texts of any length,
# and want them soon. Its costs are memory (each text under way needs its keys and values, lesson 02) and steps (each reads all weights,
# for one token of one text, unless texts share it). So this lesson is about sharing: blocks of memory, steps, and guesses.
#
# You write the four ideas of today's servers: a cache in pages (vLLM), a batch that is chosen anew for each step (Orca), a small model
# that drafts for a large one, and text that is streamed and stopped. Then they run: an HTTP server over your own GPT, with your cache and
# in 8 bits, which the official `openai` client cannot tell from the real thing. You put it under load, beside `transformers serve`.
#
# Reading and writing: about 150 minutes. Papers: Kwon et al. 2023, *Efficient Memory Management for Large Language Model Serving with
# PagedAttention* ([arXiv:2309.06180](https://arxiv.org/abs/2309.06180)); Yu et al. 2022, *Orca*
# ([OSDI '22](https://www.usenix.org/conference/osdi22/presentation/yu)); Leviathan et al. 2023, *Fast Inference from Transformers via
# Speculative Decoding* ([arXiv:2211.17192](https://arxiv.org/abs/2211.17192)). Repositories:
# [vllm-project/vllm](https://github.com/vllm-project/vllm), [NVIDIA/TensorRT-LLM](https://github.com/NVIDIA/TensorRT-LLM).

# %%
import json
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import httpx
import matplotlib.pyplot as plt
import numpy as np
import openai
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.data import stories
from shared.models import course_folder
from shared.plotting import COLOURS, MARKERS, figure
from shared.runtime import seed_everything
from week2_pretraining.solutions.pretraining import load_pretrained
from week2_pretraining.solutions.sampling import next_token_probs
from week3_evaluation.trial import bootstrap
from week5_inference.fused import FusedForward
from week5_inference.solutions.kv_cache import empty_cache

seed_everything(0)
GPT, cached_forward, generate_cached = mine("GPT"), mine("cached_forward"), mine("generate_cached")
model, tokenizer = load_pretrained(course_folder("base"), GPT)
tales = stories(400, seed=60, split="validation")
openings = [tokenizer(tokenizer.eos_token + story.text).input_ids[:24] for story in tales]
print(f"the course model: {model.config.n_layers} layers, a context of {model.config.context_length} tokens")

# %% [markdown]
# ## What a step costs
#
# Everything below depends on one measurement: how long is a decode step for 1, 2, 4 … texts together, and how long the prefill of a
# prompt?
#
# **Predict.** A step for 8 texts does 8 times the arithmetic of a step for one. How many times as long will it take?

# %%
BATCHES, PROMPTS, ROUNDS = (1, 2, 4, 8, 16), (8, 32, 64, 128), 5
token_ids = torch.tensor(openings[:16])


@torch.no_grad()
def decode_time(batch: int, steps: int = 12) -> float:
    """Seconds of one decode step for so many texts."""
    cache = empty_cache(model, batch)
    cached_forward(model, token_ids[:batch], cache)
    start = time.perf_counter()
    for _ in range(steps):
        cached_forward(model, token_ids[:batch, :1], cache)
    return (time.perf_counter() - start) / steps


@torch.no_grad()
def prefill_time(n_tokens: int) -> float:
    """Seconds of the prefill of one prompt of so many tokens."""
    prompt = token_ids.flatten()[None, :n_tokens]
    start = time.perf_counter()
    cached_forward(model, prompt, empty_cache(model, 1))
    return time.perf_counter() - start


decode_time(1), prefill_time(8)  # the first calls set things up
decode, prefill = {n: [] for n in BATCHES}, {n: [] for n in PROMPTS}
for _ in tqdm(range(ROUNDS), desc="measuring"):  # interleaved: a slow moment of the machine hits all alike
    for n in BATCHES:
        decode[n].append(decode_time(n))
    for n in PROMPTS:
        prefill[n].append(prefill_time(n))

fig, ax = figure("A step for many texts costs little more than for one", "texts in the batch", "milliseconds")
middle = {n: statistics.median(times) for n, times in decode.items()}
ax.plot(BATCHES, [1e3 * middle[n] for n in BATCHES], "o-", label="one decode step")
for n in BATCHES:
    ax.vlines(n, 1e3 * min(decode[n]), 1e3 * max(decode[n]), COLOURS[0])
ax.plot(BATCHES, [1e3 * middle[n] / n for n in BATCHES], "s--", label="a token")
ax.set_xscale("log", base=2)
ax.set_xticks(BATCHES, BATCHES)
ax.set_ylim(0)
ax.legend(frameon=False)
plt.show()
print(f"8 texts take {middle[8] / middle[1]:.1f} times as long as one; "
      f"tokens a second: {1 / middle[1]:,.0f} alone, {8 / middle[8]:,.0f} with 8, {16 / middle[16]:,.0f} with 16")  # fmt: skip
print("prefill, ms:", {n: round(1e3 * statistics.median(times), 1) for n, times in prefill.items()})

# %% [markdown]
# <details><summary>Answer</summary>
#
# Far less than 8 times. Here most of a small step is the time to start a hundred operations. On a GPU with a large model it is the
# reading of all weights from memory. Either is paid once a step, however many texts are in it. This is why a server must decode texts
# together. And the prefill shows the same: a prompt of 128 tokens does not take 16 times as long as one of 8.
#
# </details>
#
# ## A cache in pages
#
# Each text under way has a row in the cache. Before a text begins, nobody knows how long it will be. A server that keeps a whole context
# for each text wastes most of its memory on tokens that never come. Kwon et al. (2023) measured that in the systems of their time only
# 20 to 38 % of the cache held tokens (figure 2). Their answer is that of an operating system. Memory is cut into *blocks* of, say, 16
# tokens. A text has a *block table*, which tells where its tokens lie:
#
# $$\text{token } t \text{ of a text is in block } \texttt{table}[\lfloor t / b \rfloor] \text{ at place } t \bmod b$$
#
# ```
#      text "a", 6 tokens:  table [2, 0]       text "b", forked from a's first 6:  table [2, 0]
#
#      pool   block 0        block 1        block 2        block 3
#            [a4 a5  ·  · ] [ ·  ·  ·  · ] [a0 a1 a2 a3] [ ·  ·  ·  · ]
#      count       2              0              2              0
# ```
#
# A text takes a block when its last one is full. So at most one block of each text is part empty. And a block can be in two tables: several
# answers to one prompt, or many clients behind one system prompt, *share* it. `counts` says how many tables name a block. Who wants to write
# into a block that others name too must copy it first (*copy on write*). A block that nobody names is free.
#
# **Predict.** In the picture "b" writes a token, then "a" writes one. How many blocks are copied?
#
# <details><summary>Answer</summary>
#
# One. "b" copies block 0 to a free block, writes into the copy, and block 0's count falls to 1. So "a" may write in place. Block 2 is
# full: nobody writes into it, and it stays shared.
#
# </details>

# %% tags=["given"]
from week5_inference.solutions.serving import OutOfBlocks, blocks_for

# %% tags=["exercise"]
from week5_inference.solutions.serving import PagedKVCache

# %% [markdown]
# Does the model notice? `PagedRows` (given, in `decoders.py`) makes some sequences of your cache look like the rows of lesson 02's
# `KVCache`, so your `cached_forward` runs over pages. (It gathers them first. vLLM's kernel reads them where they lie.)

# %%
from week5_inference.decoders import PagedRows

config = model.config
pages = PagedKVCache(config.n_layers, 40, 16, config.n_heads, config.d_head)
story = torch.tensor([tokenizer(tokenizer.eos_token + tales[0].text).input_ids[:100]])
with torch.no_grad():
    whole = model(story)[0]
    pages.add("a")
    found = [cached_forward(model, story[:, :37], PagedRows(pages, ["a"]))[0]]
    pages.fork("a", "b")
    for t in range(37, 100):  # both are continued in one batch: "a" with the story, "b" with something else
        both = torch.cat([story[:, t : t + 1], story[:, 99 - t : 100 - t]])
        found.append(cached_forward(model, both, PagedRows(pages, ["a", "b"]))[0])
difference = (torch.cat(found) - whole).abs().max().item()
print(f"largest difference from the logits of the whole story: {difference:.0e}")
print("tables:", pages.tables, f"\nblocks in use: {40 - len(pages.free_blocks)}; without sharing: {2 * blocks_for(100, 16)}")
assert difference < 1e-3

# %% [markdown]
# How much memory holds tokens? Take texts of the lengths that stories have, each stopped at a random moment (a server sees them at
# all stages), and count what is reserved for them.

# %%
rng = np.random.default_rng(0)
lengths = np.array([min(256, len(tokenizer(story.text).input_ids)) for story in tales])
now = np.ceil(lengths * rng.uniform(0, 1, len(lengths))).astype(int)
reserved = {"a whole context": np.full(len(now), config.context_length)}
reserved |= {f"blocks of {b}": np.array([blocks_for(n, b) * b for n in now]) for b in (128, 64, 32, 16, 8, 1)}
shares = {}
for label, room in reserved.items():
    picks = rng.integers(len(now), size=(1000, len(now)))
    spread = np.percentile(now[picks].sum(1) / room[picks].sum(1), [2.5, 97.5])
    shares[label] = (now.sum() / room.sum(), *spread)
title = "Used: {:.0%} of rows for a whole context, {:.0%} of blocks of 16".format(
    shares["a whole context"][0], shares["blocks of 16"][0]
)
fig, ax = figure(title, "share of the memory that holds tokens", height=3)
values = np.array(list(shares.values()))
ax.barh(list(shares), values[:, 0], xerr=np.abs(values[:, 1:] - values[:, :1]).T, color=COLOURS[0])
ax.invert_yaxis()
ax.set_xlim(0, 1)
plt.show()

# %% [markdown]
# Blocks of one token would waste nothing. But a kernel wants to read more than one token at a place, and tables get long: 16 is vLLM's
# default.
#
# ## A batch for every step
#
# *Static* batching takes as many requests as it has slots, and decodes until the longest is done. The others' slots run on for nothing,
# and whoever comes a moment late waits for all of it. Orca (Yu et al. 2022) decides anew before **every step**: who is done leaves, who
# waits comes in. It is called iteration-level scheduling, or continuous batching:
#
# ```
#      static        slot 1  A A A A A A A A | D D D         continuous   slot 1  A A A A A A A A E E
#                    slot 2  B B · · · · · · | E E ·                      slot 2  B B C C C D D D
#                            (C waits)                                            (C comes when B is done)
# ```
#
# You write the scheduler, on a clock that you move by hand: prefill and decode cost what two functions say. Memory is counted in
# blocks. A request comes in only when the blocks for all its tokens are free, so that nobody gets stuck half way. (vLLM lets in more, and
# *preempts* somebody when the blocks run out: it frees them and computes them again later.)

# %% tags=["given"]
from week5_inference.solutions.serving import Request, check_requests

# %% tags=["exercise"]
from week5_inference.solutions.serving import continuous_batching

# %%
from week5_inference.solutions.serving import static_batching


def decode_seconds(batch: int) -> float:
    return float(np.interp(batch, BATCHES, [middle[n] for n in BATCHES]))


def prefill_seconds(n_tokens: int) -> float:
    return float(np.interp(n_tokens, PROMPTS, [statistics.median(prefill[n]) for n in PROMPTS]))


def draw_requests(per_second: float, count: int, seed: int) -> list[Request]:
    """Clients come independently of one another; most want little, a few want much."""
    rng = np.random.default_rng(seed)
    arrivals = rng.exponential(1 / per_second, count).cumsum()
    wants = np.clip(rng.exponential(45, count), 4, 190).astype(int)
    return [Request(float(t), int(p), int(n)) for t, p, n in zip(arrivals, rng.integers(8, 60, count), wants, strict=True)]


def latencies(schedule: Callable, requests: list[Request], *args, **options) -> np.ndarray:
    results = schedule(requests, *args, prefill_seconds, decode_seconds, **options)
    return np.array([finished - request.arrival for request, (_, finished) in zip(requests, results, strict=True)])


few = [Request(0, 20, 8), Request(0, 20, 2), Request(0, 20, 3), Request(0, 20, 3), Request(0, 20, 2)]
for schedule in (static_batching, continuous_batching):
    finished = [finished for _, finished in schedule(few, 2, lambda n: 0.0, lambda batch: 1.0)]
    print(f"{schedule.__name__:20s} five requests in two slots, one second a step: finished at {finished}")

# %% [markdown]
# Now with the times that you measured, 8 slots, and more and more clients. The load is told in tokens: 100 % is as many as 8 texts
# decoded together would give.
#
# **Predict.** Up to which load will static batching keep up? And continuous batching?

# %%
LOADS, SEEDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), range(8)
full = 8 / decode_seconds(8) / 45  # requests a second at 100 %
curves = {}
for name, schedule in tqdm({"static": static_batching, "continuous": continuous_batching}.items(), desc="simulating"):
    for load in LOADS:
        runs = [latencies(schedule, draw_requests(load * full, 250, seed), 8) for seed in SEEDS]
        curves[name, load] = np.array([[np.median(run), np.percentile(run, 95)] for run in runs])
fig, ax = figure("Static batching is overwhelmed long before continuous batching", "load, % of 8 full slots", "seconds to the whole answer")
for colour, marker, name in zip(COLOURS, MARKERS, ("static", "continuous"), strict=False):
    for column, (label, style) in enumerate((("median", f"{marker}-"), ("95 of 100 are faster", f"{marker}--"))):
        values = np.array([curves[name, load][:, column] for load in LOADS])
        ax.plot([100 * load for load in LOADS], values.mean(1), style, color=colour, label=f"{name}, {label}")
        ax.fill_between([100 * load for load in LOADS], values.min(1), values.max(1), color=colour, alpha=0.15)
ax.set_yscale("log")
ax.set_ylim(top=150)  # room for the legend
ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
plt.show()
for load in (0.2, 0.5):
    one, other = (curves[name, load][:, 0].mean() for name in ("static", "continuous"))
    print(f"load {load:.0%}: median {one:.2f} s static, {other:.2f} s continuous: {one / other:.1f} times")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The bands are eight runs each. With static batching the slots are empty most of the time: a batch lasts as long as its longest text, and
# the mean text is a quarter of that. So it saturates at about a third of the load. Continuous batching stays fast until its slots are
# really full; what then limits it are the prefills, during which nobody decodes. (Orca mixes both in one pass; Sarathi-Serve, Agrawal et
# al. 2024, cuts long prefills in pieces.)
#
# </details>
#
# And the pages? Take memory for 4 contexts of 256 tokens. As rows, that is 4 slots. As pages, it is 64 blocks of 16, and as many slots as
# fit:

# %%
rows, paged = [], []
for seed in SEEDS:
    requests = draw_requests(0.45 * full, 250, seed)
    rows.append(latencies(continuous_batching, requests, 4).mean())
    paged.append(latencies(continuous_batching, requests, 16, n_blocks=64, block_size=16).mean())
mean, low, high = bootstrap(np.mean, np.array(rows) / np.array(paged))
print(f"mean latency in the same memory: rows {np.mean(rows):.2f} s, pages {np.mean(paged):.2f} s; "
      f"{mean:.1f} times [{low:.1f}, {high:.1f}], {len(SEEDS)} runs")  # fmt: skip

# %% [markdown]
# ## A draft that a larger model checks
#
# Batches help a busy server. One client alone still waits for one step a token. But a step with five tokens costs little more than a
# step with one: you have just measured it. If only somebody guessed the next tokens! Then the large model, the *target*, could check them all
# at once. The guesses come from a small model, the *draft* (Leviathan et al. 2023; Chen et al. 2023 found the same).
#
# Let $q$ be the draft's distribution at a place and $p$ the target's. The draft draws $x \sim q$. It is accepted with probability
#
# $$\min\left(1, \frac{p(x)}{q(x)}\right), \qquad \text{and otherwise replaced by a draw from } p'(x) = \frac{\max(0, p(x) - q(x))}{\sum_y \max(0, p(y) - q(y))}$$
#
# Then what comes out is distributed by $p$, *exactly*. Accepted tokens bring $q \cdot \min(1, p/q) = \min(q, p)$ to each $x$. What $p$
# has beyond that is $\max(0, p - q)$, and its sum is just the probability of a refusal. The text is the target's. The draft only makes
# it cheaper, and the better it guesses the more:

# %% tags=["exercise"]
from week5_inference.solutions.serving import acceptance_probability

# %% [markdown]
# A round drafts $k$ tokens. They are accepted one after another until the first refusal. If each is accepted with probability $a$, a round
# gives (eq. 1)
#
# $$1 + a + a^2 + \dots + a^k = \frac{1 - a^{k+1}}{1 - a}$$
#
# tokens for one call of the target: the accepted ones, and one more, which is the replacement or, if all were accepted, a free token from
# the target's last logits.

# %% tags=["given"]
from week5_inference.solutions.serving import check_speculation, expected_tokens

# %% tags=["exercise"]
from week5_inference.solutions.serving import speculative_decode

# %% [markdown]
# Is it exact? Take two tiny models over four tokens that disagree, and draw many texts of two tokens.

# %%
tables = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(4)) * 1.5
target_table, draft_table = ((lambda token_ids, table=table: table[token_ids]) for table in tables)
exact, of_draft = (
    (torch.softmax(table[0], 0)[:, None] * torch.softmax(table, 1)).flatten().numpy() for table in tables.double()
)
generator, counts, DRAWS = torch.Generator().manual_seed(0), np.zeros(16), 3000
for _ in tqdm(range(DRAWS), desc="drawing"):
    ids, _ = speculative_decode(target_table, draft_table, torch.tensor([0]), 2, 2, generator=generator)
    counts[4 * ids[1] + ids[2]] += 1
fig, ax = figure("The texts have the target's distribution, not the draft's", "text (two tokens)", "probability", height=3)
error = 1.96 * np.sqrt(exact * (1 - exact) / DRAWS)
ax.bar(range(16), counts / DRAWS, color=COLOURS[5], label=f"speculative, {DRAWS:,} draws")
ax.errorbar(range(16), exact, error, fmt="_", color=COLOURS[6], capsize=3, label="target, exact, ± 1.96 standard errors")
ax.plot(range(16), of_draft, "x", color=COLOURS[3], label="draft, exact")
ax.set_xticks(range(16), [f"{i // 4}{i % 4}" for i in range(16)])
ax.legend(frameon=False)
plt.show()
from scipy import stats

distance = np.abs(counts / DRAWS - exact).sum() / 2
print(f"total variation distance: from the target {distance:.3f}, of the draft from it {np.abs(of_draft - exact).sum() / 2:.3f}; "
      f"chi-square test: p = {stats.chisquare(counts, DRAWS * exact).pvalue:.2f}")  # fmt: skip

# %% [markdown]
# ### The course model as a draft
#
# The target is a model of three times the depth (`larger.py` made it from the course model, with week 2's training loop; its weights lie
# in 8 bits in this week's folder). It shares the tokenizer, as a target must.

# %%
from week5_inference.larger import FOLDER, load_larger

larger, _ = load_larger(GPT)
about = json.loads((FOLDER / "training.json").read_text())
print("made by", about["command"], "on", about["machine"])
for name, nats in about["held_out_nats_per_token"].items():
    print(f"    {name:26s}{nats:.4f} nats a token on held-out stories")
for name, one in {"draft (the course model)": model, "target": larger}.items():
    print(f"{name}: {one.config.n_layers} layers, {sum(p.numel() for p in one.parameters()):,} parameters")

# %% [markdown]
# First the acceptance probability, by your function: the target writes texts, both models give their distributions at every place.
#
# **Predict.** At a low temperature both models are surer of themselves. Will the draft be accepted more often, or less?

# %%
TEMPERATURES, WRITTEN = (0.0, 0.5, 0.8, 1.0, 1.5), 60
forwards = {one: FusedForward(one) for one in (model, larger)}
acceptance = {}
for temperature in tqdm(TEMPERATURES, desc="texts of the target"):
    generator = torch.Generator().manual_seed(1)
    texts = generate_cached(larger, openings[:24], WRITTEN, temperature, generator=generator, forward=forwards[larger])
    rows = torch.tensor([opening + text for opening, text in zip(openings[:24], texts, strict=True)])
    with torch.no_grad():
        p, q = (
            next_token_probs(one(rows)[:, 23:-1].flatten(0, 1), temperature).view(24, WRITTEN, -1) for one in (larger, model)
        )
    acceptance[temperature] = bootstrap(np.mean, acceptance_probability(p, q).mean(dim=1).numpy())  # texts are drawn, not tokens
for temperature, (mean, low, high) in acceptance.items():
    print(f"temperature {temperature}: accepted with probability {mean:.3f} [{low:.3f}, {high:.3f}]")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Neither end is best. Near temperature 0 each model puts all on its first choice. Where the two first choices differ, nothing is accepted,
# however close the two were. At a high temperature the unlikely tokens count, and there the two agree least. Note also whose draft this
# is: the target was *grown from it*, so they agree more than two models that never met. The drafts of real systems are brought near
# their target in another way, by training on its texts (distillation).
#
# </details>

# %% [markdown]
# Now tokens a round, and time. `Remembering` (given) lets a model be called with the whole row, and computes only what is new, over your
# `KVCache`; refused tokens are cut from it with `truncate`. The passes are lesson 02's fused ones, for the target alone too.

# %%
from week5_inference.remembering import Remembering

DRAFTED, TOKENS, TEXTS = (1, 2, 4, 6, 8), 48, 6
target, draft = Remembering(larger, forwards[larger]), Remembering(model, forwards[model])
per_round, speedup = {}, {}
for temperature in tqdm((0.0, 1.0), desc="speculating"):
    for i, opening in enumerate(openings[:TEXTS]):
        generator = torch.Generator().manual_seed(i)
        start = time.perf_counter()
        generate_cached(larger, [opening], TOKENS, temperature, generator=generator, forward=forwards[larger])
        alone = time.perf_counter() - start
        for n_draft in DRAFTED:
            target.forget(), draft.forget()
            start = time.perf_counter()
            speculative_decode(target, draft, torch.tensor(opening), n_draft, TOKENS, temperature, generator=generator)
            speedup.setdefault((temperature, n_draft), []).append(alone / (time.perf_counter() - start))
            per_round.setdefault((temperature, n_draft), []).append(TOKENS / target.calls)

fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
for colour, marker, temperature in zip(COLOURS, MARKERS, (0.0, 1.0), strict=False):
    a, low, high = acceptance[temperature]
    for ax, found in zip(axes, (per_round, speedup), strict=True):
        points = np.array([bootstrap(np.mean, np.array(found[temperature, k])) for k in DRAFTED])
        bars = np.abs(points[:, 1:] - points[:, :1]).T
        ax.errorbar(DRAFTED, points[:, 0], bars, fmt=f"{marker}-", color=colour, capsize=3, label=f"temperature {temperature:g}")
    theory = [[expected_tokens(rate, k) for k in DRAFTED] for rate in (a, low, high)]
    axes[0].plot(DRAFTED, theory[0], f"{marker}--", color=colour, fillstyle="none", label=f"formula, a = {a:.2f}")
    axes[0].fill_between(DRAFTED, theory[1], theory[2], color=colour, alpha=0.15)
best = max((np.mean(times), setting) for setting, times in speedup.items())
axes[0].set_title("Tokens a call of the target", loc="left", fontsize=11)
axes[1].set_title(f"Times as fast as the target alone: at best {best[0]:.2f}", loc="left", fontsize=11)
axes[1].axhline(1, color="grey", lw=0.8)
for ax in axes:
    ax.set_xlabel("drafted tokens in a round")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
plt.show()
for temperature in (0.0, 1.0):
    told = {k: f"{np.mean(speedup[temperature, k]):.2f}" for k in DRAFTED}
    print(f"temperature {temperature:g}: times as fast as the target alone, by drafted tokens: {told}")

# %% [markdown]
# The formula assumes that every token is accepted with the same probability, independently. In a real text easy places (the end of a
# word, a name that was just there) stand beside hard ones, so the measured curve is not quite the formula's. And tokens a call are not
# time. A drafted token costs a step of the draft, here about a third of the target's; with $c$ for that ratio the gain is
# $(1 - a^{k+1}) / ((1 - a)(kc + 1))$ (theorem 3.8). So the best $k$ is small. With a draft of a hundredth of the target's size, as the
# paper has it, it is larger, and the gain too. (The formula leaves out what drawing and comparing cost, which is not little
# beside so small a draft.) On a busy server there is less to win: the batch uses the idle arithmetic already.
#
# The real library: transformers calls it assisted generation.

# %%
from transformers.utils import logging

from week4_finetuning.sft import as_transformers

logging.set_verbosity_error(), logging.disable_progress_bar()
theirs, assistant = (as_transformers(one, tokenizer) for one in (larger, model))
assistant.generation_config.num_assistant_tokens = 4
assistant.generation_config.num_assistant_tokens_schedule = "constant"
assistant.generation_config.assistant_confidence_threshold = 0.0
settings = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
same, seconds = 0, {"theirs, alone": 0.0, "theirs, assisted": 0.0}
for opening in tqdm(openings[:TEXTS], desc="transformers"):
    row = torch.tensor([opening])
    settings["attention_mask"] = torch.ones_like(row)
    for label, options in (("theirs, alone", {}), ("theirs, assisted", {"assistant_model": assistant})):
        start = time.perf_counter()
        written = theirs.generate(row, **settings, **options)[0]
        seconds[label] += time.perf_counter() - start
    target.forget(), draft.forget()
    same += torch.equal(speculative_decode(target, draft, row[0], 4, TOKENS, 0.0)[0], written)
print(f"greedy, 4 drafted: {same} of {TEXTS} texts are the same, token for token")
print(f"their assisted generation is {seconds['theirs, alone'] / seconds['theirs, assisted']:.2f} times as fast as without")
assert same == TEXTS

# %% [markdown]
# ### Find the bug
#
# A colleague's version passes all his tests with temperature 0. With temperature 1 the texts are a bit too tame.

# %%
@torch.no_grad()
def colleagues_decode(target, draft, prompt, n_draft, max_new_tokens, temperature=1.0, eos_id=None, generator=None):
    def chosen(probs):
        return torch.multinomial(probs, 1, generator=generator)

    ids, accepted, end = prompt, 0, len(prompt) + max_new_tokens
    while len(ids) < end:
        start, guesses, kept = len(ids), [], 0
        for _ in range(min(n_draft, end - start - 1)):
            guesses.append(next_token_probs(draft(ids[None])[:, -1], temperature)[0])
            ids = torch.cat([ids, chosen(guesses[-1])])
        probs = next_token_probs(target(ids[None])[0, start - 1 :], temperature)
        for x, p, q in zip(ids[start:], probs, guesses, strict=False):
            if torch.rand((), generator=generator) >= p[x] / q[x]:
                break
            kept += 1
        ids = torch.cat([ids[: start + kept], chosen(probs[kept])])
        ends = (ids[start:] == eos_id).nonzero() if eos_id is not None else []
        if len(ends):
            return ids[: start + ends[0, 0] + 1], accepted + min(kept, int(ends[0, 0]) + 1)
        accepted += kept
    return ids, accepted


# %% [markdown]
# **Predict.** Which line is wrong, and in which direction are the texts? Then ask the check:

# %%
print(run_check("speculative_decode", colleagues_decode).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# After a refusal he draws from $p$, as after a full round. But the accepted draws have given each token $\min(q, p)$ already. With $p$ on
# top, what both models like comes out too often, and what only the target likes too seldom: the texts lean towards the draft. With
# temperature 0 the refused token has probability 0 in $p$, so there it makes no difference, and no greedy test can find it.
#
# </details>

# %% [markdown]
# ## Text that is streamed and stopped
#
# A client can name stop strings ("User:", a blank line). The server must end the text before one of them. But it *streams*: what was
# sent cannot be called back. So an end that may still become a stop string is held back until it is clear.

# %% tags=["exercise"]
from week5_inference.solutions.serving import stop_at

# %%
text = 'Nell said "hello". User: and what then?'
sent = ""
for n in range(4, len(text) + 4, 4):
    safe, stopped = stop_at(text[:n], ["User:", "\n\n"])
    print(f"{text[:n][-14:]!r:20s} sent {safe[len(sent):]!r}{'   stop' if stopped else ''}")
    sent = safe
    if stopped:
        break

# %% [markdown]
# (Bytes are held back too. A token of your byte-level tokenizer can be one third of a character. The engine feeds the bytes to an
# incremental UTF-8 decoder, and sends only whole characters.)
#
# ## The server
#
# All parts are there. Read them now; together they are about 700 lines:
#
# | file | what it does |
# |---|---|
# | [`engine.py`](engine.py) | one thread: let requests in, decode all together, draw each one's token, stop, send. Your scheduler's loop, on a real clock |
# | [`decoders.py`](decoders.py) | your GPT over your paged cache; blocks promised to each request |
# | [`server.py`](server.py) | HTTP: the OpenAI API, streaming by server-sent events, errors |
#
# It runs *your* answers where you have passed them, in 8 bits (lesson 04). From a shell it is `python -m week5_inference.server`. Here it
# runs in a thread of this notebook:

# %%
from week5_inference.decoders import course_engine
from week5_inference.server import Running

NAME = "course-instruct"
server = Running(course_engine("instruct", bits=8, n_slots=4), NAME)
client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
print("models:", [one.id for one in client.models.list()])
messages = [{"role": "user", "content": "Write a short story about a lost kite."}]
reply = client.chat.completions.create(model=NAME, messages=messages, max_tokens=60, temperature=0)
print(reply.choices[0].message.content, f"\n[{reply.choices[0].finish_reason}] {reply.usage.prompt_tokens} + {reply.usage.completion_tokens} tokens")

# %% [markdown]
# Every program that speaks to OpenAI can speak to your model: it needs another `base_url`. Streamed, as a chat window does it:

# %%
stream = client.chat.completions.create(
    model=NAME, messages=messages, max_tokens=60, temperature=0.7, seed=5, stop=[". She", ". He"], stream=True
)
for chunk in stream:
    print(chunk.choices[0].delta.content, end="", flush=True)
print(f"\n[{chunk.choices[0].finish_reason}]")

# %% [markdown]
# On the wire it is plain text. Each event is a line that begins with `data: `, then an empty line:

# %%
body = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 3, "temperature": 0, "stream": True}
for line in httpx.post(f"{server.url}/v1/completions", json=body).text.split("\n"):
    print(line if len(line) < 110 else line[:107] + "...")

# %% [markdown]
# A server is judged by what it does with bad input. Each error has its status, and OpenAI's error object. 4xx is the client's fault, 5xx
# the server's; 429 and 503 say when to come back.

# %%
bad = {
    "malformed JSON": '{"model": "course-instruct", ',
    "an unknown model": json.dumps({"model": "gpt-4", "prompt": "x"}),
    "a prompt beyond the context": json.dumps({"model": NAME, "prompt": "a long story " * 100}),
    "a negative temperature": json.dumps({"model": NAME, "prompt": "x", "temperature": -1}),
}
for what, content in bad.items():
    response = httpx.post(f"{server.url}/v1/completions", content=content, headers={"Content-Type": "application/json"})
    print(f"{what}: {response.status_code} {response.json()['error']['message'][:90]}")

# %% [markdown]
# A client that goes away must not keep its slot. And stopping must not cut off those who are being served:

# %%
body = {"model": NAME, "prompt": "One day", "max_tokens": 240, "temperature": 2.0, "seed": 3, "stream": True}
with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as response:
    lines = response.iter_lines()
    next(lines)
    print("while a client reads:", httpx.get(f"{server.url}/health").json())
time.sleep(0.3)
print("a moment after it left:", httpx.get(f"{server.url}/health").json())
server.stop()
try:
    client.with_options(max_retries=0).models.list()
except openai.APIConnectionError:
    print("stopped: the port is free again")

# %% [markdown]
# ## Under load
#
# Now several clients at once. Each asks, waits for its answer, and asks again. You look at two numbers that pull against each other:
# *throughput* (tokens a second, what the owner wants) and *latency* (seconds to the answer, what the client wants; p50 is the
# median, and 95 of 100 answers are faster than p95). Three servers run in processes of their own, with the same weights, asked by the same
# clients: yours with four slots; `transformers serve`, which answers one request after another; and `transformers serve
# --continuous-batching`. They take turns, so that a slow moment of the machine hits all. (The base model is served, for it writes as many
# tokens as it is asked for. And `/v1/completions` is used: the chat endpoint of transformers needs a chat template in the folder, which ours
# has not.)
#
# **Predict.** From 1 client to 8: what happens to throughput and to latency, with four slots? And one request after another?

# %%
import atexit
from contextlib import ExitStack

from week5_inference.load import course_server, crowd, start_transformers, stopped_at_the_end, wait_until_up

CLIENTS, REQUESTS, REPEATS = (1, 2, 4, 8), 10, 3
prompts = [" ".join(story.text.split()[:12]) for story in tales[:REQUESTS]]
wants = np.random.default_rng(1).integers(8, 25, REQUESTS).tolist()

folder, batching = course_folder("base"), ("--continuous-batching", "--cb-num-blocks", "32", "--cb-max-batch-tokens", "64")
with ExitStack() as stack:  # if one does not come up, the others are stopped
    started = {}
    for label, options in {"transformers serve": (), "transformers serve, continuous": batching}.items():
        started[label] = start_transformers(folder, *options)
        stack.enter_context(stopped_at_the_end(started[label][0]))
    servers = {"ours, 4 slots": (stack.enter_context(course_server("--stage", "base", "--slots", "4")), "course-base")}
    for label, (process, url) in started.items():
        wait_until_up(process, url)
        servers[label] = url, str(folder)
    for url, name in servers.values():
        crowd(url, name, 1, prompts[:1], [4])  # the first request sets things up
    running = stack.pop_all()
atexit.register(running.close)  # else they end with the kernel
print("up:", ", ".join(servers))

# %% [markdown]
# Now they are asked. When the cell below has ended, the servers have ended too; to run it again, run the one above first.

# %%
measured: dict[tuple[str, int], list[tuple[float, float, float]]] = {}


def load_test(label: str, url: str, name: str, n_clients: int, repeat: int) -> None:
    answers, seconds = crowd(url, name, n_clients, prompts, wants, seed=100 * repeat)
    times = [answer.seconds for answer in answers]
    found = sum(answer.n_new for answer in answers) / seconds, np.median(times), np.percentile(times, 95)
    measured.setdefault((label, n_clients), []).append(found)


with running:  # whatever happens below, the servers are stopped
    for repeat in tqdm(range(REPEATS), desc="under load"):
        for n_clients in CLIENTS:
            for label, (url, name) in servers.items():
                load_test(label, url, name, n_clients, repeat)

# %%
labels = list(servers)
fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained", sharex=True)
for colour, marker, label in zip(COLOURS, MARKERS, labels, strict=False):
    runs = np.array([np.array(measured[label, n]).mean(0) for n in CLIENTS])
    for ax, column in zip(axes, (1, 2), strict=True):
        ax.plot(runs[:, 0], runs[:, column], f"{marker}-", color=colour, label=label)
        for n, point in zip(CLIENTS, runs, strict=True):
            each = np.array(measured[label, n])
            ax.plot(each[:, 0], each[:, column], ".", color=colour, alpha=0.4)  # every run
            ax.annotate(str(n), (point[0], point[column]), xytext=(3, 5), textcoords="offset points", fontsize=8, color=colour)
for ax, title in zip(axes, ("Median latency", "95 of 100 answers are faster"), strict=True):
    ax.set_title(f"{title} against throughput", loc="left", fontsize=11)
    ax.set(xlabel="tokens a second, all clients (numbers: clients)", ylabel="seconds to the whole answer", xlim=0, ylim=0)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].legend(frameon=False, fontsize=8)
plt.show()
print(f"{'':32s}" + "".join(f"{n} client{'s' if n > 1 else ' '}".rjust(24) for n in CLIENTS) + "   (tokens/s, p50 s, p95 s)")
for label in labels:
    told = ["{:.0f}, {:.2f}, {:.2f}".format(*np.array(measured[label, n]).mean(0)).rjust(24) for n in CLIENTS]
    print(f"{label:32s}" + "".join(told))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Up to four clients the slots fill: throughput grows, and each answer takes somewhat longer, for a step for four texts is longer than one
# for a single text. With eight clients half of the requests wait for a slot: throughput stays, and latency grows. (transformers has no
# such bound here: it takes in all eight. Start yours with `--slots 8` to compare.) One request after
# another, that begins with the second client: all that more clients get is a longer wait. This is a closed loop: each client waits for its
# answer. In an open one, as in the simulation, the queue would grow for ever; there a bounded queue and the status 429 are the only
# honest answer.
#
# </details>
#
# Read the distances with care. On a model so small nearly all time goes into starting operations from Python, in every one of them. Ours
# serves one kind of model; theirs serves every model of the hub, and on a GPU with paged kernels and CUDA graphs.
#
# ## What the real ones do beyond
#
# vLLM and TensorRT-LLM need a GPU. Where one of them is installed, this cell puts it under the same load; here it says that it is not.

# %%
from week5_inference.load import gpu_servers, start_gpu_server

for program in gpu_servers():
    process, url = start_gpu_server(program, course_folder("base"), NAME)
    with stopped_at_the_end(process):
        wait_until_up(process, url, seconds=600)
        for repeat in range(REPEATS):
            for n_clients in CLIENTS:
                load_test(program, url, NAME, n_clients, repeat)
    for n in CLIENTS:
        print(program, n, "clients: tokens/s {:.0f}, p50 {:.2f} s, p95 {:.2f} s".format(*np.array(measured[program, n]).mean(0)))
if not gpu_servers():
    print("neither vLLM nor TensorRT-LLM with a GPU is here: pip install vllm, on a machine with one, and run this cell again")

# %% [markdown]
# | | ours | vLLM | TensorRT-LLM |
# |---|---|---|---|
# | blocks | gathered into one tensor before each step | kernels read them where they lie | the same |
# | out of blocks | a request waits until its whole length fits | lets in more, preempts, recomputes | a choice of policies |
# | prefill | alone, while the others wait | in pieces, mixed with decode steps | the same |
# | shared prefixes | `fork`, by hand | found by a hash of the blocks, for all requests | the same |
# | a step | Python starts every operation | one CUDA graph | a compiled engine, fused kernels |
# | bits | 8, unpacked in each step | GPTQ, AWQ, FP8 with kernels that compute in them | the same, and FP4 |
# | draft | `speculative_decode`, not in the server | n-grams, EAGLE, a draft model, in the batch | the same |
# | more than one GPU | no | tensor, pipeline and expert parallel | the same |
#
# What they have in common with yours is what you wrote: block tables with counts, a batch for every step, accept by $p/q$.
#
# ## What to read
#
# - **Kwon et al. 2023.** Section 4.3 walks one request through the block table; section 4.4 is your `fork`. In figure 2, which three kinds of
#   waste do they tell apart, and which is left with pages?
# - **vLLM**, [`vllm/v1/core/block_pool.py`](https://github.com/vllm-project/vllm/blob/main/vllm/v1/core/block_pool.py) and `kv_cache_manager.py`
#   beside it: find `ref_cnt`. Why does a block that nobody names keep its hash, and its contents?
# - **vLLM**, [`vllm/v1/core/sched/scheduler.py`](https://github.com/vllm-project/vllm/blob/main/vllm/v1/core/sched/scheduler.py): the loop of
#   your `continuous_batching`. Find where a request is preempted. Which one is it?
# - **Yu et al. 2022** (Orca). Section 3.1 is the schedule, section 3.2 says which operations of a transformer can be batched when texts have
#   different lengths, and which cannot.
# - **Leviathan et al. 2023.** Appendix A.1 is the proof above, in five lines. Theorem 3.8 and figure 2: for which $a$ and $c$ is it not worth
#   it? **Chen et al. 2023** ([arXiv:2302.01318](https://arxiv.org/abs/2302.01318)) is the same idea with a 70B target.
# - **TensorRT-LLM**, [`examples/llm-api`](https://github.com/NVIDIA/TensorRT-LLM/tree/main/examples/llm-api): what must be decided when the
#   engine is built, that vLLM and your server decide while they run?
#
# ## Recap
#
# - A step costs nearly the same for one text and for many. So a server lives from decoding texts together, and chooses them anew each step.
# - Pages: a table from token to block, counts, copy on write. The memory holds tokens, not reservations, so more texts fit.
# - Speculation: a draft guesses, the target checks all guesses in one call. The text is exactly the target's; the gain depends on how often
#   they agree and on how cheap the draft is.
# - Streaming means that what was sent stays sent: hold back what may become a stop string, and half characters.
# - Throughput and latency pull against each other. When the slots are full, more clients only wait longer, and a server must say so.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("serving")

# %%
progress("week5_inference")
