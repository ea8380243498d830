"""Attention with the whole matrix, in tiles, and SDPA, to 8,192 tokens: `python -m benchmarks.attention` (by hand).

One head of 64 numbers, causal, float32, one thread, blocks of 256; forward, and forward with backward. The time is the
processor's, median of interleaved rounds. Memory is measured twice: the most bytes of live tensors (exact; it misses
what a kernel takes for itself), and how far a process of its own, which ran this alone, grew beyond its size before
(0 where its imports had needed more). About ten minutes; `--quick` ends at 2,048 tokens.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.runtime import machine
from week1_decoder.solutions.attention import attention
from week5_inference.memory import LiveBytes
from week5_inference.solutions.attention_kernels import FlashAttention

D_HEAD, BLOCK = 64, 256
WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "whole matrix": lambda q, k, v: attention(q, k, v, causal=True),
    "tiles": lambda q, k, v: FlashAttention.apply(q, k, v, BLOCK, True)[0],
    "SDPA": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
}


def inputs(n: int, backward: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 1, n, D_HEAD, generator=generator).requires_grad_(backward) for _ in range(3)]


def work(way: str, n: int, backward: bool) -> None:
    out = WAYS[way](*inputs(n, backward))
    if backward:
        out.sum().backward()


def resident() -> float:
    """The most memory that this process ever held, in MB. (On Linux ru_maxrss begins at the parent's.)"""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def grown(way: str, n: int, backward: bool) -> float:
    """MB by which this process grew; to be called in a new one."""
    torch.set_num_threads(1)
    work(way, 16, backward)  # loads the kernels' code
    before = resident()
    work(way, n, backward)
    return resident() - before


def live(way: str, n: int, backward: bool) -> float:
    with LiveBytes() as memory:
        work(way, n, backward)
    return memory.peak / 1e6


def seconds(way: str, n: int, backward: bool) -> float:
    start = time.process_time()
    work(way, n, backward)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="to 2,048 tokens only")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{', '.join(machine().values())}{load}\n{datetime.date.today()}, one thread, one head of {D_HEAD}, causal,")
    print(f"blocks of {BLOCK}; processor time, median (range) of {options.rounds} rounds\n")
    head = ["", "tokens", "seconds", "ratio to the whole matrix", "live tensors, MB", "process grew by, MB"]
    print(f"| {' | '.join(head)} |\n|" + "---|" * len(head))
    for backward in (False, True):
        for n in (512, 2048) if options.quick else (512, 1024, 2048, 4096, 8192):
            taken: dict[str, list[float]] = {way: [] for way in WAYS}
            for way in WAYS:
                work(way, min(n, 512), backward)
            for _ in range(options.rounds):
                for way, times in taken.items():
                    times.append(seconds(way, n, backward))
            whole = statistics.median(taken["whole matrix"])
            for way, times in taken.items():
                middle = statistics.median(times)
                with get_context("spawn").Pool(1) as pool:
                    process = pool.apply(grown, (way, n, backward))
                name = f"{way}, forward{' and backward' if backward else ''}"
                cells = [name, f"{n:,}", f"{middle:.3f} ({min(times):.3f} to {max(times):.3f})"]
                cells += [f"{middle / whole:.2f}", f"{live(way, n, backward):,.2f}", f"{process:,.0f}"]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
