"""A model that is called with whole rows, as `speculative_decode` calls it, and computes only what is new in them."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from week5_inference.solutions.kv_cache import cached_forward, empty_cache


class Remembering:
    """`model(token_ids)` for one row, over a cache: what the row has in common with the last one is not computed again.

    Tokens that were refused are cut from the cache. The logits are a view that a later call may overwrite from the
    first new token on. `calls` counts the passes, `tokens` what went through them.
    """

    def __init__(self, model: nn.Module, forward: Callable = cached_forward):
        self.model, self.config, self.forward = model, model.config, forward
        weight = model.token_embedding.weight
        self.cache = empty_cache(model, 1)
        self.row = torch.zeros(0, dtype=torch.long)
        self.logits = torch.zeros(1, model.config.context_length, len(weight), dtype=weight.dtype, device=weight.device)
        self.calls = self.tokens = 0

    @torch.no_grad()
    def __call__(self, token_ids: Int[Tensor, "1 seq"]) -> Float[Tensor, "1 seq vocab"]:
        row = token_ids[0]
        n = min(len(row), len(self.row))
        differs = (row[:n] != self.row[:n]).nonzero()
        same = int(differs[0]) if len(differs) else n
        if same < len(self.row):
            self.cache.truncate(torch.tensor([same], device=self.cache.lengths.device))
        if same < len(row):
            new = token_ids[:, same:].to(self.logits.device)
            self.logits[:, same : len(row)] = self.forward(self.model, new, self.cache)
            self.calls, self.tokens = self.calls + 1, self.tokens + len(row) - same
        self.row = row.clone()
        return self.logits[:, : len(row)]

    def forget(self) -> None:
        """Begin anew, with the counts at zero."""
        self.cache.reset()
        self.row, self.calls, self.tokens = self.row[:0], 0, 0
