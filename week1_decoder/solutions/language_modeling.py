"""The language-modelling objective: targets, cross-entropy, perplexity, bits per byte, a baseline, scoring answers."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def next_token_targets(
    token_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None = None
) -> Int[Tensor, "batch seq"]:
    """targets[:, t] = token_ids[:, t + 1]; -100 where there is nothing to learn.

    That is the last position and, given an `attention_mask` (1 = token, 0 = padding), every position that is padding
    itself or whose next token is padding. Example: [[5, 6, 7, 0]] with mask [[1, 1, 1, 0]] -> [[6, 7, -100, -100]].
    """
    # BEGIN SOLUTION
    targets = torch.full_like(token_ids, -100)
    targets[:, :-1] = token_ids[:, 1:]
    if attention_mask is not None:
        real = attention_mask.bool()
        targets[:, :-1][~(real[:, :-1] & real[:, 1:])] = -100
    return targets
    # END SOLUTION


def cross_entropy(
    logits: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"], ignore_index: int = -100
) -> Float[Tensor, ""]:
    """-ln p(target), with p = softmax(logits), averaged over the targets that are not `ignore_index`: nats per token.

    Finite for logits of any finite size. nan if no target counts (a mean of nothing), as in `F.cross_entropy`.
    """
    # BEGIN SOLUTION
    counts = targets != ignore_index
    valid = targets.masked_fill(~counts, 0)  # any token will do there: its term is left out of the mean
    target_logits = logits.gather(-1, valid.unsqueeze(-1)).squeeze(-1)
    nats = torch.logsumexp(logits, dim=-1) - target_logits
    return nats[counts].mean()
    # END SOLUTION


def perplexity(losses: Float[Tensor, "sequences"], counts: Int[Tensor, "sequences"]) -> float:
    """exp(mean nats per token) of a corpus, from the mean loss of each sequence and its number of counted tokens.

    Every token weighs the same. A sequence with count 0 has no say, even if its loss is nan.
    Example: losses [ln 2, ln 8], counts [3, 1] -> 2.828, for (3 ln 2 + ln 8) / 4 = ln 2.828.
    Raises ValueError if no token was counted.
    """
    if counts.sum() == 0:
        raise ValueError("perplexity needs at least one counted token")
    # BEGIN SOLUTION
    counted = counts > 0
    total_nats = (losses[counted] * counts[counted]).sum()
    return torch.exp(total_nats / counts[counted].sum()).item()
    # END SOLUTION


def bits_per_byte(total_nats: float, text: str) -> float:
    """total_nats / (ln 2 · bytes of the text in UTF-8): what a model needs to store each byte of the text, in bits.

    Example: 8 ln 2 nats for "¿no?" (5 bytes) -> 1.6. Raises ValueError for an empty text.
    """
    if not text:
        raise ValueError("an empty text has no bytes to share the bits among")
    # BEGIN SOLUTION
    return total_nats / math.log(2) / len(text.encode("utf-8"))
    # END SOLUTION


def bigram_cross_entropy(
    train_ids: Int[Tensor, "train"], test_ids: Int[Tensor, "test"], vocab_size: int, smoothing: float = 0.1
) -> float:
    """Mean nats per token of `test_ids` under p(b | a) = (n(a, b) + s) / (Σ_c n(a, c) + s · vocab_size), s = smoothing.

    n(a, b) counts how often token b follows token a in `train_ids`. The first test token is given, not predicted.
    Raises ValueError if `test_ids` has fewer than two tokens.
    """
    if len(test_ids) < 2:
        raise ValueError("a bigram needs at least two test tokens")
    # BEGIN SOLUTION
    pairs = train_ids[:-1] * vocab_size + train_ids[1:]
    n = torch.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)
    p = (n + smoothing) / (n.sum(dim=1, keepdim=True) + smoothing * vocab_size)
    return -p[test_ids[:-1], test_ids[1:]].log().mean().item()
    # END SOLUTION


def completion_log_prob(
    logits: Float[Tensor, "batch seq vocab"],
    token_ids: Int[Tensor, "batch seq"],
    completion_mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, "batch"]:
    """ln p(completion | prompt) of each row, in nats: the sum of ln p(token) over the tokens marked in the mask.

    `logits[:, t]` predicts `token_ids[:, t + 1]`. Unmarked tokens are the prompt and padding.
    Raises ValueError if the first token of a row is marked: nothing predicts it.
    """
    if completion_mask[:, 0].any():
        raise ValueError("the first token of a row has no prediction: give the model a prompt")
    # BEGIN SOLUTION
    log_probs = torch.log_softmax(logits[:, :-1], dim=-1)
    chosen = log_probs.gather(-1, token_ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    return (chosen * completion_mask[:, 1:]).sum(dim=-1)
    # END SOLUTION
