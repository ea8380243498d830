"""Right answers to lesson 03 of week 6, written otherwise: they must pass."""

import io
import math

import torch
from torch import nn


def sequence_log_probs__cross_entropy(logits, labels):
    if logits.shape[:2] != labels.shape:
        raise ValueError("shapes")
    if ((labels[:, 1:] != -100).sum(1) == 0).any():
        raise ValueError("nothing to score")
    rows = logits[:, :-1].transpose(1, 2).to(torch.float32)  # cross_entropy wants the classes second
    losses = nn.functional.cross_entropy(rows, labels[:, 1:], ignore_index=-100, reduction="none")
    return -losses.sum(1)


def sequence_log_probs__row_by_row(logits, labels):
    if tuple(logits.shape[:-1]) != tuple(labels.shape):
        raise ValueError("shapes")
    found = []
    for row, wanted in zip(logits.double(), labels, strict=True):
        places = [t for t in range(1, len(wanted)) if wanted[t] != -100]
        if not places:
            raise ValueError("nothing to score")
        found.append(sum(row[t - 1, wanted[t]] - row[t - 1].logsumexp(0) for t in places))
    return torch.stack(found).float()


def sequence_log_probs__one_hot(logits, labels):
    if logits.shape[:-1] != labels.shape:
        raise ValueError("shapes")
    keep = labels[:, 1:].ge(0)
    if not keep.any(dim=1).all():
        raise ValueError("nothing to score")
    wanted = nn.functional.one_hot(labels[:, 1:].clamp(min=0), logits.shape[-1]).bool() & keep[..., None]
    log_probs = torch.log_softmax(logits[:, :-1], -1, dtype=torch.float32)
    return torch.where(wanted, log_probs, 0.0).sum((1, 2))


def _refuse(log_probs, beta):
    if beta <= 0:
        raise ValueError("beta")
    if len({len(one) for one in log_probs}) > 1 or len(log_probs[0]) == 0:
        raise ValueError("sizes")


def dpo_loss__binary_cross_entropy(pc, pr, rc, rr, beta=0.1, label_smoothing=0.0):
    """A classifier whose logit is beta h and whose target is 1 - ε."""
    _refuse((pc, pr, rc, rr), beta)
    if label_smoothing < 0 or label_smoothing >= 0.5:
        raise ValueError("label smoothing")
    logit = beta * ((pc - rc.detach()) - (pr - rr.detach()))
    return nn.functional.binary_cross_entropy_with_logits(logit, torch.full_like(logit, 1 - label_smoothing))


def dpo_loss__softplus(pc, pr, rc, rr, beta=0.1, label_smoothing=0.0):
    """softplus(-x) = -log σ(x), and log σ(-x) = log σ(x) - x."""
    _refuse((pc, pr, rc, rr), beta)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError("label smoothing")
    with torch.no_grad():
        of_reference = rc - rr
    x = ((pc - pr) - of_reference) * beta
    return torch.mean(nn.functional.softplus(-x) + label_smoothing * x)


def dpo_loss__softmax_over_two(pc, pr, rc, rr, beta=0.1, label_smoothing=0.0):
    """Bradley and Terry: a softmax over the two rewards."""
    _refuse((pc, pr, rc, rr), beta)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError("label smoothing")
    rewards = torch.stack([beta * (pc - rc.detach()), beta * (pr - rr.detach())], dim=1)
    targets = torch.tensor([1 - label_smoothing, label_smoothing]).expand(len(pc), 2)
    return nn.functional.cross_entropy(rewards, targets)


def implicit_rewards__no_grad(policy, reference, beta=0.1):
    _refuse((policy, reference), beta)
    with torch.no_grad():
        return torch.sub(policy, reference) * beta


def implicit_rewards__list(policy, reference, beta=0.1):
    _refuse((policy, reference), beta)
    return torch.tensor([beta * (p - r) for p, r in zip(policy.tolist(), reference.tolist(), strict=True)])


def ipo_loss__mse(pc, pr, rc, rr, tau=0.1):
    _refuse((pc, pr, rc, rr), tau)
    ratio = (pc - rc.detach()) - (pr - rr.detach())
    return nn.functional.mse_loss(ratio, torch.full_like(ratio, 0.5 / tau))


def ipo_loss__multiplied_out(pc, pr, rc, rr, tau=0.1):
    _refuse((pc, pr, rc, rr), tau)
    h = pc - pr - rc.data + rr.data
    return torch.mean(h**2 - h / tau) + math.pow(2 * tau, -2)


def frozen_reference__saved_and_loaded(policy):
    file = io.BytesIO()
    torch.save(policy, file)
    file.seek(0)
    reference = torch.load(file, weights_only=False)
    for parameter in reference.parameters():
        parameter.requires_grad = False
        parameter.grad = None
    return reference.train(False)


def frozen_reference__deepcopy_in_steps(policy):
    from copy import deepcopy

    reference = deepcopy(policy)
    reference.eval()
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference
