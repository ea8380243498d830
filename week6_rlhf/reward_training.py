"""Train the course's reward model on pairs of the instruct model's stories: one flat loop.

python -m week6_rlhf.reward_training                 into week6_rlhf/reward.safetensors
python -m week6_rlhf.reward_training --noise 0.3     with other labels; see --help

Yours are used where you have passed them (GPT, RewardModel, the pairs, the loss). Only the last two blocks, the final
norm and the head are trained, and only they are stored, in 16 bits; the rest is the instruct model's.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerBase

from shared import mine
from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.fused import FusedAttention, fused_norm
from week2_pretraining.solutions.optimization import clip_grad_norm, parameter_groups, warmup_cosine_lr
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.chat import STOP
from week4_finetuning.sft import as_transformers
from week6_rlhf.policy import encode
from week6_rlhf.preferences import true_score
from week6_rlhf.samples import Told, told
from week6_rlhf.solutions.reward_model import Pair, RewardModel, bradley_terry_loss, make_preference_pairs

STORED = Path(__file__).parent / "reward.safetensors"
N_TRAINED = 2  # blocks, from the end
Ids = list[int]


@dataclass(frozen=True)
class RewardConfig:
    """A training run; `RewardConfig()` is the course's reward model."""

    n_prompts: int = 1500  # of four stories each: up to six pairs a prompt
    noise: float = 0.1
    epochs: int = 2
    batch_size: int = 8  # prompts
    max_lr: float = 1e-3
    weight_decay: float = 0.1
    seed: int = 0


def token_rows(tokenizer: PreTrainedTokenizerBase, asked: Sequence[Told]) -> list[list[Ids]]:
    """For each prompt, its stories as token ids: prompt, story, and <|im_end|> where the story came to its end."""
    prompts = encode(tokenizer, [row.prompt for row in asked])
    return [
        [
            prompt + tokenizer(text + STOP * ended, add_special_tokens=False).input_ids
            for text, ended in zip(row.texts, row.ended, strict=True)
        ]
        for prompt, row in zip(prompts, asked, strict=True)
    ]


def padded(rows: Sequence[Ids], pad_id: int) -> tuple[Tensor, Tensor]:
    """(token_ids, attention_mask), padded on the right."""
    lengths = torch.tensor([len(row) for row in rows])
    token_ids = torch.full((len(rows), int(lengths.max())), pad_id)
    for i, row in enumerate(rows):
        token_ids[i, : len(row)] = torch.tensor(row)
    return token_ids, torch.arange(token_ids.shape[1]) < lengths[:, None]


class RightPadded(FusedAttention):
    """Fused attention that needs no mask: what stands on the right of a token, causal attention never reads."""

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


class FusedFeedForward(nn.Module):
    """Week 1's feed-forward over the same parameters, with PyTorch's GELU."""

    def __init__(self, feed_forward: nn.Module):
        super().__init__()
        self.w_in, self.w_out = feed_forward.w_in, feed_forward.w_out

    def forward(self, x: Tensor) -> Tensor:
        return self.w_out(F.gelu(self.w_in(x), approximate="tanh"))


def fuse_right_padded(trunk: nn.Module) -> nn.Module:
    """Replace the parts of a GPT's blocks in place by fused ones, for rows that are padded on the right only."""
    for block in trunk.blocks:
        block.attention, block.feed_forward = RightPadded(block.attention), FusedFeedForward(block.feed_forward)
        block.norm_1, block.norm_2 = fused_norm(block.norm_1), fused_norm(block.norm_2)
    trunk.final_norm = fused_norm(trunk.final_norm)
    return trunk


class FrozenStart(nn.Module):
    """A trunk for training: what its frozen blocks make of each token is computed once, and then looked up.

    Its token ids are numbers of rows in that table; `rows` has them for the stories that it was made of. Of the last
    block only the last real token's state is computed, for nothing else is read; it stands at all positions.
    """

    def __init__(self, trunk: nn.Module, rows: Sequence[Sequence[Ids]], pad_id: int):
        super().__init__()
        self.config, self.blocks, self.final_norm = trunk.config, trunk.blocks, trunk.final_norm
        front = copy.deepcopy(trunk)
        front.blocks, front.final_norm = front.blocks[:-N_TRAINED], nn.Identity()
        tables, self.rows, n = [], [], 0
        for replies in tqdm(rows, desc="frozen blocks", leave=False):
            token_ids, mask = padded(replies, pad_id)
            with torch.no_grad():
                tables.append(front.hidden_states(token_ids, mask)[mask])
            ends = [n + end for end in itertools.accumulate(map(len, replies), initial=0)]
            self.rows.append([list(range(*span)) for span in itertools.pairwise(ends)])
            n = ends[-1]
        self.table = torch.cat(tables)

    def hidden_states(self, token_ids: Tensor, key_mask: Tensor) -> Tensor:
        x = self.table[token_ids]
        *blocks, end = self.blocks[-N_TRAINED:]
        for block in blocks:
            x = block(x, key_mask)
        last = x[torch.arange(len(x)), key_mask.sum(dim=1) - 1][:, None]  # (batch, 1, d_model)
        inputs, heads = end.norm_1(x), end.attention
        projected = (heads.w_q(end.norm_1(last)), heads.w_k(inputs), heads.w_v(inputs))
        q, k, v = (part.unflatten(2, (heads.n_heads, -1)).transpose(1, 2) for part in projected)
        mixed = F.scaled_dot_product_attention(q, k, v, key_mask[:, None, None, :])
        last = last + heads.w_o(mixed.transpose(1, 2).flatten(2))
        last = last + end.feed_forward(end.norm_2(last))
        return self.final_norm(last).expand_as(x)


def rewards_of(model: nn.Module, rows: Sequence[Sequence[Ids]], pad_id: int, batch_size: int = 16) -> Tensor:
    """The reward of each reply of each prompt, (prompt, reply), without gradients; all prompts have equally many."""
    found = []
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            found.append(model(*padded(sum(batch, []), pad_id)).view(len(batch), -1))
    return torch.cat(found)


def freeze_first_blocks(model: nn.Module) -> None:
    """Leave only the last N_TRAINED blocks, the final norm and the head to be trained."""
    model.requires_grad_(False)
    for part in (*model.trunk.blocks[-N_TRAINED:], model.trunk.final_norm, model.head):
        part.requires_grad_(True)


def train_reward(
    model: nn.Module, rows: Sequence[Sequence[Ids]], pairs: Sequence[Pair], config: RewardConfig, pad_id: int
) -> Iterator[float]:
    """Train what is not frozen, in place; yields the loss of each step. It is a generator: `list(train_reward(...))`.

    A batch holds whole prompts, so each story is read once for all its pairs (Ouyang et al. 2022, §3.5).
    """
    generator = torch.Generator().manual_seed(config.seed)
    by_prompt: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt, []).append(pair)
    prompts = list(by_prompt)
    n_batches = -(-len(prompts) // config.batch_size)
    steps = config.epochs * n_batches
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.max_lr, betas=(0.9, 0.95))
    model.train()
    for step in tqdm(range(steps), desc="reward model", leave=False):
        if step % n_batches == 0:
            order = torch.randperm(len(prompts), generator=generator).tolist()
        start = step % n_batches * config.batch_size
        batch = [prompts[i] for i in order[start : start + config.batch_size]]
        wanted = {
            (pair.prompt, reply) for p in batch for pair in by_prompt[p] for reply in (pair.chosen, pair.rejected)
        }
        place = {key: i for i, key in enumerate(sorted(wanted))}
        rewards = model(*padded([rows[prompt][reply] for prompt, reply in place], pad_id))
        chosen = [place[p, pair.chosen] for p in batch for pair in by_prompt[p]]
        rejected = [place[p, pair.rejected] for p in batch for pair in by_prompt[p]]
        loss = bradley_terry_loss(rewards[chosen], rewards[rejected])
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine_lr(step, config.max_lr, int(0.05 * steps), steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm(trained, 1.0)
        optimizer.step()
        yield loss.item()
    model.eval()


def as_classifier(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> GPT2ForSequenceClassification:
    """The same reward model as a class of transformers, in evaluation mode."""
    causal = as_transformers(model.trunk, tokenizer)
    config = copy.deepcopy(causal.config)
    config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
    classifier = GPT2ForSequenceClassification(config)
    classifier.transformer.load_state_dict(causal.transformer.state_dict())
    classifier.score.load_state_dict(model.head.state_dict())
    return classifier.eval()


def load_reward_model() -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """The course's reward model in evaluation mode, and the tokenizer; a story's reward has no absolute meaning."""
    trunk, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    model = RewardModel(trunk)
    stored = {name: tensor.float() for name, tensor in load_file(STORED).items()}
    unknown = model.load_state_dict(stored, strict=False).unexpected_keys
    if unknown or "head.weight" not in stored:
        raise ValueError(f"{STORED.name} holds no reward model of this course: {unknown or 'it has no head'}")
    return model.eval(), tokenizer


PARTS = ("GPT", "RewardModel", "bradley_terry_loss", "make_preference_pairs")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m week6_rlhf.reward_training", description=__doc__.splitlines()[0])
    for field, value in asdict(RewardConfig()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(value), default=value, help=f"default: {value}")
    config = RewardConfig(**vars(parser.parse_args()))
    globals().update({name: mine(name) for name in PARTS})
    torch.manual_seed(config.seed)  # for the head
    trunk, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    asked = told("train")[: config.n_prompts]
    start = FrozenStart(fuse_right_padded(trunk), token_rows(tokenizer, asked), tokenizer.pad_token_id)
    model = RewardModel(start)
    freeze_first_blocks(model)
    scores = [[true_score(row.prompt, text).total for text in row.texts] for row in asked]
    generator = torch.Generator().manual_seed(config.seed)
    pairs = make_preference_pairs([row.texts for row in asked], scores, config.noise, generator)
    losses = list(train_reward(model, start.rows, pairs, config, pad_id=0))
    trained = {name: p.detach().half() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, STORED, metadata={"config": json.dumps(asdict(config)), "pairs": str(len(pairs))})
    print(f"{len(pairs)} pairs; the last 20 steps: {sum(losses[-20:]) / len(losses[-20:]):.3f} nats a pair")


if __name__ == "__main__":
    main()
