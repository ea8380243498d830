"""Continuous against static batching with the real engine: `python -m benchmarks.serving` (three minutes; by hand).

The same requests, arriving at the same moments, on the same weights; the schedules take turns, so that a slow moment of
the machine hits both. Static batching is the same engine, which lets new requests in when its batch is done. Prints
markdown: tokens a second, and the latency that half and 95 of 100 requests stay below. `--quick` takes one round.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import threading
import time

import numpy as np
import torch

from shared.data import stories
from shared.models import course_folder
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week5_inference.decoders import PagedDecoder
from week5_inference.engine import Done, Engine, Failed, Sampling


class StaticEngine(Engine):
    """Lets requests in only when nothing runs: the batch stays together until its longest text is done."""

    def _admit(self) -> None:
        if not self.running:
            super()._admit()


def trial(engine: Engine, prompts: list[list[int]], wants: list[int], arrivals: list[float]) -> tuple[float, ...]:
    """Tokens a second, and the median and 95 % latency, of requests that arrive at these moments."""
    done, latencies, lock = threading.Event(), [], threading.Lock()
    start = time.perf_counter()

    def listener(arrival: float):
        def on_event(event) -> None:
            if isinstance(event, Failed):
                raise RuntimeError(event.message)
            if isinstance(event, Done):
                with lock:
                    latencies.append(time.perf_counter() - start - arrival)
                    if len(latencies) == len(prompts):
                        done.set()

        return on_event

    for i, (prompt, want, arrival) in enumerate(zip(prompts, wants, arrivals, strict=True)):
        time.sleep(max(0.0, start + arrival - time.perf_counter()))
        engine.submit(prompt, Sampling(want, temperature=0.8, seed=i), listener(arrival))
    assert done.wait(300), "the requests were not served in five minutes"
    seconds = time.perf_counter() - start
    return sum(wants) / seconds, float(np.median(latencies)), float(np.percentile(latencies, 95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of 12 requests")
    parser.add_argument("--slots", type=int, default=8)
    options = parser.parse_args()
    rounds, count = (1, 12) if options.quick else (3, 40)
    model, tokenizer = load_pretrained(course_folder("base"), GPT)
    rng = np.random.default_rng(0)
    texts = [tokenizer.eos_token + story.text for story in stories(count, split="validation")]
    prompts = [tokenizer(text).input_ids[: int(n)] for text, n in zip(texts, rng.integers(8, 60, count), strict=True)]
    wants = np.clip(rng.exponential(45, count), 4, 190).astype(int).tolist()
    engines = {
        name: kind(PagedDecoder(model, options.slots), tokenizer, [], queue_size=count)
        for name, kind in {"static": StaticEngine, "continuous": Engine}.items()
    }
    for engine in engines.values():
        trial(engine, prompts[:2], [4, 4], [0.0, 0.0])  # the first call sets things up
    # All at once: how fast the work is done. And spread over a time in which continuous batching can just do it.
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    crowd = trial(engines["continuous"], prompts, wants, [0.0] * count)
    span = 1.25 * sum(wants) / crowd[0]
    for round_ in range(rounds):
        arrivals = np.sort(np.random.default_rng(round_).uniform(0, span, count)).tolist()
        for load, moments in {"all at once": [0.0] * count, "one by one": arrivals}.items():
            for name, engine in engines.items():
                found.setdefault((load, name), []).append(trial(engine, prompts, wants, moments))
    for engine in engines.values():
        engine.close(0)

    load = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{', '.join(machine().values())}{load}\n{datetime.date.today()}, {torch.get_num_threads()} threads")
    print(
        f"{count} requests for {sum(wants)} tokens, {options.slots} slots; median of {rounds} rounds in turns (range)"
    )
    print(f'"one by one": at random moments of {span:.1f} s\n')
    print("| | | tokens/s | p50, s | p95, s |\n|---|---|---|---|---|")
    for (load, name), runs in found.items():
        cells = [
            f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"
            for values, digits in zip(zip(*runs, strict=True), (0, 2, 2), strict=True)
        ]
        print(f"| {load} | {name} | {' | '.join(cells)} |")
    for load in ("all at once", "one by one"):
        gains = [
            [a / b for a, b in zip(*pair, strict=True)]
            for pair in zip(found[load, "continuous"], found[load, "static"], strict=True)
        ]
        speed, p50, p95 = (statistics.median(values) for values in zip(*gains, strict=True))
        print(f"\n{load}, continuous to static: tokens/s × {speed:.2f}, p50 × {p50:.2f}, p95 × {p95:.2f}")


if __name__ == "__main__":
    main()
