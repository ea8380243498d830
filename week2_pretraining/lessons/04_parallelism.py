# %% [markdown]
# # Parallelism
#
# Everything so far fits on one device. A model of 70 billion parameters does not, by a factor of fourteen, and no device
# that one can buy will change that soon. So its training is spread over many, and the question becomes: who holds what,
# and who must send what to whom, and when?
#
# The answers are fewer than the names suggest. In this lesson you write the three that matter most: data parallelism,
# ZeRO's sharded optimizer, and Megatron's two linear layers. Each comes out equal to one process, to the last digits of
# float32. Then real processes run them on this machine, beside PyTorch's own, and the operating system counts the bytes that
# they send. At the end stands the way on for those who outgrow one machine: the same script on many, and the two engines
# that train the large models, DeepSpeed and Megatron.
#
# Reading and writing: about two hours. Papers: Rajbhandari et al. 2020, *ZeRO*
# ([arXiv:1910.02054](https://arxiv.org/abs/1910.02054)), sections 3, 5 and 7; Shoeybi et al. 2019, *Megatron-LM*
# ([arXiv:1909.08053](https://arxiv.org/abs/1909.08053)), section 3.

# %%
import inspect
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from shared import borrow, check, explore, hint, mine, progress
from shared.plotting import COLOURS, figure
from week2_pretraining import ranks
from week2_pretraining.ranks import Group, launch, simulate

# %% [markdown]
# ## Why one device is not enough
#
# Training in mixed precision with Adam keeps, for each parameter, a copy in 2 bytes to compute with and a gradient in 2
# bytes; and the optimizer keeps three float32 numbers: the parameter itself in full precision, and the two moments of
# `adamw_step`. ZeRO's paper calls these the *model states* (section 3.1):
#
# $$\underbrace{2}_{\text{parameter}} + \underbrace{2}_{\text{gradient}} + \underbrace{4 + 4 + 4}_{\text{optimizer, } K = 12} = 16 \text{ bytes a parameter}$$
#
# Plain data parallelism copies all of it to every device. But no device *needs* all of it all the time. ZeRO splits the
# parts over the $n$ devices, the largest first, so that each device holds one $n$-th of what is split:
#
# | stage | split over the devices | bytes a parameter |
# |---|---|---|
# | 0 | nothing | $2 + 2 + 12$ |
# | 1 | optimizer | $2 + 2 + 12/n$ |
# | 2 | optimizer, gradients | $2 + (2 + 12)/n$ |
# | 3 | optimizer, gradients, parameters | $(2 + 2 + 12)/n$ |
#
# **Predict.** How many parameters can a model have, so that its states just fit on one device of 80 GB? And with stage 1, on
# as many devices as you like?

# %% tags=["exercise"]
from week2_pretraining.solutions.parallelism import training_memory

# %%
print("one device:  ", training_memory(5e9, stage=0)["total"] / 1e9, "GB for 5 billion parameters")
print("stage 1, many:", round(training_memory(20e9, stage=1, n_devices=10_000)["total"] / 1e9, 2), "GB for 20 billion")

paper = {0: 120, 1: 31.4, 2: 16.6, 3: 1.9}  # figure 1 of the ZeRO paper: 7.5 billion parameters, 64 devices
for stage, gigabytes in paper.items():
    ours = training_memory(7.5e9, stage, 64)["total"] / 1e9
    print(f"stage {stage}: {ours:6.1f} GB, in the paper {gigabytes}")
    assert round(ours, 1) == gigabytes

# %% [markdown]
# <details><summary>Answer</summary>
#
# $80 / 16 = 5$ billion. With stage 1 the copies of parameters and gradients remain, 4 bytes a parameter, so it ends at 20
# billion however many devices there are. Only stage 3 has no such end.
#
# </details>
#
# How many devices of 80 GB hold the states of models that people have trained?

# %%
models = {"GPT-2": 1.5e9, "Llama 2 7B": 6.7e9, "Llama 2 70B": 69e9, "GPT-3": 175e9}
device_bytes = 80e9


def devices_needed(params: float, stage: int) -> int | None:
    """The smallest number of devices on which the model states fit, up to 16,384."""
    fits = (n for n in range(1, 2**14 + 1) if training_memory(params, stage, n)["total"] <= device_bytes)
    return next(fits, None)


print(f"{'':12s} {'states':>9s}   stage 0  stage 1  stage 2  stage 3")
for name, params in models.items():
    needed = [devices_needed(params, stage) for stage in range(4)]
    columns = "".join(f"{'never' if n is None else n:>9}" for n in needed)
    print(f"{name:12s} {training_memory(params, 0)['total'] / 1e9:6,.0f} GB {columns}")

# %%
counts = [2**i for i in range(11)]
per_device = {s: [training_memory(models["Llama 2 70B"], s, n)["total"] / 1e9 for n in counts] for s in range(4)}
first = devices_needed(models["Llama 2 70B"], 3)
fig, ax = figure(f"70 billion parameters: only stage 3 ever fits in 80 GB, from {first} devices on",
                 "devices", "model states on each device (GB)")
for stage, marker in zip(range(4), "sov^", strict=True):
    ax.plot(counts, per_device[stage], marker=marker, color=COLOURS[stage], label=f"stage {stage}")
ax.axhline(80, color="grey", linestyle="--", linewidth=1)
ax.annotate("80 GB", (1, 80), xytext=(0, 3), textcoords="offset points", color="grey", fontsize=9)
ax.set_xscale("log", base=2)
ax.set_yscale("log")
ax.set_xticks(counts, counts)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# That is before the first token. The backward pass needs the activations of the forward pass, and the three stages do not split those
# (the paper counts them among the *residual states* and treats them apart, as ZeRO-R). For a GPT layer with 2-byte activations,
# Korthikanti et al. 2022 ([arXiv:2205.05198](https://arxiv.org/abs/2205.05198), equation 1) count
#
# $$s\,b\,h \left(34 + 5\,\frac{a s}{h}\right) \text{ bytes}$$
#
# for sequence length $s$, batch $b$, `d_model` $h$ and $a$ heads. The second term is the attention matrix:
# FlashAttention (week 5) does away with it, and recomputing (lesson 02's `checkpointed_forward`) with most of the first.

# %%
s, h, a, layers = 2048, 12288, 96, 96  # GPT-3, one sequence
print(f"GPT-3, batch 1: {s * h * (34 + 5 * a * s / h) * layers / 1e9:.0f} GB of activations, "
      f"{s * h * 34 * layers / 1e9:.0f} GB without the attention matrices, "
      f"{s * h * 2 * layers / 1e9:.0f} GB if only each layer's input is kept and the rest computed again")

# %% [markdown]
# ## Ranks, and how they talk
#
# The processes of a parallel program are numbered: a process is a *rank*, all together are a *group*. They all run the same
# program. Where the ranks must exchange something, all of them call the same function, a *collective*, and wait for each other:
#
# ```
#   rank 0: a    all_reduce -> a + b + c      all_gather -> [a, b, c]      broadcast from 1 -> b
#   rank 1: b                  a + b + c                    [a, b, c]                          b
#   rank 2: c                  a + b + c                    [a, b, c]                          b
# ```
#
# What you write takes a `Group`, which has just these three. On two or a thousand machines it would stand for
# `torch.distributed` (further down it does). While you learn, `simulate(function, n)` runs the ranks in one process, one after
# another from collective to collective, so that a mistake is an error message and not a silence.

# %%
print(inspect.getsource(Group))

# %% [markdown]
# **Predict.** What does this print? And what happens if rank 1 leaves out its call?

# %%
def program(group):
    mine_alone = torch.tensor([1.0 + group.rank, 10.0])
    together = group.all_reduce(mine_alone)
    return together.tolist(), [t.tolist() for t in group.all_gather(mine_alone)]


for rank, result in enumerate(simulate(program, 3)):
    print(f"rank {rank}: all_reduce {result[0]}, all_gather {result[1]}")

try:
    simulate(lambda group: group.all_reduce(torch.ones(2)) if group.rank == 0 else None, 2)
except RuntimeError as error:
    print(error)

# %% [markdown]
# With real processes the second one would sit there until a timeout of many minutes, and the log of a thousand ranks does
# not say which one is missing. Most bugs of parallel programs are of this kind: *not all ranks make the same calls*.
#
# **What does an all-reduce cost?** If each rank sent its tensor to all others, each would send $n - 1$ times its size. In a
# ring every rank talks only to its neighbour. The tensor is cut in $n$ pieces. In $n - 1$ rounds the pieces travel once
# around and are added up on the way (that is a *reduce-scatter*: each rank ends with one finished piece), and in
# $n - 1$ more rounds the finished pieces travel once around (an *all-gather*):
#
# $$\text{all-reduce} = \underbrace{\tfrac{n-1}{n}}_{\text{reduce-scatter}} + \underbrace{\tfrac{n-1}{n}}_{\text{all-gather}} = 2\,\tfrac{n-1}{n} \text{ of the tensor, sent by each rank}$$
#
# That is below 2 for any $n$: a thousand ranks send hardly more each than four. `group.sent_bytes` counts by these formulas.
#
# ## Data parallelism
#
# Every rank has the whole model and its own part of the batch; before the step they average their gradients. The loss of
# a batch is a mean over its targets. If rank $r$ has $n_r$ of them, and $g_r$ is the gradient of its own mean, then the
# gradient of the mean over *all* targets is
#
# $$g = \frac{\sum_r n_r\, g_r}{\sum_r n_r}$$
#
# which is the plain average only where all $n_r$ are equal. With texts of different lengths they are not.

# %% tags=["exercise"]
from week2_pretraining.solutions.parallelism import average_gradients

# %% [markdown]
# **Predict.** Eight examples: six on rank 0, two on rank 1. How far is the plain average from the gradient of one process?

# %%
generator = torch.Generator().manual_seed(0)
inputs, labels = torch.randn(8, 5, generator=generator), torch.randint(0, 3, (8,), generator=generator)
start = 0.1 * torch.randn(3, 5, generator=generator)


def gradient_of_rank(group: Group, weighted: bool) -> Tensor:
    own = [slice(0, 6), slice(6, 8)][group.rank]
    weight = nn.Parameter(start.clone())
    F.cross_entropy(F.linear(inputs[own], weight), labels[own]).backward()
    average_gradients([weight], group, n_targets=len(labels[own]) if weighted else 1)
    return weight.grad


weight = nn.Parameter(start.clone())
F.cross_entropy(F.linear(inputs, weight), labels).backward()
for weighted in (True, False):
    by_ranks = simulate(lambda group, weighted=weighted: gradient_of_rank(group, weighted), 2)
    worst = max((g - weight.grad).abs().max().item() for g in by_ranks) / weight.grad.abs().max().item()
    print(f"{'weighted by targets' if weighted else 'plain average':20s} off by {worst:.0e} of the largest gradient")
    assert (worst < 1e-6) == weighted

# %% [markdown]
# <details><summary>What that means</summary>
#
# The plain average gives an example on rank 1 three times the weight of one on rank 0. It is not the gradient of
# the loss that you report. PyTorch's `DistributedDataParallel` takes the plain average, always: with unequal batches the
# loss itself must be scaled. transformers' Trainer had this mistake for years, in gradient accumulation, which is the same sum
# taken one after another (that is what `num_items_in_batch` is for).
#
# </details>
#
# ## ZeRO-1: share the optimizer's state
#
# After the average every rank has the same gradients, makes the same step and keeps the same two moments: $n$ times the
# same work and the same 12 bytes. Instead, let each rank own some of the parameters. It steps on those alone, then sends
# the new values to the others:
#
# ```
#                       rank 0                      rank 1
#   gradients           g0 g1 g2 g3                 g0 g1 g2 g3        averaged: the same
#   AdamW on            p0       p3                    p1 p2           each its own, with its moments
#   broadcast           p0 ---------------------->  p0                 from the owner
#                       p1 <----------------------  p1
#   after the step      p0 p1 p2 p3                 p0 p1 p2 p3        the same again
# ```
#
# The parts should be equally large, and every rank must come to the same partition without asking the others. The rule in
# the docstring is simple: the largest tensor first, each to the rank that has the least. (PyTorch's
# `ZeroRedundancyOptimizer` does the same; DeepSpeed puts all tensors in one long row and cuts it in $n$ equal pieces.)

# %% tags=["exercise"]
from week2_pretraining.solutions.parallelism import shard_optimizer_state

# %% [markdown]
# Two steps on a real GPT (your own), against `torch.optim.AdamW` in one process; and what each rank's optimizer holds.

# %%
gpt = ranks.small_model()
n_params = sum(p.numel() for p in gpt.parameters())
ranks.loss_of(gpt, ranks.rows_of_step(0)).backward()
gradients = [p.grad.clone() for p in gpt.parameters()]


def two_steps(make_optimizer) -> tuple[Tensor, int]:
    """All parameters after two steps, and the bytes of the optimizer's state."""
    parameters = [nn.Parameter(p.detach().clone()) for p in gpt.parameters()]
    optimizer = make_optimizer(parameters)
    for _ in range(2):
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
    state = [value for of_one in optimizer.state.values() for value in of_one.values()]
    return torch.cat([p.detach().flatten() for p in parameters]), ranks.held_bytes(state)


expected, whole_state = two_steps(lambda parameters: torch.optim.AdamW(parameters, **ranks.ADAMW))
print(f"{n_params:,} parameters in {len(gradients)} tensors; one process keeps {whole_state:,} bytes of moments")
for n in (2, 4):
    results = simulate(lambda group: two_steps(lambda ps: shard_optimizer_state(ps, group, **ranks.ADAMW)[0]), n)
    print(f"{n} ranks:", ", ".join(f"{state:,}" for _, state in results), "bytes")
    assert all(torch.equal(after, expected) for after, _ in results)  # not nearly: equal
    formula = training_memory(n_params, 1, n, 4, 4, optimizer_bytes=8)["optimizer"]
    assert max(state for _, state in results) < 1.03 * formula

# %% [markdown]
# The values are *equal*, not nearly equal: AdamW works on each number alone, so it does not matter which rank does it.
# (In float32, as here, there is no extra copy of the parameter, so the state is 8 bytes and not 12.)
#
# One trap: `optimizer.zero_grad()` now clears the gradients of this rank's own parameters only. The others pile up from step to
# step. Call `model.zero_grad()`.
#
# ## Megatron: cut the layer itself
#
# ZeRO splits what is *stored*; each rank still computes whole layers. Megatron splits the computation. Take the two
# linear layers of a feed-forward net, $y = \mathrm{GELU}(x A)\,B$:
#
# $$A = [A_0, A_1] \text{ by columns:}\quad \mathrm{GELU}(x [A_0, A_1]) = [\mathrm{GELU}(x A_0), \mathrm{GELU}(x A_1)]$$
#
# $$B = \begin{bmatrix} B_0 \\ B_1 \end{bmatrix} \text{ by rows:}\quad [h_0, h_1] \begin{bmatrix} B_0 \\ B_1 \end{bmatrix} = h_0 B_0 + h_1 B_1$$
#
# Each rank computes some of the hidden features, applies GELU to them, and multiplies by the rows of $B$ that belong to
# them. Nothing is exchanged until the last sum: **one all-reduce for two layers**.
#
# ```
#             +-> x A0 -> GELU -> h0 B0 -+                   f: forward nothing,       backward all-reduce
#   x --> f --+                          +-- g --> y         g: forward all-reduce,    backward nothing
#             +-> x A1 -> GELU -> h1 B1 -+
# ```
#
# A trap of names: `nn.Linear` keeps the transpose, so *columns* of the paper's $A$ are *rows* of `weight`, (d_out, d_in).
#
# **Predict.** Cut the other way round, $A$ by rows and $B$ by columns. What is in the way between the two layers?
#
# <details><summary>Answer</summary>
#
# $x A = x_0 A_0 + x_1 A_1$, and GELU of a sum is not the sum of the GELUs (section 3 of the paper begins with this): the sum
# has to be finished first, an all-reduce in the middle, and $y$ comes out in pieces that have to be gathered.
#
# </details>
#
# Backward the picture is a mirror. Rank $r$ computes the gradient that reaches $x$ through its own features only. The
# whole one is the sum, so $f$ needs an all-reduce there; autograd knows nothing of other ranks. What an operator does
# forward and backward is said in a `torch.autograd.Function`. For example, one that hands its input on and prints what
# comes back:

# %%
class Spy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)  # the same values, a new tensor for autograd

    @staticmethod
    def backward(ctx, gradient):
        print("on the way back:", gradient.tolist())
        return gradient


x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
Spy.apply(x).square().sum().backward()

# %% [markdown]
# The first layer. `group` is an argument of your function; a class that you define inside of it sees it.

# %% tags=["exercise"]
from week2_pretraining.solutions.parallelism import column_parallel_linear

# %% [markdown]
# And the second. What does each rank's bias have to be, and when is it added?

# %% tags=["exercise"]
from week2_pretraining.solutions.parallelism import row_parallel_linear

# %% [markdown]
# Both together against plain `nn.Linear` layers, on 1, 2 and 4 ranks: output, gradient of the input, gradients of
# all weights put together again; and the collectives of one forward and backward pass.

# %%
mlp, x = ranks.mlp()
y = mlp(x)
y.square().sum().backward()
unsharded = [y.detach(), x.grad, mlp[0].weight.grad, mlp[0].bias.grad, mlp[2].weight.grad, mlp[2].bias.grad]


def part(tensor: Tensor, dim: int, group: Group) -> Tensor:
    """This rank's own piece, a leaf of its own graph."""
    return tensor.detach().chunk(group.size, dim)[group.rank].clone().requires_grad_()


def sharded_mlp(group: Group) -> tuple[list[Tensor], list[str], float]:
    own_x, b_out = x.detach().clone().requires_grad_(), mlp[2].bias.detach().clone().requires_grad_()
    w_in, b_in, w_out = part(mlp[0].weight, 0, group), part(mlp[0].bias, 0, group), part(mlp[2].weight, 1, group)
    hidden = F.gelu(column_parallel_linear(own_x, w_in, b_in, group))
    y = row_parallel_linear(hidden, w_out, b_out, group)
    y.square().sum().backward()
    calls, sent = list(group.calls), group.sent_bytes
    gathered = [torch.cat(group.all_gather(t.grad), dim) for t, dim in ((w_in, 0), (b_in, 0), (w_out, 1))]
    return [y.detach(), own_x.grad, *gathered, b_out.grad], calls, sent


for n in (1, 2, 4):
    results = simulate(sharded_mlp, n)
    for tensors, calls, _ in results:
        worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(tensors, unsharded, strict=True))
        assert worst < 3e-6 and calls == ["all_reduce", "all_reduce"]
    print(f"on {n}: equal to 3e-6 of the largest value; {results[0][1]}; each rank sends {results[0][2]:,.0f} bytes")

# %% [markdown]
# One all-reduce forward and one backward, of something as large as $x$, not as the weights. Attention is cut the same way,
# by heads: $W_q, W_k, W_v$ by columns, $W_o$ by rows. So a Transformer layer costs four all-reduces for each step, of
# batch × seq × d_model.
#
# ## Find the bug
#
# A colleague has written the second layer himself. Before he trained, he compared: a new model on 1, 2 and 4 ranks gave
# the same outputs to seven digits. Then he trained it (the task is a small regression) and saved the weights.

# %%
def colleagues_row_parallel(x_shard, weight_shard, bias, group):
    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(ctx, partial):
            return group.all_reduce(partial)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    return Sum.apply(F.linear(x_shard, weight_shard, bias))


generator = torch.Generator().manual_seed(1)
w_in, w_out = 0.3 * torch.randn(32, 8, generator=generator), 0.1 * torch.randn(4, 32, generator=generator)
samples = torch.randn(256, 8, generator=generator)
goal = 1.5 + samples[:, :4] * samples[:, 4:]


def train_layers(group: Group, row_parallel) -> tuple[list[float], list[Tensor]]:
    own = [part(w_in, 0, group), part(torch.zeros(32), 0, group), part(w_out, 1, group), torch.zeros(4).requires_grad_()]
    optimizer, losses = torch.optim.SGD(own, lr=0.05), []
    for _ in range(60):
        hidden = F.gelu(column_parallel_linear(samples, own[0], own[1], group))
        loss = F.mse_loss(row_parallel(hidden, own[2], own[3], group), goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    whole = [torch.cat(group.all_gather(t), dim) for t, dim in zip(own[:3], (0, 0, 1), strict=True)]
    return losses, [*whole, own[3].detach()]


def loss_on_one_device(weights: list[Tensor]) -> float:
    hidden = F.gelu(F.linear(samples, weights[0], weights[1]))
    return F.mse_loss(F.linear(hidden, weights[2], weights[3]), goal).item()


fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained", sharey=True)
for ax, who, layer in ((axes[0], "Yours", row_parallel_linear), (axes[1], "His", colleagues_row_parallel)):
    for n, style, colour in ((1, "-", COLOURS[0]), (2, "--", COLOURS[1]), (4, ":", COLOURS[3])):
        losses, weights = simulate(lambda group, layer=layer: train_layers(group, layer), n)[0]
        loaded = loss_on_one_device(weights)
        ax.plot(losses, style, color=colour, linewidth=2, label=f"{n} rank{'s' * (n > 1)}")
        ax.plot(len(losses) + 2, loaded, "o", color=colour, markersize=9 - n, clip_on=False)
        if who == "Yours":
            assert abs(loaded - losses[-1]) < 0.05
    ax.set_title(f"{who}: trained on 4 ranks {losses[-1]:.2f}, then on one device {loaded:.2f}", loc="left", fontsize=11)
    ax.set(xlabel="step (points: the saved weights, on one device)", ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("mean squared error")
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# **Predict.** What is wrong, and why did his comparison not show it? Then ask the check:

# %%
from shared.checking import run_check

print(run_check("row_parallel_linear", colleagues_row_parallel).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Every rank adds the bias, and then the outputs are summed: it counts $n$ times. A new model's biases are zero, so any multiple of
# them is right. During training the other weights get used to it; the curve even falls *faster*, because the bias
# learns $n$ times as fast. It comes out where the number of ranks changes: trained on four and loaded on one device, three
# quarters of the bias are missing. **Compare with random biases, random norms, random everything**: zeros and ones hide bugs.
#
# </details>
#
# ## Real processes
#
# Now the same functions, *your* functions, on two processes. A process cannot run a function of a notebook's cell, so the
# program is a file, `week2_pretraining/ranks.py`; it takes your saved answers, as `mine` does. This is its training loop, and what it
# calls for PyTorch's own ZeRO stage 3, FSDP2:

# %%
print(inspect.getsource(ranks.train))
print(inspect.getsource(ranks.zero_3))

# %% [markdown]
# `fully_shard` leaves each rank one $n$-th of every parameter. Before a block runs forward its parameters are gathered, and let
# go again after it; before it runs backward they are gathered again; after it the gradients are summed, each rank keeping
# its own piece (reduce-scatter). Which is why it is applied block by block, and why the optimizer is made *after* it.
#
# `torchrun` starts the processes and tells each its rank by environment variables. `launch` is nothing but this command line
# with a time limit:
#
# ```
# torchrun --standalone --nproc-per-node 2 -m week2_pretraining.ranks FOLDER
# ```

# %% tags=["nbval-ignore-output"]
with tempfile.TemporaryDirectory() as folder, tqdm(total=1, desc="two processes: about ten seconds") as bar:
    launch("week2_pretraining.ranks", folder, n_ranks=2)
    results = [torch.load(Path(folder) / f"rank_{rank}.pt") for rank in range(2)]
    bar.update()
print(*results[0]["training"], sep=", ")

# %% [markdown]
# One process, the whole batch, the same steps: this is what all of them must come to. Adam divides by the root of
# the second moment, so where a gradient is nearly zero the last digits of float32 become visible: we allow 3e-6.

# %%
model = ranks.small_model()
optimizer = torch.optim.AdamW(model.parameters(), **ranks.ADAMW)
for step in range(ranks.STEPS):
    model.zero_grad()
    ranks.loss_of(model, ranks.rows_of_step(step)).backward()
    optimizer.step()
one_process = torch.cat([p.detach().flatten() for p in model.parameters()])

moved = (one_process - torch.cat([p.detach().flatten() for p in ranks.small_model().parameters()])).abs().max()
print(f"parameters after {ranks.STEPS} steps on two processes (one process moved them by up to {moved:.1e}):")
for way in results[0]["training"]:
    differences = [(r["training"][way]["parameters"] - one_process).abs().max().item() for r in results]
    print(f"  {way:24s} largest difference from one process below 3e-6: {max(differences) < 3e-6}")
    assert max(differences) < 3e-6

both = [result["tensor parallel"] for result in results]
for who in ("yours", "torch"):
    together = {name: [rank[who][name] for rank in both] for name in both[0][who]}
    whole = [together["y"][0], together["x"][0], torch.cat(together["w_in"]), torch.cat(together["w_out"], 1)]
    wanted = [unsharded[0], unsharded[1], unsharded[2], unsharded[4]]
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(whole, wanted, strict=True))
    print(f"  tensor parallel, {who:7s} output and gradients equal the unsharded layers to 3e-6: {worst < 3e-6}")
    assert worst < 3e-6
print("  collectives of your two layers:", both[0]["calls"], " of torch's:", both[0]["torch calls"])

# %% [markdown]
# "torch" is PyTorch's own tensor parallelism: `parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})`.
#
# **What does each rank hold?** Measured, in bytes a parameter, against `training_memory` with float32 (4 + 4 + 8):

# %%
stages = {"average_gradients": 0, "DistributedDataParallel": 0, "shard_optimizer_state": 1, "ZeroRedundancyOptimizer": 1,
          "fully_shard": 3}
print(f"{'':24s} parameters  gradients  optimizer     formula")
for way, stage in stages.items():
    held = results[0]["training"][way]["held"]
    formula = training_memory(n_params, stage, 2, 4, 4, 8)
    print(f"{way:24s}", *(f"{held[name] / n_params:10.2f}" for name in held), "   ",
          " + ".join(f"{formula[name] / n_params:g}" for name in held))
    assert all(abs(held[name] / formula[name] - 1) < 0.02 for name in held)

# %% [markdown]
# **And what does it send?** All traffic between processes of one machine passes the loopback device, and the kernel counts
# its bytes. So we can measure what a step really sends, whoever wrote it, and put it next to the formulas (section 7 of the
# ZeRO paper). With gradients of $M$ bytes:
#
# | | sent by each rank | of $M$, for $n = 2$ |
# |---|---|---|
# | data parallel | all-reduce of the gradients, $2(n-1)/n$ | 1 |
# | ZeRO-1 as you wrote it | the same, and each new parameter once: $3(n-1)/n$ | 1.5 |
# | ZeRO-1 or -2 as the paper has it | reduce-scatter of the gradients, all-gather of the parameters: $2(n-1)/n$ | 1 |
# | ZeRO-3, FSDP | two all-gathers of the parameters, a reduce-scatter of the gradients: $3(n-1)/n$ | 1.5 |
#
# **Predict.** Which bar will not be where its formula is?

# %% tags=["nbval-ignore-output"]
n = 2
formulas = {"average_gradients": 2, "DistributedDataParallel": 2, "shard_optimizer_state": 3, "ZeroRedundancyOptimizer": 3,
            "fully_shard": 3}
measured = [results[0]["training"][way]["wire"] / (4 * n_params) for way in formulas]
collectives, by_formula = results[0]["collectives"], {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "broadcast": 1}

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.4), layout="constrained", width_ratios=(1, 1.15))
ratio = collectives["reduce-scatter"] / collectives["all-reduce"]
rows = ((axes[0], list(collectives), list(collectives.values()), list(by_formula.values()), "of the tensor",
         f"gloo's reduce-scatter sends {ratio:.1f}× an all-reduce"),
        (axes[1], list(formulas), measured, list(formulas.values()), "of the gradients' bytes",
         f"so FSDP2 sends {measured[-1]:.2f} here, where {3 * (n - 1) / n:.1f} would do"))
for ax, names, values, times, unit, title in rows:
    ax.barh(names, values, color=COLOURS[5], height=0.6, label="measured")
    ax.plot([t * (n - 1) / n for t in times], names, "|", color=COLOURS[6], markersize=18, markeredgewidth=2, label="formula")
    ax.invert_yaxis()
    ax.set(xlabel=f"sent by each of two ranks ({unit})", xlim=(0, None))
    ax.set_title(title, loc="left", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].legend(frameon=False, loc="lower right", fontsize=9)
plt.show()

# %% [markdown]
# <details><summary>What happened</summary>
#
# The bars include all headers and acknowledgements, and still lie on their formulas (yours a little above: it sends every
# tensor by itself, where DistributedDataParallel first fills buckets of 25 MB). All but two: the reduce-scatter of gloo,
# PyTorch's library for CPUs, and FSDP, which uses it. In the version that we measured it sends as much as an all-reduce, so
# ZeRO-3 sends twice what data parallelism does. NVIDIA's NCCL has a true one, and there the paper's 1.5 holds. A paper's formula
# describes an algorithm; what runs is an implementation. Measure. (Where a bar is missing, the system does not count loopback
# bytes.)
#
# </details>
#
# So half as much again is sent, and for that every byte of the states is split. What is sent, when, and how that is hidden
# behind computation: that is all there is to choosing a parallelism.
#
# ## All of them in one table
#
# $P$: bytes of the parameters; $A$ = batch × seq × d_model × 2 bytes, an activation between two layers; $n$ ranks, $L$ layers.
#
# | | split | what is sent by a rank in a step | when | limit |
# |---|---|---|---|---|
# | **data** (DDP) | batch | $2P$ (gradients) | after each layer's backward, while the next one computes | the model must fit |
# | **ZeRO-3** (FSDP) | batch, and all states | $3P$ (parameters twice, gradients) | before each layer, forward and backward, one layer ahead | slow where batches are small: $P$ does not shrink with them |
# | **tensor** (Megatron) | each matrix | $4 L \cdot 2A$ (activations) | in the middle of each layer: nothing to hide it behind | inside one machine, $n \le$ its devices; `n_heads` |
# | **sequence** (Korthikanti 2022) | also norms and dropout, by position | the same $4 L \cdot 2A$: each all-reduce becomes a reduce-scatter and an all-gather | as tensor | with tensor parallelism only |
# | **context** (ring attention) | positions, attention too | keys and values, around the ring, $L$ times | while attention computes on the part before | long sequences |
# | **pipeline** (GPipe) | layers | $2A$ at each border (forward and backward) | between micro-batches | idle at start and end: $(n-1)/(m+n-1)$ of the time for $m$ micro-batches |
#
# ($2$ and $3$ stand for $2(n-1)/n$ and $3(n-1)/n$.) They combine: tensor parallelism inside a machine, pipeline between a few
# machines, data parallelism or ZeRO over all the rest. One cell shows why tensor parallelism stays inside:

# %%
P, layers, d_model, tokens = 2 * 69e9, 80, 8192, 4096  # Llama 2 70B in 2-byte numbers, one sequence
fast, slow = 450e9, 50e9  # bytes/s, one direction: NVLink between the 8 GPUs of an H100 machine, 400 Gb/s InfiniBand outside
sends = {
    "tensor, 8 ranks, one sequence": 4 * layers * tokens * d_model * 2 * 2 * 7 / 8,
    "data, 8 ranks, any batch": P * 2 * 7 / 8,
    "ZeRO-3, 8 ranks, any batch": P * 3 * 7 / 8,
}
computing = 6 * 69e9 * tokens / 8 / 400e12  # 6 FLOPs a parameter and token, 8 GPUs of 400 TFLOP/s that are really reached
print(f"computing one sequence takes 8 GPUs {computing:.2f} s")
for name, sent in sends.items():
    print(f"{name:30s} {sent / 1e9:4.0f} GB: {sent / fast:5.2f} s inside a machine, {sent / slow:5.2f} s between machines")

# %% [markdown]
# The tensor-parallel traffic grows with every sequence and cannot be hidden: inside the machine it costs a part of the computing
# time, between machines several times as much. The others send the same for one sequence as for a hundred: with large batches it
# disappears behind the computation.
#
# ## The course's own run on many processes
#
# The script that trained the course model (lesson 03) does not know in advance where it runs. Started by `torchrun`, it
# shards itself with FSDP2, block by block:
#
# ```
# torchrun --standalone --nproc-per-node 2 -m week2_pretraining.pretrain --steps 4 --out FOLDER
# ```
#
# and on, say, four machines with eight GPUs each the same line runs on every one of them, with an address where they meet:
#
# ```
# torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint first-machine:29500 \
#     -m week2_pretraining.pretrain --out SHARED_FOLDER
# ```
#
# Its checkpoints are written by all ranks, each its own part (`torch.distributed.checkpoint`), and can be read by another
# number of ranks. At the end one rank gathers the parameters and writes an ordinary Hugging Face folder.

# %%
from week2_pretraining.sharding import shard

print(inspect.getsource(shard))

# %% tags=["nbval-ignore-output"]
options = ["--steps", 4, "--evaluate-every", 2, "--n-stories", 500, "--vocab-size", 512, "--d-model", 64, "--n-layers", 2]
with tempfile.TemporaryDirectory() as folder, tqdm(total=1, desc="pretraining on two processes") as bar:
    launch("week2_pretraining.pretrain", "--out", folder, *options, n_ranks=2)
    bar.update()
    for record in json.loads((Path(folder) / "training.json").read_text())["records"]:
        print(f"step {record['step']}: {record['loss']:.3f} nats a token, held out {record['held_out_loss']:.3f}")
    print(*sorted(path.name for path in Path(folder).iterdir()))

# %% [markdown]
# ## The same in DeepSpeed and Megatron
#
# **DeepSpeed** is ZeRO's own home. Its settings are a JSON file; the training loop calls an *engine* in place of model,
# loss and optimizer:

# %%
deepspeed_settings = {
    "train_micro_batch_size_per_gpu": 4,  # rows of one rank in one pass
    "gradient_accumulation_steps": 2,  # passes before a step; times ranks times rows: the batch
    "gradient_clipping": 1.0,  # over all shards together
    "bf16": {"enabled": True},  # the 2 + 2 + 12 bytes of the first section
    "optimizer": {"type": "AdamW", "params": {"lr": 3e-4, "weight_decay": 0.1}},
    "zero_optimization": {
        "stage": 3,  # your table: 1, 2 or 3
        "overlap_comm": True,  # gather the next layer while this one computes
        "offload_optimizer": {"device": "cpu"},  # the 12 bytes move to the host's memory; slow, but fits
    },
}
print(json.dumps(deepspeed_settings, indent=2))

# %% [markdown]
# ```python
# engine, optimizer, _, _ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config="deepspeed.json")
# for token_ids, targets in batches:
#     loss = F.cross_entropy(engine(token_ids).flatten(0, 1), targets.flatten())
#     engine.backward(loss)   # scales, accumulates, reduces to the shards
#     engine.step()           # clips and steps, if enough passes have been accumulated
# ```
# ```
# deepspeed --num_gpus 8 train.py                          on one machine
# deepspeed --hostfile hosts train.py                      on many; a line of hosts: "first-machine slots=8"
# ```
#
# transformers' `Trainer` takes the same file: `TrainingArguments(deepspeed="deepspeed.json")`; `accelerate launch` too.
#
# **Megatron-LM** is a program with a long command line. Two of its options are what you have written:
#
# ```
# torchrun --nnodes 4 --nproc-per-node 8 ... pretrain_gpt.py \
#     --tensor-model-parallel-size 8     # your column- and row-parallel layers, inside a machine
#     --sequence-parallel                # norms and dropout by position, between these layers
#     --pipeline-model-parallel-size 2   # the first half of the layers on two machines, the second on the others
#     --use-distributed-optimizer        # your ZeRO-1, over what is left: 32 / (8 * 2) = 2 data-parallel ranks
#     --num-layers 80 --hidden-size 8192 --num-attention-heads 64 --seq-length 4096 \
#     --micro-batch-size 1               # rows in the pipeline at a time
#     --global-batch-size 1024           # 1024 / (2 ranks * 1 row) = 512 micro-batches: idle 1/513 of the time
#     --bf16 --recompute-activations     # keep little of the forward pass, compute it again
# ```
#
# (The remarks behind `#` are ours; a shell would not take them there.) Neither program is needed for this course, and none of
# its cells runs them: they are made for CUDA GPUs. To try DeepSpeed's settings on a CPU with a C++ compiler, install it by
# `DS_BUILD_OPS=0 DS_ACCELERATOR=cpu pip install --no-build-isolation deepspeed`, set `"torch_adam": true` in the optimizer's
# `params`, and leave `bf16` and the offload out.

# %%
world, tensor, pipeline, micro_batch, global_batch = 32, 8, 2, 1, 1024
data = world // (tensor * pipeline)
micro_batches = global_batch // (data * micro_batch)
print(f"{data} data-parallel ranks, {micro_batches} micro-batches, idle {(pipeline - 1) / (micro_batches + pipeline - 1):.2%}")
states = training_memory(69e9 / (tensor * pipeline), stage=1, n_devices=data)
print(f"model states of 69 billion parameters on each of {world} GPUs: {states['total'] / 1e9:.0f} GB")

# %% [markdown]
# ## What to read
#
# - **ZeRO** (Rajbhandari et al. 2020). Figure 1 and table 1 are your `training_memory`. In section 3.2, look for what is *not* model
#   state. Section 7: go through the proof of 1.5×, and find which of its steps gloo did not keep to.
# - **Megatron-LM** (Shoeybi et al. 2019), section 3: figure 3 has $f$ and $g$. Look for how the loss is computed when the
#   vocabulary is cut, too: what is all-reduced in place of the logits, and how much smaller is it?
# - **Megatron-LM, the repository**:
#   [`tensor_parallel/mappings.py`](https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/core/tensor_parallel/mappings.py)
#   has your two classes as `_CopyToModelParallelRegion` and `_ReduceFromModelParallelRegion`; in
#   [`layers.py`](https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/core/tensor_parallel/layers.py) find where
#   `RowParallelLinear` adds its bias, and in `ColumnParallelLinear` the weight's gradient computed *while* the all-reduce of
#   the input's gradient is on its way.
# - **DeepSpeed-Chat's training**,
#   [`step1_supervised_finetuning`](https://github.com/deepspeedai/DeepSpeedExamples/tree/master/applications/DeepSpeed-Chat/training/step1_supervised_finetuning):
#   `main.py` is a flat loop around an engine. `dschat/utils/ds_utils.py` turns the command line's ZeRO stage into settings
#   like those above; find what stage 3 changes when the model is saved.
# - **FSDP2**: PyTorch's [`fully_shard`](https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html). What do
#   `reshard_after_forward=False` and a number there mean, in the words of ZeRO's stages?
#
# ## Recap
#
# - 16 bytes a parameter, before the first activation. ZeRO splits the optimizer (12), the gradients (2), the parameters (2).
# - All ranks make the same calls in the same order, or they wait for ever.
# - An all-reduce costs each rank less than twice the tensor, however many ranks there are. Weigh gradients by their targets.
# - Column then row: one all-reduce forward, one backward; the bias once; test with biases that are not zero.
# - Everything equals one process. If yours does not, it is a bug, not "parallel noise".

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("parallelism")

# %%
progress("week2_pretraining")
