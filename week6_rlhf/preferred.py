"""Which of two models do people of the course's world prefer? Both tell stories, which are truly scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from week3_evaluation.solutions.leaderboard import bootstrap_interval, mean
from week6_rlhf.policy import encode, reply_log_probs, sample_replies, text_of
from week6_rlhf.preferences import Prompt, Score, true_score


@dataclass(frozen=True)
class Told:
    """One story a prompt of one model, each with its true score; and how far the model is from its reference."""

    texts: list[str]
    scores: list[Score]
    kl: float  # nats a story: the mean over these stories of log p - log p of the reference

    @property
    def totals(self) -> Tensor:
        return torch.tensor([score.total for score in self.scores], dtype=torch.float64)


def tell(
    model: nn.Module,
    reference: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    seed: int = 0,
    temperature: float = 1.0,
    progress: str = "",
) -> Told:
    """Let a model tell one story for each prompt. The KL divergence is estimated on them (so: at temperature 1)."""
    generator, ids = torch.Generator().manual_seed(seed), encode(tokenizer, prompts)
    replies = sample_replies(model, tokenizer, ids, temperature=temperature, generator=generator, progress=progress)
    pairs = [(prompt, reply) for prompt, (reply,) in zip(ids, replies, strict=True)]
    far = [reply_log_probs(one, pairs, tokenizer.pad_token_id) for one in (model, reference)]
    texts = [text_of(tokenizer, reply) for _, reply in pairs]
    scores = [true_score(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    return Told(texts, scores, (far[0] - far[1]).mean().item())


def win_rate(ours: Told, theirs: Told, level: float = 0.95) -> tuple[float, float, float]:
    """(share of prompts on which ours is preferred, low, high); a tie counts half. Bootstrap over prompts."""
    difference = ours.totals - theirs.totals
    wins = (difference > 0).double() + (difference == 0).double() / 2
    low, high = bootstrap_interval(wins, statistic=mean, level=level, generator=torch.Generator().manual_seed(0))
    return wins.mean().item(), low, high
