"""What people prefer: pairs with labels, the Bradley-Terry loss, the reward model, calibration, length."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week1_decoder.solutions.decoder import GPT


class Pair(NamedTuple):
    """Of two replies to one prompt, by their numbers, the one that was preferred."""

    prompt: int
    chosen: int
    rejected: int


def make_preference_pairs(
    replies: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float]],
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[Pair]:
    """Each prompt's replies in all pairs, with a label: the higher score is chosen, but each label is wrong with
    probability `noise`, independently. Ouyang et al. 2022, §3.5: K replies give up to K(K - 1)/2 pairs.

    No pair: two replies with equal text or equal score, or one that is empty; white space around a text counts not.
    Example: [["a", "b", ""]], [[0.5, 2.0, 1.0]] -> [Pair(0, chosen=1, rejected=0)]. All chance is from `generator`.
    Raises ValueError for a noise outside 0 to 0.5, a score that is no finite number, other numbers of scores.
    """
    check_scores(replies, scores, noise)
    # BEGIN SOLUTION
    pairs = []
    for prompt, (texts, values) in enumerate(zip(replies, scores, strict=True)):
        texts = [text.strip() for text in texts]
        for i, j in itertools.combinations(range(len(texts)), 2):
            if not texts[i] or not texts[j] or texts[i] == texts[j] or values[i] == values[j]:
                continue
            chosen, rejected = (i, j) if values[i] > values[j] else (j, i)
            if torch.rand((), generator=generator).item() < noise:
                chosen, rejected = rejected, chosen
            pairs.append(Pair(prompt, chosen, rejected))
    return pairs
    # END SOLUTION


def check_scores(replies: Sequence[Sequence[str]], scores: Sequence[Sequence[float]], noise: float) -> None:
    """Raise ValueError unless each reply has a finite score and the noise is from 0 to 0.5."""
    if not 0 <= noise <= 0.5:
        raise ValueError(f"noise must be from 0 to 0.5 (labels by a coin), got {noise}")
    if [len(texts) for texts in replies] != [len(values) for values in scores]:
        raise ValueError("each reply needs one score: replies and scores have different lengths")
    for prompt, values in enumerate(scores):
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"the scores of prompt {prompt} are not all finite: {list(values)}")


def bradley_terry_loss(
    chosen: Float[Tensor, "pair"], rejected: Float[Tensor, "pair"], margin: Float[Tensor, "pair"] | None = None
) -> Float[Tensor, ""]:
    """Mean of -log σ(r_chosen - r_rejected - margin) over pairs; without a margin, of -log p(chosen is preferred).

    Bradley and Terry 1952; Ouyang et al. 2022, eq. 1; the margin: Touvron et al. 2023 (Llama 2), eq. 2. Finite for
    rewards of ±10⁴. Raises ValueError for no pairs, different shapes, a reward that is not finite.
    """
    check_rewards(chosen, rejected, margin)
    # BEGIN SOLUTION
    difference = chosen - rejected
    if margin is not None:
        difference = difference - margin
    return -F.logsigmoid(difference).mean()
    # END SOLUTION


def check_rewards(chosen: Tensor, rejected: Tensor, margin: Tensor | None) -> None:
    """Raise ValueError unless there is one finite reward for each side of each pair."""
    if chosen.dim() != 1 or not len(chosen):
        raise ValueError(f"the rewards must be one for each pair, (pair,), got shape {tuple(chosen.shape)}")
    for name, values in (("rejected", rejected), ("margin", margin)):
        if values is not None and values.shape != chosen.shape:
            raise ValueError(f"{name} must have chosen's shape {tuple(chosen.shape)}, got {tuple(values.shape)}")
    if not (chosen.isfinite().all() and rejected.isfinite().all()):
        raise ValueError("a reward is nan or infinite: the model has diverged, or its input is broken")


class RewardModel(nn.Module):
    """r(text) = w · h: the trunk's hidden state after its final norm, at the text's last real token, times a vector.

    Modules `trunk` (the GPT) and `head`, nn.Linear(d_model, 1) without a bias: in a pair a bias cancels. A new head
    gives rewards of about 1 at most. Padding may stand on either side, and may be any token. Ouyang et al. 2022, §3.5.
    `forward` raises ValueError for a mask that is not bool or has another shape, and for a row without a real token.
    """

    def __init__(self, trunk: GPT) -> None:
        super().__init__()
        # BEGIN SOLUTION
        self.trunk = trunk
        self.head = nn.Linear(trunk.config.d_model, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        # END SOLUTION

    def forward(
        self, token_ids: Int[Tensor, "batch seq"], attention_mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch"]:
        check_mask(token_ids, attention_mask)
        # BEGIN SOLUTION
        hidden = self.trunk.hidden_states(token_ids, attention_mask)  # (batch, seq, d_model)
        places = torch.arange(token_ids.shape[1], device=token_ids.device)
        last = (places * attention_mask).argmax(dim=1)
        rows = torch.arange(len(token_ids), device=token_ids.device)
        return self.head(hidden[rows, last])[:, 0]
        # END SOLUTION


def check_mask(token_ids: Tensor, attention_mask: Tensor) -> None:
    """Raise ValueError unless the mask says of each token whether it is real, and each row has one that is."""
    if attention_mask.dtype != torch.bool or attention_mask.shape != token_ids.shape:
        raise ValueError(
            f"attention_mask must be bool of shape {tuple(token_ids.shape)}, "
            f"got {attention_mask.dtype} of shape {tuple(attention_mask.shape)}"
        )
    empty = (~attention_mask.any(dim=1)).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(f"row {empty[0]} has no real token: there is nothing to judge")


def expected_calibration_error(
    probabilities: Float[Tensor, "pair"], outcomes: Bool[Tensor, "pair"], n_bins: int = 10
) -> float:
    """Σ_b n_b / n · |share of outcomes in b - mean probability in b| over bins of equal width; empty ones count not.

    Bin b holds b / n_bins <= p < (b + 1) / n_bins, and the last one p = 1 too. Guo et al. 2017, eq. 3, for the
    probability of one outcome ("the first of the two is preferred"). Raises ValueError for n_bins < 1, no pairs,
    different shapes, a probability outside 0 to 1.
    """
    check_probabilities(probabilities, outcomes, n_bins)
    # BEGIN SOLUTION
    bins = (probabilities * n_bins).long().clamp(max=n_bins - 1)
    gaps = outcomes.double() - probabilities.double()
    # n_b cancels: n_b / n · |mean gap in b| = |sum of the gaps in b| / n
    sums = torch.zeros(n_bins, dtype=torch.float64, device=gaps.device).index_add(0, bins, gaps)
    return sums.abs().sum().item() / len(gaps)
    # END SOLUTION


def check_probabilities(probabilities: Tensor, outcomes: Tensor, n_bins: int) -> None:
    """Raise ValueError unless there is a bin, and a probability for each outcome."""
    if n_bins < 1:
        raise ValueError(f"n_bins must be 1 or more, got {n_bins}")
    if not len(probabilities) or probabilities.shape != outcomes.shape:
        raise ValueError(
            f"each pair needs a probability and an outcome, got shapes {tuple(probabilities.shape)} and "
            f"{tuple(outcomes.shape)}"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability is outside 0 to 1, or nan")


def length_controlled_reward(
    rewards: Float[Tensor, "prompt reply"], lengths: Float[Tensor, "prompt reply"]
) -> Float[Tensor, "prompt reply"]:
    """r - slope · (length - the prompt's mean length), slope by least squares on the replies of the same prompt.

    slope = Σ (l - l̄)(r - r̄) / Σ (l - l̄)² over all replies, l̄ and r̄ the means of their prompt. So a prompt's mean reward
    stays, and within prompts the reward no longer goes along with length. Where no prompt has two lengths, there is
    nothing to take out. Raises ValueError for different shapes, values that are not finite.
    """
    check_lengths(rewards, lengths)
    # BEGIN SOLUTION
    r = rewards - rewards.mean(dim=1, keepdim=True)
    longer = lengths - lengths.mean(dim=1, keepdim=True)
    spread = longer.square().sum()
    if spread == 0:
        return rewards.clone()
    return rewards - (longer * r).sum() / spread * longer
    # END SOLUTION


def check_lengths(rewards: Tensor, lengths: Tensor) -> None:
    """Raise ValueError unless each reward has a length, all of them finite."""
    if rewards.dim() != 2 or rewards.shape != lengths.shape:
        raise ValueError(f"both must be (prompt, reply), got shapes {tuple(rewards.shape)} and {tuple(lengths.shape)}")
    if not (rewards.isfinite().all() and lengths.isfinite().all()):
        raise ValueError("rewards and lengths must be finite")
