"""Right answers of lesson 04 of week 2, written in other ways: the checks must accept them."""

import heapq

import torch
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def training_memory__loop(params, stage, n_devices=1, parameter_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    if stage not in range(4) or n_devices <= 0 or params < 0:
        raise ValueError("bad input")
    memory, total = {}, 0
    for first_split_by, name, size in (
        (1, "optimizer", optimizer_bytes),
        (2, "gradients", gradient_bytes),
        (3, "parameters", parameter_bytes),
    ):
        memory[name] = params * size
        if stage >= first_split_by:
            memory[name] /= n_devices
        total += memory[name]
    memory["total"] = total
    return memory


def training_memory__match(params, stage, n_devices=1, parameter_bytes=2, gradient_bytes=2, optimizer_bytes=12):
    if n_devices < 1:
        raise ValueError("devices")
    if params < 0:
        raise ValueError("params")
    n = n_devices
    match stage:
        case 0:
            shares = 1, 1, 1
        case 1:
            shares = 1, 1, 1 / n
        case 2:
            shares = 1, 1 / n, 1 / n
        case 3:
            shares = 1 / n, 1 / n, 1 / n
        case _:
            raise ValueError("stage")
    sizes = torch.tensor([parameter_bytes, gradient_bytes, optimizer_bytes], dtype=torch.float64)
    parts = (params * sizes * torch.tensor(shares, dtype=torch.float64)).tolist()
    return dict(zip(("parameters", "gradients", "optimizer", "total"), [*parts, sum(parts)], strict=True))


def average_gradients__gathered(parameters, group, n_targets=1):
    counts = [n.item() for n in group.all_gather(torch.tensor([n_targets]))]
    for p in parameters:
        if not p.requires_grad:
            continue
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        gathered = group.all_gather(p.grad)
        p.grad.copy_(sum(n / sum(counts) * g for n, g in zip(counts, gathered, strict=True)))


def average_gradients__one_bucket(parameters, group, n_targets=1):
    """As DistributedDataParallel does: one long tensor for all; the number of targets travels with it."""
    trained = [p for p in parameters if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    bucket = parameters_to_vector(gradients) * n_targets
    bucket = group.all_reduce(torch.cat([bucket, bucket.new_tensor([float(n_targets)])]))
    vector_to_parameters(bucket[:-1] / bucket[-1], gradients)
    for p, gradient in zip(trained, gradients, strict=True):
        p.grad = gradient.detach().clone()


def average_gradients__weights_first(parameters, group, n_targets=1):
    share = n_targets / float(group.all_reduce(torch.tensor(n_targets, dtype=torch.float64)))
    for p in filter(lambda p: p.requires_grad, list(parameters)):
        p.grad = group.all_reduce(share * p.grad if p.grad is not None else p.detach() * 0)


def shard_optimizer_state__heap(parameters, group, **options):
    heap = [(0, rank) for rank in range(group.size)]
    owners = {}
    for negative, i in sorted((-p.numel(), i) for i, p in enumerate(parameters)):
        elements, rank = heapq.heappop(heap)
        owners[i] = rank
        heapq.heappush(heap, (elements - negative, rank))
    owners = [owners[i] for i in range(len(parameters))]

    class Sharded(torch.optim.AdamW):
        def step(self, closure=None):
            result = super().step(closure)
            for p, owner in zip(parameters, owners, strict=True):
                p.data = group.broadcast(p.data, source=owner)
            return result

    return Sharded([{"params": [p for i, p in enumerate(parameters) if owners[i] == group.rank]}], **options), owners


def shard_optimizer_state__one_message_a_rank(parameters, group, **options):
    remaining = list(range(len(parameters)))
    load, owners = torch.zeros(group.size, dtype=torch.long), [None] * len(parameters)
    while remaining:
        largest = max(remaining, key=lambda i: (parameters[i].numel(), -i))
        remaining.remove(largest)
        rank = int((load == load.min()).nonzero()[0])
        owners[largest] = rank
        load[rank] += parameters[largest].numel()
    parts = [[p for p, owner in zip(parameters, owners, strict=True) if owner == r] for r in range(group.size)]
    optimizer = torch.optim.AdamW([{"params": parts[group.rank]}], **options)

    def share(optimizer, args, kwargs):
        for rank, part in enumerate(parts):
            if part:
                values = group.broadcast(parameters_to_vector(part), rank)
                vector_to_parameters(values, part)

    optimizer.register_step_post_hook(share)
    return optimizer, owners


def column_parallel_linear__hook(x, weight_shard, bias_shard, group):
    if x.requires_grad:
        x = x.view_as(x)
        x.register_hook(group.all_reduce)
    y = x @ weight_shard.T
    return y if bias_shard is None else y + bias_shard


def column_parallel_linear__whole_layer(x, weight_shard, bias_shard, group):
    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias):
            ctx.save_for_backward(x, weight)
            return F.linear(x, weight, bias)

        @staticmethod
        def backward(ctx, dy):
            x, weight = ctx.saved_tensors
            dx = group.all_reduce(dy @ weight) if ctx.needs_input_grad[0] else None
            dw = dy.flatten(0, -2).T @ x.flatten(0, -2)
            return dx, dw, dy.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None

    return Layer.apply(x, weight_shard, bias_shard)


def row_parallel_linear__difference_as_a_constant(x_shard, weight_shard, bias, group):
    partial = torch.einsum("...i,oi->...o", x_shard, weight_shard)
    y = partial + (group.all_reduce(partial.detach()) - partial.detach())
    return y if bias is None else y + bias


def row_parallel_linear__gathered(x_shard, weight_shard, bias, group):
    partial = F.linear(x_shard, weight_shard)
    parts = group.all_gather(partial.detach())
    parts[group.rank] = partial  # this one's gradient is wanted here
    y = torch.stack(parts).sum(dim=0)
    if bias is not None:
        y = y + bias
    return y
