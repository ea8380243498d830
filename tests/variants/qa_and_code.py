"""Right answers to lesson 04's exercises, written otherwise: they must pass."""

import math
import re
import string
from fractions import Fraction

ARTICLES = {"a", "an", "the"}


def normalize_answer__translate(text):
    words = text.lower().translate(str.maketrans("", "", string.punctuation)).split()
    return " ".join(word for word in words if word not in ARTICLES)


def normalize_answer__one_expression(text):
    text = re.sub("[" + re.escape(string.punctuation) + "]+", "", text.lower())
    return re.sub(r"\s+", " ", re.sub(r"(?<!\S)(?:a|an|the)(?!\S)", "", text)).strip()


def normalize_answer__by_hand(text):
    words, word = [], ""
    for character in text + " ":
        if character.isspace():
            if word and word not in ARTICLES:
                words.append(word)
            word = ""
        elif character not in string.punctuation:
            word += character.lower()
    return " ".join(words)


def _refuse(prediction, golds):
    if not isinstance(prediction, str) or isinstance(golds, str) or any(not isinstance(gold, str) for gold in golds):
        raise TypeError("strings")


def exact_match__any(prediction, golds):
    _refuse(prediction, golds)
    said = normalize_answer__translate(prediction)
    left = [g for g in map(normalize_answer__translate, golds) if g != ""]
    if len(left) == 0:
        return said == ""
    return any(said == g for g in left)


def exact_match__sets(prediction, golds):
    _refuse(prediction, golds)
    left = {tuple(normalize_answer__translate(gold).split()) for gold in golds} - {()}
    return int(tuple(normalize_answer__translate(prediction).split()) in (left or {()}))


def token_f1__lists(prediction, golds):
    _refuse(prediction, golds)
    best, answerable = 0.0, False
    said = normalize_answer__translate(prediction).split()
    for gold in golds:
        left = normalize_answer__translate(gold).split()
        if not left:
            continue
        answerable = True
        size, found = len(left), 0
        for word in said:
            if word in left:
                left.remove(word)
                found += 1
        if found:
            precision, recall = found / len(said), found / size
            best = max(best, 2 / (1 / precision + 1 / recall))
    return best if answerable else float(not said)


def token_f1__exact_fractions(prediction, golds):
    _refuse(prediction, golds)
    split = [sorted(normalize_answer__one_expression(text).split()) for text in (prediction, *golds)]
    said, answers = split[0], [words for words in split[1:] if words] or [[]]
    if [] in (said, answers[0]):
        return float(said == answers[0])
    scores = []
    for words in answers:
        found = sum(min(said.count(word), words.count(word)) for word in set(words))
        scores.append(Fraction(2 * found, len(said) + len(words)))
    return float(max(scores))


def _refuse_counts(n, c, k):
    if n < 0 or c < 0 or c > n or k <= 0 or k > n:
        raise ValueError("no such samples")


def pass_at_k__binomials(n, c, k):
    _refuse_counts(n, c, k)
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def pass_at_k__log_gamma(n, c, k):
    _refuse_counts(n, c, k)
    wrong = n - c
    if wrong < k:
        return 1.0
    if c == 0:
        return 0.0
    terms = (math.lgamma(wrong + 1), math.lgamma(n - k + 1), -math.lgamma(wrong - k + 1), -math.lgamma(n + 1))
    return -math.expm1(math.fsum(terms))


def pass_at_k__one_draw_after_another(n, c, k):
    _refuse_counts(n, c, k)
    all_wrong = Fraction(1)
    for drawn in range(k):
        all_wrong *= Fraction(max(n - c - drawn, 0), n - drawn)
    return float(1 - all_wrong)
