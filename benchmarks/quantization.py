"""Bytes and time of one model in float32, int8 and 4 bits: `python -m benchmarks.quantization` (four minutes; by hand).

SmolLM2 and the course model through week 5's `quantize_model`; one token and 64 tokens a pass, one thread, rounds in
turns. Also PyTorch's own dynamic int8 (FBGEMM kernels, inputs quantized too), where this build has it, as an example of
a kernel that multiplies in int8. `--quick` takes the course model and three rounds.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import statistics
import time
import warnings

import torch
from torch import nn

from shared.models import course_folder, smollm2
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week5_inference.quantized import blocks_of, quantize_model, stored_bytes


def dynamic_int8(model: nn.Module) -> nn.Module | None:
    """PyTorch's dynamically quantized linear layers in the blocks, or None where this build has no engine for them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for block in blocks_of(model):
                torch.ao.quantization.quantize_dynamic(block, {nn.Linear}, dtype=torch.qint8, inplace=True)
        except (RuntimeError, AttributeError):
            return None
    return model


def ways(model: nn.Module) -> dict[str, nn.Module]:
    made = {"float32": model}
    made |= {f"{bits} bits": quantize_model(copy.deepcopy(model), bits) for bits in (8, 4)}
    theirs = dynamic_int8(copy.deepcopy(model))
    return made if theirs is None else {**made, "torch, dynamic int8": theirs}


@torch.no_grad()
def table(title: str, model: nn.Module, vocab: int, rounds: int) -> None:
    made = ways(model)
    inputs = {n: torch.randint(0, vocab, (1, n), generator=torch.Generator().manual_seed(0)) for n in (1, 64)}
    seconds: dict[tuple[str, int], list[float]] = {(name, n): [] for name in made for n in inputs}
    for i in range(rounds + 1):  # the first round is not counted
        for name, way in made.items():
            for n, token_ids in inputs.items():
                start = time.thread_time()
                way(token_ids)
                if i:
                    seconds[name, n].append(time.thread_time() - start)
    print(f"\n{title}: processor time of a pass, ms, median of {rounds} rounds (ratio to float32)\n")
    print("| | MB of the blocks | MB in all | 1 token | 64 tokens |\n|---|---|---|---|---|")
    for name, way in made.items():
        size = stored_bytes(way)
        # What torch packs is hidden from `buffers()`.
        cells = (
            ["-", "-"]
            if name.startswith("torch")
            else [f"{size['blocks'] / 1e6:.1f}", f"{sum(size.values()) / 1e6:.1f}"]
        )
        for n in inputs:
            middle = statistics.median(seconds[name, n])
            cells.append(f"{1000 * middle:.1f} ({middle / statistics.median(seconds['float32', n]):.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the course model alone, three rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{', '.join(machine().values())}, load {os.getloadavg()[0]:.1f}; {datetime.date.today()}, one thread")
    model, tokenizer = load_pretrained(course_folder(), GPT)
    table("Course model", model.eval(), len(tokenizer), 3 if options.quick else 15)
    if not options.quick:
        model, tokenizer = smollm2()
        table("SmolLM2", model, len(tokenizer), 5)


if __name__ == "__main__":
    main()
