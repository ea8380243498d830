"""Right answers to lesson 02 of week 6, written otherwise: they must pass."""

import torch
import torch.nn.functional as F

KL = {"k1": lambda x: x, "k2": lambda x: 0.5 * x**2, "k3": lambda x: torch.expm1(-x) + x}


def kl_penalty__by_table(log_probs, reference_log_probs, kind="k1"):
    if kind not in KL or log_probs.shape != reference_log_probs.shape:
        raise ValueError("kind or shape")
    return KL[kind](log_probs - reference_log_probs)


def kl_penalty__by_probabilities(log_probs, reference_log_probs, kind="k1"):
    if log_probs.shape != reference_log_probs.shape:
        raise ValueError(f"{log_probs.shape} {reference_log_probs.shape}")
    r = torch.exp(reference_log_probs) / torch.exp(log_probs)
    match kind:
        case "k1":
            return log_probs - reference_log_probs
        case "k2":
            return torch.pow(log_probs - reference_log_probs, 2).mul(0.5)
        case "k3":
            return r - 1 - torch.log(r)
    raise ValueError(kind)


def _refuse(scores, kl, mask, ended):
    if kl.shape != mask.shape or scores.shape != ended.shape or len(scores) != len(kl):
        raise ValueError("shapes")
    if not torch.isfinite(scores).all() or not bool(mask.any(1).all()):
        raise ValueError("scores or empty replies")


def token_rewards__row_by_row(scores, kl, mask, ended, beta, cut_penalty=1.0):
    _refuse(scores, kl, mask, ended)
    rewards = torch.zeros(kl.shape)
    for row in range(len(kl)):
        for t in mask[row].nonzero()[:, 0].tolist():
            rewards[row, t] = -beta * kl[row, t]
        rewards[row, t] += scores[row] if ended[row] else scores[row] - cut_penalty
    return rewards


def token_rewards__scatter(scores, kl, mask, ended, beta, cut_penalty=1.0):
    _refuse(scores, kl, mask, ended)
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
    judged = scores - cut_penalty * (~ended).float()
    return (kl.nan_to_num() * -beta).masked_fill(~mask, 0.0).scatter_add(1, last[:, None], judged[:, None])


def _bad(rewards, values, dones, gamma, lam, next_value):
    if rewards.shape != values.shape or dones.shape != values.shape or next_value.shape != rewards.shape[:1]:
        raise ValueError("shapes")
    if any(not tensor.isfinite().all() for tensor in (rewards, values, next_value)):
        raise ValueError("nan")
    if gamma > 1 or lam > 1 or min(gamma, lam) < 0:
        raise ValueError("gamma, lam")


def gae__by_the_sum(rewards, values, dones, gamma, lam, next_value):
    """Eq. 16 as it stands: for each t the sum of (γλ)^l δ_{t+l}, up to the end of the episode."""
    _bad(rewards, values, dones, gamma, lam, next_value)
    batch, time = rewards.shape
    after = torch.cat([values[:, 1:], next_value[:, None]], dim=1)
    delta = rewards + gamma * torch.where(dones, 0.0, after) - values
    advantages = []
    for t in range(time):
        total, alive = torch.zeros(batch), torch.ones(batch)
        for step in range(t, time):
            total = total + alive * (gamma * lam) ** (step - t) * delta[:, step]
            alive = alive * (1 - dones[:, step].float())
        advantages.append(total)
    advantages = torch.stack(advantages, dim=1)
    return advantages, values + advantages


def gae__by_returns(rewards, values, dones, gamma, lam, next_value):
    """The λ-return backwards: R_t = r_t + γ((1 - λ) V_{t+1} + λ R_{t+1}), and the advantage is R - V."""
    _bad(rewards, values, dones, gamma, lam, next_value)
    after, target, returns = next_value, next_value, []
    for r, v, done in reversed(list(zip(rewards.T, values.T, dones.T, strict=True))):
        target = r + gamma * ((1 - lam) * after + lam * target) * (1 - done.float())
        after = v
        returns.insert(0, target)
    returns = torch.stack(returns, dim=1)
    return [returns - values, returns]


def gae__by_a_matrix(rewards, values, dones, gamma, lam, next_value):
    """One matrix a row: weight[t, s] = (γλ)^(s - t) where s is in the same episode as t, and not before it."""
    _bad(rewards, values, dones, gamma, lam, next_value)
    after = torch.cat([values, next_value[:, None]], dim=1)[:, 1:]
    delta = rewards + gamma * after * ~dones - values
    episode = dones.long().cumsum(1) - dones.long()
    steps = torch.arange(rewards.shape[1])
    distance = (steps[None, :] - steps[:, None]).clamp(min=0)
    weight = (float(gamma * lam) ** distance.float()).triu() * (episode[:, :, None] == episode[:, None, :])
    advantages = (weight @ delta[..., None])[..., 0]
    return advantages, advantages + values


def _no_loss(clip, mask, *tensors):
    if clip <= 0 or int(mask.sum()) == 0 or any(tensor.shape != mask.shape for tensor in tensors):
        raise ValueError("clip, mask or shapes")


def ppo_policy_loss__two_losses(log_probs, old_log_probs, advantages, mask, clip=0.2):
    """As TRL writes it: the larger of two losses, summed under the mask; padding is filled first."""
    _no_loss(clip, mask, log_probs, old_log_probs, advantages)
    new, old, a = (tensor.masked_fill(~mask, 0.0) for tensor in (log_probs, old_log_probs, advantages))
    ratio = torch.exp(new - old)
    losses = torch.maximum(-a * ratio, -a * torch.clamp(ratio, 1.0 - clip, 1.0 + clip))
    return (losses * mask).sum() / mask.sum()


def ppo_policy_loss__by_sign(log_probs, old_log_probs, advantages, mask, clip=0.2):
    """min(ρA, clamp(ρ)A) is A min(ρ, 1 + clip) for A ≥ 0, and A max(ρ, 1 - clip) below."""
    _no_loss(clip, mask, log_probs, old_log_probs, advantages)
    a = torch.masked_select(advantages, mask)
    ratio = (torch.masked_select(log_probs, mask) - torch.masked_select(old_log_probs, mask)).exp()
    held = torch.where(a >= 0, ratio.clamp(max=1 + clip), ratio.clamp(min=1 - clip))
    return torch.mean(-held * a)


def ppo_value_loss__two_losses(values, old_values, returns, mask, clip=0.2):
    _no_loss(clip, mask, values, old_values, returns)
    v, old, target = (tensor.masked_fill(~mask, 0.0) for tensor in (values, old_values, returns))
    clipped = torch.max(torch.min(v, old + clip), old - clip)
    losses = torch.maximum((v - target) ** 2, (clipped - target) ** 2)
    return (losses * mask).sum() / (2 * mask.sum())


def ppo_value_loss__mse(values, old_values, returns, mask, clip=0.2):
    _no_loss(clip, mask, values, old_values, returns)
    v, old, target = values[mask], old_values[mask], returns[mask]
    plain = F.mse_loss(v, target, reduction="none")
    clipped = F.mse_loss(torch.clamp(v, old - clip, old + clip), target, reduction="none")
    return torch.stack([plain, clipped]).amax(dim=0).mean() / 2


def group_advantages__loop(rewards, group_size, scale=True):
    if group_size < 2 or len(rewards) % group_size or not len(rewards) or not rewards.isfinite().all():
        raise ValueError("groups")
    found = []
    for group in rewards.split(group_size):
        centred = group - sum(group) / len(group)
        std = (centred.square().sum() / (len(group) - 1)).sqrt()
        found.append(centred / (std + 1e-4) if scale else centred)
    return torch.cat(found)


def group_advantages__repeated(rewards, group_size, scale=True):
    """As TRL writes it: the mean and std of the groups, repeated for each reply."""
    if group_size <= 1 or rewards.numel() == 0 or rewards.numel() % group_size or rewards.isnan().any():
        raise ValueError("groups")
    table = rewards.reshape(rewards.numel() // group_size, group_size)
    advantages = rewards - table.mean(1).repeat_interleave(group_size)
    return advantages / (table.var(1).sqrt().repeat_interleave(group_size) + 1e-4) if scale else advantages
