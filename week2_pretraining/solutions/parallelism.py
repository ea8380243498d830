"""Many devices: ZeRO's memory, data parallel, a sharded optimizer, Megatron's two linear layers."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from week2_pretraining.ranks import Group


def training_memory(
    params: float,
    stage: int,
    n_devices: int = 1,
    parameter_bytes: float = 2,
    gradient_bytes: float = 2,
    optimizer_bytes: float = 12,
) -> dict[str, float]:
    """Bytes on each device for the model's states: {"parameters", "gradients", "optimizer", "total"}.

    ZeRO stage 0 copies all three to every device; 1 splits the optimizer's state evenly over the devices, 2 the
    gradients too, 3 the parameters too. Rajbhandari et al. 2020, section 5; the default bytes per parameter are mixed
    precision with Adam (section 3.1). Example: (7.5e9, 3, 64) -> total 1.875e9.
    Raises ValueError for another stage, n_devices below 1 or params below 0.
    """
    # BEGIN SOLUTION
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"ZeRO has the stages 0, 1, 2 and 3, got {stage!r}")
    if n_devices < 1:
        raise ValueError(f"n_devices must be at least 1, got {n_devices!r}")
    if params < 0:
        raise ValueError(f"params must not be negative, got {params!r}")
    memory = {
        "parameters": params * parameter_bytes / (n_devices if stage >= 3 else 1),
        "gradients": params * gradient_bytes / (n_devices if stage >= 2 else 1),
        "optimizer": params * optimizer_bytes / (n_devices if stage >= 1 else 1),
    }
    return memory | {"total": sum(memory.values())}
    # END SOLUTION


def average_gradients(parameters: Iterable[nn.Parameter], group: Group, n_targets: int = 1) -> None:
    """Set each p.grad to Σ_r n_r g_r / Σ_r n_r, the same on every rank: n_r targets gave rank r its gradient g_r.

    g_r is the gradient of a *mean* over n_r targets; then the result is the gradient of the mean over all of them.
    A rank on which p.grad is None (p was not used there) counts as zeros; frozen parameters are left alone.
    """
    # BEGIN SOLUTION
    total = group.all_reduce(torch.tensor(float(n_targets)))
    for p in parameters:
        if p.requires_grad:
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad = group.all_reduce(gradient * n_targets) / total
    # END SOLUTION


def shard_optimizer_state(
    parameters: list[nn.Parameter], group: Group, **options: float
) -> tuple[torch.optim.AdamW, list[int]]:
    """ZeRO-1: `(optimizer, owners)`. Parameter i is updated by rank owners[i] alone, which alone keeps its state.

    Owners: the largest tensor first (of equal ones, the first), each to the rank with the fewest elements so far (of
    equal ones, the lowest). The optimizer is AdamW(**options) over this rank's part, perhaps empty; after its step()
    every rank has all new values. Rajbhandari et al. 2020, section 5.1.
    """
    # BEGIN SOLUTION
    owners, elements = [0] * len(parameters), [0] * group.size
    for i in sorted(range(len(parameters)), key=lambda i: -parameters[i].numel()):
        owners[i] = elements.index(min(elements))
        elements[owners[i]] += parameters[i].numel()

    own = [p for p, owner in zip(parameters, owners, strict=True) if owner == group.rank]
    optimizer = torch.optim.AdamW([{"params": own}], **options)

    @torch.no_grad()
    def share_new_values(*_) -> None:
        for p, owner in zip(parameters, owners, strict=True):
            p.copy_(group.broadcast(p, owner))

    optimizer.register_step_post_hook(share_new_values)
    return optimizer, owners
    # END SOLUTION


def column_parallel_linear(
    x: Float[Tensor, "... d_in"],
    weight_shard: Float[Tensor, "d_out_shard d_in"],
    bias_shard: Float[Tensor, "d_out_shard"] | None,
    group: Group,
) -> Float[Tensor, "... d_out_shard"]:
    """This rank's features of x Wᵀ + b, where each rank holds d_out_shard = d_out / size rows of W and of b.

    x is whole on every rank, and so must its gradient be: each rank's features give only a part of it. No exchange
    forward, one all-reduce backward. Shoeybi et al. 2019, section 3, the operator f.
    """

    # BEGIN SOLUTION
    class CopyToRanks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return group.all_reduce(gradient)

    return F.linear(CopyToRanks.apply(x), weight_shard, bias_shard)
    # END SOLUTION


def row_parallel_linear(
    x_shard: Float[Tensor, "... d_in_shard"],
    weight_shard: Float[Tensor, "d_out d_in_shard"],
    bias: Float[Tensor, "d_out"] | None,
    group: Group,
) -> Float[Tensor, "... d_out"]:
    """x Wᵀ + b, whole on every rank, where each rank holds d_in_shard = d_in / size columns of W and features of x.

    The bias is whole on every rank, and so is its gradient. One all-reduce forward, no exchange backward.
    Shoeybi et al. 2019, section 3, the operator g.
    """

    # BEGIN SOLUTION
    class SumOverRanks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, partial):
            return group.all_reduce(partial)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    y = SumOverRanks.apply(F.linear(x_shard, weight_shard))
    return y if bias is None else y + bias
    # END SOLUTION
