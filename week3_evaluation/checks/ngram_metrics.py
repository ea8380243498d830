"""What a right answer of lesson 02 shows, and the known mistakes."""

from collections import Counter

import torch

from shared.checking import observes, raised
from week3_evaluation.solutions.ngram_metrics import (
    bleu,
    check_pair,
    ngram_counts,
    precision_recall_f1,
    stem,
    tokenize_13a,
    tokenize_rouge,
)

WORDS = [
    "the",
    "a",
    "red",
    "kite",
    "dog",
    "dogs",
    "walked",
    "walking",
    "walks",
    "park",
    "in",
    "found",
    "Finds",
    "old",
    ".",
]


def _text(rng, least, most):
    """Some words in random order: few different ones, so that n-grams repeat."""
    n_words = int(torch.randint(least, most + 1, (), generator=rng))
    return " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (n_words,), generator=rng).tolist())


def _corpus(rng, n_items, most_references):
    candidates, references = [], []
    for _ in range(n_items):
        candidates.append(_text(rng, 5, 14))
        n_references = int(torch.randint(1, most_references + 1, (), generator=rng))
        references.append([_text(rng, 5, 14) for _ in range(n_references)])
    return candidates, references


def _all_orders(tokens, n):
    if n < 1:
        raise ValueError
    return Counter(tuple(tokens[i : i + m]) for m in range(1, n + 1) for i in range(len(tokens) - m + 1))


@observes(
    "ngram_counts",
    difficulty=1,
    minutes=5,
    hints=(
        "Slide a window of n tokens over the list, one step at a time. How many windows fit?",
        "A list cannot be counted, a tuple can. `Counter` counts whatever you give it.",
        "The window that begins at i holds the tokens i to i + n - 1. len(tokens) - n + 1 of them fit, none where "
        "n is larger than the list. Make each a tuple, and count.",
    ),
    mistakes={
        "Each n-gram is counted once, however often it comes.": (
            "Counter(zip(*(tokens[i:] for i in range(n)), strict=False))",
            "Counter(set(zip(*(tokens[i:] for i in range(n)), strict=False)))",
        ),
        "The windows do not overlap: each begins n tokens after the one before, so most n-grams are missed.": (
            "tokens[i:]",
            "tokens[i::n]",
        ),
        "The last window is missing: the one that ends with the last token.": ("tokens[i:]", "tokens[i:-1]"),
        "Shorter n-grams are counted too: only those of n tokens are asked for.": _all_orders,
        "The order inside an n-gram is lost: (a, b) and (b, a) are two.": (
            "zip(*(tokens[i:] for i in range(n)), strict=False)",
            "tuple(sorted(gram)) for gram in zip(*(tokens[i:] for i in range(n)), strict=False)",
        ),
    },
)
def check_ngram_counts(ngram_counts, rng):
    yield "pairs of four tokens", dict(ngram_counts(["a", "b", "a", "b"], 2))
    yield "single tokens", dict(ngram_counts(["a", "b", "a", "b"], 1))
    yield "three at a time", dict(ngram_counts(["to", "be", "or", "not", "to", "be", "or", "so"], 3))
    yield "as many as there are", dict(ngram_counts(["b", "a"], 2))
    yield "fewer tokens than n", dict(ngram_counts(["a", "b"], 3))
    yield "no tokens", dict(ngram_counts([], 1))
    yield "an n-gram that is not there counts 0", ngram_counts(["a", "b"], 1)[("z",)]
    for n in (1, 2, 4):
        yield f"thirty random words, n = {n}", dict(ngram_counts(_text(rng, 30, 30).split(), n))
    yield "n = 0 is refused", raised(ngram_counts, ["a", "b"], 0)


def _mean_of_sentences(candidates, references, max_order=4, smoothing="none"):
    bleu(candidates, references, max_order, smoothing)  # refuses what cannot be scored
    pairs = zip(candidates, references, strict=True)
    return sum(bleu([c], [group], max_order, smoothing) for c, group in pairs) / len(candidates)


_MATCHES = "sum(min(counts[gram], allowed[gram]) for gram in counts.keys() & allowed.keys())"
_CLOSEST = "min((abs(len(other) - len(tokens)), len(other)) for other in reference_tokens)[1]"
_PENALTY = "min(1.0, math.exp(1 - reference_length / candidate_length))"


@observes(
    "bleu",
    difficulty=4,
    minutes=35,
    hints=(
        "Collect four sums over the whole corpus: matches and n-grams of each order, the candidates' length, the length of "
        "the closest references. Only then divide.",
        "An n-gram may match as often as the reference that has it most: the maximum of the counts over the references, "
        "`a | b` of two Counters. The match is the smaller of this and the candidate's count.",
        "The closest length: make a pair of distance and length for each reference, for Python orders pairs by the "
        "first, then by the second. Hand matches and totals to `smoothed_precisions`; a zero among its values, or no "
        "match at all, gives 0. Else the penalty times exp of the mean log.",
    ),
    mistakes={
        'Matches are not clipped: "the the the" would be perfect against any reference with one "the".': (
            _MATCHES,
            "sum(counts[gram] for gram in counts.keys() & allowed.keys())",
        ),
        "A repeated n-gram matches once only, even where the reference repeats it too.": (
            _MATCHES,
            "len(counts.keys() & allowed.keys())",
        ),
        "The counts of several references are added up: an n-gram may match as often as in the one that has it most.": (
            "allowed |= ngram_counts(other, n)",
            "allowed += ngram_counts(other, n)",
        ),
        "Only the first reference is searched for matches: the others are right translations too.": (
            "for other in reference_tokens[1:]",
            "for other in ()",
        ),
        "Each sentence is scored and the scores are averaged: BLEU adds up the counts of the corpus, then divides.": _mean_of_sentences,
        "There is no brevity penalty: a few sure words would be a perfect translation.": (
            "return brevity_penalty * math",
            "return math",
        ),
        "The brevity penalty goes above 1, so long candidates are rewarded: it is there to punish short ones only.": (
            _PENALTY,
            "math.exp(1 - reference_length / candidate_length)",
        ),
        "The brevity penalty is the ratio c/r: the paper takes e^(1 - r/c).": (
            _PENALTY,
            "min(1.0, candidate_length / reference_length)",
        ),
        "The length is compared with the shortest reference, not the closest.": (
            _CLOSEST,
            "min(len(other) for other in reference_tokens)",
        ),
        "The length is compared with the first reference, not the closest.": (_CLOSEST, "len(reference_tokens[0])"),
        "Of two references that are equally close, the longer is taken, which punishes the candidate more than the "
        "shorter would.": (
            _CLOSEST,
            "min((abs(len(other) - len(tokens)), -len(other), len(other)) for other in reference_tokens)[2]",
        ),
        "The precisions are averaged: BLEU takes their geometric mean.": (
            "math.exp(sum(map(math.log, precisions)) / max_order)",
            "sum(precisions) / max_order",
        ),
        "The precisions are multiplied, without the N-th root.": (
            "sum(map(math.log, precisions)) / max_order",
            "sum(map(math.log, precisions))",
        ),
        "The matches are divided by the reference's n-grams: that is recall, which ROUGE takes.": (
            "max(len(tokens) - n + 1, 0)",
            "allowed.total()",
        ),
        "Only the precision of the longest n-grams counts: BLEU takes the mean over all orders from 1 to max_order.": (
            "sum(map(math.log, precisions)) / max_order",
            "math.log(precisions[-1])",
        ),
        "Upper and lower case are made one: BLEU keeps them apart.": [
            ("tokenize_13a(candidate)", "tokenize_13a(candidate.lower())"),
            ("tokenize_13a(text)", "tokenize_13a(text.lower())"),
        ],
        "The text is cut at spaces, so that a word and the comma after it are one other word: here a mark is a "
        "word of its own.": [
            ("tokenize_13a(candidate)", "candidate.split()"),
            ("tokenize_13a(text)", "text.split()"),
        ],
        "The smoothing has no effect: a zero stays a zero, whatever is asked for.": (
            "smoothed_precisions(matches, totals, smoothing)",
            'smoothed_precisions(matches, totals, "none")',
        ),
        "A corpus without any match gets a score from the smoothing: with nothing in common there is nothing to "
        "smooth.": (
            "not any(matches) or not all",
            "not all",
        ),
        "The score runs from 0 to 100, as sacrebleu prints it: here it runs from 0 to 1.": (
            "return brevity_penalty * math",
            "return 100 * brevity_penalty * math",
        ),
    },
)
def check_bleu(bleu, rng):
    two = ["the cat is on the mat", "there is a cat on the mat"]
    yield 'the paper\'s example: seven times "the"', bleu(["the the the the the the the"], [two], 1)
    yield '"on the" twice, single words', bleu(["on the on the mat a mat"], [two], 1)
    yield "a match in the second reference only", bleu(["there is a dog"], [two], 2)
    yield "one reference, given as a string", bleu(["a small cat is on the mat now"], ["the cat is on the mat now"])
    yield "too short", bleu(["the cat is on"], ["the cat is on the mat"])
    yield "longer than the reference", bleu(["the cat is on the mat today"], ["the cat is on the mat"])
    lengths = ["a b c d e f g h", "a b c d e f", "a b c"]
    yield "references of eight, six and three words for five", bleu(["a b c d e"], [lengths])
    yield "references of eight and four words for six", bleu(["a b c d e f"], [["a b c d e f g h", "a b c d"]])
    yield (
        "references of twelve and eight words for ten",
        bleu(["a b c d e f g h i j"], [["a b c d e f g h i j k l", "a b c d e f g h"]], 2),
    )
    yield "two sentences of different lengths", bleu(["a b c d e x y z", "the cat is on"], [["a b c d e f"], two])
    for max_order in (1, 2, 3):
        yield f"max_order = {max_order}", bleu(["a b x d e f g", "c d e"], ["a b c d e f g", "c d x"], max_order)
    yield (
        "a comma and quotation marks",
        bleu(['"The cat," he said, is on the mat.'], ["The cat, he said, is on the mat."], 2),
    )
    yield "capitals: The and the", bleu(["The the cat sat"], ["the the dog sat"], 1)
    yield "no pair of words in common: 0", bleu(["b a d c"], ["a b c d"])
    for smoothing in ("floor", "add-k", "exp"):
        yield f"no trigram in common, {smoothing}", bleu(["a b x c d"], ["a b c d e"], smoothing=smoothing)
        yield f"no word in common, {smoothing}", bleu(["a b c d"], ["e f g h i"], smoothing=smoothing)
    yield "an empty candidate among others", bleu(["", "the cat is on the mat"], ["a b", "the cat is on the mat"])
    yield "nothing but an empty candidate", bleu([""], ["a b c"], smoothing="exp")
    for smoothing in ("none", "exp"):
        yield f"twelve random sentences, {smoothing}", bleu(*_corpus(rng, 12, 3), 3, smoothing)
    yield (
        "no pairs, unequal lengths, no references are refused",
        [raised(bleu, *pair) for pair in (([], []), (["a"], ["a", "b"]), (["a"], [[]]))],
    )
    yield "numbers in place of texts are refused", [raised(bleu, [1], ["a"]), raised(bleu, ["a"], [["a", 1]])]
    yield "a smoothing that nobody knows is refused", raised(bleu, ["a"], ["a"], 4, "some")


def _pooled(candidate, references, n=1, stemmed=False):
    group = check_pair(candidate, references)
    counts = ngram_counts(tokenize_rouge(candidate, stemmed), n)
    others = sum((ngram_counts(tokenize_rouge(text, stemmed), n) for text in group), Counter())
    return precision_recall_f1((counts & others).total(), counts.total(), others.total())


def _mean_of_references(rouge):
    """The mistake of averaging, for either ROUGE: `rouge` scores one pair."""

    def wrong(candidate, references, *args):
        scores = [rouge(candidate, text, *args) for text in check_pair(candidate, references)]
        return tuple(sum(column) / len(scores) for column in zip(*scores, strict=True))

    return wrong


_OVERLAP = "sum(min(counts[gram], others[gram]) for gram in counts.keys() & others.keys())"


@observes(
    "rouge_n",
    difficulty=2,
    minutes=15,
    hints=(
        "Count the n-grams of both texts with `ngram_counts`. What they share is, for each n-gram, the smaller count.",
        "Precision asks how much of the candidate is in the reference, recall how much of the reference is in the candidate: "
        "`precision_recall_f1` divides by the two totals.",
        "One triple for each reference; `max(scores, key=...)` by the last of the three.",
    ),
    mistakes={
        "Different n-grams are counted, not occurrences: one that comes twice in both texts is shared twice.": (
            _OVERLAP,
            "len(counts.keys() & others.keys())",
        ),
        "The overlap is not clipped: a word that the candidate repeats is shared more often than the reference has "
        "it.": (
            _OVERLAP,
            "sum(counts[gram] for gram in counts.keys() & others.keys())",
        ),
        "Precision and recall are exchanged: precision is the share of the candidate.": (
            "precision_recall_f1(overlap, counts.total(), others.total())",
            "precision_recall_f1(overlap, others.total(), counts.total())",
        ),
        "The overlap is divided by the number of different n-grams, not by all of them.": (
            "precision_recall_f1(overlap, counts.total(), others.total())",
            "precision_recall_f1(overlap, len(counts), len(others))",
        ),
        "F1 is taken as the arithmetic mean: it is the harmonic one, 2PR / (P + R).": (
            "2 * precision * recall / (precision + recall)",
            "(precision + recall) / 2",
        ),
        "Only the first reference is read: the best of all of them counts.": (
            "return max(scores, key=lambda score: score[2])",
            "return scores[0]",
        ),
        "The reference with the best recall is taken: the best F1 decides.": (
            "return max(scores, key=lambda score: score[2])",
            "return max(scores, key=lambda score: score[1])",
        ),
        "The best precision decides (`max` of the triples compares it first): it should be the best F1.": (
            "return max(scores, key=lambda score: score[2])",
            "return max(scores)",
        ),
        "The best of each number is taken, though they come from different references: the three belong together.": (
            "return max(scores, key=lambda score: score[2])",
            "return tuple(map(max, zip(*scores, strict=True)))",
        ),
        "All references are put into one bag: words of several then make up a reference that nobody wrote.": _pooled,
        "n is ignored: it is always single words that are counted.": [
            ("tokenize_rouge(candidate, stemmed), n)", "tokenize_rouge(candidate, stemmed), min(n, 1))"),
            ("tokenize_rouge(reference, stemmed), n)", "tokenize_rouge(reference, stemmed), min(n, 1))"),
        ],
        "`stemmed` has no effect: walks and walked stay two words.": [
            ("tokenize_rouge(candidate, stemmed)", "tokenize_rouge(candidate)"),
            ("tokenize_rouge(reference, stemmed)", "tokenize_rouge(reference)"),
        ],
        "Only the candidate is stemmed: its stems do not meet the reference's words.": (
            "tokenize_rouge(reference, stemmed)",
            "tokenize_rouge(reference)",
        ),
        "The text is cut at spaces: 'Mat!' and 'mat' are then two words, and ROUGE knows neither punctuation nor "
        "capitals.": [
            ("tokenize_rouge(candidate, stemmed)", "candidate.split()"),
            ("tokenize_rouge(reference, stemmed)", "reference.split()"),
        ],
    },
)
def check_rouge_n(rouge_n, rng):
    yield "the example of the docstring", rouge_n("the cat sat", "the cat")
    yield "repeated words", rouge_n("the cat the dog the the", "the cat and the hen saw the pig")
    yield "pairs of words", rouge_n("the cat is on the mat", "a cat is on the red mat today", 2)
    yield "punctuation and capitals", rouge_n("The cat, on the mat!", '"the CAT" is on a mat')
    yield "stems", rouge_n("the dogs walked away", "a dog walks far away", 1, True)
    yield "the same without stems", rouge_n("the dogs walked away", "a dog walks far away")
    several = ["a b", "a b c d e f g", "a b c x y", "q"]
    yield "several references", rouge_n("a b c d", several)
    yield "the best recall and the best F1 in different references", rouge_n("a b c d e f g h", ["a", "a b c x y z"])
    yield (
        "the best precision and the best F1 in different references",
        rouge_n("a b c d", ["a b c d e f g h i j k", "a b c x"]),
    )
    yield "n-grams longer than the text", rouge_n("a b", "a b", 3)
    yield "an empty candidate, an empty reference", [rouge_n("", "a b"), rouge_n("a b", ""), rouge_n("?", "!")]
    for n in (1, 2, 3):
        (candidate,), (group,) = _corpus(rng, 1, 1)
        yield (
            f"random words, n = {n}",
            rouge_n(candidate, [*group, _text(rng, 6, 20), candidate[8:] + " " + group[0]], n, n == 2),
        )
    yield "no reference, and n = 0, are refused", [raised(rouge_n, "a", []), raised(rouge_n, "a", "a", 0)]
    yield "None in place of a text is refused", [raised(rouge_n, None, "a"), raised(rouge_n, "a", None)]


def _best_over(score):
    """A wrong ROUGE-L made from a wrong length of what two lists of words share."""

    def wrong(candidate, references, stemmed=False):
        group = check_pair(candidate, references)
        words, scores = tokenize_rouge(candidate, stemmed), []
        for text in group:
            others = tokenize_rouge(text, stemmed)
            scores.append(precision_recall_f1(score(words, others), len(words), len(others)))
        return max(scores, key=lambda triple: triple[2])

    return wrong


def _substring(words, others):
    pairs = ((i, j) for i in range(len(words)) for j in range(len(others)))
    return max((_run(words[i:], others[j:]) for i, j in pairs), default=0)


def _run(words, others):
    n = 0
    while n < min(len(words), len(others)) and words[n] == others[n]:
        n += 1
    return n


def _bag(words, others):
    return (Counter(words) & Counter(others)).total()


def _same_place(words, others):
    return sum(word == other for word, other in zip(words, others, strict=False))


def _takes_the_first(words, others):
    found, at = 0, 0
    for word in words:
        if word in others[at:]:
            at += others[at:].index(word) + 1
            found += 1
    return found


@observes(
    "rouge_l",
    difficulty=3,
    minutes=25,
    hints=(
        "Look at the last words of both texts. If they are equal they end the common subsequence; if not, one of them can be "
        "left out. What are the two smaller problems?",
        "Fill a table: length[i][j] is the longest for the first i words of one and the first j of the other. Equal words: "
        "length[i-1][j-1] + 1; else the larger of length[i-1][j] and length[i][j-1]. Row and column 0 are zeros.",
        "The last entry of the table, and the number of words on each side: these three are what "
        "`precision_recall_f1` takes. Then the reference with the best F1.",
    ),
    mistakes={
        "The longest common run is measured: a subsequence may leave words out on either side.": _best_over(_substring),
        "The order of the words is ignored: this counts the words that both have, as ROUGE-1 does.": _best_over(_bag),
        "Words match only where they stand at the same place: one word more at the start, and nothing does.": _best_over(
            _same_place
        ),
        "Each word takes the next place where the reference has it, for good: a word can be worth leaving out.": _best_over(
            _takes_the_first
        ),
        "Equal words go on from the entry beside them, which has used this word already: one word of the candidate "
        "then matches several.": (
            "longest[j] = before + 1",
            "longest[j] = longest[j - 1] + 1",
        ),
        "Where the words differ, only one of the two smaller problems is looked at: a word may be left out on "
        "either side.": (
            "elif longest[j - 1] > above:",
            "elif False:",
        ),
        "Precision and recall are exchanged: precision is the share of the candidate.": (
            "precision_recall_f1(longest[-1], len(tokens), len(others))",
            "precision_recall_f1(longest[-1], len(others), len(tokens))",
        ),
        "Only the first reference is read: the best of all of them counts.": (
            "return max(scores, key=lambda score: score[2])",
            "return scores[0]",
        ),
        "The reference with the best recall is taken: the best F1 decides.": (
            "return max(scores, key=lambda score: score[2])",
            "return max(scores, key=lambda score: score[1])",
        ),
        "`stemmed` has no effect: walks and walked stay two words.": [
            ("tokenize_rouge(candidate, stemmed)", "tokenize_rouge(candidate)"),
            ("tokenize_rouge(reference, stemmed)", "tokenize_rouge(reference)"),
        ],
        "The text is cut at spaces: 'Mat!' and 'mat' are then two words, and ROUGE knows neither punctuation nor "
        "capitals.": [
            ("tokenize_rouge(candidate, stemmed)", "candidate.split()"),
            ("tokenize_rouge(reference, stemmed)", "reference.split()"),
        ],
        "Letters are compared, not words: any two English texts have many of them in the same order.": [
            ("tokenize_rouge(candidate, stemmed)", '"".join(tokenize_rouge(candidate, stemmed))'),
            ("tokenize_rouge(reference, stemmed)", '"".join(tokenize_rouge(reference, stemmed))'),
        ],
    },
)
def check_rouge_l(rouge_l, rng):
    yield "the paper's example", rouge_l("police kill the gunman", "police killed the gunman")
    yield "the paper's example in another order", rouge_l("the gunman kill police", "police killed the gunman")
    yield "words left out on both sides", rouge_l("a x b c y d", "a b z c d e f")
    yield "a word that comes twice in one text", rouge_l("a b", "a a b b a")
    yield "the first word is a trap", rouge_l("d a b c", "a b c d")
    yield "punctuation and capitals", rouge_l("The cat, on the mat!", '"the CAT" is on a mat')
    yield "stems", rouge_l("the dogs walked away", "a dog walks far away", True)
    yield "several references", rouge_l("a b c d", ["q", "a b", "a x b c y d e f g", "a b c x"])
    yield "the best recall and the best F1 in different references", rouge_l("a b c d e f g h", ["a x b c y z", "a"])
    yield "an empty candidate, an empty reference", [rouge_l("", "a b"), rouge_l("a b", ""), rouge_l("?", "!")]
    for label in ("thirty", "other"):
        yield f"{label} random words", rouge_l(_text(rng, 30, 30), _text(rng, 20, 25), label == "other")
    yield "no reference is refused", raised(rouge_l, "a", [])
    yield "None in place of a text is refused", [raised(rouge_l, None, "a"), raised(rouge_l, "a", None)]


def _gaps_allowed(candidate, references):
    best = 0.0
    for text in check_pair(candidate, references):
        words, others, matched = tokenize_13a(candidate.lower()), tokenize_13a(text.lower()), {}
        for form in (str, stem):
            free = [j for j in range(len(others)) if j not in matched.values()]
            for i in reversed(range(len(words))):
                found = [j for j in free if form(others[j]) == form(words[i])]
                if i not in matched and found:
                    matched[i] = found[-1]
                    free.remove(found[-1])
        if matched:
            places = [matched[i] for i in sorted(matched)]
            n_chunks = 1 + sum(b < a for a, b in zip(places, places[1:], strict=False))
            precision, recall = len(places) / len(words), len(places) / len(others)
            score = 10 * precision * recall / (recall + 9 * precision) * (1 - 0.5 * (n_chunks / len(places)) ** 3)
            best = max(best, score)
    return best


_F_MEAN = "10 * precision * recall / (recall + 9 * precision)"


@observes(
    "meteor",
    difficulty=4,
    minutes=35,
    hints=(
        "First the matching: a dictionary from positions of the candidate to positions of the reference. Two passes, one with the "
        "words as they are, one with their stems over what is left.",
        "In a pass keep, for each word (or stem), the list of its free positions in the reference in rising order; go through "
        "the candidate from its end, and `pop()`.",
        "A match (i, j) begins a chunk unless (i - 1, j - 1) is a match too. Then precision, recall, the mean, the penalty; the best "
        "over the references.",
    ),
    mistakes={
        "Stems are not matched: dogs and dog are then two words.": ("for form in (str, stem)", "for form in (str,)"),
        "Stems are matched at once: a stem can then take the place of an equal word, which should come first.": (
            "for form in (str, stem)",
            "for form in (stem,)",
        ),
        "A word of the reference is matched more than once: repeating it would pay.": ("].pop()", "][-1]"),
        "Of equal words in the reference the first free one is taken, not the last: other pairs make other chunks.": (
            "].pop()",
            "].pop(0)",
        ),
        "The candidate is read from its first word on, not from its last: other pairs make other chunks.": (
            "reversed(range(len(words)))",
            "range(len(words))",
        ),
        "The mean is the usual F1: METEOR weighs recall nine times as much.": (
            _F_MEAN,
            "2 * precision * recall / (recall + precision)",
        ),
        "Precision counts nine times: it is recall, the share of the reference, that does.": (
            _F_MEAN,
            "10 * precision * recall / (precision + 9 * recall)",
        ),
        "There is no penalty for fragments: any order of the words gets the same score.": (
            "(1 - 0.5 * (n_chunks / len(matched)) ** 3)",
            "1",
        ),
        "The penalty is not cubed: a few fragments then cost much, where they should cost little.": (") ** 3)", "))"),
        "The penalty is not halved: a text in which no two matches are neighbours would get 0.": (
            "(1 - 0.5 * (",
            "(1 - 1.0 * (",
        ),
        "Chunks are divided by the candidate's words, not by the matches.": (
            "n_chunks / len(matched)",
            "n_chunks / len(words)",
        ),
        "A gap does not end a chunk here: its words must be adjacent in both texts.": _gaps_allowed,
        "The breaks between chunks are counted: there is one chunk more than breaks.": (
            "n_chunks = sum(matched.get(i - 1, -2) != j - 1 for i, j in matched.items())",
            "n_chunks = sum(matched.get(i - 1, -2) != j - 1 for i, j in matched.items()) - 1",
        ),
        "Only the first reference is read: the best of all of them counts.": (
            "for reference in group:",
            "for reference in group[:1]:",
        ),
        "Capitals are kept: The and the are then two words.": [
            ("tokenize_13a(candidate.lower())", "tokenize_13a(candidate)"),
            ("tokenize_13a(reference.lower())", "tokenize_13a(reference)"),
        ],
    },
)
def check_meteor(meteor, rng):
    yield "the example of the docstring", meteor("b c a", "a b c")
    yield "one word of four", meteor("a x y z", "a b")
    yield "the same text", meteor("the cat sat on the mat", "the cat sat on the mat")
    yield "words left out of either", meteor("a x b c d", "a b c y d e f")
    yield "a word twice in the candidate", meteor("the cat the", "the dog saw a cat")
    yield "a word twice in the reference", meteor("cat the red", "the cat saw the red hen")
    yield "a word twice in the candidate, once in the reference", meteor("old x y old z", "y old z w")
    yield "stems", meteor("the dogs walked away", "a dog walks far away")
    yield "an equal word before an equal stem", meteor("walks walked home", "walked walks home today")
    yield "a word and its stem in both", meteor("dogs dog saw", "dog dogs saw a bone")
    yield "capitals and punctuation", meteor("The Cat, on the mat!", 'the cat is on "The" Mat.')
    yield "a capital, and a word of the same stem later", meteor("Dogs ran", "dogs ran by a dog")
    yield "several references", meteor("a b c d", ["x y", "d c b a", "a b x c d", "b c"])
    yield "nothing in common", meteor("a b", "c d")
    yield "an empty candidate, an empty reference", [meteor("", "a b"), meteor("a b", ""), meteor("", "")]
    for n in range(4):
        yield f"random words, {n + 1} of 4", meteor(_text(rng, 10, 20), [_text(rng, 8, 20)])
    yield "no reference is refused", raised(meteor, "a", [])
    yield "None in place of a text is refused", [raised(meteor, None, "a"), raised(meteor, "a", None)]


_FREQUENCY = "Counter(gram for group in counts for gram in set().union(*group))"
_MEAN = """            for other in map(weighted, group):
                cosine = sum(value * other.get(gram, 0.0) for gram, value in mine.items())
                totals[i] += cosine / len(group)"""
_BEST = """            totals[i] += max(
                sum(value * other.get(gram, 0.0) for gram, value in mine.items()) for other in map(weighted, group)
            )"""


@observes(
    "cider",
    difficulty=4,
    minutes=35,
    hints=(
        "Take one n first. You need: how many items have the n-gram in a reference; a vector for a bag of n-grams, as a "
        "dictionary; the cosine of two such vectors.",
        "An item is a candidate with its references: an n-gram that stands in three references of one item has df 1. Weight: "
        "ln(items / max(1, df)). Unit vectors make the cosine a sum over common keys.",
        "For each item: the mean of the cosines over its references, added to the item's total; in the end each total over max_order. "
        "Watch for vectors of length 0.",
    ),
    mistakes={
        "The n-grams are not weighted: a phrase that all references share counts as much as a rare one.": (
            "count * math.log(len(candidates) / max(1, frequency[gram]))",
            "count",
        ),
        "df counts reference texts: an n-gram in three references of one item is in one item.": (
            _FREQUENCY,
            "Counter(gram for group in counts for other in group for gram in other)",
        ),
        "df counts occurrences: an n-gram that comes three times in one text is in one item.": (
            _FREQUENCY,
            "sum((other for group in counts for other in group), Counter())",
        ),
        "df counts the candidates too: what is rare is learned from the references.": (
            _FREQUENCY,
            "Counter(g for group, own in zip(counts, tokens) for g in set(ngram_counts(own, n)).union(*group))",
        ),
        "1 is added to every df: only where no reference has the n-gram should it be 1 in place of 0.": (
            "max(1, frequency[gram])",
            "(1 + frequency[gram])",
        ),
        "The vectors are not divided by their lengths: that is a product, not a cosine.": (
            "gram: value / length for",
            "gram: value for",
        ),
        "The best reference is taken: CIDEr takes the mean over all of them, the consensus.": (_MEAN, _BEST),
        "The cosines of several references are added up, not averaged.": ("cosine / len(group)", "cosine"),
        "The candidate's weights are clipped to the reference's: that is a part of CIDEr-D.": (
            "value * other.get(gram, 0.0) for",
            "min(value, other.get(gram, 0.0)) * other.get(gram, 0.0) for",
        ),
        "Only the longest n-grams are scored: the orders from 1 to max_order count alike.": (
            "range(1, max_order + 1)",
            "range(max_order, max_order + 1)",
        ),
        "The orders are added up, not averaged.": ("[total / max_order for total in totals]", "totals"),
        "The score is multiplied by 10: so does the code of CIDEr-D, the paper's equations do not.": (
            "total / max_order for",
            "10 * total / max_order for",
        ),
        "The mean of the corpus is returned: a list with each candidate's score is asked for.": (
            "[total / max_order for total in totals]",
            "sum(totals) / max_order / len(totals)",
        ),
        "The words are not stemmed: kite and kites are then two words.": [
            (
                "[tokenize_rouge(text, stemmed=True) for text in candidates]",
                "[tokenize_rouge(text) for text in candidates]",
            ),
            ("[tokenize_rouge(text, stemmed=True) for text in group]", "[tokenize_rouge(text) for text in group]"),
        ],
    },
)
def check_cider(cider, rng):
    photos = ["a photo of a red kite", "a photo of an old dog", "a photo of two boats on a lake"]
    yield "what all say, and what one says", cider(["a photo of a", "an old dog", "two old boats"], photos)
    yield "single words", cider(["a red red kite", "an old cat", "a photo"], photos, 1)
    several = [
        ["a red kite", "the red kite red", "it flies"],
        ["the old dog"],
        ["two boats", "two red boats on the lake"],
    ]
    yield "several references", cider(["the red kite", "the old red dog", "boats on the lake"], several, 2)
    yield "stems", cider(["walking dogs", "kites", "the lake"], ["a dog walks", "the kite", "two lakes"], 2)
    yield "words that no reference has", cider(["red xylophone", "kite"], ["red kite", "blue kite boat"], 1)
    yield "empty candidates and references", cider(["", "a dog", "a cat"], ["a cow", "", "a cat"])
    yield "one item: nothing is rare", cider(["a red kite"], ["a red kite"])
    for most in (1, 3):
        yield f"ten random items, references of each: up to {most}", cider(*_corpus(rng, 10, most))
    yield (
        "no pairs, unequal lengths, no references are refused",
        [raised(cider, *pair) for pair in (([], []), (["a"], ["a", "b"]), (["a"], [[]]))],
    )
    yield "max_order = 0 is refused", raised(cider, ["a"], ["a"], 0)
