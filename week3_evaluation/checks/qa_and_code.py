"""What a right answer of lesson 04 shows, and the known mistakes."""

import math

import torch

from shared.checking import observes, raised

WORDS = ("kite", "Park", "the", "red", "a", "kite,", "Nell", "bench.", "under", "An", "(old)")


def _text(rng, low, high):
    """A few words of WORDS, drawn with repetition."""
    count = int(torch.randint(low, high, (), generator=rng))
    return " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (count,), generator=rng).tolist())


def _as_float(score):
    """A comparison's True or False is a right score too."""
    return float(score) if isinstance(score, bool) else score


def _refuse_answers(prediction, golds):
    if not isinstance(prediction, str) or isinstance(golds, str) or not all(isinstance(gold, str) for gold in golds):
        raise TypeError


def _normalized(text):
    kept = "".join(c for c in text.lower() if c.isalnum() or c.isspace() or ord(c) > 127)
    return [word for word in kept.split() if word not in ("a", "an", "the")]


@observes(
    "normalize_answer",
    difficulty=1,
    minutes=10,
    hints=(
        "Four steps, each of one line: lower case, punctuation, articles, white space. Which one must come before which?",
        "`string.punctuation` holds the characters to leave out. An article is a whole word: after the first two steps, "
        "compare whole words, or let a regular expression find the words' ends with `\\b`.",
        "`text.split()` without an argument splits at any run of spaces, tabs and newlines, and `' '.join(...)` puts single "
        "spaces back.",
    ),
    mistakes={
        "The letters stay as they are: 'Park' and 'park' are then two answers.": ("text = text.lower()", "pass"),
        "The articles are removed before the text is in lower case: 'The' at the start of an answer stays.": [
            ("    text = text.lower()\n", ""),
            ('return " ".join(text.split())', 'return " ".join(text.lower().split())'),
        ],
        "A punctuation mark becomes a space: 'U.S.' falls into two words. SQuAD's script leaves it out.": (
            "character for character in text if character not in string.punctuation",
            '" " if character in string.punctuation else character for character in text',
        ),
        "Punctuation is removed only at the two ends of the text, not inside it.": (
            '"".join(character for character in text if character not in string.punctuation)',
            "text.strip(string.punctuation)",
        ),
        "Everything is removed that is not a letter, a digit or white space: SQuAD's script removes ASCII punctuation only, so "
        "a dash '—' or a '€' stays.": (
            "character not in string.punctuation",
            "character.isalnum() or character.isspace()",
        ),
        "The letters a, an, the are cut out of longer words too: 'banana' is no longer a banana.": (
            r'r"\b(a|an|the)\b"',
            r'r"(a|an|the)"',
        ),
        "The articles stay: 'the park' and 'park' are then two answers.": (
            r'text = re.sub(r"\b(a|an|the)\b", " ", text)',
            "pass",
        ),
        "Only 'the' counts as an article: 'a' and 'an' do too.": (r"\b(a|an|the)\b", r"\b(the)\b"),
        "The articles go before the punctuation does: 'A-level' loses its A, though by these rules it is one word, "
        "'alevel'.": [
            ("    text = text.lower()\n", '    text = re.sub(r"\\b(a|an|the)\\b", " ", text.lower())\n'),
            ('    text = re.sub(r"\\b(a|an|the)\\b", " ", text)\n', ""),
        ],
        "White space is left as it was: where an article stood there are two spaces, and a newline is not a space.": (
            'return " ".join(text.split())',
            "return text",
        ),
        "White space is taken off the ends only.": ('return " ".join(text.split())', "return text.strip()"),
        "All white space is removed: 'in 1969' becomes 'in1969'.": ('" ".join(text.split())', '"".join(text.split())'),
    },
)
def check_normalize_answer(normalize_answer, rng):
    yield "capitals", normalize_answer("Nell HEN")
    yield "the example of the docstring", normalize_answer("The U.S.A.,  in\n1969!")
    yield "articles inside words stay", normalize_answer("banana theatre another")
    yield "all three articles", normalize_answer("An owl, the fox and A hen")
    yield "a hyphen after a letter", normalize_answer("A-level, the a/b test")
    yield "punctuation inside words", normalize_answer("don't_stop 3.5 [x]")
    yield "characters beyond ASCII", normalize_answer("Café — 5 €")
    yield "tabs and newlines", normalize_answer(" \tred\n\n kite \r\n")
    yield "nothing is left", [normalize_answer(text) for text in ("", "The", " a, an. ")]
    for _ in range(3):
        yield "words at random", normalize_answer(_text(rng, 5, 12))


def _all_golds(prediction, golds):
    _refuse_answers(prediction, golds)
    answers = [a for a in map(_normalized, golds) if a] or [[]]
    return float(all(_normalized(prediction) == answer for answer in answers))


@observes(
    "exact_match",
    difficulty=2,
    minutes=10,
    hints=(
        "Normalize the prediction once, and each gold. One gold that equals it is enough.",
        "Drop the golds of which nothing is left. What remains may be an empty list: the question has no answer.",
        "With no golds left, put one empty string in their place: then the rule for questions without an answer is "
        "the same as for all others.",
    ),
    mistakes={
        "The strings are compared as they are: 'The park.' is then wrong where 'park' is right.": (
            '[answer for answer in map(normalize_answer, golds) if answer] or [""]\n    return float(normalize_answer(prediction) in answers)',
            '[answer for answer in golds if answer] or [""]\n    return float(prediction in answers)',
        ),
        "The golds are normalized, the prediction is not.": (
            "normalize_answer(prediction) in answers",
            "prediction in answers",
        ),
        "Only the first gold is looked at: the others are right answers too.": (
            "map(normalize_answer, golds)",
            "map(normalize_answer, golds[:1])",
        ),
        "All golds must match: one of them is enough.": _all_golds,
        "A prediction that only contains a gold answer counts: then copying the whole text is always right.": (
            "float(normalize_answer(prediction) in answers)",
            "float(any(answer in normalize_answer(prediction) for answer in answers))",
        ),
        "A prediction that is only a part of a gold counts: 'p' is then right for 'park'.": (
            "float(normalize_answer(prediction) in answers)",
            "float(any(normalize_answer(prediction) in answer for answer in answers))",
        ),
        "A question without an answer is always lost: there, the empty prediction is the right one.": (' or [""]', ""),
        "A question without an answer is always won: there, only the empty prediction is right.": (
            "return float(normalize_answer(prediction) in answers)",
            'return float(answers == [""] or normalize_answer(prediction) in answers)',
        ),
        "A gold of which nothing is left (such as 'the') still counts, and an empty prediction matches it.": (
            "[answer for answer in map(normalize_answer, golds) if answer]",
            "list(map(normalize_answer, golds))",
        ),
        "An empty prediction is always wrong: where the question has no answer, it is right.": (
            "return float(normalize_answer(prediction) in answers)",
            "return float(bool(prediction) and normalize_answer(prediction) in answers)",
        ),
    },
)
def check_exact_match(exact_match, rng):
    def score(prediction, golds):
        return _as_float(exact_match(prediction, golds))

    yield "the example of the docstring", score("The park.", ["park", "in the park"])
    yield "the second gold, in capitals", score("in THE park", ["park", "in the park"])
    yield "golds with article and full stop", score("red kite", ["The red kite."])
    yield "one word more than the gold", score("under the bench", ["bench"])
    yield "one word less than the gold", score("under", ["under a bench"])
    yield "no answer, and none given", score("", [])
    yield "no answer, and an article given", score("The.", [])
    yield "no answer, and one given", score("Nell", [])
    yield "no answer given where there is one", score("", ["Nell"])
    yield "a gold of which nothing is left beside a real one", score("a", ["the", "Pip"])
    yield "only golds of which nothing is left", score("", ["the", "..."])
    for _ in range(8):
        prediction = _text(rng, 1, 4)
        near = (prediction.upper() + "!", f"the {prediction}", f"{prediction} tree", f"old {prediction}")
        golds = [_text(rng, 1, 3), near[int(torch.randint(4, (), generator=rng))], _text(rng, 1, 3)]
        yield "three golds, the second equal or one word longer", score(prediction, golds)
    yield "a list for the prediction is refused", raised(exact_match, ["park"], ["park"])
    yield "None for the prediction is refused", raised(exact_match, None, [])
    yield "one string for the golds is refused", raised(exact_match, "park", "park")


def _overlap(prediction, gold, score):
    p, g = _normalized(prediction), _normalized(gold)
    return score(sum(min(p.count(word), g.count(word)) for word in set(p)), len(p), len(g))


def _f1_by(score, best=max):
    """A wrong F1: `score(overlap, words of prediction, words of gold)` for each gold, and `best` of them."""

    def wrong(prediction, golds):
        _refuse_answers(prediction, golds)
        golds = [gold for gold in golds if _normalized(gold)]
        if not golds or not _normalized(prediction):
            return float(not golds and not _normalized(prediction))
        return best([_overlap(prediction, gold, score) for gold in golds])

    return wrong


@observes(
    "token_f1",
    difficulty=2,
    minutes=15,
    hints=(
        "A bag of words is a `Counter`. `words & bag` holds each word as often as it is in both, and `.total()` counts.",
        "Precision is overlap / words of the prediction, recall is overlap / words of the gold. Their harmonic mean is "
        "2 · overlap / (both numbers of words): written so, it cannot divide by zero where there is no overlap.",
        "First drop the golds of which nothing is left. Are there none? Then 1.0 if nothing is left of the prediction, else 0.0. "
        "Otherwise the `max` over the golds.",
    ),
    mistakes={
        "Words are put in sets: one that the prediction repeats counts once, so repeating costs nothing.": [
            (
                "words = Counter(normalize_answer(prediction).split())",
                "words = Counter(set(normalize_answer(prediction).split()))",
            ),
            (
                "Counter(normalize_answer(gold).split()) for gold",
                "Counter(set(normalize_answer(gold).split())) for gold",
            ),
        ],
        "The average over the golds is taken: SQuAD takes the best, for one right answer is enough.": _f1_by(
            lambda overlap, p, g: 2 * overlap / (p + g), best=lambda scores: sum(scores) / len(scores)
        ),
        "Only the first gold is looked at: the best of all golds counts.": (
            "for gold in golds]\n    bags = [bag for",
            "for gold in golds[:1]]\n    bags = [bag for",
        ),
        "What comes out is precision: it does not ask how much of the gold was found, and one word can reach 1.": _f1_by(
            lambda overlap, p, g: overlap / p
        ),
        "What comes out is recall: it does not ask how much else was said, so copying the whole text is always "
        "right.": _f1_by(lambda overlap, p, g: overlap / g),
        "The arithmetic mean of precision and recall is taken: F1 is the harmonic one, which is small if either is.": _f1_by(
            lambda overlap, p, g: (overlap / p + overlap / g) / 2
        ),
        "The overlap is divided by the number of words in either (Jaccard): F1 is twice the overlap by the sum of both numbers.": (
            "2 * (words & bag).total() / (words.total() + bag.total())",
            "(words & bag).total() / (words | bag).total()",
        ),
        "The factor 2 is missing: two equal answers get 0.5.": ("2 * (words & bag)", "(words & bag)"),
        "Characters are compared, not words: any two English texts then have much in common.": [
            ("words = Counter(normalize_answer(prediction).split())", "words = Counter(normalize_answer(prediction))"),
            ("Counter(normalize_answer(gold).split()) for gold", "Counter(normalize_answer(gold)) for gold"),
        ],
        "The words are not normalized: 'Nell.' and 'nell' have nothing in common.": [
            ("words = Counter(normalize_answer(prediction).split())", "words = Counter(prediction.split())"),
            ("Counter(normalize_answer(gold).split()) for gold", "Counter(gold.split()) for gold"),
        ],
        "A question without an answer always scores 0: there, the empty prediction is worth 1.": (
            "float(not words)",
            "0.0",
        ),
        "A question without an answer always scores 1: there, only the empty prediction does.": (
            "float(not words)",
            "1.0",
        ),
        "All golds are put in one bag: several ways to say one thing are taken for one long answer.": (
            "    if not bags:",
            "    bags = [sum(bags, Counter())] if bags else []\n    if not bags:",
        ),
    },
)
def check_token_f1(token_f1, rng):
    def score(prediction, golds):
        return _as_float(token_f1(prediction, golds))

    yield "the example of the docstring", score("Nell the hen", ["Nell"])
    yield "two of three words, in other places", score("bench under", ["Under the old bench!"])
    yield "the prediction repeats a word", score("kite kite kite", ["red kite"])
    yield "both repeat a word", score("New York, New York", ["new york new jersey"])
    yield "two golds, the second is nearer", score("red kite", ["green ball on grass", "The red kite."])
    yield "one gold is a part of the prediction", score("under the bench", ["bench", "park"])
    yield "no word in common, same letters", score("tea", ["eat"])
    yield "no answer, and none given", score("", [])
    yield "no answer, and an article given", score("The.", [])
    yield "no answer, and one given", score("Nell", [])
    yield "no answer given where there is one", score("", ["Nell"])
    yield "a gold of which nothing is left beside a real one", score("", ["the", "Pip"])
    for _ in range(5):
        golds = [_text(rng, 1, 6), _text(rng, 1, 6) + " tree", _text(rng, 2, 7)]
        yield "three golds at random", score(_text(rng, 2, 8) + " red", golds)
    yield "a list for the prediction is refused", raised(token_f1, ["park"], ["park"])
    yield "None for the prediction is refused", raised(token_f1, None, [])
    yield "one string for the golds is refused", raised(token_f1, "park", "park")


def _pass_by(estimate):
    def wrong(n, c, k):
        if not 0 <= c <= n or not 1 <= k <= n:
            raise ValueError
        return float(estimate(n, c, k))

    return wrong


def _by_factorials(n, c, k):
    if n - c < k:
        return 1.0
    factorials = torch.cat([torch.ones(1), torch.arange(1.0, n + 1).cumprod(0)])  # inf from 35! on in float32
    return 1 - (factorials[n - c] * factorials[n - k] / (factorials[n - c - k] * factorials[n])).item()


@observes(
    "pass_at_k",
    difficulty=2,
    minutes=20,
    rtol=1e-6,
    atol=1e-9,
    hints=(
        "How many ways are there to choose k of the n samples? In how many of them are all k wrong? The answer is one minus the "
        "ratio.",
        "If fewer than k samples are wrong, no choice of k is all wrong: return 1.0 first. The rest is a ratio of binomials, "
        "and most factors cancel.",
        "C(n - c, k) / C(n, k) is the product of (1 - k / i) for i from n - c + 1 to n: c factors, all between 0 and 1. "
        "(`math.comb` works too, for Python's whole numbers do not overflow.)",
    ),
    mistakes={
        "Each sample is put back before the next is drawn: for k > 1, 1 - (1 - c/n)^k is too small on average.": _pass_by(
            lambda n, c, k: 1 - (1 - c / n) ** k
        ),
        "The result is 1 as soon as any of the n samples is right: that is pass@n, whatever k is.": _pass_by(
            lambda n, c, k: c > 0
        ),
        "The result is c / n: that is pass@1, and k does not come into it.": _pass_by(lambda n, c, k: c / n),
        "pass@1 is taken k times: chances add up only where two things cannot happen together.": _pass_by(
            lambda n, c, k: min(1, k * c / n)
        ),
        "What comes out is the chance that all k are wrong: pass@k is the chance of the opposite.": [
            ("return 1.0 - math.prod", "return math.prod"),
            ("    if n - c < k:\n        return 1.0\n", ""),
        ],
        "What comes out is the chance that all k are right (it is called pass^k): pass@k wants at least one.": _pass_by(
            lambda n, c, k: math.comb(c, k) / math.comb(n, k)
        ),
        "Right and wrong are exchanged: this is the chance that at least one of the k is wrong.": _pass_by(
            lambda n, c, k: 1 - math.comb(c, k) / math.comb(n, k)
        ),
        "The product begins one factor too early: it has c + 1 of them, and there are only c right samples.": (
            "range(n - c + 1, n + 1)",
            "range(n - c, n + 1)",
        ),
        "The product ends one factor too early: it has c - 1 of them, and there are c right samples.": (
            "range(n - c + 1, n + 1)",
            "range(n - c + 1, n)",
        ),
        "The factorials are floating-point numbers: they overflow to infinity, and inf / inf is nan.": _pass_by(
            _by_factorials
        ),
        "A c above n is accepted: where more samples are right than there are, something was counted wrongly.": (
            "if not 0 <= c <= n:",
            "if c < 0:",
        ),
        "A k larger than n is accepted: 5 samples do not tell what 10 would do.": (
            "if not 1 <= k <= n:",
            "if k < 1:",
        ),
    },
)
def check_pass_at_k(pass_at_k, rng):
    yield "the example of the docstring", pass_at_k(4, 1, 2)
    yield "five samples, two right, k = 3", pass_at_k(5, 2, 3)
    yield "k = 1 is the share of right ones", pass_at_k(8, 3, 1)
    yield "none right, all right", [pass_at_k(6, 0, 3), pass_at_k(6, 6, 3)]
    yield "fewer wrong ones than k", [pass_at_k(5, 3, 3), pass_at_k(9, 2, 8), pass_at_k(3, 1, 3)]
    yield "just as many wrong ones as k", [pass_at_k(5, 2, 3) < 1, pass_at_k(5, 2, 3), pass_at_k(9, 4, 5)]
    yield "2,000 samples, 3 right, k = 1,000", pass_at_k(2000, 3, 1000)
    yield "one right in a million", pass_at_k(1_000_000, 1, 10)
    for _ in range(6):
        n = int(torch.randint(5, 40, (), generator=rng))
        c = int(torch.randint(1, n, (), generator=rng))
        k = int(torch.randint(2, n, (), generator=rng))
        yield "n, c and k at random", pass_at_k(n, c, k)
    yield "c > n is refused", raised(pass_at_k, 5, 6, 2)
    yield "k > n is refused", raised(pass_at_k, 5, 2, 6)
    yield "k > n is refused also where none or all are right", [raised(pass_at_k, 3, c, 4) for c in (0, 3)]
    yield (
        "k = 0, and negative numbers, are refused",
        [raised(pass_at_k, *a) for a in ((5, 2, 0), (5, -1, 2), (5, 2, -1))],
    )
