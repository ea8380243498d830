"""How fast BLEU and ROUGE of week 3 are: `python -m benchmarks.metrics` (a minute; by hand, never a test).

Prints markdown: seconds for 1,000 pairs of stories, ours beside sacrebleu and rouge_score, in turns in one run. Each
round has pairs of its own, for sacrebleu keeps the tokens of texts that it has seen.
"""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from benchmarks.tokenization import machine, table
from shared.data import stories
from shared.stories import Dice, tell
from week3_evaluation.solutions.ngram_metrics import bleu, rouge_l, rouge_n

N_PAIRS, N_ROUNDS = 1000, 7


def pairs_of_round(number: int) -> tuple[list[str], list[str]]:
    """The same facts told in two ways, `N_PAIRS` times; every round has other stories."""
    told = stories(N_PAIRS, seed=100 + number)
    return [story.text for story in told], [tell(story.facts, Dice(i)).text for i, story in enumerate(told)]


def our_rouge(candidates: list[str], references: list[str]) -> list[float]:
    pairs = list(zip(candidates, references, strict=True))
    return [score[2] for pair in pairs for score in (rouge_n(*pair, 1), rouge_n(*pair, 2), rouge_l(*pair))]


def their_rouge(candidates: list[str], references: list[str]) -> list[float]:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score(reference, candidate) for candidate, reference in zip(candidates, references, strict=True)]
    return [score[name].fmeasure for score in scores for name in ("rouge1", "rouge2", "rougeL")]


CONTESTS: dict[str, tuple[Callable, Callable]] = {
    "BLEU, against sacrebleu": (
        lambda candidates, references: [bleu(candidates, references)],
        lambda candidates, references: [sacrebleu.corpus_bleu(candidates, [references]).score / 100],
    ),
    "ROUGE-1, ROUGE-2 and ROUGE-L, against rouge_score": (our_rouge, their_rouge),
}


def seconds(function: Callable, *texts: list[str]) -> tuple[float, list[float]]:
    start = time.process_time()
    scores = function(*texts)
    return time.process_time() - start, scores


def main() -> None:
    print(f"{machine()}\n{datetime.date.today()}, one thread; processor time; median of {N_ROUNDS} rounds (range)\n")
    rows = []
    for name, (ours, theirs) in CONTESTS.items():
        times: list[tuple[float, float]] = []
        for number in range(N_ROUNDS):
            texts = pairs_of_round(number)
            order = (ours, theirs) if number % 2 else (theirs, ours)
            found = {function: seconds(function, *texts) for function in order}
            assert all(abs(a - b) < 1e-6 for a, b in zip(found[ours][1], found[theirs][1], strict=True))
            times.append((found[ours][0], found[theirs][0]))
        ratios = [them / us for us, them in times]
        columns = [f"{statistics.median(c):.2f} s ({min(c):.2f} to {max(c):.2f})" for c in zip(*times, strict=True)]
        rows.append([name, *columns, f"{statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"])
    table([f"{N_PAIRS:,} pairs of stories", "ours", "library", "library's time against ours"], rows)


if __name__ == "__main__":
    main()
