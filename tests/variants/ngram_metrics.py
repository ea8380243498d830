"""Right answers of week 3's lesson 02, written in other ways: the checks must accept them."""

import math
from collections import Counter, defaultdict
from functools import cache

import numpy as np
from nltk.stem.porter import PorterStemmer

from week3_evaluation.solutions.ngram_metrics import tokenize_13a, tokenize_rouge


def ngram_counts__slices(tokens, n):
    if n < 1:
        raise ValueError("n")
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def ngram_counts__one_by_one(tokens, n):
    if n < 1:
        raise ValueError("n")
    counts, window = Counter(), ()
    for token in tokens:
        window = (*window, token)[-n:]
        if len(window) == n:
            counts[window] += 1
    return counts


def _refuse(candidates, references):
    if isinstance(candidates, str) or len(candidates) != len(references) or not candidates:
        raise ValueError("lengths")
    grouped = [[group] if isinstance(group, str) else list(group) for group in references]
    for candidate, group in zip(candidates, grouped, strict=True):
        if not all(isinstance(text, str) for text in [candidate, *group]):
            raise TypeError("not a string")
        if not group:
            raise ValueError("no reference")
    return grouped


def bleu__numpy(candidates, references, max_order=4, smoothing="none"):
    grouped = _refuse(candidates, references)
    if smoothing not in ("none", "floor", "add-k", "exp") or max_order < 1:
        raise ValueError("settings")
    rows = []
    for candidate, group in zip(candidates, grouped, strict=True):
        words, others = tokenize_13a(candidate), [tokenize_13a(text) for text in group]
        lengths = sorted(len(other) for other in others)
        row = [len(words), lengths[int(np.argmin([abs(length - len(words)) for length in lengths]))]]
        for n in range(1, max_order + 1):
            grams = ngram_counts__slices(words, n)
            row += [
                sum(min(k, max(ngram_counts__slices(o, n)[g] for o in others)) for g, k in grams.items()),
                grams.total(),
            ]
        rows.append(row)
    length, closest, *counts = np.array(rows, dtype=float).sum(axis=0)
    matches, totals = np.array(counts[::2]), np.array(counts[1::2])
    if matches.sum() == 0:
        return 0.0
    if smoothing == "add-k":
        matches[1:] += 1
        totals[1:] += 1
    zero = (matches == 0) & (totals > 0)
    if smoothing == "floor":
        matches[zero] = 0.1
    if smoothing == "exp":
        matches[zero] = 2.0 ** -np.arange(1, zero.sum() + 1)
    if (matches == 0).any():
        return 0.0
    penalty = 1.0 if length >= closest else np.exp(1 - closest / length)
    return float(penalty * np.prod(matches / totals) ** (1 / max_order))


def bleu__in_one_counter(candidates, references, max_order=4, smoothing="none"):
    grouped = _refuse(candidates, references)
    if smoothing not in ("none", "floor", "add-k", "exp") or max_order < 1:
        raise ValueError("settings")

    def grams(words):
        spans = ((i, i + n) for n in range(1, max_order + 1) for i in range(len(words) - n + 1))
        return Counter(" ".join(words[i:j]) for i, j in spans)

    right, all_of_them, ours, theirs = defaultdict(int), defaultdict(int), 0, 0
    for candidate, group in zip(candidates, grouped, strict=True):
        words, others = tokenize_13a(candidate), [tokenize_13a(text) for text in group]
        best = None
        for other in others:
            if best is None or (abs(len(other) - len(words)), len(other)) < (abs(best - len(words)), best):
                best = len(other)
        ours, theirs = ours + len(words), theirs + best
        limits = [grams(other) for other in others]
        for gram, count in grams(words).items():
            n = gram.count(" ") + 1
            all_of_them[n] += count
            right[n] += min(count, max(limit[gram] for limit in limits))
    if not any(right.values()):
        return 0.0
    logarithm, halves = 0.0, 1.0
    for n in range(1, max_order + 1):
        k, total = right[n], all_of_them[n]
        if smoothing == "add-k" and n > 1:
            k, total = k + 1, total + 1
        if total == 0:
            return 0.0
        if k == 0:
            halves /= 2
            k = {"none": 0, "floor": 0.1, "exp": halves}[smoothing]
        if k == 0:
            return 0.0
        logarithm += (math.log(k) - math.log(total)) / max_order
    return math.exp(logarithm + min(0.0, 1 - theirs / ours))


def _group(candidate, references):
    return _refuse([candidate], [references if isinstance(references, (str, list)) else [references]])[0]


def _triple(shared, a, b):
    p, r = (shared / a if a else 0.0), (shared / b if b else 0.0)
    return p, r, (2 * shared / (a + b) if a and b else 0.0)


def rouge_n__counters(candidate, references, n=1, stemmed=False):
    best = None
    for text in _group(candidate, references):
        a, b = (ngram_counts__slices(tokenize_rouge(t, stemmed), n) for t in (candidate, text))
        score = _triple((a & b).total(), a.total(), b.total())
        if best is None or score[2] > best[2]:
            best = score
    return best


def rouge_n__crossing_out(candidate, references, n=1, stemmed=False):
    if n < 1:
        raise ValueError("n")
    found = []
    for text in _group(candidate, references):
        words, others = tokenize_rouge(candidate, stemmed), tokenize_rouge(text, stemmed)
        a = [words[i : i + n] for i in range(len(words) - n + 1)]
        b = [others[i : i + n] for i in range(len(others) - n + 1)]
        left = list(b)
        for gram in a:
            if gram in left:
                left.remove(gram)
        found.append(_triple(len(b) - len(left), len(a), len(b)))
    return sorted(found, key=lambda score: -score[2])[0]


def rouge_l__bits(candidate, references, stemmed=False):
    """The whole row of the table as the bits of one number (Hyyrö 2004)."""
    found = []
    for text in _group(candidate, references):
        words, others = tokenize_rouge(candidate, stemmed), tokenize_rouge(text, stemmed)
        places = defaultdict(int)
        for j, other in enumerate(others):
            places[other] |= 1 << j
        full = (1 << len(others)) - 1
        row = full
        for word in words:
            hits = row & places[word]
            row = ((row + hits) | (row - hits)) & full
        found.append(_triple(len(others) - row.bit_count(), len(words), len(others)))
    return max(found, key=lambda score: score[2])


def rouge_l__recursive(candidate, references, stemmed=False):
    found = []
    for text in _group(candidate, references):
        a, b = tokenize_rouge(candidate, stemmed), tokenize_rouge(text, stemmed)

        @cache
        def longest(i, j, a=tuple(a), b=tuple(b)):
            if i == len(a) or j == len(b):
                return 0
            if a[i] == b[j]:
                return 1 + longest(i + 1, j + 1)
            return max(longest(i + 1, j), longest(i, j + 1))

        found.append(_triple(longest(0, 0), len(a), len(b)))
    return max(found, key=lambda score: score[2])


def meteor__lists(candidate, references):
    porter, best = PorterStemmer(), 0.0
    for text in _group(candidate, references):
        ours, theirs = (list(enumerate(tokenize_13a(t.lower()))) for t in (candidate, text))
        n_ours, n_theirs, pairs = len(ours), len(theirs), []
        for change in (lambda word: word, porter.stem):
            for i, word in ours[::-1]:
                for j, other in theirs[::-1]:
                    if change(word) == change(other):
                        pairs.append((i, j))
                        ours.remove((i, word))
                        theirs.remove((j, other))
                        break
        if pairs:
            pairs.sort()
            chunks = 1 + sum((i + 1, j + 1) != after for (i, j), after in zip(pairs, pairs[1:], strict=False))
            p, r = len(pairs) / n_ours, len(pairs) / n_theirs
            best = max(best, p * r / (0.9 * p + 0.1 * r) * (1 - (chunks / len(pairs)) ** 3 / 2))
    return best


def meteor__arrays(candidate, references):
    porter = PorterStemmer()
    scores = [0.0]
    for text in _group(candidate, references):
        words, others = tokenize_13a(candidate.lower()), tokenize_13a(text.lower())
        partner = np.full(len(words), -9)
        taken = np.zeros(len(others), dtype=bool)
        for a, b in ((words, others), ([porter.stem(w) for w in words], [porter.stem(w) for w in others])):
            for i in range(len(a) - 1, -1, -1):
                free = [j for j in range(len(b)) if b[j] == a[i] and not taken[j]]
                if partner[i] < 0 and free:
                    partner[i] = free[-1]
                    taken[free[-1]] = True
        m = int((partner >= 0).sum())
        if m:
            continues = (partner[1:] >= 0) & (partner[1:] == partner[:-1] + 1)
            penalty = 0.5 * ((m - continues.sum()) / m) ** 3
            scores.append(float(10 * m / (len(others) * 9 + len(words)) * (1 - penalty)))
    return max(scores)


def cider__matrices(candidates, references, max_order=4):
    grouped = _refuse(candidates, references)
    if max_order < 1:
        raise ValueError("max_order")
    total = np.zeros(len(candidates))
    for n in range(1, max_order + 1):
        ours = [ngram_counts__slices(tokenize_rouge(text, True), n) for text in candidates]
        theirs = [[ngram_counts__slices(tokenize_rouge(text, True), n) for text in group] for group in grouped]
        names = sorted({g for c in ours for g in c} | {g for group in theirs for c in group for g in c})
        if not names:
            continue
        df = np.array([sum(any(g in c for c in group) for group in theirs) for g in names])
        idf = np.log(len(candidates)) - np.log(np.maximum(df, 1))
        for i, group in enumerate(theirs):
            x = np.array([ours[i][g] for g in names]) * idf
            for c in group:
                y = np.array([c[g] for g in names]) * idf
                norm = np.linalg.norm(x) * np.linalg.norm(y)
                total[i] += (x @ y) / norm / len(group) if norm else 0.0
    return (total / max_order).tolist()


def cider__sums(candidates, references, max_order=4):
    grouped = _refuse(candidates, references)
    if max_order < 1:
        raise ValueError("max_order")
    cut = lambda text, n: ngram_counts__one_by_one(tokenize_rouge(text, stemmed=True), n)  # noqa: E731
    scores = [0.0 for _ in candidates]
    for n in range(1, max_order + 1):
        items_with = defaultdict(set)
        for i, group in enumerate(grouped):
            for text in group:
                for gram in cut(text, n):
                    items_with[gram].add(i)

        def weight(gram, items_with=items_with):
            return math.log(len(candidates) / (len(items_with[gram]) or 1))

        def dot(a, b, weight=weight):
            return sum(a[g] * b[g] * weight(g) ** 2 for g in a)

        for i, (candidate, group) in enumerate(zip(candidates, grouped, strict=True)):
            a = cut(candidate, n)
            for text in group:
                b = cut(text, n)
                lengths = dot(a, a) * dot(b, b)
                if lengths > 0:
                    scores[i] += dot(a, b) / math.sqrt(lengths) / len(group) / max_order
    return scores
