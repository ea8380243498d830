"""How fast the course model writes: `python -m benchmarks.generation` (about three minutes; by hand, never a test).

Prints markdown: tokens per second for several batch sizes, by week 2's loop (no cache), by week 5's `generate_cached`,
plain and with `FusedForward`, and by transformers' `generate` with its cache, on the same weights. The runs are
interleaved, so that a slow moment of the machine hits all alike. `--quick` takes two rounds of fewer tokens.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from shared.data import stories
from shared.models import course_folder
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week2_pretraining.solutions.sampling import generate
from week5_inference.fused import FusedForward
from week5_inference.solutions.kv_cache import generate_cached

BATCH_SIZES = (1, 4, 16, 64)


def tokens_per_second(write: Callable[[torch.Tensor, int], torch.Tensor], prompts: torch.Tensor, n_new: int) -> float:
    start = time.perf_counter()
    out = write(prompts, n_new)
    seconds = time.perf_counter() - start
    assert out.shape == (len(prompts), prompts.shape[1] + n_new)
    return len(prompts) * n_new / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds of 20 tokens")
    rounds, n_new = (2, 20) if parser.parse_args().quick else (5, 64)
    logging.disable_progress_bar()
    model, tokenizer = load_pretrained(course_folder("base"), GPT)
    cached = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
    opening = tokenizer.eos_token + stories(1, split="validation")[0].text
    prompt = torch.tensor([tokenizer(opening).input_ids[:32]])

    def ours(prompts: torch.Tensor, n_new: int) -> torch.Tensor:
        return generate(model, prompts, n_new, top_p=0.95, generator=torch.Generator().manual_seed(0))

    def with_cache(prompts: torch.Tensor, n_new: int, forward: Callable | None = None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        rows = generate_cached(
            model, prompts.tolist(), n_new, temperature=1.0, top_p=0.95, generator=generator, forward=forward
        )
        return torch.cat([prompts, torch.tensor(rows)], dim=1)

    def theirs(prompts: torch.Tensor, n_new: int) -> torch.Tensor:
        settings = {"do_sample": True, "top_k": 0, "top_p": 0.95, "eos_token_id": None, "pad_token_id": 0}
        return cached.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=n_new, **settings)

    fused = FusedForward(model)
    writers = {
        "ours, no cache": ours,
        "ours, with a cache": with_cache,
        "ours, with a cache, fused": lambda prompts, n_new: with_cache(prompts, n_new, fused),
        "transformers, with its cache": theirs,
    }
    speeds: dict[tuple[str, int], list[float]] = {(name, size): [] for name in writers for size in BATCH_SIZES}
    for write in writers.values():
        write(prompt, 2)  # the first call sets things up
    for _ in range(rounds):
        for (name, size), found in speeds.items():
            found.append(tokens_per_second(writers[name], prompt.expand(size, -1).contiguous(), n_new))

    load = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{', '.join(machine().values())}{load}\n{datetime.date.today()}, {torch.get_num_threads()} threads")
    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{n_parameters:,} parameters, a prompt of {prompt.shape[1]} tokens, {n_new} new ones, top-p 0.95; "
          f"median of {rounds} interleaved rounds (range)\n")  # fmt: skip
    print("| tokens per second | " + " | ".join(f"batch {size}" for size in BATCH_SIZES) + " | gain |")
    print("|---" * (len(BATCH_SIZES) + 2) + "|")
    for name in writers:
        middle = [statistics.median(speeds[name, size]) for size in BATCH_SIZES]
        cells = [
            f"{m:,.0f} ({min(speeds[name, size]):,.0f}–{max(speeds[name, size]):,.0f})"
            for m, size in zip(middle, BATCH_SIZES, strict=True)
        ]
        print(f"| {name} | " + " | ".join(cells) + f" | {middle[-1] / middle[0]:.1f} × |")
    print()
    for name in list(writers)[:-1]:
        ratios = [
            [a / b for a, b in zip(speeds[name, size], speeds["transformers, with its cache", size], strict=True)]
            for size in BATCH_SIZES
        ]
        shown = [f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})" for found in ratios]
        print(f"{name}: {', '.join(shown)} times transformers' tokens per second, round by round")


if __name__ == "__main__":
    main()
