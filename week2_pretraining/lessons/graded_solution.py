# %% [markdown]
# # Week 2, solved
#
# Every exercise of the week: the solution, why it is right, and its comparison with the library that people use for it. The
# sampler comes first, then the lessons in their order. Try the lessons first; a solution that you have only read is soon
# forgotten. At the end the grader judges the solutions above, and then your own notebooks.

# %% tags=["nbval-ignore-output"]
import copy
import datasketch
import hashlib
import json
import math
import numpy as np
import os
import re
import tempfile
import time
import torch
import torch.nn.functional as F
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from itertools import combinations
from jaxtyping import Bool, Float, Int
from pathlib import Path
from safetensors.torch import load_file, save_file
from shared.course import work_folder
from shared.data import stories
from shared.grading import grade
from shared.models import course_folder
from shared.runtime import machine
from shared.stories import Dice
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LogitsProcessor, PreTrainedTokenizerFast, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, Trainer, get_cosine_schedule_with_warmup
from transformers.utils import logging
from week1_decoder.solutions.decoder import Block, GPT, GPTConfig, from_gpt2_state_dict, transformer_flops
from week2_pretraining.ranks import Group, simulate
from week2_pretraining.solutions.data import BULLETS, CITATION, ELLIPSES, END_MARKS, FAULTS, HARMLESS, POLICY, STOP_WORDS, count_sentences, dirty_crawl, hash32, random_permutations, shingles
from week2_pretraining.solutions.pretraining import GPT2_OPTIONS, t_quantile
from week2_pretraining.solutions.sampling import check_prompt, check_settings, inference

# %% [markdown]
# ## 05 Sampling

# %%
base = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
base_tokenizer = AutoTokenizer.from_pretrained(course_folder("base"), padding_side="left")
EOS = base_tokenizer.eos_token_id
library_settings = {"do_sample": False, "eos_token_id": EOS, "pad_token_id": EOS}


def base_logits(token_ids, key_mask=None):
    """The course model as a function from token ids to logits, for texts without padding."""
    return base(token_ids).logits


# %% [markdown]
# ### `greedy`
#
# The softmax keeps the order of the logits, so the likeliest token is where the largest logit stands.

# %% tags=["solution"]
from week2_pretraining.solutions.sampling import greedy

# %%
sampling_logits = 4 * torch.randn(500, 200, generator=torch.Generator().manual_seed(0))
print("equal to TopKLogitsWarper(1):", torch.equal(
    greedy(sampling_logits), TopKLogitsWarper(1)(None, sampling_logits).isfinite().nonzero()[:, 1]))

# %% [markdown]
# ### `next_token_probs`
#
# Subtracting the maximum first changes no probability and lets no exponent overflow, at any temperature. A token stays in the
# nucleus if the mass *before* it is below p: so the one that crosses the border stays, and the first always does. The softmax
# after top-k is over what top-k left, so top-p is a share of that.

# %% tags=["solution"]
from week2_pretraining.solutions.sampling import next_token_probs

# %%
differences = []
for temperature, top_k, top_p in ((1.0, 200, 0.9), (0.7, 40, 0.95), (2.0, 10, 0.5), (1.3, 150, 0.05), (0.2, 3, 0.8)):
    scores = TopKLogitsWarper(top_k)(None, TemperatureLogitsWarper(temperature)(None, sampling_logits))
    library = TopPLogitsWarper(top_p)(None, scores).softmax(dim=-1)
    differences.append((next_token_probs(sampling_logits, temperature, top_k, top_p) - library).abs().max().item())
print("transformers' three processors: largest difference below 1e-6:", max(differences) < 1e-6)

# %% [markdown]
# ### `sample_next_token`
#
# `torch.multinomial` draws each row on its own and takes all chance from the generator that it is given. Moving the probabilities to
# the generator's device makes a seed mean the same text on a GPU.

# %% tags=["solution"]
from week2_pretraining.solutions.sampling import sample_next_token

# %%
one_row = sampling_logits[:1, :12] / 4
probs = next_token_probs(one_row, 0.9, 8, 0.97)[0]
draws = sample_next_token(one_row.expand(50_000, -1), 0.9, 8, 0.97, torch.Generator().manual_seed(1))
counts = torch.bincount(draws, minlength=12)
kept = probs > 0
chi_square = ((counts - 50_000 * probs).square() / (50_000 * probs))[kept].sum().item()
print("no token drawn that was cut:", bool((counts[~kept] == 0).all()))
print("chi-square below 40 (at most 7 degrees of freedom, chance of more: 1e-6):", chi_square < 40)

# %% [markdown]
# ### `repetition_penalty`
#
# A table of what was seen, from the real tokens only, makes "once" and "not the padding" true by themselves. Dividing a positive logit and
# multiplying a negative one both make it smaller.

# %% tags=["solution"]
from week2_pretraining.solutions.sampling import repetition_penalty

# %%
seen_ids = torch.randint(0, 200, (500, 30), generator=torch.Generator().manual_seed(2))
library = RepetitionPenaltyLogitsProcessor(1.2)(seen_ids, sampling_logits.clone())
difference = (repetition_penalty(sampling_logits, seen_ids, 1.2) - library).abs().max().item()
print("RepetitionPenaltyLogitsProcessor: largest difference below 1e-6:", difference < 1e-6)

# %% [markdown]
# ### `generate`
#
# An ended row is overwritten with the end of text, whatever was drawn, so it cannot disturb the rest, and the loop ends when
# all have. Only what the model sees is cut to the context; the penalty counts the whole text. The mode of the model and the gradients
# are the business of `inference`, which gives the model back as it was even if something fails.

# %% tags=["solution"]
from week2_pretraining.solutions.sampling import generate

# %%
prompts = base_tokenizer([f"<|endoftext|>{p}" for p in ("One morning,", "Pip was a", "Once, on a windy day, Dora the duck")],
                         padding=True, return_tensors="pt")  # fmt: skip
key_mask = prompts.attention_mask.bool()


def padded_logits(token_ids, key_mask):
    """The course model with padding: transformers wants the mask and the positions."""
    positions = (key_mask.cumsum(dim=1) - 1).clamp(min=0)
    return base(token_ids, attention_mask=key_mask.long(), position_ids=positions).logits


for penalty in (1.0, 1.2):
    library = base.generate(**prompts, max_new_tokens=60, repetition_penalty=penalty, **library_settings)
    ours = generate(padded_logits, prompts.input_ids, 60, temperature=0, penalty=penalty, eos_id=EOS, key_mask=key_mask)
    print(f"penalty {penalty}, ragged prompts: equal to transformers' generate, token for token:", torch.equal(ours, library))

# %% [markdown]
# ### `beam_search`
#
# The totals stay sums, so the next step may add to them; only finished texts are divided by their length. Beginning with a single
# beam avoids n copies of the prompt that would all go the same way. Of the 2n best candidates at most n end with the end of text,
# one for each beam, so n are left to go on with.

# %% tags=["solution"]
from week2_pretraining.solutions.sampling import beam_search

# %%
prompt = base_tokenizer("<|endoftext|>One windy morning, Dora the duck went to the pond", return_tensors="pt").input_ids
for n_beams, length_penalty in ((1, 1.0), (3, 0.0), (4, 1.0), (5, 2.0)):
    library = base.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, num_beams=n_beams,
                            length_penalty=length_penalty, **library_settings)  # fmt: skip
    ours, score = beam_search(base_logits, prompt[0], n_beams, 40, EOS, length_penalty)
    print(f"{n_beams} beams, length penalty {length_penalty}: equal to transformers, token for token:", torch.equal(ours, library[0]))

# %% [markdown]
# ### `contrastive_decode`
#
# With logarithms the ratio is a difference and the share alpha of the maximum a sum; log-softmax stays finite where a
# probability underflows. Only the expert decides what is plausible.

# %% tags=["solution"]
from week2_pretraining.solutions.sampling import contrastive_decode

# %%
class ContrastWithTheLastFour(LogitsProcessor):
    """Li et al.'s score written with probabilities; the amateur is the same model with a context of four tokens."""

    def __call__(self, token_ids, scores):
        p = scores.softmax(dim=-1)
        ratio = p / base(token_ids[:, -4:]).logits[:, -1].softmax(dim=-1)
        return torch.where(p < 0.1 * p.amax(dim=-1, keepdim=True), -math.inf, ratio.log())


def contrast_scores(token_ids):
    return contrastive_decode(base(token_ids).logits[:, -1:], base(token_ids[:, -4:]).logits[:, -1:])


library = base.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40,
                        logits_processor=[ContrastWithTheLastFour()], **library_settings)  # fmt: skip
ours = generate(contrast_scores, prompt, 40, temperature=0, eos_id=EOS)
print("equal to a logits processor in transformers' generate, token for token:", torch.equal(ours, library))

# %% [markdown]
# ## 01 Data

# %%
crawl = dirty_crawl(300)  # pages made of the course's stories, with known faults

# %% [markdown]
# ### `c4_clean`
#
# Page rules first, on the page as it came: code in a line that would be dropped anyway is still code. Then each line on its own.
# Comparisons are made in lower case and whole words, and the line is kept as it was written. The oracle is the paper (section
# 2.2) and what must hold for any right answer: cleaning twice is cleaning once, and no line is invented.

# %% tags=["solution"]
from week2_pretraining.solutions.data import c4_clean

# %%
cleaned = [c4_clean(page.text, {HARMLESS}) for page in crawl]
kept = [(page, text) for page, text in zip(crawl, cleaned, strict=True) if text is not None]


def lines_of(page):
    return {CITATION.sub("", line).strip() for line in page.text.split("\n")}


print("c4_clean: a second cleaning changes nothing:", all(c4_clean(text, {HARMLESS}) == text for _, text in kept))
print("c4_clean: every line that stays was on its page:", all(set(text.split("\n")) <= lines_of(page) for page, text in kept))
for fault in ("none", "placeholder", "code", "blocked word", "foreign"):
    pages = [text for page, text in zip(crawl, cleaned, strict=True) if page.fault == fault]
    print(f"c4_clean: pages dropped of the kind {fault!r}: {sum(text is None for text in pages)} of {len(pages)}")

# %% [markdown]
# ### `gopher_quality`
#
# A dictionary of verdicts keeps the order of the rules, and no rule hides another. The limits are `more than` and `fewer than`, so
# a page on the border stays; the stop words are counted as a set, because the same word twice says nothing about English.

# %% tags=["solution"]
from week2_pretraining.solutions.data import gopher_quality

# %%
for fault in ("none", "foreign", "spam", "numbers"):
    rules = {rule for page, text in kept if page.fault == fault for rule in gopher_quality(text)}
    print(f"gopher_quality: rules that pages of the kind {fault!r} break: {sorted(rules - {'word count'})}")
ten_words = "The owl went to the wood with a small lamp."
print("gopher_quality: 50 words:", gopher_quality(" ".join([ten_words] * 5)), " 40 words:", gopher_quality(" ".join([ten_words] * 4)))

# %% [markdown]
# ### `minhash_signature`
#
# A column of hashes times a row of multipliers gives all permutations of all items at once. int64 products wrap around at 2⁶⁴, a
# multiple of 2³², so the remainder is right all the same. The minimum of a set is the minimum over its items in any order, and each
# place of the signature agrees for two sets with probability |A ∩ B| / |A ∪ B|.

# %% tags=["solution"]
from week2_pretraining.solutions.data import minhash_signature

# %%
a, b = random_permutations(112, torch.Generator().manual_seed(0))


def their_minhash(items):
    minhash = datasketch.MinHash(num_perm=112, permutations=(a.tolist(), b.tolist()), scheme="affine32")
    minhash.update_batch([item.encode() for item in items])
    return minhash


sets = [shingles(text) for _, text in kept]
signatures = torch.stack([minhash_signature(items, a, b) for items in sets])
minhashes = [their_minhash(items) for items in sets]
equal = [ours.tolist() == theirs.hashvalues.tolist() for ours, theirs in zip(signatures, minhashes, strict=True)]
print("minhash_signature: equal to datasketch's in all numbers:", all(equal))
names = [f"item {i}" for i in range(300)]
many = random_permutations(4096, torch.Generator().manual_seed(1))
share = (minhash_signature(names[:200], *many) == minhash_signature(names[100:], *many)).float().mean().item()
print("minhash_signature: a Jaccard similarity of 1/3 is met within 4 standard errors:", abs(share - 1 / 3) < 4 * math.sqrt(2 / 9 / 4096))

# %% [markdown]
# ### `lsh_candidates`
#
# Each band has buckets of its own: a band of one page must not meet another band of the next. Pairs go into a set, for two copies
# share many bands. The work is proportional to the pages and to the pairs found, not to all pairs.

# %% tags=["solution"]
from week2_pretraining.solutions.data import lsh_candidates

# %%
for bands in (28, 14, 7):
    lsh = datasketch.MinHashLSH(num_perm=112, params=(bands, 112 // bands))
    for i, minhash in enumerate(minhashes):
        lsh.insert(i, minhash)
    theirs = sorted((j, i) for i, minhash in enumerate(minhashes) for j in lsh.query(minhash) if j < i)
    print(f"lsh_candidates: {bands} bands, equal to datasketch.MinHashLSH:", lsh_candidates(signatures, bands) == theirs)

# %% [markdown]
# ### `chunk_tokens`
#
# Pieces begin `context_length - overlap` apart. The loop stops when a piece reaches the end: one more would lie inside it.

# %% tags=["solution"]
from week2_pretraining.solutions.data import chunk_tokens

# %%
numbers = Tokenizer(WordLevel({str(i): i for i in range(100)}, unk_token="0"))
numbers.pre_tokenizer = Whitespace()
for context_length, overlap in ((8, 0), (8, 3), (8, 7), (200, 5)):
    numbers.enable_truncation(context_length, stride=overlap)
    encoding = numbers.encode(" ".join(map(str, range(100))))
    theirs = [encoding.ids, *(part.ids for part in encoding.overflowing)]
    equal = chunk_tokens(list(range(100)), context_length, overlap) == theirs
    print(f"chunk_tokens: {context_length} tokens, overlap {overlap}: equal to the overflowing tokens of tokenizers:", equal)

# %% [markdown]
# ### `pack_documents`
#
# Two lists run in step, tokens and their documents, and both are cut into rows. Everything else follows from the document numbers: a
# position counts from the column where the number last changed (`cummax`), and a query may look at keys with the same number that
# are not after it.

# %% tags=["solution"]
from week2_pretraining.solutions.data import pack_documents

# %%
row = pack_documents([[1] * 20, [2] * 33, [3] * 8], 64, 0)
q, k, v = torch.randn(3, 1, 2, 64, 16, generator=torch.Generator().manual_seed(2))
together = F.scaled_dot_product_attention(q, k, v, attn_mask=row["mask"])
changed = F.scaled_dot_product_attention(q, torch.cat([k[:, :, :21] + 1, k[:, :, 21:]], dim=2), v, attn_mask=row["mask"])
leaky = F.scaled_dot_product_attention(q, torch.cat([k[:, :, :21] + 1, k[:, :, 21:]], dim=2), v, is_causal=True)
causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
largest = 0.0
for i in range(3):
    own = (row["document_ids"][0] == i).nonzero().flatten()
    alone = F.scaled_dot_product_attention(q[:, :, own], k[:, :, own], v[:, :, own], is_causal=True)
    largest = max(largest, (together[:, :, own] - alone).abs().max().item())
print("pack_documents: packed attention and each document alone, difference below 1e-5:", largest < 1e-5)
second = slice(21, 55)
print("pack_documents: another first document moves the second:", not torch.allclose(together[:, :, second], changed[:, :, second], atol=1e-6))
print("pack_documents: and it does with a causal mask alone:", not torch.allclose(causal[:, :, second], leaky[:, :, second], atol=1e-3))

# %% [markdown]
# ### `get_batch`
#
# A column of beginnings plus a row of offsets is a table of places. `randint` leaves its upper end out, so `n_tokens -
# context_length` admits just the last beginning whose targets still fit.

# %% tags=["solution"]
from week2_pretraining.solutions.data import get_batch

# %%
token_ids = torch.randperm(300, generator=torch.Generator().manual_seed(3))[:40]
windows = torch.cat(list(DataLoader(token_ids.unfold(0, 7, 1), batch_size=10)))
inputs, targets = get_batch(token_ids, 34_000, 6, torch.Generator().manual_seed(4))
rows = torch.cat([inputs, targets[:, -1:]], dim=1)
place = (rows[:, None, 0] == windows[None, :, 0]).long().argmax(dim=1)
counts = torch.bincount(place, minlength=34)
print("get_batch: every row is a window of a DataLoader over all windows:", torch.equal(rows, windows[place]))
print("get_batch: targets are the inputs, one token later:", torch.equal(inputs[:, 1:], targets[:, :-1]))
print("get_batch: all 34 windows come, each within 6 standard errors of 1,000:", bool((counts - 1000).abs().max() < 6 * math.sqrt(1000)))

# %% [markdown]
# ## 02 Optimization

# %%
logging.set_verbosity_error()  # no remarks on how small these models are
little = GPTConfig(vocab_size=61, context_length=16, d_model=24, n_heads=3, n_layers=2)


def little_gpt(seed: int = 0) -> GPT:
    return GPT(little, generator=torch.Generator().manual_seed(seed))


def little_batch(generator: torch.Generator, rows: int = 3) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, 61, (rows, 17), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def little_loss(model: nn.Module, token_ids: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten())


def weight_difference(a: nn.Module, b: nn.Module) -> float:
    return max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


def gradient_difference(a: nn.Module, b: nn.Module) -> float:
    return max((p.grad - q.grad).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


# %% [markdown]
# ### `adamw_step`
#
# Both moments start at zero and are divided by the sum of the weights that they have seen, $1 - \beta^t$, with the parameter's own
# count of steps. The decay multiplies the old value and never enters m or v: that is the difference from L2 in the gradient.
# What has no gradient is passed over before anything is touched, so neither decay nor count happens to it.

# %% tags=["solution"]
from week2_pretraining.solutions.optimization import adamw_step

# %%
ours, theirs = little_gpt().double(), little_gpt().double()
settings = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
optimizer = torch.optim.AdamW(theirs.parameters(), **settings)
parameters = list(ours.parameters())
state = [{} for _ in parameters]
generator = torch.Generator().manual_seed(1)
for _ in range(100):
    batch = little_batch(generator)
    for model in (ours, theirs):
        model.zero_grad()
        little_loss(model, *batch).backward()
    adamw_step(parameters, state, **settings)
    optimizer.step()
print("adamw_step: torch.optim.AdamW, 100 steps of a GPT, weights differ by less than 1e-7:", weight_difference(ours, theirs) < 1e-7)
one = nn.Parameter(torch.zeros(2))
one.grad = torch.tensor([1000.0, -0.001])
adamw_step([one], [{}], lr=0.1)
print("adamw_step: first step with gradients 1000 and -0.001:", [round(x, 3) for x in one.tolist()])

# %% [markdown]
# ### `warmup_cosine_lr`
#
# Three cases, with step + 1 in the warmup so that the first batch teaches something. The cosine is measured from the end of the
# warmup to the end of the run and put between max_lr and min_lr. After the end it stays down, where PyTorch's periodic cosine would rise.

# %% tags=["solution"]
from week2_pretraining.solutions.optimization import warmup_cosine_lr

# %%
def rates_of(make, n_steps: int = 61) -> Tensor:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler, rates = make(optimizer), []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


def in_sequence(optimizer):
    rise = LinearLR(optimizer, start_factor=1 / 10, total_iters=9)
    return SequentialLR(optimizer, [rise, CosineAnnealingLR(optimizer, T_max=50)], milestones=[10])


rates = torch.tensor([warmup_cosine_lr(step, 1e-3, 10, 60) for step in range(61)], dtype=torch.float64)
hugging_face = rates_of(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 10, 60))
print("warmup_cosine_lr: LinearLR then CosineAnnealingLR, difference below 1e-12:", bool((rates - rates_of(in_sequence)).abs().max() < 1e-12))
print("warmup_cosine_lr: transformers from the end of the warmup, difference below 1e-12:", bool((rates - hugging_face)[10:].abs().max() < 1e-12))
print("warmup_cosine_lr: transformers' warmup is one step late:", bool((rates[:9] - hugging_face[1:10]).abs().max() < 1e-12), "and its first rate is", hugging_face[0].item())
print("warmup_cosine_lr: 4 warmup steps of 8:", [round(warmup_cosine_lr(step, 1.0, 4, 8), 2) for step in range(9)])

# %% [markdown]
# ### `clip_grad_norm`
#
# One norm over all gradients and one factor for all of them keep the direction. The gradients are collected into a list first, because
# a generator of parameters can be walked through only once. Short gradients are left alone by the clamp at 1.

# %% tags=["solution"]
from week2_pretraining.solutions.optimization import clip_grad_norm

# %%
for max_norm in (0.1, 1e6):
    ours, theirs = little_gpt(), little_gpt()
    for model in (ours, theirs):
        little_loss(model, *little_batch(torch.Generator().manual_seed(2))).backward()
    a, b = clip_grad_norm(ours.parameters(), max_norm), torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    same = gradient_difference(ours, theirs) < 1e-7
    print(f"clip_grad_norm: max_norm {max_norm:g}: norm within 1e-5 of torch's: {abs(a - b).item() < 1e-5}, gradients within 1e-7: {same}")

# %% [markdown]
# ### `parameter_groups`
#
# `model.parameters()` gives a shared parameter once, and a parameter without gradient is left out. The number of axes tells matrices
# and embeddings from biases, norms and single numbers, whatever their names.

# %% tags=["solution"]
from week2_pretraining.solutions.optimization import parameter_groups

# %%
gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=16, n_embd=24, n_layer=2, n_head=3))
decayed, spared = parameter_groups(gpt2, 0.1)
names = {id(p): name for name, p in gpt2.named_parameters()}
of_trainer = set(Trainer.get_decay_parameter_names(None, gpt2)) & set(names.values())
print("parameter_groups: what decays equals the Trainer's choice:", {names[id(p)] for p in decayed["params"]} == of_trainer)
print("parameter_groups: tensors decayed and spared:", len(decayed["params"]), len(spared["params"]))

# %% [markdown]
# ### `accumulate_gradients`
#
# The mean of the large batch is a sum of parts, each the summed loss of its targets over the number of targets in *all* parts. Backward
# runs at once for each part, so only one graph is alive.

# %% tags=["solution"]
from week2_pretraining.solutions.optimization import accumulate_gradients

# %%
token_ids, targets = little_batch(torch.Generator().manual_seed(3), rows=6)
counted = torch.tensor([16, 1, 3, 2, 0, 9])
targets = targets.masked_fill(torch.arange(16) >= counted[:, None], -100)
large, in_parts, of_means = little_gpt(), little_gpt(), little_gpt()
large_loss = little_loss(large, token_ids, targets)
large_loss.backward()
parts = list(zip(token_ids.split(2), targets.split(2), strict=True))
accumulated_loss = accumulate_gradients(in_parts, parts)
for part in parts:
    (little_loss(of_means, *part) / len(parts)).backward()
print("accumulate_gradients: loss of the large batch, difference below 1e-6:", abs(large_loss.item() - accumulated_loss) < 1e-6)
print("accumulate_gradients: its gradients, difference below 1e-6:", gradient_difference(large, in_parts) < 1e-6)
print("accumulate_gradients: the mean of means differs by more than 1e-3:", gradient_difference(large, of_means) > 1e-3)

# %% [markdown]
# ### `LossScaler`
#
# `finite` is None until the gradients have been divided, so they are divided once whether or not the caller did it before clipping. Every
# gradient is looked at, for inf and nan alike. Any overflow restarts the count of good steps; the scale changes in `update` only,
# after the step. As buffers, scale and count travel with the checkpoint.

# %% tags=["solution"]
from week2_pretraining.solutions.optimization import LossScaler

# %%
settings = {"init_scale": 2.0**30, "growth_interval": 3}
ours, theirs = little_gpt(), little_gpt()
our_optimizer, their_optimizer = (torch.optim.AdamW(model.parameters(), lr=1e-3) for model in (ours, theirs))
scaler, grad_scaler = LossScaler(**settings), torch.amp.GradScaler("cpu", **settings)
generator, equal = torch.Generator().manual_seed(4), []
for _ in range(20):
    batch = little_batch(generator)
    for model, optimizer, scale in ((ours, our_optimizer, scaler), (theirs, their_optimizer, grad_scaler.scale)):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = little_loss(model, *batch)
        scale(loss).backward()
    scaler.step(our_optimizer)
    grad_scaler.step(their_optimizer)
    scaler.update()
    grad_scaler.update()
    equal.append(scaler.scale.item() == grad_scaler.get_scale())
print("LossScaler: torch.amp.GradScaler, 20 steps in float16: scales equal:", all(equal))
print("LossScaler: it backed off:", scaler.scale.item() < 2.0**30, "and weights differ by less than 1e-6:", weight_difference(ours, theirs) < 1e-6)

# %% [markdown]
# ### `checkpointed_forward`
#
# The forward pass of an autograd Function records nothing, so only what `save_for_backward` gets is kept: x, and the parameters, which are kept
# anyway. Backward runs the block again from a detached x, with the old random state in a fork, and differentiates that. The
# parameters are arguments, so the output depends on them even where x needs no gradient.

# %% tags=["solution"]
from week2_pretraining.solutions.optimization import checkpointed_forward

# %%
torch.manual_seed(0)
blocks = nn.ModuleList([Block(little), nn.Dropout(0.5), Block(little)])
x = torch.randn(2, 7, 24, requires_grad=True)
gradients = {}
for name, way in {
    "plain": lambda block, x: block(x),
    "ours": checkpointed_forward,
    "torch": lambda block, x: checkpoint(block, x, use_reentrant=False),
}.items():
    torch.manual_seed(1)
    h = x
    for block in blocks:
        h = way(block, h)
    gradients[name] = torch.autograd.grad(h.square().sum(), [x, *blocks.parameters()])
for other in ("plain", "torch"):
    close = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(gradients["ours"], gradients[other], strict=True))
    print(f"checkpointed_forward: gradients of x and all parameters equal to {other}: {close}")

# %% [markdown]
# ## 03 Pretraining

# %%
tiny = GPTConfig(vocab_size=61, context_length=32, d_model=32, n_heads=4, n_layers=2)
tiny_gpt = GPT(tiny, torch.Generator().manual_seed(0))

# %% [markdown]
# ### `evaluate_loss`
#
# Nats are added up, and divided once by the number of counted targets: so a short last batch weighs what it should. `finally`
# gives the model its mode back even where it raises.

# %% tags=["solution"]
from week2_pretraining.solutions.pretraining import evaluate_loss

# %%
generator = torch.Generator().manual_seed(1)
token_ids, targets = torch.randint(61, (2, 7, 12), generator=generator)
targets[0, 3:] = -100
parts = list(zip(token_ids.split([4, 3]), targets.split([4, 3]), strict=True))
with torch.no_grad():
    whole = F.cross_entropy(tiny_gpt(token_ids).flatten(0, 1), targets.flatten()).item()
print("two unequal batches: equal to F.cross_entropy of the whole to 1e-6:", abs(evaluate_loss(tiny_gpt, parts) - whole) < 1e-6)

# %% [markdown]
# ### `model_flops_utilization`
#
# Backward computes two products for each one of forward, so a step costs three forward passes. Work that is done twice, as in
# gradient checkpointing, does not count: the model got nothing from it.

# %% tags=["solution"]
from week2_pretraining.solutions.pretraining import model_flops_utilization

# %%
ids = torch.randint(61, (1, 32), generator=generator)
with FlopCounterMode(display=False) as counter:
    tiny_gpt(ids).sum().backward()
per_token = counter.get_total_flops() / 32
mfu = model_flops_utilization(tiny, tokens_per_second=1000.0, peak_flops_per_second=1e9)
print("MFU from PyTorch's FLOP counter, within 5 %:", abs(mfu / (1000.0 * per_token / 1e9) - 1) < 0.05)

# %% [markdown]
# ### `save_checkpoint` and `load_checkpoint`
#
# What decides the next step is saved: weights, the optimizer's moments and counters, the state of the random numbers, the step. The file is
# written beside the old one and renamed when it is whole. Loading looks at everything before it changes anything.

# %% tags=["solution"]
from week2_pretraining.solutions.pretraining import save_checkpoint

# %% tags=["solution"]
from week2_pretraining.solutions.pretraining import load_checkpoint

# %%
def steps(model, optimizer, generator, n):
    losses = []
    for _ in range(n):
        ids = torch.randint(61, (4, 16), generator=generator)
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fresh():
    model = GPT(tiny, torch.Generator().manual_seed(2))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2), torch.Generator().manual_seed(3)


with tempfile.TemporaryDirectory() as folder:
    run = fresh()
    steps(*run, 3)
    save_checkpoint(Path(folder) / "run.pt", *run, 3, tiny)
    uninterrupted = steps(*run, 3)
    again = fresh()
    first_step = load_checkpoint(Path(folder) / "run.pt", *again, tiny)
    print(f"resumed at step {first_step}: the same losses to the last digit:", steps(*again, 3) == uninterrupted)
    (Path(folder) / "run.pt").write_bytes((Path(folder) / "run.pt").read_bytes()[:5000])
    try:
        load_checkpoint(Path(folder) / "run.pt", *again, tiny)
    except ValueError as error:
        print("a file that is cut off:", str(error).split("run.pt ")[1])

# %% [markdown]
# ### `fit_power_law`
#
# A power law is a straight line in logarithms. The interval comes from what the line leaves over, with Student's t, because there are
# few points.

# %% tags=["solution"]
from week2_pretraining.solutions.pretraining import fit_power_law

# %%
sizes = [1e4, 3e4, 1e5, 3e5, 1e6]
measured = [(8.8e13 / n) ** 0.076 * f for n, f in zip(sizes, (1.01, 0.99, 1.0, 1.01, 0.99), strict=True)]
exponent, constant, (low, high) = fit_power_law(sizes, measured)
slope, intercept = np.polyfit(np.log(sizes), np.log(measured), 1)
print("equal to numpy.polyfit to 1e-9:", abs(exponent + slope) < 1e-9)
print("the true exponent 0.076 is in the interval:", low < 0.076 < high)

# %% [markdown]
# ### `chinchilla_optimal`
#
# Two equations, C = 6 N D and D = 20 N, give N = √(C / 120).

# %% tags=["solution"]
from week2_pretraining.solutions.pretraining import chinchilla_optimal

# %%
parameters, tokens = chinchilla_optimal(5.76e23)
print(f"with Gopher's budget: {parameters / 1e9:.0f} billion parameters on {tokens / 1e12:.1f} trillion tokens")

# %% [markdown]
# ### `to_gpt2_state_dict`
#
# Each name is taken out of a copy as it is used, so whatever is left at the end was not GPT-2's.

# %% tags=["solution"]
from week2_pretraining.solutions.pretraining import to_gpt2_state_dict

# %%
theirs = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=32, n_embd=32, n_head=4, n_layer=2)).eval()
theirs.load_state_dict(to_gpt2_state_dict(tiny_gpt.state_dict(), tiny))
with torch.no_grad():
    difference = (theirs(ids).logits - tiny_gpt(ids)).abs().max().item()
back = from_gpt2_state_dict(to_gpt2_state_dict(tiny_gpt.state_dict(), tiny), tiny)
print("transformers gives the same logits to 1e-4:", difference < 1e-4)
print("there and back again: equal:", all(torch.equal(back[name], value) for name, value in tiny_gpt.state_dict().items()))

# %% [markdown]
# ## 04 Parallelism
#
# Ranks are simulated here, as in the checks: threads of one process that take turns. `tests/test_parallelism.py` runs the
# same functions on two real processes, beside DistributedDataParallel, ZeroRedundancyOptimizer, FSDP2 and torch's own tensor
# parallelism.

# %% [markdown]
# **training_memory.** Each stage divides one more of the three parts by the number of devices; `if stage >= k else 1` says that
# in one place for each part. The numbers are those of figure 1 of the ZeRO paper.

# %% tags=["solution"]
from week2_pretraining.solutions.parallelism import training_memory

# %%
for stage, paper in enumerate((120, 31.4, 16.6, 1.9)):
    gigabytes = training_memory(7.5e9, stage, 64)["total"] / 1e9
    print(f"stage {stage}: {gigabytes:6.2f} GB, as in the paper ({paper}): {round(gigabytes, 1) == paper}")

# %% [markdown]
# **average_gradients.** The gradient of a mean over all targets is the mean of the ranks' gradients *weighted by their targets*.
# Every rank makes the same calls, also where it has no gradient: a rank that skipped a parameter would leave the others
# waiting.

# %% tags=["solution"]
from week2_pretraining.solutions.parallelism import average_gradients

# %%
generator = torch.Generator().manual_seed(0)
inputs, labels = torch.randn(8, 5, generator=generator), torch.randint(0, 3, (8,), generator=generator)
whole = nn.Parameter(torch.zeros(3, 5))
F.cross_entropy(F.linear(inputs, whole), labels).backward()


def unequal_batches(group):
    x, y = inputs.split([5, 1, 2])[group.rank], labels.split([5, 1, 2])[group.rank]
    weight = nn.Parameter(torch.zeros(3, 5))
    F.cross_entropy(F.linear(x, weight), y).backward()
    average_gradients([weight], group, n_targets=len(y))
    return weight.grad


worst = max((gradient - whole.grad).abs().max().item() for gradient in simulate(unequal_batches, 3))
print("ranks with 5, 1 and 2 targets: difference from F.cross_entropy on all 8 below 1e-6:", worst < 1e-6)

# %% [markdown]
# **shard_optimizer_state.** AdamW works on each number alone, so it does not matter which rank does it: the result is
# *equal* to one process. Sorting by size first keeps the parts within one tensor of each other. The hook after the step
# is a sequence of broadcasts, the same on every rank.

# %% tags=["solution"]
from week2_pretraining.solutions.parallelism import shard_optimizer_state

# %%
def five_steps(make_optimizer):
    generator = torch.Generator().manual_seed(1)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((40, 3), (7,), (20, 5), (50,))]
    optimizer = make_optimizer(parameters)
    for _ in range(5):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in parameters]), sum(s["exp_avg"].numel() for s in optimizer.state.values())


options = {"lr": 0.1, "weight_decay": 0.3}
expected, all_elements = five_steps(lambda parameters: torch.optim.AdamW(parameters, **options))
for n in (1, 2, 3):
    results = simulate(lambda group: five_steps(lambda ps: shard_optimizer_state(ps, group, **options)[0]), n)
    same = all(torch.equal(parameters, expected) for parameters, _ in results)
    print(f"{n} ranks keep {[elements for _, elements in results]} of {all_elements} first moments; equal to torch's AdamW: {same}")

# %% [markdown]
# **column_parallel_linear.** Forward, each rank computes some output features of the whole x, and nothing is exchanged. Backward,
# the gradient of x is the sum of what comes back through all features, so the operator $f$ is an all-reduce there.

# %% tags=["solution"]
from week2_pretraining.solutions.parallelism import column_parallel_linear

# %% [markdown]
# **row_parallel_linear.** The mirror image: each rank has a part of a sum, the operator $g$ finishes it forward, and backward
# every part gets the gradient of the sum. The bias comes after the sum, once.

# %% tags=["solution"]
from week2_pretraining.solutions.parallelism import row_parallel_linear

# %%
mlp = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 10))
with torch.no_grad():
    for p in mlp.parameters():
        p.copy_(torch.randn(p.shape, generator=generator))
x = torch.randn(3, 6, generator=generator, requires_grad=True)
mlp(x).square().sum().backward()
expected = [mlp(x), x.grad, mlp[0].weight.grad, mlp[0].bias.grad, mlp[2].weight.grad, mlp[2].bias.grad]


def own(tensor, dim, group):
    return tensor.detach().chunk(group.size, dim)[group.rank].clone().requires_grad_()


def sharded(group):
    inputs, b_out = x.detach().clone().requires_grad_(), mlp[2].bias.detach().clone().requires_grad_()
    w_in, b_in, w_out = own(mlp[0].weight, 0, group), own(mlp[0].bias, 0, group), own(mlp[2].weight, 1, group)
    hidden = F.gelu(column_parallel_linear(inputs, w_in, b_in, group))
    y = row_parallel_linear(hidden, w_out, b_out, group)
    y.square().sum().backward()
    calls = list(group.calls)
    pieces = [torch.cat(group.all_gather(t.grad), dim) for t, dim in ((w_in, 0), (b_in, 0), (w_out, 1))]
    return [y, inputs.grad, *pieces, b_out.grad], calls


for n in (1, 2, 4):
    results = simulate(sharded, n)
    worst = max(((a - b).abs().max() / b.abs().max()).item() for got, _ in results for a, b in zip(got, expected, strict=True))
    print(f"{n} ranks: output and all gradients equal nn.Linear's to 3e-6: {worst < 3e-6}; exchanges: {results[0][1]}")

# %% [markdown]
# ## 06 Speedrun

# %% [markdown]
# ### `trapezoid_lr`
#
# The three pieces meet at their ends: the last warm-up step has just reached max_lr, and the line down starts from max_lr. What
# is left is counted and not what is done, so the end is 0 steps left, and after the end it stays 0.

# %% tags=["solution"]
from week2_pretraining.solutions.speedrun import trapezoid_lr

# %%
optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
linear = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=50)
largest = 0.0
for step in range(60):
    largest = max(largest, abs(trapezoid_lr(step, 0.3, 0, 50, 50, 0.03) - optimizer.param_groups[0]["lr"]))
    optimizer.step()
    linear.step()
print("all steps on the way down: equal to torch.optim.lr_scheduler.LinearLR to 1e-9:", largest < 1e-9)

# %% [markdown]
# ### `rms_norm`
#
# The mean of squares of each vector goes to 1, so its length to the root of its width. eps stands inside the root, where it keeps
# a vector of zeros at zero and is felt only by very short ones.

# %% tags=["solution"]
from week2_pretraining.solutions.speedrun import rms_norm

# %%
x = torch.randn(2, 4, 64, 32, generator=torch.Generator().manual_seed(0))
difference = (rms_norm(x) - F.rms_norm(x, (32,), eps=1e-6)).abs().max()
print("largest difference from F.rms_norm below 1e-5:", bool(difference < 1e-5))

# %% [markdown]
# ### `orthogonalize`
#
# A polynomial of odd powers of a matrix acts on its singular values and leaves the vectors as they are. The norm of each matrix is
# at least its largest singular value, so after the division all of them lie in the interval where the quintic is tame. A
# tall matrix is worked on lying, so that X Xᵀ is the smaller of the two products.

# %% tags=["solution"]
from week2_pretraining.solutions.speedrun import orthogonalize

# %%
matrix = torch.randn(256, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
turned = u.T @ orthogonalize(matrix) @ vt.T  # diagonal, if the directions are the same
values = turned.diagonal()
print("the singular vectors are those of torch.linalg.svd:", bool((turned - values.diag()).abs().max() < 1e-9))
print("the singular values are between 0.65 and 1.25:", bool(values.min() > 0.65 and values.max() < 1.25))

# %% [markdown]
# ### `muon_step`
#
# `lerp` is the weighted mean of both lines. The decay multiplies the weights and never meets the buffer, as in AdamW.
# torch's Muon orthogonalizes in bfloat16; the rest is the same, so the two ways stay together to about a hundredth.

# %% tags=["solution"]
from week2_pretraining.solutions.speedrun import muon_step

# %%
generator = torch.Generator().manual_seed(2)
first = torch.randn(48, 16, generator=generator)
weights, buffer, parameter = first, torch.zeros_like(first), nn.Parameter(first.clone())
muon = torch.optim.Muon([parameter], lr=0.02, momentum=0.95, weight_decay=0.1)
for _ in range(20):
    gradient = torch.randn(48, 16, generator=generator)
    weights, buffer = muon_step(weights, gradient, buffer, 0.02, 0.95, 0.1)
    parameter.grad = gradient.clone()
    muon.step()
apart = (weights - parameter.detach()).norm() / (weights - first).norm()
print("20 steps differ from torch.optim.Muon by less than 5 % of the way:", bool(apart < 0.05))

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
grade("week2_pretraining")
