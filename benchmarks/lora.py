"""LoRA on SmolLM2, ours, PEFT's and full tuning: `python -m benchmarks.lora` (five minutes; by hand, never a test).

A step is forward, backward and AdamW on 4 × 64 tokens, one thread; LoRA of rank 8 on q_proj and v_proj. Each way has a
process of its own, so that its peak of memory is its own; the processes stay, and take their steps in turns.
`--steps 2` is a quick look.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import datetime
import resource
import statistics
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch

from shared.runtime import machine

WAYS = ("ours", "PEFT", "full tuning")
TARGETS, RANK, ALPHA = ["q_proj", "v_proj"], 8, 16


def peak_megabytes() -> float:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def work(way: str, batch: int, seq: int, connection: Connection) -> None:
    """Build the model, then one step for each message; answers (seconds of processor time, loss)."""
    torch.set_num_threads(1)
    from shared.models import smollm2

    model, _ = smollm2()
    after_loading = peak_megabytes()
    torch.manual_seed(0)
    if way == "ours":
        from week4_finetuning.solutions.lora import inject_lora

        inject_lora(model, TARGETS, RANK, ALPHA)
    elif way == "PEFT":
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    model.train()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-5)
    token_ids = torch.randint(0, 40_000, (batch, seq), generator=torch.Generator().manual_seed(0))
    connection.send((sum(parameter.numel() for parameter in learning), after_loading))
    while connection.recv():
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=token_ids, labels=token_ids).loss
        loss.backward()
        optimizer.step()
        connection.send((time.process_time() - start, loss.item()))
    connection.send(peak_megabytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=64)
    options = parser.parse_args()
    context, connections, built, processes = get_context("spawn"), {}, {}, []
    for way in WAYS:
        connections[way], theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(way, options.batch, options.seq, theirs)))
        processes[-1].start()
        built[way] = connections[way].recv()
    seconds, losses = {way: [] for way in WAYS}, {way: [] for way in WAYS}
    for _ in range(options.steps + 1):
        for way, connection in connections.items():
            connection.send(True)
            taken, loss = connection.recv()
            seconds[way].append(taken)
            losses[way].append(loss)
    peaks = {}
    for way, connection in connections.items():
        connection.send(False)
        peaks[way] = connection.recv()
    for process in processes:
        process.join()

    print(f"{', '.join(machine().values())}, load {os.getloadavg()[0]:.1f}")
    print(
        f"{datetime.date.today()}, SmolLM2-135M, {options.batch} × {options.seq} tokens a step, rank {RANK} on "
        f"{', '.join(TARGETS)}, one thread; processor time, median and range of {options.steps} steps in turns\n"
    )
    head = [
        "",
        "parameters that learn",
        "seconds a step",
        "steps a second",
        "ratio to ours",
        "peak memory",
        "first loss",
    ]
    print(f"| {' | '.join(head)} |\n|" + "---|" * len(head))
    for way in WAYS:
        times = seconds[way][1:]  # the first step sets things up
        ratios = [time / ours for time, ours in zip(times, seconds["ours"][1:], strict=True)]
        cells = [way, f"{built[way][0]:,}", f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"]
        cells += [f"{1 / statistics.median(times):.2f}"]
        cells += [f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
        cells += [f"{peaks[way]:,.0f} MB", f"{losses[way][0]:.6f}"]
        print(f"| {' | '.join(cells)} |")
    print(f"\nAfter loading the model the processes had held at most {max(b[1] for b in built.values()):,.0f} MB.")


if __name__ == "__main__":
    main()
