"""What a right answer of lesson 06 shows, and the known mistakes."""

import math

import torch

from shared.checking import observes, raised


def _cosine_down(step, max_lr, warmup_steps, total_steps, decay_steps, min_lr=0.0):
    if step < 0 or min(warmup_steps, decay_steps) < 0 or total_steps < max(1, warmup_steps + decay_steps):
        raise ValueError
    if not 0 <= min_lr <= max_lr:
        raise ValueError
    if step < warmup_steps:
        return max_lr * (step + 1) / warmup_steps
    left = max(0, total_steps - step)
    if left >= decay_steps:
        return max_lr if left else min_lr
    return min_lr + (max_lr - min_lr) * (1 - math.cos(math.pi * left / decay_steps)) / 2


@observes(
    "trapezoid_lr",
    difficulty=2,
    minutes=8,
    hints=(
        "Three pieces, told apart by the step: before warmup_steps, the middle, and the last decay_steps.",
        "On the way down count what is left: total_steps - step is decay_steps at its beginning and 0 at its end.",
        "min_lr + (max_lr - min_lr) * steps_left / decay_steps, where steps_left is never below 0; mind decay_steps = 0.",
    ),
    mistakes={
        "The first step has a learning rate of 0: its batch is computed for nothing.": (
            "max_lr * (step + 1) / warmup_steps",
            "max_lr * step / warmup_steps",
        ),
        "There is no warm-up: the first steps, when the gradients point anywhere, are taken at full length.": (
            "if step < warmup_steps:",
            "if False:",
        ),
        "The way down is half a cosine: it lingers near max_lr and near min_lr; a straight line was asked for.": _cosine_down,
        "The line goes down to 0 and not to min_lr: the last steps are shorter than was asked for.": (
            "min_lr + (max_lr - min_lr) * steps_left / decay_steps",
            "max_lr * steps_left / decay_steps",
        ),
        "The line goes down by max_lr on top of min_lr: at the beginning of the way down the rate jumps up.": (
            "min_lr + (max_lr - min_lr) * steps_left / decay_steps",
            "min_lr + max_lr * steps_left / decay_steps",
        ),
        "After total_steps the line goes on below min_lr, and soon the sign changes: the optimizer climbs.": [
            ("max(0, total_steps - step)", "total_steps - step"),
            ("max_lr if steps_left else min_lr", "max_lr if steps_left > 0 else min_lr"),
        ],
        "The rate falls from the end of the warm-up on: nothing is left of the flat part.": [
            ("steps_left >= decay_steps", "step == warmup_steps"),
            ("steps_left / decay_steps", "steps_left / max(1, total_steps - warmup_steps)"),
        ],
        "The way down ends one step early: min_lr is reached at total_steps - 1, and the last step is given away.": [
            ("max(0, total_steps - step)", "max(0, total_steps - 1 - step)"),
        ],
    },
)
def check_trapezoid_lr(trapezoid_lr, rng):
    yield "step 0 of 2 warmup steps, 8 in all, 4 of decay", trapezoid_lr(0, 1.0, 2, 8, 4)
    yield "steps 1 to 4 of the same", [trapezoid_lr(step, 1.0, 2, 8, 4) for step in range(1, 5)]
    yield "steps 5 to 8 of the same", [trapezoid_lr(step, 1.0, 2, 8, 4) for step in range(5, 9)]
    yield "the same, down to 0.2", [trapezoid_lr(step, 1.0, 2, 8, 4, 0.2) for step in range(9)]
    yield "five steps after the end", trapezoid_lr(13, 1.0, 2, 8, 4, 0.1)
    yield "no warm-up, no decay", [trapezoid_lr(step, 0.5, 0, 3, 0, 0.125) for step in range(5)]
    warmup, flat, decay = torch.randint(2, 20, (3,), generator=rng).tolist()
    max_lr = 0.5 + torch.rand((), generator=rng).item()
    total = warmup + flat + decay
    rates = [trapezoid_lr(step, max_lr, warmup, total, decay, max_lr / 10) for step in range(total + 3)]
    yield f"{warmup} steps up, {flat} flat, {decay} down", rates
    yield "a straight line from the first step", [trapezoid_lr(step, max_lr, 0, decay, decay) for step in range(decay)]
    yield "a negative step is refused", raised(trapezoid_lr, -1, 1.0, 2, 8, 4)
    yield "more warm-up and decay than steps is refused", raised(trapezoid_lr, 0, 1.0, 5, 8, 4)
    yield "min_lr above max_lr is refused", raised(trapezoid_lr, 0, 1.0, 2, 8, 4, 2.0)


@observes(
    "rms_norm",
    difficulty=1,
    minutes=5,
    hints=(
        "Which number is the same for all entries of one vector?",
        "`x.square().mean(dim=-1, keepdim=True)` keeps an axis of length 1, so that x can be divided by its root.",
        "x / torch.sqrt(mean of squares + eps), or x times its `torch.rsqrt`.",
    ),
    mistakes={
        "The sum of squares is taken, not the mean: every vector gets length 1, and the scores of attention, products of "
        "two of them, stay so small that no head can look sharply.": (".mean(", ".sum("),
        "The mean is subtracted first: that is LayerNorm, which turns the direction of the vector.": (
            "return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)",
            "x = x - x.mean(dim=-1, keepdim=True); return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)",
        ),
        "One number serves the whole tensor: a long vector makes all the others short.": (
            "x.square().mean(dim=-1, keepdim=True)",
            "x.square().mean()",
        ),
        "eps is not there: a vector of zeros becomes nan.": ("keepdim=True) + eps", "keepdim=True)"),
        "eps stands outside the root, where it keeps the divisor above 0.000001; inside, it keeps it above 0.001, "
        "so that tiny vectors stay short.": (
            "x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)",
            "x / (x.square().mean(dim=-1, keepdim=True).sqrt() + eps)",
        ),
        "The root is missing: x is divided by its mean square, so that long vectors come out short.": (
            "torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)",
            "(x.square().mean(dim=-1, keepdim=True) + eps).reciprocal()",
        ),
        "No gradient flows through the norm: the direction of the gradient is wrong, and nothing tells you so.": (
            "x.square().mean(dim=-1, keepdim=True)",
            "x.detach().square().mean(dim=-1, keepdim=True)",
        ),
    },
)
def check_rms_norm(rms_norm, rng):
    yield "one vector", rms_norm(torch.tensor([3.0, 4.0]))
    yield "zeros", rms_norm(torch.zeros(2, 3))
    yield "a long and a short vector", rms_norm(torch.tensor([[30.0, 40.0, 0.0], [0.003, 0.0, -0.004]]))
    yield "a large eps", rms_norm(torch.tensor([[1.0, 2.0, 2.0]]), 0.5)
    x = torch.randn(2, 3, 4, 6, generator=rng).requires_grad_()
    normed = rms_norm(x)
    yield "two texts, three heads, four places", normed
    sides = torch.randn(x.shape, generator=rng)
    flows = isinstance(normed, torch.Tensor) and normed.requires_grad and normed.shape == x.shape
    yield "the gradient of a weighted sum", torch.autograd.grad((sides * normed).sum(), x)[0] if flows else None


def _exact_polar_factor(matrix, steps=5):
    if matrix.dim() < 2:
        raise ValueError
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u @ ((s > 0).to(s.dtype)[..., None] * vt)


def _entry_by_entry(matrix, steps=5):
    if matrix.dim() < 2:
        raise ValueError
    x = matrix / (torch.linalg.matrix_norm(matrix, keepdim=True) + 1e-7)
    for _ in range(steps):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    return x


_START = "torch.linalg.matrix_norm(x, keepdim=True)"


@observes(
    "orthogonalize",
    difficulty=3,
    minutes=15,
    hints=(
        "Think of a single singular value s: each round turns it into a s + b s³ + c s⁵. What must be true of s at the start?",
        "X Xᵀ X has the singular values s³ with the same directions, so A X with A = X Xᵀ is the cubic term and A A X the "
        "quintic one. `.mT` swaps the last two axes, whatever is before them.",
        "Divide by `torch.linalg.matrix_norm(x, keepdim=True)` + 1e-7, which is one number for each matrix; then repeat "
        "x = a x + (b A + c A A) x. For a tall matrix work on its transpose, and turn the result back.",
    ),
    mistakes={
        "The matrix is not divided by its norm first: the quintic grows without bound for singular values above "
        "about 1.26, and the result is nan, or noise.": (
            "x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)",
            "x = x + 0",
        ),
        "One norm serves the whole batch: what one matrix becomes depends on the others.": (
            _START,
            "torch.linalg.vector_norm(x)",
        ),
        "Each row is divided by its own norm: that changes the directions before the iteration has begun.": (
            _START,
            "x.norm(dim=-1, keepdim=True)",
        ),
        "The small number in the denominator is missing: a gradient of zeros becomes nan, and nan stays.": (
            "keepdim=True) + 1e-7)",
            "keepdim=True))",
        ),
        "The powers are taken of the entries, not of the matrix: no singular vector stays where it was.": _entry_by_entry,
        "The coefficients are those of the classical cubic, 1.5 and -0.5: safe, but small singular values grow by "
        "only half in a round, and five rounds leave them small.": (
            "a, b, c = 3.4445, -4.7750, 2.0315",
            "a, b, c = 1.5, -0.5, 0.0",
        ),
        "b and c are exchanged: it is the cubic term that pulls down, and the quintic one that pushes up again.": (
            "(b * gram + c * gram @ gram)",
            "(c * gram + b * gram @ gram)",
        ),
        "The quintic term is missing: with these coefficients the cubic alone throws singular values across zero.": (
            "(b * gram + c * gram @ gram)",
            "(b * gram)",
        ),
        "`steps` is not used: the number of rounds is built in.": ("range(steps)", "range(5)"),
        "A tall matrix comes back lying: it was transposed for the iteration and not turned back.": (
            "return x.mT if tall else x",
            "return x",
        ),
        "The result is in bfloat16. That is how it is computed on GPUs, where it is fast; the result has to be in the "
        "matrix's own dtype.": ("return x.mT if tall else x", "return (x.mT if tall else x).bfloat16()"),
        "The exact U Vᵀ comes back, from a singular value decomposition: it is what the iteration approaches, but "
        "much slower, and not what the rounds of the quintic give.": _exact_polar_factor,
    },
)
def check_orthogonalize(orthogonalize, rng):
    yield "one number", orthogonalize(torch.tensor([[2.0]]))
    yield "a diagonal, one round", orthogonalize(torch.tensor([[3.0, 0.0], [0.0, -4.0]]), 1)
    yield "the same, five rounds", orthogonalize(torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
    yield "a lying matrix", orthogonalize(torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]]))
    yield "the same, standing", orthogonalize(torch.tensor([[1.0, 0.0], [2.0, 1.0], [3.0, -1.0]]))
    yield "zeros", orthogonalize(torch.zeros(2, 3))
    batch = torch.randn(2, 3, 4, 6, generator=rng) * torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1)
    yield "six matrices of three sizes of numbers", orthogonalize(batch)
    yield "float64, tall, two rounds", orthogonalize(torch.randn(7, 3, generator=rng, dtype=torch.float64), 2)
    yield "a vector is refused", raised(orthogonalize, torch.ones(3))


def _orthogonalized_before_the_momentum(weights, gradient, momentum_buffer, lr, momentum=0.95, weight_decay=0.0):
    from week2_pretraining.solutions.speedrun import orthogonalize

    if not weights.shape == gradient.shape == momentum_buffer.shape:
        raise ValueError
    gradient = orthogonalize(gradient)
    buffer = momentum * momentum_buffer + (1 - momentum) * gradient
    direction = momentum * buffer + (1 - momentum) * gradient
    step = lr * math.sqrt(max(1, weights.shape[-2] / weights.shape[-1]))
    return (1 - lr * weight_decay) * weights - step * direction, buffer


_DIRECTION = "direction = gradient.lerp(buffer, momentum)"


@observes(
    "muon_step",
    difficulty=3,
    minutes=15,
    hints=(
        "Do the four lines of the formula in order; nothing is changed in place, two new tensors are returned.",
        "The look ahead (Nesterov): the new buffer is mixed once more with the gradient, in the same proportion.",
        "rows and columns are the last two axes of weights; the decay multiplies the weights and never meets the buffer.",
    ),
    mistakes={
        "The direction is the buffer alone: the look ahead of Nesterov is missing, and the step lags behind.": (
            _DIRECTION,
            "direction = buffer",
        ),
        "The direction is the gradient alone: without momentum every step follows the noise of its own batch.": (
            _DIRECTION,
            "direction = gradient",
        ),
        "The buffer adds up gradients and does not average them: orthogonalize forgets the size, so the step is the "
        "same, but the buffer is 1 / (1 - momentum) times as large.": [
            ("momentum_buffer.lerp(gradient, 1 - momentum)", "momentum * momentum_buffer + gradient"),
            (_DIRECTION, "direction = gradient + momentum * buffer"),
        ],
        "momentum and 1 - momentum are exchanged: the buffer forgets at once.": (
            "momentum_buffer.lerp(gradient, 1 - momentum)",
            "momentum_buffer.lerp(gradient, momentum)",
        ),
        "The direction is not orthogonalized: this is plain momentum, and its large singular values decide everything.": (
            "step * orthogonalize(direction)",
            "step * direction",
        ),
        "The gradient is orthogonalized before the average is taken: small noisy directions are blown up in every "
        "batch, and an average of orthogonal matrices is not orthogonal.": _orthogonalized_before_the_momentum,
        "The shape is not used: tall matrices, which get longer steps by the formula, move too little.": (
            "math.sqrt(max(1, rows / columns))",
            "1.0",
        ),
        "rows and columns are exchanged in the factor for the shape: lying matrices move too much, tall ones too little.": (
            "max(1, rows / columns))",
            "max(1, columns / rows))",
        ),
        "The sign is wrong: the step goes uphill.": ("* weights - step", "* weights + step"),
        "The decay is not multiplied by lr: the weights are gone after a few dozen steps.": (
            "(1 - lr * weight_decay)",
            "(1 - weight_decay)",
        ),
        "The decay is added to the gradient, as in plain L2: orthogonalize then mixes it with the direction. Muon's decay is "
        "decoupled, as AdamW's.": [
            (
                "momentum_buffer.lerp(gradient, 1 - momentum)",
                "momentum_buffer.lerp(gradient + weight_decay * weights, 1 - momentum)",
            ),
            ("(1 - lr * weight_decay) * weights", "weights"),
        ],
        "The old buffer is returned: the momentum never builds up.": (
            "orthogonalize(direction), buffer",
            "orthogonalize(direction), momentum_buffer",
        ),
    },
)
def check_muon_step(muon_step, rng):
    one = torch.tensor([[1.0]])
    yield "a single weight of 1, gradient 1, no momentum yet", muon_step(one, one, torch.zeros(1, 1), 0.1)
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    gradient = torch.tensor([[0.3, -0.1], [0.2, 0.4]])
    momentum_buffer = torch.tensor([[-0.2, 0.5], [0.1, 0.3]])
    yield "two by two", muon_step(weights, gradient, momentum_buffer, 0.1)
    yield "with weight decay", muon_step(weights, gradient, momentum_buffer, 0.1, 0.9, 0.5)

    def random(*shape):
        return [torch.randn(shape, generator=rng) for _ in range(3)]

    yield "a tall matrix", muon_step(*random(6, 2), 0.2)
    yield "a lying matrix", muon_step(*random(2, 6), 0.2, momentum=0.8)
    yield "three matrices at once", muon_step(*random(3, 4, 2), 0.05, 0.7, 0.1)
    weights, gradient, momentum_buffer = random(4, 3)
    for _ in range(3):
        weights, momentum_buffer = muon_step(weights, gradient, momentum_buffer, 0.05, 0.9, 0.1)
        gradient = gradient.roll(1, 0)
    yield "after three steps", [weights, momentum_buffer]
    yield (
        "a gradient of another shape is refused",
        raised(muon_step, torch.ones(2, 2), torch.ones(2), torch.zeros(2, 2), 0.1),
    )
