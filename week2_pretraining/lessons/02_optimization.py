# %% [markdown]
# # Optimization
#
# The model is built, the data is clean. What lies between a batch and a better model is one line, `optimizer.step()`, and
# half a dozen decisions around it: how far to step, when, what to do with a bad gradient, what to pull towards zero, in which
# number format to compute, and what to keep in memory. When a pretraining run fails, it fails here.
#
# In this lesson you write all of it, each part equal to the one that PyTorch ships: AdamW, the schedule, clipping,
# parameter groups, accumulation, the loss scale of float16, and gradient checkpointing. Then you break things on purpose, on a
# small GPT of yours: a learning rate that is too high, an optimizer without bias correction, gradients that float16 rounds to
# zero.
#
# Reading and writing: about two and a half hours. Papers: Kingma and Ba 2015, *Adam*
# ([arXiv:1412.6980](https://arxiv.org/abs/1412.6980)); Loshchilov and Hutter 2019, *Decoupled Weight Decay Regularization*
# ([arXiv:1711.05101](https://arxiv.org/abs/1711.05101)); Micikevicius et al. 2018, *Mixed Precision Training*
# ([arXiv:1710.03740](https://arxiv.org/abs/1710.03740)); Chen et al. 2016, *Training Deep Nets with Sublinear Memory Cost*
# ([arXiv:1604.06174](https://arxiv.org/abs/1604.06174)).

# %%
import copy
import math
import time
from collections.abc import Iterable

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from shared import borrow, check, explore, hint, mine, progress
from shared.data import corpus
from shared.plotting import COLOURS, LINES, figure
from shared.runtime import pick_device, pick_dtype, preset, seed_everything
from week1_decoder.solutions.decoder import GPTConfig

seed_everything(0)
device = pick_device()
print(device, pick_dtype(device))

# %% [markdown]
# A patient for all experiments: your `GPT` of week 1, so small that a whole training run takes a second or two. Its tokens
# are bytes; an optimizer does not mind what they mean.

# %%
GPT, Block = mine("GPT"), mine("Block")

train_ids = torch.tensor(list(corpus(300_000).encode()))
held_out_ids = torch.tensor(list(corpus(60_000, split="validation").encode()))
config = GPTConfig(
    vocab_size=128,  # the stories are plain ASCII
    context_length=16,
    d_model=preset(laptop=64, gpu=256),
    n_heads=4,
    n_layers=preset(laptop=2, gpu=6),
)


def random_batch(ids: Int[Tensor, "n_tokens"], batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows that begin anywhere, and the same shifted by one."""
    starts = torch.randint(len(ids) - config.context_length, (batch_size, 1), generator=generator)
    windows = ids[starts + torch.arange(config.context_length + 1)].to(device)
    return windows[:, :-1], windows[:, 1:]


def loss_of(model: nn.Module, token_ids: Tensor, targets: Tensor) -> Float[Tensor, ""]:
    return F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten())


model = GPT(config, generator=torch.Generator().manual_seed(0)).to(device)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {len(list(model.parameters()))} tensors")
print(f"loss before training {loss_of(model, *random_batch(train_ids, 8, seed_everything(1))):.2f}, ln 128 = {math.log(128):.2f}")

# %% [markdown]
# ## AdamW
#
# Plain gradient descent takes long steps where gradients are large and hardly moves where they are small. In a transformer
# they differ by factors of thousands between an embedding of a rare token and a norm's weight. Adam measures each weight's
# own gradient and divides by it. Two running means, of the gradient $g$ and of its square:
#
# $$m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2$$
#
# Both start at zero, so at first they are too small: after one step $m_1 = (1 - \beta_1)\, g_1$. After $t$ steps the
# coefficients of the gradients add up to $1 - \beta_1^t$ instead of 1, and dividing by that repairs it (*bias correction*):
#
# $$\hat m_t = \frac{m_t}{1 - \beta_1^t} \qquad \hat v_t = \frac{v_t}{1 - \beta_2^t}$$
#
# And then the step with learning rate $\eta$, and the pull towards zero with strength $\lambda$:
#
# $$\theta_t = \theta_{t-1} - \eta \left( \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda\, \theta_{t-1} \right)$$
#
# The last term is the W of AdamW. It used to be added to the gradient, as $g_t + \lambda\theta_{t-1}$; then it was divided by
# $\sqrt{\hat v_t}$ with the rest, and the weights with the largest gradients decayed least. Loshchilov and Hutter took it out
# (algorithm 2, lines 6 and 12). In their paper the decay is not multiplied by the learning rate itself, only by its schedule;
# PyTorch and everyone after it multiply by both, and so do we.
#
# **Predict.** One weight has the gradient 1000 in its first step, another 0.001. How far does each move?
#
# The case to think about is a parameter that gets its first gradient late, or none now and then: its $1 - \beta^t$ has to do with
# the gradients that *it* has seen, so each parameter counts its own steps.

# %% tags=["exercise"]
from week2_pretraining.solutions.optimization import adamw_step

# %%
two = nn.Parameter(torch.tensor([5.0, 5.0]))
two.grad = torch.tensor([1000.0, 0.001])
adamw_step([two], [{}], lr=0.1, weight_decay=0.0)
print("moved by", (two.detach() - 5).tolist())

# %% [markdown]
# <details><summary>Answer</summary>
#
# Both by the learning rate (nearly: $\epsilon$ takes a little from the small one). In the first step
# $\hat m / \sqrt{\hat v} = g / |g|$: only the sign counts. That is why Adam's learning rate has a
# meaning, the length of a step, and why one number can serve all weights. It is also why a gradient that is pure noise moves a
# weight as far as one that means something.
#
# </details>
#
# ### The real thing
#
# 100 steps on the real model, yours beside `torch.optim.AdamW`, each with its own gradients, so that a difference would grow
# from step to step. In float64, so that the order in which you multiply does not matter.

# %%
ours = GPT(config, generator=torch.Generator().manual_seed(0)).to(device="cpu" if device.type == "mps" else device).double()
theirs = copy.deepcopy(ours)
settings = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
optimizer = torch.optim.AdamW(theirs.parameters(), **settings)
parameters = list(ours.parameters())
state = [{} for _ in parameters]
generator = torch.Generator().manual_seed(1)
for _ in tqdm(range(100), desc="both"):
    batch = [part.to(parameters[0].device) for part in random_batch(train_ids, 2, generator)]
    for each in (ours, theirs):
        each.zero_grad()
        loss_of(each, *batch).backward()
    adamw_step(parameters, state, **settings)
    optimizer.step()
difference = max((a - b).abs().max().item() for a, b in zip(parameters, theirs.parameters(), strict=True))
print(f"largest difference of any weight after 100 steps: {difference:.0e}")
assert difference < 1e-7

# %% [markdown]
# ### What bias correction does in the first 50 steps
#
# Without it the step is $m_t / \sqrt{v_t}$. For gradients of constant size, it is
# $(1 - \beta_1^t) / \sqrt{1 - \beta_2^t}$ times as long as it should be.
#
# **Predict.** With the defaults $\beta_1 = 0.9$, $\beta_2 = 0.999$: are the first steps too short, because $m$ starts at zero, or
# too long, because $v$ does? Will the loss show it?
#
# A trick turns the correction off without new code: a state that claims to be old. With $t$ = 1,000,000 both corrections are
# divisions by 1.

# %%
def first_steps(corrected: bool, seed: int, n_steps: int = 50, lr: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Length of each step over lr (root mean square over the weights of all matrices), and each loss."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config, generator=generator).to(device)
    parameters = list(model.parameters())
    old = lambda p: {"step": 10**6, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}  # noqa: E731
    state = [{} if corrected else old(p) for p in parameters]
    lengths, losses = [], []
    for _ in range(n_steps):
        model.zero_grad()
        loss = loss_of(model, *random_batch(train_ids, 16, generator))
        loss.backward()
        before = torch.cat([p.detach().flatten() for p in parameters if p.dim() > 1])
        adamw_step(parameters, state, lr=lr, weight_decay=0.0)
        after = torch.cat([p.detach().flatten() for p in parameters if p.dim() > 1])
        lengths.append(((after - before) / lr).square().mean().sqrt().cpu())
        losses.append(loss.detach().cpu())
    return torch.stack(lengths), torch.stack(losses)


# %% tags=["nbval-ignore-output"]
runs = {
    name: [torch.stack(part) for part in zip(*(first_steps(corrected, seed) for seed in range(3)), strict=True)]
    for name, corrected in tqdm({"with correction": True, "without": False}.items(), desc="three seeds each")
}
t = torch.arange(1, 51)
for early in (1, 10, 50):
    print(f"step {early:2d}: the formula says {(1 - 0.9**early) / math.sqrt(1 - 0.999**early):.1f} times too long")
ratio = runs["without"][0].mean(dim=0) / runs["with correction"][0].mean(dim=0)
(early_with, late_with), (early_without, late_without) = (
    (losses[:, 8:12].mean(), losses[:, -5:].mean()) for _, losses in runs.values()
)

fig, axes = plt.subplots(1, 2, figsize=(10, 3.7), layout="constrained")
for (name, (lengths, losses)), colour, style in zip(runs.items(), (COLOURS[0], COLOURS[3]), ("-", "--"), strict=True):
    for ax, values in ((axes[0], lengths), (axes[1], losses)):
        ax.plot(t, values.mean(dim=0), style, color=colour, label=name)
        ax.fill_between(t, values.amin(dim=0), values.amax(dim=0), color=colour, alpha=0.2, linewidth=0)
axes[0].set(xlabel="step", ylabel="length of the step / learning rate")
axes[0].set_title(f"Uncorrected, steps are up to {ratio.max():.0f} times as long", loc="left", fontsize=11)
axes[1].set(xlabel="step", ylabel="loss (nats per byte)")
axes[1].set_title(f"With: {early_with:.2f} at step 10, {late_with:.2f} at 50; without: {early_without:.2f}, {late_without:.2f}",
                  loc="left", fontsize=11)
for ax in axes:
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Lines: the mean of three seeds; bands: their range. The second moment is the slower one, so it is the one that is missing most: the
# steps are too long, by the formula most of all around step 12, when the model has hardly found its direction. Longer steps
# are not bad as such, and the first thing that a model learns, the frequencies of letters, comes sooner. But nobody has chosen them: the
# learning rate does not mean what it says, and what is too long at first has to be undone later. A warmup, which comes next,
# hides much of the effect.
#
# **Try.** With `betas=(0.9, 0.95)`, which GPT-3 and most models since have used: what does the formula say then? Would you need the
# correction as much?
#
# ## The schedule
#
# Adam's first estimates rest on a single batch, so the steps start short and grow (*warmup*). In the end the noise of the batches
# keeps the weights trembling around a minimum, at a distance that is proportional to the learning rate, so the steps shrink
# again (*decay*). GPT-3: a linear warmup over 375 million tokens, then a cosine down to a tenth over 260 billion (appendix B).
#
# $$\eta(s) = \begin{cases} \eta_{\max}\,(s+1)/w & s < w \\ \eta_{\min} + (\eta_{\max} - \eta_{\min})\,\tfrac12\bigl(1 + \cos \pi \tfrac{s - w}{T - w}\bigr) & w \le s < T \\ \eta_{\min} & s \ge T \end{cases}$$

# %% tags=["exercise"]
from week2_pretraining.solutions.optimization import warmup_cosine_lr

# %% [markdown]
# PyTorch has no such schedule in one piece, but the two halves; transformers has one of its own.
#
# **Predict.** Both libraries do something in the plot below that you did not write, one of them in two places. Where?

# %%
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from transformers import get_cosine_schedule_with_warmup

max_lr, warmup, total = 1e-3, 10, 60


def schedule_of(make) -> Float[Tensor, "step"]:
    """What a scheduler sets, ten steps longer than planned."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=max_lr)
    scheduler, rates = make(optimizer), []
    for _ in range(total + 10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


def torchs_schedule(optimizer):
    rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    return SequentialLR(optimizer, [rise, CosineAnnealingLR(optimizer, T_max=total - warmup)], milestones=[warmup])


yours = torch.tensor([warmup_cosine_lr(step, max_lr, warmup, total) for step in range(total + 10)], dtype=torch.float64)
torchs = schedule_of(torchs_schedule)
transformers_ = schedule_of(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, warmup, total))

fig, ax = figure("The same cosine; they differ at the start and after the end", "step", "learning rate", width=7)
for rates, name, style, width in ((yours, "yours", "-", 5), (torchs, "torch: LinearLR, CosineAnnealingLR", "--", 2),
                                  (transformers_, "transformers: cosine with warmup", ":", 2)):
    ax.plot(rates, style, linewidth=width, alpha=0.5 if width == 5 else 1, label=name)
ax.axvline(total, color="grey", linewidth=0.8)
ax.legend(frameon=False, loc="upper right")
plt.show()

print(f"torch, steps 0 to {total}:           largest difference {(yours - torchs)[: total + 1].abs().max():.0e}")
print(f"transformers, steps {warmup} to {total}:   largest difference {(yours - transformers_)[warmup : total + 1].abs().max():.0e}")
print(f"transformers one step later, warmup: largest difference {(yours[: warmup - 1] - transformers_[1:warmup]).abs().max():.0e}")
assert (yours - torchs)[: total + 1].abs().max() < 1e-12
assert (yours - transformers_)[warmup : total + 1].abs().max() < 1e-12

# %% [markdown]
# <details><summary>Answer</summary>
#
# transformers' warmup is $s / w$, so its step 0 has the learning rate 0: the first batch is computed, fills the two moments, and
# moves nothing. From step $w$ on it equals yours. And after the planned end both cosines go on: train a little longer, and
# the rate *rises* again, without a word. Yours stays at the minimum.
#
# </details>
#
# ## Which learning rate?
#
# It is the one number that has to be right. The way to find it is to try: three times or ten times more each time, until it breaks. Here is a
# whole training loop, with PyTorch's clipping until you have your own.

# %%
def train(model, lr, generator, n_steps=80, warmup=10, clip=1.0, groups=None, decay=0.1) -> list[float]:
    """The losses of a run with AdamW, warmup and cosine."""
    optimizer = torch.optim.AdamW(groups or model.parameters(), betas=(0.9, 0.95), weight_decay=decay)
    losses = []
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine_lr(step, lr, warmup, n_steps)
        loss = loss_of(model, *random_batch(train_ids, 16, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


held_out_batch = random_batch(held_out_ids, 256, torch.Generator().manual_seed(2))


@torch.no_grad()
def held_out_loss(model: nn.Module) -> float:
    return loss_of(model, *held_out_batch).item()


def one_run(lr: float, seed: int, **changes) -> tuple[list[float], float]:
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config, generator=generator).to(device)
    losses = train(model, lr, generator, **changes)
    return losses, held_out_loss(model)


# %% [markdown]
# **Predict.** Rates from 0.0003 to 1, 80 steps each. How wide is the part of that range in which a run gets somewhere: a factor of 3,
# of 30, or of 300?

# %% tags=["nbval-ignore-output"]
rates, seeds = [3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0], range(3)
sweep = {
    (lr, seed): one_run(lr, seed) for lr, seed in tqdm([(lr, s) for lr in rates for s in seeds], desc="runs")
}
broken = one_run(1.0, 0, warmup=0, clip=math.inf)  # no warmup, no clipping

# %% tags=["nbval-ignore-output"]
final = torch.tensor([[sweep[lr, seed][1] for seed in seeds] for lr in rates])  # (rate, seed)
best = rates[int(final.mean(dim=1).argmin())]
letters = torch.bincount(train_ids, minlength=128) / len(train_ids)
unigram = -letters[held_out_ids].log().mean().item()

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.9), layout="constrained")
axes[0].errorbar(rates, final.mean(dim=1), (final.mean(dim=1) - final.amin(dim=1), final.amax(dim=1) - final.mean(dim=1)),
                 fmt="o-", color=COLOURS[0], capsize=4)
axes[0].axhline(unigram, color="grey", linestyle="--")
axes[0].annotate("frequencies of letters alone", (1, unigram), xytext=(0, -11), textcoords="offset points",
                 ha="right", fontsize=8, color="grey")
axes[0].set(xscale="log", xlabel="largest learning rate", ylabel="held-out loss after 80 steps (nats per byte)")
axes[0].set_title(f"Best of {len(rates)}: {best:g}, with {final.mean(dim=1).min():.2f} nats", loc="left", fontsize=11)
for (name, losses), colour, style in zip(
    {
        f"{best:g}": sweep[best, 0][0],
        f"{rates[0]:g}": sweep[rates[0], 0][0],
        "1, clipped, warmup": sweep[1.0, 0][0],
        "1, neither": broken[0],
    }.items(),
    (COLOURS[0], COLOURS[5], COLOURS[1], COLOURS[3]),
    LINES[:4],
    strict=True,
):
    axes[1].plot(losses, linestyle=style, color=colour, label=name)
axes[1].axhline(math.log(128), color="grey", linestyle=":")
axes[1].set(yscale="log", xlabel="step", ylabel="training loss (nats per byte, logarithmic)")
axes[1].set_title(f"Rate 1 diverges: the loss goes from {broken[0][0]:.1f} to {max(broken[0]):.0f}", loc="left", fontsize=11)
axes[1].legend(frameon=False, fontsize=8, title="learning rate")
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Left: mean and range of three seeds. Too small can be seen at once: the run is slow, and 80 steps do not bring it far. Too large looks
# like learning for a while: it stops near the dashed line, the loss of a model that knows how frequent letters are and nothing
# else. Only the rates from 0.001 to 0.01 get below it. Right: the dotted line is $\ln 128$, no knowledge at all; a
# rate of 1 lands far above it. That is what people call a divergence. The schedule brings it back in the end, not to where
# it should be.
#
# Kaplan et al. 2020 found by such sweeps that larger models want smaller rates, and give a rule of thumb for theirs, with batches
# of half a million tokens: $\eta(N) \approx 0.003239 - 0.0001395 \ln N$ for $N$ parameters (appendix D.6, eq. D.1).

# %%
for name, n in (("this model", sum(p.numel() for p in model.parameters())), ("GPT-2 small", 124e6), ("GPT-2 XL", 1.5e9)):
    print(f"{name:12s} {n:14,.0f} parameters: {0.003239 - 0.0001395 * math.log(n):.1e}")

# %% [markdown]
# ## Clipping
#
# Now and then a batch comes with a gradient many times longer than the others. Adam's $m$ remembers it for ten steps, its $v$ for
# hundreds. So the gradient of the *whole model*, taken as one long vector, is cut to a largest length (Pascanu et al. 2013):
#
# $$g \leftarrow g \cdot \min\!\left(1, \frac{c}{\lVert g \rVert + 10^{-6}}\right), \qquad \lVert g \rVert = \sqrt{\textstyle\sum_p \lVert g_p \rVert^2}$$
#
# One factor for all, so the direction stays. The norm from before is worth logging: it is the first thing to rise when
# a run goes wrong.

# %% tags=["exercise"]
from week2_pretraining.solutions.optimization import clip_grad_norm

# %%
ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
batch = random_batch(train_ids, 8, torch.Generator().manual_seed(3))
for max_norm in (0.1, 1e3):
    for each in (ours, theirs):
        each.zero_grad()
        loss_of(each, *batch).backward()
    a = clip_grad_norm(ours.parameters(), max_norm)
    b = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    gradient_difference = max((p.grad - q.grad).abs().max().item() for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    print(f"max_norm {max_norm:6g}: norm {a:.4f}, torch {b:.4f}; gradients differ by less than 1e-6: {gradient_difference < 1e-6}")
    assert gradient_difference < 1e-6 and abs(a - b) < 1e-5

# %% [markdown]
# A norm of inf or nan spoils every gradient, with PyTorch as with yours (`error_if_nonfinite=True` makes PyTorch raise
# instead). Whoever trains for weeks skips such a step; in a moment the loss scaler will.
#
# ### Find the bug
#
# A colleague has written his own. He tested it: two parameters with gradients 3 and 4 came out at 0.6 and 0.8. In training his log
# shows norms above 1 all the time, as it should, for the norm is from before. Yet his run with the learning rate 1 goes as if
# there were no clipping.

# %%
def colleagues_clip(parameters, max_norm):
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}")
    squares = torch.tensor(0.0)
    for parameter in parameters:
        if parameter.grad is not None:
            squares = squares + parameter.grad.square().sum().cpu()
    norm = squares.sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor.to(parameter.grad.device))
    return norm


test = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
test[0].grad, test[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
print("his test:", colleagues_clip(test, 1.0).item(), [p.grad.item() for p in test])

ours.zero_grad()
loss_of(ours, *batch).backward()
print("in training, norm before:", round(colleagues_clip(ours.parameters(), 0.1).item(), 3))
print("             norm after: ", round(torch.nn.utils.get_total_norm([p.grad for p in ours.parameters()]).item(), 3))

# %% [markdown]
# **Predict.** Test and training call the same function. What is different about the two calls? Then ask the check:

# %% tags=["nbval-ignore-output"]
from shared.checking import run_check

print(run_check("clip_grad_norm", colleagues_clip).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# His test passes a list, his training `model.parameters()`, which is a generator. The first loop uses it up, and the second has
# nothing left to do. No error, no warning: a for loop over nothing is fine. Two lessons: make a list first; and test with what
# training will pass, by what should come out (the norm *after*).
#
# </details>
#
# ## What decays
#
# Weight decay keeps matrices from growing without need. A norm's weight, though, sits near 1 for a reason, and a bias costs
# nothing: pulled to zero, they only have to be pushed back. GPT-2's successors decay what has two axes or more, and nothing else:

# %% tags=["exercise"]
from week2_pretraining.solutions.optimization import parameter_groups

# %% [markdown]
# transformers' Trainer decides by names and by types of layers. On its GPT-2, whose head shares the embedding, both rules give
# the same:

# %%
from transformers import GPT2Config, GPT2LMHeadModel, Trainer
from transformers.utils import logging

logging.set_verbosity_error()  # no remarks on how small this model is
gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=16, n_embd=32, n_layer=2, n_head=4))
decayed, spared = parameter_groups(gpt2, 0.1)
names = {id(p): name for name, p in gpt2.named_parameters()}
theirs = set(Trainer.get_decay_parameter_names(None, gpt2)) & set(names.values())  # theirs has the shared one twice
print("equal to the Trainer's:", {names[id(p)] for p in decayed["params"]} == theirs)
for group in (decayed, spared):
    print(f"decay {group['weight_decay']}: {len(group['params'])} tensors, {sum(p.numel() for p in group['params']):,} numbers,",
          "such as", ", ".join(names[id(p)].removeprefix("transformer.") for p in group["params"][:3]))
assert {names[id(p)] for p in decayed["params"]} == theirs

# %% [markdown]
# **Predict.** A decay that is far too strong, 3 instead of the usual 0.1, once for the matrices and once for everything. What
# becomes of the norms' weights, and does the model suffer?

# %% tags=["nbval-ignore-output"]
def decayed_run(decay: float, everything: bool, seed: int) -> tuple[float, float]:
    """Held-out loss, and the mean weight of the norms."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config, generator=generator).to(device)
    groups = None if everything else parameter_groups(model, decay)
    train(model, 5e-3, generator, n_steps=60, groups=groups, decay=decay)
    norms = [p.mean() for name, p in model.named_parameters() if "norm" in name and name.endswith("weight")]
    return held_out_loss(model), torch.stack(norms).mean().item()


plans = {"matrices": (3.0, False), "everything": (3.0, True)}
jobs = [(name, seed) for name in plans for seed in range(3)]
results = {job: decayed_run(*plans[job[0]], job[1]) for job in tqdm(jobs, desc="runs")}
loss_table = torch.tensor([[results[name, seed][0] for seed in range(3)] for name in plans])  # (plan, seed)
norm_table = torch.tensor([[results[name, seed][1] for seed in range(3)] for name in plans])

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
cost = loss_table[1] - loss_table[0]  # the same seeds
for ax, table, unit, title in (
    (axes[0], norm_table, "mean weight of the norms", f"Norms go to {norm_table[1].mean():.2f} when everything decays"),
    (axes[1], loss_table, "held-out loss (nats per byte)",
     f"Difference {cost.mean():+.3f} nats ({cost.min():+.3f} to {cost.max():+.3f})"),
):
    ax.plot([0, 1], table, "o-", color=COLOURS[0], alpha=0.6)  # a line for each seed
    ax.plot([0, 1], table.mean(dim=1), "_", color=COLOURS[3], markersize=30, markeredgewidth=2)
    ax.set_xticks([0, 1], list(plans))
    ax.set(xlim=(-0.5, 1.5), xlabel="what decays", ylabel=unit)
    ax.set_title(title, loc="left", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Lines: three seeds; bars: their mean. The norms obey at once; the loss minds little, for a matrix behind the norm can grow and make
# up for it, which is work for nothing. What decay does in a long run can be estimated: a weight without gradients is multiplied by
# $e^{-\lambda \sum_t \eta_t}$. With GPT-3's $\lambda = 0.1$ and at most $6 \cdot 10^{-5}$ in each of 94,000 steps (300 billion tokens, 3.2 million
# at a time), that is at least 0.57.
#
# ## Batches that do not fit
#
# GPT-3's batch of 3.2 million tokens fits no device. But a gradient is a sum, and `backward()` *adds* to `.grad`: run part after part,
# then step once. The loss of the large batch is a mean over its counted targets, and so each part must bring its share of *that*
# mean:
#
# $$\nabla \frac{1}{\sum_i n_i} \sum_i \sum_{j=1}^{n_i} \ell_{ij} \;=\; \sum_i \nabla \frac{\sum_j \ell_{ij}}{\sum_i n_i}$$
#
# where part $i$ has $n_i$ targets that count. Many training loops took $\frac{1}{k} \sum_i \operatorname{mean}_i$ instead,
# transformers' Trainer among them until October 2024. With parts of equal $n_i$ it is the same; with padding or masked prompts it is
# not.
#
# **Predict.** Two parts, one with 2 counted targets and one with 200. By the mean of means, how much more does a target of the
# first weigh than one of the second?

# %% tags=["exercise"]
from week2_pretraining.solutions.optimization import accumulate_gradients

# %%
def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


generator = torch.Generator().manual_seed(4)
token_ids, targets = random_batch(train_ids, 8, generator)
for name, counted in (("as many in each", [16] * 8), ("padded rows", [16, 16, 15, 12, 9, 5, 3, 1])):
    kept = targets.masked_fill(torch.arange(16, device=device) >= torch.tensor(counted, device=device)[:, None], -100)
    model.zero_grad()
    loss_of(model, token_ids, kept).backward()
    large = gradient(model)
    model.zero_grad()
    accumulate_gradients(model, list(zip(token_ids.split(2), kept.split(2), strict=True)))
    accumulated = gradient(model)
    model.zero_grad()
    for ids, y in zip(token_ids.split(2), kept.split(2), strict=True):
        (loss_of(model, ids, y) / 4).backward()
    of_means = gradient(model)
    print(f"{name:16s} large batch against yours: {(large - accumulated).abs().max():.0e}, "
          f"against the mean of four means: off by {(large - of_means).norm() / large.norm():.0%}")
    assert (large - accumulated).abs().max() < 1e-6

# %% [markdown]
# <details><summary>Answer</summary>
#
# A hundred times more: 1/2 · 1/2 against 1/2 · 1/200. Short answers dominate, and the loss in the log is not the loss that
# would be reported. Hugging Face described the mistake and the repair in
# ["Fixing Gradient Accumulation"](https://huggingface.co/blog/gradient_accumulation) (October 2024): sum the losses, divide by the
# number of targets in all parts. It is what `num_items_in_batch` is for, which you may have met at the end of week 1.
#
# </details>

# %% [markdown]
# ## Sixteen bits
#
# Matrix products in 16 bits are several times as fast on a GPU and need half the memory. There are two formats, and they
# spend their bits differently:

# %%
print("format     exponent + mantissa   largest   smallest normal   smallest   1 + x > 1 from")
for dtype, bits in ((torch.float32, "8 + 23"), (torch.bfloat16, "8 + 7"), (torch.float16, "5 + 10")):
    info = torch.finfo(dtype)
    print(f"{str(dtype)[6:]:10s} {bits:>19s}   {info.max:7.1e}   {info.smallest_normal:15.1e}   {info.smallest_normal * info.eps:8.0e}   {info.eps:.0e}")

# %% [markdown]
# bfloat16 has float32's range and little precision; float16 has the precision, and ends at $6 \cdot 10^{-8}$. Gradients are small,
# and the larger the batch over which the loss is a mean, the smaller: in a step of GPT-2 (512 sequences of 1,024 tokens, in
# parts), each target contributes with the factor 1/524,288. The recipe, *mixed precision* (Micikevicius et al. 2018): weights
# and optimizer in float32, the products in 16 bits (`torch.autocast` decides which operation gets what), and against the
# vanishing a *loss scale* $S$: multiply the loss by $S$, so that by the chain rule every gradient is $S$ times larger, and
# divide by $S$ before the step.
#
# **Predict.** A trained model, 1,024 tokens. Which share of the gradients becomes exactly 0 in float16 if the loss is their mean? And if
# it is divided by 512 once more, because this is one of 512 parts? With $S = 2^{16}$?

# %% tags=["nbval-ignore-output"]
generator = torch.Generator().manual_seed(5)
trained = GPT(config, generator=generator).to(device)
train(trained, 3e-3, generator)
token_ids, targets = random_batch(train_ids, 64, generator)


def gradient_in(dtype: torch.dtype, factor: float) -> Tensor:
    """The gradient of factor · loss with products in this format."""
    trained.zero_grad()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = trained(token_ids)
    (F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()) * factor).backward()
    return gradient(trained).clone()


exact = gradient_in(torch.float32, 1)
print("  batch of    format   loss scale   vanished   error of the gradient, relative to its norm")
for parts in (1, 64, 512):
    for dtype, scale in ((torch.float16, 1), (torch.float16, 2**16), (torch.bfloat16, 1)):
        got = gradient_in(dtype, scale / parts)
        vanished = ((got == 0) & (exact != 0)).float().mean().item()
        error = ((got * parts / scale - exact).norm() / exact.norm()).item()
        print(f"{parts * targets.numel():10,}  {str(dtype)[6:]:>8s}   {scale:10,}   {vanished:8.2%}   {error:8.2%}")

# %% tags=["nbval-ignore-output"]
sizes = exact.abs()[exact != 0].cpu().log2()
zero_below = math.log2(torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps / 2)  # half of the smallest
lost = (sizes - 9 < zero_below).float().mean()
fig, ax = figure(
    f"Divided by 512, {lost:.0%} of the gradients round to zero in float16",
    "size of a gradient (power of 2)",
    "share of all gradients (%)",
    width=8,
)
for shift, name, colour, hatch in (
    (-9, "loss / 512", COLOURS[3], "///"), (0, "loss", COLOURS[5], ""), (-9 + 16, r"$2^{16}$ · loss / 512", COLOURS[0], "..."),
):  # fmt: skip
    ax.hist(sizes + shift, bins=torch.arange(-45.0, 17), weights=torch.full_like(sizes, 100 / len(sizes)), alpha=0.55,
            color=colour, hatch=hatch, label=name)
ax.axvspan(-45, zero_below, color="grey", alpha=0.2, linewidth=0)
ax.axvline(math.log2(torch.finfo(torch.float16).max), color="grey", linestyle="--")
ax.annotate("float16: 0", (-44, 0.5), color="grey", fontsize=9)
ax.annotate("float16:\ninf from here", (16, ax.get_ylim()[1] * 0.75), xytext=(-3, 0), textcoords="offset points", ha="right", color="grey", fontsize=9)
ax.set_xlim(-45, 17)
ax.legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# The figure takes the float32 gradients of the weights and shifts them by the factor; the table has really computed in 16 bits, where
# what is lost on the way back through the layers counts too. Long before everything has vanished the gradient is useless: what does
# not become zero is rounded to a handful of values near the bottom. There is room enough in float16, but on the right side: the scale has to
# move the gradients there. Too far, and the largest become inf.
#
# ### A scale that finds itself
#
# Nobody knows the right $S$ in advance, and it changes in the course of training. So: begin high. If a gradient is inf or nan, the
# step is skipped and $S$ halved. After 2,000 good steps in a row $S$ is doubled, just to see. The cost is a step in 2,000.
#
# ```
#   scaler(loss).backward()      gradients are S times too large
#   scaler.unscale(optimizer)    divide them; only needed if you clip, which must see the true norm
#   clip_grad_norm(...)
#   scaler.step(optimizer)       skipped where something is inf or nan
#   scaler.update()              S changes here only
# ```

# %% tags=["exercise"]
from week2_pretraining.solutions.optimization import LossScaler

# %% [markdown]
# Beside `torch.amp.GradScaler`, in real float16, with clipping, and with a first scale that is far too high:

# %%
scaler_device = "cuda" if device.type == "cuda" else "cpu"
settings = {"init_scale": 2.0**24, "growth_interval": 6}
ours, theirs = (copy.deepcopy(trained).to(scaler_device) for _ in range(2))
our_optimizer, their_optimizer = (torch.optim.AdamW(each.parameters(), lr=1e-3) for each in (ours, theirs))
scaler, torchs = LossScaler(**settings).to(scaler_device), torch.amp.GradScaler(scaler_device, **settings)
scales, skipped = [], []
for _ in tqdm(range(32), desc="float16"):
    batch = [part.to(scaler_device) for part in random_batch(train_ids, 4, generator)]
    before = next(ours.parameters()).detach().clone()
    for each, optimizer, scale in ((ours, our_optimizer, scaler), (theirs, their_optimizer, torchs.scale)):
        optimizer.zero_grad()
        with torch.autocast(scaler_device, dtype=torch.float16):
            loss = loss_of(each, *batch)
        scale(loss).backward()
    scaler.unscale(our_optimizer)
    torchs.unscale_(their_optimizer)
    for each in (ours, theirs):
        torch.nn.utils.clip_grad_norm_(each.parameters(), 1.0)
    scaler.step(our_optimizer)
    torchs.step(their_optimizer)
    scaler.update()
    torchs.update()
    scales.append((scaler.scale.item(), torchs.get_scale()))
    skipped.append(torch.equal(before, next(ours.parameters())))
difference = max((a - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
print(f"{sum(skipped)} of {len(skipped)} steps skipped; scales equal: {all(a == b for a, b in scales)}; weights differ by {difference:.0e}")
assert all(a == b for a, b in scales) and difference < 1e-5

# %% tags=["nbval-ignore-output"]
fig, ax = figure(f"From $2^{{24}}$, {sum(skipped)} skipped steps find the right scale", "step", "loss scale", width=6.4)
ax.step(range(len(scales)), [a for a, _ in scales], where="post", color=COLOURS[0], linewidth=4, alpha=0.5, label="yours")
ax.step(range(len(scales)), [b for _, b in scales], where="post", color="black", linestyle=":", label="torch.amp.GradScaler")
ax.plot([i for i, s in enumerate(skipped) if s], [scales[i][0] for i, s in enumerate(skipped) if s], "x", color=COLOURS[3], label="step skipped")
ax.set_yscale("log", base=2)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ### On any machine
#
# bfloat16 has float32's range and needs no scaler, so whoever has an NVIDIA GPU from 2020 on (Ampere) uses it. Colab's T4 is older:
# float16 with a scaler. A CPU is best left at float32. `pick_dtype` says which; the loop is the same for all three.

# %% tags=["nbval-ignore-output"]
dtype = pick_dtype(device)  # float32 on a CPU, float16 on a T4, bfloat16 from Ampere on
generator = torch.Generator().manual_seed(6)
model = GPT(config, generator=generator).to(device)
optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), betas=(0.9, 0.95))
scaler = LossScaler().to(device) if dtype == torch.float16 else None
n_steps = 60
for step in tqdm(range(n_steps), desc=f"{device.type}, {dtype}"):
    for group in optimizer.param_groups:
        group["lr"] = warmup_cosine_lr(step, 3e-3, 10, n_steps)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        loss = loss_of(model, *random_batch(train_ids, 16, generator))
    optimizer.zero_grad()
    (scaler(loss) if scaler else loss).backward()
    if scaler:
        scaler.unscale(optimizer)
    clip_grad_norm(model.parameters(), 1.0)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
print(f"{dtype} on {device.type}: held-out loss {held_out_loss(model):.3f} after {n_steps} steps")

# %% [markdown]
# That loop is all of this lesson but one thing. It is also, with accumulation, evaluation and saving added, the loop of lesson 03.
#
# **Predict.** What happens in float16 if you clip first and unscale afterwards? (People do.)
#
# <details><summary>Answer</summary>
#
# The gradients are still $S$ = 65,536 times too large, so nearly every step is clipped, to norm 1, and then divided by $S$: every gradient ends
# with the norm $1.5 \cdot 10^{-5}$, whatever the batch said. Adam divides that out again, and the run looks almost right. But
# long gradients and short ones are told apart no more, and with such small $v$ the $\epsilon$ begins to count.
#
# </details>
#
# ## Memory for time
#
# `backward()` needs what the forward pass computed, so every layer keeps its activations until then: for long contexts far more
# memory than the weights. *Gradient checkpointing* (Chen et al. 2016) keeps only the input of each block. When backward arrives
# there, it runs the block forward once more, and then has all it needs.
#
# ```
#   forward     x0 ──block 0──► x1 ──block 1──► x2 ──block 2──► x3     keep x0, x1, x2; throw the insides away
#   backward                                    x2 ──block 2──► ◄── gradient of x3
#                               x1 ──block 1──► ◄── gradient of x2     one block's insides at a time
# ```
#
# The price is a second forward pass: with a backward pass about twice as expensive as a forward pass, 4 units of work in place of
# 3.
#
# `torch.autograd.Function` is made for this: you write its forward, in which autograd records nothing, and its backward, which gets
# the gradient of the output and returns one for each argument. Dropout is the trap: the second time, it must drop the same.

# %% tags=["exercise"]
from week2_pretraining.solutions.optimization import checkpointed_forward

# %%
from torch.utils.checkpoint import checkpoint

block_config = GPTConfig(vocab_size=128, context_length=128, d_model=preset(laptop=64, gpu=512), n_heads=4)
torch.manual_seed(0)
blocks = nn.ModuleList(Block(block_config) for _ in range(8)).to(device)
x = torch.randn(4, 128, block_config.d_model, device=device, requires_grad=True)
ways = {
    "plain": lambda block, x: block(x),
    "yours": checkpointed_forward,
    "torch.utils.checkpoint": lambda block, x: checkpoint(block, x, use_reentrant=False),
}
gradients = {}
for name, way in ways.items():
    blocks.zero_grad()
    x.grad, h = None, x
    for block in blocks[:3]:
        h = way(block, h)
    h.square().mean().backward()
    gradients[name] = torch.cat([x.grad.flatten(), *(p.grad.flatten() for p in blocks[:3].parameters())])
for name in ("yours", "torch.utils.checkpoint"):
    print(f"{name:24s} equal to plain: {torch.allclose(gradients[name], gradients['plain'], rtol=1e-5, atol=1e-8)}")
assert torch.allclose(gradients["yours"], gradients["plain"], rtol=1e-5, atol=1e-8)

# %% [markdown]
# Memory, counted and not guessed: autograd calls a *hook* for each tensor that it keeps. (It does not see what the library function
# keeps in its own way, so only plain and yours are in the plot.)
#
# **Predict.** How do the two curves of memory grow with depth? And the two of time?

# %%
def kept_bytes(way, depth: int) -> int:
    """Bytes of all tensors that the forward pass keeps for the backward pass, parameters not counted."""
    parameters = {p.untyped_storage().data_ptr() for p in blocks.parameters()}
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()  # views share a storage: count it once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        h = x
        for block in blocks[:depth]:
            h = way(block, h)
        h.sum()  # h is alive until here, so no storage can be counted for another
    return sum(kept.values())


def seconds(way, depth: int) -> float:
    """Forward and backward once."""
    start = time.perf_counter()
    h = x
    for block in blocks[:depth]:
        h = way(block, h)
    h.sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


# %% tags=["nbval-ignore-output"]
depths = [1, 2, 4, 8]
for way in list(ways.values())[:2]:
    seconds(way, 2)  # the first call of anything is slow
times = torch.zeros(2, len(depths), 5)
for repeat in tqdm(range(5), desc="five times each"):
    for j, depth in enumerate(depths):
        for i, name in enumerate(("plain", "yours")):  # in turn, so that a busy moment hits both
            times[i, j, repeat] = seconds(ways[name], depth)
memory = torch.tensor([[kept_bytes(ways[name], depth) for depth in depths] for name in ("plain", "yours")]) / 2**20
one_block = memory[0, 0]

# %% tags=["nbval-ignore-output"]
fig, axes = plt.subplots(1, 2, figsize=(10, 3.7), layout="constrained")
middle, low, high = times.median(dim=-1).values, times.amin(dim=-1), times.amax(dim=-1)
peak = memory[1] + one_block
for i, (name, colour, marker) in enumerate((("plain", COLOURS[3], "s"), ("with recomputation", COLOURS[0], "o"))):
    axes[0].plot(depths, memory[i], f"{marker}-", color=colour, label=f"{name}: kept")
    axes[1].errorbar(depths, 1e3 * middle[i], 1e3 * torch.stack([middle[i] - low[i], high[i] - middle[i]]), fmt=f"{marker}-",
                     color=colour, capsize=4, label=name)
axes[0].plot(depths, peak, ":", color=COLOURS[0], label="and one block's, while it is recomputed")
axes[0].set(xlabel="blocks", ylabel="activations kept (MiB)", ylim=(0, None))
axes[0].set_title(f"{depths[-1]} blocks: {memory[0, -1]:.0f} MiB, or {peak[-1]:.0f} with recomputation", loc="left", fontsize=11)
axes[1].set(xlabel="blocks", ylabel="forward and backward (ms)", ylim=(0, None))
axes[1].set_title(f"It takes {(low[1] / low[0])[-1]:.2f} times as long (4/3 in theory)", loc="left", fontsize=11)
for ax in axes:
    ax.legend(frameon=False, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Right: median and range of five; the title compares the fastest. Kept memory still grows with depth, by one input for each block, but
# that is a small part of what the block computes inside. Chen et al. go on: with a checkpoint only at every $\sqrt n$-th of $n$ layers, memory grows like
# $\sqrt n$ (section 4.3). What PyTorch's version has that yours does not: several inputs, `torch.autocast` switched on again in
# the recomputation, and an early stop when all that was missing is there.
#
# ## What to read
#
# - **AdamW paper**, section 2 with algorithm 2, and figures 1 and 2: with L2 the best decay depends on the learning rate, with
#   decoupling much less. In the appendix, look for *normalized weight decay*: how should the decay change with the length of a run?
# - **Kaplan et al. 2020**, section 5.1 (the critical batch size: below it, twice the batch saves half the steps; above it, nearly none)
#   and appendix D.6 (schedules; the rule of thumb above). Which part of the schedule did not matter, as long as it ended near zero?
# - **nanoGPT**, [`model.py`](https://github.com/karpathy/nanoGPT/blob/master/model.py), `configure_optimizers`: your `parameter_groups`,
#   by `dim() >= 2`. What is `fused`? In [`train.py`](https://github.com/karpathy/nanoGPT/blob/master/train.py), find the division by
#   `gradient_accumulation_steps`: why is the mean of means right there? And in
#   `get_lr` the warmup divides by `warmup_iters + 1`: which step is the first at the full rate?
# - **Megatron-LM**, [`megatron/core/optimizer`](https://github.com/NVIDIA/Megatron-LM/tree/main/megatron/core/optimizer): in `grad_scaler.py`,
#   the `hysteresis` that yours lacks; in `clip_grads.py`, how a norm is taken when each device has a piece of the gradient; in
#   `distrib_optimizer.py`, where m and v of one parameter live (lesson 04).
# - **DeepSpeed**, [`runtime/fp16/loss_scaler.py`](https://github.com/deepspeedai/DeepSpeed/blob/master/deepspeed/runtime/fp16/loss_scaler.py): it
#   begins at $2^{32}$, grows after 1,000 steps, and raises an exception in one case. Which, and why is that kinder than going on?
#
# ## Recap
#
# - AdamW divides each gradient by its own size: the learning rate is the length of a step. Both moments are corrected for their start at
#   zero, each parameter by its own count; the decay stays outside the division.
# - Warm up, come down, and find the peak by trying; a rate too high ends in a model that knows letter frequencies.
# - Clip by one norm for the whole model, after unscaling. Decay matrices and embeddings only.
# - Accumulate sums, divide by all counted targets. float16 needs a loss scale, bfloat16 does not.
# - Recomputing a block costs a third more computation and keeps one input in place of everything inside.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("optimization")

# %%
progress("week2_pretraining")
