"""What lesson 03 compares and has no time to make: `python -m week6_rlhf.dpo_study [PART ...]` (an hour on one core).

Parts: sweep, variants, best_of_n, aligned, reward, tax. Each result goes into dpo_study.json as soon as it is there; a
part that is run again replaces what it gave before.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from shared.answers import write_atomically
from shared.models import course_folder
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.fused import fuse
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation.harness import score_task
from week3_evaluation.items import tasks
from week4_finetuning.chat import STOP
from week6_rlhf.dpo_training import DPOConfig, course_pairs, train
from week6_rlhf.policy import encode, reply_log_probs, sample_replies, text_of
from week6_rlhf.preferences import Prompt, true_score
from week6_rlhf.samples import PER_PROMPT, told
from week6_rlhf.solutions.dpo import frozen_reference

STORED = Path(__file__).parent / "dpo_study.json"
PPO_STORED = Path(__file__).parent / "ppo_study.json"  # of lesson 02
BETAS, SEEDS = (0.03, 0.1, 0.5, 2.5), (0, 1)
N_ASKED = 256  # held-out prompts that each run of the sweep is asked
N_ITEMS = 100  # of each task of week 3


@cache
def instruct() -> tuple[GPT, PreTrainedTokenizerBase]:
    return load_pretrained(course_folder("instruct"), GPT)


@cache
def held_out() -> list[Prompt]:
    """The prompts that every model is asked, none of them trained on."""
    return [one.prompt for one in told("validation")]


def repeated(texts: Sequence[str], n: int = 4) -> float:
    """Of all runs of n words, the share that stood in the same text before."""
    seen = total = 0
    for text in texts:
        words = text.split()
        runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        total, seen = total + len(runs), seen + len(runs) - len(set(runs))
    return seen / max(1, total)


def asked(model: nn.Module, prompts: Sequence[Prompt], seed: int = 0) -> dict[str, object]:
    """One story for each prompt at temperature 1, and what can be said of it; a list has one entry a story.

    "log_ratio" is log π - log π_ref of the story, π_ref the instruct model: its mean estimates KL(π, π_ref), in nats.
    """
    (reference, tokenizer), generator = instruct(), torch.Generator().manual_seed(seed)
    ids = encode(tokenizer, prompts)
    replies = [reply for (reply,) in sample_replies(model, tokenizer, ids, generator=generator, progress="asking")]
    pairs = list(zip(ids, replies, strict=True))
    ours, theirs = (reply_log_probs(one, pairs, tokenizer.pad_token_id) for one in (model, reference))
    texts = [text_of(tokenizer, reply) for reply in replies]
    scores = [true_score(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    n_tokens = sum(map(len, replies))
    return {
        "score": [round(score.total, 3) for score in scores],
        "log_ratio": [round(value, 2) for value in (ours - theirs).tolist()],
        "parts": {
            name: round(sum(getattr(score, name) for score in scores) / len(scores), 3)
            for name in ("faithful", "kind", "short")
        },
        "words": round(sum(len(text.split()) for text in texts) / len(texts), 1),
        "ended": round(
            sum(reply[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>") for reply in replies) / len(ids), 3
        ),
        "repeated": round(repeated(texts), 4),
        "nats_a_token": round(-ours.sum().item() / n_tokens, 3),  # of its own stories: its entropy
        "instruct_nats_a_token": round(-theirs.sum().item() / n_tokens, 3),
        "examples": texts[:2],
    }


def run(setting: str, config: DPOConfig) -> dict[str, object]:
    """Train with this config, ask the held-out prompts."""
    start = time.perf_counter()
    model, tokenizer = instruct()
    policy = fuse(copy.deepcopy(model))
    pairs = course_pairs(tokenizer, config)
    steps = list(train(policy, frozen_reference(policy), pairs, config, tokenizer.pad_token_id))
    curves = {name: [round(step[name], 3) for step in steps] for name in steps[0]}
    found = asked(policy, held_out()[:N_ASKED], seed=config.seed)
    seconds = round(time.perf_counter() - start, 1)
    return {"setting": setting, "config": asdict(config), "seconds": seconds, **found, "curves": curves}


def sweep() -> Iterator[dict]:
    """DPO with four betas, two seeds each."""
    for beta in BETAS:
        for seed in SEEDS:
            yield run(f"DPO, beta {beta}, seed {seed}", replace(DPOConfig(), beta=beta, seed=seed))


def variants() -> Iterator[dict]:
    """IPO, and an SFT term. One seed each."""
    settings = {
        "IPO, tau 0.1": {"loss": "ipo"},
        "DPO and SFT": {"sft_weight": 10.0},
    }
    for setting, changed in settings.items():
        yield run(setting, replace(DPOConfig(), **changed))


def best_of_n() -> Iterator[dict]:
    """The scores of eight stories of the instruct model for each held-out prompt; four of them are the stored ones."""
    model, tokenizer = instruct()
    ids, generator = encode(tokenizer, held_out()), torch.Generator().manual_seed(8)
    more = sample_replies(model, tokenizer, ids, 4, generator=generator, progress="best of n")
    scores = [
        [round(true_score(one.prompt, text).total, 3) for text in (*one.texts, *(text_of(tokenizer, r) for r in row))]
        for one, row in zip(told("validation"), more, strict=True)
    ]
    yield {"setting": "instruct", "scores": scores}


def aligned() -> Iterator[dict]:
    """The aligned model of the repository and the instruct model on the held-out prompts."""
    for name in ("instruct", "aligned"):
        yield {"setting": name, **asked(load_pretrained(course_folder(name), GPT)[0], held_out(), seed=100)}


def reward() -> Iterator[dict]:
    """log π - log π_ref of the instruct model's stored stories, four for each held-out prompt, π the aligned model."""
    (reference, tokenizer), (policy, _) = instruct(), load_pretrained(course_folder("aligned"), GPT)
    stop = tokenizer.convert_tokens_to_ids(STOP)
    answers = [
        (prompt, tokenizer(text, add_special_tokens=False).input_ids + [stop] * ended)
        for prompt, one in zip(encode(tokenizer, held_out()), told("validation"), strict=True)
        for text, ended in zip(one.texts, one.ended, strict=True)
    ]
    ours, theirs = (reply_log_probs(one, answers, tokenizer.pad_token_id) for one in (policy, reference))
    rows = (ours - theirs).view(-1, PER_PROMPT).tolist()
    yield {"setting": "aligned", "log_ratio": [[round(value, 3) for value in row] for row in rows]}


def tax() -> Iterator[dict]:
    """Week 3's tasks: the score of each item."""
    for name in ("instruct", "aligned"):
        model, tokenizer = load_pretrained(course_folder(name), GPT)
        found = {task: score_task(model.eval(), tokenizer, about, limit=N_ITEMS) for task, about in tasks().items()}
        yield {"setting": name, "items": {task: [round(one.score, 3) for one in of] for task, of in found.items()}}


PARTS: dict[str, Callable[[], Iterator[dict]]] = {
    "sweep": sweep,
    "variants": variants,
    "best_of_n": best_of_n,
    "aligned": aligned,
    "reward": reward,
    "tax": tax,
}


def load(path: Path = STORED) -> dict[str, list[dict]]:
    """The stored results of each part."""
    return {name: part["results"] for name, part in json.loads(path.read_text(encoding="utf-8"))["parts"].items()}


def ppo_points(path: Path = PPO_STORED) -> list[dict]:
    """Lesson 02's runs, where its study is there: "kl" in nats a story (mean of the last four iterations), "score"."""
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else {}
    return [
        {"setting": part, "kl": sum(one["curve"]["kl"][-4:]) / 4, "score": one["held_out"]["total"]}
        for part, of_part in runs.items()
        for one in of_part
    ]


def as_text(study: dict) -> str:
    """JSON with one line a result."""
    parts = []
    for name, part in study["parts"].items():
        rows = ",\n".join(json.dumps(result) for result in part["results"])
        parts.append(f'{json.dumps(name)}: {{"machine": {json.dumps(part["machine"])}, "results": [\n{rows}\n]}}')
    return f'{{"command": {json.dumps(study["command"])}, "parts": {{\n' + ",\n".join(parts) + "\n}}\n"


def main(arguments: list[str], path: Path = STORED) -> None:
    unknown = set(arguments) - PARTS.keys()
    if unknown:
        raise SystemExit(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for part in arguments or PARTS:
        results: list[dict] = []
        for result in tqdm(PARTS[part](), desc=part):
            results.append(result)
            study = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": {}}
            study["command"] = "python -m week6_rlhf.dpo_study"
            study["parts"][part] = {"machine": ", ".join(machine().values()), "results": results}
            write_atomically(path, as_text(study))


if __name__ == "__main__":
    main(sys.argv[1:])
