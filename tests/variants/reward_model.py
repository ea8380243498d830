"""Right answers to lesson 01 of week 6, written otherwise: they must pass."""

import numpy as np
import torch
from torch import nn

from week6_rlhf.solutions.reward_model import (
    Pair,
    check_lengths,
    check_mask,
    check_probabilities,
    check_rewards,
    check_scores,
)


def make_preference_pairs__all_draws_at_once(replies, scores, noise=0.0, generator=None):
    """Labels drawn together at the end, pairs from the last prompt to the first."""
    check_scores(replies, scores, noise)
    pairs = []
    for prompt in reversed(range(len(replies))):
        order = sorted(range(len(replies[prompt])), key=lambda i: scores[prompt][i])
        for place, low in enumerate(order):
            for high in order[place + 1 :]:
                a, b = replies[prompt][low].strip(), replies[prompt][high].strip()
                if a and b and a != b and scores[prompt][low] < scores[prompt][high]:
                    pairs.append((prompt, high, low))
    wrong = (torch.rand(len(pairs), generator=generator) >= 1 - noise).tolist()
    return [
        Pair(p, low, high) if flip else Pair(p, high, low) for flip, (p, high, low) in zip(wrong, pairs, strict=True)
    ]


def make_preference_pairs__bernoulli(replies, scores, noise=0.0, generator=None):
    check_scores(replies, scores, noise)
    chance = torch.tensor(noise, dtype=torch.float64)
    pairs = []
    for prompt in range(len(replies)):
        texts = [" ".join(text.split()) for text in replies[prompt]]
        for j in range(len(texts)):
            for i in range(j):
                sign = (scores[prompt][i] > scores[prompt][j]) - (scores[prompt][i] < scores[prompt][j])
                if sign == 0 or "" in (texts[i], texts[j]) or len({texts[i], texts[j]}) == 1:
                    continue
                if torch.bernoulli(chance, generator=generator):
                    sign = -sign
                pairs.append((prompt, i, j) if sign > 0 else (prompt, j, i))
    return pairs


def bradley_terry_loss__softplus(chosen, rejected, margin=None):
    check_rewards(chosen, rejected, margin)
    margin = torch.zeros_like(chosen) if margin is None else margin
    return nn.functional.softplus(rejected - chosen + margin).sum() / chosen.numel()


def bradley_terry_loss__cross_entropy(chosen, rejected, margin=None):
    """A choice among two: the chosen one is class 0."""
    check_rewards(chosen, rejected, margin)
    if margin is not None:
        chosen = chosen - margin
    logits = torch.stack([chosen, rejected], dim=1)
    return nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


class RewardModel__one_hot(nn.Module):
    """The last position by a cumulative count from the right, picked by a product; the head starts at zeros."""

    def __init__(self, trunk):
        super().__init__()
        self.head = nn.Linear(trunk.token_embedding.weight.shape[1], 1, bias=False)
        nn.init.zeros_(self.head.weight)
        self.trunk = trunk

    def forward(self, token_ids, attention_mask):
        check_mask(token_ids, attention_mask)
        later = attention_mask.flip(1).cumsum(dim=1).flip(1)
        last = attention_mask & (later == 1)
        rewards = self.head(self.trunk.hidden_states(token_ids, attention_mask)).squeeze(2)
        return torch.where(last, rewards, 0.0).sum(dim=1)


class RewardModel__row_by_row(nn.Module):
    """Each row alone without its padding; PyTorch's own start of a linear layer."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.config.d_model, 1, bias=False)

    def forward(self, token_ids, attention_mask):
        check_mask(token_ids, attention_mask)
        rows = [self.trunk.hidden_states(ids[real][None]) for ids, real in zip(token_ids, attention_mask, strict=True)]
        return torch.stack([self.head(row[0, -1])[0] for row in rows])


def expected_calibration_error__numpy(probabilities, outcomes, n_bins=10):
    check_probabilities(probabilities, outcomes, n_bins)
    p, y = probabilities.numpy(), outcomes.numpy()
    which = np.minimum(np.digitize(p, np.linspace(0, 1, n_bins + 1)) - 1, n_bins - 1)
    return sum((which == b).mean() * abs(y[which == b].mean() - p[which == b].mean()) for b in np.unique(which))


def expected_calibration_error__masks(probabilities, outcomes, n_bins=10):
    check_probabilities(probabilities, outcomes, n_bins)
    total = 0.0
    for b in range(n_bins):
        inside = (probabilities >= b / n_bins) & (probabilities < (b + 1) / n_bins)
        if b == n_bins - 1:
            inside |= probabilities == 1
        if inside.any():
            gap = outcomes[inside].float().mean() - probabilities[inside].mean()
            total += float(inside.float().mean() * gap.abs())
    return total


def length_controlled_reward__dummies(rewards, lengths):
    """Least squares with a constant for each prompt and one slope, solved as one system."""
    check_lengths(rewards, lengths)
    n, k = rewards.shape
    constants = torch.eye(n, dtype=torch.float64).repeat_interleave(k, dim=0)
    design = torch.cat([constants, lengths.double().reshape(-1, 1)], dim=1)
    solved = np.linalg.lstsq(design.numpy(), rewards.double().reshape(-1).numpy(), rcond=None)[0]
    slope = solved[-1] if (lengths != lengths[:, :1]).any() else 0.0
    return rewards - (slope * (lengths - lengths.mean(dim=1, keepdim=True))).to(rewards.dtype)


def length_controlled_reward__all_differences(rewards, lengths):
    """The slope from the differences of all pairs of a prompt."""
    check_lengths(rewards, lengths)
    dl = lengths[:, :, None] - lengths[:, None, :]
    dr = rewards[:, :, None] - rewards[:, None, :]
    slope = (dl * dr).sum() / dl.pow(2).sum().clamp(min=1e-12)
    return rewards - slope * dl.mean(dim=2)
