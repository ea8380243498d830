"""The reward models of lesson 01 that take longer than a lesson: `python -m week6_rlhf.reward_study [PART ...]`.

Parts: pairs, noise, length. Each model's rewards of the validation stories go into reward_study.json as soon as they
are there, and the lesson measures them; a part that is run again replaces what it gave before.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from shared.answers import write_atomically
from shared.models import course_folder
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week6_rlhf.preferences import true_score
from week6_rlhf.reward_training import (
    FrozenStart,
    RewardConfig,
    freeze_first_blocks,
    fuse_right_padded,
    rewards_of,
    token_rows,
    train_reward,
)
from week6_rlhf.samples import Told, told
from week6_rlhf.solutions.reward_model import Pair, RewardModel, make_preference_pairs

STORED = Path(__file__).parent / "reward_study.json"
SEEDS = (0, 1, 2)
LENGTH_BIAS = 0.05  # what a word more is worth to annotators who like length
BALANCED = 3  # words by which the two stories of a balanced pair may differ
Setting = tuple[str, int, float, float, bool]  # name, prompts, noise, length bias, balanced pairs only

PARTS: dict[str, list[Setting]] = {
    "pairs": [("true labels", n, 0.0, 0.0, False) for n in (50, 150, 500, 1500)],
    "noise": [(f"noise {noise}", 500, noise, 0.0, False) for noise in (0.1, 0.3)],
    "length": [
        ("labels like length", 500, 0.0, LENGTH_BIAS, False),
        ("labels like length, balanced pairs", 1500, 0.0, LENGTH_BIAS, True),
    ],
}


def lengths_of(asked: Sequence[Told]) -> Float[Tensor, "prompt reply"]:
    """The number of words of each story."""
    return torch.tensor([[float(len(text.split())) for text in row.texts] for row in asked])


def scores_of(asked: Sequence[Told]) -> Float[Tensor, "prompt reply"]:
    """The true score of each story."""
    scores = [[true_score(row.prompt, text).total for text in row.texts] for row in asked]
    return torch.tensor(scores, dtype=torch.float64)


def balanced(pairs: Sequence[Pair], lengths: Float[Tensor, "prompt reply"]) -> list[Pair]:
    """The pairs whose two stories are about equally long."""
    return [
        pair
        for pair in pairs
        if abs(lengths[pair.prompt, pair.chosen] - lengths[pair.prompt, pair.rejected]) <= BALANCED
    ]


def results(settings: Sequence[Setting]) -> Iterator[dict]:
    """Train a reward model for each setting and seed, all on the same frozen blocks."""
    trunk, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    n_train = max(setting[1] for setting in settings)
    asked, held_out = told("train")[:n_train], told("validation")
    rows = token_rows(tokenizer, asked + held_out)
    frozen = FrozenStart(fuse_right_padded(trunk), rows, tokenizer.pad_token_id)
    untrained = copy.deepcopy(frozen.state_dict())
    texts, scores, lengths = [row.texts for row in asked], scores_of(asked), lengths_of(asked)
    for name, n, noise, bias, balance in settings:
        for seed in SEEDS:
            start = time.perf_counter()
            # Each seed has other prompts, other labels, another head, another order.
            chosen = torch.randperm(n_train, generator=torch.Generator().manual_seed(seed))[:n].tolist()
            labels = scores + bias * lengths
            picked = [texts[p] for p in chosen], [labels[p].tolist() for p in chosen]
            pairs = make_preference_pairs(*picked, noise, torch.Generator().manual_seed(seed))
            if balance:
                pairs = balanced(pairs, lengths[chosen])
            torch.manual_seed(seed)
            frozen.load_state_dict(untrained)
            model = RewardModel(frozen)
            freeze_first_blocks(model)
            config = RewardConfig(n_prompts=n, noise=noise, seed=seed)
            losses = list(train_reward(model, [frozen.rows[p] for p in chosen], pairs, config, pad_id=0))
            rewards = rewards_of(model, frozen.rows[n_train:], pad_id=0)
            yield {
                "setting": name,
                "prompts": n,
                "pairs": len(pairs),
                "noise": noise,
                "length_bias": bias,
                "seed": seed,
                "steps": len(losses),
                "loss_at_end": round(sum(losses[-10:]) / len(losses[-10:]), 4),
                "seconds": round(time.perf_counter() - start, 1),
                "rewards": [[round(reward, 3) for reward in row] for row in rewards.tolist()],
            }


def load(path: Path = STORED) -> dict:
    """The stored study: {"command", "parts": {part: {"machine", "threads", "results": [result, ...]}}}."""
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m week6_rlhf.reward_study", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    for part in parser.parse_args().parts or PARTS:
        found: list[dict] = []
        for result in tqdm(results(PARTS[part]), desc=part, total=len(SEEDS) * len(PARTS[part])):
            found.append(result)
            study = load() if STORED.exists() else {"command": "python -m week6_rlhf.reward_study", "parts": {}}
            about = {"machine": ", ".join(machine().values()), "threads": torch.get_num_threads()}
            study["parts"][part] = about | {"results": found}
            write_atomically(STORED, json.dumps(study) + "\n")  # now: a study may be stopped


if __name__ == "__main__":
    main()
