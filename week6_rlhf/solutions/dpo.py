"""Direct preference optimization: the policy learns from pairs of answers, and no reward model is needed."""

import copy

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless there is a label for each position, and each row has one that is scored."""
    if logits.shape[:-1] != labels.shape:
        wanted, got = tuple(logits.shape[:-1]), tuple(labels.shape)
        raise ValueError(f"logits {tuple(logits.shape)} need labels {wanted}, got {got}")
    empty = (labels[:, 1:] == -100).all(dim=1).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(f"row {empty[0]} has no label to score after its first position: all are -100")


def sequence_log_probs(
    logits: Float[Tensor, "batch seq vocab"], labels: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch"]:
    """log p(reply | prompt) of each row, the sum over its labels: logits at t score the label at t + 1; -100 is none.

    A sum, not a mean: the derivation is about whole sequences. In float32, also for logits of 16 bits, and finite for
    logits far apart. Rafailov et al. 2023, eq. 7, has it four times.
    Raises ValueError where the shapes differ, or where a row has no label to score.
    """
    check_labels(logits, labels)
    # BEGIN SOLUTION
    targets = labels[:, 1:]
    counted = targets != -100
    log_probs = logits[:, :-1].float().log_softmax(dim=-1)
    chosen = log_probs.gather(2, targets.masked_fill(~counted, 0)[..., None])[..., 0]
    return chosen.masked_fill(~counted, 0.0).sum(dim=1)  # not chosen * counted: -inf * 0 is nan
    # END SOLUTION


def check_log_probs(*log_probs: Tensor, beta: float) -> None:
    """Raise ValueError unless all are (batch,) of one size, at least 1, and beta is above 0."""
    shapes = [tuple(one.shape) for one in log_probs]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1 or shapes[0] == (0,):
        raise ValueError(f"log-probabilities must be (batch,), one for each answer of the batch, got {shapes}")
    if not beta > 0:
        raise ValueError(
            f"beta (or tau) must be above 0, got {beta}: without it nothing holds the policy to the reference"
        )


def dpo_loss(
    policy_chosen: Float[Tensor, "batch"],
    policy_rejected: Float[Tensor, "batch"],
    reference_chosen: Float[Tensor, "batch"],
    reference_rejected: Float[Tensor, "batch"],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Batch mean of -(1 - ε) log σ(β h) - ε log σ(-β h), with h = log(π/π_ref)(chosen) - log(π/π_ref)(rejected).

    The arguments are log-probabilities of whole answers; ε is `label_smoothing`. Finite for a margin of any size; no
    gradient reaches the reference, asked for or not. Rafailov et al. 2023, eq. 7; ε: Mitchell 2023, cDPO, eq. 3.
    Raises ValueError for other shapes, beta <= 0, or ε outside [0, 0.5).
    """
    check_log_probs(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=beta)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be at least 0 and below 0.5, got {label_smoothing}")
    # BEGIN SOLUTION
    margin = policy_chosen - policy_rejected - (reference_chosen - reference_rejected).detach()
    right, wrong = F.logsigmoid(beta * margin), F.logsigmoid(-beta * margin)
    return -((1 - label_smoothing) * right + label_smoothing * wrong).mean()
    # END SOLUTION


def implicit_rewards(
    policy: Float[Tensor, "batch"], reference: Float[Tensor, "batch"], beta: float = 0.1
) -> Float[Tensor, "batch"]:
    """r(x, y) = β (log π(y | x) - log π_ref(y | x)) of each answer, without its gradient: a number to watch.

    It is the reward whose best policy, at this β, is π; a term that is the same for all answers to x is left out.
    Rafailov et al. 2023, eq. 5. Raises ValueError for other shapes or beta <= 0.
    """
    check_log_probs(policy, reference, beta=beta)
    # BEGIN SOLUTION
    return beta * (policy - reference).detach()
    # END SOLUTION


def ipo_loss(
    policy_chosen: Float[Tensor, "batch"],
    policy_rejected: Float[Tensor, "batch"],
    reference_chosen: Float[Tensor, "batch"],
    reference_rejected: Float[Tensor, "batch"],
    tau: float = 0.1,
) -> Float[Tensor, ""]:
    """Batch mean of (h - 1 / (2 τ))², h as in `dpo_loss`: the margin has a goal, and may not pass it.

    No gradient reaches the reference. Azar et al. 2023, eq. 17. Raises ValueError for other shapes or tau <= 0.
    """
    check_log_probs(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=tau)
    # BEGIN SOLUTION
    margin = policy_chosen - policy_rejected - (reference_chosen - reference_rejected).detach()
    return (margin - 1 / (2 * tau)).square().mean()
    # END SOLUTION


def frozen_reference(policy: nn.Module) -> nn.Module:
    """The policy as it is now, as a model of its own: it shares no weight with it, learns nothing, and has no dropout.

    The policy stays as it was: its mode, what of it learns, its gradients. π_ref of Rafailov et al. 2023, §4.
    """
    # BEGIN SOLUTION
    return copy.deepcopy(policy).eval().requires_grad_(False)
    # END SOLUTION
