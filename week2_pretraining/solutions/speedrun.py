"""The speedrun: nanoGPT's CPU recipe, what makes it faster, the race to a loss, and the table of times."""

import json
import math
import os
import tempfile
import time
import zlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.course import work_folder
from shared.runtime import machine
from week2_pretraining.solutions.data import get_batch
from week2_pretraining.solutions.optimization import parameter_groups, warmup_cosine_lr
from week2_pretraining.solutions.pretraining import evaluate_loss


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


@dataclass(frozen=True)
class CharacterText:
    """A text as token ids, one for each character: nanoGPT's data, 90 % to train on, 10 % to validate."""

    name: str
    checksum: str
    characters: str
    train_ids: Int[Tensor, "n_train"]
    validation_ids: Int[Tensor, "n_validation"]

    @classmethod
    def of(cls, text: str, name: str) -> "CharacterText":
        if len(text) < 10_000:
            raise ValueError(f"a race takes 10,000 characters or more, {name} has {len(text):,}")
        characters = "".join(sorted(set(text)))
        index = {character: i for i, character in enumerate(characters)}
        token_ids = torch.tensor([index[character] for character in text])
        n_train = int(0.9 * len(text))
        checksum = f"{zlib.crc32(text.encode()):08x}"
        return cls(name, checksum, characters, token_ids[:n_train], token_ids[n_train:])


@dataclass
class Result:
    """What a race gave: validation losses with the iteration and the training seconds at which each was measured."""

    run: Run
    target: float
    iterations: list[int]
    seconds: list[float]
    losses: list[float]

    @property
    def seconds_to_target(self) -> float | None:
        """Training seconds at the first validation loss that is not above the target; None if there was none."""
        return next((s for s, loss in zip(self.seconds, self.losses, strict=True) if loss <= self.target), None)


def learning_rate(run: Run, step: int, max_lr: float) -> float:
    """The run's schedule, for an optimizer whose highest learning rate is `max_lr`."""
    min_lr = max_lr * run.min_lr / run.lr
    if run.decay is None:
        return warmup_cosine_lr(step, max_lr, run.warmup, run.iterations, min_lr)
    return trapezoid_lr(step, max_lr, run.warmup, run.iterations, run.decay, min_lr)


def race(run: Run, data: CharacterText, target: float = 0.0, evaluate_every: int = 250, seed: int = 0) -> Result:
    """Train until the validation loss is at most `target`, or the run's iterations are used up.

    The loss is nanoGPT's estimate, 20 batches of 12 windows, here the same ones each time. The clock stands still while
    it is measured.
    """
    generator = torch.Generator().manual_seed(seed)
    model = SpeedrunGPT(run, len(data.characters), generator)
    judge = torch.Generator().manual_seed(1234)
    validation = [get_batch(data.validation_ids, 12, run.context_length, judge) for _ in range(20)]

    matrices = [model.w_qkv, model.w_o, model.w_in, model.w_out] if run.muon_lr else []
    buffers = [torch.zeros_like(w) for w in matrices]
    groups = parameter_groups(model, run.weight_decay)
    for group in groups:
        group["params"] = [p for p in group["params"] if all(p is not w for w in matrices)]
    adamw = torch.optim.AdamW(groups, betas=run.betas, fused=True)

    result = Result(run, target, [], [], [])
    seconds, start = 0.0, time.perf_counter()
    for step in range(run.iterations):
        for group in adamw.param_groups:
            group["lr"] = learning_rate(run, step, run.lr)
        token_ids, targets = get_batch(data.train_ids, run.batch_size, run.context_length, generator)
        loss = F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten())
        model.zero_grad()
        loss.backward()
        if run.clip:
            nn.utils.clip_grad_norm_(model.parameters(), run.clip)
        adamw.step()
        for i, w in enumerate(matrices):
            muon_lr = learning_rate(run, step, run.muon_lr)
            w.data, buffers[i] = muon_step(w.data, w.grad, buffers[i], muon_lr, run.momentum)
        if (step + 1) % evaluate_every == 0 or step + 1 == run.iterations:
            seconds += time.perf_counter() - start
            result.iterations.append(step + 1)
            result.seconds.append(seconds)
            result.losses.append(evaluate_loss(model, validation))
            if result.losses[-1] <= target:
                break
            start = time.perf_counter()
    return result


TIME = {"who": str, "run": str, "data": str, "target": float, "machine": str, "seconds": float, "iterations": int,
        "loss": float, "date": str}  # fmt: skip


def times_file() -> Path:
    return work_folder() / "speedrun_times.json"


def race_key(data: CharacterText, target: float) -> dict[str, str | float]:
    """What two times must share to be compared: the text, the target, the machine and its threads."""
    threads = f"{torch.get_num_threads()} threads"
    return {
        "data": f"{data.name} {data.checksum}",
        "target": round(float(target), 4),
        "machine": ", ".join([*machine().values(), threads]),
    }


def read_times(path: Path) -> list[dict]:
    """The recorded times. A file that is damaged or is no such table is kept aside under another name, and told."""
    if not path.exists():
        return []
    try:
        times = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(times, list):
            raise ValueError(f"a list of times is wanted, this is of type {type(times).__name__}")
        for entry in times:
            if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != TIME:
                raise ValueError(f"an entry is not a time with {', '.join(TIME)}")
    except ValueError as error:  # not JSON, not UTF-8, or not a table of times
        aside = next(a for i in range(1, 1000) if not (a := path.with_suffix(f".damaged{i}.json")).exists())
        os.replace(path, aside)
        print(f"{path.name} is no table of times ({error}). It is kept as {aside.name}, and a new one begins.")
        return []
    return times


def record_time(result: Result, data: CharacterText, who: str = "you", path: Path | None = None) -> None:
    """Add the race to the table of times, in one piece: a crash leaves the old file whole.

    Raises ValueError for a race that did not reach its target.
    """
    if result.seconds_to_target is None:
        raise ValueError(f"{result.run.name} ended at {result.losses[-1]:.3f} and did not reach {result.target:.3f}")
    path = times_file() if path is None else path
    last = {"iterations": result.iterations[-1], "loss": result.losses[-1], "date": date.today().isoformat()}
    entry = {"who": who, "run": result.run.name, **race_key(data, result.target), "seconds": result.seconds[-1], **last}
    text = json.dumps([*read_times(path), entry], indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)


def leaderboard(data: CharacterText, target: float, path: Path | None = None) -> str:
    """The best time of everyone's runs on this text, target and machine, fastest first, as a text table."""
    times = read_times(times_file() if path is None else path)
    key = race_key(data, target)
    alike = sorted((t for t in times if key.items() <= t.items()), key=lambda t: t["seconds"])
    best = {}
    for entry in alike:
        best.setdefault((entry["who"], entry["run"]), entry)
    lines = [f"to {target:.3f} on {data.name}; {key['machine']}", f"{'seconds':>8}  {'iterations':>10}  who and run"]
    for t in best.values():
        lines.append(f"{t['seconds']:8.1f}  {t['iterations']:10,}  {t['who']}: {t['run']} ({t['date']})")
    if len(times) > len(alike):
        lines.append(f"left out: {len(times) - len(alike)} of another text, target or machine")
    return "\n".join(lines)
