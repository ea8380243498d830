"""What a right answer of lesson 02 shows, and the known mistakes."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from shared.checking import observes, raised


def _with_gradient(values, gradient):
    parameter = nn.Parameter(torch.as_tensor(values).clone())
    if gradient is not None:
        parameter.grad = torch.as_tensor(gradient).clone()
    return parameter


def _values(parameters):
    return [p.detach().clone() for p in parameters]


def _gradients(parameters):
    return [None if p.grad is None else p.grad.clone() for p in parameters]


@observes(
    "adamw_step",
    difficulty=3,
    minutes=25,
    hints=(
        "Work through algorithm 2 for one parameter on paper: g, m, v, m_hat, v_hat, and where the decay acts. Then put the "
        "loop around it.",
        "The counter t is read after it was raised, so that it is 1 in a parameter's first step; 1 - beta**t is then "
        "1 - beta. In-place changes of a parameter belong inside `torch.no_grad()`.",
        "Without a gradient: continue. Else t += 1; m = beta1 m + (1 - beta1) g; v the same with g²; m_hat = m / (1 - "
        "beta1**t), v_hat likewise; parameter *= 1 - lr * weight_decay; parameter -= lr * m_hat / (v_hat.sqrt() + eps).",
    ),
    mistakes={
        "The moments are not corrected for their start at zero: with the usual betas m is 10 times and √v 32 times too "
        "small at first, so the first steps are three times too long.": [
            ('own["m"] / (1 - beta1**t)', 'own["m"]'),
            ('own["v"] / (1 - beta2**t)', 'own["v"]'),
        ],
        "Only m is corrected, not v: the first steps are √(1 / (1 - beta2)) times too long, 32 with the usual beta2.": (
            'own["v"] / (1 - beta2**t)',
            'own["v"]',
        ),
        "The correction of the first step is used in all of them: long after the start the steps are still scaled, "
        "with the usual betas to a third.": [
            ("(1 - beta1**t)", "(1 - beta1)"),
            ("(1 - beta2**t)", "(1 - beta2)"),
        ],
        "The decay is added to the gradient (L2 regularization): Adam then divides it by √v too, and weights with "
        "large gradients hardly decay. AdamW is named for the cure.": [
            ("        if not own:", "        g = g + weight_decay * parameter.detach()\n        if not own:"),
            ("parameter.mul_(1 - lr * weight_decay)", "pass"),
        ],
        "The decay is not multiplied by the learning rate: with a rate of 0.001 it is a thousand times too strong, "
        "and no schedule reaches it.": ("1 - lr * weight_decay", "1 - weight_decay"),
        "There is no weight decay: this is Adam.": ("parameter.mul_(1 - lr * weight_decay)", "pass"),
        "The decay acts on the value after the update; line 12 subtracts both from the old value.": [
            ("            parameter.mul_(1 - lr * weight_decay)  # the decay of line 12, from the old value\n", ""),
            (
                "parameter.sub_(lr * m_hat / (v_hat.sqrt() + eps))",
                "parameter.sub_(lr * m_hat / (v_hat.sqrt() + eps)).mul_(1 - lr * weight_decay)",
            ),
        ],
        "eps stands inside the square root: √(v + eps) is at least √eps, which is 10,000 times larger than eps.": (
            "v_hat.sqrt() + eps",
            "(v_hat + eps).sqrt()",
        ),
        "eps is added before the correction of v: in the first steps it counts up to √(1 / (1 - beta2)) times as much.": (
            "parameter.sub_(lr * m_hat / (v_hat.sqrt() + eps))",
            'parameter.sub_(lr * m_hat / ((own["v"].sqrt() + eps) / (1 - beta2**t) ** 0.5))',
        ),
        "The square root is missing: the step is divided by v, so large gradients give small steps and small ones "
        "explode.": ("v_hat.sqrt() + eps", "v_hat + eps"),
        "The betas are swapped: the direction is averaged over 1,000 steps and its size over ten.": (
            "beta1, beta2 = betas",
            "beta2, beta1 = betas",
        ),
        "All parameters share one step counter: one that gets its first gradient later is not corrected for its zeros.": (
            't = own["step"]',
            't = max(s.get("step", 0) for s in state)',
        ),
        "The counter also advances in steps without a gradient: the moments are then older on paper than they are.": (
            "        if g is None:\n            continue\n",
            "        if g is None:\n            if own:\n                own['step'] += 1\n            continue\n",
        ),
        "A missing gradient is taken for zero: the parameter decays and its moments fade in steps that it took no part in.": (
            "        if g is None:\n            continue\n",
            "        if g is None:\n            g = torch.zeros_like(parameter)\n",
        ),
        "The moments are not kept: each step starts from zero again, so it is ± lr for every weight, like the sign of the "
        "gradient.": ("if not own:", "if True:"),
        "The step goes up the gradient, not down.": ("parameter.sub_(lr", "parameter.add_(lr"),
    },
    rtol=1e-5,
    atol=1e-7,
)
def check_adamw_step(adamw_step, rng):
    one = [_with_gradient([1.0, -2.0], [0.5, -3.0])]
    state = [{}]
    adamw_step(one, state, lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    yield "first step, no decay: each weight moves by lr", _values(one)
    yield "the counter after the first step", state[0].get("step")
    parameters = [_with_gradient([1.0, -2.0], [0.5, -3.0])]
    adamw_step(parameters, [{}], lr=0.1, weight_decay=0.5)
    yield "first step with decay", _values(parameters)
    parameters = [_with_gradient([1.0, -2.0], [0.0, 1e-3])]
    adamw_step(parameters, [{}], lr=0.1, eps=1e-3, weight_decay=0.5)
    yield "a gradient of zero, one as small as eps", _values(parameters)

    def random_steps(n_steps, betas=(0.7, 0.95), eps=0.05):
        parameters = [nn.Parameter(torch.randn(shape, generator=rng)) for shape in ((3, 2), (4,), ())]
        state = [{} for _ in parameters]
        for step in range(n_steps):
            for i, parameter in enumerate(parameters):
                gradient = 2 * torch.randn(parameter.shape, generator=rng) + 1
                # The second one has its first gradient in step 2, and none in steps 4 and 5.
                parameter.grad = None if i == 1 and step in (0, 1, 4, 5) else gradient
            adamw_step(parameters, state, lr=0.05, betas=betas, eps=eps, weight_decay=0.3)
        return parameters, state

    parameters, state = random_steps(4)
    yield "four steps, the second parameter without a gradient in two", _values(parameters)
    yield "the counters after four steps", [own.get("step") for own in state]
    parameters, state = random_steps(9)
    yield "nine steps, gradients missing in the middle", _values(parameters)
    yield "the counters after nine steps", [own.get("step") for own in state]
    yield "the moments m after nine steps", [own.get("m") for own in state]
    yield "the moments v after nine steps", [own.get("v") for own in state]
    gradient = torch.randn(3, generator=rng)
    parameters = [_with_gradient([1.0, 2.0, 3.0], gradient)]
    adamw_step(parameters, [{}], lr=0.1)
    yield "the gradient is left as it was", bool((parameters[0].grad == gradient).all())
    yield "a missing state is refused", raised(adamw_step, parameters, [], lr=0.1)


def _straight_line_down(step, max_lr, warmup_steps, total_steps, min_lr=0.0):
    if step < 0 or warmup_steps < 0 or total_steps < max(1, warmup_steps) or not 0 <= min_lr <= max_lr:
        raise ValueError
    if step < warmup_steps:
        return max_lr * (step + 1) / warmup_steps
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return max_lr + (min_lr - max_lr) * progress


@observes(
    "warmup_cosine_lr",
    difficulty=2,
    minutes=10,
    hints=(
        "Three cases, in this order: still warming up, already over, between the two.",
        "Between them, progress = (step - warmup_steps) / (total_steps - warmup_steps) runs from 0 to 1, and "
        "(1 + cos(π progress)) / 2 from 1 to 0.",
        "Put the result between min_lr and max_lr: min_lr + (max_lr - min_lr) times that. In the warmup: max_lr (step + 1) / "
        "warmup_steps.",
    ),
    mistakes={
        "The warmup starts at step / warmup_steps, which is 0: the first batch is computed and teaches nothing.": (
            "max_lr * (step + 1) / warmup_steps",
            "max_lr * step / warmup_steps",
        ),
        "There is no warmup: the first step is taken at full length, when the moments have seen one batch.": (
            "step < warmup_steps:",
            "False:",
        ),
        "The cosine is measured from step 0, not from the end of the warmup: the rate jumps there.": (
            "(step - warmup_steps) / (total_steps - warmup_steps)",
            "step / total_steps",
        ),
        "The cosine is as long as the whole run, though it begins after the warmup: at the end it has not arrived.": (
            "/ (total_steps - warmup_steps)",
            "/ total_steps",
        ),
        "The cosine runs through a whole period: the rate falls to the minimum in the middle, and rises again.": (
            "math.pi * progress",
            "2 * math.pi * progress",
        ),
        "The cosine runs through a quarter of a period: it is flat at the top, and steep where it should land "
        "gently.": (
            "(1 + math.cos(math.pi * progress)) / 2",
            "math.cos(math.pi * progress / 2)",
        ),
        "The cosine goes on after the end: trained a little longer, the rate rises again.": (
            "        return min_lr\n    progress",
            "        pass\n    progress",
        ),
        "min_lr is added on top: the rate begins above max_lr.": ("(max_lr - min_lr) *", "max_lr *"),
        "min_lr is only a floor, max(…): the curve has a corner, and is at the floor before the end.": (
            "return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2",
            "return max(min_lr, max_lr * (1 + math.cos(math.pi * progress)) / 2)",
        ),
        "The way down is a straight line: a schedule that people use too, but not the cosine.": _straight_line_down,
    },
    rtol=1e-9,
    atol=1e-12,
)
def check_warmup_cosine_lr(warmup_cosine_lr, rng):
    yield "max_lr 1, 4 warmup steps, 8 in all", [warmup_cosine_lr(step, 1.0, 4, 8) for step in range(9)]
    max_lr = 0.001 + torch.rand((), generator=rng).item()
    warmup, total = (int(torch.randint(low, 2 * low, (), generator=rng)) for low in (5, 30))
    steps = range(total + 1)
    yield "down to a tenth", [warmup_cosine_lr(step, max_lr, warmup, total, max_lr / 10) for step in steps]
    yield (
        "the rate after the end",
        [warmup_cosine_lr(step, max_lr, warmup, total, max_lr / 10) for step in (total + 3, 3 * total)],
    )
    yield "no warmup", [warmup_cosine_lr(step, max_lr, 0, 5) for step in range(7)]
    yield "warmup only", [warmup_cosine_lr(step, max_lr, 3, 3, max_lr / 5) for step in range(5)]
    yield "a negative step is refused", raised(warmup_cosine_lr, -1, 1.0, 4, 8)
    yield "more warmup than steps is refused", raised(warmup_cosine_lr, 0, 1.0, 9, 8)
    yield "min_lr above max_lr is refused", raised(warmup_cosine_lr, 0, 1.0, 4, 8, 2.0)


def _each_alone(parameters, max_norm):
    if not max_norm > 0:
        raise ValueError
    norms = [torch.nn.utils.clip_grad_norm_([p], max_norm) for p in parameters if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.tensor(0.0)


def _element_by_element(parameters, max_norm):
    if not max_norm > 0:
        raise ValueError
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    norm = torch.stack([g.norm() for g in gradients]).norm()
    for g in gradients:
        g.clamp_(-max_norm, max_norm)
    return norm


@observes(
    "clip_grad_norm",
    difficulty=2,
    minutes=12,
    hints=(
        "The norm is one number for the whole model: think of all gradients written one after the other into one long vector.",
        "Collect the gradients that are there into a list first: a generator can be walked through once, and you need them twice.",
        "The norm is the root of the sum of all squares in all gradients. The factor is max_norm / (norm + 1e-6), "
        "held at 1 from above (`clamp`), and `mul_` scales in place. A model without any gradient has the norm 0, "
        "as a tensor.",
    ),
    mistakes={
        "Each gradient is clipped by its own norm: the direction of the whole step changes.": _each_alone,
        "The gradients are clamped element by element: that bends the step towards the corners of a cube.": _element_by_element,
        "Small gradients are scaled up to max_norm: a nearly finished model is shaken at full length.": (
            ".clamp(max=1)",
            "",
        ),
        "The root is missing: the square of the norm is compared with max_norm, and returned.": (
            ".sum().sqrt()",
            ".sum()",
        ),
        "The norms of the parts are added: they add up in squares, like the sides of a right triangle.": (
            "torch.stack([g.square().sum() for g in gradients]).sum().sqrt()",
            "torch.stack([g.square().sum().sqrt() for g in gradients]).sum()",
        ),
        "The largest gradient is taken for the norm: that is another norm, and clips less.": (
            "torch.stack([g.square().sum() for g in gradients]).sum().sqrt()",
            "torch.stack([g.abs().max() for g in gradients]).max()",
        ),
        "A generator of parameters is walked through twice, and is empty the second time: nothing is clipped.": [
            (
                "gradients = [p.grad for p in parameters if p.grad is not None]\n",
                "gradients = [p.grad for p in parameters if p.grad is not None]\n    again = [p.grad for p in parameters if p.grad is not None]\n",
            ),
            ("for g in gradients:\n        g.mul_", "for g in again:\n        g.mul_"),
        ],
        "The norm after clipping is returned: it hardly ever exceeds max_norm, so a log of it hides every spike.": (
            "return norm",
            "return norm * factor",
        ),
        "A scaled copy is made, and the gradients themselves stay as they are.": ("g.mul_(factor)", "g = g * factor"),
        "A norm of inf or nan is passed over in silence: the bad gradients are set to zero, and the step is taken as if "
        "nothing had happened.": (
            "    for g in gradients:\n        g.mul_(factor)",
            "    for g in gradients:\n        g.mul_(factor).nan_to_num_(0.0)",
        ),
    },
)
def check_clip_grad_norm(clip_grad_norm, rng):
    def gradients_after(gradients, max_norm, as_generator=False):
        parameters = [_with_gradient(torch.zeros_like(torch.as_tensor(g)), g) for g in gradients]
        norm = clip_grad_norm((p for p in parameters) if as_generator else parameters, max_norm)
        return norm, _gradients(parameters)

    norm, after = gradients_after([[3.0], [0.0, 4.0]], 1.0)
    shown = {"gradients": [[3.0], [0.0, 4.0]], "max_norm": 1.0}
    yield "gradients [3] and [0, 4], max_norm 1: the norm", norm, shown
    yield "what gradients [3] and [0, 4] become", after, shown
    shown = {"gradients": [[0.3], [0.0, 0.4]], "max_norm": 1.0}
    norm, after = gradients_after([[0.3], [0.0, 0.4]], 1.0)
    yield "a norm of 0.5, below max_norm", norm, shown
    yield "gradients below max_norm stay", after, shown
    norm, after = gradients_after([[3.0], [0.0, 4.0]], 2.5, as_generator=True)
    yield "parameters from a generator", (norm, after)
    parameters = [_with_gradient([1.0, 1.0], None), _with_gradient([1.0], [-7.0])]
    norm = clip_grad_norm(parameters, 0.5)
    yield "one parameter without a gradient", (norm, _gradients(parameters))
    yield "no gradient at all", clip_grad_norm([_with_gradient([1.0], None)], 0.5)
    tiny = [[3e-6], [0.0, 4e-6]]
    factor = gradients_after(tiny, 1e-6)[1][0] / 3e-6
    shown = {"gradients": tiny, "max_norm": 1e-6}
    yield "the factor for gradients as small as the 1e-6 beside their norm", factor, shown
    random = [3 * torch.randn(shape, generator=rng) for shape in ((4, 3), (5,), (2, 2, 2))]
    norm, after = gradients_after(random, 0.1)
    yield "three random gradients", (norm, after)
    yield "inf among the gradients", gradients_after([[math.inf, 1.0], [2.0]], 1.0)
    yield "nan among the gradients", gradients_after([[math.nan, 1.0], [2.0]], 1.0)
    yield "max_norm 0 is refused", raised(clip_grad_norm, [_with_gradient([1.0], [1.0])], 0.0)


class _Tied(nn.Module):
    """An embedding, a norm, a linear map, a single number, and a head that shares the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.project = nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


def _by_name(groups, model):
    names = {id(p): name for name, p in model.named_parameters()}
    told = []
    for group in groups:
        members = sorted(names.get(id(p), "a tensor that is no parameter of the model") for p in group["params"])
        told.append({"params": members, "weight_decay": group["weight_decay"]})
    return told


@observes(
    "parameter_groups",
    difficulty=2,
    minutes=10,
    hints=(
        "What do biases, the weights of norms and single gains have in common, that matrices and embeddings have not?",
        "`p.dim()` is 1 for a bias and for a norm's weight, 2 for a matrix. `p.requires_grad` tells what is frozen.",
        "`model.parameters()` already gives a shared parameter once. Make two lists from those that require a gradient: "
        "dim() >= 2 and dim() < 2.",
    ),
    mistakes={
        "A parameter that two modules share is listed twice: torch.optim.AdamW warns or refuses, and a loop of your own "
        "would take its step twice.": (
            "for p in model.parameters() if",
            "for _, p in model.named_parameters(remove_duplicate=False) if",
        ),
        "Frozen parameters are in the groups: without a gradient they rest, but they take part in whatever counts or saves "
        "the optimizer's parameters.": ("if p.requires_grad]", "]"),
        "Everything is decayed: norms and biases are drawn to zero, though they have no capacity to waste.": [
            ('"params": [p for p in trained if p.dim() >= 2]', '"params": trained'),
            ('"params": [p for p in trained if p.dim() < 2]', '"params": []'),
        ],
        "Only biases are spared, told by their name: the weights of norms, which should be near 1, are drawn to 0.": [
            (
                "trained = [p for p in model.parameters() if p.requires_grad]",
                "trained = [p for p in model.parameters() if p.requires_grad]\n    biases = {id(p) for n, p in model.named_parameters() if n.endswith('bias')}",
            ),
            ("if p.dim() >= 2]", "if id(p) not in biases]"),
            ("if p.dim() < 2]", "if id(p) in biases]"),
        ],
        "Embeddings are spared too (as minGPT does): here they decay, like every other matrix.": [
            (
                "trained = [p for p in model.parameters() if p.requires_grad]",
                "trained = [p for p in model.parameters() if p.requires_grad]\n    spared = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}",
            ),
            ("if p.dim() >= 2]", "if p.dim() >= 2 and id(p) not in spared]"),
            ("if p.dim() < 2]", "if p.dim() < 2 or id(p) in spared]"),
        ],
        "The two groups are exchanged: norms and biases decay, matrices do not.": [
            ("if p.dim() >= 2]", "if p.dim() < 2]"),
            (
                '[p for p in trained if p.dim() < 2], "weight_decay": 0.0',
                '[p for p in trained if p.dim() >= 2], "weight_decay": 0.0',
            ),
        ],
        "A parameter with a single number (no axis at all) is in neither group and is never trained.": (
            "if p.dim() < 2]",
            "if p.dim() == 1]",
        ),
        "Both groups have the same decay: norms and biases are drawn to zero with the rest.": (
            'if p.dim() < 2], "weight_decay": 0.0',
            'if p.dim() < 2], "weight_decay": weight_decay',
        ),
    },
)
def check_parameter_groups(parameter_groups, rng):
    linear = nn.Linear(3, 2)
    yield "one linear map", _by_name(parameter_groups(linear, 0.1), linear)
    model = _Tied()
    weight_decay = 0.05 + torch.rand((), generator=rng).item()
    groups = parameter_groups(model, weight_decay)
    yield "embedding, norm, linear map, gain, and a head that shares the embedding", _by_name(groups, model)
    model.project.requires_grad_(False)
    yield "the same model with the linear map frozen", _by_name(parameter_groups(model, 0.1), model)
    yield "a negative decay is refused", raised(parameter_groups, model, -0.1)


class _Little(nn.Module):
    """Logits from an embedding and a matrix; remembers whether gradients were there at each forward pass."""

    def __init__(self, rng, vocab_size=5, d_model=3):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(vocab_size, d_model, generator=rng))
        self.head = nn.Parameter(torch.randn(vocab_size, d_model, generator=rng))
        self.seen = []

    def forward(self, token_ids):
        self.seen.append(self.head.grad is not None)
        return self.embedding[token_ids] @ self.head.T


@observes(
    "accumulate_gradients",
    difficulty=2,
    minutes=12,
    hints=(
        "`backward()` adds to what is in .grad. So which loss must each part contribute, for the sum to be the large batch's mean?",
        "The mean over all targets is a sum of parts: (sum of losses in this part) / (number of counted targets in ALL parts).",
        "F.cross_entropy with reduction='sum', logits and targets flattened to one row of positions, gives the "
        "part's nats. Divide by all counted targets, go backward at once, so that the graph is freed, and add the "
        "number to a total.",
    ),
    mistakes={
        "The means of the parts are averaged: tokens of a part with few counted targets weigh more. This was a bug in many "
        "training libraries until 2024.": [
            ('reduction="sum"', 'reduction="mean"'),
            ("summed / n_counted", "summed / len(micro_batches)"),
        ],
        "The means of the parts are added: the gradient is as many times too large as there are parts.": [
            ('reduction="sum"', 'reduction="mean"'),
            ("summed / n_counted", "summed"),
        ],
        "Nothing is divided: the gradient of a sum grows with the number of tokens.": ("summed / n_counted", "summed"),
        "Ignored positions are counted in the mean: padding makes every gradient smaller.": (
            "summed / n_counted",
            "summed / sum(t.numel() for _, t in micro_batches)",
        ),
        "The gradients are cleared before each part: only the last part is learned from.": (
            "        logits = model(token_ids)",
            "        model.zero_grad()\n        logits = model(token_ids)",
        ),
        "The gradients are cleared at the start: clearing is the caller's job, who may have more parts to add.": (
            "    total = 0.0",
            "    model.zero_grad()\n    total = 0.0",
        ),
        "There is one backward at the very end: the gradients are right, but the graphs of all parts are in memory "
        "at once, which accumulation is there to avoid.": [
            (
                "        loss.backward()  # frees its graph\n        total += loss.item()",
                "        total = total + loss",
            ),
            ("    return total", "    total.backward()\n    return total.item()"),
        ],
        "The losses are added up as tensors: what comes back is no number, and it drags a graph along.": (
            "total += loss.item()",
            "total += loss",
        ),
        "The loss of the last part alone is returned: the gradients are right, and the log shows a fraction of the "
        "loss.": (
            "total += loss.item()",
            "total = loss.item()",
        ),
    },
    atol=1e-6,
)
def check_accumulate_gradients(accumulate_gradients, rng):
    def gradients(model):
        return [None if p.grad is None else p.grad.clone() for p in model.parameters()]

    def batch(rows, seq):
        return tuple(torch.randint(0, 5, (rows, seq), generator=rng) for _ in range(2))

    model = _Little(rng)
    parts = [batch(1, 2), batch(1, 2)]
    loss = accumulate_gradients(model, parts)
    yield "two parts of two targets: the loss", loss
    yield "does that loss carry a graph?", getattr(loss, "requires_grad", False)
    yield "two parts of two targets: the gradients", gradients(model)
    model = _Little(rng)
    (ids_1, targets_1), (ids_2, targets_2) = batch(2, 4), batch(2, 4)
    targets_1[:, 1:] = -100
    targets_2[0, 3] = -100
    yield (
        "two counted targets, then seven: the loss",
        accumulate_gradients(model, [(ids_1, targets_1), (ids_2, targets_2)]),
    )
    yield "gradients with two counted targets, then seven", gradients(model)
    model = _Little(rng)
    nothing = torch.full((1, 3), -100)
    parts = [batch(1, 3), (batch(1, 3)[0], nothing), batch(3, 2), batch(2, 5)]
    yield "four parts of different shapes, one with nothing to learn", accumulate_gradients(model, parts)
    yield "gradients of the four parts", gradients(model)
    yield "before which forward passes there were gradients already", model.seen
    model = _Little(rng)
    model.head.grad = torch.ones(5, 3)
    accumulate_gradients(model, [batch(2, 3)])
    yield "gradients that were there before are kept", gradients(model)
    yield (
        "parts without a counted target are refused",
        raised(accumulate_gradients, model, [(nothing.clamp(min=0), nothing)]),
    )


class _NoBuffers(nn.Module):
    """Right in all but that its scale is no buffer."""

    def __init__(self, init_scale=2.0**16, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000):
        if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):
            raise ValueError
        super().__init__()
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval
        self.scale, self.good_steps, self.finite = torch.tensor(float(init_scale)), torch.tensor(0), None

    def forward(self, loss):
        return loss * self.scale

    def unscale(self, optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for g in gradients:
            g.div_(self.scale)
        self.finite = all(bool(g.isfinite().all()) for g in gradients)

    def step(self, optimizer):
        if self.finite is None:
            self.unscale(optimizer)
        if self.finite:
            optimizer.step()

    def update(self):
        if not self.finite:
            self.scale, self.good_steps = self.scale * self.backoff_factor, torch.tensor(0)
        elif self.good_steps + 1 == self.growth_interval:
            self.scale, self.good_steps = self.scale * self.growth_factor, torch.tensor(0)
        else:
            self.good_steps = self.good_steps + 1
        self.finite = None


@observes(
    "LossScaler",
    difficulty=3,
    minutes=20,
    hints=(
        "Four small methods: multiply, divide and look, step or not, adapt. `self.finite` carries what `unscale` saw to `step` "
        "and to `update`.",
        '`unscale` goes over `optimizer.param_groups`, each a dict with "params"; `g.isfinite().all()` is True when there is '
        "neither inf nor nan. `step` calls it only where `self.finite` is still None.",
        "`update`: finite: good_steps += 1, and at growth_interval the scale grows and good_steps goes to 0. Not finite: the "
        "scale shrinks and good_steps goes to 0. Last: self.finite = None.",
    ),
    mistakes={
        "The loss is not scaled: small gradients vanish as before.": ("return loss * self.scale", "return loss * 1.0"),
        "The gradients are not divided before the step: they are still as many times too large as the scale, 65,536 "
        "at first.": (
            "g.div_(self.scale)",
            "pass",
        ),
        "A gradient is divided twice where the caller has divided it before clipping: the step nearly vanishes.": (
            "if self.finite is None:",
            "if True:",
        ),
        "The step is taken in spite of inf or nan: the weights are lost for ever.": (
            "if self.finite:\n            optimizer.step()",
            "optimizer.step()",
        ),
        "Only nan counts as bad: an overflow of float16 is inf.": ("g.isfinite().all()", "(~g.isnan()).all()"),
        "Only inf counts as bad: inf - inf in a backward pass has made it nan before you look.": (
            "g.isfinite().all()",
            "(~g.isinf()).all()",
        ),
        "Only the last gradient decides: an overflow in an earlier layer goes unseen.": (
            "all(bool(g.isfinite().all()) for g in gradients)",
            "bool(gradients[-1].isfinite().all())",
        ),
        "The scale never shrinks: after one overflow every step overflows, and all are skipped.": (
            "self.scale *= self.backoff_factor",
            "pass",
        ),
        "The scale never grows: after a few overflows it stays too small.": (
            "self.scale *= self.growth_factor",
            "pass",
        ),
        "An overflow does not restart the count of good steps: the scale grows again too early.": (
            "self.scale *= self.backoff_factor\n            self.good_steps.zero_()",
            "self.scale *= self.backoff_factor",
        ),
        "The count is not restarted after a growth: it has passed growth_interval, so the scale grows once and then "
        "no more.": (
            "self.scale *= self.growth_factor\n                self.good_steps.zero_()",
            "self.scale *= self.growth_factor",
        ),
        "A skipped step counts as a good one: right after an overflow the scale is a step nearer to growing again.": (
            "self.scale *= self.backoff_factor\n            self.good_steps.zero_()",
            "self.scale *= self.backoff_factor\n            self.good_steps += 1",
        ),
        "What one step showed is carried into the next: after the first step gradients are no longer divided.": (
            "        self.finite = None\n        # END",
            "        # END",
        ),
        "The scale is no buffer, so it is not in state_dict(): a resumed run starts from the first guess again.": _NoBuffers,
    },
)
def check_loss_scaler(LossScaler, rng):
    scaler = LossScaler(init_scale=8.0)
    yield "a loss of 1.5 with scale 8", scaler(torch.tensor(1.5)), {"init_scale": 8.0, "loss": 1.5}

    def one_step(scaler, gradients, unscale_first=False):
        """Gradients as a backward pass of the scaled loss leaves them -> weights after, scale and count after."""
        parameters = [_with_gradient(torch.zeros_like(torch.as_tensor(g)), g) for g in gradients]
        parameters.append(_with_gradient([1.0], None))
        optimizer = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=1.0)
        if unscale_first:
            scaler.unscale(optimizer)
        scaler.step(optimizer)
        return _values(parameters)

    def state(scaler):
        return {"scale": float(scaler.scale), "good_steps": int(scaler.good_steps)}

    good = [[8.0, -16.0], [4.0]]
    shown = {"scale": 8.0, "gradients": good, "optimizer": "SGD with lr 1"}
    yield "gradients 8, -16 and 4, weights 0: after the step", one_step(scaler, good), shown
    scaler.update()
    yield "scale and count of good steps after that step", state(scaler), shown
    yield "a second step, divided by the caller first", one_step(scaler, good, unscale_first=True), shown
    scaler.update()
    for name, bad in (("inf", math.inf), ("nan", math.nan)):
        shown = {"gradients": [[1.0, bad], [4.0]], "growth_interval": 3}
        scaler = LossScaler(init_scale=8.0, growth_interval=3, backoff_factor=0.25)
        one_step(scaler, good)
        scaler.update()
        yield f"{name} in a gradient: the weights", one_step(scaler, shown["gradients"]), shown
        scaler.update()
        yield f"scale and count after {name}", state(scaler), shown
        after = []
        for _ in range(3):
            one_step(scaler, good)
            scaler.update()
            after.append(state(scaler))
        yield f"three good steps after {name}", after, shown
    scaler = LossScaler(init_scale=4.0, growth_factor=3.0, growth_interval=2)
    after = []
    for _ in range(7):
        one_step(scaler, good)
        scaler.update()
        after.append(state(scaler))
    yield "seven good steps, growth after two", after, {"init_scale": 4.0, "growth_factor": 3.0, "growth_interval": 2}

    weight = nn.Parameter(torch.randn(3, generator=rng))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = LossScaler(init_scale=2.0**10)
    x = torch.randn(4, 3, generator=rng)
    scaler((x @ weight).square().mean()).backward()
    yield "the gradient of a scaled loss", weight.grad.clone(), {"x": x, "init_scale": 2.0**10}
    scaler.step(optimizer)
    scaler.update()
    yield "the weights after the step of a scaled loss", weight.detach().clone(), {"x": x, "init_scale": 2.0**10}
    resumed = LossScaler()
    resumed.load_state_dict(scaler.state_dict())
    yield "a new scaler with the state of the old one", state(resumed), {"state_dict": dict(scaler.state_dict())}
    yield "a backoff_factor above 1 is refused", raised(LossScaler, backoff_factor=1.5)


class _Wide(nn.Module):
    """A residual block, much wider inside than outside; counts its calls. `spare` has no part in the output."""

    def __init__(self, rng, d_model=3, d_ff=64, dropout=0.0, spare=False):
        super().__init__()
        self.spare = nn.Parameter(torch.ones(2)) if spare else None
        self.w_in = nn.Parameter(torch.randn(d_model, d_ff, generator=rng) / 2)
        self.w_out = nn.Parameter(torch.randn(d_ff, d_model, generator=rng) / 8)
        self.bias = nn.Parameter(torch.randn(d_model, generator=rng))
        self.dropout, self.calls = dropout, 0

    def forward(self, x):
        self.calls += 1
        return x + F.dropout(torch.tanh(x @ self.w_in), self.dropout) @ self.w_out + self.bias


def _gradients_follow(out, weight):
    """The gradient of Σ out · weight is left in .grad; False where autograd knows nothing of this output."""
    follows = isinstance(out, torch.Tensor) and out.requires_grad
    if follows:
        (out * weight).sum().backward()
    return follows


def _not_aware_of_parameters(block, x):
    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            ctx.rng_state = torch.get_rng_state()
            return block(x)

        @staticmethod
        def backward(ctx, grad_output):
            leaf = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad(), torch.random.fork_rng(devices=[]):
                torch.set_rng_state(ctx.rng_state)
                output = block(leaf)
            torch.autograd.backward(output, grad_output)
            return leaf.grad

    return Recompute.apply(x)


def _global_rng_turned_back(block, x):
    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            ctx.save_for_backward(x, *parameters)
            ctx.rng_state = torch.get_rng_state()
            return block(x)

        @staticmethod
        def backward(ctx, grad_output):
            x, *parameters = ctx.saved_tensors
            leaf = x.detach().requires_grad_()
            torch.set_rng_state(ctx.rng_state)
            with torch.enable_grad():
                output = block(leaf)
            return torch.autograd.grad(output, (leaf, *parameters), grad_output, allow_unused=True)

    return Recompute.apply(x, *(p for p in block.parameters() if p.requires_grad))


def _without_graph(block, x):
    with torch.no_grad():
        return block(x)


@observes(
    "checkpointed_forward",
    difficulty=3,
    minutes=25,
    hints=(
        "Write a `torch.autograd.Function`: its forward runs the block (no graph is recorded in there) and saves only x; its "
        "backward runs the block again, this time with a graph, and differentiates it.",
        "In backward: detach x, require its gradient, run the block under `torch.enable_grad()`, then `torch.autograd.grad(output, "
        "(leaf, *parameters), grad_output, allow_unused=True)`. Return one gradient for each argument of forward.",
        "Call `Recompute.apply(x, *parameters that require a gradient)`: only so does autograd know that they matter. For dropout, save "
        "torch.get_rng_state() in forward and set it in backward inside `torch.random.fork_rng(devices=[])`.",
    ),
    mistakes={
        "The block simply runs: the gradients are right, and every activation is kept, as without checkpointing.": (
            "return Recompute.apply(x, *(p for p in block.parameters() if p.requires_grad))",
            "return block(x)",
        ),
        "The block runs without a graph and nothing computes it again: this layer and all below it learn nothing.": _without_graph,
        "The incoming gradient is not used: backward differentiates the sum of the output, whatever stands above this block.": (
            "grad_output, allow_unused",
            "torch.ones_like(grad_output), allow_unused",
        ),
        "Only x gets a gradient: the layers below learn, the block's own parameters do not.": (
            "return torch.autograd.grad(output, (leaf, *parameters), grad_output, allow_unused=True)",
            "return torch.autograd.grad(output, leaf, grad_output) + (None,) * len(parameters)",
        ),
        "x alone is an argument of the Function: where x needs no gradient (a first layer, frozen embeddings), the block's parameters get "
        "none either.": _not_aware_of_parameters,
        "The random state is not brought back: dropout drops other values in the recomputation, and the gradients belong to a "
        "forward pass that never was.": ("torch.set_rng_state(ctx.rng_state)", "pass"),
        "The random state is turned back for everyone: what is drawn after backward repeats what was drawn before.": _global_rng_turned_back,
        "The residual path is counted twice: the gradient that came in is added to what the block hands back.": (
            "return torch.autograd.grad(output, (leaf, *parameters), grad_output, allow_unused=True)",
            "dx, *rest = torch.autograd.grad(output, (leaf, *parameters), grad_output, allow_unused=True)\n            return dx + grad_output, *rest",
        ),
    },
)
def check_checkpointed_forward(checkpointed_forward, rng):
    block = _Wide(rng)
    x = torch.randn(1, 2, 3, generator=rng, requires_grad=True)
    weight = torch.randn(1, 2, 3, generator=rng)
    out = checkpointed_forward(block, x)
    shown = {"x": x.detach()}
    yield "the output", out, shown
    calls = block.calls
    follows = _gradients_follow(out, weight)
    yield "a gradient flows", follows, shown
    yield "gradient of x", x.grad, shown
    yield "gradients of the parameters", [p.grad for p in block.parameters()], shown
    yield "calls of the block: in forward, and after backward", (calls, block.calls), shown

    block, kept = _Wide(rng), []
    own = {p.data_ptr() for p in block.parameters()}
    x = torch.randn(2, 5, 3, generator=rng, requires_grad=True)
    count = lambda t: kept.append(0 if t.data_ptr() in own else t.numel()) or t  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        out = checkpointed_forward(block, x)
    yield "less is kept than one activation of the width inside", sum(kept) < 2 * 5 * 64, {"x": x.detach()}

    block = _Wide(rng)
    block.bias.requires_grad_(False)
    x = torch.randn(2, 4, 3, generator=rng)
    out = checkpointed_forward(block, checkpointed_forward(block, x))
    follows = _gradients_follow(out, torch.randn(2, 4, 3, generator=rng))
    gradients = [p.grad for p in block.parameters()]
    yield "x needs no gradient, the bias is frozen, the block is used twice", (follows, gradients), {"x": x}

    block = _Wide(rng, d_ff=2, spare=True)
    x = torch.randn(1, 2, 3, generator=rng)
    _gradients_follow(checkpointed_forward(block, x), weight)
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in block.named_parameters()}
    yield "a block with a parameter that it does not use", gradients, {"x": x}

    torch.manual_seed(int(torch.randint(0, 2**31, (), generator=rng)))
    block = _Wide(rng, dropout=0.5)
    x = torch.randn(3, 7, 3, generator=rng, requires_grad=True)
    out = checkpointed_forward(block, x)
    drawn = torch.rand(4)
    # out = x + z + bias, so what each value adds to the output tells which hidden values were kept.
    _gradients_follow(out, torch.ones_like(out))
    inside = out.detach() - x.detach() - block.bias.detach()
    agrees = block.w_out.grad is not None and torch.allclose(
        (block.w_out.grad * block.w_out.detach()).sum(), inside.sum(), rtol=1e-3, atol=1e-3
    )
    yield "dropout: forward and backward drop the same", agrees, {"x": x.detach()}
    yield "random numbers after backward are new ones", not torch.equal(drawn, torch.rand(4)), {"x": x.detach()}
