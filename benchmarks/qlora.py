"""Week 4's `QLoRALinear` beside bitsandbytes + PEFT: `python -m benchmarks.qlora` (five minutes; by hand, not a test).

SmolLM2, rank 8 on all linear layers, steps of 4 x 64 tokens with AdamW, float32 compute on the CPU, one thread: ours,
NF4 by bitsandbytes under PEFT's LoRA, and PEFT's LoRA on float32 weights, in turns. Each turn is a process of its own,
so that its memory is its own: the resident memory before the first step, and the highest during the steps, sampled
every 5 ms. `--rounds 1 --steps 2` is a quick look.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import ctypes
import datetime
import gc
import json
import logging
import statistics
import subprocess
import sys
import threading
import time
import warnings

WAYS = {"ours": "ours", "bitsandbytes": "bitsandbytes + PEFT", "float32": "PEFT, float32 weights"}
RANK, ALPHA = 8, 16


def build(way: str):
    """(model, tokenizer) of SmolLM2 with LoRA, ready to train."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from torch import nn
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from shared.models import smollm2, smollm2_folder
    from week4_finetuning.solutions.qlora import QLoRALinear

    model, tokenizer = smollm2()
    if way == "ours":
        model.requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for name in [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]:
            parent, _, leaf = name.rpartition(".")
            layer = QLoRALinear(model.get_submodule(name), RANK, ALPHA, generator=generator)
            setattr(model.get_submodule(parent), leaf, layer)
        return model.train(), tokenizer
    if way == "bitsandbytes":
        del model
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        model = AutoModelForCausalLM.from_pretrained(
            smollm2_folder(), quantization_config=config, dtype=torch.float32, device_map="cpu"
        )
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0)
    return get_peft_model(model, config).train(), tokenizer


def give_back() -> int:
    """Return what is free to the system, as far as it takes it; the resident memory then, in bytes."""
    import psutil

    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss


def one_turn(way: str, steps: int) -> dict[str, float]:
    """Steps per second of processor time, memory before and at most during the steps, and the last loss."""
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore")
    import psutil
    import torch
    from transformers.utils import logging as transformers_logging

    from shared.data import stories

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    model, tokenizer = build(way)
    texts = [story.text for story in stories(4, seed=0)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=64)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = highest = give_back()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.005):
            highest = max(highest, psutil.Process().memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds = []
    for _ in range(steps + 1):  # the first is not timed
        start = time.thread_time()
        optimizer.zero_grad()
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        seconds.append(time.thread_time() - start)
    done.set()
    watcher.join()
    return {"rate": 1 / statistics.median(seconds[1:]), "before": before, "peak": highest, "loss": loss.item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        print(json.dumps(one_turn(options.turn, options.steps)))
        return

    from shared.runtime import machine

    print(f"{', '.join(machine().values())}, load {os.getloadavg()[0]:.1f}")
    print(f"{datetime.date.today()}, one thread; median and range of {options.rounds} rounds in turns\n")
    turns: dict[str, list[dict]] = {way: [] for way in WAYS}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.qlora", "--turn", way, "--steps", str(options.steps)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            turns[way].append(json.loads(done.stdout.splitlines()[-1]))
    head = [
        "",
        "steps/s",
        "memory before training, MB",
        "highest while training, MB",
        f"loss at step {options.steps + 1}",
    ]
    print(f"| {' | '.join(head)} |\n|" + "---|" * len(head))
    for way, results in turns.items():
        cells = [WAYS[way]]
        for key, scale, form in (("rate", 1, ".2f"), ("before", 1e-6, ".0f"), ("peak", 1e-6, ".0f")):
            values = [result[key] * scale for result in results]
            cells.append(f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})")
        cells.append(f"{results[0]['loss']:.3f}")
        print(f"| {' | '.join(cells)} |")
    print(
        "\nMemory includes Python, PyTorch and the libraries, some hundred MB. The random A of ours and PEFT's differ."
    )


if __name__ == "__main__":
    main()
