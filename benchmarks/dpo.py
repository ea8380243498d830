"""A DPO step of ours and of TRL's `DPOTrainer`: `python -m benchmarks.dpo` (five minutes; by hand, never a test).

The course's instruct model as transformers' GPT-2 on both sides, the same eight pairs, one thread. A step is forward,
loss, backward, clipping and AdamW. Ours reads the reference once, before training; TRL reads it in each step, or once
with `precompute_ref_log_probs=True`. Each way has a process of its own, so that its peak of memory is its own; they
take their steps in turns. `--steps 2` is a quick look.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import argparse
import copy
import datetime
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from benchmarks.turns import in_turns, peak_megabytes, take_steps
from shared.models import course_folder
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation.solutions.leaderboard import bootstrap_interval
from week4_finetuning.chat import STOP
from week4_finetuning.sft import as_transformers
from week6_rlhf.dpo_training import DPOConfig, Preference, course_pairs, train

WAYS = ("ours", "TRL", "TRL, reference stored")
LR = 1e-5


def trl_trainer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Preference], folder: Path, **settings
):
    """TRL's trainer on these pairs, in this order. Answers must end in <|im_end|>: TRL adds its EOS to any other."""
    import trl
    from datasets import Dataset

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = STOP
    rows = [dict(zip(Preference._fields, map(tokenizer.decode, pair), strict=True)) for pair in pairs]
    config = {
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
    }
    return trl.DPOTrainer(
        model=model,
        ref_model=None if settings.get("precompute_ref_log_probs") else copy.deepcopy(model),
        args=trl.DPOConfig(output_dir=str(folder), **(config | settings)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def finished(pairs: Sequence[Preference], stop: int) -> list[Preference]:
    """The pairs of which both answers came to their end."""
    return [pair for pair in pairs if pair.chosen[-1] == pair.rejected[-1] == stop]


def ours(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[Preference]) -> Callable[[], float]:
    config = replace(DPOConfig(), steps=10_000, batch_size=len(pairs), max_lr=LR, warmup=0.0)
    steps = train(model, copy.deepcopy(model), pairs, config, tokenizer.pad_token_id)
    return lambda: next(steps)["loss"]


def theirs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[Preference], folder: Path, stored: bool
) -> Callable[[], float]:
    trainer = trl_trainer(
        model, tokenizer, pairs, folder, per_device_train_batch_size=len(pairs), precompute_ref_log_probs=stored
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.current_gradient_accumulation_steps = 1  # set by train(), which is not used here
    optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = trainer.training_step(trainer.model, batch)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def work(way: str, n_pairs: int, connection: Connection) -> None:
    """Build the model, then take its steps; built: the peak of memory so far."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    import trl  # noqa: F401  in each process, so that none is lighter for not having it

    gpt, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    pairs = course_pairs(tokenizer, DPOConfig())
    pairs = finished(pairs, tokenizer.convert_tokens_to_ids(STOP))[:n_pairs]
    model = as_transformers(gpt, tokenizer).train()
    with TemporaryDirectory() as folder:
        if way == "ours":
            step = ours(model, tokenizer, pairs)
        else:
            step = theirs(model, tokenizer, pairs, Path(folder), stored="stored" in way)
        take_steps(connection, peak_megabytes(), step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=8)
    options = parser.parse_args()
    found = in_turns(work, WAYS, options.steps + 1, options.pairs)

    print(f"{', '.join(machine().values())}, load {os.getloadavg()[0]:.1f}")
    print(
        f"{datetime.date.today()}, course model, {options.pairs} pairs a step, one thread; processor time, median and "
        f"range of {options.steps} steps in turns; ratio: mean and its 95 % bootstrap interval\n"
    )
    head = ["", "seconds a step", "ratio to ours", "peak memory", "before the steps", "first loss", "last loss"]
    print(f"| {' | '.join(head)} |\n|" + "---|" * len(head))
    for way, one in found.items():
        times = one.seconds[1:]  # the first step sets things up (and ours reads the reference in it)
        ratios = torch.tensor([time / ours for time, ours in zip(times, found["ours"].seconds[1:], strict=True)])
        low, high = bootstrap_interval(ratios, generator=torch.Generator().manual_seed(0))
        cells = [way, f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})"]
        cells += [f"{ratios.mean():.2f} [{low:.2f}, {high:.2f}]", f"{one.peak:,.0f} MB", f"{one.built:,.0f} MB"]
        cells += [f"{one.losses[0]:.6f}", f"{one.losses[-1]:.6f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
