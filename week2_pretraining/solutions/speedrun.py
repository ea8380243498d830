"""The speedrun: nanoGPT's CPU recipe, what makes it faster, and the model of both."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Run:
    """A recipe. `Run()` is nanoGPT's published one for a CPU: validation loss 1.88 on tiny Shakespeare."""

    name: str = "baseline"
    # the model
    n_layers: int = 4
    n_heads: int = 4
    d_model: int = 128
    context_length: int = 64
    rope: bool = False  # rotated queries and keys; False: learned position embeddings
    qk_norm: bool = False
    squared_relu: bool = False  # False: GELU
    zero_init: bool = False  # the matrices that write into the residual stream begin at zero
    ngrams: tuple[int, ...] = ()  # (2, 3): a table for the last two characters, hashed, and one for the last three
    n_hashes: int = 8192  # rows of each of these tables
    # the optimizer
    muon_lr: float | None = None  # for the matrices of the blocks; None: AdamW for everything
    momentum: float = 0.95  # of Muon
    lr: float = 1e-3  # AdamW
    min_lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.1
    clip: float = 1.0  # 0: not clipped
    # the schedule
    batch_size: int = 12
    iterations: int = 2000
    warmup: int = 100
    decay: int | None = None  # iterations of the straight line down at the end; None: a cosine over the whole run

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "context_length", "n_hashes", "batch_size", "iterations"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive whole number, got {size!r}")
        if self.d_model % (2 * self.n_heads):
            raise ValueError(f"d_model must split into n_heads heads of even width, got {self.d_model}, {self.n_heads}")


BEST = Run(
    name="all together",
    rope=True,
    qk_norm=True,
    squared_relu=True,
    zero_init=True,
    ngrams=(2, 3, 4),
    n_hashes=16384,
    muon_lr=0.02,
    momentum=0.85,
    lr=0.01,
    min_lr=0.0,
    betas=(0.8, 0.95),
    weight_decay=0.0,
    clip=0.0,
    batch_size=24,
    iterations=70,
    warmup=0,
    decay=70,
)


def trapezoid_lr(
    step: int, max_lr: float, warmup_steps: int, total_steps: int, decay_steps: int, min_lr: float = 0.0
) -> float:
    """The learning rate of step 0, 1, …: a straight line up, flat at max_lr, a straight line down to min_lr.

    max_lr (step + 1) / warmup_steps while step < warmup_steps, as in `warmup_cosine_lr`. The way down takes the last
    decay_steps: max_lr at step total_steps - decay_steps, min_lr from total_steps on. Hägele et al. 2024.
    Example: max_lr 1, 2 warmup steps, 8 in all, 4 of decay -> 0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0.
    """
    if step < 0 or min(warmup_steps, decay_steps) < 0 or total_steps < max(1, warmup_steps + decay_steps):
        raise ValueError(
            "0 <= step and 0 <= warmup_steps + decay_steps <= total_steps: "
            f"got step={step}, {warmup_steps} + {decay_steps} of {total_steps}"
        )
    if not 0 <= min_lr <= max_lr:
        raise ValueError(f"0 <= min_lr <= max_lr: got min_lr={min_lr}, max_lr={max_lr}")
    # BEGIN SOLUTION
    if step < warmup_steps:
        return max_lr * (step + 1) / warmup_steps
    steps_left = max(0, total_steps - step)
    if steps_left >= decay_steps:
        return max_lr if steps_left else min_lr
    return min_lr + (max_lr - min_lr) * steps_left / decay_steps
    # END SOLUTION


def rms_norm(x: Float[Tensor, "... d_head"], eps: float = 1e-6) -> Float[Tensor, "... d_head"]:
    """x / √(mean of x² over the last axis + eps): every vector gets the length √d_head, its direction stays.

    Zhang and Sennrich 2019, eq. 4, without the gain. Example: [3, 4] -> [0.849, 1.131]; zeros stay zeros.
    """
    # BEGIN SOLUTION
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    # END SOLUTION


def orthogonalize(matrix: Float[Tensor, "*batch rows columns"], steps: int = 5) -> Float[Tensor, "*batch rows columns"]:
    """Roughly U Vᵀ, where matrix = U S Vᵀ: all singular values are driven to about 1, the directions stay.

    X = matrix / (‖matrix‖_F + 1e-7), then `steps` times X <- a X + (b A + c A²) X with A = X Xᵀ and
    (a, b, c) = (3.4445, -4.7750, 2.0315). Jordan et al. 2024. Each matrix of a batch goes its own way; zero stays zero.
    """
    if matrix.dim() < 2:
        raise ValueError(f"orthogonalize takes matrices (two axes or more), got shape {tuple(matrix.shape)}")
    # BEGIN SOLUTION
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix  # X Xᵀ is then the smaller of the two products
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
    # END SOLUTION


def muon_step(
    weights: Float[Tensor, "*batch rows columns"],
    gradient: Float[Tensor, "*batch rows columns"],
    momentum_buffer: Float[Tensor, "*batch rows columns"],
    lr: float,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
) -> tuple[Float[Tensor, "*batch rows columns"], Float[Tensor, "*batch rows columns"]]:
    """One step of Muon: (new weights, new momentum buffer); Jordan et al. 2024, with Nesterov's look ahead.

    buffer = momentum · buffer + (1 - momentum) · gradient; direction = momentum · buffer + (1 - momentum) · gradient;
    weights = (1 - lr · weight_decay) · weights - lr · √max(1, rows / columns) · orthogonalize(direction).
    """
    if not weights.shape == gradient.shape == momentum_buffer.shape:
        shapes = [tuple(t.shape) for t in (weights, gradient, momentum_buffer)]
        raise ValueError(f"weights, gradient and momentum_buffer must have one shape, got {shapes}")
    # BEGIN SOLUTION
    buffer = momentum_buffer.lerp(gradient, 1 - momentum)
    direction = gradient.lerp(buffer, momentum)
    rows, columns = weights.shape[-2:]
    step = lr * math.sqrt(max(1, rows / columns))
    return (1 - lr * weight_decay) * weights - step * orthogonalize(direction), buffer
    # END SOLUTION


def hashed_ngrams(token_ids: Int[Tensor, "batch seq"], n: int, n_rows: int) -> Int[Tensor, "batch seq"]:
    """The row of a table for the last n tokens at each position; different n-grams may meet in one row."""
    row = token_ids
    for back in range(1, n):
        earlier = F.pad(token_ids, (back, 0), value=-1)[:, : token_ids.shape[1]]
        row = row * 1_000_003 + earlier + 1  # -1 + 1: before the window there is nothing
    return (row * 2_654_435_761 % 2**32 * n_rows) // 2**32  # the upper bits of the product are well mixed


class SpeedrunGPT(nn.Module):
    """Week 1's decoder without biases, in PyTorch's fused kernels, with the options of a `Run`.

    The matrices of one kind lie in one tensor for all layers, so that Muon treats them together.
    """

    def __init__(self, run: Run, vocab_size: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.run = run
        n, d = run.n_layers, run.d_model

        def normal(*shape: int, std: float = 0.02) -> nn.Parameter:
            return nn.Parameter(std * torch.randn(shape, generator=generator))

        writes = 0.0 if run.zero_init else 0.02 / math.sqrt(2 * n)
        self.token_embedding = normal(vocab_size, d)  # also the head
        self.w_qkv = normal(n, 3, d, d)
        self.w_o = normal(n, d, d, std=writes)
        self.w_in = normal(n, 4 * d, d)
        self.w_out = normal(n, d, 4 * d, std=writes)
        self.norms = nn.ModuleList(nn.LayerNorm(d, bias=False) for _ in range(2 * n + 1))
        if run.ngrams:
            self.ngram_embedding = nn.Parameter(torch.zeros(len(run.ngrams) * run.n_hashes, d))  # table after table
        if run.rope:
            d_head = d // run.n_heads
            angle = torch.arange(run.context_length)[:, None] * 10000 ** (-torch.arange(0, d_head, 2) / d_head)
            self.register_buffer("turn", torch.polar(torch.ones_like(angle), angle), persistent=False)  # e^(i angle)
        else:
            self.position_embedding = normal(run.context_length, d)

    def rotate(self, x: Float[Tensor, "batch head seq d_head"]) -> Float[Tensor, "batch head seq d_head"]:
        """Turn each pair of neighbouring entries by an angle that grows with the position. Su et al. 2021."""
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # a turn is the product with a complex number
        return torch.view_as_real(pairs * self.turn[: x.shape[-2]]).flatten(-2)

    def forward(self, token_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
        run, (batch, seq) = self.run, token_ids.shape
        x = F.embedding(token_ids, self.token_embedding)
        if run.ngrams:
            rows = [i * run.n_hashes + hashed_ngrams(token_ids, n, run.n_hashes) for i, n in enumerate(run.ngrams)]
            x = x + F.embedding(torch.stack(rows), self.ngram_embedding).sum(dim=0)
        if not run.rope:
            x = x + self.position_embedding[:seq]
        matrices = (w.unbind() for w in (self.w_qkv, self.w_o, self.w_in, self.w_out))
        for i, (w_qkv, w_o, w_in, w_out) in enumerate(zip(*matrices, strict=True)):
            qkv = F.linear(self.norms[2 * i](x), w_qkv.flatten(0, 1))
            q, k, v = qkv.view(batch, seq, 3, run.n_heads, -1).permute(2, 0, 3, 1, 4)  # batch head seq d_head
            if run.qk_norm:
                q, k = rms_norm(q), rms_norm(k)
            if run.rope:
                q, k = self.rotate(q), self.rotate(k)
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(heads.transpose(1, 2).flatten(2), w_o)
            h = F.linear(self.norms[2 * i + 1](x), w_in)
            h = F.relu(h).square() if run.squared_relu else F.gelu(h)
            x = x + F.linear(h, w_out)
        return F.linear(self.norms[-1](x), self.token_embedding)
