# %% [markdown]
# # The pretraining run
#
# You have a model, batches, an optimizer and a schedule. Pretraining is the loop around them, kept going for weeks on
# thousands of GPUs: so it has to be measured, it has to be fast, and it has to survive. A run that is killed, and runs
# are, must go on as if nothing had happened. And before anyone spends the money, they want to know how large the model
# should be, and for how long to train it.
#
# In this lesson you write the parts around the loop: evaluation, utilization, checkpoints that a power cut cannot break, the
# export to Hugging Face, and the fit of a scaling law. You train for half a minute, kill the run and resume it, let
# Hugging Face's `Trainer` do the same run, and read what the course's own model writes after five minutes.
#
# Reading and writing: about 150 minutes, in two sittings if you like: the run, then how large it should be. Papers: Radford et al.
# 2019, *Language Models are Unsupervised Multitask Learners* (GPT-2); Kaplan et al. 2020, *Scaling Laws for Neural
# Language Models* ([arXiv:2001.08361](https://arxiv.org/abs/2001.08361)); Hoffmann et al. 2022, *Training
# Compute-Optimal Large Language Models* (Chinchilla, [arXiv:2203.15556](https://arxiv.org/abs/2203.15556)).

# %%
import copy
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging

from shared import borrow, check, explore, hint, mine, progress
from shared.course import ROOT
from shared.data import corpus, stories
from shared.models import course_folder
from shared.plotting import COLOURS, LINES, figure
from shared.runtime import machine, pick_device, pick_dtype, preset, seed_everything
from week1_decoder.solutions.decoder import GPTConfig
from week2_pretraining.pretrain import encode_stories, held_out_batches
from week2_pretraining.records import Record

seed_everything(0)
logging.set_verbosity_error()
logging.disable_progress_bar()
device = pick_device()
print(", ".join(machine().values()))

# %% [markdown]
# Your parts, from week 1 and from lessons 01 and 02:

# %%
GPT, transformer_flops, from_gpt2_state_dict = mine("GPT"), mine("transformer_flops"), mine("from_gpt2_state_dict")
get_batch = mine("get_batch")
warmup_cosine_lr, parameter_groups, clip_grad_norm = (
    mine(name) for name in ("warmup_cosine_lr", "parameter_groups", "clip_grad_norm")
)

# %% [markdown]
# ## What GPT-2 was trained on
#
# GPT-2's paper (2019) is mostly about its data. *WebText* is the text behind 45 million links that people had posted on Reddit
# and that others had given at least 3 karma: a human filter for free. After removing duplicates, and Wikipedia, because
# many test sets are made of it, 8 million documents were left, 40 GB (section 2.1). On it four models were trained with
# a context of 1,024 tokens and batches of 512 rows, the largest with 1.5 billion parameters, and "all models still
# underfit WebText" (section 3): more training would have helped.
#
# Ours is trained on stories from the course's generator, with a `<|endoftext|>` before each. The tokenizer is that of the
# course model: your `train_bpe` made its merges.

# %%
tokenizer = PreTrainedTokenizerFast.from_pretrained(course_folder("base"))
train_ids = encode_stories(tokenizer, preset(laptop=4000, gpu=100_000), seed=0, split="train")
print(f"{len(train_ids):,} training tokens")
print(tokenizer.decode(train_ids[:60]), "...")

# %% [markdown]
# ## Measure on what was held out
#
# $$\text{loss} = \frac{\sum_{\text{batches}} \sum_{t} -\ln p(\text{target}_t)}{\text{number of counted targets}}$$
#
# The held-out loss is the number that everything else is judged by. It is measured in the middle of training, so the function has to
# leave no trace: no gradients, and the model in the mode in which it was (a model with dropout behaves differently in
# training mode), even if something goes wrong inside. Batches are not all of one size: the last is often smaller.

# %% tags=["exercise"]
from week2_pretraining.solutions.pretraining import evaluate_loss

# %% [markdown]
# Two batches, the second smaller and half ignored, against `F.cross_entropy` on all rows at once and against the loss
# that a GPT-2 of transformers computes by itself:

# %%
small = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=16, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3))
token_ids = torch.randint(0, 97, (5, 16), generator=torch.Generator().manual_seed(0))
labels = token_ids.masked_fill(torch.arange(16) > torch.tensor([15, 15, 15, 15, 6])[:, None], -100)
x, y = token_ids[:, :-1], labels[:, 1:]


def logits_of_gpt2(x):
    return small(x).logits


wrapped = nn.Module()  # evaluate_loss switches modes, so it wants a module
wrapped.inner, wrapped.forward = small, logits_of_gpt2
loss = evaluate_loss(wrapped, [(x[:4], y[:4]), (x[4:], y[4:])])
with torch.no_grad():
    at_once = F.cross_entropy(small.eval()(x).logits.flatten(0, 1), y.flatten()).item()
    theirs = small(token_ids, labels=labels).loss.item()
print(f"yours {loss:.6f}, at once {at_once:.6f}, GPT2LMHeadModel {theirs:.6f}")
assert max(abs(loss - at_once), abs(loss - theirs)) < 1e-5

# %% [markdown]
# ## The loop
#
# This is all of it. First the config, one frozen dataclass for everything that decides the outcome:

# %% tags=["given"]
from week2_pretraining.pretrain import PretrainConfig

# %% [markdown]
# And the loop, flat, on one screen. Read it slowly; each line is an old acquaintance. It is a generator: at each
# evaluation it hands out a `Record` (step, losses, seconds, tokens), and whoever called it decides what to
# do then: print it, save a checkpoint, or stop. (`n_processes` is for lesson 04; here it is 1. On a GPU the forward pass runs in
# `pick_dtype`'s half precision; on a CPU `autocast` and `scaler` do nothing. `starts`, places where rows may begin, is for the course
# model below; without it all rows begin anywhere.)

# %% tags=["given"]
from week2_pretraining.pretrain import story_batch

# %% tags=["given"]
from week2_pretraining.pretrain import pretrain

# %% [markdown]
# **Predict.** The losses are averaged between two records, and the held-out loss is measured at the record. While the loss
# falls fast, which of the two curves lies lower?

# %%
config = preset(
    laptop=PretrainConfig(context_length=128, d_model=64, n_layers=2, batch_size=8, steps=200, evaluate_every=20),
    gpu=PretrainConfig(context_length=256, d_model=384, n_heads=6, n_layers=6, batch_size=64, steps=400, evaluate_every=40),
)
config = replace(config, muon_lr=0.0)  # AdamW alone; the course model's run adds what lesson 06 teaches
held_out = held_out_batches(tokenizer, config)


def start(config: PretrainConfig, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
    """A new model, its optimizer, and the generator that its batches are drawn with."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config.model(), generator=generator).to(device)
    groups = parameter_groups(model, config.weight_decay)
    return model, torch.optim.AdamW(groups, lr=config.max_lr, betas=(0.9, config.beta2)), generator


model, optimizer, generator = start(config)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {config.steps * config.batch_size * config.context_length:,} tokens")

# %% tags=["nbval-ignore-output"]
records = list(pretrain(model, optimizer, config, train_ids, held_out, generator))
for record in records[:: len(records) // 5]:
    print(f"step {record.step:4d}: {record.loss:.3f} nats a token, held out {record.held_out_loss:.3f}, "
          f"{record.tokens / record.seconds:,.0f} tokens/s")

# %% tags=["nbval-ignore-output"]
fig, ax = figure(f"{records[-1].seconds:.0f} seconds of training: {math.log(config.vocab_size):.2f} to {records[-1].held_out_loss:.2f} nats",
                 "training step", "loss (nats per token)")
steps = [record.step for record in records]
ax.plot(steps, [record.loss for record in records], "o-", color=COLOURS[5], label="training, mean since the last record")
ax.plot(steps, [record.held_out_loss for record in records], "s-", color=COLOURS[3], label="held out")
ax.axhline(math.log(config.vocab_size), color="grey", linestyle=":")
ax.annotate("knows nothing: ln V", (steps[-1], math.log(config.vocab_size)), xytext=(0, -11), textcoords="offset points",
            ha="right", fontsize=8, color="grey")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# The held-out curve, although the model has never seen that text. The training loss is a mean over steps that lie back, when
# the model was worse. At the right, where the loss falls slowly, the two have come together. The gap says nothing of generalization
# before the curves are flat.
#
# </details>
#
# ## How much of the machine is used?
#
# Tokens per second say how long a run takes, but not whether it could be faster. For that, PaLM's paper (Chowdhery et al. 2022,
# appendix B) proposes *model FLOPs utilization*: the matrix products that the model needs, as a share of those that the
# hardware could do in the time.
#
# $$\text{MFU} = \frac{\text{tokens/s} \cdot \text{FLOPs per token}}{\text{peak FLOP/s}}, \qquad
# \text{FLOPs per token} = 3 \cdot \text{forward} = 6N + 12LHQT$$
#
# The backward pass computes two gradients for each product of the forward pass, so a step takes three times the forward
# FLOPs. On the right, in PaLM's letters: $N$ weights in matrices, each used once per token ($2N$ forward, $6N$ in all);
# $L$ layers, $H$ heads, $Q$ = `d_head` and a context of $T$ tokens make the attention part. Your `transformer_flops` counts just this.

# %% tags=["exercise"]
from week2_pretraining.solutions.pretraining import model_flops_utilization

# %%
gpt2_small = GPTConfig()
matrices = 12 * 12 * 768**2 + 50257 * 768  # weights that are multiplied: 12 blocks, and the head
by_formula = 1e5 * (6 * matrices + 12 * 12 * 12 * 64 * 1024) / 312e12
mfu = model_flops_utilization(gpt2_small, 1e5, 312e12)  # an A100's peak in bf16
print(f"GPT-2 small at 100,000 tokens/s on an A100: {mfu:.4f}; 6N + 12LHQT: {by_formula:.4f}")
assert abs(mfu / by_formula - 1) < 1e-6

# %% [markdown]
# On a GPU the peak is in the data sheet. Here we measure what one large matrix product reaches.

# %% tags=["nbval-ignore-output"]
def measured_peak(n: int, seconds: float = 1.0) -> float:
    """The fastest (n, n) @ (n, n) product, in FLOP/s, in the number format of the training."""
    a, b = (torch.randn(n, n, device=device).to(pick_dtype(device)) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # .item() waits for a GPU to be done
        best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


peak = measured_peak(preset(laptop=1024, gpu=8192))
speed = records[-1].tokens / records[-1].seconds
mfu = model_flops_utilization(config.model(), speed, peak)
print(f"one large product {peak / 1e9:,.0f} GFLOP/s; our loop {speed:,.0f} tokens/s: MFU {mfu:.0%}")

# %% [markdown]
# Large runs reach about half: PaLM reports 46.2 % (table 3). The rest goes to everything that is no matrix product (norms, softmax, GELU,
# the optimizer, moving numbers), and in large runs to waiting for other machines. In a model as narrow as ours, the products are
# small and much time goes to overhead.
#
# ## A checkpoint that cannot break
#
# A long run will be killed: by a power cut, by a fault in one of ten thousand parts, by the time limit of a cluster. What has to be
# kept, so that it goes on *exactly*?
#
# **Predict.** The weights, of course. What else does the next step depend on? Find four more things.
#
# And when can a file be trusted? If the machine dies in the middle of writing, half a file is there; if that was the only
# checkpoint, and it lies where the last good one was, the run is lost. The remedy is as old as databases:
#
# ```
#   write run.pt.tmp  ->  flush  ->  fsync (the disk has all bytes)  ->  rename run.pt.tmp to run.pt
# ```
#
# A rename within one folder happens or does not; there is no moment at which `run.pt` is half.

# %% tags=["exercise"]
from week2_pretraining.solutions.pretraining import save_checkpoint

# %% [markdown]
# <details><summary>Answer to the question</summary>
#
# Adam's two averages for each parameter, and its step counter (for the bias correction); the step, for the schedule; the state
# of the generator, which decides the next batch; and the config, without which none of it has a meaning. With
# dropout there would be one more generator, with fp16 the scale of the loss.
#
# </details>
#
# Reading is where one must be strict. A file that is cut off, or something else, or from a run with other settings, has to be refused
# *before* anything is changed. And a checkpoint may come from a stranger: `torch.load` unpickles, and a pickle can call any
# function. With `weights_only=True` it takes tensors and plain values, and nothing else.

# %% tags=["exercise"]
from week2_pretraining.solutions.pretraining import load_checkpoint

# %% [markdown]
# ### Kill a real process while it saves
#
# This program does nothing but save, 12 MB each time, with your `save_checkpoint` if you have passed it. We wait for
# the first whole file, then kill it with no warning (SIGKILL).

# %%
saver = """
import sys, torch
from shared import mine
from week1_decoder.solutions.decoder import GPTConfig

save_checkpoint, model = mine("save_checkpoint"), torch.nn.Linear(1000, 1000)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.randn(1, 1000)).sum().backward()
optimizer.step()
for step in range(1_000_000):
    save_checkpoint(sys.argv[1], model, optimizer, torch.Generator(), step, GPTConfig())
"""

# %% tags=["nbval-ignore-output"]
folder = tempfile.TemporaryDirectory()
path = Path(folder.name, "run.pt")
environment = {**os.environ, "PYTHONPATH": str(ROOT)}
child = subprocess.Popen([sys.executable, "-c", saver, str(path)], env=environment, stdout=subprocess.DEVNULL)
while not path.exists() and child.poll() is None:
    time.sleep(0.05)
time.sleep(0.5)
child.kill()
child.wait()
for file in sorted(Path(folder.name).iterdir()):
    print(f"{file.name:12s} {file.stat().st_size:>12,} bytes")
layer = nn.Linear(1000, 1000)
step = load_checkpoint(path, layer, torch.optim.AdamW(layer.parameters()), torch.Generator(), GPTConfig())
print(f"run.pt is whole: step {step}")

# %% [markdown]
# Mostly the kill comes in the middle of a write: then a `run.pt.tmp` is left over, cut off or not yet renamed, and the next save
# overwrites it. `run.pt` is whole every time.
#
# ### Resume, to the last digit
#
# For many steps in little time we take a tiny model that reads characters. It runs 170 steps, a record at each, and writes a checkpoint
# after 150. Then new objects, made from another seed, that know nothing but the file, do the last 20 again. (The progress bars turn
# red because these runs stop at 170 of 300 steps. That is no fault.)

# %%
text, held_out_text = corpus(2_000_000), corpus(60_000, split="validation")
characters = sorted(set(text))
place = {character: i for i, character in enumerate(characters)}
character_ids = torch.tensor([place[character] for character in text])
held_out_ids = torch.tensor([place.get(character, 0) for character in held_out_text])
rows = held_out_ids[: 160 * 64 + 1].unfold(0, 65, 64)  # (160, 65): 64 characters and the one after them
held_out_characters = [(rows[:, :-1], rows[:, 1:])]

tiny = PretrainConfig(vocab_size=len(characters), context_length=64, d_model=32, n_heads=2, n_layers=2, batch_size=8,
                      steps=300, max_lr=2e-2, muon_lr=0.0, warmup=0.1, evaluate_every=1)  # fmt: skip
few = [(rows[:2, :-1], rows[:2, 1:])]
path = Path(folder.name, "tiny.pt")


def until_170(parts, first_step: int) -> Iterator[Record]:
    """The records up to step 170."""
    for record in pretrain(*parts[:2], tiny, character_ids, few, parts[2], first_step):
        yield record
        if record.step == 170:
            return


# %% tags=["nbval-ignore-output"]
uninterrupted, parts = [], start(tiny)
for record in until_170(parts, 0):
    uninterrupted.append(record)
    if record.step == 150:
        save_checkpoint(path, *parts, record.step, tiny)

parts = start(tiny, seed=99)
resumed = list(until_170(parts, load_checkpoint(path, *parts, tiny)))

for before, after in list(zip(uninterrupted[150:], resumed, strict=True))[::6]:
    print(f"step {before.step}: {before.loss!r} and {after.loss!r}")
# On a GPU some sums are taken in another order each time, unless one forbids it (torch.use_deterministic_algorithms).
tolerance = 0 if device.type == "cpu" else 5e-2
for before, after in zip(uninterrupted[150:], resumed, strict=True):
    assert abs(before.loss - after.loss) <= tolerance and abs(before.held_out_loss - after.held_out_loss) <= tolerance

# %% [markdown]
# ## Find the bug
#
# Two colleagues have each written their own checkpoints. One says: "the optimizer's state is twice as large as the model, so I leave
# it out. It warms up again by itself." The other: "random numbers are random, why should I keep the generator?"
#
# **Predict.** What will each see in the loss after resuming? Whose mistake is found on the same day, and whose
# perhaps never?

# %% tags=["nbval-ignore-output"]
def without(name: str) -> list[Record]:
    """Resume from the checkpoint, with one of its three states left as it is in a new run."""
    parts = start(tiny, seed=99)
    fresh = copy.deepcopy(parts[1].state_dict())
    first_step = load_checkpoint(path, *parts, tiny)
    if name == "optimizer":
        parts[1].load_state_dict(fresh)
    else:
        parts[2].manual_seed(0)  # the batches of the beginning, again
    return list(until_170(parts, first_step))


no_optimizer, no_generator = without("optimizer"), without("generator")
went_on = uninterrupted[150:]
jump = max(a.loss - b.loss for a, b in zip(no_optimizer, went_on, strict=True))
fig, ax = figure(f"Without the optimizer's state the loss jumps by {jump:.2f} nats",
                 "training step", "loss minus that of the\nuninterrupted run (nats)")  # fmt: skip
for label, run, colour, style in (
    ("resumed", resumed, COLOURS[0], "o-"),
    ("without the generator", no_generator, COLOURS[2], "s--"),
    ("without the optimizer", no_optimizer, COLOURS[3], "^-."),
):
    difference = [a.loss - b.loss for a, b in zip(run, went_on, strict=True)]
    ax.plot([r.step for r in run], difference, style, color=colour, markersize=4, label=label)
ax.set_xticks(range(150, 171, 5))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# With empty averages, Adam's first update is $\pm$ the learning rate for *every* parameter, however small its gradient (lesson 02), and the
# learning rate is not warming up: the schedule knows the step. The loss jumps, here for a step or two, stays worse for a while,
# and one looks for the reason. The other run looks like any other: it has other batches, so other noise. But it sees the batches of the beginning again, and others never; and it cannot be
# repeated. Such mistakes are found by the test that you have just seen: *the same digits*, nothing less.
#
# </details>
#
# ## The same run by Hugging Face's `Trainer`
#
# Most people do not write the loop; they call `Trainer`. It should be the same computation. To see that, transformers' GPT-2
# needs your model's initial weights: the inverse of `from_gpt2_state_dict`.
#
# | yours | theirs | |
# |---|---|---|
# | `token_embedding.weight` | `transformer.wte.weight`, `lm_head.weight` | as it is |
# | `position_embedding.weight` | `transformer.wpe.weight` | as it is |
# | `blocks.0.norm_1.weight` | `transformer.h.0.ln_1.weight` | as it is |
# | `blocks.0.attention.w_q`, `w_k`, `w_v` | `transformer.h.0.attn.c_attn` | joined; the weight transposed |
# | `blocks.0.attention.w_o` | `transformer.h.0.attn.c_proj` | the weight transposed |
# | `blocks.0.norm_2`, `feed_forward.w_in`, `.w_out` | `transformer.h.0.ln_2`, `mlp.c_fc`, `mlp.c_proj` | the last two transposed |
# | `final_norm` | `transformer.ln_f` | as it is |
#
# What GPT-2 cannot express is refused:

# %%
from week2_pretraining.solutions.pretraining import GPT2_OPTIONS

print(GPT2_OPTIONS)

# %% tags=["exercise"]
from week2_pretraining.solutions.pretraining import to_gpt2_state_dict

# %%
state_dict = model.state_dict()
weights = to_gpt2_state_dict(state_dict, config.model())
back = from_gpt2_state_dict(weights, config.model())
assert back.keys() == state_dict.keys() and all(torch.equal(back[name], value) for name, value in state_dict.items())
print(f"{len(state_dict)} tensors, there and back: equal in every bit")

# %% [markdown]
# `Trainer` brings its own optimizer, schedule and order of the data; it takes ours where we hand them over. One more thing differs: its
# models shift the labels inside, so a row must be one token longer than the targets.

# %%
from torch.utils.data import IterableDataset
from transformers import PrinterCallback, Trainer, TrainingArguments

few_tokens = [(x[:2, :32], y[:2, :32]) for x, y in held_out[:1]]
twin = replace(config, context_length=32, d_model=32, n_heads=2, batch_size=4, steps=20, warmup=0.25, evaluate_every=1)
shape = replace(twin.model(), context_length=33)
ours = GPT(shape, generator=torch.Generator().manual_seed(1)).to(device)
theirs = GPT2LMHeadModel(
    GPT2Config(vocab_size=shape.vocab_size, n_positions=33, n_embd=32, n_layer=shape.n_layers, n_head=2,
               resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
)  # fmt: skip
theirs.load_state_dict(to_gpt2_state_dict(ours.state_dict(), shape))


class OurRows(IterableDataset):
    """The rows that our loop draws, in the same order."""

    def __iter__(self):
        generator = torch.Generator().manual_seed(2)
        for _ in range(twin.steps):
            token_ids, targets = get_batch(train_ids, twin.batch_size, twin.context_length, generator)
            for row, last in zip(token_ids, targets[:, -1:], strict=True):
                row = torch.cat([row, last])  # (seq + 1)
                yield {"input_ids": row, "labels": torch.cat([torch.tensor([-100]), row[1:]])}


# %% tags=["nbval-ignore-output"]
def adamw(model):
    return torch.optim.AdamW(parameter_groups(model, twin.weight_decay), lr=twin.max_lr, betas=(0.9, twin.beta2))


our_losses = [r.loss for r in pretrain(ours, adamw(ours), twin, train_ids, few_tokens, torch.Generator().manual_seed(2))]

optimizer = adamw(theirs)
schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda step: warmup_cosine_lr(step, 1.0, round(twin.warmup * twin.steps), twin.steps)
)
arguments = TrainingArguments(
    output_dir=folder.name, max_steps=twin.steps, per_device_train_batch_size=twin.batch_size, max_grad_norm=twin.max_norm,
    logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, log_level="error",
    use_cpu=device.type == "cpu", dataloader_pin_memory=False,
    bf16=pick_dtype(device) == torch.bfloat16, fp16=pick_dtype(device) == torch.float16,
)  # fmt: skip
trainer = Trainer(theirs, arguments, train_dataset=OurRows(), optimizers=(optimizer, schedule))
trainer.remove_callback(PrinterCallback)
trainer.train()

their_losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
for step in (0, 9, 19):
    print(f"step {step + 1:2d}: ours {our_losses[step]:.6f}, Trainer {their_losses[step]:.6f}")
worst = max(abs(a - b) for a, b in zip(our_losses, their_losses, strict=True))
print(f"largest difference over {twin.steps} steps: {worst:.0e}")
assert worst < (1e-4 if device.type == "cpu" else 5e-2)

# %% [markdown]
# `Trainer` is your loop, with accelerate underneath for many devices, callbacks for evaluation and logging, and
# checkpoints with the same contents (`optimizer.pt`, `scheduler.pt`, `rng_state.pth`, `trainer_state.json`). Now you know what each of
# them is for.
#
# ## A folder that everybody can read
#
# To share a model, one writes a Hugging Face folder: the config in GPT-2's names, the weights as safetensors (no pickle: nothing in it
# can run), and the tokenizer. These two functions are given; the course model was saved by the first.

# %% tags=["given"]
from week2_pretraining.solutions.pretraining import save_pretrained

# %% tags=["given"]
from week2_pretraining.solutions.pretraining import load_pretrained

# %%
save_pretrained(model, tokenizer, Path(folder.name, "half-minute"))
print(sorted(file.name for file in Path(folder.name, "half-minute").iterdir()))
theirs = AutoModelForCausalLM.from_pretrained(Path(folder.name, "half-minute"))
again, _ = load_pretrained(Path(folder.name, "half-minute"), GPT)
x = held_out[0][0]
with torch.no_grad():
    ours, from_transformers, from_folder = model.cpu()(x), theirs(x).logits, again(x)
model.to(device)
print(f"transformers' logits differ by at most {(ours - from_transformers).abs().max():.0e}")
assert torch.allclose(ours, from_transformers, atol=1e-4) and torch.equal(ours, from_folder)

# %% [markdown]
# ## The course model
#
# The model for the next four weeks is made by the same loop, with `PretrainConfig()` as it stands. Four things are added. Its optimizer
# is AdamW with Muon for the matrices, which lesson 06 explains. Its learned positions begin as week 1's sinusoids, not as noise.
# In three of four steps the rows are about a story long, and each begins where a story begins (`starts`); every fourth step has
# full rows from anywhere. You will see below what these two are for. And its attention and norms run in PyTorch's fused kernels, on
# the same parameters: what your `attention` does in six operations, each of which writes a whole (query, key) matrix, is one. The repository holds the one that the course has trained, with its loss curve. **Make your own**, from your own parts, in a terminal (at most five minutes on two
# cores; `--resume` if it was stopped):
#
# ```
# python -m week2_pretraining.pretrain
# ```
#
# It writes `work/base`. On a GPU the same command trains a larger one; `--help` lists every setting.
#
# What do the fused kernels bring? Here is the attention, and the time of a step with it and without, in turns:

# %% tags=["given"]
from week2_pretraining.fused import FusedAttention

# %%
from week2_pretraining.fused import fuse

plain, fused = (GPT(PretrainConfig().model(), torch.Generator().manual_seed(0)) for _ in range(2))
fuse(fused)
rows = torch.randint(PretrainConfig().vocab_size, (4, PretrainConfig().context_length))
times: dict[nn.Module, list[float]] = {plain: [], fused: []}
for _ in tqdm(range(6), desc="timing both"):
    for timed in times:
        started = time.perf_counter()
        loss = F.cross_entropy(timed(rows).flatten(0, 1), rows.flatten())
        loss.backward()
        times[timed].append(time.perf_counter() - started)
with torch.no_grad():
    difference = (plain(rows) - fused(rows)).abs().max()

# %% tags=["nbval-ignore-output"]
ratios = sorted(slow / fast for slow, fast in zip(times[plain], times[fused], strict=True))[1:-1]  # without the extremes: the first warms up
print(f"logits differ by at most {difference:.0e}; forward and backward are {ratios[len(ratios) // 2]:.2f} times as fast "
      f"({ratios[0]:.2f} to {ratios[-1]:.2f})")
assert difference < 1e-4

# %%
about = json.loads((course_folder("base") / "training.json").read_text(encoding="utf-8"))
course_model, _ = load_pretrained(course_folder("base"), GPT)
course_model.to(device)
print(about["command"], "on", about["machine"])

# %% tags=["nbval-ignore-output"]
fair = [(x[:, -128:].to(device), y[:, -128:].to(device)) for x, y in held_out]  # rows as long as ours, for both
half_minute_loss, course_loss = evaluate_loss(model, fair), evaluate_loss(course_model, fair)
curve = about["records"]
fig, ax = figure(f"On the same rows: {half_minute_loss:.2f} nats after {records[-1].seconds:.0f} s, {course_loss:.2f} for the course model",
                 "training tokens", "held-out loss (nats per token)")
ax.plot([r["tokens"] for r in curve], [r["held_out_loss"] for r in curve], "o-", color=COLOURS[0], label="course model, recorded")
ax.plot([r.tokens for r in records], [r.held_out_loss for r in records], "s-", color=COLOURS[3], label="your run above")
ax.set_xscale("log")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Read them side by side. (How to choose the next token well is lesson 05; here the logits are divided by a temperature of 0.7.)

# %%
@torch.no_grad()
def write(model, prompt: str, n_tokens: int, generator: torch.Generator, temperature: float = 0.7) -> str:
    """The prompt and what the model goes on with, up to the end of the text."""
    token_ids = tokenizer(prompt, return_tensors="pt").input_ids
    for _ in range(n_tokens):
        logits = model(token_ids[:, -model.config.context_length :].to(device))[:, -1].cpu()  # (1, vocab)
        next_id = torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator)
        if next_id.item() == tokenizer.eos_token_id:
            break
        token_ids = torch.cat([token_ids, next_id], dim=1)
    return tokenizer.decode(token_ids[0], skip_special_tokens=True)


# %% tags=["nbval-ignore-output"]
prompt = "<|endoftext|>One morning, Anna"
for name, writer in (("half a minute", model), ("the course model", course_model)):
    print(f"--- {name}\n{write(writer, prompt, 120, torch.Generator().manual_seed(3))}\n")

# %% [markdown]
# What a loss does not say: does the writer keep to what it has said? The stories' facts can tell. Each of 60 held-out stories is
# begun up to the sentence in which hero, friend, thing and first count have been told, and the model goes on, greedily. Then the
# words are counted: of all names in the continuation, how many are those of hero and friend?
#
# **Predict.** Two names of 24 by pure chance are 8 %. How many will each of the two models get right?

# %%
from week2_pretraining.consistency import beginning, consistency, kept

asked = stories(120, seed=5, split="validation")
asked = [story for story in asked if len(tokenizer(beginning(story)).input_ids) < 70][:60]  # half of the small model's context
writers = {"half a minute": theirs, "the course model": AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()}
found = {name: consistency(writer.cpu(), tokenizer, asked, max_new_tokens=56) for name, writer in writers.items()}
found["the story itself"] = [kept(story, beginning(story), story.text[len(beginning(story)) :]) for story in asked]
resampled = torch.randint(len(asked), (200, len(asked)), generator=torch.Generator().manual_seed(0))  # bootstrap over stories


def share(rows: list[dict], kind: str) -> str:
    right, all_ = torch.tensor([[row[kind], row["all " + kind]] for row in rows], dtype=torch.float32).unbind(dim=1)
    if not all_.any():
        return "never named"
    low, high = (right[resampled].sum(1) / all_[resampled].sum(1).clamp(min=1)).quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{right.sum() / all_.sum():4.0%} [{low:.0%}, {high:.0%}]"


# %% tags=["nbval-ignore-output"]
print(f"{'share that fits the story':26s}" + "".join(f"{kind:>20}" for kind in ("names", "things", "counts")))
for name, rows in found.items():
    print(f"{name:26s}" + "".join(f"{share(rows, kind):>20}" for kind in ("names", "things", "counts")))

# %% [markdown]
# (In brackets 95 % intervals, by drawing the stories again.) Looking up a name is a skill of attention: find where someone was
# named, and copy that. It comes suddenly and late. Five minutes do not reach things, and counts only in part: there are twice as many
# things as names, they are said less often, and a count must be worked out. The rows and the sinusoids are
# for this skill. We trained the course model's config four times for 400 steps (0.8 million tokens; one run each, 2 CPU cores) and asked, at each
# name that had come before in its held-out story (576 of them), which of the 24 names was the likeliest. With rows from anywhere, which
# hold pieces of two or three stories and the names of all of them, the right one was first in 8 %, however positions begin: a guess. With rows
# that begin at a story it was first in 12 % where positions begin as noise, and in 26 % where they begin as sinusoids
# (`python -m benchmarks.names`). The course model has had 1,000 steps of the last kind.
#
# And with more time? The same command with other `--steps` and `--n-stories` (one run each), over 150 held-out stories, 80 tokens each, greedily
# (`python -m benchmarks.consistency`; in brackets 95 % intervals over stories):
#
# | steps | tokens | held-out loss | names | things | counts |
# |---|---|---|---|---|---|
# | 1,000 (the course model) | 2.0 M | 0.645 | 81 % (77 to 85) | 8 % (5 to 13) | 44 % (31 to 57) |
# | 1,600 | 3.1 M | 0.589 | 82 % (78 to 86) | 27 % (18 to 35) | 26 % (14 to 38) |
# | 2,200 | 4.3 M | 0.575 | 85 % (80 to 89) | 28 % (20 to 36) | 28 % (16 to 40) |
# | 4,000 | 7.8 M | 0.526 | 91 % (87 to 94) | 90 % (83 to 94) | 31 % (20 to 44) |
# | the stories themselves | | | 100 % | 96 % (92 to 99) | 100 % |
#
# The loss falls smoothly, the skill does not: things are hardly looked up for 2,200 steps, and nearly always after 4,000. Counts do not get better
# in any of these runs.
#
# **Question.** Which mistakes of the first story are gone in the second, and which are left? Look at spelling, grammar, who has
# what, and whether the end fits the beginning. The loss is one number; these come right one after another as it falls.
#
# ## How large should a model be?
#
# Kaplan et al. trained models of 768 to 1.5 billion parameters (without embeddings) and found straight lines in log-log plots,
# some over more than seven orders of magnitude:
#
# $$L(N) = \left(\frac{N_c}{N}\right)^{\alpha_N}, \qquad \alpha_N \approx 0.076, \quad N_c \approx 8.8 \cdot 10^{13} \qquad \text{(eq. 1.1)}$$
#
# for models trained to the end on data in plenty; likewise $\alpha_D \approx 0.095$ for tokens of data (1.2) and $\alpha_C \approx
# 0.050$ for compute, spent in the best way (1.3). Lines of that kind are why anybody dares to build a model a thousand times larger:
# its loss is known beforehand, more or less. *More or less* is a matter of statistics, so your fit returns an interval.
#
# In logarithms, $\ln L = \alpha \ln N_c - \alpha \ln N$: a line, by least squares. With residuals $r_i$ and $x_i = \ln N_i$,
#
# $$s^2 = \frac{\sum_i r_i^2 / (n - 2)}{\sum_i (x_i - \bar x)^2}, \qquad \alpha \pm t_{97.5\,\%}(n - 2) \cdot s$$
#
# $n - 2$, because two numbers were fitted. And $t$ in place of 1.96, because with few points the noise itself is known badly:

# %% tags=["given"]
from week2_pretraining.solutions.pretraining import t_quantile

# %% tags=["exercise"]
from week2_pretraining.solutions.pretraining import fit_power_law

# %% [markdown]
# Against NumPy, whose `polyfit` also returns the covariance of what it has fitted:

# %%
sizes, losses = [1e4, 3e4, 1e5, 3e5, 1e6], [5.05, 4.61, 4.25, 3.84, 3.57]
exponent, constant, (low, high) = fit_power_law(sizes, losses)
(slope, intercept), covariance = np.polyfit(np.log(sizes), np.log(losses), 1, cov=True)
margin = t_quantile(3) * math.sqrt(covariance[0, 0])
print(f"yours {exponent:.6f} [{low:.6f}, {high:.6f}], numpy {-slope:.6f} [{-slope - margin:.6f}, {-slope + margin:.6f}]")
assert max(abs(exponent + slope), abs(high - low - 2 * margin), abs(math.log(constant) + intercept / slope)) < 1e-6

# %% [markdown]
# ### Kaplan's law in small
#
# Five models of two layers on the same characters, each with the same number of them; $N = 12\, n_\text{layers}\, d_\text{model}^2$
# without the embeddings, as in the paper. As there (eq. D.1), larger models get a smaller learning rate.
#
# **Predict.** Will our exponent be larger or smaller than 0.076?

# %%
steps = preset(laptop=300, gpu=3000)
ladder = [
    replace(tiny, d_model=d_model, steps=steps, max_lr=0.05 / math.sqrt(d_model), evaluate_every=steps)
    for d_model in preset(laptop=(8, 16, 32, 48, 64), gpu=(8, 16, 32, 64, 128))
]
sizes = [12 * rung.n_layers * rung.d_model**2 for rung in ladder]
print(sizes, "parameters;", f"{steps * tiny.batch_size * tiny.context_length:,} characters each")

# %% tags=["nbval-ignore-output"]
losses = []
for rung, size in zip(ladder, sizes, strict=True):
    parts = start(rung)
    (last,) = pretrain(*parts[:2], rung, character_ids, held_out_characters, parts[2])
    losses.append(last.held_out_loss)
    print(f"{size:7,} parameters: {losses[-1]:.3f} nats per character")

# %% tags=["nbval-ignore-output"]
exponent, constant, (low, high) = fit_power_law(sizes, losses)
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
ax, grid = axes[0], np.geomspace(sizes[0] / 1.5, sizes[-1] * 1.5, 50)
ax.plot(sizes, losses, "o", color=COLOURS[0], label="measured")
ax.plot(grid, (constant / grid) ** exponent, color=COLOURS[0], label="fit")
middle = math.exp(sum(map(math.log, sizes)) / len(sizes))
ax.plot(grid, (constant / middle) ** exponent * (middle / grid) ** 0.076, "--", color=COLOURS[3], label="the paper's slope, 0.076")
ax.set_xscale("log")
ax.set_yscale("log")
ax.yaxis.set_major_formatter("{x:.1f}")
ax.yaxis.set_minor_formatter("{x:.1f}")
ax.set(xlabel="parameters without embeddings", ylabel="held-out loss (nats per character)")
ax.set_title(f"Ours: exponent {exponent:.3f}, 95 % [{low:.3f}, {high:.3f}]", loc="left", fontsize=11)
ax.legend(frameon=False)

ax = axes[1]
names = ["ours, N", "paper, N", "paper, D", "paper, C"]
ax.errorbar([exponent], [0], xerr=[[exponent - low], [high - exponent]], fmt="o", color=COLOURS[0], capsize=4)
ax.plot([0.076, 0.095, 0.050], [1, 2, 3], "s", color=COLOURS[3])
ax.set_yticks(range(4), names)
ax.axvline(0, color="grey", linestyle=":")
ax.set(xlabel="exponent", ylim=(-0.6, 3.6))
ax.invert_yaxis()
ax.set_title("Parameters N, data D, compute C", loc="left", fontsize=11)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# <details><summary>Answer: why ours differs</summary>
#
# Smaller, on a laptop, and uncertain: each size was trained only once. The main reason is *data*. Kaplan's $\alpha_N$ holds where data and
# training do not limit; our models all stop after the same few characters, long before they have learned what they could, and the
# larger ones lose most by that. Both limits together are the paper's eq. 1.5, $L(N, D)$: for small
# $D$ the curve over $N$ becomes flat. Besides: our unit is nats per character, our text is a very small world, and a line through
# two orders of magnitude says little about seven.
#
# </details>
#
# ## The Chinchilla correction
#
# From their laws Kaplan et al. concluded that more compute should go mostly into a larger model ($N \propto C^{0.73}$, $D \propto C^{0.27}$):
# for ten times the compute, one 5.5 times larger, on only 1.8 times more tokens (as Hoffmann et al., section 1, put it). GPT-3 followed:
# 175 billion parameters, 300 billion tokens, 1.7 tokens per parameter. Two years later Hoffmann et al. found the two exponents to be
# about equal, 0.50 and 0.50 (table 2, first row). What had gone wrong?
#
# Kaplan's runs shared one schedule, as long as the longest run. The loss of a shorter run was read from the *middle* of a long one,
# where the learning rate is still high. A run whose schedule ends when the run ends does better; so short runs looked worse than they are
# (Hoffmann et al., section 2 and figure A1).
#
# With schedules that fit, Hoffmann et al. trained over 400 models (70 million to 16 billion parameters, 5 to 500 billion tokens) and
# fitted
#
# $$L(N, D) = E + \frac{A}{N^{0.34}} + \frac{B}{D^{0.28}}, \qquad E = 1.69, \; A = 406.4, \; B = 410.7 \qquad \text{(eqs. 2 and 10)}$$
#
# $E$ is the loss that no model gets below, for text is not fully predictable: the second thing that a pure power law lacks. A budget of
# $C = 6ND$ FLOPs can be spent on a large model and few tokens, or on a small one and many:
#
# **Predict.** With a hundred times the budget, how much larger is the best model?

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
budgets, n = np.logspace(19, 24, 6), np.logspace(7.5, 12.5, 2001)
best = []
for budget, colour, style in zip(budgets, COLOURS, LINES, strict=False):
    loss = 1.69 + 406.4 / n**0.34 + 410.7 / (budget / (6 * n)) ** 0.28
    best.append(n[loss.argmin()])
    near = loss < loss.min() + 0.5
    axes[0].plot(n[near], loss[near], linestyle=style, color=colour, label=f"{budget:.0e}")
    axes[0].plot(best[-1], loss.min(), "o", color=colour)
axes[0].set_xscale("log")
axes[0].set(xlabel="parameters N", ylabel="loss by their fit (nats per token)")
axes[0].set_title(f"100 times the FLOPs: best N {best[-1] / best[-3]:.1f} times larger", loc="left", fontsize=11)
axes[0].legend(title="FLOPs", frameon=False, fontsize=8)
axes[1].plot(budgets, best, "o-", color=COLOURS[0], label="best N by their fit (method 3)")
axes[1].plot(budgets, np.sqrt(budgets / 120), "-", color=COLOURS[2], label="20 tokens per parameter")
axes[1].plot(budgets, best[0] * (budgets / budgets[0]) ** 0.73, "--", color=COLOURS[3], label="Kaplan's slope, $C^{0.73}$")
axes[1].set_xscale("log")
axes[1].set_yscale("log")
axes[1].set(xlabel="budget C (FLOPs)", ylabel="parameters N")
slope = math.log(best[-1] / best[0]) / math.log(budgets[-1] / budgets[0])
axes[1].set_title(f"Best N grows as $C^{{{slope:.2f}}}$, not $C^{{0.73}}$", loc="left", fontsize=11)
axes[1].legend(frameon=False)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Parameters and tokens grow about equally. Their other two methods say 0.50 and 0.49, which is a constant ratio, and from their
# tables comes the rule of thumb: about **20 tokens per parameter**.

# %% tags=["exercise"]
from week2_pretraining.solutions.pretraining import chinchilla_optimal

# %%
models = {  # parameters, training tokens: Hoffmann et al. 2022, table 1
    "GPT-3": (175e9, 300e9),
    "Gopher": (280e9, 300e9),
    "Chinchilla": (70e9, 1.4e12),
    "course model": (sum(p.numel() for p in course_model.parameters()), curve[-1]["tokens"]),
}
for name, (n, d) in models.items():
    best_n, best_d = chinchilla_optimal(6 * n * d)
    print(f"{name:13s} {6 * n * d:8.1e} FLOPs: {n:8.1e} parameters, {d:8.1e} tokens ({d / n:6.1f} each); "
          f"optimal {best_n:8.1e}, {best_d:8.1e}")

# %% [markdown]
# The same budget, 5.76e23 FLOPs in the paper's count, had made Gopher with 280 billion parameters and 300 billion tokens. Spent on a quarter of the
# parameters and more than four times the tokens it made Chinchilla, which is better on nearly every task: 67.6 % against 60.0 % on MMLU (table 6).
# By the same rule the course model is too large for its tokens. But the rule was fitted to web text, with models of 70 million parameters and
# more; on a small world of stories, with another optimizer, it need not hold.
#
# **Question.** Today's small models are trained on far more: SmolLM2-135M has read 2 trillion tokens, about 15,000 per parameter. Is that a mistake? What
# does $C = 6ND$ leave out?
#
# <details><summary>Answer</summary>
#
# It counts the training alone. A model that is used a billion times should be small, even if its training then costs more than it
# must. Compute-optimal is not the same as useful.
#
# </details>
#
# ## What to read
#
# - **Kaplan et al. 2020**, section 1 with figures 1 and 2, then section 6.1 (how to spend compute). In appendix C they list what they
#   were not sure of: find the sentences on the learning rate of short runs.
# - **Hoffmann et al. 2022**, section 3 (three ways to the same answer), table 3, and figure A1 beside your last plot.
# - **GPT-2** (2019), sections 2.1 to 2.3: which data they took instead of Common Crawl, and why; table 2: the four sizes.
# - **nanoGPT**, [`train.py`](https://github.com/karpathy/nanoGPT/blob/master/train.py): its checkpoint is a dict like
#   yours. Which of your five entries is missing, and what follows? `estimate_mfu` in `model.py` is your exercise.
# - **Hugging Face**, [`trainer.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/trainer.py): find
#   `_save_checkpoint` and the generators that it saves (`rng_state.pth`); how does resuming get to the right batch?
# - **Megatron-LM**, [`megatron/training/training.py`](https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/training/training.py):
#   `train_step` and `training_log`; its throughput in TFLOP/s per GPU is the numerator of MFU. Look for what happens when a signal to
#   stop comes.
# - **DeepSpeed-Chat**,
#   [`training`](https://github.com/deepspeedai/DeepSpeedExamples/tree/master/applications/DeepSpeed-Chat/training): each step is a
#   flat loop like yours around `model.backward(loss)` and `model.step()`; you meet it again in week 6.
#
# ## Recap
#
# - Evaluate on what was held out, per counted target, and leave no trace in the model.
# - MFU = tokens/s times FLOPs per token over the peak; the step costs three times the forward pass.
# - A checkpoint holds weights, optimizer, generator, step and config; it is written beside, synced, then renamed. Resumed means: the same digits.
# - `Trainer` does the same computation, to six digits.
# - Loss falls as a power of size, data and compute, as long as nothing else limits; about 20 tokens per parameter make the best of a training budget.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("pretraining")

# %%
progress("week2_pretraining")
