"""PPO for language models: KL estimators, token rewards, advantages, the two clipped losses; and GRPO."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def kl_penalty(
    log_probs: Float[Tensor, "..."], reference_log_probs: Float[Tensor, "..."], kind: str = "k1"
) -> Float[Tensor, "..."]:
    """An estimate of KL(p ‖ q) from each token x that the policy p drew; q is the reference, r = q(x) / p(x).

    k1 = -log r;  k2 = ½ (log r)²;  k3 = (r - 1) - log r. Schulman 2020, "Approximating KL divergence".
    Raises ValueError for another kind, or where the shapes differ.
    """
    if kind not in ("k1", "k2", "k3"):
        raise ValueError(f"kind must be k1, k2 or k3, got {kind!r}")
    check_same_shape(log_probs=log_probs, reference_log_probs=reference_log_probs)
    # BEGIN SOLUTION
    log_r = reference_log_probs - log_probs
    if kind == "k1":
        return -log_r
    if kind == "k2":
        return log_r.square() / 2
    return (log_r.exp() - 1) - log_r
    # END SOLUTION


def token_rewards(
    scores: Float[Tensor, "batch"],
    kl: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    ended: Bool[Tensor, "batch"],
    beta: float,
    cut_penalty: float = 1.0,
) -> Float[Tensor, "batch time"]:
    """-β kl on each token of the reply (mask True), and the score on its last; 0 elsewhere, whatever kl holds there.

    A reply that was cut off before its end (ended False) is judged as it stands, and gets score - cut_penalty.
    Ouyang et al. 2022, eq. 2, first line. mask may be False before the reply (the prompt) and after it (padding).
    Raises ValueError where shapes differ, a reply has no token, or a score is not finite.
    """
    check_replies(scores, kl, mask, ended)
    # BEGIN SOLUTION
    rewards = torch.where(mask, -beta * kl, 0.0)
    places = torch.arange(mask.shape[1], device=mask.device)
    is_last = places == torch.where(mask, places, -1).amax(dim=1, keepdim=True)
    judged = torch.where(ended, scores, scores - cut_penalty)
    return rewards + is_last * judged[:, None]
    # END SOLUTION


def gae(
    rewards: Float[Tensor, "batch time"],
    values: Float[Tensor, "batch time"],
    dones: Bool[Tensor, "batch time"],
    gamma: float,
    lam: float,
    next_value: Float[Tensor, "batch"],
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """(advantages, returns): Â_t = δ_t + γλ Â_{t+1}, δ_t = r_t + γ V(s_{t+1}) - V(s_t); return = advantage + value.

    dones[t]: the episode ended with step t, so nothing after t counts for it (V(s_{t+1}) and Â_{t+1} are 0 there); a
    new one may begin at t + 1. After the last step, unless done, V is next_value (the row was cut). Schulman et al.
    2016, eq. 16. Raises ValueError where shapes differ, a number is not finite, or gamma, lam are not in [0, 1].
    """
    check_episodes(rewards, values, dones, gamma, lam, next_value)
    # BEGIN SOLUTION
    advantages = torch.zeros_like(rewards)
    following_value, following_advantage = next_value, torch.zeros_like(next_value)
    for t in reversed(range(rewards.shape[1])):
        goes_on = (~dones[:, t]).to(rewards.dtype)
        delta = rewards[:, t] + gamma * goes_on * following_value - values[:, t]
        advantages[:, t] = delta + gamma * lam * goes_on * following_advantage
        following_value, following_advantage = values[:, t], advantages[:, t]
    return advantages, advantages + values
    # END SOLUTION


def ppo_policy_loss(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    clip: float = 0.2,
) -> Float[Tensor, ""]:
    """-mean of min(ρ A, clamp(ρ, 1 - clip, 1 + clip) A) over the tokens where mask is True, ρ = p_new / p_old.

    One mean over all tokens of the batch. Schulman et al. 2017, eq. 7 (there it is maximised). What stands where mask
    is False may be anything, nan too, and reaches neither the loss nor a gradient.
    Raises ValueError where shapes differ, no token is left, or clip is not positive.
    """
    check_losses(clip, mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    # BEGIN SOLUTION
    ratio = (log_probs[mask] - old_log_probs[mask]).exp()
    advantage = advantages[mask]
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
    # END SOLUTION


def ppo_value_loss(
    values: Float[Tensor, "batch time"],
    old_values: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    clip: float = 0.2,
) -> Float[Tensor, ""]:
    """½ mean of max((V - R)², (V_clipped - R)²) where mask is True; V_clipped keeps V within ± clip of the old value.

    One mean over all tokens of the batch; what stands where mask is False may be anything, and counts for nothing.
    As in OpenAI's baselines and in TRL (the paper's eq. 9 has no clipping).
    Raises ValueError where shapes differ, no token is left, or clip is not positive.
    """
    check_losses(clip, mask, values=values, old_values=old_values, returns=returns)
    # BEGIN SOLUTION
    value, old, target = values[mask], old_values[mask], returns[mask]
    clipped = old + (value - old).clamp(-clip, clip)
    return 0.5 * torch.max((value - target).square(), (clipped - target).square()).mean()
    # END SOLUTION


def group_advantages(rewards: Float[Tensor, "batch"], group_size: int, scale: bool = True) -> Float[Tensor, "batch"]:
    """(r - mean) / (std + 1e-4) within each group of group_size neighbours, the replies to one prompt; std by n - 1.

    Shao et al. 2024, §4.1.2, as in TRL. A group of equal rewards gets zeros. With scale=False nothing is divided
    (Liu et al. 2025, Dr. GRPO). Example: [1, 3, 5, 5], group_size 2, scale=False -> [-1, 1, 0, 0].
    Raises ValueError for a group of one, a batch that is no whole number of groups, or a reward that is not finite.
    """
    check_groups(rewards, group_size)
    # BEGIN SOLUTION
    groups = rewards.view(-1, group_size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if scale:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + 1e-4)
    return advantages.flatten()
    # END SOLUTION


# --- what is refused --------------------------------------------------------------------------------------------


def check_same_shape(**tensors: Tensor) -> None:
    """Raise ValueError unless all have one shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the shapes must be the same, got {', '.join(f'{n} {s}' for n, s in shapes.items())}")


def check_finite(**tensors: Tensor) -> None:
    """Raise ValueError, with the first bad place, where a number is nan or infinite."""
    for name, tensor in tensors.items():
        bad = (~tensor.isfinite()).nonzero().tolist()
        if bad:
            raise ValueError(f"{name}{bad[0]} is {tensor[tuple(bad[0])].item()}: a policy cannot learn from that")


def check_replies(scores: Tensor, kl: Tensor, mask: Tensor, ended: Tensor) -> None:
    check_same_shape(kl=kl, mask=mask)
    check_same_shape(scores=scores, ended=ended, replies=kl[:, 0])
    check_finite(scores=scores)
    empty = (~mask.any(dim=1)).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(
            f"reply {empty[0]} has no token, so nothing can be judged: every reply needs one, if only its end"
        )


def check_episodes(
    rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, lam: float, next_value: Tensor
) -> None:
    check_same_shape(rewards=rewards, values=values, dones=dones)
    check_same_shape(next_value=next_value, rows=rewards[:, 0])
    check_finite(rewards=rewards, values=values, next_value=next_value)
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma and lam must be between 0 and 1, got {gamma} and {lam}")


def check_losses(clip: float, mask: Tensor, **tensors: Tensor) -> None:
    check_same_shape(mask=mask, **tensors)
    if not clip > 0:
        raise ValueError(f"clip must be positive, got {clip}")
    if not mask.any():
        raise ValueError("mask leaves no token to learn from")


def check_groups(rewards: Tensor, group_size: int) -> None:
    check_finite(rewards=rewards)
    if group_size < 2:
        raise ValueError(f"group_size must be 2 or more, got {group_size}: one reply has nobody to be compared with")
    if not len(rewards) or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards are no whole number of groups of {group_size}")
