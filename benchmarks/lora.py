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
import statistics
from multiprocessing.connection import Connection

import torch

from benchmarks.turns import in_turns, peak_megabytes, take_steps
from shared.runtime import machine

WAYS = ("ours", "PEFT", "full tuning")
TARGETS, RANK, ALPHA = ["q_proj", "v_proj"], 8, 16


def work(way: str, batch: int, seq: int, connection: Connection) -> None:
    """Build the model, then take its steps; built: (parameters that learn, megabytes after loading)."""
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

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=token_ids, labels=token_ids).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    take_steps(connection, (sum(parameter.numel() for parameter in learning), after_loading), step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=64)
    options = parser.parse_args()
    found = in_turns(work, WAYS, options.steps + 1, options.batch, options.seq)

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
    for way, one in found.items():
        times = one.seconds[1:]  # the first step sets things up
        ratios = [time / ours for time, ours in zip(times, found["ours"].seconds[1:], strict=True)]
        cells = [way, f"{one.built[0]:,}", f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"]
        cells += [f"{1 / statistics.median(times):.2f}"]
        cells += [f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
        cells += [f"{one.peak:,.0f} MB", f"{one.losses[0]:.6f}"]
        print(f"| {' | '.join(cells)} |")
    after_loading = max(one.built[1] for one in found.values())
    print(f"\nAfter loading the model the processes had held at most {after_loading:,.0f} MB.")


if __name__ == "__main__":
    main()
