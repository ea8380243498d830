"""Right answers to week 2's lesson 02, each written quite differently from the course's own."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


@torch.no_grad()
def adamw_step__in_place(parameters, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    """In the order of PyTorch's own single-tensor loop."""
    if len(parameters) != len(state):
        raise ValueError("as many states as parameters")
    for p, s in zip(parameters, state, strict=True):
        if p.grad is not None:
            if "step" not in s:
                s["step"], s["m"], s["v"] = 0, torch.zeros_like(p), torch.zeros_like(p)
            s["step"] += 1
            p.mul_(1 - lr * weight_decay)
            s["m"].lerp_(p.grad, 1 - betas[0])
            s["v"].mul_(betas[1]).addcmul_(p.grad, p.grad, value=1 - betas[1])
            correction1, correction2 = 1 - betas[0] ** s["step"], 1 - betas[1] ** s["step"]
            p.addcdiv_(s["m"], s["v"].sqrt() / math.sqrt(correction2) + eps, value=-lr / correction1)


def adamw_step__through_data(parameters, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    """All of line 12 from the old value at once."""
    if len(parameters) != len(state):
        raise ValueError(len(state))
    b1, b2 = betas
    for i, p in enumerate(parameters):
        if p.grad is None:
            continue
        g, old, s = p.grad.detach(), p.data, state[i]
        t = s.get("step", 0) + 1
        m = b1 * s.get("m", torch.zeros_like(old)) + (1 - b1) * g
        v = b2 * s.get("v", torch.zeros_like(old)) + (1 - b2) * g**2
        s.update(step=t, m=m, v=v)
        direction = (m / (1 - b1**t)) / (torch.sqrt(v / (1 - b2**t)) + eps)
        p.data = old - lr * (direction + weight_decay * old)


def warmup_cosine_lr__clamped_progress(step, max_lr, warmup_steps, total_steps, min_lr=0.0):
    if step < 0 or not 0 <= warmup_steps <= total_steps or total_steps < 1 or not 0 <= min_lr <= max_lr:
        raise ValueError("no such schedule")
    if step < warmup_steps:
        return (step + 1) * (max_lr / warmup_steps)
    left = total_steps - warmup_steps
    progress = min(1.0, (step - warmup_steps) / left) if left else 1.0
    weight = math.cos(math.pi / 2 * progress) ** 2  # (1 + cos 2a) / 2 = cos² a
    return weight * max_lr + (1 - weight) * min_lr


def warmup_cosine_lr__real_part_of_a_rotation(step, max_lr, warmup_steps, total_steps, min_lr=0.0):
    if min_lr < 0 or min_lr > max_lr or step < 0 or warmup_steps < 0 or warmup_steps > total_steps or total_steps == 0:
        raise ValueError(step)
    after_warmup = step - warmup_steps
    if after_warmup < 0:
        return max_lr * (1 + step) / warmup_steps
    if step >= total_steps:
        return min_lr
    middle, half = (max_lr + min_lr) / 2, (max_lr - min_lr) / 2
    return middle + half * math.sin(math.pi * (0.5 - after_warmup / (total_steps - warmup_steps)))


def clip_grad_norm__one_long_vector(parameters, max_norm):
    if max_norm <= 0:
        raise ValueError(max_norm)
    with_gradient = [p for p in parameters if p.grad is not None]
    if not with_gradient:
        return torch.tensor(0.0)
    norm = torch.cat([p.grad.reshape(-1) for p in with_gradient]).norm()
    for p in with_gradient:
        p.grad.copy_(p.grad * torch.minimum(torch.ones(()), max_norm / (norm + 1e-6)))
    return norm


def clip_grad_norm__norm_of_norms_then_if(parameters, max_norm):
    if not max_norm > 0:
        raise ValueError("max_norm")
    parameters = tuple(parameters)
    norms = [torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None]
    total = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
    if not total <= max_norm:  # nan too
        for p in parameters:
            if p.grad is not None:
                p.grad /= (total + 1e-6) / max_norm
    return total


def parameter_groups__by_module(model, weight_decay):
    if weight_decay < 0:
        raise ValueError(weight_decay)
    groups, done = {True: [], False: []}, set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in done:
                done.add(id(parameter))
                groups[parameter.ndim > 1].append(parameter)
    return [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]


def parameter_groups__by_name(model, weight_decay):
    if not weight_decay >= 0:
        raise ValueError("negative")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    decayed = sorted(name for name, p in named.items() if len(p.shape) >= 2)
    rest = sorted(named.keys() - set(decayed))
    return [
        dict(params=[named[name] for name in names], weight_decay=decay)
        for names, decay in ((decayed, weight_decay), (rest, 0.0))
    ]


def accumulate_gradients__weighted_means(model, micro_batches):
    counts = [(targets != -100).sum().item() for _, targets in micro_batches]
    if not sum(counts):
        raise ValueError("nothing to learn")
    total = 0.0
    for (token_ids, targets), n in zip(micro_batches, counts, strict=True):
        if n:
            logits = model(token_ids)
            loss = F.cross_entropy(logits.transpose(1, 2), targets) * (n / sum(counts))
            loss.backward()
            total += float(loss.detach())
        else:
            (model(token_ids).sum() * 0).backward()
    return total


def accumulate_gradients__incoming_gradient(model, micro_batches):
    n = sum(torch.count_nonzero(targets != -100).item() for _, targets in micro_batches)
    if n == 0:
        raise ValueError("no target")
    sums = []
    for token_ids, targets in micro_batches:
        log_probs = model(token_ids).log_softmax(dim=-1)
        counts = targets.ne(-100)
        nats = -log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        summed = (nats * counts).sum()
        summed.backward(torch.tensor(1.0 / n))
        sums.append(summed.detach())
    return (torch.stack(sums).sum() / n).item()


class LossScaler__foreach(nn.Module):
    def __init__(self, init_scale=2.0**16, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000):
        super().__init__()
        if init_scale <= 0 or growth_factor <= 1 or not 0 < backoff_factor < 1 or growth_interval < 1:
            raise ValueError("settings")
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval
        self.register_buffer("scale", torch.full((), init_scale))
        self.register_buffer("good_steps", torch.zeros((), dtype=torch.long))
        self.finite = None

    def forward(self, loss):
        return self.scale * loss

    def unscale(self, optimizer):
        gradients = []
        for group in optimizer.param_groups:
            gradients.extend(p.grad for p in group["params"] if p.grad is not None)
        torch._foreach_mul_(gradients, 1 / self.scale.item())
        self.finite = math.isfinite(sum(g.abs().sum().item() for g in gradients))

    def step(self, optimizer):
        if self.finite is None:
            self.unscale(optimizer)
        return optimizer.step() if self.finite else None

    def update(self):
        steps = self.good_steps + 1 if self.finite else torch.zeros_like(self.good_steps)
        factor = 1.0 if self.finite else self.backoff_factor
        if steps >= self.growth_interval:
            steps, factor = torch.zeros_like(steps), self.growth_factor
        self.good_steps.copy_(steps)
        self.scale.mul_(factor)
        self.finite = None


class LossScaler__torchs_kernels(nn.Module):
    """The two kernels that GradScaler itself calls."""

    def __init__(self, init_scale=2.0**16, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000):
        if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):
            raise ValueError("settings")
        super().__init__()
        self.factors = (growth_factor, backoff_factor, growth_interval)
        self.register_buffer("scale", torch.tensor(float(init_scale)))
        self.register_buffer("good_steps", torch.tensor(0, dtype=torch.int32))
        self.found_inf = None

    def forward(self, loss):
        return loss.mul(self.scale)

    def unscale(self, optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.found_inf = torch.zeros(1)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found_inf, self.scale.reciprocal())

    def step(self, optimizer):
        if self.found_inf is None:
            self.unscale(optimizer)
        if not self.found_inf.item():
            optimizer.step()

    def update(self):
        torch._amp_update_scale_(self.scale, self.good_steps, self.found_inf, *self.factors)
        self.found_inf = None


def checkpointed_forward__library(block, x):
    return checkpoint(block, x, use_reentrant=False)


class _Placeholder:
    def __init__(self, index):
        self.index = index


def checkpointed_forward__hooks(block, x):
    """Each kept tensor is replaced by its number; the first one that is asked for runs the block again."""
    rng_state, count, again = torch.get_rng_state(), 0, []

    def pack(tensor):
        nonlocal count
        count += 1
        return _Placeholder(count - 1)

    def unpack(placeholder):
        if not again:
            with torch.enable_grad(), torch.random.fork_rng(devices=[]):
                torch.set_rng_state(rng_state)
                hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: again.append(t.detach()), lambda _: None)
                with hooks:
                    block(x.detach().requires_grad_(x.requires_grad))
        return again[placeholder.index]

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return block(x)


def checkpointed_forward__dummy_argument(block, x):
    """The parameters get their gradients from a backward pass inside; a dummy keeps the output in the graph."""

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, dummy):
            ctx.x, ctx.rng = x.detach(), torch.get_rng_state()
            with torch.no_grad():
                return block(x)

        @staticmethod
        def backward(ctx, grad_output):
            now = torch.get_rng_state()
            torch.set_rng_state(ctx.rng)
            with torch.enable_grad():
                inner = ctx.x.requires_grad_()
                out = block(inner)
            torch.set_rng_state(now)
            torch.autograd.backward([out], [grad_output])
            return inner.grad, None

    return Again.apply(x, torch.zeros((), requires_grad=True))
