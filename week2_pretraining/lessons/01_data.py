# %% [markdown]
# # Data
#
# Nobody writes the text that a language model learns from. It is collected: from the web, from books, from code. Most of
# what a crawler brings home is not text at all but menus, cookie notices, error messages and the same page once again.
# What is thrown away, what is kept, and how the rest is cut into rows decides more about a model than most things in its
# architecture. It is also the part that papers describe in half a page.
#
# In this lesson you clean a small web crawl whose faults are *known*, because we put them there: so each rule of the famous
# pipelines can be marked right or wrong. Then you turn what is left into rows of tokens and batches, which the rest of the
# week trains on.
#
# Reading and writing: about two and a half hours. Papers: Raffel et al. 2020 (T5 and C4,
# [arXiv:1910.10683](https://arxiv.org/abs/1910.10683)), section 2.2; Rae et al. 2021 (Gopher,
# [arXiv:2112.11446](https://arxiv.org/abs/2112.11446)), appendix A.1; Lee et al. 2021
# ([arXiv:2107.06499](https://arxiv.org/abs/2107.06499)); Gao et al. 2020 (The Pile,
# [arXiv:2101.00027](https://arxiv.org/abs/2101.00027)).

# %%
import gzip
import hashlib
import json
import math
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import datasketch
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from shared import borrow, check, explore, hint, mine, progress
from shared.data import hub_texts, stories
from shared.models import course_folder
from shared.plotting import COLOURS, HATCHES, figure
from shared.runtime import hub_reachable

logging.set_verbosity_error()  # no remark that a whole book is longer than the model's context
logging.disable_progress_bar()

# %% [markdown]
# ## Where the text comes from
#
# | corpus | what it is | size | how it was cleaned | licence | known problems |
# |---|---|---|---|---|---|
# | **Common Crawl** | an archive of the web, a new crawl every month or two | about 20 TB of extracted text a month (Raffel 2020, 2.2); the part that GPT-3 began with: 45 TB compressed, 570 GB after filtering (Brown 2020, 2.2) | not at all | terms of use; every page keeps its own copyright | "the majority of the resulting text is not natural language" (Raffel 2020, 2.2) |
# | **C4** | Common Crawl of April 2019, English | 745 GB, 6.1 TB unfiltered (Raffel 2020, table 8); 365 million pages, 156 billion tokens (Dodge 2021, table 1) | the rules that you write below; three-sentence spans only once; langdetect ≥ 0.99 | ODC-BY for the collection | the block list drops 42 % of pages in African American English and 32 % in Hispanic-aligned English, but 6.2 % in White American English (Dodge 2021, 5); test sets of benchmarks are in it; one 61-word sentence came over 60,000 times (Lee 2021) |
# | **The Pile** | 22 sources: papers, code, books, forums, 18 % Common Crawl | 825 GiB; some sources are read up to three times, which makes 1,254 GiB (Gao 2020, table 1) | each source in its own way; the Common Crawl part extracted anew, filtered by a classifier, near-duplicates removed by MinHash | none for the whole | Books3 (101 GiB of it) came from a piracy site, and was taken down in 2023 |
# | **BookCorpus** | novels that were free on one website | 11,038 books, 74 million sentences, 985 million words (Zhu 2015) | books over 20,000 words | none: the authors' copyright | only 7,185 of them are different books; romance is over-represented; many forbid copying (Bandy & Vincent 2021) |
# | **FineWeb** | 96 crawls of Common Crawl, English | 15 trillion tokens (Penedo 2024) | address lists, language, C4's and Gopher's rules, own rules, MinHash within each crawl | ODC-BY for the collection | what web text has: personal data, spam that reads well, the biases of its writers |
#
# GPT-1 learned from BookCorpus, BERT from it and Wikipedia, T5 from C4, GPT-Neo and Pythia from The Pile. Corpora of this
# size are *streamed*: a row is fetched when it is asked for, and nothing is downloaded as a whole. C4's rows have three
# columns, as in this little file, with which the cell runs without a network too:

# %%
rows = [
    {"text": "Beginners BBQ Class Today!\nWe cook outside.", "timestamp": "2019-04-25T12:57:54Z", "url": "https://a.example/1"},
    {"text": "The owl sat in the tree. It was asleep.", "timestamp": "2019-04-21T10:07:13Z", "url": "https://b.example/2"},
]
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "c4-train.00000-of-01024.json.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    for text in hub_texts("c4", data_files=str(path)):
        print(repr(text))

# %% tags=["nbval-ignore-output"]
if hub_reachable():
    for name in ("c4", "tinystories", "wikitext"):
        print(name, "|", next(hub_texts(name))[:200].replace("\n", " / "))
else:
    print("The hub cannot be reached from here. With a network this cell shows the first page of C4, TinyStories and wikitext.")

# %% [markdown]
# ## The course's own text
#
# Everything below is made of the course's stories: short, plain, about one small world, and each with its facts.

# %%
story = stories(1, seed=7)[0]
print(story.text, "\n")
print({name: value for name, value in vars(story.facts).items() if value is not None})

# %% [markdown]
# How much language is in them? Count *tokens* (running words) and *types* (different words). In ordinary text the types grow
# with about the square root of the tokens, which is called Heaps' law. For newswire (RCV1), Manning, Raghavan and Schütze
# give $44\,T^{0.49}$ types in $T$ tokens (*Introduction to Information Retrieval*, section 5.1.1).
#
# **Predict.** In the first 80,000 words of newswire there are about 11,000 different ones. And in the stories?

# %%
checkpoints = torch.logspace(2, math.log10(80_000), 12).long().tolist()
curves, texts, triples = [], [], {"train": set(), "validation": set()}
for seed in tqdm(range(5), desc="five draws of stories"):
    told = stories(1000, seed=seed)
    texts += [story.text for story in told]
    words = re.findall(r"[a-z']+", " ".join(story.text for story in told).lower())
    first_seen = {}
    for place, word in enumerate(words):
        first_seen.setdefault(word, place)
    assert len(words) >= checkpoints[-1]
    curves.append([sum(place < n for place in first_seen.values()) for n in checkpoints])
for split, found in triples.items():
    found |= {(s.facts.hero, s.facts.thing, s.facts.place) for s in stories(1000, split=split)}
curves = torch.tensor(curves).float()

n_types = curves[:, -1].mean()
fig, ax = figure(
    f"{checkpoints[-1]:,} words of stories have {n_types:.0f} different ones, newswire {44 * checkpoints[-1] ** 0.49:,.0f}",
    "running words (tokens)",
    "different words (types)",
)
ax.errorbar(checkpoints, curves.mean(0), 1.96 * curves.std(0), fmt="o-", color=COLOURS[0], capsize=3, label="stories, ±1.96 s.d. over draws")
ax.plot(checkpoints, [44 * n**0.49 for n in checkpoints], "--", color=COLOURS[3], label="newswire, 44 T^0.49")
ax.set(xscale="log", yscale="log")
ax.legend(frameon=False)
plt.show()
print(f"{len(set(texts)):,} of {len(texts):,} stories differ; (hero, thing, place) triples in both splits: "
      f"{len(triples['train'] & triples['validation'])} of {len(triples['validation']):,}")

# %% [markdown]
# The curve of the stories goes flat: their world is closed. That is why a model of a million parameters can learn it in
# minutes, and why no story of the validation split is a surprise in its *words*, only in who does what where.
#
# ## A dirty crawl
#
# `dirty_crawl` puts stories on pages as a crawler would find them, and remembers what it did. Of a hundred pages about 44
# are fine (with lines of *noise* around the story), and the others have a fault:

# %% tags=["given"]
from week2_pretraining.solutions.data import Page

# %%
from week2_pretraining.solutions.data import FAULTS, HARMLESS, NOISE, WORTH_KEEPING, dirty_crawl

pages = dirty_crawl(1500)
print(Counter(page.fault for page in pages), "\n")
for page in [next(page for page in pages if page.fault == fault) for fault in ("[1] markers", "code", "numbers")]:
    print(f"--- {page.fault}: {page.text}\n")

# %% [markdown]
# Four kinds of page are worth keeping: those without a fault, those with Wikipedia's markers, those whose lines are broken
# in the middle of sentences, and those that contain *flurb*. That word is ours. It means nothing bad, but it is on our block
# list; real lists hold words of medicine, and words by which people call themselves.
#
# ## C4's rules
#
# Section 2.2 of the T5 paper is a list of rules, each a sentence long. Some drop a page, some only a line:
#
# | rule | drops |
# |---|---|
# | a curly bracket `{`, for it means code | the page |
# | "lorem ipsum" | the page |
# | a word of the block list | the page |
# | citation markers, `[1]`, `[citation needed]` | the marker |
# | no terminal punctuation (full stop, `!`, `?`, closing quotation mark) | the line |
# | fewer than 5 words | the line |
# | "Javascript" | the line |
# | "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies" | the line |
# | fewer than 3 sentences | the page |
#
# We follow the current arXiv version of the paper and the constants of the released code; an earlier version of the paper
# has the 3 and the 5 the other way round. Where it is silent we say how we read it: page rules look at the page as it
# came, sentences are counted in what is left. The released code has rules that the paper does not tell (no line that ends
# in "...", no word of more than 1,000 characters); we leave them out.

# %% tags=["given"]
from week2_pretraining.solutions.data import count_sentences

# %%
from week2_pretraining.solutions.data import CITATION, END_MARKS, POLICY

print(END_MARKS, POLICY, CITATION.pattern, sep="\n")

# %% [markdown]
# **Predict.** A story is wrapped after every ninth word, as in an old e-mail. How much of it does C4 keep?

# %% tags=["exercise"]
from week2_pretraining.solutions.data import c4_clean

# %% [markdown]
# The code that made C4 runs on TensorFlow Datasets and a cluster, so here the oracle is the paper, and what must hold for
# any right answer: cleaning twice changes nothing, and each line that comes out was in the page.

# %%
cleaned = [c4_clean(page.text, {HARMLESS}) for page in pages]
for page, text in zip(pages, cleaned, strict=True):
    if text is not None:
        assert c4_clean(text, {HARMLESS}) == text
        assert set(text.split("\n")) <= {CITATION.sub("", line).strip() for line in page.text.split("\n")}
i = next(i for i, page in enumerate(pages) if page.fault == "broken lines" and cleaned[i])
print(pages[i].text, "\n\n--- what C4 keeps of it:", cleaned[i], sep="\n")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only the few lines that happen to end where a sentence ends. If those have fewer than three sentences, the page is gone. The
# page is fine and the rule is right; the line break, which somebody's editor put there, is the fault. (That is why later pipelines work on sentences or paragraphs of extracted HTML, not on the lines of a text dump.)
#
# </details>
#
# Each page's truth is known, so each rule can be judged. A share from a few dozen pages is uncertain, so we print it with
# Wilson's 95 % interval, which also works at 0 % and 100 %:
#
# $$\frac{\hat p + \frac{z^2}{2n} \pm z\sqrt{\frac{\hat p(1-\hat p)}{n} + \frac{z^2}{4n^2}}}{1 + \frac{z^2}{n}}, \qquad z = 1.96$$

# %%
def wilson(hits: int, n: int) -> tuple[float, float, float]:
    """A share and its 95 % interval."""
    p, z2 = hits / n, 1.96**2
    middle, half = p + z2 / (2 * n), 1.96 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return p, max(0.0, middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)


print("kind of page       pages  C4 drops")
for fault in FAULTS:
    gone = [text is None for page, text in zip(pages, cleaned, strict=True) if page.fault == fault]
    p, low, high = wilson(sum(gone), len(gone))
    print(f"{fault:18s} {len(gone):5d}  {p:4.0%}  [{low:.0%}, {high:.0%}]", "  <- worth keeping" * (fault in WORTH_KEEPING))

# %% [markdown]
# Placeholders, code and short pages are gone. Foreign text, spam and tables of numbers go through untouched: C4 asks whether
# a page is made of *lines with full stops*, not whether it says anything. And all pages with our harmless word are lost. On
# our crawl that is a curiosity. On the real one it is people (last column of the first table).
#
# ## Gopher's rules
#
# The Gopher paper (appendix A.1.1) drops a whole page where simple *statistics* of it are off. Real English text has words of
# usual length; some of *the, be, to, of, and, that, have, with*; few hash signs; few lines that repeat (the repetition rules
# are in table A1; we take the first of them). To tune a filter one wants to know *which* rule fired, so return the names.
#
# **Predict.** Which of these rules drops a page in Russian, and which one a page in German?

# %%
from week2_pretraining.solutions.data import BULLETS, ELLIPSES, STOP_WORDS

print(sorted(STOP_WORDS), BULLETS, ELLIPSES)

# %% tags=["exercise"]
from week2_pretraining.solutions.data import gopher_quality

# %%
for fault in FAULTS:
    broken = Counter(
        rule for page, text in zip(pages, cleaned, strict=True) if page.fault == fault and text for rule in gopher_quality(text)
    )
    kept_by_c4 = sum(text is not None for page, text in zip(pages, cleaned, strict=True) if page.fault == fault)
    if broken:
        print(f"{fault:18s} {kept_by_c4:4d} pages left; broken:", dict(broken))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Both by the stop words: neither has two of the eight English ones. That makes a rough detector of English, with no model.
# Hardly any other rule would notice: a letter is a letter in any alphabet, and the words have ordinary lengths. (A page *about* a German
# text, half English, would pass. C4 used langdetect, FineWeb a fastText classifier.)
#
# </details>
#
# ## Near-duplicates
#
# Exact copies are easy: compare hashes. But the same story on two sites has another menu, another date, a word changed. What
# does it mean that two pages are *nearly* the same? Cut each into its runs of five words (*shingles*), and compare the sets
# by their Jaccard similarity, what they share over what they have together:
#
# $$J(A, B) = \frac{|A \cap B|}{|A \cup B|}$$

# %% tags=["given"]
from week2_pretraining.solutions.data import shingles

# %%
def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


one, other = "the red kite flew over the old mill at noon", "the red kite flew over the new mill at noon"
print(sorted(shingles(one)))
print(f"one word of ten changed: J = {jaccard(shingles(one), shingles(other)):.2f}")

# %% [markdown]
# One changed word breaks five shingles. With a billion pages there are $10^{18}/2$ pairs, and nobody can compare them all. Two
# ideas make it possible.
#
# **MinHash** (Broder 1997) makes a page into a few numbers. Shuffle all possible shingles, and note which shingle of the page
# comes first. For two pages the first one is the same with probability $J(A, B)$: of all shingles that either page has, each is
# equally likely to come first, and the two agree just when it is one that they share. Do it with $k$ shuffles, and the share
# of agreements estimates $J$ with standard error $\sqrt{J(1-J)/k}$, however long the pages are.
#
# A shuffle is a formula: hash the shingle to 32 bits, then $h \mapsto (a h + b) \bmod 2^{32}$ with an odd $a$.

# %% tags=["given"]
from week2_pretraining.solutions.data import hash32

# %% tags=["given"]
from week2_pretraining.solutions.data import random_permutations

# %% tags=["exercise"]
from week2_pretraining.solutions.data import minhash_signature

# %% [markdown]
# `datasketch` is the library that people use for this. Given the same permutations it has to have the same signature, number
# for number:

# %%
n_perm = 112
a, b = random_permutations(n_perm, torch.Generator().manual_seed(0))


def their_minhash(items: set[str]) -> datasketch.MinHash:
    minhash = datasketch.MinHash(num_perm=n_perm, permutations=(a.tolist(), b.tolist()), scheme="affine32")
    minhash.update_batch([item.encode() for item in items])
    return minhash


equal = []
for text in [text for text in cleaned if text][:200]:
    theirs = torch.from_numpy(their_minhash(shingles(text)).hashvalues.astype("int64"))
    equal.append(torch.equal(minhash_signature(shingles(text), a, b), theirs))
print(f"{sum(equal)} of {len(equal)} signatures equal datasketch's in all {n_perm} numbers")
assert all(equal)

# %% [markdown]
# **LSH banding** finds the pairs without comparing all. Cut the signature into $b$ bands of $r$ numbers, and put pages with an
# equal band into one bucket. Two pages meet in at least one of the buckets with probability
#
# $$P = 1 - (1 - J^r)^b$$
#
# which is an S-shaped curve: nearly 0 for pages that differ, nearly 1 for near-duplicates, with its steep part near
# $(1/b)^{1/r}$. FineWeb takes 14 bands of 8, so we do too.
#
# **Predict.** With 112 numbers: do more bands (of fewer numbers each) find more pairs or fewer?

# %% tags=["exercise"]
from week2_pretraining.solutions.data import lsh_candidates

# %%
survivors = [i for i, text in enumerate(cleaned) if text and not gopher_quality(text)]
signatures = torch.stack([minhash_signature(shingles(cleaned[i]), a, b) for i in tqdm(survivors, desc="signatures")])
pairs = lsh_candidates(signatures, bands=14)

lsh = datasketch.MinHashLSH(num_perm=n_perm, params=(14, 8))
minhashes = {i: their_minhash(shingles(cleaned[page])) for i, page in enumerate(survivors)}
for i, minhash in minhashes.items():
    lsh.insert(i, minhash)
theirs = sorted((j, i) for i, minhash in minhashes.items() for j in lsh.query(minhash) if j < i)
n_pairs = len(survivors) * (len(survivors) - 1) // 2
print(f"{len(pairs)} candidates of {n_pairs:,} pairs; equal to datasketch.MinHashLSH: {pairs == theirs}")
assert pairs == theirs

# %% [markdown]
# Does the theory hold? On the left, sets made to have $J = 0.5$, measured with more and more permutations. On the right, the
# share of pairs that meet in a bucket, for pairs of a known similarity.

# %%
generator = torch.Generator().manual_seed(1)


def agreements(similarity: float, trials: int, k: int) -> Bool[Tensor, "trial n_perm"]:
    """Where the signatures of two sets of the given Jaccard similarity agree, each time with other permutations."""
    shared_items = round(120 * similarity)
    both = [f"item {i}" for i in range(120)]
    first, second = both[: 60 + shared_items // 2], both[60 - (shared_items + 1) // 2 :]
    found = []
    for _ in range(trials):
        draw = random_permutations(k, generator)
        found.append(minhash_signature(first, *draw) == minhash_signature(second, *draw))
    return torch.stack(found)


sizes, trials = [16, 64, 256, 1024], 150
spread = torch.tensor([agreements(0.5, trials, k).float().mean(dim=1).std() for k in tqdm(sizes, desc="standard errors")])
similarities = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
meeting = {s: agreements(s, trials, n_perm) for s in tqdm(similarities, desc="S-curve")}

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
ax = axes[0]
theory = torch.tensor([math.sqrt(0.25 / k) for k in sizes])
ax.errorbar(sizes, spread, 1.96 * spread / math.sqrt(2 * trials), fmt="o", color=COLOURS[0], capsize=4, label=f"measured, {trials} pairs")
ax.plot(sizes, theory, "--", color=COLOURS[3], label="√(J(1-J)/k)")
ax.set(xscale="log", yscale="log", xlabel="permutations k", ylabel="standard error of the estimated J")
ax.set_xticks(sizes, sizes)
ax.set_yticks([1 / 64, 1 / 32, 1 / 16, 1 / 8], ["0.016", "0.031", "0.063", "0.125"])
ax.minorticks_off()
ax.set_title(f"{sizes[-1]} permutations: J to ±{spread[-1]:.3f}, as predicted", loc="left", fontsize=11)
ax.legend(frameon=False)

ax = axes[1]
grid = torch.linspace(0, 1, 200)
for bands, colour, marker in ((28, COLOURS[2], "^"), (14, COLOURS[0], "o"), (7, COLOURS[3], "s")):
    rows_per_band = n_perm // bands
    met = {s: agree.view(trials, bands, -1).all(dim=2).any(dim=1).sum().item() for s, agree in meeting.items()}
    share = torch.tensor([wilson(hits, trials) for hits in met.values()])
    error = torch.stack([share[:, 0] - share[:, 1], share[:, 2] - share[:, 0]]).clamp(min=0)
    ax.errorbar(similarities, share[:, 0], error, fmt=marker, color=colour, capsize=3, label=f"{bands} bands of {rows_per_band}")
    ax.plot(grid, 1 - (1 - grid**rows_per_band) ** bands, color=colour, linewidth=1)
ax.set(xlabel="Jaccard similarity of two pages", ylabel="share that become candidates")
ax.set_title("More bands find more pairs, and more false ones", loc="left", fontsize=11)
ax.legend(frameon=False, loc="upper left")
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# The bars are 95 % intervals, the lines the two formulas. Fewer numbers in a band means that a band agrees more easily. With 7
# bands of 16 only near-copies meet; with 28 of 4, pages that share half of their shingles mostly do, and each of these
# candidates must then be looked at (Lee et al. check them by edit distance). For training data a false candidate costs a good
# page and a missed one costs a repetition.
#
# ## The whole pipeline
#
# C4's rules, Gopher's rules, then the first page of each group of near-duplicates. What survives, and was it right to drop the
# rest? *Precision* of a stage: of the pages that it dropped, how many deserved it. *Recall* of a fault: of the pages that have
# it, how many were dropped.

# %%
later_copies = {survivors[j] for _, j in pairs}
dropped_by = {}  # page -> stage
for i, text in enumerate(cleaned):
    if text is None:
        dropped_by[i] = "C4's rules"
    elif gopher_quality(text):
        dropped_by[i] = "Gopher's rules"
    elif i in later_copies:
        dropped_by[i] = "MinHash"
final = [i for i in range(len(pages)) if i not in dropped_by]

stages, left = ["C4's rules", "Gopher's rules", "MinHash"], set(range(len(pages)))
print(f"{'stage':16s} {'pages':>6s} {'kB':>6s}   of the dropped pages, deserved it")
print(f"{'the crawl':16s} {len(left):6d} {sum(len(page.text.encode()) for page in pages) / 1000:6.0f}")
for stage in stages:
    gone = [i for i, name in dropped_by.items() if name == stage]
    left -= set(gone)
    p, low, high = wilson(sum(pages[i].fault not in WORTH_KEEPING for i in gone), len(gone))
    print(f"{stage:16s} {len(left):6d} {sum(len(cleaned[i].encode()) for i in left) / 1000:6.0f}   {p:.0%} of {len(gone)}  [{low:.0%}, {high:.0%}]")

good_lines = [(i, line) for i, page in enumerate(pages) for line in page.story.split("\n") if page.story]
kept_text = sum(len(line) for i, line in good_lines if i in left and line in cleaned[i])
print(f"of the text worth keeping, {kept_text / sum(len(line) for _, line in good_lines):.0%} is left")

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=(1.5, 1), layout="constrained")
ax, kinds = axes[0], list(FAULTS)[::-1]
for row, fault in enumerate(kinds):
    members = [i for i, page in enumerate(pages) if page.fault == fault]
    start = 0.0
    for stage, colour, hatch in zip(stages, COLOURS[:3], HATCHES[:3], strict=True):
        share = sum(dropped_by.get(i) == stage for i in members) / len(members)
        ax.barh(row, share, left=start, color=colour, hatch=hatch, label=stage if row == 0 else None)
        start += share
    p, low, high = wilson(sum(i in dropped_by for i in members), len(members))
    ax.errorbar(p, row, xerr=[[max(0, p - low)], [max(0, high - p)]], color="black", ecolor="grey", capsize=3)
ax.set_yticks(range(len(kinds)), [f"{fault} (good)" if fault in WORTH_KEEPING else fault for fault in kinds])
ax.set(xlabel="share of these pages that was dropped", xlim=(0, 1.02))
copies = [i for i, page in enumerate(pages) if page.fault == "near-duplicate"]
ax.set_title(f"Found: {sum(i in dropped_by for i in copies) / len(copies):.0%} of the near-duplicates", loc="left", fontsize=11)
fig.legend(*ax.get_legend_handles_labels(), frameon=False, loc="outside lower left", ncols=3)

ax = axes[1]
for row, kind in enumerate(list(NOISE)[::-1]):
    at = [(i, line) for i in final for noise_kind, line in pages[i].noise if noise_kind == kind]
    p, low, high = wilson(sum(line not in cleaned[i].split("\n") for i, line in at), len(at))
    ax.barh(row, p, color=COLOURS[0])
    ax.errorbar(p, row, xerr=[[max(0, p - low)], [max(0, high - p)]], color="black", ecolor="grey", capsize=3)
ax.set_yticks(range(len(NOISE)), list(NOISE)[::-1])
ax.set(xlabel="share of these lines that is gone", xlim=(0, 1.02))
ax.set_title("Noise around stories that were kept", loc="left", fontsize=11)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Read the figure in both directions. Most of what is bad is gone. But the newsletter line, which is a whole sentence with an
# exclamation mark, is on every page that had it: a model will learn it by heart. Some near-duplicates remain, those with a
# similarity below the steep part of the curve. And nearly all pages with broken lines and all with *flurb* are lost, though
# nothing is wrong with them. No stage can be judged by how much it removes.
#
# ## From text to tokens: chunks
#
# The model has a *context window*, a largest number of tokens that it reads at once (`context_length`). Documents are shorter
# or longer. For the longer ones there are two ways:
#
# - **truncation** keeps the first `context_length` tokens. The end of every long document is never seen;
# - **chunking** cuts it into pieces. Nothing is lost but *context*: the first tokens of a piece have to be predicted
#   without what came before. Pieces that overlap soften that, and cost more computing.

# %%
tokenizer = AutoTokenizer.from_pretrained(course_folder("base"))
eos_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
documents = [tokenizer(cleaned[i])["input_ids"] for i in final]
lengths = torch.tensor([len(document) for document in documents])
print(f"{len(documents)} documents, {lengths.min()} to {lengths.max()} tokens, {lengths.float().mean():.0f} on average")

# %% tags=["exercise"]
from week2_pretraining.solutions.data import chunk_tokens

# %% [markdown]
# Hugging Face tokenizers cut like this too. There the overlap is called `stride`, which elsewhere means the step:

# %%
book = "\n\n".join(cleaned[i] for i in final[:20])
for context_length, overlap in ((64, 0), (64, 16), (100, 99), (4096, 5)):
    theirs = tokenizer(book, truncation=True, max_length=context_length, stride=overlap, return_overflowing_tokens=True)
    ours = chunk_tokens(tokenizer(book)["input_ids"], context_length, overlap)
    print(f"{context_length:4d} tokens, overlap {overlap:2d}: {len(ours):4d} pieces, equal: {ours == theirs['input_ids']}")
    assert ours == theirs["input_ids"]

# %% [markdown]
# **Predict.** You have just seen how long our stories are. With a context of 64: what share of the tokens does truncation lose? And
# how many tokens must a model have read of a piece until the missing beginning of the story does not matter any more?
#
# The second question needs a model. We take the course's own, which you will train in lesson 03; here its finished checkpoint
# is enough. It reads tokens 64 to 127 of each story twice: as a piece alone, and with all that came before.

# %%
context_lengths = [16, 32, 64, 128, 256]
draws = torch.randint(len(documents), (300, len(documents)), generator=torch.Generator().manual_seed(2))


def bootstrap(part: Float[Tensor, "document"], whole: Float[Tensor, "document"]) -> tuple[float, float, float]:
    """Σ part / Σ whole, with a 95 % interval over draws of documents."""
    low, high = (part[draws].sum(1) / whole[draws].sum(1)).quantile(torch.tensor([0.025, 0.975])).tolist()
    return (part.sum() / whole.sum()).item(), low, high


lost, padded = {}, {}
for n in context_lengths:
    slots = torch.tensor([n * len(chunk_tokens(document, n)) for document in documents])
    lost[n] = bootstrap((lengths - n).clamp(min=0).float(), lengths.float())
    padded[n] = bootstrap((slots - lengths).float(), slots.float())
for overlap in (0, 16, 32, 48):
    tokens = sum(len(piece) for document in documents for piece in chunk_tokens(document, 64, overlap))
    print(f"pieces of 64, overlap {overlap:2d}: {tokens / lengths.sum():.2f} tokens computed per token of text")

# %%
model = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
long_ones = torch.tensor([document[:128] for document in documents if len(document) >= 128][:128])


@torch.no_grad()
def token_losses(token_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq-1"]:
    logits = torch.cat([model(part).logits[:, :-1] for part in token_ids.split(32)])
    return F.cross_entropy(logits.transpose(1, 2), token_ids[:, 1:], reduction="none")


pieces = torch.tensor([chunk_tokens(document, 64)[1] for document in long_ones.tolist()])
extra = token_losses(pieces) - token_losses(long_ones)[:, 64:]  # (document, tokens read of the piece, less 1)

# %% tags=["nbval-ignore-output"]
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
ax = axes[0]
for values, colour, marker, label in ((lost, COLOURS[3], "o", "truncation: tokens lost"), (padded, COLOURS[0], "s", "chunks as rows: padding")):
    middle, low, high = 100 * torch.tensor([values[n] for n in context_lengths]).T
    error = torch.stack([middle - low, high - middle]).clamp(min=0)
    ax.errorbar(context_lengths, middle, error, fmt=f"{marker}-", color=colour, capsize=3, label=label)
ax.set_xscale("log", base=2)
ax.set_xticks(context_lengths, context_lengths)
ax.set(xlabel="context length (tokens)", ylabel="share (%)")
ax.set_title(f"At 64 tokens truncation loses {lost[64][0]:.0%} of the text", loc="left", fontsize=11)
ax.legend(frameon=False)

ax, edges = axes[1], [0, 1, 2, 4, 8, 16, 32, 63]
groups = [extra[:, low:high].mean(dim=1) for low, high in zip(edges, edges[1:], strict=False)]
names = [str(low + 1) if high == low + 1 else f"{low + 1}-{high}" for low, high in zip(edges, edges[1:], strict=False)]
ax.errorbar(range(len(groups)), [g.mean() for g in groups], [1.96 * g.std() / len(g) ** 0.5 for g in groups],
            fmt="o-", color=COLOURS[3], capsize=4)
ax.axhline(0, color="grey", linestyle=":")
ax.set_xticks(range(len(groups)), names)
ax.set(xlabel="tokens read of the piece", ylabel="extra loss (nats per token)")
ax.set_title(f"A piece's first tokens cost {groups[0].mean():+.2f} nats, its last {groups[-1].mean():+.2f}", loc="left", fontsize=11)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# The bars are 95 % intervals over documents (on the left smaller than the points). On the right is what chunking loses, against
# a model that has read the whole beginning: most in the first few tokens of a piece, and an overlap buys just these back,
# at the price printed above. On the left both curves are bad somewhere: a short context loses text, a long one fills its
# rows with padding. Both go away if documents share rows.
#
# ## Packing
#
# Put all documents one after another, each with an end-of-text token, and cut the stream into rows. There is no padding and
# every token is used but those of the last, incomplete row. GPT-3 was trained like that (Brown et al. 2020, appendix B), and
# most models since.
#
# ```
#   documents          [5 6]   [7 8 9]           eos = 0, context_length = 5
#   stream             5 6 0 7 8 | 9 0           (9 0 do not fill a row)
#   document_ids       0 0 0 1 1
#   positions          0 1 2 0 1
#                      key  5 6 0 7 8
#   mask    query  5        1
#                  6        1 1
#                  0        1 1 1
#                  7              1              without the mask, 7 and 8 would look
#                  8              1 1            back into the first document
# ```

# %% tags=["exercise"]
from week2_pretraining.solutions.data import pack_documents

# %%
packed = pack_documents(documents, 256, eos_id)
print({name: list(value.shape) for name, value in packed.items()})
used = packed["token_ids"].numel() / sum(len(document) + 1 for document in documents)
print(f"{used:.1%} of all tokens are in the rows, and no padding; "
      f"{packed['document_ids'].diff(dim=1).sum() / len(packed['token_ids']) + 1:.1f} documents in a row on average")

# %% [markdown]
# The mask can be given to PyTorch's attention as it is. For each document, attention in the packed row must be what it is
# for the document alone:

# %%
generator = torch.Generator().manual_seed(3)
row = pack_documents([[1] * 20, [2] * 33, [3] * 8], 64, 0)
q, k, v = torch.randn(3, 1, 2, 64, 16, generator=generator)  # (batch, head, seq, d_head) each
together = F.scaled_dot_product_attention(q, k, v, attn_mask=row["mask"])
largest = 0.0
for i in range(3):
    own = (row["document_ids"][0] == i).nonzero().flatten()
    alone = F.scaled_dot_product_attention(q[:, :, own], k[:, :, own], v[:, :, own], is_causal=True)
    largest = max(largest, (together[:, :, own] - alone).abs().max().item())
print(f"largest difference between packed and alone: {largest:.0e}")
assert largest < 1e-5

# %% [markdown]
# ## The leak
#
# GPT-3 and many others were trained *without* that mask. What happens then? Take two stories in one row, exchange the first, and look
# at the model's logits in the second. If the second story cannot see the first, nothing may change.
#
# **Predict.** Without the mask, where in the second story do the logits change most? Are they unchanged near its end?

# %%
by_length = sorted((document for document in documents if 60 <= len(document) <= 120), key=len)
cases = [by_length[i : i + 3] for i in range(0, len(by_length) - 2, 3)]
cases = [(first[: len(second)], second[: len(first)], third) for first, second, third in cases][:: len(cases) // 16][:16]


@torch.no_grad()
def packed_logits(first: list[int], second: list[int], separate: bool) -> Float[Tensor, "seq vocab"]:
    """Logits over the second of two documents in one row."""
    row = pack_documents([first, second], len(first) + len(second) + 2, eos_id)
    inputs = {"attention_mask": row["mask"], "position_ids": row["positions"]} if separate else {}
    return model(row["token_ids"], **inputs).logits[0, len(first) + 1 :]


# %% tags=["nbval-ignore-output"]
moved, against_alone, harm = {True: [], False: []}, 0.0, {True: [], False: []}
for first, other_first, second in tqdm(cases, desc="exchanging the first story"):
    with torch.no_grad():
        alone = model(torch.tensor([[*second, eos_id]])).logits[0]
    targets = torch.tensor([*second[1:], eos_id])
    for separate in (True, False):
        logits = packed_logits(first, second, separate)
        moved[separate].append((logits - packed_logits(other_first, second, separate)).abs().amax(dim=1)[:60])
        harm[separate].append(F.cross_entropy(logits[:-1], targets) - F.cross_entropy(alone[:-1], targets))
    against_alone = max(against_alone, (packed_logits(first, second, True) - alone).abs().max().item())
print(f"with the mask, packed against alone: largest difference of a logit {against_alone:.0e}")
assert against_alone < 1e-3
for separate, name in ((True, "with the mask"), (False, "without")):
    values = torch.stack(harm[separate])
    print(f"loss of the second story {name}: {values.mean():+.4f} ± {1.96 * values.std() / len(values) ** 0.5:.4f} nats against alone")

# %% tags=["nbval-ignore-output"]
fig, ax = figure(
    f"Without the mask another first story moves every later logit, by {torch.stack(moved[False]).median():.2g} in the median",
    "position in the second story (tokens)",
    "largest change of a logit",
    width=8,
)
for separate, style, colour, label in ((False, "--", COLOURS[3], "causal mask only"), (True, "-", COLOURS[0], "mask of pack_documents")):
    low, middle, high = torch.stack(moved[separate]).clamp(min=1e-7).quantile(torch.tensor([0.1, 0.5, 0.9]), dim=0)
    ax.plot(middle, style, color=colour, label=label)
    ax.fill_between(range(len(middle)), low, high, color=colour, alpha=0.25, linewidth=0)
ax.set_yscale("log")
ax.legend(frameon=False, loc="center right")
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Everywhere, to the very end: attention knows no distance at which an old story would be out of sight. (Bands: 80 % of the pairs
# of stories. With the mask nothing is left but rounding, if anything, drawn at the bottom.)
#
# Does it hurt? The losses above say how much for this model, with a 95 % interval over stories. A model that is trained on
# packed rows has to learn by itself that what stands before an eos is of no use. Llama 3 was trained with the mask; its
# authors found little difference in ordinary pretraining and a large one for very long contexts (Grattafiori et al. 2024,
# section 3.2).
#
# </details>
#
# ## Find the bug
#
# A colleague packs documents with code of her own. Her loss is fine, her samples are fluent, and they never end: each story
# goes on until the context is full. Here are her rows, and the targets that her masked training sees.

# %%
def colleagues_rows(documents, context_length, eos_id):
    n_tokens = sum(len(document) + 1 for document in documents)
    if context_length < 1 or n_tokens < context_length:
        raise ValueError(f"{n_tokens} tokens do not fill a row of {context_length}")
    shape = (n_tokens // context_length, context_length)
    used = shape[0] * context_length
    token_ids = torch.tensor([t for d in documents for t in [eos_id, *d]][:used]).view(shape)
    document_ids = torch.tensor([i for i, d in enumerate(documents) for _ in range(len(d) + 1)][:used]).view(shape)
    columns = torch.arange(context_length)
    begins = torch.zeros(shape, dtype=torch.long)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    positions = columns - (begins * columns).cummax(dim=1).values
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    mask = same & (columns[:, None] >= columns)
    return {"token_ids": token_ids, "document_ids": document_ids, "positions": positions, "mask": mask}


for name, pack in (("yours", pack_documents), ("hers", colleagues_rows)):
    rows = pack(documents, 256, eos_id)
    within = rows["document_ids"][:, 1:] == rows["document_ids"][:, :-1]  # predictions inside one document
    targets = rows["token_ids"][:, 1:][within]
    print(f"{name:6s} {len(targets):,} targets, of which {int((targets == eos_id).sum())} are the end of a text")

# %% [markdown]
# **Predict.** Which line is it? Then let the check tell you:

# %%
from shared.checking import run_check

print(run_check("pack_documents", colleagues_rows).card)

# %% [markdown]
# ## Batches
#
# The last step: rows for one training step. With all text as one long stream of tokens, the simplest way is to begin anywhere.
# The targets are the same window, one token later:
#
# ```
#   token_ids   10 11 12 13 14 15 16        context_length 3: a window can begin at 0, 1, 2 or 3
#   inputs            12 13 14
#   targets              13 14 15
# ```
#
# `batch_size` × `context_length` tokens are read in a step. A larger batch makes the gradient less noisy and the step
# dearer; a longer context lets the model look further back and costs memory in the square of its length (unless the
# attention is fused, week 5). What the loss leaves out is told by the targets (-100, week 1); what attention may see, by the
# mask. These are two different masks: padding needs both, packing needs the second.

# %% tags=["exercise"]
from week2_pretraining.solutions.data import get_batch

# %% [markdown]
# PyTorch's own way is a data set of windows and a sampler. With replacement it draws from the same distribution:

# %%
from torch.utils.data import DataLoader, RandomSampler

stream = torch.tensor([token_id for document in documents for token_id in [*document, eos_id]])
few, context_length = stream[:200], 8
windows = few.unfold(0, context_length + 1, 1)  # every window with its target
inputs, targets = get_batch(few, 20_000, context_length, torch.Generator().manual_seed(4))
ours = torch.cat([inputs, targets[:, -1:]], dim=1)
place = {tuple(window): i for i, window in enumerate(windows.tolist())}
assert len(place) == len(windows)  # all windows differ, so each tells where it began
starts = torch.tensor([place[tuple(window)] for window in ours.tolist()])

sampler = RandomSampler(range(len(windows)), replacement=True, num_samples=20_000, generator=torch.Generator().manual_seed(5))
theirs = torch.cat([indices for indices in DataLoader(range(len(windows)), sampler=sampler, batch_size=1000)])
for name, drawn in (("get_batch", starts), ("DataLoader", theirs)):
    counts = torch.bincount(drawn, minlength=len(windows)).float()
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum() / (len(windows) - 1)
    print(f"{name:10s} {int((counts > 0).sum())} of {len(windows)} places drawn; χ² per degree of freedom {chi2:.2f} (even: 1 ± {2 * math.sqrt(2 / len(windows)):.2f})")

# %% [markdown]
# **Predict.** You draw as many tokens as the text has, in windows that begin anywhere. What share of the text has the model not
# seen once? And a shuffled list of windows that lie side by side?

# %%
n, context_length = 20_000, 64
seen_curves = []
for seed in range(10):
    generator, seen, shares = torch.Generator().manual_seed(seed), torch.zeros(n, dtype=torch.bool), []
    for _ in range(24):  # an eighth of the text at a time
        seen[get_batch(torch.arange(n), n // context_length // 8, context_length, generator)[0].flatten()] = True
        shares.append(seen.float().mean().item())
    seen_curves.append(shares)
seen_curves = torch.tensor(seen_curves)
passes = torch.arange(1, 25) * (n // context_length // 8 * context_length) / n

unseen = 1 - seen_curves[:, 7]
fig, ax = figure(
    f"After one pass {unseen.mean():.0%} ± {1.96 * unseen.std():.0%} of the text was never drawn",
    "tokens drawn, in passes over the text",
    "share of the text seen",
)
ax.fill_between(passes, seen_curves.amin(0), seen_curves.amax(0), color=COLOURS[0], alpha=0.3, label="get_batch, range of 10 runs")
ax.plot(passes, 1 - torch.exp(-passes), "--", color=COLOURS[3], label="1 - exp(-passes)")
ax.plot(passes, passes.clamp(max=1), ":", color="grey", label="shuffled windows, side by side")
ax.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# $1/e$ = 37 %: how often a token is drawn follows a Poisson distribution with mean 1. Shuffled windows see everything once, but
# always with the same cuts. With far more text than steps, as in most pretraining, neither matters; for several passes
# over little text, `Megatron-LM` and others shuffle and shift the cuts from epoch to epoch.
#
# </details>
#
# ## What to read
#
# - **T5 paper**, section 2.2 (the rules) and table 8 (C4 against the unfiltered crawl, and against smaller, cleaner sets). Which
#   of your rules would you have to change for poems, for recipes, for Python tutorials?
# - **The Pile**, table 1 and section 2. How often is each source read, and who decided? Which of your stages are missing?
# - **Lee et al. 2021**: the abstract says what repetition does (a model copies more than 1 % of its output; ten times less
#   after deduplication). Find their number of bands and rows (section 4.2 and appendix A) and put them into your S-curve. Mind the
#   letters: their $b$ is our $r$.
# - **FineWeb** (Penedo et al. 2024, [arXiv:2406.17557](https://arxiv.org/abs/2406.17557)): each filter is judged by training a
#   model on what is left. Look for the surprise: deduplicating across all crawls at once helped less than within each of them.
# - **Dodge et al. 2021** ([arXiv:2104.08758](https://arxiv.org/abs/2104.08758)), section 5: whose pages the block list removed.
# - **datatrove**: [`c4_filters.py`](https://github.com/huggingface/datatrove/blob/main/src/datatrove/pipeline/filters/c4_filters.py)
#   and [`gopher_quality_filter.py`](https://github.com/huggingface/datatrove/blob/main/src/datatrove/pipeline/filters/gopher_quality_filter.py)
#   are your two exercises. Which two numbers do they take for words and sentences? Which page with a curly bracket do they keep, and you
#   drop? In `dedup/minhash.py`, what are the four stages, and why so many?
# - **datasketch**: [`minhash.py`](https://github.com/ekzhu/datasketch/blob/master/datasketch/minhash.py), the comment on
#   permutation schemes at the top: what was wrong with the one before version 2?
# - **Megatron-LM**: `tools/preprocess_data.py` writes token ids one after another into one file (`--append-eod`), and
#   `megatron/core/datasets/gpt_dataset.py` packs rows from it with three indices: documents, samples and a shuffle. Look for
#   `reset_position_ids` and `reset_attention_mask`: they are your `positions` and `mask`.
#
# ## Recap
#
# - C4's rules look at lines, Gopher's at statistics, MinHash at pairs. Each misses what it does not look at.
# - A filter has a precision as well as a recall. Put faults into your data on purpose, and you can measure both.
# - MinHash turns a page into $k$ numbers with a standard error of $\sqrt{J(1-J)/k}$; bands turn a billion pages into buckets.
# - Truncation loses text, chunking loses context, padding loses time. Packing loses none of them, and leaks without a mask.
# - A batch is a table of places: inputs at the place, targets one later.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("data")

# %%
progress("week2_pretraining")
