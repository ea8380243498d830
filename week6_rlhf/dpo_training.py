"""Tune the instruct model by DPO on pairs of its own stories: one flat loop.

python -m week6_rlhf.dpo_training --out work/aligned          the course's aligned model
python -m week6_rlhf.dpo_training --loss ipo --beta 0.02      another loss

Your GPT, sequence_log_probs, dpo_loss, ipo_loss, implicit_rewards and frozen_reference are used where you have passed
them; the course's stand in. The weights are stored in 16 bits, which halves the file.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from shared import mine
from shared.answers import write_atomically
from shared.course import work_folder
from shared.models import course_folder
from shared.runtime import machine
from week2_pretraining.fused import fuse
from week2_pretraining.solutions.optimization import clip_grad_norm, warmup_cosine_lr
from week2_pretraining.solutions.pretraining import load_pretrained, save_pretrained
from week3_evaluation.solutions.benchmarks import context_length_of
from week4_finetuning.chat import STOP
from week4_finetuning.sft import halve
from week4_finetuning.solutions.instruction_data import collate_sft
from week6_rlhf.policy import Ids, encode
from week6_rlhf.preferences import true_score
from week6_rlhf.samples import Told, told
from week6_rlhf.solutions.dpo import dpo_loss, frozen_reference, implicit_rewards, ipo_loss, sequence_log_probs


@dataclass(frozen=True)
class DPOConfig:
    """A run; `DPOConfig()` is the course's aligned model."""

    loss: str = "dpo"  # "dpo" or "ipo"
    beta: float = 0.1  # of IPO: τ
    label_smoothing: float = 0.0
    sft_weight: float = 0.0  # times the mean of -log p(chosen) a token, added to the loss
    steps: int = 140
    batch_size: int = 16  # pairs
    max_lr: float = 1.5e-4
    warmup: float = 0.1  # share of the steps
    max_norm: float = 1.0
    noise: float = 0.05  # share of labels that are wrong
    seed: int = 0


class Preference(NamedTuple):
    """Two answers to one prompt, as token ids; an answer that came to its end has <|im_end|> as its last."""

    prompt: Ids
    chosen: Ids
    rejected: Ids


PairLoss = Callable[..., Tensor]  # numbers of the pairs, log π of chosen and rejected, log π_ref of both -> loss


def best_and_worst(stories: Sequence[Told], noise: float, seed: int) -> list[tuple[Told, int, int]]:
    """(told, chosen, rejected), the two by their numbers, of each prompt whose stories differ in their true score.

    The best and the worst of its stories; each label is wrong with probability `noise`.
    """
    generator, found = torch.Generator().manual_seed(seed), []
    for one in stories:
        scores = [true_score(one.prompt, text).total for text in one.texts]
        chosen, rejected = scores.index(max(scores)), scores.index(min(scores))
        if torch.rand((), generator=generator).item() < noise:
            chosen, rejected = rejected, chosen
        if scores[chosen] != scores[rejected]:
            found.append((one, chosen, rejected))
    return found


def course_pairs(tokenizer: PreTrainedTokenizerBase, config: DPOConfig) -> list[Preference]:
    """The training pairs: for each prompt, the best and the worst of the instruct model's four stories."""
    stop = tokenizer.convert_tokens_to_ids(STOP)

    def ids_of(one: Told, which: int) -> Ids:
        return tokenizer(one.texts[which], add_special_tokens=False).input_ids + [stop] * one.ended[which]

    found = best_and_worst(told("train"), config.noise, config.seed)
    prompts = encode(tokenizer, [one.prompt for one, _, _ in found])
    return [Preference(ids, ids_of(one, i), ids_of(one, j)) for ids, (one, i, j) in zip(prompts, found, strict=True)]


def check_preferences(pairs: Sequence[Preference]) -> None:
    """Raise ValueError for no pairs, an empty answer, or two answers that are the same: they prefer nothing."""
    if not pairs:
        raise ValueError("there are no pairs to learn from")
    for i, pair in enumerate(pairs):
        for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            if not answer:
                raise ValueError(f"pair {i}: the {name} answer is empty")
        if list(pair.chosen) == list(pair.rejected):
            raise ValueError(f"pair {i}: the two answers are the same, so neither is preferred; leave the pair out")


def check_reference(policy: nn.Module, reference: nn.Module) -> None:
    """Raise ValueError where the two share weights: then the reference moves with the policy and holds nothing."""
    if {one.data_ptr() for one in policy.parameters()} & {one.data_ptr() for one in reference.parameters()}:
        raise ValueError("policy and reference share their weights; make the reference by frozen_reference(policy)")


def pair_log_probs(policy: nn.Module, pairs: Sequence[Preference], pad_id: int) -> tuple[Tensor, Tensor]:
    """log π of the chosen and of the rejected answers, each (batch,), by one pass over both.

    The policy is a GPT of ours or of transformers; padding stands on the right, where no real token sees it.
    """
    rows = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
    batch = collate_sft(rows, pad_id, max_length=context_length_of(policy))
    output = policy(batch["token_ids"])
    return sequence_log_probs(getattr(output, "logits", output), batch["labels"]).chunk(2)


@torch.no_grad()
def all_log_probs(model: nn.Module, pairs: Sequence[Preference], pad_id: int, batch_size: int = 16) -> Tensor:
    """(pair, 2): log p of the chosen and of the rejected answer of each pair, without gradients."""
    starts = tqdm(range(0, len(pairs), batch_size), desc="reference", leave=False)
    return torch.cat([torch.stack(pair_log_probs(model, pairs[i : i + batch_size], pad_id), dim=1) for i in starts])


def batches_of(n_pairs: int, config: DPOConfig) -> list[list[int]]:
    """Which pairs each step reads: shuffled anew in each round through them."""
    generator, order = torch.Generator().manual_seed(config.seed), []
    while len(order) < config.steps * config.batch_size:
        order += torch.randperm(n_pairs, generator=generator).tolist()
    return [order[i * config.batch_size : (i + 1) * config.batch_size] for i in range(config.steps)]


def config_loss(config: DPOConfig) -> PairLoss:
    """The loss that a config names."""
    if config.loss == "dpo":
        return lambda picked, *log_probs: dpo_loss(*log_probs, config.beta, config.label_smoothing)
    return lambda picked, *log_probs: ipo_loss(*log_probs, config.beta)


def train(
    policy: nn.Module,
    reference: nn.Module,
    pairs: Sequence[Preference],
    config: DPOConfig,
    pad_id: int,
    loss_of: PairLoss | None = None,
) -> Iterator[dict[str, float]]:
    """Train `policy` in place; yields what each step saw before it changed the weights.

    It is a generator: `list(train(...))` runs it. The reference is read once, before the first step. Without `loss_of`
    it is the config's loss.
    """
    loss_of = loss_of or config_loss(config)
    check_preferences(pairs)
    check_reference(policy, reference)
    batches = batches_of(len(pairs), config)
    used = sorted({i for batch in batches for i in batch})
    reference_of = dict(zip(used, all_log_probs(reference, [pairs[i] for i in used], pad_id), strict=True))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.max_lr, betas=(0.9, 0.95), weight_decay=0.0)
    policy.train()
    for step, picked in enumerate(tqdm(batches, desc=config.loss, leave=False)):
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine_lr(step, config.max_lr, int(config.warmup * config.steps), config.steps)
        chosen, rejected = pair_log_probs(policy, [pairs[i] for i in picked], pad_id)
        of_reference = torch.stack([reference_of[i] for i in picked]).unbind(dim=1)
        loss = loss_of(picked, chosen, rejected, *of_reference)
        if config.sft_weight:
            loss = loss - config.sft_weight * chosen.sum() / sum(len(pairs[i].chosen) for i in picked)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm(policy.parameters(), config.max_norm)
        optimizer.step()
        rewards = [implicit_rewards(chosen, of_reference[0], config.beta)]
        rewards.append(implicit_rewards(rejected, of_reference[1], config.beta))
        yield {
            "loss": loss.item(),
            "accuracy": (rewards[0] > rewards[1]).float().mean().item(),
            "margin": (rewards[0] - rewards[1]).mean().item(),
            "chosen": (rewards[0] / config.beta).mean().item(),  # log π - log π_ref, nats an answer
            "rejected": (rewards[1] / config.beta).mean().item(),
        }
    policy.eval()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m week6_rlhf.dpo_training", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=work_folder() / "aligned", help="folder for the tuned model")
    for field, value in asdict(DPOConfig()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(value), default=value, help=f"default: {value}")
    options = parser.parse_args(arguments)
    config = DPOConfig(**{field: getattr(options, field) for field in asdict(DPOConfig())})
    parts = ("sequence_log_probs", "dpo_loss", "ipo_loss", "implicit_rewards", "frozen_reference")
    globals().update({name: mine(name) for name in parts})

    policy, tokenizer = load_pretrained(course_folder("instruct"), mine("GPT"))
    policy = fuse(policy)
    pairs = course_pairs(tokenizer, config)
    start = time.perf_counter()
    steps = list(train(policy, frozen_reference(policy), pairs, config, tokenizer.pad_token_id))
    save_pretrained(policy, tokenizer, options.out)
    halve(options.out)
    about = {
        "command": shlex.join(["python", "-m", "week6_rlhf.dpo_training", *arguments]),
        "machine": ", ".join(machine().values()),
        "config": asdict(config),
        "pairs": len(pairs),
        "seconds": round(time.perf_counter() - start, 1),
    }
    about |= {name: [round(step[name], 4) for step in steps] for name in steps[0]}
    write_atomically(options.out / "training.json", json.dumps(about, indent=1) + "\n")
    last = steps[-20:]
    print(f"The model is in {options.out}; the last {len(last)} steps:", end=" ")
    print(", ".join(f"{name} {sum(step[name] for step in last) / len(last):.3f}" for name in steps[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
