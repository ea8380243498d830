# %% [markdown]
# # LoRA
#
# Full fine-tuning changes every weight of a model. So training needs a gradient and two running averages of Adam for each weight, and
# every task that you tune for leaves a whole new model on the disk. LoRA (Hu et al. 2021) leaves the model as it is, and puts beside some
# of its matrices the product of two thin ones. Only these learn.
#
# In this lesson you write the layer, the function that puts it into any model, and the two that take the result out again: as a small
# file, and merged into the weights. Then you compare with PEFT, the library that everyone uses: same outputs, same training step, same
# files. And you measure what the paper claims: how small can the rank be, which matrices should be adapted, and what is in the update?
#
# Reading and writing: about 120 minutes. Paper: Hu et al. 2021, *LoRA: Low-Rank Adaptation of Large Language Models*
# ([arXiv:2106.09685](https://arxiv.org/abs/2106.09685)). Repositories: [huggingface/peft](https://github.com/huggingface/peft),
# [microsoft/LoRA](https://github.com/microsoft/LoRA), [tloen/alpaca-lora](https://github.com/tloen/alpaca-lora).

# %%
import copy
import logging
import random
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.data import stories
from shared.models import course_folder, smollm2
from shared.plotting import COLOURS, LINES, figure
from shared.runtime import pick_device, preset, seed_everything
from shared.training import train
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation.trial import bootstrap

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT looks for it, and lesson 04 uses it
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # PEFT asks transformers the old way
import peft

seed_everything(0)
device = pick_device()
base_model, tokenizer = load_pretrained(course_folder("base"), mine("GPT"))
base_model.to(device)
n_parameters = sum(p.numel() for p in base_model.parameters())
print(f"the course model: {n_parameters:,} parameters")

# %% [markdown]
# ## Two thin matrices
#
# A linear layer computes $W_0 x$. Training moves its weight to $W_0 + \Delta W$. LoRA writes the move as a product,
#
# $$h = W_0\, x + \frac{\alpha}{r}\, B A\, x, \qquad A \in \mathbb{R}^{r \times d_{in}}, \quad B \in \mathbb{R}^{d_{out} \times r} \qquad \text{(eq. 3, with its scale)}$$
#
# so the *rank* of $\Delta W$ is at most $r$. $W_0$ and the bias are frozen. $A$ starts at random, $B$ at zero: so the model starts as
# what it was. The scale $\alpha / r$ is there so that, when you try another rank, the learning rate need not change.
#
# ```
#            ┌────────────── W₀ ──────────────┐
#     x ─────┤                                 + ──── h
#            └─ dropout ── A ── r ── B ── α/r ─┘
# ```
#
# **Predict.** For a layer from 576 to 576 and $r = 8$: which share of the layer's numbers learns? And why must not *both* factors start at
# zero?
#
# <details><summary>Answer</summary>
#
# $8 \cdot (576 + 576)$ of $576^2$: 2.8 %. The gradient of $B$ has $A$ as a factor, and that of $A$ has $B$. With both at zero, both
# gradients are zero, and stay so. With $B = 0$ alone, the first step moves $B$, and from the second on $A$ moves too.
#
# </details>
#
# Once training is over, $\frac{\alpha}{r} B A$ can be added to $W_0$ once and for all (*merging*). Then the layer is as fast as it was:
# the paper's advantage over adapters that stay in the way. Merging can be undone, to go from one task's model to another's.
#
# This check of the arguments is given:

# %% tags=["given"]
from week4_finetuning.solutions.lora import check_base

# %% tags=["exercise"]
from week4_finetuning.solutions.lora import LoRALinear

# %%
layer = LoRALinear(nn.Linear(6, 4), rank=2, alpha=8)
for name, parameter in layer.named_parameters():
    print(f"{name:14s}{tuple(parameter.shape)!s:10s}{'learns' if parameter.requires_grad else 'frozen'}")
x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
print("at the start the output is the base's:", torch.equal(layer(x), layer.base(x)))

# %% [markdown]
# ## Into a model
#
# A layer alone is of no use: the linear layers sit deep inside a model that somebody else wrote. Python lets you replace them where they
# are. A *target* names layers by the end of their qualified name, as in PEFT: `w_q` is `blocks.0.attention.w_q`, and the same in every
# block. All else is frozen.
#
# Two faults are common and silent, so your function refuses both: a misspelt target, which would train nothing, and a layer that is not an
# `nn.Linear`. (transformers' GPT-2 has `Conv1D` layers, with the weight transposed. PEFT has `fan_in_fan_out` for them. Your own GPT
# has linear layers.)

# %% tags=["given"]
from week4_finetuning.solutions.lora import linear_names

# %% tags=["exercise"]
from week4_finetuning.solutions.lora import inject_lora

# %%
EVERYTHING = ["w_q", "w_k", "w_v", "w_o", "w_in", "w_out"]
print("linear layers of the course model:", linear_names(base_model))
for targets in (["w_q", "w_v"], EVERYTHING):
    model = inject_lora(copy.deepcopy(base_model), targets, rank=4, alpha=16)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"rank 4 on {', '.join(targets)}: {learning:,} parameters learn, {learning / n_parameters:.1%} of the model's")
for targets in (["q_proj"], ["token_embedding"]):
    try:
        inject_lora(copy.deepcopy(base_model), targets, rank=4, alpha=16)
    except (TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")

# %% [markdown]
# ## Out of the model
#
# What was learnt is in the factors alone. They are the *adapter*: saved beside one large base model there may be hundreds of them.
# `lora_layers` is given. It knows a LoRA layer by what it can do, so it finds yours, whatever you called the factors.

# %% tags=["given"]
from week4_finetuning.solutions.lora import lora_layers

# %% tags=["exercise"]
from week4_finetuning.solutions.lora import lora_state_dict

# %% [markdown]
# The other way out: merge for good, and give the model back as it was built, with plain linear layers. Nobody who uses it will see that
# LoRA was there.

# %% tags=["exercise"]
from week4_finetuning.solutions.lora import merge_all

# %% [markdown]
# ## The same with PEFT
#
# PEFT keeps an adapter in a folder: `adapter_model.safetensors` with the factors, called `base_model.model.<layer>.lora_A.weight` and
# `…lora_B.weight`, and `adapter_config.json`. `save_adapter` and `load_adapter` are given. They write and read such folders. You chose
# the names and the orientation of your factors, so they find out by trial which is $A$ and which is $B$ (`find_factors`: put random
# numbers in and look at the output).

# %%
from week4_finetuning.solutions.lora import find_factors, load_adapter, save_adapter

folder = Path(tempfile.mkdtemp())


def randomized(model: nn.Module, size: float, seed: int = 0) -> nn.Module:
    """Random numbers in all factors, as if something had been learnt."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            for factor in find_factors(layer):
                factor.copy_(size * torch.randn(factor.shape, generator=generator))
    return model


def one_step(model: nn.Module, token_ids: Tensor) -> float:
    """One step of AdamW on what learns; returns the loss before it."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    output = model(token_ids)
    logits = getattr(output, "logits", output)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    return loss.item()


def against_peft(name: str, model: nn.Module, targets: list[str], token_ids: Tensor) -> None:
    def logits(model: nn.Module) -> Tensor:
        output = model(token_ids)
        return getattr(output, "logits", output)

    ours = randomized(inject_lora(copy.deepcopy(model), targets, rank=4, alpha=10), size=0.05)
    save_adapter(ours, folder / "ours")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder / "ours", is_trainable=True)  # PEFT reads ours
    with torch.no_grad():
        moved = (logits(ours) - logits(model)).abs().max().item()
        rows = {"outputs, our adapter in PEFT": (logits(ours) - logits(theirs)).abs().max().item()}
        theirs.save_pretrained(folder / "theirs")
        back = load_adapter(copy.deepcopy(model), folder / "theirs", inject_lora)  # and we read PEFT's
        rows["outputs, PEFT's adapter in ours"] = (logits(back) - logits(theirs)).abs().max().item()
    rows["loss"] = abs(one_step(ours, token_ids) - one_step(theirs, token_ids))
    save_adapter(ours, folder / "ours")
    theirs.save_pretrained(folder / "theirs")
    a, b = (load_file(folder / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert a.keys() == b.keys()
    rows["factors after one training step"] = max((a[key] - b[key]).abs().max().item() for key in a)
    merged, plain = merge_all(ours).state_dict(), theirs.merge_and_unload().state_dict()
    assert merged.keys() == plain.keys() == model.state_dict().keys()
    rows["merged weights"] = max((merged[key] - plain[key]).abs().max().item() for key in merged)
    print(f"{name}: the adapter moves the logits by up to {moved:.1f}; largest differences from PEFT")
    for row, difference in rows.items():
        print(f"    {row:34s}{difference:.0e}")
        assert difference < 1e-4 and moved > 0.1


token_ids = torch.randint(0, 2000, (2, 24), generator=torch.Generator().manual_seed(1)).to(device)
against_peft("the course model", base_model, ["w_q", "w_v"], token_ids)

# %% [markdown]
# PEFT adapts any module that has linear layers, yours too. And your function adapts any model that has linear layers. SmolLM2, with 135
# million parameters, has the names of the Llama family:

# %%
smol, smol_tokenizer = smollm2(device=device)
print("linear layers of SmolLM2:", linear_names(smol))
token_ids = smol_tokenizer("Nell lost her kite in the park, and Pip found it.", return_tensors="pt").input_ids.to(device)
against_peft("SmolLM2", smol, ["q_proj", "v_proj"], token_ids)
print("the adapter's files:", {path.name: f"{path.stat().st_size / 1e6:.2f} MB" for path in sorted((folder / "ours").iterdir())})

# %% [markdown]
# ## What it saves
#
# In training, each number that learns needs a gradient and Adam's two averages beside itself: 16 bytes in float32. A frozen number needs
# its own 4. Let us count the tensors that are there after a step of LoRA, and compute what full tuning would need. (Activations are not
# in it. They are needed to get gradients to the factors, and LoRA saves few of them.)

# %%
def size(tensors) -> float:
    """Megabytes of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


def training_memory(model: nn.Module, token_ids: Tensor) -> list[float]:
    """Megabytes of weights, gradients, Adam's averages after one step, and of the adapter."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    model(token_ids).logits.mean().backward()
    optimizer.step()
    averages = [tensor for state in optimizer.state.values() for tensor in state.values()]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [size(model.parameters()), size(gradients), size(averages), size(lora_state_dict(model).values())]


inside = [name for name in linear_names(smol) if name != "lm_head"]
rows = {"full tuning, by the formula": [size(smol.parameters()) * times for times in (1, 1, 2, 1)]}
for targets, rank in tqdm(((["q_proj", "v_proj"], 8), (inside, 16)), desc="one step"):
    label = f"LoRA, rank {rank}, {len(targets)} kinds of layers"
    rows[label] = training_memory(inject_lora(copy.deepcopy(smol), targets, rank, alpha=16), token_ids)
print(f"{'SmolLM2, MB':34s}{'weights':>10s}{'gradients':>11s}{'Adam':>9s}{'on disk':>10s}")
for label, (weights, gradients, averages, disk) in rows.items():
    print(f"{label:34s}{weights:10.1f}{gradients:11.1f}{averages:9.1f}{disk:10.1f}")
del smol

# %% [markdown]
# (`lm_head` is left out. In SmolLM2 its weight is the embedding's: to merge an update into the one would change the other. PEFT warns of
# that.)
#
# How long a step takes, and how much memory the process really needs, is measured by `python -m benchmarks.lora`, ours, PEFT's and full
# tuning in turns.
#
# ## A new domain
#
# Now a task. The course model tells stories. It has never seen a *summary* of one: two sentences that name the problem, the reason and
# how it ended. We tune it on the summaries of training stories, and measure the loss (nats a token) on summaries of held-out stories,
# whose combinations of hero, thing and place are in no training story.

# %%
STEPS, BATCH = preset(laptop=60, gpu=400), 8
START = [tokenizer.eos_token_id]  # what stood before each story in pretraining


def encode(texts: Sequence[str]) -> list[list[int]]:
    return [START + tokenizer(text).input_ids + START for text in texts]


def batch_of(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and targets, padded on the right; targets of -100 do not count."""
    token_ids = torch.full((len(rows), max(map(len, rows)) - 1), tokenizer.pad_token_id)
    targets = torch.full_like(token_ids, -100)
    for i, row in enumerate(rows):
        token_ids[i, : len(row) - 1], targets[i, : len(row) - 1] = torch.tensor(row[:-1]), torch.tensor(row[1:])
    return token_ids.to(device), targets.to(device)


@torch.no_grad()
def losses(model: nn.Module, rows: list[list[int]]) -> np.ndarray:
    """The mean nats a token of each text."""
    model.eval()
    found = []
    for start in range(0, len(rows), 25):
        token_ids, targets = batch_of(rows[start : start + 25])
        nats = F.cross_entropy(model(token_ids).transpose(1, 2), targets, reduction="none")  # (batch, seq)
        found += (nats.sum(dim=1) / (targets != -100).sum(dim=1)).tolist()
    return np.array(found)


summaries = encode([story.facts.summary for story in stories(3000, seed=50)])
held_out = encode([story.facts.summary for story in stories(150, seed=50, split="validation")])
old_stories = [row[:256] for row in encode([story.text for story in stories(60, seed=51, split="validation")])]
print(tokenizer.decode(held_out[0]))
at_first = {"summaries": losses(base_model, held_out), "stories": losses(base_model, old_stories)}
for name, values in at_first.items():
    mean, low, high = bootstrap(np.mean, values)
    print(f"the base model on held-out {name}: {mean:.2f} nats a token [{low:.2f}, {high:.2f}]")

# %% [markdown]
# ## How small can the rank be?
#
# Seven runs of the same steps on the same batches: full tuning, and LoRA on all six kinds of matrices with rank 1, 2, 4, 8, 16, and 128,
# which is as much as these matrices have. $\alpha = 16$ and the learning rate are the same for all ranks. (Both learning rates, that of
# LoRA and that of full tuning, are the best of two or three that we tried. LoRA wants a larger one.)
#
# **Predict.** 128 is `d_model`, so rank 128 can reach every $\Delta W$ of these matrices. The paper's table 6 finds rank 1 about as good
# as rank 64 for GPT-3, on its tasks. Will that be so here?

# %%
def batches(step: int) -> tuple[Tensor, Tensor]:
    return batch_of(random.Random(step).sample(summaries, BATCH))


def tuned(targets: list[str] | None, rank: int = 0, alpha: float = 16, learning_rate: float = 5e-3, dropout: float = 0.0):
    """(model, seconds a step) after STEPS steps; no targets: full tuning."""
    torch.manual_seed(rank)
    model = copy.deepcopy(base_model)
    if targets is not None:
        inject_lora(model, targets, rank, alpha, dropout)
    start = time.perf_counter()
    train(model, batches, STEPS, learning_rate, description=f"rank {rank}" if targets else "full tuning")
    return model, (time.perf_counter() - start) / STEPS


RANKS = [1, 2, 4, 8, 16, 128]
runs = {"full tuning": tuned(None, learning_rate=1e-3)}
for rank in tqdm(RANKS, desc="ranks"):
    runs[rank] = tuned(EVERYTHING, rank)

# %% tags=["nbval-ignore-output"]
results = {name: (losses(model, held_out), losses(model, old_stories)) for name, (model, _) in runs.items()}
print(f"{'':12s}{'learn':>10s}{'summaries [95 % interval]':>28s}{'above full tuning':>26s}{'stories':>9s}{'ms a step':>11s}")
print(f"{'before':12s}{'':10s}{at_first['summaries'].mean():10.3f}{'':44s}{at_first['stories'].mean():9.2f}")
for name, (model, seconds) in runs.items():
    new, old = results[name]
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shown = "{:.3f} [{:.3f}, {:.3f}]".format(*bootstrap(np.mean, new))
    above = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*bootstrap(np.mean, new - results["full tuning"][0]))
    label = name if isinstance(name, str) else f"rank {name}"
    print(f"{label:12s}{learning:10,d}{shown:>28s}{above:>26s}{old.mean():9.2f}{1000 * seconds:11.0f}")

# %% [markdown]
# The column "above full tuning" compares the losses on the same summaries, one by one, so its intervals are narrower. They are over
# held-out summaries. Another seed of the training would move the numbers too; one run of each cannot tell how much.
#
# <details><summary>Answer</summary>
#
# Not here. When we ran it on a CPU, rank 1 was clearly behind, each doubling up to rank 8 took away about half of the distance to full
# tuning or more, and rank 128 could not be told from it. GPT-3 has a `d_model` of 12,288 and had read nearly everything before it was
# tuned; ours has 128, and a summary is a kind of text that it never saw. What a small rank can do depends on how far the task is from
# what the model can do.
#
# Look at the stories as well. All runs forget: the loss on ordinary stories goes up about as much with LoRA as with full tuning. A low
# rank is no promise that the rest stays. (But the base is still there: without the adapter it is the
# story-teller that it was.)
#
# The time: LoRA saves the products that make the gradients of $W_0$, a third of the matrix work at most, and nearly all of Adam's; it adds
# some small products of its own.
#
# </details>

# %%
fig, ax = figure("Each doubling of the rank comes closer to full tuning", "rank", "held-out loss (nats a token, 95 % interval)")
mean, low, high = np.array([bootstrap(np.mean, results[rank][0]) for rank in RANKS]).T
ax.errorbar(RANKS, mean, [mean - low, high - mean], fmt="o-", capsize=3, color=COLOURS[0], label="LoRA, all matrices")
mean, low, high = bootstrap(np.mean, results["full tuning"][0])
ax.axhline(mean, color=COLOURS[3], label="full tuning")
ax.axhspan(low, high, color=COLOURS[3], alpha=0.15)
ax.set_xscale("log", base=2)
ax.set_xticks(RANKS, RANKS)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# What has it learnt? The tuned model begins with the start token, and writes the likeliest next token until the text ends:

# %%
@torch.no_grad()
def written(model: nn.Module, beginning: str, n_tokens: int = 40) -> str:
    token_ids = torch.tensor([START + tokenizer(beginning).input_ids], device=device)
    for _ in range(n_tokens):
        token_ids = torch.cat([token_ids, model.eval()(token_ids)[:, -1:].argmax(dim=-1)], dim=1)
        if token_ids[0, -1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(token_ids[0, 1:], skip_special_tokens=True)


for name, model in {"base": base_model, "full tuning": runs["full tuning"][0], "rank 1": runs[1][0], "rank 16": runs[16][0]}.items():
    print(f"{name:12s} {written(model, 'Nell lost')}")

# %% [markdown]
# ## Which matrices?
#
# The paper adapts only attention's matrices, and asks which of them for a fixed number of parameters (table 5). We add the feed-forward
# net. The rank is what the budget leaves: one matrix may have rank 16, all six only rank 2 (within 15 % of 16,384 parameters).
#
# **Predict.** One kind of matrix with a high rank, or all with a low one?

# %%
CHOICES = {
    "w_q": (["w_q"], 16),
    "w_v": (["w_v"], 16),
    "w_q, w_v": (["w_q", "w_v"], 8),
    "attention": (["w_q", "w_k", "w_v", "w_o"], 4),
    "feed-forward": (["w_in", "w_out"], 3),
    "all six": (EVERYTHING, 2),
}
by_choice = {"all six": runs[2][0]}
for name, (targets, rank) in tqdm(CHOICES.items(), desc="matrices"):
    by_choice[name] = by_choice.get(name) or tuned(targets, rank)[0]

# %%
fig, ax = figure("For one budget: a low rank in many matrices", ylabel="held-out loss (95 % interval)")
for i, name in enumerate(CHOICES):
    mean, low, high = bootstrap(np.mean, losses(by_choice[name], held_out))
    learning = sum(p.numel() for p in by_choice[name].parameters() if p.requires_grad)
    print(f"{name:14s}rank {CHOICES[name][1]:2d}, {learning:6,d} parameters: {mean:.3f} [{low:.3f}, {high:.3f}]")
    ax.errorbar(i, mean, [[mean - low], [high - mean]], fmt="o", capsize=3, color=COLOURS[0])
ax.set_xticks(range(len(CHOICES)), [f"{name}\nrank {rank}" for name, (_, rank) in CHOICES.items()], fontsize=8)
plt.show()

# %% [markdown]
# When we ran it, the order was the same as in the list, and no two neighbours' intervals met but the last ones. The paper's table 5 says
# the like of attention: rank 2 on all four matrices, or rank 4 on $W_q$ and $W_v$, is better than rank 8 on $W_q$ alone.
#
# ## What is in the update?
#
# The idea behind LoRA is that the $\Delta W$ of full tuning has a low *intrinsic* rank. Here we have it, so we can look: its singular
# values, and what becomes of the loss if only the $k$ largest are kept.

# %%
names = [name for name, module in base_model.named_modules() if isinstance(module, nn.Linear)]


def update(model: nn.Module, name: str) -> Tensor:
    """What training added to the weight of a layer."""
    layer = model.get_submodule(name)
    if isinstance(layer, nn.Linear):
        return (layer.weight - base_model.get_submodule(name).weight).detach()
    a, b = find_factors(layer)
    return (layer.alpha / layer.rank * b @ a).detach()


def shares(model: nn.Module) -> Tensor:
    """The share of the update's squared size in its k largest singular directions, mean over layers: (128,)."""
    values = torch.stack([torch.linalg.svdvals(update(model, name)) for name in names]).square()
    return (values.cumsum(dim=1) / values.sum(dim=1, keepdim=True)).mean(dim=0).cpu()


def truncated(model: nn.Module, k: int) -> nn.Module:
    """The base with only the k largest singular directions of each layer's update; all else as in the tuned model."""
    cut = copy.deepcopy(model)
    for name in names:
        u, s, v = torch.linalg.svd(update(model, name), full_matrices=False)
        with torch.no_grad():
            cut.get_submodule(name).weight.copy_(base_model.get_submodule(name).weight + (u[:, :k] * s[:k]) @ v[:k])
    return cut


full_model = runs["full tuning"][0]
ks = [0, *RANKS]
cut = {k: bootstrap(np.mean, losses(truncated(full_model, k), held_out)) for k in tqdm(ks, desc="truncating")}
noise = torch.linalg.svdvals(torch.randn(128, 128, generator=torch.Generator().manual_seed(0))).square()
curves = {"full tuning": shares(full_model), "LoRA, rank 128": shares(runs[128][0]), "LoRA, rank 16": shares(runs[16][0])}
curves["random numbers"] = noise.cumsum(0) / noise.sum()
fig, ax = figure("LoRA moves in a few directions, full tuning in many", "k", "share in the k largest directions")
for (name, curve), style in zip(curves.items(), LINES, strict=False):
    ax.plot(range(1, 129), curve, linestyle=style, label=name)
ax.set_xscale("log", base=2)
ax.set_xticks(RANKS, RANKS)
ax.legend(frameon=False)
plt.show()
print("share of the update in its first k directions:")
for name, curve in curves.items():
    print(f"    {name:16s}" + "".join(f"   k = {k}: {curve[k - 1]:.0%}" for k in (1, 4, 16, 64)))
for k in ks:
    trained = f"LoRA trained with this rank {results[k][0].mean():.3f}" if k else ""
    print(f"full tuning cut to rank {k:3d}: {{:.3f}} [{{:.3f}}, {{:.3f}}]   {trained}".format(*cut[k]))

# %% [markdown]
# Two things to see. LoRA of rank 128 is free to use 128 directions, and uses few: half of its update is in the first one. (Random numbers
# show what a matrix without any structure would have.) And the update of full tuning is *not* of low rank: cut to rank 1 it is far worse
# than LoRA that was trained with rank 1. So LoRA does not find the first directions of the full update. It finds another solution, which
# has a low rank. ($k = 0$ keeps only what full tuning did to embeddings, norms and biases.)
#
# The paper's other question (section 7.2): do two runs find the same directions? The overlap of the first $i$ right singular directions
# of one update with the first $j$ of another is $\phi = \lVert U_i^\top V_j \rVert_F^2 / \min(i, j)$: 1 if one space holds the other,
# about $\max(i, j) / 128$ if they have nothing to do with one another.

# %%
def overlap(one: nn.Module, other: nn.Module, i: int, j: int) -> float:
    found = []
    for name in names:
        u, v = (torch.linalg.svd(update(model, name), full_matrices=False)[2] for model in (one, other))
        found.append(((u[:i] @ v[:j].T).square().sum() / min(i, j)).item())
    return float(np.mean(found))


print(f"{'':26s}{'i = j = 1':>12s}{'i = j = 4':>12s}{'i = j = 8':>12s}")
for label, one, other in (("rank 8 and rank 16", runs[8][0], runs[16][0]), ("rank 8 and full tuning", runs[8][0], full_model)):
    print(f"{label:26s}" + "".join(f"{overlap(one, other, i, i):12.2f}" for i in (1, 4, 8)))
print(f"{'nothing in common':26s}" + "".join(f"{i / 128:12.2f}" for i in (1, 4, 8)))

# %% [markdown]
# Far from 1, and far from chance: the runs share a part of their directions. (The paper's figure 3 finds more in common between ranks 8
# and 64 of GPT-3, in the very first directions.)
#
# ## alpaca-lora, in small
#
# In March 2023 alpaca-lora tuned LLaMA-7B on 52,000 instructions in hours on one consumer GPU, and everyone copied its settings. They are
# the defaults of its [`finetune.py`](https://github.com/tloen/alpaca-lora/blob/main/finetune.py):
#
# | | alpaca-lora | here |
# |---|---|---|
# | base | LLaMA-7B, in 8 bits | the course model, float32 |
# | `lora_r`, `lora_alpha`, `lora_dropout` | 8, 16, 0.05 | the same |
# | `lora_target_modules` | `q_proj`, `v_proj` | `w_q`, `w_v` |
# | loss on | instruction and answer (`train_on_inputs`) | the whole text |
# | `cutoff_len` | 256 tokens | 256 |
# | optimizer | AdamW, 100 steps of warm-up, 3e-4 | AdamW, no warm-up, 3e-4 and more |
# | batch | 128, as 32 times 4 | 8 |
# | epochs | 3 | one pass over a part |
#
# **Predict.** Will 3e-4 be a good learning rate here?

# %%
for rate in tqdm((3e-4, 3e-3, 1e-2), desc="alpaca-lora"):
    model, _ = tuned(["w_q", "w_v"], rank=8, alpha=16, dropout=0.05, learning_rate=rate)
    tqdm.write(f"learning rate {rate:.0e}: {{:.3f}} [{{:.3f}}, {{:.3f}}]".format(*bootstrap(np.mean, losses(model, held_out))))

# %% [markdown]
# <details><summary>Answer</summary>
#
# No. After these few steps the model has hardly begun to write summaries; ten and thirty times as much is better. Theirs was a run of about
# 1,200 steps, with batches of 128, on a model that knew English well. A learning rate that everybody copies belongs to one model and one
# budget. And the table of matrices says that `w_q` and `w_v` alone are a modest choice: many later recipes adapt all linear layers.
#
# </details>
#
# ## Find the bug
#
# A colleague has written his own `inject`. His run ends with a fine loss, even better than yours. He saves the adapter, loads it in a
# fresh base model, and the model that comes back is bad.

# %%
def colleagues_inject(model, targets, rank, alpha, dropout=0.0):
    chosen = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in targets]
    for name in chosen:
        parent, _, child = name.rpartition(".")
        layer = LoRALinear(model.get_submodule(name), rank, alpha, dropout)
        setattr(model.get_submodule(parent), child, layer)
    return model


torch.manual_seed(8)
model = colleagues_inject(copy.deepcopy(base_model), ["w_q", "w_v"], rank=8, alpha=16)
train(model, batches, STEPS, 5e-3, description="his run")
save_adapter(model, folder / "his")
fresh = load_adapter(copy.deepcopy(base_model), folder / "his", inject_lora)
print(f"yours, the same settings: {losses(by_choice['w_q, w_v'], held_out).mean():.3f}")
print(f"his: as he trained it {losses(model, held_out).mean():.3f}, loaded again {losses(fresh, held_out).mean():.3f}")

# %% [markdown]
# **Predict.** What did he forget, and why did nothing complain? Then ask the check:

# %%
print(run_check("inject_lora", colleagues_inject).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# He did not freeze the model. So everything learnt: the factors, and all the rest, embeddings included. The loss is that of a full
# tuning. But the file holds the factors only, and in a fresh base they are beside weights that they were not trained with. Nothing
# complained because nothing is wrong with either half. The count of what learns would have told him: print it before every run. (PEFT has
# `print_trainable_parameters()` for it.)
#
# </details>
#
# ## What to read
#
# - **Hu et al. 2021.** Section 4.1 is the method, on one page. Table 5 (which matrices) and table 6 (which rank): what is held fixed in
#   each? Section 7.2 and figure 3 have the overlap; why do they look at rank 8 against 64? Section 7.3 asks how $\Delta W$ relates to
#   $W$.
# - **PEFT**, [`tuners/lora/layer.py`](https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/layer.py): find `merge`,
#   `get_delta_weight` and the six lines of `forward` that you wrote. What else can be chosen there (DoRA, rsLoRA, initialisations), and
#   how does it stay one class?
# - **microsoft/LoRA**, [`loralib/layers.py`](https://github.com/microsoft/LoRA/blob/main/loralib/layers.py): the paper's own code.
#   `train()` and `eval()` merge and unmerge by themselves there. What would go wrong if somebody saved the weights after `eval()`?
# - **alpaca-lora**, [`finetune.py`](https://github.com/tloen/alpaca-lora/blob/main/finetune.py): one file, one GPU, one evening. Find the
#   line that makes `batch_size` out of `micro_batch_size`.
# - **Biderman et al. 2024**, *LoRA Learns Less and Forgets Less* ([arXiv:2405.09673](https://arxiv.org/abs/2405.09673)): what our table
#   asks, on large models.
#
# ## Recap
#
# - $W_0 + \frac{\alpha}{r} B A$: the base is frozen, $A$ starts at random, $B$ at zero. Merging makes it free of cost, and can be undone.
# - It saves gradients, Adam's averages and the disk, not the weights (lesson 04 does that) and little of the time.
# - What rank is enough is a question to measure. For one budget, a low rank in many matrices beat a high rank in few.
# - A learning rate belongs to a model, a method and a number of steps. Settings that everyone copies were right once.
# - An adapter is worth nothing without the exact base it was trained on, and without proof that the base was frozen.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("lora")

# %%
progress("week4_finetuning")
