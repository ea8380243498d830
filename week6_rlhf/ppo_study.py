"""The longer runs of lesson 02: `python -m week6_rlhf.ppo_study [PART ...]`, into ppo_study.json.

Parts: free (no KL), leash, grpo; three seeds each. Each run goes into the file as soon as it is there, and what is in
the file is not run again: delete it to begin anew.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from shared.answers import write_atomically
from shared.models import course_folder
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.fused import fuse
from week2_pretraining.solutions.pretraining import load_pretrained
from week6_rlhf.policy import encode, sample_replies, text_of
from week6_rlhf.ppo_training import PolicyWithValue, PPOConfig, Reward, train
from week6_rlhf.preferences import prompts, true_score
from week6_rlhf.reward_training import load_reward_model, padded, token_rows
from week6_rlhf.samples import told

STORED = Path(__file__).parent / "ppo_study.json"
SEEDS, N_HELD_OUT = (0, 1, 2), 48
LONG = PPOConfig(iterations=24)
PARTS = {"free": {"beta": 0.0}, "leash": {"beta": 0.1}, "grpo": {"beta": 0.1, "group_size": 4}}


def proxy_reward() -> Reward:
    """Lesson 01's reward model as a function of token ids, in standard deviations of the instruct model's stories."""
    model, tokenizer = load_reward_model()

    @torch.no_grad()
    def raw(asked: Sequence[list[int]], replies: Sequence[list[int]]) -> Tensor:
        rows = [prompt + reply for prompt, reply in zip(asked, replies, strict=True)]
        return model(*padded(rows, tokenizer.pad_token_id))

    rows = [row for group in token_rows(tokenizer, told("validation")[:16]) for row in group]
    usual = raw([[]] * len(rows), rows)
    return lambda asked, replies: (raw(asked, replies) - usual.mean()) / usual.std()


def fresh_policy() -> tuple[PolicyWithValue, PolicyWithValue, PreTrainedTokenizerBase]:
    """The instruct model with a value head, a frozen copy of it as the reference, and the tokenizer."""
    gpt, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    model = PolicyWithValue(fuse(gpt).eval())
    return model, copy.deepcopy(model).requires_grad_(False), tokenizer


def held_out(model: PolicyWithValue, tokenizer: PreTrainedTokenizerBase, reward: Reward, n: int = N_HELD_OUT) -> dict:
    """One story for each of n prompts that no training saw: proxy, parts of the true score, tokens, some texts."""
    asked = prompts(n, seed=99, split="validation")
    ids, generator = encode(tokenizer, asked), torch.Generator().manual_seed(99)
    replies = [row[0] for row in sample_replies(model.policy, tokenizer, ids, generator=generator)]
    texts = [text_of(tokenizer, reply) for reply in replies]
    scores = [true_score(prompt, text) for prompt, text in zip(asked, texts, strict=True)]
    return {
        "proxy": [round(score, 3) for score in reward(ids, replies).tolist()],
        **{part: [round(getattr(s, part), 3) for s in scores] for part in ("total", "faithful", "kind", "short")},
        "tokens": [len(reply) for reply in replies],
        "texts": [[prompt.text, text] for prompt, text in zip(asked[:6], texts, strict=False)],
    }


def run(config: PPOConfig, desc: str) -> dict:
    """Train, and judge on held-out prompts."""
    start, reward = time.perf_counter(), proxy_reward()
    model, reference, tokenizer = fresh_policy()
    curve = list(train(model, reference, reward, tokenizer, config, desc))
    return {
        "config": asdict(config),
        "curve": {name: [round(row[name], 4) for row in curve] for name in curve[0]},
        "held_out": held_out(model, tokenizer, reward),
        "seconds": round(time.perf_counter() - start),
    }


def load(path: Path = STORED) -> dict:
    """The stored study: {"command", "machine", "before": held_out, "runs": {part: [run of each seed]}}."""
    return json.loads(path.read_text(encoding="utf-8"))


def main(arguments: Sequence[str], path: Path = STORED) -> None:
    unknown = set(arguments) - PARTS.keys()
    if unknown:
        raise SystemExit(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    study = load(path) if path.exists() else {"command": "python -m week6_rlhf.ppo_study", "runs": {}}
    study["machine"] = ", ".join(machine().values())
    if "before" not in study:
        model, _, tokenizer = fresh_policy()
        study["before"] = held_out(model, tokenizer, proxy_reward())
    for seed in tqdm(SEEDS, desc="seeds"):
        for part in arguments or PARTS:
            runs = study["runs"].setdefault(part, [])
            if len(runs) <= seed:
                runs.append(run(replace(LONG, seed=seed, **PARTS[part]), part))
                write_atomically(path, json.dumps(study, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
