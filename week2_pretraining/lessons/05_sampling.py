# %% [markdown]
# # Sampling
#
# A trained model gives probabilities, and a reader wants text. Between the two stands a choice, made at each token: take the
# likeliest, or draw; from all tokens, or from the good ones; one text at a time, or several side by side. The same weights
# write dull, lively or broken text depending on it. The samples in GPT-2's paper were drawn with *top-k* 40, and the
# sliders "temperature" and "top-p" of every chat API are a few lines of the code below.
#
# In this lesson you write the sampler that all later weeks use: the filters, the draw, the loop with an end of text and
# batches of ragged prompts, beam search, and contrastive decoding. Each is compared with transformers, and then you
# measure what the choices do to the text of the course's own model: how likely, how varied, how repetitive, how true
# to its prompt.
#
# Reading and writing: about 150 minutes. Papers: Radford et al. 2019 (GPT-2), Holtzman et al. 2020, *The Curious Case of
# Neural Text Degeneration* ([arXiv:1904.09751](https://arxiv.org/abs/1904.09751)), Keskar et al. 2019 (CTRL,
# [arXiv:1909.05858](https://arxiv.org/abs/1909.05858)), Li et al. 2022, *Contrastive Decoding*
# ([arXiv:2210.15097](https://arxiv.org/abs/2210.15097)). Repository: the
# ["how to generate"](https://huggingface.co/blog/how-to-generate) demo.

# %%
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

from shared import borrow, check, explore, hint, mine, progress
from shared.data import stories
from shared.models import available, course_folder, smollm2
from shared.plotting import COLOURS, LINES, figure
from shared.runtime import pick_device, seed_everything
from week2_pretraining.solutions.pretraining import load_pretrained

seed_everything(0)
logging.set_verbosity_error()
logging.disable_progress_bar()
device = pick_device()
print(device)

# %% [markdown]
# The course model (lesson 03 tells how it was trained), once in your own `GPT`, and once as transformers reads the same folder.
# `<|endoftext|>` stands between its stories: it starts a text and ends one.

# %%
model, tokenizer = load_pretrained(course_folder("base"), mine("GPT"))
model = model.to(device)
theirs = AutoModelForCausalLM.from_pretrained(course_folder("base")).to(device).eval()
eos_id = tokenizer.eos_token_id
told = stories(400, split="validation")


def encode(text: str) -> Int[Tensor, "1 seq"]:
    return tokenizer(tokenizer.eos_token + text, return_tensors="pt").input_ids.to(device)


def decode(token_ids: Int[Tensor, "seq"]) -> str:
    return tokenizer.decode(token_ids, skip_special_tokens=True)


prompt = " ".join(told[0].text.split()[:22])
prompt_ids = encode(prompt)
with torch.no_grad():
    next_logits = model(prompt_ids)[:, -1]  # (1, vocab)
best = torch.softmax(next_logits, dim=-1)[0].topk(8)
print(prompt, "...")
for p, token_id in zip(best.values.tolist(), best.indices.tolist(), strict=True):
    print(f"{p:6.1%}  {tokenizer.decode([token_id])!r}")

# %% [markdown]
# ## One token
#
# The simplest choice is the likeliest token. (The first exercise is one line, as a warm-up.)

# %% tags=["exercise"]
from week2_pretraining.solutions.sampling import greedy

# %%
print(repr(tokenizer.decode(greedy(next_logits))))

# %% [markdown]
# Greedy text is always the same. To get a text of one's own, draw the next token. But a vocabulary has a long tail, and
# tokens of the tail, each nearly impossible, are together not so rare: in a text of 200 tokens even 1 % comes twice, and a
# model goes on from its own slip. So the distribution $p = \operatorname{softmax}(z)$ is changed before the draw, in this order:
#
# 1. **temperature** $T$: $\; p_i \propto e^{z_i / T}$. Below 1 the likely become likelier; at 0 it is greedy.
# 2. **top-k**: only the $k$ likeliest tokens stay (Fan et al. 2018; GPT-2 used $k = 40$).
# 3. **top-p**, or nucleus: only the smallest set of likeliest tokens $V^{(p)}$ stays with
#    $\sum_{i \in V^{(p)}} p_i \ge p$ (Holtzman et al. 2020, eq. 2), measured on what the first two steps left.
#
# What is left is scaled to sum to 1. Top-k keeps as many tokens after "Once upon a" as after "Her name was"; top-p
# keeps few where the model is sure and many where it is not.
#
# **Predict.** Probabilities (0.5, 0.3, 0.2). What is left with top-p = 0.6? And with top-p = 0.4?

# %% tags=["given"]
from week2_pretraining.solutions.sampling import check_settings

# %% tags=["exercise"]
from week2_pretraining.solutions.sampling import next_token_probs

# %%
three = torch.tensor([[0.5, 0.3, 0.2]]).log()
for settings in ({"top_p": 0.6}, {"top_p": 0.4}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 2}):
    print(settings, [round(p, 3) for p in next_token_probs(three, **settings)[0].tolist()])

# %% [markdown]
# <details><summary>Answer</summary>
#
# The first token has 0.5, which is less than 0.6, so the second stays too: (0.625, 0.375, 0). With 0.4 the first is enough, and
# there must always be one: (1, 0, 0).
#
# </details>
#
# transformers does the same in three *logits processors*, one after the other.

# %%
def library_probs(logits, temperature, top_k, top_p):
    processors = [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)]
    return torch.softmax(LogitsProcessorList(processors)(None, logits), dim=-1)


dice, generator = random.Random(0), torch.Generator().manual_seed(0)
differences = []
for _ in range(200):
    logits = 4 * torch.randn(5, 300, generator=generator)
    settings = (dice.uniform(0.3, 2), dice.randint(1, 300), dice.uniform(0.05, 0.99))
    differences.append((next_token_probs(logits, *settings) - library_probs(logits, *settings)).abs().max().item())
print(f"200 random settings on 1,000 random rows: largest difference {max(differences):.0e}")
assert max(differences) < 1e-6

# %% [markdown]
# Move the sliders. Where does top-p cut at temperature 0.5, and where at 2?

# %%
def show_probs(temperature: float, top_k: int, top_p: float):
    """The 15 likeliest tokens before (grey) and after the cuts."""
    before = torch.softmax(next_logits, dim=-1)[0]
    after = next_token_probs(next_logits, temperature, top_k, top_p)[0]
    order = before.argsort(descending=True)[:15].cpu()
    fig, ax = figure(f"{(after > 0).sum()} of {len(after):,} tokens are left", ylabel="probability", height=3.2)
    ax.bar(range(15), before.cpu()[order], color="lightgrey", width=0.8, label="the model's")
    ax.bar(range(15), after.cpu()[order], color=COLOURS[0], width=0.4, label="drawn from")
    ax.set_xticks(range(15), [repr(tokenizer.decode([i]))[1:-1] for i in order.tolist()], rotation=60, ha="right", fontsize=8)
    ax.legend(frameon=False)
    return fig


explore(show_probs, temperature=(0.1, 2.5, 1.5), top_k=[0, 1, 5, 40], top_p=(0.05, 1.0, 0.9))

# %% [markdown]
# ## Find the bug
#
# A colleague's sampler passes his own tests: each step, tested alone, does what it should. But his users say that the slider
# "temperature" does nothing at top-p = 0.8: the text is as tame at 2 as at 1.

# %%
def colleagues_probs(logits, temperature=1.0, top_k=0, top_p=1.0):
    check_settings(logits, temperature, top_k, top_p)
    logits = logits.float()
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    logits = logits - logits.amax(dim=-1, keepdim=True)
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -math.inf)
    if top_p < 1:
        ordered, order = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True)
        keep = torch.zeros_like(logits, dtype=torch.bool)
        keep = keep.scatter(-1, order, ordered.cumsum(dim=-1) - ordered < top_p)
        logits = logits.masked_fill(~keep, -math.inf)
    return torch.softmax(logits / temperature, dim=-1)


with torch.no_grad():
    many_logits = model(encode(told[0].text))[0]  # the next token at each place of a story: (seq, vocab)
for temperature in (0.5, 1.0, 2.0):
    kept = [(f(many_logits, temperature, 0, 0.8) > 0).sum(dim=-1).float().mean().item()
            for f in (next_token_probs, colleagues_probs)]
    print(f"temperature {temperature}: yours keeps {kept[0]:7.1f} tokens on average, his {kept[1]:5.1f}")

# %% [markdown]
# **Predict.** Which line of his is in the wrong place? Then ask the check:

# %%
from shared.checking import run_check

print(run_check("next_token_probs", colleagues_probs).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# He divides by the temperature last. Top-p has then cut the distribution as it was at temperature 1, and the temperature
# only reshuffles the few tokens that are left. Neither order is wrong in itself, and there are engines that do it his way;
# but the same settings then mean another text, which is why ours is defined as in transformers.
#
# </details>
#
# Now the draw itself. All chance must come from the `generator` that is given: then a text can be repeated, and a
# second part of the program that also draws does not change it.

# %% tags=["exercise"]
from week2_pretraining.solutions.sampling import sample_next_token

# %%
draws = sample_next_token(next_logits.expand(5000, -1), 1.0, 5, 1.0, torch.Generator().manual_seed(0))
expected = next_token_probs(next_logits, 1.0, 5)[0]
for token_id, count in Counter(draws.tolist()).most_common():
    print(f"{tokenizer.decode([token_id])!r:12} drawn {count / 5000:.3f}, probability {expected[token_id]:.3f}")

# %% [markdown]
# ## Not the same again
#
# A text that repeats itself can make its own repetition likelier (more on this trap below). Keskar et al. 2019 take a little
# from the logits of all tokens that have been written already:
#
# $$z_i \leftarrow \begin{cases} z_i / \theta & z_i > 0 \\ z_i \cdot \theta & z_i \le 0 \end{cases} \qquad
# \text{for each token } i \text{ in the text so far}, \quad \theta \approx 1.2$$
#
# (The paper only divides. That is right for its positive logits, but turns -4 into -3.3: a reward. All libraries multiply
# where the logit is negative.) In a batch, shorter prompts are padded on the left, and padding was not written by
# anyone: `key_mask` says which tokens are real.

# %% tags=["exercise"]
from week2_pretraining.solutions.sampling import repetition_penalty

# %%
generator = torch.Generator().manual_seed(1)
logits, token_ids = 4 * torch.randn(50, 300, generator=generator), torch.randint(0, 300, (50, 40), generator=generator)
library = RepetitionPenaltyLogitsProcessor(1.2)(token_ids, logits.clone())
print(f"largest difference {(repetition_penalty(logits, token_ids, 1.2) - library).abs().max():.0e}")
assert torch.allclose(repetition_penalty(logits, token_ids, 1.2), library, atol=1e-6)

# %% [markdown]
# ## A whole text
#
# ```
#   text so far        model         last position        settings          draw
#   (batch, seq) ──▶ (batch, seq, vocab) ──▶ (batch, vocab) ──▶ probabilities ──▶ (batch,)
#        ▲                                                                           │
#        └──────────────────────────── append, and again ◀───────────────────────────┘
# ```
#
# What makes it more than a loop:
#
# - **The end.** A row that has written `eos_id` is finished, and is filled with it; the others go on. When all have ended, stop.
# - **Ragged prompts.** They are padded on the *left*, so that each row's next token stands in the last column. The model is given the
#   `key_mask`, and the mask grows with the text.
# - **The context ends.** We let the window slide: the model sees the last `context_length` tokens. The alternative
#   is to stop; sliding writes texts of any length, at the price that the beginning is forgotten. (With a cache of
#   keys and values, which comes in week 5, sliding is not so simple.) A *prompt* that does not fit is an error: cutting it
#   silently would answer another question.
# - **The mode.** Dropout off, no gradients; and a model that was being trained is given back in training mode.
#
# Two helpers are given: one for the mode, one that refuses prompts that cannot be continued.

# %% tags=["given"]
from week2_pretraining.solutions.sampling import inference

# %% tags=["given"]
from week2_pretraining.solutions.sampling import check_prompt

# %% tags=["exercise"]
from week2_pretraining.solutions.sampling import generate

# %% [markdown]
# The same weights, your model and your loop on one side, transformers' on the other. Greedy, with three prompts of different
# lengths; with a penalty; and each row must be as if it were alone.

# %%
tokenizer.padding_side = "left"
openings = [tokenizer.eos_token + " ".join(story.text.split()[:n]) for story, n in zip(told, (6, 14, 25), strict=False)]
batch = tokenizer(openings, padding=True, return_tensors="pt").to(device)
key_mask = batch.attention_mask.bool()
library_settings = {"eos_token_id": eos_id, "pad_token_id": eos_id, "do_sample": False}

for penalty in (1.0, 1.2):
    ours = generate(model, batch.input_ids, 50, temperature=0, penalty=penalty, eos_id=eos_id, key_mask=key_mask)
    library = theirs.generate(**batch, max_new_tokens=50, repetition_penalty=penalty, **library_settings)
    print(f"penalty {penalty}: {(ours == library).float().mean():.0%} of {ours[:, key_mask.shape[1] :].numel()} tokens equal")
    assert torch.equal(ours, library)
print(decode(library[2]))

# %% [markdown]
# Live text. The draws come from a fixed seed, so a small step of a slider changes the text at one place, and all that
# follows.

# %%
def live_text(temperature: float, top_p: float) -> str:
    generator = torch.Generator().manual_seed(1)
    return decode(generate(model, prompt_ids, 70, temperature, 0, top_p, eos_id=eos_id, generator=generator)[0])


explore(live_text, temperature=(0.0, 2.0, 0.8), top_p=(0.05, 1.0, 0.95))

# %% [markdown]
# ### How fast
#
# **Predict.** A batch of 32 texts: does it take 32 times as long as one?

# %% tags=["nbval-ignore-output"]
batch_sizes, n_new, speeds = [1, 4, 16, 32], 16, {}
for _ in tqdm(range(3), desc="measuring"):  # interleaved: a slow moment hits all
    for size in batch_sizes:
        start = time.perf_counter()
        generate(model, prompt_ids.expand(size, -1), n_new, generator=torch.Generator().manual_seed(0))
        speeds.setdefault(size, []).append(size * n_new / (time.perf_counter() - start))
gain = statistics.median(speeds[32]) / statistics.median(speeds[1])
fig, ax = figure(f"32 texts at once: {gain:.1f} times the tokens per second of one", "texts in the batch", "tokens per second")
middle = [statistics.median(speeds[size]) for size in batch_sizes]
spread = [[m - min(speeds[s]) for s, m in zip(batch_sizes, middle, strict=True)],
          [max(speeds[s]) - m for s, m in zip(batch_sizes, middle, strict=True)]]
ax.errorbar(batch_sizes, middle, spread, fmt="o-", color=COLOURS[0], capsize=4)
ax.set_xscale("log", base=2)
ax.set_xticks(batch_sizes, batch_sizes)
ax.set_ylim(bottom=0)
plt.show()

# %% [markdown]
# (Median and range of three interleaved rounds.) A small batch leaves the processor waiting: it must read all weights for
# each step, whether for one text or for many. On a GPU the gain is far larger.
#
# The loop wastes something else: at each step it computes the whole text anew, though only one token was added. $n$ new tokens
# after $m$ cost $m + (m+1) + \dots$ positions and not $m + n$. The keys and values of old tokens never change, so they can be kept:
# that is the *KV cache* of week 5, which will run your sampler as it is. transformers has one. From here on, where an experiment needs
# thousands of tokens, transformers writes them; you have just seen that they are the same.

# %%
m, n = prompt_ids.shape[1], 150
print(f"{n} tokens after {m}: {sum(range(m, m + n)):,} positions computed; with a cache {m + n - 1:,}")

# %% [markdown]
# ## Beam search
#
# Greedy takes the best token at each step. That need not lead to the best text:
#
# ```
#            ┌── a  0.55   0.6 · 0.55 = 0.33     greedy
#   a  0.6 ──┤
#            └── b  0.45
#            ┌── a  0.05
#   b  0.4 ──┤
#            └── b  0.95   0.4 · 0.95 = 0.38     better
# ```
#
# Trying all texts is hopeless: $V^n$. Beam search keeps the `n_beams` best beginnings. Each step extends all of them by all
# tokens and ranks the results by $\sum \ln p$. Two details make it an exercise:
#
# - **Ends.** A text that ends leaves the beam and waits in a list. With candidates for `2 n_beams` places, there are enough
#   left to go on with.
# - **Length.** Each token costs something, so short texts win. Finished texts are compared by
#   $\text{score} = \sum \ln p \,/\, n^{\,\text{length penalty}}$ with $n$ new tokens: the mean at 1, the plain sum at 0.
#
# When to stop is a choice. Ours is transformers' default (`early_stopping=False`): when `n_beams` texts have ended, and the best open one,
# ended here and now, would not beat the worst of them. A heuristic: an open one might still improve its mean.

# %% tags=["exercise"]
from week2_pretraining.solutions.sampling import beam_search

# %%
for n_beams in (1, 3, 5):
    for length_penalty in (0.0, 1.0):
        ours, score = beam_search(model, prompt_ids[0], n_beams, 40, eos_id, length_penalty)
        library = theirs.generate(
            prompt_ids, attention_mask=torch.ones_like(prompt_ids), max_new_tokens=40, num_beams=n_beams,
            length_penalty=length_penalty, return_dict_in_generate=True, output_scores=True, **library_settings,
        )  # fmt: skip
        assert torch.equal(ours, library.sequences[0])
        assert n_beams == 1 or abs(score - library.sequences_scores[0].item()) < 1e-3
        print(f"{n_beams} beams, length penalty {length_penalty}: score {score:7.3f}, text equal")

# %% [markdown]
# One beam is greedy. Compare the sums, at length penalty 0: three beams and five find text with a higher probability than one. But
# five find less than three: at its ninth token the text of the three beams is only fifteenth among five, behind beginnings
# that three had thrown away. More beams usually help, and promise nothing. Whether likelier text is *better* text is another question.
#
# ## How to generate
#
# The tour of Patrick von Platen's demo, on one prompt. One stop is the library's alone: `no_repeat_ngram_size=2` forbids any
# pair of tokens to come twice, ever. **Predict.** What does that do to a story about a rabbit called Pip?

# %%
def contrast(title: str, token_ids: Int[Tensor, "seq"]) -> None:
    print(f"--- {title}\n{decode(token_ids)}\n")


short_ids = encode(" ".join(told[0].text.split()[:11]))
mask = torch.ones_like(short_ids)
contrast("greedy", generate(model, short_ids, 80, temperature=0, eos_id=eos_id)[0])
contrast("beam search, 5 beams", beam_search(model, short_ids[0], 5, 80, eos_id)[0])
contrast("the same, no pair of tokens twice (library)", theirs.generate(
    short_ids, attention_mask=mask, max_new_tokens=80, num_beams=5, no_repeat_ngram_size=2, **library_settings)[0])
tour = {"sampling": {}, "temperature 0.6": {"temperature": 0.6}, "top-k 50": {"top_k": 50}, "top-p 0.92": {"top_p": 0.92},
        "top-k 50, top-p 0.95": {"top_k": 50, "top_p": 0.95}}  # fmt: skip
for name, settings in tour.items():
    generator = torch.Generator().manual_seed(6)
    contrast(name, generate(model, short_ids, 80, **settings, eos_id=eos_id, generator=generator)[0])

# %% [markdown]
# <details><summary>What to look for</summary>
#
# A full stop and a "The" are a pair, too: after "The water gurgled" no other sentence may begin with "The". So "The best ones hung too
# high" becomes "There were so many thorns", and then no other may begin with "There". In a longer story "said Pip"
# could stand only once. The demo's author warns of names of two words: New York could stand in a text once. Greedy and beam search are
# safe and alike; plain sampling has the most slips; the cuts and a temperature below 1 take away the worst of them. What no
# setting repairs is the model: in the greedy text, too, the girl has two names.
#
# </details>
#
# ## Contrastive decoding
#
# Why should the likeliest text be dull? Li et al. 2022 observe that dullness (repetition, clichés) is what *small* models do most.
# So compare the *expert* with an *amateur*, and prefer what the expert knows better:
#
# $$\text{score}(x) = \begin{cases} \ln p_{\text{expert}}(x) - \ln p_{\text{amateur}}(x) & \text{if } p_{\text{expert}}(x) \ge
# \alpha \max_w p_{\text{expert}}(w) \\ -\infty & \text{otherwise} \end{cases}$$
#
# The condition is the paper's *adaptive plausibility constraint* (section 3, $\alpha = 0.1$). **Predict.** What would win
# without it?

# %% tags=["exercise"]
from week2_pretraining.solutions.sampling import contrastive_decode

# %% [markdown]
# <details><summary>Answer</summary>
#
# Some token that the expert thinks impossible, one in a million, and the amateur more so, one in a billion: a ratio of a thousand.
#
# </details>
#
# Our amateur is the same model with amnesia: it sees the last four tokens only. (The paper names three ways to get an
# amateur: a smaller model, a temperature, a shorter context.) A "model" of `generate` is anything that turns token ids into logits, so
# the scores of both are a model, too. transformers takes them as a logits processor.

# %%
AMATEUR_SEES = 4


def contrastive_model(token_ids):
    return contrastive_decode(model(token_ids)[:, -1:], model(token_ids[:, -AMATEUR_SEES:])[:, -1:])


class Contrastive(LogitsProcessor):
    def __call__(self, token_ids, scores):
        amateur = theirs(token_ids[:, -AMATEUR_SEES:]).logits[:, -1]
        allowed = scores.softmax(dim=-1) >= 0.1 * scores.softmax(dim=-1).amax(dim=-1, keepdim=True)
        return (scores.log_softmax(dim=-1) - amateur.log_softmax(dim=-1)).masked_fill(~allowed, -math.inf)


ours = generate(contrastive_model, short_ids, 80, temperature=0, eos_id=eos_id)
library = theirs.generate(short_ids, attention_mask=mask, max_new_tokens=80, logits_processor=[Contrastive()], **library_settings)
assert torch.equal(ours, library)
contrast("contrastive, equal in both", ours[0])

# %% [markdown]
# ## The repetition trap
#
# Now ask for more than a story holds: 180 tokens, with the end of text forbidden. How much of the text is a repetition of itself?
# We count *4-grams* (four tokens in a row) that have stood in the same text before. The measure for comparison is human text, here
# held-out stories, one after the other.
#
# A loop needs a model that does not notice it. So there are two: the course model, and the amateur from above, which sees the last
# four tokens only.
#
# **Predict.** Which of them falls into the trap with greedy decoding? And with sampling? Does beam search, which looks further
# ahead than greedy, avoid it?

# %%
N_PROMPTS, N_LONG = 12, 180
trap_prompts = [tokenizer.eos_token + " ".join(story.text.split()[:12]) for story in told[:N_PROMPTS]]
trap_batch = tokenizer(trap_prompts, padding=True, return_tensors="pt").to(device)


def write(inputs, n_new: int, seed: int = 0, **settings) -> list[list[int]]:
    """Continuations by transformers' generate, without the prompts, each cut at its end of text."""
    torch.manual_seed(seed)  # transformers draws from the global generator
    settings = {"eos_token_id": eos_id, "pad_token_id": eos_id, "top_k": 0, **settings}
    token_ids = theirs.generate(**inputs, max_new_tokens=n_new, **settings)
    rows = token_ids[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(eos_id) + 1] if eos_id in row else row for row in rows]


def repeated(token_ids: list[int], n: int = 4) -> list[float]:
    """Share of n-grams that have come before, for each length of the text."""
    seen, shares, again = set(), [], 0
    for i in range(len(token_ids) - n + 1):
        gram = tuple(token_ids[i : i + n])
        again += gram in seen
        seen.add(gram)
        shares.append(again / (i + 1))
    return shares


endless = {
    "greedy": {"do_sample": False},
    "beam search, 4 beams": {"do_sample": False, "num_beams": 4},
    "greedy, penalty 1.2": {"do_sample": False, "repetition_penalty": 1.2},
    "sampling": {"do_sample": True},
}
no_end = torch.zeros(len(tokenizer), device=device).index_fill(0, torch.tensor([eos_id], device=device), -math.inf)


def forgetful_model(token_ids, key_mask):
    """The course model when it sees the last few tokens only, with the end of text forbidden."""
    return model(token_ids[:, -AMATEUR_SEES:], key_mask[:, -AMATEUR_SEES:])[:, -1:] + no_end


looping = {}  # name -> rows of token ids
for name, settings in tqdm(endless.items(), desc="writing"):
    looping[name] = write(trap_batch, N_LONG, suppress_tokens=[eos_id], **settings)
for name, temperature in (("greedy, sees 4 tokens", 0.0), ("sampling, sees 4 tokens", 1.0)):
    out = generate(forgetful_model, trap_batch.input_ids, N_LONG, temperature, key_mask=trap_batch.attention_mask.bool(),
                   generator=torch.Generator().manual_seed(0))  # fmt: skip
    looping[name] = out[:, trap_batch.input_ids.shape[1] :].tolist()
traps = {name: torch.tensor([repeated(row) for row in rows]) for name, rows in looping.items()}
human = [tokenizer(" ".join(story.text for story in told[i : i + 4])).input_ids[:N_LONG] for i in range(40, 40 + 4 * N_PROMPTS, 4)]
traps["held-out stories"] = torch.tensor([repeated(row) for row in human])

# %%
def band(values: Float[Tensor, "text *rest"]) -> tuple[Tensor, Tensor]:
    """Mean over texts, and half of its 95 % interval."""
    return values.mean(dim=0), 1.96 * values.std(dim=0) / len(values) ** 0.5


in_the_end = {name: values[:, -1].mean().item() for name, values in traps.items()}
worst = max(in_the_end, key=in_the_end.get)
fig, ax = figure(
    f"After {N_LONG} tokens {in_the_end[worst]:.0%} repeats itself ({worst}); "
    f"held-out stories {in_the_end['held-out stories']:.0%}",
    "length of the text (tokens)", "4-grams that stood there before (%)", width=7.5,
)  # fmt: skip
for (name, values), colour, style in zip(traps.items(), COLOURS, LINES, strict=False):
    mean, half = band(100 * values)
    x = range(4, 4 + len(mean))
    ax.plot(x, mean, color=colour, linestyle=style, label=name)
    ax.fill_between(x, (mean - half).clamp(min=0), mean + half, color=colour, alpha=0.15, linewidth=0)
ax.legend(frameon=False, loc="upper left", fontsize=8)
plt.show()
for name in ("greedy", "greedy, sees 4 tokens"):
    print(f"--- {name}, from token 100 on: {decode(looping[name][0][100:])}\n")
for name, share in in_the_end.items():
    print(f"{name:24s} {share:4.0%} repeated")

# %% [markdown]
# The bands are 95 % intervals over the prompts. With a memory of four tokens and no chance in it, a loop is only a matter of
# time: as soon as four tokens come again, all that followed comes again. Sampling with the same bad memory gets out, because
# now and then it takes something less likely. The whole model stays out of the trap for these 180 tokens, with beam search, too: it
# sees what it has said, and goes on to a next story. That depends on how well it was trained: a poor one says one sentence for ever.
#
# Holtzman et al. found the trap in GPT-2 with its memory of 1,024 tokens (their figure 4): there each repetition of a sentence
# *raises* the probability of the next one. The model has learnt that texts repeat themselves, and greedy and beam search, which
# both look for what is likely, find the loop.
#
# ## Likely or varied
#
# For each method, two numbers: how likely is its text (mean $\ln p$ of its tokens under the model, by your `completion_log_prob`), and
# how much is it its own (share of its 4-grams that no other story of the same method holds). The prompts are beginnings of held-out
# stories, and the true continuations are the human text.
#
# **Predict.** Where will the human text lie: more or less likely than beam search's? Than plain sampling's?

# %%
completion_log_prob = mine("completion_log_prob")
N_STORIES = 24
story_prompts = [tokenizer.eos_token + " ".join(story.text.split()[:10]) for story in told[:N_STORIES]]
story_batch = tokenizer(story_prompts, padding=True, return_tensors="pt").to(device)


def mean_log_prob(prompts: list[str], continuations: list[list[int]]) -> list[float]:
    """Nats per token of each continuation under the course model, at temperature 1."""
    means = []
    for prompt_text, new in zip(prompts, continuations, strict=True):
        old = tokenizer(prompt_text).input_ids
        token_ids = torch.tensor([old + new], device=device)
        with torch.no_grad():
            logits = model(token_ids)
        total = completion_log_prob(logits, token_ids, torch.arange(token_ids.shape[1], device=device)[None] >= len(old))
        means.append(total.item() / len(new))
    return means


def own_share(texts: list[list[int]], n: int = 4) -> list[float]:
    """Share of each text's n-grams that stand in none of the others."""
    grams = [{tuple(text[i : i + n]) for i in range(len(text) - n + 1)} for text in texts]
    where = Counter(gram for text in grams for gram in text)
    return [sum(where[gram] == 1 for gram in text) / max(len(text), 1) for text in grams]


methods = {
    "greedy": {"do_sample": False},
    "beam search": {"do_sample": False, "num_beams": 4},
    "contrastive": {"do_sample": False, "logits_processor": [Contrastive()]},
    "temperature 0.6": {"do_sample": True, "temperature": 0.6},
    "top-p 0.9": {"do_sample": True, "top_p": 0.9},
    "top-k 40": {"do_sample": True, "top_k": 40},
    "sampling": {"do_sample": True},
    "temperature 1.4": {"do_sample": True, "temperature": 1.4},
}
measured = {}  # method -> (text, 2): nats per token, own share
for name, settings in tqdm(methods.items(), desc="writing"):
    runs = []
    for seed in range(2 if settings["do_sample"] else 1):
        texts = write(story_batch, 110, seed, **settings)
        runs.append(torch.tensor([mean_log_prob(story_prompts, texts), own_share(texts)]).T)
    measured[name] = torch.cat(runs)
true = [tokenizer(" " + " ".join(story.text.split()[10:])).input_ids[:109] + [eos_id] for story in told[:N_STORIES]]
measured["held-out stories"] = torch.tensor([mean_log_prob(story_prompts, true), own_share(true)]).T

# %%
likely = {name: values[:, 0].mean().item() for name, values in measured.items()}
fig, ax = figure(
    f"Held-out stories: {likely['held-out stories']:.2f} nats per token, beam search's {likely['beam search']:.2f}",
    "mean ln p of a token (nats): likelier to the right", "4-grams of its own (%)", width=7.5, height=4.2,
)  # fmt: skip
for i, (name, values) in enumerate(measured.items()):
    (x, y), (dx, dy) = (v.tolist() for v in band(values * torch.tensor([1.0, 100.0])))
    real = name == "held-out stories"
    ax.errorbar(x, y, dy, dx, fmt="*" if real else "osD^vPXp"[i], markersize=14 if real else 7, capsize=3,
                color="black" if real else COLOURS[i % 6], label=name)
ax.legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 0.5), loc="center left")
plt.show()
for name, values in measured.items():
    (x, y), (dx, dy) = (v.tolist() for v in band(values))
    print(f"{name:18s} {x:6.2f} ± {dx:.2f} nats per token, {y:4.0%} ± {dy:.0%} of its own")

# %% [markdown]
# (Crosses: 95 % intervals over prompts and seeds.) Greedy and beam search look for likely text and find it: it is likelier
# than what was really written, and more than half of its 4-grams stand in another story, too. That is figure 2 of Holtzman et al. on our small scale. A writer does not write the likeliest
# word: it would say nothing new. So likelihood is a good *training* objective and a bad *decoding* objective for open text.
# (For translation, where the input fixes most of the answer, beam search works.) Where does contrastive decoding lie? Its
# tokens are plausible by the constraint, but it is not after probability.
#
# ## Too cold, too hot
#
# A prompt that names its hero and a friend, six temperatures, four continuations each. Too hot: words appear that stand in no
# story, and names that no one has mentioned. Too cold: the four continuations say much the same.
#
# **Predict.** Three shares: names that the prompt holds, words that exist, text that only one continuation holds. Which fall with
# the temperature, which rises, and which changes first?

# %%
def words_of(text: str) -> list[str]:
    return [word.strip('.,!?;:"') for word in text.split()]


known = stories(3000)
NAMES = {name for story in known for name in (story.facts.hero, story.facts.friend) if name}
WORDS = {word.lower() for story in known for word in words_of(story.text)}
parts_of = ("opening", "setting", "want", "problem", "meet")
meetings = [story for story in told if story.facts.friend and all(part in story.parts for part in parts_of)]
meetings = [(story, " ".join(story.parts[part] for part in parts_of)) for story in meetings]
meetings = [(story, start) for story, start in meetings if story.facts.hero in start and story.facts.friend in start][:12]
fact_batch = tokenizer([tokenizer.eos_token + start for _, start in meetings], padding=True, return_tensors="pt").to(device)
print(meetings[0][1])

temperatures = [0.2, 0.5, 0.8, 1.1, 1.5, 2.0]
faithful, existing, different = [], [], []
for temperature in tqdm(temperatures, desc="writing"):
    rows = write(fact_batch, 50, do_sample=True, temperature=temperature, num_return_sequences=4)
    right, real, own = [], [], []
    for i, (story, _) in enumerate(meetings):
        four = rows[4 * i : 4 * i + 4]
        words = [word for row in four for word in words_of(decode(row))[1:-1]]  # the ends may be parts of words
        named = [word for word in words if word in NAMES]
        right.append(statistics.fmean(word in (story.facts.hero, story.facts.friend) for word in named) if named else math.nan)
        real.append(statistics.fmean(word.lower() in WORDS for word in words) if words else 1.0)
        own.append(statistics.fmean(own_share(four)))
    faithful.append(torch.tensor([share for share in right if share == share]))
    existing.append(torch.tensor(real))
    different.append(torch.tensor(own))

# %%
fig, ax = figure(
    f"From temperature {temperatures[0]} to {temperatures[-1]}: names kept {faithful[0].mean():.0%} to "
    f"{faithful[-1].mean():.0%}, words that exist {existing[0].mean():.0%} to {existing[-1].mean():.0%}",
    "temperature", "share (%)", width=7.5,
)  # fmt: skip
for values, colour, fmt, label in (
    (faithful, COLOURS[0], "o-", "names in the continuation that the prompt holds"),
    (existing, COLOURS[2], "^-.", "words that stand in some story"),
    (different, COLOURS[3], "s--", "4-grams that only one of four continuations holds"),
):
    mean, half = zip(*(band(100 * v) for v in values), strict=True)
    ax.errorbar(temperatures, mean, half, fmt=fmt, color=colour, capsize=4, label=label)
ax.axhline(200 / len(NAMES), color="grey", linestyle=":", label=f"two of {len(NAMES)} names by chance")
ax.set_ylim(0, 105)
ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18))
plt.show()

# %% [markdown]
# (95 % intervals over prompts.) The dashed curve is what warmth buys: texts that differ. The one with triangles is what too much of it
# costs: one bad draw breaks a word, and the model goes on from there. The names depend on the model first: temperature cannot put
# in what was not learnt. Where it is low at 0.2, near chance, the model has not learnt to look the name up, and no setting
# helps; where it begins high, you see from which temperature on it is lost. Facts want it cold, ideas want it warm.
#
# ## A real model
#
# SmolLM2 on one prompt, if it is on this machine (week 1 has fetched it). It is a hundred times larger than the course model,
# and tuned to answer: is it safe from the trap?

# %% tags=["nbval-ignore-output"]
if available():
    smol, smol_tokenizer = smollm2(device=device)
    question = smol_tokenizer("The best thing about rainy days is", return_tensors="pt").to(device)
    smol_settings = {"max_new_tokens": 45, "pad_token_id": smol_tokenizer.eos_token_id}
    for name, settings in (("greedy", {"do_sample": False}), ("top-p 0.9", {"do_sample": True, "top_p": 0.9, "top_k": 0})):
        torch.manual_seed(0)
        text = smol_tokenizer.decode(smol.generate(**question, **smol_settings, **settings)[0])
        print(f"--- SmolLM2, {name}\n{text}\n")
else:
    print("SmolLM2 is not here; `from shared.models import smollm2; smollm2()` fetches it.")

# %% [markdown]
# ## What to read
#
# - **Holtzman et al. 2020.** Figure 1 (beam search's text), figure 2 (human text is not likely), figure 4 (repetition feeds
#   itself). Section 3.1 defines the nucleus. In table 1, which method comes nearest to the human numbers, and in which of them?
# - **GPT-2, 2019.** The samples of the appendix are drawn with top-k 40. With which k was summarisation (section 3.6) done, and why a
#   smaller one?
# - **Li et al. 2022**, section 3: the objective, the constraint with its two reasons (false positives, false negatives), the choice of
#   the amateur. Why should it not be simply the worst model that one can find?
# - **Keskar et al. 2019**, section 4.1: the penalty, in one formula. Find the sign.
# - **"How to generate"**, Hugging Face: you have run all of it. Look for what it says about `no_repeat_ngram_size` and about
#   beam search in open-ended text.
# - **transformers**, [`generation/logits_process.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/generation/logits_process.py):
#   `TopPLogitsWarper` sorts in *ascending* order and keeps what lies above 1 - p; why is that the same as yours? Look at
#   min-p and typical sampling, which are cuts of the same kind.
#   [`generation/utils.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/generation/utils.py):
#   `_check_early_stop_heuristic` is the rule at which your beam search stops; its comment tells when the rule is wrong.
#
# ## Recap
#
# - Temperature, then top-k, then top-p on the rest. The order is part of the meaning.
# - A draw takes all its chance from a generator: the same seed, the same text.
# - A loop for whole texts has to care for ends, padding on the left, the end of the context, and the mode of the model.
# - Beam search looks for likelier text than greedy. Likely text is dull, the same for many prompts; human text is less likely.
# - Contrastive decoding looks for what the expert knows and the amateur does not, among the plausible tokens.
# - Cold keeps what facts the model has, warm has the ideas. Measure both before choosing a setting.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("sampling")

# %%
progress("week2_pretraining")
