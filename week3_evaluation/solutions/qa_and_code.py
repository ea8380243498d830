"""Answers judged by comparing words, and programs judged by running them: SQuAD's scores and pass@k."""

import math
import re
import string
from collections import Counter


def normalize_answer(text: str) -> str:
    """The text in lower case, without ASCII punctuation, without the words a, an, the; its words joined by one space.

    In this order, so that "A-level" is "alevel". Example: "The U.S.A.,  in\\n1969!" -> "usa in 1969".
    The rules are those of SQuAD's evaluation script (Rajpurkar et al. 2016).
    """
    # BEGIN SOLUTION
    text = text.lower()
    text = "".join(character for character in text if character not in string.punctuation)
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())
    # END SOLUTION


def check_answers(prediction: str, golds: list[str]) -> None:
    """Raise TypeError where there is not one string on one side and a list of strings on the other."""
    if not isinstance(prediction, str):
        raise TypeError(f"the prediction must be a string (empty: no answer), got {type(prediction).__name__}")
    if not isinstance(golds, (list, tuple)) or not all(isinstance(gold, str) for gold in golds):
        raise TypeError(f"the gold answers must be a list of strings (empty: no answer), got {golds!r}")


def exact_match(prediction: str, golds: list[str]) -> float:
    """1.0 if the normalized prediction equals some normalized gold answer, else 0.0.

    Golds with nothing left after normalization do not count. With no gold left the question has no answer, and right is
    a prediction with nothing left. Example: ("The park.", ["park", "in the park"]) -> 1.0; ("", []) -> 1.0.
    Rajpurkar et al. 2016; no answer: 2018 (SQuAD 2.0). Raises TypeError for anything but strings.
    """
    check_answers(prediction, golds)
    # BEGIN SOLUTION
    answers = [answer for answer in map(normalize_answer, golds) if answer] or [""]
    return float(normalize_answer(prediction) in answers)
    # END SOLUTION


def token_f1(prediction: str, golds: list[str]) -> float:
    """The best F1 over the golds between the words of the prediction and of the gold, as bags, normalized: 0.0 to 1.0.

    F1 = 2 · overlap / (words of prediction + words of gold); a word counts as often as it is in both. Golds, and no
    answer, as in `exact_match`. Example: ("Nell the hen", ["Nell"]) -> 2 · 1 / (2 + 1).
    Rajpurkar et al. 2016; no answer: 2018 (SQuAD 2.0). Raises TypeError for anything but strings.
    """
    check_answers(prediction, golds)
    # BEGIN SOLUTION
    words = Counter(normalize_answer(prediction).split())
    bags = [Counter(normalize_answer(gold).split()) for gold in golds]
    bags = [bag for bag in bags if bag]
    if not bags:
        return float(not words)
    return max(2 * (words & bag).total() / (words.total() + bag.total()) for bag in bags)
    # END SOLUTION


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that of k samples, drawn from n without putting back, at least one is among the c right ones.

    1 - C(n - c, k) / C(n, k): an unbiased estimate of 1 - (1 - p)^k, if p is the chance of one sample. As a product of
    c factors, so that nothing overflows; exactly 1.0 where n - c < k. Example: n=4, c=1, k=2 -> 0.5.
    Chen et al. 2021, eq. 1 and figure 3. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= c <= n:
        raise ValueError(f"of n = {n} samples, c = {c} cannot be right")
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to n = {n}, got {k}: pass@k needs at least k samples")
    # BEGIN SOLUTION
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))
    # END SOLUTION
