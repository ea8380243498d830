# %% [markdown]
# # N-gram metrics
#
# A model has translated a sentence or summed up a story. Is the text good? People can tell, slowly. A program can compare the text
# with one or more *references* that people wrote, by the words and the runs of words that both share. BLEU, ROUGE, METEOR and CIDEr are four ways to count. You will meet them in papers, in leaderboards and in
# arguments about them, so it pays to know exactly what each number is, and what it cannot see.
#
# In this lesson you write all four, equal to sacrebleu, rouge_score and NLTK. Then you put them on trial: sentences with
# the same meaning in other words, nonsense made of the right words, and summaries in which you know how many facts are wrong.
#
# Reading and writing: about 150 minutes. Papers: Papineni et al. 2002, *BLEU*
# ([P02-1040](https://aclanthology.org/P02-1040/)); Lin 2004, *ROUGE* ([W04-1013](https://aclanthology.org/W04-1013/)); Banerjee and
# Lavie 2005, *METEOR* ([W05-0909](https://aclanthology.org/W05-0909/)); Vedantam et al. 2015, *CIDEr*
# ([arXiv:1411.5726](https://arxiv.org/abs/1411.5726)); Post 2018, *A Call for Clarity in Reporting BLEU Scores*
# ([W18-6319](https://aclanthology.org/W18-6319/)). Repositories: [sacrebleu](https://github.com/mjpost/sacrebleu),
# [nlg-eval](https://github.com/Maluuba/nlg-eval).

# %%
import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import matplotlib.pyplot as plt
import numpy as np
import sacrebleu
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from tqdm.auto import tqdm

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.course import ROOT
from shared.data import stories
from shared.plotting import COLOURS, figure
from shared.runtime import hub_reachable
from shared.stories import POSITION, Dice, tell
from week3_evaluation.paraphrases import NONSENSE, PARAPHRASE, PARAPHRASES, TURNED_ROUND
from week3_evaluation.solutions.ngram_metrics import SMOOTHINGS, check_pair, check_pairs, stem, tokenize_13a, tokenize_rouge
from week3_evaluation.trial import WORDINGS, bootstrap, graded_summaries, plot_intervals, write

# %% [markdown]
# Something to score: 120 sets of facts, each told three times by the course's story generator. The first telling is the *candidate*, the
# two others are its references. All three are true, and none of them is better than another.

# %%
told = [[tell(story.facts, Dice(1000 * i + n)).text for n in range(3)] for i, story in enumerate(stories(120, seed=3))]
candidates = [three[0] for three in told]
references = [three[1:] for three in told]
for text in told[0]:
    print(text, "\n")

# %% [markdown]
# ## What is counted
#
# An *n-gram* is a run of n tokens. But what is a token? A metric comes with its own rule, and another rule gives another number. Two
# are given:
#
# - `tokenize_13a`, BLEU's: words, numbers, and punctuation marks as tokens of their own; capitals stay. It comes from a script of the
#   translation contests called mteval-v13a.
# - `tokenize_rouge`, ROUGE's: letters and digits, all in lower case; punctuation is dropped. It can also cut words to
#   their stems, with the rules of Porter (1980).

# %%
for sentence in ("It's 3.5 miles, isn't it?", "The (well-known) cats walked."):
    print(tokenize_13a(sentence), tokenize_rouge(sentence), tokenize_rouge(sentence, stemmed=True), sep="\n", end="\n\n")

# %% tags=["exercise"]
from week3_evaluation.solutions.ngram_metrics import ngram_counts

# %%
print(ngram_counts(["a", "b", "a", "b"], 2))
for n in (1, 2, 3, 4):
    ours, others = (set(ngram_counts(tokenize_13a(text), n)) for text in told[0][:2])
    print(f"n = {n}: {len(ours & others)} of {len(ours)} different n-grams of one telling stand in the other")

# %% [markdown]
# ## BLEU
#
# The first idea is *precision*: the share of the candidate's n-grams that stand in a reference. The paper shows at once why that is not
# enough, with the candidate *the the the the the the the* and the references *the cat is on the mat* and *there is a cat on the mat*:
# all seven words are found. So a match is *clipped*: an n-gram matches at most as often as it occurs in the reference that has it
# most.
#
# **Predict.** What is the clipped precision of that candidate?
#
# Over a corpus, with candidates $c$ and orders $n = 1 \dots N$ (usually $N = 4$):
#
# $$p_n = \frac{\sum_{c} \sum_{g \in n\text{-grams}(c)} \min\big(\operatorname{count}_c(g),\ \max_{r} \operatorname{count}_r(g)\big)}
# {\sum_{c} \sum_{g \in n\text{-grams}(c)} \operatorname{count}_c(g)}
# \qquad \text{BLEU} = \text{BP} \cdot \Big(\prod_{n=1}^{N} p_n\Big)^{1/N}
# \qquad \text{BP} = \min\big(1, e^{1 - r/c}\big)$$
#
# Precision alone would reward a candidate of one sure word. The *brevity penalty* BP stands against that: $c$ is the length of all
# candidates, $r$ the sum of the lengths of the references, for each candidate the one that is closest in length (the shorter,
# where two are equally close).
#
# Note where the sums stand: counts are added over the corpus first, and divided once. BLEU is not a mean of sentence scores. For a
# single sentence it often fails: without one common 4-gram, $p_4 = 0$ and so is the product. *Smoothing* puts
# something small in place of the zero. There are several ways (Chen and Cherry 2014), and they give different scores, so a
# reported BLEU has to name its own. Those of sacrebleu are given:

# %% tags=["given"]
from week3_evaluation.solutions.ngram_metrics import smoothed_precisions

# %%
for smoothing in SMOOTHINGS:
    print(f"{smoothing:6s}", smoothed_precisions(matches=[5, 2, 0, 0], totals=[6, 5, 4, 3], smoothing=smoothing))

# %% tags=["exercise"]
from week3_evaluation.solutions.ngram_metrics import bleu

# %%
cats = ["the cat is on the mat", "there is a cat on the mat"]
print("clipped unigram precision:", bleu(["the the the the the the the"], [cats], max_order=1), "= 2/7, as in the paper")

# %% [markdown]
# sacrebleu takes the references as columns (all first references, then all second ones) and prints percent. The same
# numbers? On the whole corpus, and on each of its 120 texts alone:

# %%
columns = [list(column) for column in zip(*references, strict=True)]
for smoothing in SMOOTHINGS:
    theirs = sacrebleu.BLEU(smooth_method=smoothing)
    ours = [bleu(candidates, references, smoothing=smoothing)]
    ours += [bleu([candidate], [group], smoothing=smoothing) for candidate, group in zip(candidates, references, strict=True)]
    library = [theirs.corpus_score(candidates, columns).score / 100]
    library += [theirs.corpus_score([c], [[text] for text in g]).score / 100 for c, g in zip(candidates, references, strict=True)]
    worst = max(abs(a - b) for a, b in zip(ours, library, strict=True))
    print(f"{smoothing:6s} corpus {ours[0]:.4f}, single texts from {min(ours):.4f}: largest difference {worst:.0e}")
    assert worst < 1e-6

# %% [markdown]
# Two true tellings of the same facts share only a part of their runs of words. There is no "good BLEU": what it is compared with decides.
#
# ### One name, many numbers
#
# **Predict.** The same 120 texts, scored once with 13a, once cut at spaces, once in lower case, once with one reference in
# place of two. Which change matters most?

# %%
settings = {
    "13a, two references": sacrebleu.BLEU().corpus_score(candidates, columns),
    "cut at spaces": sacrebleu.BLEU(tokenize="none").corpus_score(candidates, columns),
    "in lower case": sacrebleu.BLEU(lowercase=True).corpus_score(candidates, columns),
    "one reference": sacrebleu.BLEU().corpus_score(candidates, columns[:1]),
}
for name, result in settings.items():
    print(f"{name:20s} BLEU {result.score:5.1f}")
print(sacrebleu.BLEU(references=columns).get_signature())

# %% [markdown]
# That is Post's (2018) complaint: papers compared such numbers with each other. His remedy is the last line, a *signature* that names all
# choices. sacrebleu prints it with each score; a BLEU without one cannot be compared.
#
# ### Find the bug
#
# A colleague's BLEU is equal to sacrebleu's on every single sentence, and still his corpus scores are never those of the papers.

# %%
def colleagues_bleu(candidates, references, max_order=4, smoothing="none"):
    check_pairs(candidates, references)
    pairs = zip(candidates, references, strict=True)
    return fmean(bleu([candidate], [group], max_order, smoothing) for candidate, group in pairs)


print(f"his {colleagues_bleu(candidates, references):.4f}, yours {bleu(candidates, references):.4f}")

# %% [markdown]
# **Predict.** Where is the fault? Then ask the check:

# %%
print(run_check("bleu", colleagues_bleu).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# A mean of ratios is not the ratio of the sums: short sentences and sentences with a zero weigh as much as all others in his
# mean. Both are ways to score a corpus, but only one is called BLEU.
#
# </details>
#
# ## ROUGE
#
# A summary should *cover* what the reference says, so ROUGE asks for recall: the share of the reference's n-grams that the candidate has.
# Since a copy of the whole article has perfect recall, today people report F1 with it:
#
# $$P = \frac{\text{overlap}}{\text{n-grams of the candidate}} \qquad R = \frac{\text{overlap}}{\text{n-grams of the reference}} \qquad
# F_1 = \frac{2PR}{P + R}$$
#
# The overlap is clipped as before. With several references, the one with the best F1 counts.

# %% tags=["given"]
from week3_evaluation.solutions.ngram_metrics import precision_recall_f1

# %% tags=["exercise"]
from week3_evaluation.solutions.ngram_metrics import rouge_n

# %% [markdown]
# N-grams see only neighbours. ROUGE-L looks for the *longest common subsequence*: words in the same order in both texts,
# with gaps allowed. Lin's example, with the reference *police killed the gunman*:
#
# - *police kill the gunman*: the subsequence is *police the gunman*, 3 of 4.
# - *the gunman kill police*: the subsequence is *the gunman*, 2 of 4.
#
# Both have the same ROUGE-2, since both share just the pair *the gunman*. The length of the longest common subsequence fills a table: with
# $L_{ij}$ for the first $i$ words of one text and the first $j$ of the other,
#
# $$L_{ij} = \begin{cases} L_{i-1,j-1} + 1 & \text{if word } i \text{ equals word } j \\ \max(L_{i-1,j},\ L_{i,j-1}) & \text{otherwise}
# \end{cases} \qquad L_{0j} = L_{i0} = 0$$
#
# Lin's F-measure has a weight $\beta$ for recall; like rouge_score, we take $\beta = 1$.

# %% tags=["exercise"]
from week3_evaluation.solutions.ngram_metrics import rouge_l

# %%
for sentence in ("police kill the gunman", "the gunman kill police"):
    print(f"{sentence}: ROUGE-2 {rouge_n(sentence, 'police killed the gunman', 2)[2]:.3f}", end=", ")
    print(f"ROUGE-L {rouge_l(sentence, 'police killed the gunman')[2]:.3f}")

# %%
differences = []
for stemmed in (False, True):
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmed)
    for candidate, group in tqdm(list(zip(candidates, references, strict=True)), desc=f"rouge_score, stemmed={stemmed}"):
        library = scorer.score_multi(group, candidate)
        ours = {"rouge1": rouge_n(candidate, group, 1, stemmed), "rouge2": rouge_n(candidate, group, 2, stemmed)}
        ours["rougeL"] = rouge_l(candidate, group, stemmed)
        differences += [abs(a - b) for name in ours for a, b in zip(ours[name], library[name], strict=True)]
print(f"{len(differences):,} numbers, largest difference {max(differences):.0e}")
assert max(differences) < 1e-6

# %% [markdown]
# ## METEOR
#
# BLEU sees no difference between *dog* and *dogs* on the one hand and *dog* and *volcano* on the other. METEOR *aligns* the words
# first, in passes: equal words; then, among those that are left, words with an equal stem; then synonyms. Each word has at most one partner.
# With $m$ matches,
#
# $$P = \frac{m}{\text{words of the candidate}} \qquad R = \frac{m}{\text{words of the reference}} \qquad
# F = \frac{10PR}{R + 9P} \qquad \text{METEOR} = F \cdot \bigg(1 - 0.5 \Big(\frac{\text{chunks}}{m}\Big)^3\bigg)$$
#
# Recall weighs nine times as much as precision. Order enters through *chunks*: runs of matches that are adjacent, in the same order, in both texts.
#
# ```
#   candidate   b  c  a          b-c is one chunk, a another: 2 chunks, 3 matches
#   reference   a  b  c          P = R = F = 1,  METEOR = 1 - 0.5 · (2/3)³ = 0.852
# ```
#
# A word that comes twice could be matched in two ways. The paper wants the alignment with the fewest crossings; NLTK, and so our
# exercise, uses a simpler rule: from the candidate's last word to its first, each takes the last word of the reference that is
# still free.
#
# Synonyms need a dictionary. METEOR's is WordNet, a data base that groups words into sets of one meaning; it has to be downloaded, so our
# `meteor` does without it.

# %% tags=["exercise"]
from week3_evaluation.solutions.ngram_metrics import meteor


# %%
class TinyWordNet:
    """Stands for NLTK's WordNet: what it calls a synset is a list of words with one meaning."""

    def __init__(self, *groups: set[str]):
        self.groups = groups

    def synsets(self, word: str) -> list["Synset"]:
        return [Synset(group) for group in self.groups if word in group]


class Synset:
    def __init__(self, words: set[str]):
        self.words = words

    def lemmas(self) -> list["Lemma"]:
        return [Lemma(word) for word in sorted(self.words)]


class Lemma:
    def __init__(self, word: str):
        self.word = word

    def name(self) -> str:
        return self.word


def nltk_meteor(candidate: str, group: list[str], wordnet: TinyWordNet) -> float:
    return meteor_score([tokenize_13a(text.lower()) for text in group], tokenize_13a(candidate.lower()), wordnet=wordnet)


empty = TinyWordNet()
pairs = list(zip(candidates, references, strict=True))
worst = max(abs(meteor(*pair) - nltk_meteor(*pair, empty)) for pair in tqdm(pairs, desc="NLTK"))
print(f"METEOR of {len(pairs)} texts without synonyms: largest difference from NLTK {worst:.0e}")
assert worst < 1e-6

lad = ("the lad was glad", ["the boy was happy"])
print("no synonyms:", round(nltk_meteor(*lad, empty), 3))
print("boy = lad, happy = glad:", round(nltk_meteor(*lad, TinyWordNet({"boy", "lad"}, {"happy", "glad"})), 3))

# %% [markdown]
# ## CIDEr
#
# For image captions, *a photo of a* is in every reference and says nothing. CIDEr weighs each n-gram by how rare it is, as search engines
# do with tf-idf: an n-gram that stands in the references of few items tells much. With $I$ the items, $h(g)$ the count of
# the n-gram $g$ in a text and $\text{df}(g)$ the number of items with $g$ in some reference,
#
# $$v_n(g) = h(g) \cdot \ln \frac{|I|}{\max(1, \text{df}(g))} \qquad
# \text{CIDEr}_n(c, R) = \frac{1}{|R|} \sum_{r \in R} \cos\big(v_n(c), v_n(r)\big) \qquad \text{CIDEr} = \frac{1}{N} \sum_{n=1}^{N} \text{CIDEr}_n$$
#
# (Vedantam et al. 2015, equations 1 to 3. Their $h$ is divided by the length of the text, which a cosine does not see.) Three
# things are new. It takes the *mean* over the references, not the best: consensus is what it asks for. The words are stemmed. And a
# text's score depends on the whole data set, through df: with a single item, all weights are $\ln 1 = 0$.
#
# The code in coco-caption and nlg-eval is **CIDEr-D**. It differs: no stems; the candidate's weight of an n-gram is
# clipped to the reference's, so that repeating a rare word does not pay; each cosine is multiplied by
# $e^{-\Delta^2 / (2 \cdot 6^2)}$ for a difference of $\Delta$ in length; and all by 10.

# %% tags=["exercise"]
from week3_evaluation.solutions.ngram_metrics import cider

# %% [markdown]
# No library that we install has the CIDEr of the paper. So it is compared with the same equation computed in quite another way: scikit-learn's term-document matrices, one
# column for each n-gram.

# %%
from sklearn.feature_extraction.text import CountVectorizer


def ngram_texts(text: str, n: int) -> list[str]:
    tokens = tokenize_rouge(text, stemmed=True)
    return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def cider_by_matrices(candidates: list[str], references: list[list[str]]) -> np.ndarray:
    """For candidates that all have the same number of references."""
    scores = 0
    for n in (1, 2, 3, 4):
        counter = CountVectorizer(analyzer=lambda text, n=n: ngram_texts(text, n))
        ours = counter.fit(candidates + sum(references, [])).transform(candidates).toarray()
        theirs = [counter.transform(list(column)).toarray() for column in zip(*references, strict=True)]
        df = (sum(theirs) > 0).sum(axis=0)
        ours, theirs = ours * np.log(len(ours) / df.clip(1)), [m * np.log(len(ours) / df.clip(1)) for m in theirs]
        norm = lambda m: np.linalg.norm(m, axis=1)  # noqa: E731
        scores = scores + sum((ours * m).sum(axis=1) / (norm(ours) * norm(m)) for m in theirs) / len(theirs) / 4
    return scores


ours = cider(candidates, references)
print(f"CIDEr {fmean(ours):.4f}, largest difference {np.abs(ours - cider_by_matrices(candidates, references)).max():.0e}")
assert np.allclose(ours, cider_by_matrices(candidates, references), atol=1e-6)
photos = ["a photo of a red kite", "a photo of an old dog", "a photo of two boats"]
print(dict(zip(["a photo of", "an old dog"], cider(["a photo of", "an old dog", ""], photos)[:2], strict=True)))

# %% [markdown]
# ## All in one call
#
# The repository nlg-eval computes all of these in one call. So does ours; with `embed`, a function from texts
# to word vectors, it adds the three embedding scores of the next lesson.

# %%
from week3_evaluation.generation_report import generation_report

report = generation_report(candidates, references)
report

# %% [markdown]
# (Scores run from 0 to 1. nlg-eval's METEOR knows synonyms, its ROUGE-L has $\beta = 1.2$, its CIDEr is CIDEr-D.)
#
# Hugging Face's `evaluate` is the other way in which metrics travel: `evaluate.load("bleu")` fetches a metric from the hub, and
# `evaluate.load` of a folder takes your own. `week3_evaluation/metrics/` has four such folders with one short file each: look at one. (They call the course's own
# solutions, not your answers.)

# %%
import evaluate

for name, key in (("bleu", "BLEU-4"), ("meteor", "METEOR"), ("rouge", "ROUGE-L"), ("cider", "CIDEr")):
    metric = evaluate.load(str(ROOT / "week3_evaluation" / "metrics" / name))
    result = metric.compute(predictions=candidates, references=references)
    ours = result.get("rougeL", result.get(name))
    print(f"{name:7s} {ours:.4f}")
    assert abs(ours - report[key]) < 1e-9
if hub_reachable():
    firsts = [group[0] for group in references]
    hub = evaluate.load("bleu").compute(predictions=candidates, references=firsts)["bleu"]
    print(f"the hub's own BLEU, one reference: {hub:.4f}; yours {bleu(candidates, firsts):.4f}")
else:
    print("The hub is not reachable: its own metrics are not compared here.")

# %% [markdown]
# ## On trial: other words, same words
#
# Thirty pairs, written by hand for this course, of three kinds. A reader needs no metric for them:

# %%
for kind in (PARAPHRASE, NONSENSE, TURNED_ROUND):
    pair = next(pair for pair in PARAPHRASES if pair.kind == kind)
    print(f"{kind}\n  candidate: {pair.candidate}\n  reference: {pair.reference}\n")

# %% [markdown]
# A paraphrase is right; nonsense is worthless; a near copy that is turned round is worse than nothing. **Predict.** How will the
# four metrics rank the three kinds?

# %%
def score_each(candidates: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """Each metric's score of each candidate."""
    pairs = list(zip(candidates, references, strict=True))
    return {
        "BLEU": np.array([bleu([candidate], [text], smoothing="exp") for candidate, text in pairs]),
        "ROUGE-1": np.array([rouge_n(*pair)[2] for pair in pairs]),
        "ROUGE-2": np.array([rouge_n(*pair, 2)[2] for pair in pairs]),
        "ROUGE-L": np.array([rouge_l(*pair)[2] for pair in pairs]),
        "METEOR": np.array([meteor(*pair) for pair in pairs]),
        "CIDEr": np.array(cider(candidates, references)),
    }


kinds = np.array([pair.kind for pair in PARAPHRASES])
trial = score_each([pair.candidate for pair in PARAPHRASES], [pair.reference for pair in PARAPHRASES])
by_kind = {
    kind: {name: bootstrap(np.mean, scores[kinds == kind]) for name, scores in trial.items()}
    for kind in (PARAPHRASE, NONSENSE, TURNED_ROUND)
}
last = min(by_kind[PARAPHRASE], key=lambda name: by_kind[PARAPHRASE][name][0])
worst_gap = min(by_kind[NONSENSE][name][0] - by_kind[PARAPHRASE][name][0] for name in trial)
fig, ax = figure(f"Each metric puts nonsense above a paraphrase, by {worst_gap:.2f} or more", ylabel="score", width=7.5)
plot_intervals(ax, by_kind)
ax.set_ylim(0, 1.35)
ax.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
plt.show()
for kind, values in by_kind.items():
    print(f"{kind:40s}", "  ".join(f"{name} {middle:.2f}" for name, (middle, _, _) in values.items()))
assert worst_gap > 0

# %% [markdown]
# (Means and 95 % intervals by bootstrap over the pairs.) None of them sees meaning; they see words, and the wrong way round is the
# right way to a high score. Callison-Burch et al. 2006 ([E06-1032](https://aclanthology.org/E06-1032/)) made the point for BLEU: where
# a candidate has no matching pair of words it can be cut, and its pieces shuffled, and no match is lost. Our nonsense goes further: the
# reference itself was cut and shuffled, and it loses only the matches at the cuts.
#
# Is the trial fair? It was written to find the weakness: paraphrases in practice share more words with a reference than ours do. So
# the next question is how much it matters where the texts are not chosen against the metric.
#
# ## Correlation with the truth
#
# A metric is a stand-in for a judge, so it is judged by its correlation with judges. Usually these are people. In our small world
# there is a better one: the truth. Each story of the plot *lost* has six facts in its summary: who lost it, who helped, what, its colour,
# where, and where it was found. `graded_summaries` writes candidates with 0 to 6 of them changed, in three wordings, all of which
# tell all six. The first is the reference's own.

# %%
graded = graded_summaries(600)
summaries, golds = [one.text for one in graded], [one.reference for one in graded]
n_right, wordings = np.array([one.n_right for one in graded]), np.array([one.wording for one in graded])
print("reference:", golds[0])
for wording in WORDINGS:
    print(f"{wording}, all right: {write(graded[0].facts, wording)}")
print(f"\n{wordings[1]}, {n_right[1]} of 6 right: {summaries[1]}\nreference: {golds[1]}")

# %% [markdown]
# **Predict.** The correlation (Pearson's r) between a metric and the number of right facts: first among candidates in the reference's
# wording, then among those in other words, then with all three wordings mixed, as when you compare the texts of different models.
# Where is it lowest?

# %%
def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


scored = score_each(summaries, golds)
groups = {"as the reference": wordings == "as the reference", "other words": wordings == "other words",
          "three wordings mixed": wordings == wordings}  # fmt: skip
with_truth = {
    label: {name: bootstrap(correlation, scores[rows], n_right[rows]) for name, scores in scored.items()}
    for label, rows in tqdm(groups.items(), desc="bootstrap")
}
mixed = with_truth["three wordings mixed"]
best_mixed = max(mixed, key=lambda name: mixed[name][0])
fig, ax = figure(
    f"Mixed wordings: r = {min(m for m, _, _ in mixed.values()):.2f} to {mixed[best_mixed][0]:.2f} (best: {best_mixed}); one wording: "
    f"{min(m for m, _, _ in with_truth['as the reference'].values()):.2f} or more",
    ylabel="correlation with the number of right facts", width=7.5,
)  # fmt: skip
plot_intervals(ax, with_truth)
ax.set_ylim(0, 1.35)
ax.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
plt.show()
for label, values in with_truth.items():
    print(f"{label} ({int(groups[label].sum())} texts)")
    print("   " + "  ".join(f"{name} {middle:.2f} [{low:.2f}, {high:.2f}]" for name, (middle, low, high) in values.items()))

# %% [markdown]
# The next table says the same with scores. **Predict.** From how many wrong facts on does a text in the reference's words get a lower BLEU than a text
# in other words without a single mistake?

# %%
print(f"mean BLEU      {'  '.join(f'{6 - k} wrong' for k in range(6, -1, -1))}")
means = {}
for wording in WORDINGS:
    cells = [scored["BLEU"][(wordings == wording) & (n_right == k)] for k in range(6, -1, -1)]
    means[wording] = [cell.mean() for cell in cells]
    print(f"{wording:17s}", "   ".join(f"{mean:5.2f}" for mean in means[wording]))
flawless = means["other words"][0]
print(f"\nIn other words, nothing wrong: {flawless:.2f}. In the reference's words, all six facts wrong: {means['as the reference'][6]:.2f}.")
assert means["as the reference"][6] > flawless

# %% [markdown]
# Never: with all six facts wrong, it still has more. In the reference's own wording every metric counts facts well, for each wrong one takes
# n-grams away. That is the honest use: two versions of *one* system, which phrase things alike. In other words BLEU and
# ROUGE-L lose most of all: one needs runs of equal words, the other the reference's order. And as soon as wordings are mixed,
# the wording is the larger part of the score.
#
# What follows for the use of these numbers:
#
# - Compare systems that write alike, on the same references, with one program and its signature.
# - Give several references where you can; each is another wording that counts as right.
# - Report an interval. A difference that is smaller than the interval says nothing.
# - Where facts matter, ask for facts (lesson 04). Where wording should not matter, compare meanings (lesson 03).
#
# ## Read
#
# - Papineni et al. 2002, section 2: why each part of the formula is there.
# - Lin 2004, section 3, on ROUGE-L: the example in which word order matters.
# - Vedantam et al. 2015: the three equations, and CIDEr-D: how could the first version be gamed?
# - sacrebleu, `sacrebleu/metrics/bleu.py`: find the smoothing, and the line for the closest reference.
# - nlg-eval, `nlgeval/__init__.py`: `NLGEval` and `compute_metrics`, the call that `generation_report` stands for.
#
# ## What you have
#
# Four metrics, equal to the libraries that people quote; the knowledge of what each counts; and a measured answer to the question
# how far to trust them.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("ngram_metrics")

# %%
progress("week3_evaluation")
