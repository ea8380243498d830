"""A flat training loop for experiments that are not about training."""

from __future__ import annotations

from collections.abc import Callable


def train(
    model,
    get_batch: Callable,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    description: str = "",
) -> list[float]:
    """Train by AdamW on the mean cross-entropy (nats a token); returns the loss of each step.

    `get_batch(step)` gives `(token_ids, targets)`, both (batch, seq); targets of -100 do not count.
    """
    import torch
    import torch.nn.functional as F
    from tqdm.auto import tqdm

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    losses: list[float] = []
    for step in tqdm(range(steps), desc=description or "training", leave=False):
        token_ids, targets = get_batch(step)
        logits = model(token_ids)  # (batch, seq, vocab)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses
