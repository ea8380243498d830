"""Scores of a text against references, by the words that they share: BLEU, ROUGE, METEOR, CIDEr. All from 0 to 1."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

from nltk.stem.porter import PorterStemmer

SYMBOLS = str.maketrans({symbol: f" {symbol} " for symbol in '!"#$%&()*+/:;<=>?@[\\]^_`{|}~'})
ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
POINT_AFTER_OTHER = re.compile(r"([^0-9])([.,])")  # a point or comma belongs to a number only between two digits
POINT_BEFORE_OTHER = re.compile(r"([.,])([^0-9])")
DASH_AFTER_DIGIT = re.compile(r"([0-9])-")
WORD = re.compile(r"[a-z0-9]+")

stem = cache(PorterStemmer().stem)  # Porter's rules take a while, and words come again


def tokenize_13a(text: str) -> list[str]:
    """Words, numbers and punctuation marks, as in the script mteval-v13a of the translation contests.

    An apostrophe, and a hyphen between letters, stay in their word. Example: "It's 3.5, isn't it?" ->
    ["It's", "3.5", ",", "isn't", "it", "?"].
    """
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, symbol in ENTITIES.items():
        text = text.replace(entity, symbol)
    text = f" {text} ".translate(SYMBOLS)
    text = POINT_AFTER_OTHER.sub(r"\1 \2 ", text)
    text = POINT_BEFORE_OTHER.sub(r" \1 \2", text)
    return DASH_AFTER_DIGIT.sub(r"\1 - ", text).split()


def tokenize_rouge(text: str, stemmed: bool = False) -> list[str]:
    """Runs of a to z and 0 to 9 in lower case; `stemmed` puts Porter's stem for words of more than three letters.

    Example: "The cat's toys!" -> ["the", "cat", "s", "toys"], stemmed ["the", "cat", "s", "toy"].
    """
    tokens = WORD.findall(text.lower())
    return [stem(token) if len(token) > 3 else token for token in tokens] if stemmed else tokens


def check_pair(candidate: str, references: str | Sequence[str]) -> list[str]:
    """One reference or several as a list. TypeError for what is not a string, ValueError for no reference."""
    group = [references] if isinstance(references, str) else references
    if not isinstance(group, (list, tuple)) or not all(isinstance(text, str) for text in (candidate, *group)):
        raise TypeError(f"a candidate and its references must be strings, got {candidate!r} and {references!r}")
    if not group:
        raise ValueError("a candidate has no reference: its list is empty")
    return list(group)


def check_pairs(candidates: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """The references of each candidate as lists; TypeError or ValueError for what cannot be scored."""
    if isinstance(candidates, str) or isinstance(references, str):
        raise TypeError("candidates and references are lists of texts, not one string: put it into a list")
    if len(candidates) != len(references):
        raise ValueError(f"there are {len(candidates)} candidates, but references for {len(references)}")
    if not candidates:
        raise ValueError("there is nothing to score: no candidates")
    return [check_pair(candidate, group) for candidate, group in zip(candidates, references, strict=True)]


def ngram_counts(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of n tokens occurs. Example: ["a", "b", "a", "b"], 2 -> {("a", "b"): 2, ("b", "a"): 1}.

    Fewer than n tokens have no n-grams. Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more, got {n}")
    # BEGIN SOLUTION
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    # END SOLUTION


SMOOTHINGS = ("none", "floor", "add-k", "exp")


def smoothed_precisions(matches: Sequence[int], totals: Sequence[int], smoothing: str) -> list[float]:
    """matches[n] / totals[n] of each order, with something in place of the zeros. Chen and Cherry 2014, as sacrebleu.

    "none": zeros stay. "floor": 0.1 matches where there are none. "add-k": one match and one n-gram more, from bigrams
    on. "exp": 1/2 match for the first order without any, 1/4 for the second, and so on. An order without n-grams is 0.
    """
    precisions, misses = [], 0
    for order, (match, total) in enumerate(zip(matches, totals, strict=True)):
        if smoothing == "add-k" and order > 0:
            match, total = match + 1, total + 1
        if match == 0 and total > 0:
            misses += 1
            match = {"none": 0, "floor": 0.1, "add-k": 0, "exp": 0.5**misses}[smoothing]
        precisions.append(match / total if total else 0.0)
    return precisions


def bleu(
    candidates: Sequence[str],
    references: Sequence[str | Sequence[str]],
    max_order: int = 4,
    smoothing: str = "none",
) -> float:
    """BLEU of a corpus, 0 to 1 (sacrebleu prints 100 times this). Papineni et al. 2002, §2; tokens of `tokenize_13a`.

    min(1, e^(1 - r/c)) · (p_1 · … · p_N)^(1/N). p_n: the candidates' n-grams found in a reference, an n-gram counting
    at most as often as in the reference that has it most, over all their n-grams. c: the candidates' length; r: the sum
    of the lengths of the closest references (of two equally close, the shorter). Without any match 0, however smoothed.
    Raises ValueError for unequal lengths, nothing, no references or an unknown smoothing, TypeError for non-strings.
    """
    grouped = check_pairs(candidates, references)
    if smoothing not in SMOOTHINGS or max_order < 1:
        raise ValueError(f"smoothing is one of {SMOOTHINGS} and max_order 1 or more, got {smoothing!r}, {max_order}")
    # BEGIN SOLUTION
    matches, totals = [0] * max_order, [0] * max_order
    candidate_length = reference_length = 0
    for candidate, group in zip(candidates, grouped, strict=True):
        tokens, reference_tokens = tokenize_13a(candidate), [tokenize_13a(text) for text in group]
        candidate_length += len(tokens)
        reference_length += min((abs(len(other) - len(tokens)), len(other)) for other in reference_tokens)[1]
        for n in range(1, max_order + 1):
            counts = ngram_counts(tokens, n)
            allowed = ngram_counts(reference_tokens[0], n)
            for other in reference_tokens[1:]:
                allowed |= ngram_counts(other, n)
            matches[n - 1] += sum(min(counts[gram], allowed[gram]) for gram in counts.keys() & allowed.keys())
            totals[n - 1] += max(len(tokens) - n + 1, 0)
    precisions = smoothed_precisions(matches, totals, smoothing)
    if not any(matches) or not all(precisions):
        return 0.0
    brevity_penalty = min(1.0, math.exp(1 - reference_length / candidate_length))
    return brevity_penalty * math.exp(sum(map(math.log, precisions)) / max_order)
    # END SOLUTION


def precision_recall_f1(overlap: int, n_candidate: int, n_reference: int) -> tuple[float, float, float]:
    """The overlap as a share of the candidate, of the reference, and 2PR / (P + R); 0 in place of 0 / 0."""
    precision, recall = (overlap / n if n else 0.0 for n in (n_candidate, n_reference))
    return precision, recall, 2 * precision * recall / (precision + recall) if overlap else 0.0


def rouge_n(
    candidate: str, references: str | Sequence[str], n: int = 1, stemmed: bool = False
) -> tuple[float, float, float]:
    """Precision, recall and F1 of the n-grams that the two texts share, each as often as both have it.

    Tokens of `tokenize_rouge`. Of several references the one with the best F1 counts (the first of equals). Lin 2004,
    §2, whose ROUGE-N is the recall. Example: "the cat sat" against "the cat", n=1 -> (0.667, 1, 0.8).
    A text without n-grams scores 0. Raises ValueError for n < 1 or no references, TypeError for non-strings.
    """
    group = check_pair(candidate, references)
    # BEGIN SOLUTION
    counts = ngram_counts(tokenize_rouge(candidate, stemmed), n)
    scores = []
    for reference in group:
        others = ngram_counts(tokenize_rouge(reference, stemmed), n)
        overlap = sum(min(counts[gram], others[gram]) for gram in counts.keys() & others.keys())
        scores.append(precision_recall_f1(overlap, counts.total(), others.total()))
    return max(scores, key=lambda score: score[2])
    # END SOLUTION


def rouge_l(candidate: str, references: str | Sequence[str], stemmed: bool = False) -> tuple[float, float, float]:
    """Precision, recall and F1 of the longest common subsequence: words in the same order, with gaps allowed.

    Tokens and several references as in `rouge_n`. Lin 2004, §3.1, with β = 1. Example: "police kill the gunman"
    against "police killed the gunman" -> LCS of 3 words, (0.75, 0.75, 0.75). A text without words scores 0.
    """
    group = check_pair(candidate, references)
    # BEGIN SOLUTION
    tokens = tokenize_rouge(candidate, stemmed)
    scores = []
    for reference in group:
        others = tokenize_rouge(reference, stemmed)
        longest = [0] * (len(others) + 1)  # longest[j]: of the tokens so far and the first j of the others
        for token in tokens:
            before = 0  # longest[j - 1] of the row above
            for j, other in enumerate(others, 1):
                above = longest[j]
                if token == other:
                    longest[j] = before + 1
                elif longest[j - 1] > above:
                    longest[j] = longest[j - 1]
                before = above
        scores.append(precision_recall_f1(longest[-1], len(tokens), len(others)))
    return max(scores, key=lambda score: score[2])
    # END SOLUTION


def meteor(candidate: str, references: str | Sequence[str]) -> float:
    """METEOR without synonyms; the best over the references. Banerjee and Lavie 2005, §2.2; `tokenize_13a`, lower case.

    Each word is matched with at most one of the reference: from the last word of the candidate to the first, it takes
    the last free one that is equal; then, so again, the unmatched words one with the same Porter stem. m matches that
    form `chunks` runs, adjacent and in the same order in both: 10PR / (R + 9P) · (1 - 0.5 (chunks / m)³), P = m /
    candidate words, R = m / reference words. Example: "b c a" against "a b c" -> 2 chunks, 0.852. No match: 0.
    """
    group = check_pair(candidate, references)
    # BEGIN SOLUTION
    words = tokenize_13a(candidate.lower())
    best = 0.0
    for reference in group:
        others = tokenize_13a(reference.lower())
        matched: dict[int, int] = {}  # position in the candidate -> in the reference
        for form in (str, stem):
            free: dict[str, list[int]] = {}
            for j in sorted(set(range(len(others))) - set(matched.values())):
                free.setdefault(form(others[j]), []).append(j)
            for i in reversed(range(len(words))):
                if i not in matched and free.get(form(words[i])):
                    matched[i] = free[form(words[i])].pop()
        if not matched:
            continue
        n_chunks = sum(matched.get(i - 1, -2) != j - 1 for i, j in matched.items())
        precision, recall = len(matched) / len(words), len(matched) / len(others)
        f_mean = 10 * precision * recall / (recall + 9 * precision)
        best = max(best, f_mean * (1 - 0.5 * (n_chunks / len(matched)) ** 3))
    return best
    # END SOLUTION


def cider(candidates: Sequence[str], references: Sequence[str | Sequence[str]], max_order: int = 4) -> list[float]:
    """CIDEr of each candidate, 0 to 1. Vedantam et al. 2015, eq. 1-3; tokens of `tokenize_rouge`, stemmed.

    For each n up to max_order: the cosine between the vectors of candidate and reference, averaged over its references;
    then the mean over n. A vector holds, for each n-gram, its count times ln(items / df): df of the items have it in
    one of their references at least (an n-gram that none has gets df = 1). A vector of zeros has cosine 0.
    The corpus's score is the mean. With one item every weight is ln 1 = 0, and so is the score. Errors as for `bleu`.
    """
    grouped = check_pairs(candidates, references)
    if max_order < 1:
        raise ValueError(f"max_order must be 1 or more, got {max_order}")
    # BEGIN SOLUTION
    tokens = [tokenize_rouge(text, stemmed=True) for text in candidates]
    group_tokens = [[tokenize_rouge(text, stemmed=True) for text in group] for group in grouped]
    totals = [0.0] * len(candidates)
    for n in range(1, max_order + 1):
        counts = [[ngram_counts(other, n) for other in group] for group in group_tokens]
        frequency = Counter(gram for group in counts for gram in set().union(*group))

        def weighted(grams: Counter, frequency: Counter = frequency) -> dict[tuple[str, ...], float]:
            """The vector divided by its length."""
            vector = {
                gram: count * math.log(len(candidates) / max(1, frequency[gram])) for gram, count in grams.items()
            }
            length = math.sqrt(sum(value * value for value in vector.values()))
            return {gram: value / length for gram, value in vector.items()} if length else {}

        for i, group in enumerate(counts):
            mine = weighted(ngram_counts(tokens[i], n))
            for other in map(weighted, group):
                cosine = sum(value * other.get(gram, 0.0) for gram, value in mine.items())
                totals[i] += cosine / len(group)
    return [total / max_order for total in totals]
    # END SOLUTION
