"""The optimizer step and what surrounds it: schedule, clipping, groups, accumulation, loss scale, recomputation."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def adamw_step(
    parameters: list[nn.Parameter],
    state: list[dict],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> None:
    """One AdamW step on each parameter, in place, with the gradient that `backward()` left in its `.grad`.

    Loshchilov and Hutter 2019, algorithm 2, with the decay lr * weight_decay; Kingma and Ba 2015, algorithm 1.
    `state[i]` belongs to `parameters[i]`: {} before its first step, then {"step": t, "m": tensor, "v": tensor}.
    A parameter whose grad is None is left alone: no update, no decay, and its own t does not advance.
    """
    if len(state) != len(parameters):
        raise ValueError(f"each parameter needs a state: got {len(parameters)} parameters and {len(state)} states")
    # BEGIN SOLUTION
    beta1, beta2 = betas
    for parameter, own in zip(parameters, state, strict=True):
        g = parameter.grad
        if g is None:
            continue
        if not own:
            own.update(step=0, m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
        own["step"] += 1
        t = own["step"]
        own["m"] = beta1 * own["m"] + (1 - beta1) * g  # line 7
        own["v"] = beta2 * own["v"] + (1 - beta2) * g.square()  # line 8
        m_hat = own["m"] / (1 - beta1**t)  # line 9
        v_hat = own["v"] / (1 - beta2**t)  # line 10
        with torch.no_grad():
            parameter.mul_(1 - lr * weight_decay)  # the decay of line 12, from the old value
            parameter.sub_(lr * m_hat / (v_hat.sqrt() + eps))
    # END SOLUTION


def warmup_cosine_lr(step: int, max_lr: float, warmup_steps: int, total_steps: int, min_lr: float = 0.0) -> float:
    """The learning rate of step 0, 1, …: a straight line up to max_lr, then half a cosine down to min_lr.

    max_lr (step + 1) / warmup_steps while step < warmup_steps, so step 0 already learns; then
    min_lr + (max_lr - min_lr) (1 + cos(π progress)) / 2, progress going from 0 at warmup_steps to 1 at total_steps.
    Example: max_lr 1, 4 warmup steps, 8 in all -> 0.25, 0.5, 0.75, 1, 1, 0.85, 0.5, 0.15, 0.
    """
    if step < 0 or warmup_steps < 0 or total_steps < max(1, warmup_steps):
        raise ValueError(f"0 <= step and 0 <= warmup_steps <= total_steps: got {step}, {warmup_steps}, {total_steps}")
    if not 0 <= min_lr <= max_lr:
        raise ValueError(f"0 <= min_lr <= max_lr: got min_lr={min_lr}, max_lr={max_lr}")
    # BEGIN SOLUTION
    if step < warmup_steps:
        return max_lr * (step + 1) / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2
    # END SOLUTION


def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> Float[Tensor, ""]:
    """Multiply all gradients in place by min(1, max_norm / (norm + 1e-6)); return the norm from before.

    norm = √(sum of squares of all gradients together): their direction stays. Pascanu et al. 2013, algorithm 1.
    `parameters` may be a generator; a grad of None is passed over, and with no gradient at all the norm is 0.
    A norm of inf or nan is returned as it is and leaves nan in the gradients, as in PyTorch: skip such a step.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}")
    # BEGIN SOLUTION
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1)
    for g in gradients:
        g.mul_(factor)
    return norm
    # END SOLUTION


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for `torch.optim.AdamW`, first what is decayed, then what is not.

    [{"params": [...], "weight_decay": weight_decay}, {"params": [...], "weight_decay": 0.0}]. Matrices and embeddings
    (two axes or more) decay; biases and the weights of norms (one axis) do not. Each parameter is there once, even
    where two modules share it; a frozen one (requires_grad False) is in no group.
    """
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be 0 or above, got {weight_decay}")
    # BEGIN SOLUTION
    trained = [p for p in model.parameters() if p.requires_grad]  # parameters() gives a shared one once
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    # END SOLUTION


def accumulate_gradients(
    model: nn.Module, micro_batches: list[tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]]
) -> float:
    """Add to each `.grad` the gradient of the mean loss over all counted targets of all parts; return that loss.

    The same as `F.cross_entropy` on one large batch, whatever the sizes of its parts, with one part's graph in memory
    at a time. A part is (token_ids, targets), targets of -100 do not count, `model(token_ids)` gives the logits.
    Clearing old gradients is the caller's job. Raises ValueError where no target counts.
    """
    n_counted = sum(int((targets != -100).sum()) for _, targets in micro_batches)
    if n_counted == 0:
        raise ValueError("no target counts in these micro-batches: there is no mean to take")
    # BEGIN SOLUTION
    total = 0.0
    for token_ids, targets in micro_batches:
        logits = model(token_ids)
        summed = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        loss = summed / n_counted  # the share of this micro-batch in the mean of all
        loss.backward()  # frees its graph
        total += loss.item()
    return total
    # END SOLUTION


class LossScaler(nn.Module):
    """Keeps gradients in float16's range: scale the loss before backward, divide the gradients after it.

    `scaler(loss).backward()`, then `step(optimizer)`, then `update()`. Gradients with inf or nan mean that the scale
    was too large: that step is skipped and the scale multiplied by backoff_factor; after growth_interval steps in a row
    without one it is multiplied by growth_factor, as in `torch.amp.GradScaler`. With a fixed scale: Micikevicius
    et al. 2018, §3.2.
    The buffers `scale` and `good_steps` are in `state_dict()`, so a resumed run goes on with them.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):
            given = f"{init_scale}, {growth_factor}, {backoff_factor}, {growth_interval}"
            allowed = "init_scale > 0, growth_factor > 1, 0 < backoff_factor < 1, growth_interval >= 1"
            raise ValueError(f"{allowed}: got {given}")
        super().__init__()
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval
        self.register_buffer("scale", torch.tensor(float(init_scale)))
        self.register_buffer("good_steps", torch.tensor(0))
        self.finite: bool | None = None  # of this step's gradients; None: not divided yet

    def forward(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss, scaled."""
        # BEGIN SOLUTION
        return loss * self.scale
        # END SOLUTION

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, in place, and note whether all are finite.

        To be called before clipping; where it was not, `step` calls it. None gradients are passed over.
        """
        # BEGIN SOLUTION
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for g in gradients:
            g.div_(self.scale)
        self.finite = all(bool(g.isfinite().all()) for g in gradients)
        # END SOLUTION

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer.step()`, with gradients divided exactly once, unless one of them is inf or nan."""
        # BEGIN SOLUTION
        if self.finite is None:
            self.unscale(optimizer)
        if self.finite:
            optimizer.step()
        # END SOLUTION

    def update(self) -> None:
        """Adapt the scale to what this step has shown, and be ready for the next one."""
        # BEGIN SOLUTION
        if self.finite:
            self.good_steps += 1
            if self.good_steps == self.growth_interval:
                self.scale *= self.growth_factor
                self.good_steps.zero_()
        else:
            self.scale *= self.backoff_factor
            self.good_steps.zero_()
        self.finite = None
        # END SOLUTION


def checkpointed_forward(block: nn.Module, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
    """block(x), keeping none of the block's activations: backward computes them again from x. Chen et al. 2016, §4.

    Gradients of x and of the block's parameters are those of `block(x)`, also where x needs none or some parameters are
    frozen. Dropout drops the same again, and the random numbers that come after backward are not disturbed.
    """

    # BEGIN SOLUTION
    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *parameters):  # autograd records nothing in here
            ctx.save_for_backward(x, *parameters)
            ctx.rng_state = torch.get_rng_state()
            ctx.gpu_rng_state = torch.cuda.get_rng_state(x.device) if x.is_cuda else None
            return block(x)

        @staticmethod
        def backward(ctx, grad_output):
            x, *parameters = ctx.saved_tensors
            leaf = x.detach().requires_grad_()  # the new graph ends here
            with torch.enable_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                torch.set_rng_state(ctx.rng_state)
                if x.is_cuda:
                    torch.cuda.set_rng_state(ctx.gpu_rng_state, x.device)
                output = block(leaf)
            return torch.autograd.grad(output, (leaf, *parameters), grad_output, allow_unused=True)

    # The parameters are arguments too: else autograd would not know that the output depends on them.
    return Recompute.apply(x, *(p for p in block.parameters() if p.requires_grad))
    # END SOLUTION
