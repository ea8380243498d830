"""Time to the baseline's loss: `python -m benchmarks.speedrun [--text FILE]` (minutes; by hand, never a test).

nanoGPT's CPU recipe against the best recipe of lesson week2_pretraining/06_speedrun, in turns on this machine, with the
same number of threads: baseline, best, baseline, best … Prints markdown.

The target is the baseline's own validation loss after all its 2,000 iterations, measured in the same call, unless
`--target` names one (1.88 is nanoGPT's published figure for tiny Shakespeare). The loss is nanoGPT's estimate (20
batches of 12 windows of 64 characters), the same windows each time; the clock stands still while it is measured, for
both. The best recipe's schedule is planned for `--iterations`; it is judged every 5 of them.
"""

from __future__ import annotations

import argparse
import datetime
import math
from dataclasses import replace
from pathlib import Path

import torch

from shared.data import corpus
from shared.runtime import machine
from week2_pretraining.solutions.speedrun import BEST, Run
from week2_pretraining.speedrun_times import CharacterText, race


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="a text file, 1 MB or more; else the course corpus")
    parser.add_argument("--target", type=float, help="validation loss; else the baseline's after all its iterations")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of baseline and best")
    parser.add_argument("--iterations", type=int, default=BEST.iterations, help="that the best recipe is planned for")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; it must be 1 or more")
    if arguments.text is None:
        data = CharacterText.of(corpus(1_115_394), "the course corpus")  # as long as tiny Shakespeare
    else:
        data = CharacterText.of(arguments.text.read_text(encoding="utf-8"), arguments.text.name)
    best = replace(BEST, iterations=arguments.iterations, decay=arguments.iterations)

    print(f"{', '.join(machine().values())}, {torch.get_num_threads()} threads; {datetime.date.today()}\n")
    print(f"{data.name} ({data.checksum}): {len(data.train_ids):,} + {len(data.validation_ids):,} characters\n")
    print("| recipe | seed | iterations | ms an iteration | seconds to the target | loss there | target |")
    print("|" + "---|" * 7)
    times: dict[str, list[float]] = {}
    for seed in range(arguments.rounds):
        target = arguments.target
        for run, every in ((Run(), 250), (best, 5)):
            result = race(run, data, 0.0 if target is None else target, evaluate_every=every, seed=seed)
            if target is None:  # the baseline, run to its end: its own last loss is what the best recipe has to reach
                target = result.target = result.losses[-1]
            seconds = result.seconds_to_target
            times.setdefault(run.name, []).append(math.nan if seconds is None else seconds)
            i, milliseconds = result.iterations[-1], 1000 * result.seconds[-1] / result.iterations[-1]
            reached = "not reached" if seconds is None else f"{seconds:.1f}"
            losses = f"{result.losses[-1]:.3f} | {target:.3f}"
            print(f"| {run.name} | {seed} | {i:,} | {milliseconds:.1f} | {reached} | {losses} |", flush=True)
    slow, fast = (sum(times[name]) / arguments.rounds for name in (Run().name, best.name))
    print(f"\nThe best recipe takes {fast / slow:.3f} of the baseline's time: {slow / fast:.1f} times as fast.")


if __name__ == "__main__":
    main()
