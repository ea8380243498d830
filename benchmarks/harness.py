"""Our multiple-choice scores against lm-evaluation-harness: `python -m benchmarks.harness` (three minutes; by hand).

The same 100 items, the same weights, batches of 16. Ours counts prompts, tokenization and scores. The harness is timed
whole (`simple_evaluate`, which also loads the task), and its `loglikelihood` alone on requests made before. Rounds are
interleaved. `--smollm2` adds that model on 10 items; `--quick` takes one round.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import statistics
import time
from collections.abc import Callable

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from shared.course import ROOT
from shared.models import course_folder, smollm2
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation.harness import prompt_of, score_task
from week3_evaluation.items import tasks

NAMES = ("mmlu", "arc", "hellaswag", "truthfulqa_mc2")
ALONE = "harness, `loglikelihood` alone"


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def runs(name: str, limit: int, models: dict, lm: HFLM) -> dict[str, Callable[[], object]]:
    """What is timed on one task: our scores with each model, and the harness's."""
    task = tasks()[name]
    tasks_folder = str(ROOT / "week3_evaluation" / "lm_eval_tasks")
    requests = [
        Instance("loglikelihood", {}, (prompt_of(task, row), f" {choice}"), i)
        for row in task.items[:limit]
        for i, choice in enumerate(task.choices(row))
    ]

    def whole() -> None:
        manager = TaskManager(include_path=tasks_folder, include_defaults=False)
        settings = {"tasks": [f"course_{name}"], "num_fewshot": 0, "limit": limit, "bootstrap_iters": 0}
        simple_evaluate(model=lm, task_manager=manager, **settings)

    ours = {
        label: lambda model=model, tokenizer=tokenizer: score_task(model, tokenizer, task, limit=limit)
        for label, (model, tokenizer) in models.items()
    }
    return {**ours, ALONE: lambda: lm.loglikelihood(requests, disable_tqdm=True), "harness, whole": whole}


def table(title: str, limit: int, models: dict, lm: HFLM, rounds: int) -> None:
    print(f"\n{title}, {limit} items; seconds, median of {rounds} interleaved rounds (ratio: harness alone / this)\n")
    found: dict[tuple[str, str], list[float]] = {}
    for name in NAMES:
        timed = runs(name, limit, models, lm)
        for run in timed.values():
            run()  # the first call sets things up
        for _ in range(rounds):
            for label, run in timed.items():
                found.setdefault((label, name), []).append(seconds(run))
    print("| | " + " | ".join(NAMES) + " |")
    print("|---" * (len(NAMES) + 1) + "|")
    for label in dict.fromkeys(label for label, _ in found):
        middle = {name: statistics.median(found[label, name]) for name in NAMES}
        cells = [f"{middle[name]:.2f} ({statistics.median(found[ALONE, name]) / middle[name]:.1f} ×)" for name in NAMES]
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2 too, on 10 items")
    options = parser.parse_args()
    rounds = 1 if options.quick else 3
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    load = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{', '.join(machine().values())}{load}\n{datetime.date.today()}, {torch.get_num_threads()} threads")
    model, tokenizer = load_pretrained(course_folder("base"), GPT)
    theirs = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
    lm = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=16)
    models = {"ours, our GPT": (model, tokenizer), "ours, transformers' GPT-2": (theirs, tokenizer)}
    table("Course model", 100, models, lm, rounds)
    if options.smollm2:
        smol, smol_tokenizer = smollm2()
        lm = HFLM(pretrained=smol, tokenizer=smol_tokenizer, batch_size=16)
        table("SmolLM2-135M", 10, {"ours": (smol, smol_tokenizer)}, lm, rounds)


if __name__ == "__main__":
    main()
