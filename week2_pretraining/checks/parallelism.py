"""What right answers of 04_parallelism show, and the mistakes that are known. Ranks are simulated: see ranks.py."""

import torch
from torch import nn

from shared.checking import observes, raised
from week2_pretraining.ranks import simulate


@observes(
    "training_memory",
    difficulty=2,
    minutes=10,
    hints=(
        "Three things lie in memory. Start with stage 0, where every device holds all of each.",
        "A stage divides by n_devices what it splits, and leaves the rest: 1 splits the optimizer's state, 2 also the "
        "gradients, 3 also the parameters.",
        "params * optimizer_bytes / (n_devices if stage >= 1 else 1), and so on for the other two; then the total. The "
        "checks of bad input come first.",
    ),
    mistakes={
        "Stage 1 splits the gradients too: that begins with stage 2.": (
            "n_devices if stage >= 2 else 1",
            "n_devices if stage >= 1 else 1",
        ),
        "Stage 2 splits the parameters too: that begins with stage 3, and is what makes stage 3 send more.": (
            "n_devices if stage >= 3 else 1",
            "n_devices if stage >= 2 else 1",
        ),
        "Stage 3 leaves the gradients whole: each stage splits what the ones before it split, and one thing more.": (
            "n_devices if stage >= 2 else 1",
            "n_devices if stage == 2 else 1",
        ),
        "The parameters are split first: ZeRO begins with the optimizer's state, which is the largest part.": [
            ("n_devices if stage >= 3 else 1", "n_devices if stage >= 1 else 1 "),
            (
                "optimizer_bytes / (n_devices if stage >= 1 else 1)",
                "optimizer_bytes / (n_devices if stage >= 3 else 1)",
            ),
        ],
        "Everything is split at every stage above 0: stages 1 and 2 still hold whole copies.": [
            ("n_devices if stage >= 3 else 1", "n_devices if stage else 1"),
            ("n_devices if stage >= 2 else 1", "n_devices if stage else 1"),
        ],
        "The optimizer's bytes are built in (12): in plain float32, for example, Adam's state takes 8.": (
            "params * optimizer_bytes",
            "params * 12",
        ),
        "The bytes of a parameter stand for those of its gradient: they may have different formats.": (
            "params * gradient_bytes",
            "params * parameter_bytes",
        ),
        "The result is in GiB, where bytes were asked for.": (
            "    return memory | {",
            "    memory = {name: part / 2**30 for name, part in memory.items()}\n    return memory | {",
        ),
        "A stage that ZeRO does not have is computed as if it were stage 3.": ("not in (0, 1, 2, 3)", "< 0"),
        "No devices at all are not refused: a ZeroDivisionError does not say what is allowed.": (
            "n_devices < 1",
            "False",
        ),
        "A negative number of parameters is accepted: the memory comes out below 0.": ("params < 0", "False"),
    },
)
def check_training_memory(training_memory, rng):
    for stage in range(4):
        yield f"1,000 parameters, 4 devices, stage {stage}", training_memory(1000, stage, 4)
    yield "one device", training_memory(1000, 3)
    yield "the paper's 7.5 billion on 64 devices, stage 2", training_memory(7.5e9, 2, 64)
    params, n_devices = (int(torch.randint(low, 1000, (), generator=rng)) for low in (100, 3))
    for stage in range(4):
        memory = training_memory(params, stage, n_devices, parameter_bytes=4, gradient_bytes=3, optimizer_bytes=8)
        yield f"other bytes per parameter, stage {stage}", memory
    yield "no parameters", training_memory(0, 1, 2)
    yield "stage 4 is refused", raised(training_memory, 1000, 4, 2)
    yield "stage -1 is refused", raised(training_memory, 1000, -1, 2)
    yield "no devices are refused", raised(training_memory, 1000, 1, 0)
    yield "a negative number of parameters is refused", raised(training_memory, -1, 1, 2)


def _sums_thrown_away(parameters, group, n_targets=1):
    total = group.all_reduce(torch.tensor(float(n_targets)))
    for p in parameters:
        if p.requires_grad:
            gradient = torch.zeros_like(p) if p.grad is None else p.grad * n_targets
            group.all_reduce(gradient)
            p.grad = gradient / total


@observes(
    "average_gradients",
    difficulty=2,
    minutes=10,
    hints=(
        "`group.all_reduce(tensor)` returns the sum over the ranks; the tensor itself stays as it is.",
        "Two sums are needed: of n_targets, once, and of n_targets * gradient, for each parameter. Every rank must call "
        "all_reduce equally often, also where it has no gradient.",
        "The sum of all n_targets is made once, of a tensor; it divides every gradient. For each p with "
        "requires_grad, reduce its gradient times n_targets, or zeros of its shape where there is none, and put the "
        "quotient into p.grad.",
    ),
    mistakes={
        "The gradients are summed and not averaged: with n ranks every step is as if the loss were n times as large.": [
            ("gradient * n_targets", "gradient"),
            (" / total", ""),
        ],
        "Every rank weighs the same, however few targets it had: where batches are unequal, that is the gradient of "
        "another loss.": [("gradient * n_targets", "gradient"), ("/ total", "/ group.size")],
        "The weighted sum is divided by the number of ranks, not of targets: the gradient grows with the batch.": (
            "/ total",
            "/ group.size",
        ),
        "The weighted sum is not divided at all: the gradient grows with the batch and with the ranks.": (
            " / total",
            "",
        ),
        "Each rank divides by its own number of targets: the ranks get different gradients, and their models drift "
        "apart.": ("/ total", "/ n_targets"),
        "The weighted sum is divided by the ranks and by the targets: one of the two is too much.": (
            "/ total",
            "/ total / group.size",
        ),
        "A rank skips a parameter that it did not use, and the others wait for it: the run hangs.": (
            "if p.requires_grad:",
            "if p.grad is not None:",
        ),
        "A frozen parameter gets a gradient: the optimizer would then decay it.": ("if p.requires_grad:", "if True:"),
        "The sum is thrown away: all_reduce returns it (torch.distributed's writes it into the tensor), so each rank "
        "keeps its own gradient.": _sums_thrown_away,
    },
)
def check_average_gradients(average_gradients, rng):
    def averaged(gradients, *n_targets, frozen=()):
        """The gradients of all ranks after the call; gradients[rank][i], None for none."""

        def run(group):
            shapes = [next(g[i].shape for g in gradients if g[i] is not None) for i in range(len(gradients[0]))]
            dtype = next(g for g in gradients[0] if g is not None).dtype
            parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
            parameters += [nn.Parameter(torch.ones(2), requires_grad=False) for _ in frozen]
            for p, gradient in zip(parameters, gradients[group.rank], strict=False):
                p.grad = None if gradient is None else gradient.clone()
            average_gradients(parameters, group, *(n[group.rank] for n in n_targets))
            return [p.grad for p in parameters]

        shown = {f"gradients of rank {rank}": list(own) for rank, own in enumerate(gradients)}
        if n_targets:
            shown["n_targets of each rank"] = n_targets[0]
        return simulate(run, len(gradients)), shown

    def random(n_ranks, *shapes, **options):
        return [[torch.randn(shape, generator=rng, **options) for shape in shapes] for _ in range(n_ranks)]

    one, three = torch.tensor([1.0]), torch.tensor([3.0])
    yield "1 on rank 0, 3 on rank 1", *averaged([[one], [three]])
    yield "3 targets on rank 0, 1 on rank 1", *averaged([[one], [three]], [3, 1])
    yield "one rank", *averaged([[three]], [5])
    yield "four ranks, two tensors", *averaged(random(4, (3,), (2, 5)))
    unequal = torch.randint(1, 90, (3,), generator=rng) + torch.tensor([0, 100, 300])
    yield "three ranks, unequal batches", *averaged(random(3, (2, 3), (4,)), unequal.tolist())
    yield "float64", *averaged(random(2, (2, 2), dtype=torch.float64), [2, 7])
    yield "a frozen parameter", *averaged(random(2, (2,)), frozen=[True])
    yield "a parameter that rank 1 did not use", *averaged([[one, three], [three, None]])


@observes(
    "shard_optimizer_state",
    difficulty=3,
    minutes=20,
    rtol=1e-4,
    atol=1e-6,
    hints=(
        "First the owners: a list of how many elements each rank has so far; `elements.index(min(elements))` is the "
        "lowest of the emptiest ranks. `sorted` keeps equal ones in order.",
        "torch.optim.AdamW([{'params': own}], **options) over the parameters whose owner is group.rank; a list with one "
        "dict may hold no parameters, an empty list may not.",
        "optimizer.register_step_post_hook(f) calls f(optimizer, args, kwargs) after each step(). In it, under "
        "torch.no_grad(), copy group.broadcast(p, owner) into each p: all parameters, in the same order on all ranks.",
    ),
    mistakes={
        "The tensors are dealt out in the order of the list: a large one at the end then unbalances all.": (
            "sorted(range(len(parameters)), key=lambda i: -parameters[i].numel())",
            "range(len(parameters))",
        ),
        "The tensors are dealt out in turn, whatever their size: one rank may get all large ones.": (
            "owners[i] = elements.index(min(elements))",
            "owners[i] = i % group.size",
        ),
        "Tensors are counted, not elements: the state takes as much memory as it has elements.": (
            "elements[owners[i]] += parameters[i].numel()",
            "elements[owners[i]] += 1",
        ),
        "Every rank's optimizer has all parameters: the values are right, but no memory is saved.": (
            " if owner == group.rank",
            "",
        ),
        "Each rank updates its part and keeps it to itself: after a step the ranks have different models.": (
            "optimizer.register_step_post_hook(share_new_values)",
            "share_new_values()",
        ),
        "All values come from rank 0: what the other ranks updated is overwritten by its old copy.": (
            "group.broadcast(p, owner)",
            "group.broadcast(p, 0)",
        ),
        "The values are shared before the step, not after it: the other ranks are always one step behind.": (
            "register_step_post_hook",
            "register_step_pre_hook",
        ),
        "The values are averaged over the ranks: one new value and n - 1 old ones make a step n times too small.": (
            "group.broadcast(p, owner)",
            "group.all_reduce(p) / group.size",
        ),
        "The options are not passed on: learning rate and weight decay stay at AdamW's defaults.": (
            ", **options)\n\n    @",
            ")\n\n    @",
        ),
    },
)
def check_shard_optimizer_state(shard_optimizer_state, rng):
    def train(shapes, n_ranks, steps, **options):
        """Of each rank: owners, elements in its optimizer, all parameters after the steps; and the inputs."""
        start = [torch.randn(shape, generator=rng) for shape in shapes]
        gradients = [[torch.randn(shape, generator=rng) for shape in shapes] for _ in range(steps)]

        def run(group):
            parameters = [nn.Parameter(value.clone()) for value in start]
            optimizer, owners = shard_optimizer_state(parameters, group, **options)
            for of_step in gradients:
                for p, gradient in zip(parameters, of_step, strict=True):
                    p.grad = gradient.clone()
                optimizer.step()
            elements = sum(p.numel() for part in optimizer.param_groups for p in part["params"])
            return list(owners), elements, [p.detach().clone() for p in parameters]

        owners, elements, parameters = (list(column) for column in zip(*simulate(run, n_ranks), strict=True))
        shown = {"elements of the tensors": [value.numel() for value in start], "ranks": n_ranks, "steps": steps}
        return owners, elements, parameters, shown | options

    owners, elements, parameters, shown = train([(4,), (2, 3), (1,), (3,)], 2, 1, lr=0.1)
    yield "who owns tensors of 4, 6, 1 and 3 elements", owners, shown
    yield "elements in each rank's optimizer", elements, shown
    yield "all parameters on both ranks after one step", parameters, shown
    owners, elements, parameters, shown = train([(2,), (2,), (2,)], 2, 2, lr=0.01, weight_decay=0.0)
    yield "who owns three tensors of 2 elements", owners, shown
    yield "the parameters after two steps", parameters, shown
    owners, elements, parameters, shown = train([(2, 2), (7,), (3, 5), (1,), (2, 4)], 3, 3, lr=0.2, weight_decay=0.5)
    yield "five tensors on three ranks: owners and elements", [owners, elements], shown
    yield "after three steps with weight decay", parameters, shown
    yield "more ranks than tensors", *_last_together(train([(2,), (3,)], 4, 2, lr=0.1))
    yield "one rank", *_last_together(train([(2,), (3,)], 1, 2, lr=0.1))


def _last_together(trained):
    return list(trained[:3]), trained[3]


def _leaf(tensor):
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _run_linear(function, x, weight, bias, upstream, cut):
    """Outputs, gradients and collectives of each rank; `cut(tensors, group)` gives this rank's own inputs."""

    def run(group):
        own = [None if t is None else _leaf(t) for t in cut(x, weight, bias, group)]
        y = function(*own, group)
        forward_calls = len(group.calls)
        for gradient in (upstream, upstream.chunk(group.size, -1)[group.rank]):  # of a whole y, or of this rank's part
            if y.requires_grad and y.shape == gradient.shape:
                y.backward(gradient)
                break
        gradients = [None if t is None else t.grad for t in own]
        return y, *gradients, [forward_calls, len(group.calls) - forward_calls]

    return run


def _linear_observations(function, rng, cut):
    """What both parallel layers must show; `cut` says what is a rank's own."""

    def random(*shape):
        return torch.randn(shape, generator=rng).requires_grad_()

    def observe(x, weight, bias, upstream, n_ranks):
        ranks = simulate(_run_linear(function, x, weight, bias, upstream, cut), n_ranks)
        shown = {"x": x, "weight": weight, "bias": bias, "gradient of y": upstream, "ranks": n_ranks}
        return [list(column) for column in zip(*ranks, strict=True)], shown

    x, bias = torch.tensor([[1.0, 2.0]]).requires_grad_(), torch.tensor([10.0, 20.0]).requires_grad_()
    weight = torch.tensor([[1.0, 3.0], [0.0, -1.0]]).requires_grad_()
    (y, x_gradient, _, bias_gradient, calls), shown = observe(x, weight, bias, torch.tensor([[1.0, 5.0]]), 2)
    yield "the output on each of two ranks", y, shown
    yield "the gradient of x on each", x_gradient, shown
    yield "the gradient of the bias on each", bias_gradient, shown
    yield "exchanges forward and backward, on each", calls, shown
    seen, shown = observe(random(2, 3, 4), random(8, 4), random(8), torch.randn(2, 3, 8, generator=rng), 4)
    names = ("outputs", "gradients of x", "gradients of the weights", "gradients of the bias")
    for name, value in zip(names, seen, strict=False):
        yield f"four ranks: {name}", value, shown
    seen, shown = observe(random(5, 6), random(4, 6), None, torch.randn(5, 4, generator=rng), 2)
    yield "without a bias", seen, shown
    seen, shown = observe(random(3, 2), random(5, 2), random(5), torch.randn(3, 5, generator=rng), 1)
    yield "one rank", seen, shown
    seen, shown = observe(random(3, 4).detach(), random(6, 4), random(6), torch.randn(3, 6, generator=rng), 2)
    yield "x needs no gradient", seen, shown


def _columns_of_rank(x, weight, bias, group):
    return x, *(None if t is None else t.chunk(group.size, 0)[group.rank] for t in (weight, bias))


def _outputs_gathered(x, weight_shard, bias_shard, group):
    y = torch.nn.functional.linear(x, weight_shard, bias_shard)
    return torch.cat(group.all_gather(y), dim=-1)


def _x_summed_through_the_ranks_and_back(x, weight_shard, bias_shard, group):
    return torch.nn.functional.linear(group.all_reduce(x), weight_shard, bias_shard)


@observes(
    "column_parallel_linear",
    difficulty=3,
    minutes=20,
    hints=(
        "Forward there is nothing to exchange: F.linear with what this rank has. What is the gradient of x, if x goes "
        "into two layers whose losses add up?",
        "It is the sum over the ranks. A torch.autograd.Function has a forward and a backward: here forward hands x on, "
        "and backward gives group.all_reduce(gradient).",
        "Write the Function inside your function, where it sees `group`: forward hands on a view of x (`view_as`), "
        "backward the sum over the ranks of what it gets. Apply it to x, and give what comes out to the linear "
        "layer.",
    ),
    mistakes={
        "Nothing is exchanged backward: each rank sees only its own features' part of the gradient of x.": (
            "CopyToRanks.apply(x)",
            "x",
        ),
        "The parts of x's gradient are averaged: the features of all ranks add up, they are no copies of each other.": (
            "return group.all_reduce(gradient)",
            "return group.all_reduce(gradient) / group.size",
        ),
        "x is summed forward too: every rank has the whole x already.": (
            "return x.view_as(x)",
            "return group.all_reduce(x)",
        ),
        "x is summed forward and nothing flows back: the two directions are interchanged, and all_reduce passes no "
        "gradient on.": _x_summed_through_the_ranks_and_back,
        "The exchange is put after the layer: the gradients of different features are summed, and those of the "
        "weights are wrong too.": (
            "F.linear(CopyToRanks.apply(x), weight_shard, bias_shard)",
            "CopyToRanks.apply(F.linear(x, weight_shard, bias_shard))",
        ),
        "No gradient reaches x: the layers below would not learn.": (
            "CopyToRanks.apply(x)",
            "CopyToRanks.apply(x.detach())",
        ),
        "The bias is left out: each rank has the bias of its own features.": (
            "weight_shard, bias_shard)",
            "weight_shard)",
        ),
        "The bias is divided by the number of ranks: every rank adds its own part of it, each part once.": (
            "weight_shard, bias_shard)",
            "weight_shard, None if bias_shard is None else bias_shard / group.size)",
        ),
        "The outputs of all ranks are gathered: the next layer, cut by rows, wants just this rank's features.": (
            _outputs_gathered
        ),
    },
)
def check_column_parallel_linear(column_parallel_linear, rng):
    yield from _linear_observations(column_parallel_linear, rng, _columns_of_rank)


def _rows_of_rank(x, weight, bias, group):
    return *(t.chunk(group.size, -1)[group.rank] for t in (x, weight)), bias


def _plain_all_reduce(x_shard, weight_shard, bias, group):
    y = group.all_reduce(torch.nn.functional.linear(x_shard, weight_shard))
    return y if bias is None else y + bias


def _outputs_side_by_side(x_shard, weight_shard, bias, group):
    y = torch.cat(group.all_gather(torch.nn.functional.linear(x_shard, weight_shard)), dim=-1)
    return y if bias is None else y + bias.repeat(group.size)


@observes(
    "row_parallel_linear",
    difficulty=3,
    minutes=15,
    hints=(
        "A dot product can be cut: each rank adds up its own part of the features. What is left to do with these parts?",
        "One all-reduce forward. group.all_reduce passes no gradient on, so it needs a torch.autograd.Function; every "
        "rank's part goes into the same sum, so the gradient of each part is that of the sum.",
        "Forward of your Function adds the parts up over the ranks; backward hands on what it gets. What goes in is "
        "this rank's product, without the bias. Where does the bias go, if it is to count once?",
    ),
    mistakes={
        "The bias is added before the sum, on every rank: it comes out as many times as there are ranks.": [
            ("F.linear(x_shard, weight_shard)", "F.linear(x_shard, weight_shard, bias)"),
            ("return y if bias is None else y + bias", "return y"),
        ],
        "The bias is added on rank 0 alone, before the sum: the output is right, but only rank 0's copy of it "
        "learns.": [
            ("F.linear(x_shard, weight_shard)", "F.linear(x_shard, weight_shard, bias if group.rank == 0 else None)"),
            ("return y if bias is None else y + bias", "return y"),
        ],
        "The bias is left out: it belongs to the whole output, once.": (
            "return y if bias is None else y + bias",
            "return y",
        ),
        "Nothing is exchanged: each rank has the sum over its own features only.": (
            "SumOverRanks.apply(F.linear(x_shard, weight_shard))",
            "F.linear(x_shard, weight_shard)",
        ),
        "The parts are averaged: a dot product is the sum of its parts.": (
            "return group.all_reduce(partial)",
            "return group.all_reduce(partial) / group.size",
        ),
        "No gradient flows through the sum: all_reduce alone is a constant for autograd, and the weights do not "
        "learn.": _plain_all_reduce,
        "The gradient is summed over the ranks: every rank has the whole one already, so it comes out n times as "
        "large.": ("return gradient", "return group.all_reduce(gradient)"),
        "The gradient is divided by the number of ranks: in a sum, each part gets the whole gradient.": (
            "return gradient",
            "return gradient / group.size",
        ),
        "The parts are put side by side: they are parts of the same features, to be added.": _outputs_side_by_side,
    },
)
def check_row_parallel_linear(row_parallel_linear, rng):
    yield from _linear_observations(row_parallel_linear, rng, _rows_of_rank)
