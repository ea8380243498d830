"""Right answers of lesson 06, written in other ways: the checks must accept them."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def _refuse_bad_schedule(step, max_lr, warmup_steps, total_steps, decay_steps, min_lr):
    if step < 0 or min(warmup_steps, decay_steps) < 0 or total_steps < max(1, warmup_steps + decay_steps):
        raise ValueError("the steps do not fit together")
    if not 0 <= min_lr <= max_lr:
        raise ValueError("min_lr must lie between 0 and max_lr")


def trapezoid_lr__interpolated(step, max_lr, warmup_steps, total_steps, decay_steps, min_lr=0.0):
    _refuse_bad_schedule(step, max_lr, warmup_steps, total_steps, decay_steps, min_lr)
    if step < warmup_steps:
        return max_lr * (step + 1) / warmup_steps
    if decay_steps == 0:
        return max_lr if step < total_steps else min_lr
    return float(np.interp(step, [total_steps - decay_steps, total_steps], [max_lr, min_lr]))


def trapezoid_lr__smallest_of_three(step, max_lr, warmup_steps, total_steps, decay_steps, min_lr=0.0):
    _refuse_bad_schedule(step, max_lr, warmup_steps, total_steps, decay_steps, min_lr)
    up = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    if up < 1.0:
        return max_lr * up
    if step >= total_steps:
        return min_lr
    down = min(1.0, (total_steps - step) / decay_steps) if decay_steps else 1.0
    return (1 - down) * min_lr + down * max_lr


def rms_norm__library(x, eps=1e-6):
    return F.rms_norm(x, (x.shape[-1],), eps=eps)


def rms_norm__from_the_length(x, eps=1e-6):
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.sqrt(length**2 / x.shape[-1] + eps)


def rms_norm__power(x, eps=1e-6):
    return x * (x.pow(2).mean(-1, keepdim=True) + eps).pow(-0.5)


def orthogonalize__singular_values(matrix, steps=5):
    if matrix.dim() < 2:
        raise ValueError("a matrix has two axes")
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    s = s / (s.square().sum(dim=-1, keepdim=True).sqrt() + 1e-7)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s.unsqueeze(-2)) @ vt


def orthogonalize__one_matrix_after_the_other(matrix, steps=5):
    if matrix.dim() < 2:
        raise ValueError("a matrix has two axes")
    if matrix.dim() > 2:
        return torch.stack([orthogonalize__one_matrix_after_the_other(m, steps) for m in matrix])
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        cubic = x @ (x.T @ x)
        quintic = cubic @ (x.T @ x)
        x = 3.4445 * x - 4.7750 * cubic + 2.0315 * quintic
    return x


def muon_step__in_plain_arithmetic(weights, gradient, momentum_buffer, lr, momentum=0.95, weight_decay=0.0):
    from week2_pretraining.solutions.speedrun import orthogonalize

    if weights.shape != gradient.shape or weights.shape != momentum_buffer.shape:
        raise ValueError("three tensors of one shape are needed")
    buffer = momentum * momentum_buffer + (1 - momentum) * gradient
    direction = orthogonalize(momentum * buffer + (1 - momentum) * gradient)
    if weights.shape[-2] > weights.shape[-1]:
        direction = direction * math.sqrt(weights.shape[-2] / weights.shape[-1])
    return weights - lr * weight_decay * weights - lr * direction, buffer


def muon_step__in_place_on_copies(weights, gradient, momentum_buffer, lr, momentum=0.95, weight_decay=0.0):
    if not weights.shape == gradient.shape == momentum_buffer.shape:
        raise ValueError("three tensors of one shape are needed")
    weights, buffer = weights.clone(), momentum_buffer.clone()
    buffer.mul_(momentum).add_(gradient, alpha=1 - momentum)
    # orthogonalize forgets the size, so the two terms may be divided by 1 - momentum
    direction = buffer * (momentum / (1 - momentum)) + gradient
    weights.mul_(1 - lr * weight_decay)
    update = orthogonalize__singular_values(direction)
    weights.add_(update, alpha=-lr * max(1.0, weights.shape[-2] / weights.shape[-1]) ** 0.5)
    return weights, buffer
