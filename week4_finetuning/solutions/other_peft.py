"""Fewer parameters still: keys and values in front of the sequence, and biases alone."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache


def check_sizes(**sizes: int) -> None:
    """Raise ValueError unless every size is a whole number of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")


def as_cache(pairs: Sequence[tuple[Tensor, Tensor]]) -> DynamicCache:
    """The keys and values of each layer as the cache that transformers' models read; gradients go through it."""
    cache = DynamicCache()
    for layer, (k, v) in enumerate(pairs):
        cache.update(k, v, layer)
    return cache


class PrefixTuning(nn.Module):
    """(k, v) of n_prefix virtual tokens for each layer: W₂ tanh(W₁ p + b₁) + b₂ of each row p of a table that learns.

    The table is (n_prefix, d_model), d_model = n_heads · d_head; W₁ goes to d_hidden, W₂ to n_layers · 2 · d_model. All
    learn, and the rows start apart. forward(batch): n_layers pairs (k, v) of (batch, n_heads, n_prefix, d_head).
    `fold()` puts the finished k and v in their place, as the only parameters: the output stays; a second call does
    nothing. Li and Liang 2021, §4.2 and §4.3. Raises ValueError for a size below 1.
    """

    def __init__(self, n_prefix: int, n_layers: int, n_heads: int, d_head: int, d_hidden: int) -> None:
        super().__init__()
        check_sizes(n_prefix=n_prefix, n_layers=n_layers, n_heads=n_heads, d_head=d_head, d_hidden=d_hidden)
        # BEGIN SOLUTION
        self.n_layers, self.n_heads, self.d_head = n_layers, n_heads, d_head
        d_model = n_heads * d_head
        self.table = nn.Parameter(torch.randn(n_prefix, d_model))
        self.w_1 = nn.Linear(d_model, d_hidden)
        self.w_2 = nn.Linear(d_hidden, n_layers * 2 * d_model)
        self.folded = None
        # END SOLUTION

    def forward(self, batch: int) -> tuple[tuple[Tensor, Tensor], ...]:
        check_sizes(batch=batch)
        # BEGIN SOLUTION
        rows = self.w_2(torch.tanh(self.w_1(self.table))) if self.folded is None else self.folded
        rows = rows.view(-1, self.n_layers, 2, self.n_heads, self.d_head)
        rows = rows.permute(1, 2, 3, 0, 4)  # layer, k or v, head, virtual token, d_head
        return tuple((k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)) for k, v in rows)
        # END SOLUTION

    @torch.no_grad()
    def fold(self) -> None:
        # BEGIN SOLUTION
        if self.folded is None:
            self.folded = nn.Parameter(self.w_2(torch.tanh(self.w_1(self.table))))
            del self.table, self.w_1, self.w_2
        # END SOLUTION


def check_prefix(q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor) -> None:
    """Raise ValueError unless q, k, v have one shape, and both prefixes one that differs from it in the length only."""
    shapes = [tuple(x.shape) for x in (q, k, v, prefix_k, prefix_v)]
    if len({*shapes[:3]}) != 1 or shapes[3] != shapes[4] or len(shapes[0]) != 4:
        raise ValueError(f"q, k and v must be of one (batch, n_heads, seq, d_head), and so the prefixes; got {shapes}")
    (batch, n_heads, _, d_head), prefix = shapes[0], shapes[3]
    if (*prefix[:2], *prefix[3:]) != (batch, n_heads, d_head):
        raise ValueError(f"the prefix must be ({batch}, {n_heads}, n_prefix, {d_head}), as q is; got {prefix}")


def prefix_attention(
    q: Float[Tensor, "batch n_heads seq d_head"],
    k: Float[Tensor, "batch n_heads seq d_head"],
    v: Float[Tensor, "batch n_heads seq d_head"],
    prefix_k: Float[Tensor, "batch n_heads n_prefix d_head"],
    prefix_v: Float[Tensor, "batch n_heads n_prefix d_head"],
) -> Float[Tensor, "batch n_heads seq d_head"]:
    """softmax(q [prefix_k; k]ᵀ / √d_head) [prefix_v; v]: query i sees the whole prefix, and the keys 0 to i.

    One softmax over both. n_prefix may be 0. Li and Liang 2021, §4.2. Raises ValueError for shapes that do not fit.
    """
    check_prefix(q, k, v, prefix_k, prefix_v)
    # BEGIN SOLUTION
    n_prefix, seq = prefix_k.shape[-2], q.shape[-2]
    keys, values = torch.cat([prefix_k, k], dim=-2), torch.cat([prefix_v, v], dim=-2)
    scores = q @ keys.transpose(-2, -1) / math.sqrt(q.shape[-1])
    visible = torch.ones(seq, n_prefix + seq, dtype=torch.bool, device=q.device).tril(diagonal=n_prefix)
    return scores.masked_fill(~visible, -math.inf).softmax(dim=-1) @ values
    # END SOLUTION


def bitfit_parameters(model: nn.Module, norms_too: bool = False) -> list[tuple[str, nn.Parameter]]:
    """Freeze all of a model but its biases, and return what learns: (qualified name, parameter), each parameter once.

    A bias is a parameter whose name, the part after the last dot, ends in "bias". With norms_too the norms' gains learn
    too: parameters called "weight" that have one axis. Ben Zaken et al. 2022, §3. Raises ValueError, and leaves the
    model as it was, if nothing would learn; where norms_too would help, the message says so: "norms_too=True".
    """
    # BEGIN SOLUTION
    chosen, gains = [], []
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        if last.endswith("bias"):
            chosen.append((name, parameter))
        elif last == "weight" and parameter.dim() == 1:
            gains.append((name, parameter))
    if norms_too:
        chosen += gains
    if not chosen:
        raise ValueError(
            f"{type(model).__name__} has no biases"
            + (": norms_too=True trains the gains of its norms" if gains else ", and no norms with gains")
        )
    model.requires_grad_(False)
    for _, parameter in chosen:
        parameter.requires_grad_(True)
    return chosen
    # END SOLUTION
