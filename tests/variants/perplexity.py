"""Right answers of week 3's lesson 01, written in other ways: the checks must accept them."""

import math
import statistics

import torch
from scipy import stats


def _refuse(n_tokens, window, stride):
    if n_tokens < 2 or stride < 1 or stride > window:
        raise ValueError("nothing to score, or a stride out of range")


def rolling_windows__ends_first(n_tokens, window, stride):
    _refuse(n_tokens, window, stride)
    last = n_tokens - 1
    ends = [*range(min(window, last), last, stride), last]
    starts = [0, *ends[:-1]]
    return [[max(0, end - window), end, end - before] for before, end in zip(starts, ends, strict=True)]


def rolling_windows__by_target(n_tokens, window, stride):
    """Each target asks which window scores it."""
    _refuse(n_tokens, window, stride)
    found = {}
    for target in range(1, n_tokens):
        number = 0 if target <= window else 1 + (target - window - 1) // stride
        end = min(window + number * stride, n_tokens - 1)
        found.setdefault(end, []).append(target)
    return [(max(end - window, 0), end, len(targets)) for end, targets in found.items()]


def sliding_window_nll__one_window_at_a_time(model, token_ids, window, stride, batch_size=8):
    training = {module: module.training for module in model.modules()} if hasattr(model, "modules") else {}
    try:
        for module in training:
            module.training = False
        out = token_ids.new_zeros(len(token_ids) - 1, dtype=torch.float32)
        for begin, end, n_scored in rolling_windows__ends_first(len(token_ids), window, stride):
            with torch.no_grad():
                log_probs = model(token_ids[None, begin:end])[0].to(torch.float32).log_softmax(dim=-1)
            for target in range(end - n_scored + 1, end + 1):
                out[target - 1] = -log_probs[target - 1 - begin, token_ids[target]]
        return out
    finally:
        for module, mode in training.items():
            module.training = mode


@torch.inference_mode()
def sliding_window_nll__unfolded(model, token_ids, window, stride, batch_size=8):
    spans = rolling_windows__by_target(len(token_ids), window, stride)
    length = spans[0][1] - spans[0][0]
    begins = torch.tensor([begin for begin, _, _ in spans])
    rows = token_ids.unfold(0, length + 1, 1)[begins]  # a window and the token after it
    modes = [(module, module.training) for module in model.modules()] if hasattr(model, "modules") else []
    for module, _ in modes:
        module.training = False
    try:
        logits = torch.cat([model(part[:, :-1]).float() for part in rows.split(batch_size)])
    finally:
        for module, mode in modes:
            module.training = mode
    chosen = logits.gather(-1, rows[:, 1:, None]).squeeze(-1)
    nats = logits.logsumexp(dim=-1) - chosen
    scored = torch.arange(length)[None] >= length - torch.tensor([n for _, _, n in spans])[:, None]
    return nats[scored]


def bits_per_byte_interval__python(nats, n_bytes):
    if len(nats) != len(n_bytes) or len(nats) < 2 or min(n_bytes.tolist()) <= 0:
        raise ValueError("two texts at least, with bytes")
    bits, sizes = [x / math.log(2) for x in nats.tolist()], n_bytes.tolist()
    r = math.fsum(bits) / sum(sizes)
    residuals = [b - r * size for b, size in zip(bits, sizes, strict=True)]
    error = statistics.stdev(residuals) * math.sqrt(len(bits)) / sum(sizes)  # the residuals' mean is 0
    half = stats.t.isf(0.025, len(bits) - 1) * error
    return [r, r - half, r + half]


def bits_per_byte_interval__t_interval_of_influences(nats, n_bytes):
    """Each text's influence on r is its residual by the mean size; the interval is that of their mean."""
    nats, n_bytes = nats.to(torch.float64), n_bytes.to(torch.float64)
    if nats.shape != n_bytes.shape or len(nats) < 2 or not bool((n_bytes > 0).all()):
        raise ValueError("two texts at least, with bytes")
    r = float(nats.sum() / n_bytes.sum()) / math.log(2)
    influences = (nats / math.log(2) - r * n_bytes) / n_bytes.mean()
    low, high = stats.t.interval(0.95, len(nats) - 1, loc=r, scale=stats.sem(influences.numpy()))
    return r, float(low), float(high)
