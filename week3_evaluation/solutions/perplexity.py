"""What a text costs a model: windows over a text of any length, nats of each token, bits per byte with an interval."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from week2_pretraining.solutions.sampling import inference


def rolling_windows(n_tokens: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """(begin, end, n_scored) of each window: read tokens begin … end - 1, score the n_scored tokens up to token `end`.

    Token 0 is given; each later one is scored once. The first window scores all that it predicts, each later one the
    next `stride` (the last: what is left). Each reads `window` tokens; the first fewer, where the text is shorter.
    Example: (8, window=4, stride=2) -> [(0, 4, 4), (2, 6, 2), (3, 7, 1)]. Press et al. 2021, Shortformer.
    Raises ValueError for fewer than 2 tokens, or a stride that is not in 1 … window.
    """
    # BEGIN SOLUTION
    if n_tokens < 2:
        raise ValueError(f"{n_tokens} tokens leave nothing to predict: give a start token and a text that is not empty")
    if not 1 <= stride <= window:
        raise ValueError(f"the stride must be 1 … window: got stride {stride} and window {window}")
    end = min(window, n_tokens - 1)
    windows = [(0, end, end)]
    while end < n_tokens - 1:
        n_scored = min(stride, n_tokens - 1 - end)
        end += n_scored
        windows.append((end - window, end, n_scored))
    return windows
    # END SOLUTION


def sliding_window_nll(
    model: Callable[[Int[Tensor, "batch window"]], Float[Tensor, "batch window vocab"]],
    token_ids: Int[Tensor, "seq"],
    window: int,
    stride: int,
    batch_size: int = 8,
) -> Float[Tensor, "seq-1"]:
    """-ln p(token | what its window shows before it) of token_ids[1:], in nats: each once, in order, as float32.

    The windows are those of `rolling_windows`; the model (token ids -> logits) reads at most `batch_size` at a time, in
    evaluation mode and without gradients, then is in its earlier mode. Sum: nats of the text; exp(mean): perplexity.
    Raises ValueError as `rolling_windows` does.
    """
    # BEGIN SOLUTION
    windows = rolling_windows(len(token_ids), window, stride)
    nats = []
    with inference(model):
        for first in range(0, len(windows), batch_size):
            batch = windows[first : first + batch_size]
            rows = torch.stack([token_ids[begin:end] for begin, end, _ in batch])
            for logits, (_, end, n_scored) in zip(model(rows), batch, strict=True):
                targets = token_ids[end - n_scored + 1 : end + 1]
                nats.append(F.cross_entropy(logits[-n_scored:].float(), targets, reduction="none"))
    return torch.cat(nats)
    # END SOLUTION


def bits_per_byte_interval(nats: Float[Tensor, "text"], n_bytes: Int[Tensor, "text"]) -> tuple[float, float, float]:
    """(r, low, high): all bits by all bytes, r = Σ bits_i / Σ bytes_i, and its 95 % interval over texts.

    Standard error: √(n / (n - 1) · Σ (bits_i - r · bytes_i)²) / Σ bytes_i; times Student's t, n - 1 degrees of freedom.
    In float64. With the nats of model A minus those of B: the difference, its interval from the same texts.
    Cochran 1977, Sampling Techniques, ch. 6. Raises ValueError for unequal lengths, one text, or a text of 0 bytes.
    """
    # BEGIN SOLUTION
    n = len(nats)
    if n != len(n_bytes):
        raise ValueError(f"each text needs its nats and its bytes, got {n} and {len(n_bytes)}")
    if n < 2:
        raise ValueError(f"an interval over texts needs at least 2 of them, got {n}")
    if (n_bytes < 1).any():
        raise ValueError("a text of 0 bytes has nothing to store: leave it out")
    bits, n_bytes = nats.double() / math.log(2), n_bytes.double()
    r = bits.sum() / n_bytes.sum()
    residuals = bits - r * n_bytes
    standard_error = (residuals.square().sum() * n / (n - 1)).sqrt() / n_bytes.sum()
    half = float(stats.t.ppf(0.975, n - 1)) * standard_error.item()
    return r.item(), r.item() - half, r.item() + half
    # END SOLUTION
