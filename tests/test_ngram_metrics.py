"""The reference of week 3's 02_ngram_metrics against sacrebleu, rouge_score, NLTK, and plain matrices for CIDEr."""

import math
import random

import evaluate
import numpy as np
import pytest
import sacrebleu
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sklearn.feature_extraction.text import CountVectorizer

from shared.course import ROOT
from shared.data import stories
from week3_evaluation.generation_report import generation_report
from week3_evaluation.paraphrases import NONSENSE, PARAPHRASE, PARAPHRASES, TURNED_ROUND
from week3_evaluation.solutions.ngram_metrics import (
    SMOOTHINGS,
    bleu,
    cider,
    meteor,
    ngram_counts,
    rouge_l,
    rouge_n,
    tokenize_13a,
    tokenize_rouge,
)

N_PAIRS = 1000
MARKS = ["", "", "", ",", ".", "!", "'s", "-", " 3.5", " 1,000", " -", "&amp;", '"', "…", " 20-30", ".5"]


def noisy(dice: random.Random, words: list[str]) -> str:
    """Some of the words, some twice, some swapped, some inflected, with punctuation and numbers between them."""
    kept = [word for word in words for _ in range(dice.choice([0, 1, 1, 1, 1, 2]))]
    for _ in range(dice.randrange(4)):
        if len(kept) > 1:
            i, j = dice.sample(range(len(kept)), 2)
            kept[i], kept[j] = kept[j], kept[i]
    kept = [word + dice.choice(["ing", "s", "ed"]) if dice.random() < 0.1 else word for word in kept]
    return " ".join(word.upper() if dice.random() < 0.05 else word + dice.choice(MARKS) for word in kept)


def random_pairs(seed: int, n: int = N_PAIRS, most: int = 3) -> tuple[list[str], list[list[str]]]:
    """Candidates and one to three references each, all changed from sentences of the stories; some texts are empty."""
    dice = random.Random(seed)
    told = [story.text.split() for story in stories(100, seed=1)]
    candidates, references = [], []
    for _ in range(n):
        start = dice.randrange(40)
        words = dice.choice(told)[start : start + dice.randrange(0, 25)]
        candidates.append(noisy(dice, words))
        references.append([noisy(dice, words) for _ in range(dice.randint(1, most))])
    return candidates, references


CANDIDATES, REFERENCES = random_pairs(0)


def test_the_tokenizers_equal_the_libraries_on_ten_thousand_texts():
    dice, theirs = random.Random(1), Tokenizer13a()
    with_stems = RougeScorer(["rouge1"], use_stemmer=True)._tokenizer
    without = RougeScorer(["rouge1"])._tokenizer
    alphabet = "ab1 .,-'\"&;$%()<>é\n"
    texts = ["".join(dice.choices(alphabet, k=dice.randrange(30))) for _ in range(9000)] + CANDIDATES
    for text in texts + ["&quot;a&lt;b&gt;", "x<skipped>y", "end-\nof-line"]:
        assert tokenize_13a(text) == theirs(text.rstrip()).split()
        assert tokenize_rouge(text) == without.tokenize(text)
        assert tokenize_rouge(text, stemmed=True) == with_stems.tokenize(text)


def sacrebleu_score(candidates, references, **settings) -> float:
    streams = [[group[i] if i < len(group) else None for group in references] for i in range(3)]
    return sacrebleu.BLEU(**settings).corpus_score(candidates, streams).score / 100


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_bleu_equals_sacrebleu_on_a_thousand_pairs_and_on_each_alone(smoothing):
    for max_order in (1, 2, 4):
        settings = {"smooth_method": smoothing, "max_ngram_order": max_order}
        theirs = sacrebleu_score(CANDIDATES, REFERENCES, **settings)
        assert bleu(CANDIDATES, REFERENCES, max_order, smoothing) == pytest.approx(theirs, abs=1e-6)
    for candidate, group in zip(CANDIDATES, REFERENCES, strict=True):
        theirs = sacrebleu_score([candidate], [group], smooth_method=smoothing)
        assert bleu([candidate], [group], smoothing=smoothing) == pytest.approx(theirs, abs=1e-6)


def test_bleu_of_small_corpora_equals_sacrebleu():
    dice = random.Random(2)
    for _ in range(200):
        rows = dice.sample(range(N_PAIRS), 5)
        candidates, references = [CANDIDATES[i] for i in rows], [REFERENCES[i] for i in rows]
        assert bleu(candidates, references) == pytest.approx(
            sacrebleu_score(candidates, references, smooth_method="none"), abs=1e-6
        )


@pytest.mark.parametrize("stemmed", [False, True])
def test_rouge_equals_rouge_score_on_a_thousand_pairs(stemmed):
    scorer = RougeScorer(["rouge1", "rouge2", "rouge4", "rougeL"], use_stemmer=stemmed)
    for candidate, group in zip(CANDIDATES, REFERENCES, strict=True):
        theirs = scorer.score_multi(group, candidate)
        for n in (1, 2, 4):
            assert rouge_n(candidate, group, n, stemmed) == pytest.approx(tuple(theirs[f"rouge{n}"]), abs=1e-6)
        assert rouge_l(candidate, group, stemmed) == pytest.approx(tuple(theirs["rougeL"]), abs=1e-6)


class NoSynonyms:
    """Stands for NLTK's WordNet, which knows no word."""

    def synsets(self, word):
        return []


def test_meteor_equals_nltk_on_a_thousand_pairs():
    for candidate, group in zip(CANDIDATES, REFERENCES, strict=True):
        words, others = (lambda t: tokenize_13a(t.lower()))(candidate), [tokenize_13a(text.lower()) for text in group]
        assert meteor(candidate, group) == pytest.approx(meteor_score(others, words, wordnet=NoSynonyms()), abs=1e-6)


def joined(words: list[str], n: int) -> list[str]:
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def matrix_cider(candidates: list[str], references: list[list[str]]) -> np.ndarray:
    """CIDEr by term-document matrices over one vocabulary: slow, and nothing in common with the solution's loops."""
    total = np.zeros(len(candidates))
    flat = [text for group in references for text in group]
    item_of = np.repeat(np.arange(len(references)), [len(group) for group in references])
    for n in range(1, 5):
        counter = CountVectorizer(analyzer=lambda text, n=n: joined(tokenize_rouge(text, True), n))
        matrix = counter.fit_transform(candidates + flat).toarray().astype(float)
        mine, theirs = matrix[: len(candidates)], matrix[len(candidates) :]
        in_item = np.stack([(theirs[item_of == i] > 0).any(axis=0) for i in range(len(references))])
        idf = np.log(len(references) / np.maximum(in_item.sum(axis=0), 1))
        share = lambda m: m / np.maximum(m.sum(axis=1, keepdims=True), 1)  # noqa: E731 - term frequency as in eq. 1
        mine, theirs = share(mine) * idf, share(theirs) * idf
        norms = [np.maximum(np.linalg.norm(m, axis=1), 1e-300) for m in (mine, theirs)]
        cosine = (mine[item_of] * theirs).sum(axis=1) / norms[0][item_of] / norms[1]
        total += np.bincount(item_of, cosine) / np.bincount(item_of)
    return total / 4


@pytest.mark.parametrize("seed", range(10))
def test_cider_equals_matrices_of_the_papers_equation(seed):
    candidates, references = random_pairs(seed + 10, n=100)
    candidates = [text or "nothing at all" for text in candidates]
    assert cider(candidates, references) == pytest.approx(matrix_cider(candidates, references).tolist(), abs=1e-9)


def test_cider_does_not_reward_what_every_reference_says():
    references = ["a photo of a red kite", "a photo of an old dog", "a photo of two boats"]
    common, telling, _ = cider(["a photo of", "an old dog", "x"], references)
    assert common == 0 and telling > 0.5
    assert cider(["a red kite"], ["a red kite"]) == [0.0]


@pytest.mark.parametrize("metric", [bleu, cider])
def test_perfect_and_disjoint_corpora(metric):
    texts = [story.text for story in stories(20)]
    score = lambda candidates: np.mean(metric(candidates, texts))  # noqa: E731
    assert score(texts) == pytest.approx(1)
    assert score(["zzz yyy xxx www vvv"] * 20) == 0
    assert score([""] * 20) == 0


def test_sentence_scores_of_equal_and_of_empty_texts():
    for text in (story.text for story in stories(20)):
        assert rouge_n(text, text, 2) == rouge_l(text, text) == (1, 1, 1)
        n_words = len(tokenize_13a(text))
        assert meteor(text, text) == pytest.approx(1 - 0.5 / n_words**3)
    for candidate, reference in (("", "a word"), ("a word", ""), ("", ""), ("...", "a word")):
        assert rouge_n(candidate, reference) == rouge_l(candidate, reference) == (0, 0, 0)
        assert meteor(candidate, reference) == 0


def test_the_examples_of_the_papers():
    assert bleu(
        ["the the the the the the the"], [["the cat is on the mat", "there is a cat on the mat"]], 1
    ) == pytest.approx(2 / 7)
    for candidate, expected in (("police kill the gunman", 0.75), ("the gunman kill police", 0.5)):
        assert rouge_l(candidate, "police killed the gunman") == pytest.approx((expected,) * 3)
    assert ngram_counts(["a", "b", "a", "b"], 2) == {("a", "b"): 2, ("b", "a"): 1}
    assert meteor("b c a", "a b c") == pytest.approx(1 - 0.5 * (2 / 3) ** 3)


@pytest.mark.parametrize("metric", [bleu, cider, generation_report])
@pytest.mark.parametrize(
    ("candidates", "references", "error", "words"),
    [
        ([], [], ValueError, "no candidates"),
        (["a"], ["a", "b"], ValueError, "1 candidates.*for 2"),
        (["a"], [[]], ValueError, "no reference"),
        ("a text", ["a text"], TypeError, "not one string"),
        ([None], ["a"], TypeError, "must be strings"),
        (["a"], [["b", 3]], TypeError, "must be strings.*3"),
        (["a"], [None], TypeError, "must be strings"),
    ],
)  # fmt: skip
def test_bad_corpora_are_refused(metric, candidates, references, error, words):
    with pytest.raises(error, match=words):
        metric(candidates, references)


@pytest.mark.parametrize("metric", [rouge_n, rouge_l, meteor])
def test_bad_pairs_are_refused(metric):
    with pytest.raises(ValueError, match="no reference"):
        metric("a", [])
    for candidate, references in ((None, "a"), ("a", None), ("a", ["b", 3]), (["a"], "a")):
        with pytest.raises(TypeError, match="must be strings"):
            metric(candidate, references)


def test_settings_out_of_range_are_refused():
    for call in (
        lambda: bleu(["a"], ["a"], smoothing="some"), lambda: bleu(["a"], ["a"], 0), lambda: cider(["a"], ["a"], 0),
        lambda: rouge_n("a", "a", 0), lambda: ngram_counts(["a"], 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="got"):
            call()


def test_the_report_holds_each_metric_of_the_corpus():
    candidates, references = CANDIDATES[:200], REFERENCES[:200]
    report = generation_report(candidates, references)
    names = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert list(report) == names
    for n in (1, 2, 3, 4):
        assert report[f"BLEU-{n}"] == bleu(candidates, references, n)
    pairs = list(zip(candidates, references, strict=True))
    assert report["METEOR"] == pytest.approx(np.mean([meteor(*pair) for pair in pairs]))
    assert report["ROUGE-L"] == pytest.approx(np.mean([rouge_l(*pair)[2] for pair in pairs]))
    assert report["CIDEr"] == pytest.approx(np.mean(cider(candidates, references)))
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == names
    assert lines[0].split()[1] == f"{report['BLEU-1']:.3f}"
    assert report._repr_html_().count("<tr") == len(names)


def test_the_report_takes_the_best_reference_by_its_embedding():
    import torch

    vectors = {"x": [[1.0, 0.0]], "y": [[0.0, 1.0]], "xy": [[1.0, 0.0], [0.0, 1.0]]}
    calls = []

    def embed(texts):
        calls.append(list(texts))
        return [torch.tensor(vectors[text]) for text in texts]

    report = generation_report(["x", "x"], [["y", "xy"], "x"], embed=embed)
    assert report["average"] == pytest.approx((math.sqrt(0.5) + 1) / 2)
    assert report["extrema"] == pytest.approx((math.sqrt(0.5) + 1) / 2)
    assert report["greedy"] == pytest.approx((0.75 + 1) / 2)
    assert len(calls) == 1  # all texts at once


def test_the_hand_written_pairs_do_what_they_were_written_for():
    by_kind = {kind: [p for p in PARAPHRASES if p.kind == kind] for kind in (PARAPHRASE, NONSENSE, TURNED_ROUND)}
    assert [len(pairs) for pairs in by_kind.values()] == [12, 8, 10]
    assert len(PARAPHRASES) == len({p.candidate for p in PARAPHRASES}) == 30
    scores = {
        kind: [bleu([p.candidate], [p.reference], smoothing="exp") for p in pairs] for kind, pairs in by_kind.items()
    }
    assert max(scores[PARAPHRASE]) < 0.1 < min(scores[NONSENSE] + scores[TURNED_ROUND])
    for pair in by_kind[NONSENSE]:  # the reference's own words, each as often
        assert sorted(tokenize_rouge(pair.candidate)) == sorted(tokenize_rouge(pair.reference))


@pytest.mark.parametrize("several", [False, True])
def test_evaluate_loads_our_metrics_from_their_folders(several, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    candidates = CANDIDATES[:30]
    references = REFERENCES[:30] if several else [group[0] for group in REFERENCES[:30]]
    report = generation_report(candidates, references)
    for name, key, theirs in (
        ("bleu", "bleu", "BLEU-4"),
        ("rouge", "rougeL", "ROUGE-L"),
        ("meteor", "meteor", "METEOR"),
        ("cider", "cider", "CIDEr"),
    ):
        metric = evaluate.load(str(ROOT / "week3_evaluation" / "metrics" / name), cache_dir=str(tmp_path))
        assert metric.compute(predictions=candidates, references=references)[key] == pytest.approx(report[theirs])
    rouge = evaluate.load(str(ROOT / "week3_evaluation" / "metrics" / "rouge"), cache_dir=str(tmp_path))
    scores = rouge.compute(predictions=candidates, references=references, use_stemmer=True)
    pairs = zip(candidates, references, strict=True)
    assert scores["rouge2"] == pytest.approx(np.mean([rouge_n(*pair, 2, True)[2] for pair in pairs]))
