"""PPO and GRPO on the course model: one flat loop. `python -m week6_rlhf.ppo_study` makes the lesson's longer runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from shared import mine
from week4_finetuning.chat import STOP
from week4_finetuning.solutions.instruction_data import collate_sft
from week4_finetuning.solutions.other_peft import bitfit_parameters
from week6_rlhf.policy import encode, sample_replies, text_of
from week6_rlhf.preferences import Prompt, prompts, true_score
from week6_rlhf.solutions.ppo import (
    gae,
    group_advantages,
    kl_penalty,
    ppo_policy_loss,
    ppo_value_loss,
    token_rewards,
)

PARTS = ("kl_penalty", "token_rewards", "gae", "ppo_policy_loss", "ppo_value_loss", "group_advantages")
Reward = Callable[[Sequence[list[int]], Sequence[list[int]]], Tensor]  # (prompts, replies) -> a score for each


@dataclass(frozen=True)
class PPOConfig:
    """One run. Only biases and norms learn (BitFit, week 4): few numbers, so that little noise gets into the policy."""

    iterations: int = 16
    replies: int = 16  # an iteration
    max_new_tokens: int = 144
    group_size: int = 0  # replies to one prompt, for GRPO; 0: PPO, one reply a prompt and a value head
    beta: float = 0.1  # weight of the KL
    lr: float = 3e-3
    epochs: int = 2  # passes over the replies of an iteration
    minibatch: int = 8
    clip: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    value_weight: float = 0.5
    cut_penalty: float = 1.0  # for a story without an end
    seed: int = 0


class PolicyWithValue(nn.Module):
    """A GPT with a second head: from the state before a token, the value of what is still to come."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        bitfit_parameters(policy, norms_too=True)  # the rest is frozen
        self.policy, self.value_head = policy, nn.Linear(policy.config.d_model, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(
        self, token_ids: Int[Tensor, "batch seq"], mask: Bool[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
        """log p of the token at t + 1, and the value before it, at each t where mask is True (time = seq - 1); else 0.

        Rows are padded on the right.
        """
        states = self.policy.hidden_states(token_ids)[:, :-1][mask]  # (token, d_model)
        log_probs = (states @ self.policy.token_embedding.weight.T).log_softmax(dim=-1)
        log_probs = log_probs.gather(1, token_ids[:, 1:][mask][:, None])[:, 0]
        empty = torch.zeros(mask.shape, device=token_ids.device)
        return empty.masked_scatter(mask, log_probs), empty.masked_scatter(mask, self.value_head(states)[:, 0])


def whiten(advantages: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
    """Mean 0 and standard deviation 1 over the real tokens, so that the learning rate fits any reward."""
    return (advantages - advantages[mask].mean()) / (advantages[mask].std() + 1e-8)


def use_mine() -> None:
    """From here on the loop runs the learner's own functions, where they have passed."""
    globals().update({name: mine(name) for name in PARTS})


def train(
    model: PolicyWithValue,
    reference: PolicyWithValue,
    reward: Reward,
    tokenizer: PreTrainedTokenizerBase,
    config: PPOConfig,
    desc: str = "PPO",
) -> Iterator[dict[str, float]]:
    """Train `model` in place; yields what each iteration saw, before its update. `list(train(...))` runs it."""
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=config.lr, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(config.seed)
    per_prompt = config.group_size or 1
    asked = prompts(config.iterations * config.replies // per_prompt, seed=10 + config.seed)
    for i in tqdm(range(config.iterations), desc=desc, leave=False):
        # 1. Write: the policy as it is now answers new prompts.
        few = asked[i * config.replies // per_prompt : (i + 1) * config.replies // per_prompt]
        told = sample_replies(
            model.policy, tokenizer, encode(tokenizer, few), per_prompt, config.max_new_tokens, generator=generator
        )
        few, replies = [prompt for prompt in few for _ in range(per_prompt)], [reply for row in told for reply in row]
        pairs = list(zip(encode(tokenizer, few), replies, strict=True))
        batch = collate_sft(pairs, tokenizer.pad_token_id, max_length=model.policy.config.context_length)
        token_ids, mask = batch["token_ids"], batch["labels"][:, 1:] != -100

        # 2. Judge: what each token earned, and how much better that is than expected.
        with torch.no_grad():
            old_log_probs, old_values = model(token_ids, mask)
            reference_log_probs, _ = reference(token_ids, mask)
            scores = reward(*zip(*pairs, strict=True))
        kl = kl_penalty(old_log_probs, reference_log_probs, "k1")
        if config.group_size:
            advantages = group_advantages(scores, config.group_size)[:, None].expand(mask.shape)
        else:
            ended = torch.tensor([reply[-1] == tokenizer.convert_tokens_to_ids(STOP) for reply in replies])
            rewards = token_rewards(scores, kl, mask, ended, config.beta, config.cut_penalty)
            is_last = mask & (mask.flip(1).cumsum(dim=1).flip(1) == 1)  # judged, so done, also where it was cut
            nothing = torch.zeros(len(scores))
            advantages, returns = gae(rewards, old_values, is_last, config.gamma, config.lam, nothing)
            advantages = whiten(advantages, mask)

        # 3. Learn: a few steps on these replies, on the leash of the clip.
        moved = []
        for _ in range(config.epochs):
            for rows in torch.randperm(len(pairs), generator=generator).split(config.minibatch):
                log_probs, values = model(token_ids[rows], mask[rows])
                loss = ppo_policy_loss(log_probs, old_log_probs[rows], advantages[rows], mask[rows], config.clip)
                ratio = (log_probs - old_log_probs[rows]).exp()
                if config.group_size:  # GRPO has the KL in the loss; PPO has it in the reward
                    penalty = ratio * kl_penalty(log_probs, reference_log_probs[rows], "k3")
                    loss = loss + config.beta * penalty[mask[rows]].mean()
                else:
                    value_loss = ppo_value_loss(values, old_values[rows], returns[rows], mask[rows], config.clip)
                    loss = loss + config.value_weight * value_loss
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                moved.append(((ratio[mask[rows]] - 1).abs() > config.clip).float().mean().item())
        yield {
            **measured(tokenizer, few, replies),
            "proxy": scores.mean().item(),
            "kl": kl.sum(dim=1).mean().item(),
            "clipped": sum(moved) / len(moved),
        }


def measured(
    tokenizer: PreTrainedTokenizerBase, asked: Sequence[Prompt], replies: Sequence[list[int]]
) -> dict[str, float]:
    """Means over replies: the true score and its parts, tokens, and the share of distinct pairs of words."""
    texts = [text_of(tokenizer, reply) for reply in replies]
    scores = [true_score(prompt, text) for prompt, text in zip(asked, texts, strict=True)]
    words = [text.split() for text in texts]
    neighbours = [pair for row in words for pair in zip(row, row[1:], strict=False)]
    found = {"true": [score.total for score in scores], "tokens": [len(reply) for reply in replies]}
    found |= {part: [getattr(score, part) for score in scores] for part in ("faithful", "kind", "short")}
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return means | {"distinct": len(set(neighbours)) / max(1, len(neighbours))}
