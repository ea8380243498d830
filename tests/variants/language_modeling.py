"""Right answers of lesson 04, written in other ways: the checks must accept them."""

import math
from collections import Counter, defaultdict

import torch
import torch.nn.functional as F


def next_token_targets__loops(token_ids, attention_mask=None):
    rows = token_ids.tolist()
    masks = [[1] * len(row) for row in rows] if attention_mask is None else attention_mask.tolist()
    out = []
    for row, mask in zip(rows, masks, strict=True):
        targets = []
        for t in range(len(row)):
            last = t + 1 == len(row)
            targets.append(-100 if last or not mask[t] or not mask[t + 1] else row[t + 1])
        out.append(targets)
    return torch.tensor(out)


def next_token_targets__pad_and_where(token_ids, attention_mask=None):
    shifted = F.pad(token_ids[:, 1:], (0, 1), value=-100)
    if attention_mask is None:
        return shifted
    both = attention_mask * F.pad(attention_mask[:, 1:], (0, 1))
    return torch.where(both > 0, shifted, -100)


def next_token_targets__concatenated(token_ids, attention_mask=None):
    end = token_ids.new_full((token_ids.shape[0], 1), -100)
    if attention_mask is None:
        return torch.cat([token_ids[:, 1:], end], dim=1)
    inner = token_ids[:, 1:].masked_fill((attention_mask[:, 1:] == 0) | (attention_mask[:, :-1] == 0), -100)
    return torch.cat([inner, end], dim=1)


def cross_entropy__library(logits, targets, ignore_index=-100):
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=ignore_index)


def cross_entropy__shifted_by_the_maximum(logits, targets, ignore_index=-100):
    keep = targets.reshape(-1) != ignore_index
    z = logits.reshape(-1, logits.shape[-1])[keep]
    y = targets.reshape(-1)[keep]
    z = z - z.max(dim=-1, keepdim=True).values
    log_z = z.exp().sum(dim=-1).log()
    return -(z[torch.arange(len(y)), y] - log_z).sum() / keep.sum()


def cross_entropy__one_hot(logits, targets, ignore_index=-100):
    counts = (targets != ignore_index).to(logits.dtype)
    chosen = F.one_hot(targets.clamp(min=0), logits.shape[-1]).to(logits.dtype)
    nats = -(chosen * F.log_softmax(logits, dim=-1)).sum(dim=-1)
    return (nats * counts).sum() / counts.sum()


def perplexity__loop(losses, counts):
    total_nats = total_tokens = 0.0
    for loss, count in zip(losses.tolist(), counts.tolist(), strict=True):
        if count:
            total_nats += loss * count
            total_tokens += count
    if total_tokens == 0:
        raise ValueError("no tokens")
    return math.exp(total_nats / total_tokens)


def perplexity__weights(losses, counts):
    if counts.sum() == 0:
        raise ValueError("no tokens")
    share = counts.double() / counts.sum()
    return torch.prod(torch.exp(losses.double().nan_to_num()) ** share)


def bits_per_byte__generator(total_nats, text):
    n_bytes = sum(1 for _ in bytearray(text, "utf8"))
    if n_bytes == 0:
        raise ValueError("no bytes")
    return total_nats * math.log2(math.e) / n_bytes


def bits_per_byte__code_points(total_nats, text):
    n_bytes = sum(1 + (ord(c) > 0x7F) + (ord(c) > 0x7FF) + (ord(c) > 0xFFFF) for c in text)
    if not n_bytes:
        raise ValueError("no bytes")
    return (total_nats / n_bytes) / math.log(2)


def bigram_cross_entropy__counters(train_ids, test_ids, vocab_size, smoothing=0.1):
    train, test = train_ids.tolist(), test_ids.tolist()
    if len(test) < 2:
        raise ValueError("too short")
    followers = defaultdict(Counter)
    for a, b in zip(train, train[1:], strict=False):
        followers[a][b] += 1
    total = 0.0
    for a, b in zip(test, test[1:], strict=False):
        p = followers[a][b] + smoothing
        p /= followers[a].total() + smoothing * vocab_size
        total += -math.log(p) if p > 0 else math.inf
    return total / (len(test) - 1)


def bigram_cross_entropy__one_hot_product(train_ids, test_ids, vocab_size, smoothing=0.1):
    if test_ids.numel() < 2:
        raise ValueError("too short")
    first = F.one_hot(train_ids[:-1], vocab_size).double()
    second = F.one_hot(train_ids[1:], vocab_size).double()
    table = first.T @ second + smoothing
    return F.nll_loss((table / table.sum(1, keepdim=True)).log()[test_ids[:-1]], test_ids[1:])


def bigram_cross_entropy__index_put(train_ids, test_ids, vocab_size, smoothing=0.1):
    if len(test_ids) < 2:
        raise ValueError("too short")
    table = torch.full((vocab_size, vocab_size), float(smoothing))
    table.index_put_((train_ids[:-1], train_ids[1:]), torch.tensor(1.0), accumulate=True)
    rows = table[test_ids[:-1]]
    return (rows.sum(-1).log() - rows.gather(1, test_ids[1:, None])[:, 0].log()).mean()


def completion_log_prob__through_cross_entropy(logits, token_ids, completion_mask):
    if completion_mask[:, 0].any():
        raise ValueError("no prompt")
    targets = torch.where(completion_mask, token_ids, -100)[:, 1:]
    return -F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none").sum(dim=1)


def completion_log_prob__token_by_token(logits, token_ids, completion_mask):
    scores = []
    for row, ids, marked in zip(logits, token_ids, completion_mask, strict=True):
        score = torch.zeros(())
        for t in marked.nonzero().flatten().tolist():
            if t == 0:
                raise ValueError("no prompt")
            score = score + row[t - 1, ids[t]] - row[t - 1].logsumexp(0)
        scores.append(score)
    return torch.stack(scores)
