"""How fast week 3's `bert_score` is: `python -m benchmarks.bertscore` (about five minutes; by hand, never a test).

1,000 pairs, MiniLM, the last layer, batches of 64, one thread: ours and the bert_score package in turns, in one
process. "Fresh" pairs are all different; in "ten systems" each of 100 references is compared with ten candidates.
`--pairs 100` is a quick look.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import datetime
import random
import statistics
import time

import torch
from bert_score import BERTScorer
from transformers.utils import logging

from shared.data import stories
from shared.models import MINILM, minilm
from shared.runtime import machine
from week3_evaluation.solutions.bertscore import bert_score


def beginnings(count: int, seed: int) -> list[str]:
    """The first 4 to 60 words of as many stories."""
    dice = random.Random(seed)
    return [" ".join(story.text.split()[: dice.randint(4, 60)]) for story in stories(count, seed=seed)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model, tokenizer = minilm()
    scorer = BERTScorer(str(MINILM.folder), num_layers=6, batch_size=64, nthreads=0, device="cpu")
    ways = {
        "ours": lambda candidates, references: bert_score(candidates, references, model, tokenizer, batch_size=64),
        "bert_score": lambda candidates, references: scorer.score(candidates, references, batch_size=64),
    }
    few = beginnings(options.pairs // 10, 2)
    inputs = {
        "fresh": (beginnings(options.pairs, 0), beginnings(options.pairs, 1)),
        "ten systems": (beginnings(options.pairs, 0), [text for text in few for _ in range(10)]),
    }
    print(f"{', '.join(machine().values())}, load {os.getloadavg()[0]:.1f}")
    print(
        f"{datetime.date.today()}, one thread; processor time, median and range of {options.rounds} rounds in turns\n"
    )
    head = ["pairs", "distinct texts", "ours", "bert_score", "bert_score / ours", "largest difference"]
    print(f"| {' | '.join(head)} |\n|" + "---|" * len(head))
    for name, pair in inputs.items():
        seconds, scores = {way: [] for way in ways}, {}
        for _ in range(options.rounds):
            for way, score in ways.items():
                start = time.process_time()
                scores[way] = torch.stack(score(*pair))
                seconds[way].append(time.process_time() - start)
        ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["bert_score"], strict=True)]
        cells = [f"{len(pair[0]):,} {name}", f"{len(set(pair[0] + pair[1])):,}"]
        cells += [f"{statistics.median(s):.1f} s ({min(s):.1f} to {max(s):.1f})" for s in seconds.values()]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        cells.append(f"{(scores['ours'] - scores['bert_score']).abs().max().item():.0e}")
        print(f"| {' | '.join(cells)} |", flush=True)
    print(
        "\nDifferences above 1e-4 come from tokens whose best cosine is negative: in a batch, the package's padding "
        "lifts them to 0."
    )


if __name__ == "__main__":
    main()
