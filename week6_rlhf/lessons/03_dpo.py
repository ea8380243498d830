# %% [markdown]
# # DPO: the language model is the reward model
#
# In the last two lessons you went the long way: people's choices, a reward model, then PPO, with stories written in each step, a value model, a
# reference and a dozen settings. Rafailov et al. 2023 noticed that the middle can be left out. The problem that PPO works on has a known
# solution, and that solution can be turned around: *every policy is the best one for some reward*, and you can write down which. So the
# choices can be fitted to the policy directly. What is left is a logistic regression on pairs: no reward model, no value model, no sampling.
#
# You write five short functions, and train with them. Then you look at what the short way costs: where the probability goes that the
# rejected answers lose, what $\beta$ buys, how far DPO gets beside best-of-n and PPO at the same distance from the reference, and what the
# aligned model has forgotten.
#
# Reading and writing: about 100 minutes. Papers: Rafailov et al. 2023, *Direct Preference Optimization: Your Language Model is Secretly a
# Reward Model* ([arXiv:2305.18290](https://arxiv.org/abs/2305.18290)); Azar et al. 2023, *A General Theoretical Paradigm to Understand Learning
# from Human Preferences* (IPO, [arXiv:2310.12036](https://arxiv.org/abs/2310.12036)); Mitchell 2023, *A note on DPO with noisy preferences &
# relationship to IPO* (cDPO, [ericmitchell.ai/cdpo.pdf](https://ericmitchell.ai/cdpo.pdf)); Razin et al. 2024, *Unintentional Unalignment:
# Likelihood Displacement in Direct Preference Optimization* ([arXiv:2410.08847](https://arxiv.org/abs/2410.08847)). Repositories:
# [eric-mitchell/direct-preference-optimization](https://github.com/eric-mitchell/direct-preference-optimization) and
# [TRL](https://github.com/huggingface/trl).

# %%
import contextlib
import copy
import io
import json
import logging
import math
import warnings
from dataclasses import replace
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from datasets import Dataset, disable_progress_bars
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging
from trl import DPOConfig as TRLConfig
from trl import DPOTrainer

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.models import course_folder
from shared.plotting import COLOURS, figure
from shared.runtime import seed_everything
from week2_pretraining.fused import fuse
from week2_pretraining.solutions.optimization import warmup_cosine_lr
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.chat import STOP
from week4_finetuning.sft import as_transformers
from week4_finetuning.solutions.instruction_data import collate_sft
from week6_rlhf import dpo_study
from week6_rlhf.dpo_training import DPOConfig, Preference, batches_of, course_pairs, train
from week6_rlhf.policy import encode, sample_replies, text_of
from week6_rlhf.preferences import true_score
from week6_rlhf.samples import told

seed_everything(0)
warnings.filterwarnings("ignore")
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
disable_progress_bars()
logging.getLogger("trl").setLevel(logging.ERROR)
bootstrap_interval = mine("bootstrap_interval")
instruct, tokenizer = load_pretrained(course_folder("instruct"), mine("GPT"))
study = dpo_study.load()
print({part: len(results) for part, results in study.items()})

# %% [markdown]
# What takes longer than a lesson is stored: `python -m week6_rlhf.dpo_study` made `week6_rlhf/dpo_study.json`, with the functions that you write
# here. Intervals are 95 % bootstrap intervals over prompts, by your `bootstrap_interval`.


# %%
def with_interval(values, digits: int = 2) -> str:
    values = torch.as_tensor(values, dtype=torch.float64)
    low, high = bootstrap_interval(values, generator=torch.Generator().manual_seed(0))
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


# %% [markdown]
# ## From a reward to a loss, in five equations
#
# RLHF looks for the policy with the highest reward that stays near the reference (eq. 3 of the paper; PPO's objective):
#
# $$\max_\pi \; \mathbb{E}_{y \sim \pi(\cdot \mid x)} [r(x, y)] - \beta \, \mathrm{KL}(\pi(\cdot \mid x) \,\|\, \pi_\text{ref}(\cdot \mid x))$$
#
# This maximum is known: the reference, with each answer made likelier by the exponential of its reward (eq. 4), where $Z(x)$ makes the sum 1:
#
# $$\pi_r(y \mid x) = \tfrac{1}{Z(x)} \, \pi_\text{ref}(y \mid x) \, e^{r(x, y) / \beta}$$
#
# Nobody can compute $Z(x)$, a sum over all texts. But take the logarithm and solve for the reward (eq. 5):
#
# $$r(x, y) = \beta \log \frac{\pi_r(y \mid x)}{\pi_\text{ref}(y \mid x)} + \beta \log Z(x)$$
#
# and put that into Bradley and Terry's model of a choice, $p(y_w \succ y_l \mid x) = \sigma(r(x, y_w) - r(x, y_l))$. Both answers are to the same
# prompt, so $Z(x)$ is the same in both, *and cancels* (eq. 6). The likelihood of the choices is now a function of the policy alone (eq. 7):
#
# $$\mathcal{L}_\text{DPO} = -\mathbb{E} \left[ \log \sigma \left( \beta \log \frac{\pi(y_w \mid x)}{\pi_\text{ref}(y_w \mid x)} - \beta \log \frac{\pi(y_l \mid x)}{\pi_\text{ref}(y_l \mid x)} \right) \right]$$
#
# See it with a prompt that has four answers only, where $Z$ can be computed:

# %%
reference_p = torch.tensor([0.4, 0.3, 0.2, 0.1])
reward, beta = torch.tensor([0.0, 1.0, -1.0, 2.0]), 0.5
best = (reference_p.log() + reward / beta).softmax(dim=0)  # eq. 4


def objective(policy: Float[Tensor, "answer"]) -> float:
    """Eq. 3: reward minus beta times KL."""
    return ((policy * reward).sum() - beta * (policy * (policy / reference_p).log()).sum()).item()


print("best policy:", [round(p, 3) for p in best.tolist()])
others = torch.rand(10_000, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
near = (best.log() + 0.3 * torch.randn(10_000, 4, generator=torch.Generator().manual_seed(1))).softmax(dim=1)
print(f"eq. 3: {objective(best):.4f}; the best of 20,000 other policies: {max(map(objective, [*others, *near])):.4f}")
log_ratio = beta * (best / reference_p).log()  # eq. 5 without Z
print("reward differences:         ", (reward - reward[0]).tolist())
print("the same from the log-ratios:", [round(value, 4) for value in (log_ratio - log_ratio[0]).tolist()])

# %% [markdown]
# The rewards can be read off the policy, up to one number a prompt. That is the title of the paper.
#
# ## The log-probability of an answer
#
# All that the loss needs is $\log \pi(y \mid x)$ of whole answers, twice for each of two models:
#
# $$\log \pi(y \mid x) = \sum_{t} \log \pi(y_t \mid x, y_{<t})$$
#
# A *sum*. (A mean would be another model of a choice; week 3's `acc_norm` was that kind of thing.) As in week 4, labels stand at the places of
# their tokens, -100 on the prompt and on padding, and the logits at $t$ are about the token at $t + 1$.

# %% tags=["given"]
from week6_rlhf.solutions.dpo import check_labels

# %% tags=["exercise"]
from week6_rlhf.solutions.dpo import sequence_log_probs

# %% [markdown]
# The pairs: for each of 1,500 prompts the instruct model told four stories, and the best and the worst by the true preference are a pair. One
# label in twenty is wrong. (The true preference is known here, `week6_rlhf/preferences.py`. The loss never sees it; it sees which of two was chosen.)

# %%
clean = course_pairs(tokenizer, replace(DPOConfig(), noise=0.0))
pairs = course_pairs(tokenizer, DPOConfig())
turned = sum(a.chosen != b.chosen for a, b in zip(clean, pairs, strict=True))
print(f"{len(pairs)} pairs, {turned} of them with the wrong label\n")
for name, ids in pairs[0]._asdict().items():
    print(f"{name}: {tokenizer.decode(ids)}\n")


# %%
def log_probs(model: nn.Module, batch: list[Preference]) -> tuple[Tensor, Tensor]:
    """log p of the chosen and of the rejected answers, by one pass over both."""
    rows = [(pair.prompt, pair.chosen) for pair in batch] + [(pair.prompt, pair.rejected) for pair in batch]
    rows = collate_sft(rows, tokenizer.pad_token_id, max_length=256)
    output = model(rows["token_ids"])
    return sequence_log_probs(getattr(output, "logits", output), rows["labels"]).chunk(2)


theirs = as_transformers(instruct, tokenizer)  # the same weights as a GPT-2 of transformers
with torch.no_grad():
    ours = log_probs(instruct, pairs[:1])[0].item()
    token_ids = torch.tensor([pairs[0].prompt + pairs[0].chosen])
    labels = token_ids.clone()
    labels[:, : len(pairs[0].prompt)] = -100
    mean_loss = theirs(token_ids, labels=labels).loss.item()
print(f"ours {ours:.4f}, transformers' mean loss times its {len(pairs[0].chosen)} tokens {-mean_loss * len(pairs[0].chosen):.4f}")
assert math.isclose(ours, -mean_loss * len(pairs[0].chosen), abs_tol=1e-2)

# %% [markdown]
# **Predict.** Could you use $\log \pi(y \mid x)$ itself as a reward: is the chosen answer the likelier one? What decides which answer is
# likelier?

# %%
with torch.no_grad():
    looked_at = clean[:64]
    chosen, rejected = (torch.cat(side) for side in zip(*(log_probs(instruct, looked_at[i : i + 16]) for i in range(0, 64, 16)), strict=True))
shorter = torch.tensor([float(len(pair.chosen) < len(pair.rejected)) for pair in looked_at])
print("pairs in which the chosen answer is likelier: ", with_interval((chosen > rejected).float()))
print("pairs in which the chosen answer is shorter:  ", with_interval(shorter))
print("pairs in which the shorter answer is likelier:", with_interval(((chosen > rejected).float() == shorter).float()))

# %% [markdown]
# Length has much to do with it: each token makes an answer less likely. The reference takes that out: what counts is how much *more* likely an answer has become.
#
# ## The loss
#
# With $h = \log \frac{\pi(y_w \mid x)}{\pi_\text{ref}(y_w \mid x)} - \log \frac{\pi(y_l \mid x)}{\pi_\text{ref}(y_l \mid x)}$ and a chance $\varepsilon$ that a label is
# wrong (*conservative* DPO; plain DPO is $\varepsilon = 0$):
#
# $$\mathcal{L} = -(1 - \varepsilon) \log \sigma(\beta h) - \varepsilon \log \sigma(-\beta h)$$
#
# Two things to take care of. The loss must be finite for a pair that is wrong by thousands of nats, and so must its gradient. And nothing flows into the
# reference, even if someone hands over log-probabilities that ask for a gradient.

# %% tags=["given"]
from week6_rlhf.solutions.dpo import check_log_probs

# %% tags=["exercise"]
from week6_rlhf.solutions.dpo import dpo_loss

# %% [markdown]
# **Predict.** Before the first step policy and reference are the same model. What is the loss, whatever $\beta$ and $\varepsilon$ are? And is
# the gradient zero there?

# %%
same = [chosen, rejected, chosen, rejected]
print(f"beta 0.1: {dpo_loss(*same):.6f}; beta 5, smoothing 0.3: {dpo_loss(*same, beta=5.0, label_smoothing=0.3):.6f}; ln 2 = {math.log(2):.6f}")
margins = torch.tensor([-5000.0, -20.0, -5.0, 0.0, 5.0, 20.0, 5000.0], requires_grad=True)
zero = torch.zeros(7)
loss = dpo_loss(margins, zero, zero, zero)
loss.backward()
print(f"loss {loss:.3f}; the push on each margin:")
for h, push in zip(margins.tolist(), (-7 * margins.grad).tolist(), strict=True):
    print(f"   h = {h:6.0f} nats: {push:.4f}")

# %% [markdown]
# The gradient (§4 of the paper, *What does the DPO update do?*) raises $\log \pi(y_w)$ and lowers $\log \pi(y_l)$, both by $\beta \, \sigma(-\beta h)$: at most $\beta$,
# half of that at the start, and next to nothing for a pair that is right already. So the loss never stops pushing, but it pushes where the
# policy is still wrong.
#
# ## The reward that the policy stands for
#
# Equation 5 without its last term is the *implicit reward*. It is what you watch while DPO runs.

# %% tags=["exercise"]
from week6_rlhf.solutions.dpo import implicit_rewards

# %%
found = implicit_rewards(best.log(), reference_p.log(), beta=0.5)
print("four answers, from above:", [round(value, 4) for value in (found - found[0]).tolist()], "rewards:", (reward - reward[0]).tolist())
print("every answer at the start:", implicit_rewards(chosen, chosen)[:4].tolist())

# %% [markdown]
# ## The reference is a model of its own
#
# The reference is the policy as it was before the first step. In a notebook it is easily written down wrong: `reference = policy`.
#
# **Predict.** With one object under two names, what will the loss be after 1, 2, 10 steps? Will the model change?

# %%
policy = fuse(copy.deepcopy(instruct))
reference = policy  # the bug
short = sorted(pairs, key=lambda pair: len(pair.chosen) + len(pair.rejected))[100:104]  # the same four pairs in each step
optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.0)
for step in range(12):
    policy_log_probs, reference_log_probs = log_probs(policy, short), log_probs(reference, short)
    loss = dpo_loss(*policy_log_probs, *reference_log_probs)
    if step % 3 == 0 or step == 11:
        means = [round(side.mean().item(), 1) for side in policy_log_probs]
        print(f"step {step:2}: loss {loss:.6f}; log p of the chosen {means[0]}, of the rejected {means[1]}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% [markdown]
# The loss says that nothing happens. It is $\ln 2$ for ever, for the margin is 0 by construction. But the *gradient* is not 0: it is that of the first step,
# again and again, with nothing that slows it down. The model is driven as far as the learning rate goes, and no curve of the loss shows it.
#
# So make a real copy. One that learns nothing and has no dropout, whatever the policy has; and leave the policy as it was.

# %% tags=["exercise"]
from week6_rlhf.solutions.dpo import frozen_reference

# %% [markdown]
# (`train` in `week6_rlhf/dpo_training.py` refuses a reference that shares a weight with the policy. It also refuses a pair whose answers are the same
# or empty: there is nothing to prefer.)
#
# ## The loop
#
# The reference never changes, so its log-probabilities are computed *once*, before the first step: that saves a quarter of the work and
# half of the memory for weights. The rest is the loop of week 2. (`fuse` of week 2 gives the GPT PyTorch's kernels; parameters and logits stay.)

# %%
config = replace(DPOConfig(), batch_size=8, steps=30)
policy = fuse(copy.deepcopy(instruct))
reference = frozen_reference(policy)
batches = [[pairs[i] for i in picked] for picked in batches_of(len(pairs), config)]
with torch.no_grad():
    of_reference = [log_probs(reference, batch) for batch in tqdm(batches, desc="reference")]

optimizer = torch.optim.AdamW(policy.parameters(), lr=config.max_lr, betas=(0.9, 0.95), weight_decay=0.0)
seen = []
for batch, (reference_chosen, reference_rejected) in zip(tqdm(batches, desc="DPO"), of_reference, strict=True):
    chosen, rejected = log_probs(policy, batch)
    loss = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, config.beta)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_norm)
    optimizer.step()
    rewards = implicit_rewards(chosen, reference_chosen, config.beta), implicit_rewards(rejected, reference_rejected, config.beta)
    seen.append([loss.item(), (rewards[0] > rewards[1]).float().mean().item(), *(side.mean().item() for side in rewards)])
for start in range(0, config.steps, 10):
    loss, right, up, down = torch.tensor(seen[start : start + 10]).mean(dim=0).tolist()
    print(f"steps {start:2} to {start + 9}: loss {loss:.3f}, right order {right:.0%}, reward of the chosen {up:+.3f}, of the rejected {down:+.3f}")

# %% [markdown]
# Thirty steps are noisy. The stored runs are longer, and there are two seeds of each.
#
# **Predict.** The margin grows: that is what the loss asks for. What will $\log \pi(y_w)$ do, the log-probability of the *chosen* answers: rise, stay, or fall?

# %%
runs = [one for one in study["sweep"] if one["config"]["beta"] == DPOConfig().beta]


def smooth(values: list[float], width: int = 10) -> Tensor:
    return torch.tensor(values).unfold(0, width, 1).mean(dim=1)


fig, ax = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for seed, one in enumerate(runs):
    style = {"linestyle": ("-", "--")[seed], "label": f"seed {seed}"}
    ax[0].plot(range(10, len(one["curves"]["margin"]) + 1), smooth(one["curves"]["margin"]), color=COLOURS[0], **style)
    for name, colour, marker in (("chosen", COLOURS[2], "o"), ("rejected", COLOURS[3], "s")):
        ax[1].plot(range(10, len(one["curves"][name]) + 1), smooth(one["curves"][name]), color=colour, linestyle=style["linestyle"], marker=marker, markevery=0.2, markersize=5, label=f"{name}, seed {seed}")
falls = all(smooth(one["curves"]["chosen"])[-1] < 0 for one in runs)
ax[0].set(xlabel="step", ylabel="margin of the implicit rewards")
ax[0].set_title("The margin grows", loc="left", fontsize=11)
ax[1].set(xlabel="step", ylabel=r"$\log \pi - \log \pi_{ref}$, nats an answer")
ax[1].set_title("and the chosen answers get less likely too" if falls else "and the chosen answers hold their own", loc="left", fontsize=11)
ax[1].axhline(0, color="grey", linewidth=0.8, linestyle=":")
one_round = len(pairs) // DPOConfig().batch_size  # steps in which every pair is seen once
for axis in ax:
    axis.axvline(one_round, color="grey", linewidth=0.8, linestyle="--")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
plt.show()
for one in runs:
    for steps, at in ((f"steps {one_round - 9} to {one_round}", one_round - 10), ("last 10 steps", -1)):
        means = {name: smooth(one["curves"][name])[at].item() for name in ("margin", "chosen", "rejected")}
        print(f"seed {one['config']['seed']}, {steps}:", ", ".join(f"{name} {value:+.2f}" for name, value in means.items()))

# %% [markdown]
# Both fall, the rejected faster; the chosen are 5 nats down when every pair has been seen once (the dashed line). (From there on the same pairs come again, and the model knows them: the chosen recover. On
# new pairs they do not. More of that below.) The loss sees a difference only: it is as content with "rejected down by 20, chosen down by 10" as with "chosen up by
# 10". And two answers to one prompt, by one model, share most of what makes them likely, so what pushes one down drags the other along. That is
# *likelihood displacement*. The probability goes somewhere else, to texts that are in no pair. Razin et al. show that this can be harmless, or
# catastrophic (their model, trained to prefer one refusal over another, refuses less), and that pairs with similar hidden states do it most. So watch
# $\log \pi$ of the chosen, not the margin alone, and read what the model writes.
#
# What helps is to ask for more than a difference. A common term is SFT on the chosen answers, added to the loss (`sft_weight` in `DPOConfig`).
#
# ## The same in TRL
#
# TRL's `DPOTrainer` gets the same weights, the same pairs in the same order, the same optimizer. First its loss on a batch, after a step or two have made the
# policies differ from the reference; then twenty steps. (We take pairs in which both stories came to their end: TRL writes its end token behind every
# answer, also behind one that was cut off.)

# %%
stop = tokenizer.convert_tokens_to_ids(STOP)
ended = sorted((pair for pair in pairs if pair.chosen[-1] == pair.rejected[-1] == stop), key=lambda pair: len(pair.chosen) + len(pair.rejected))[:60]
twenty = replace(DPOConfig(), steps=20, batch_size=4, max_lr=1e-4)
in_order = [ended[i] for picked in batches_of(len(ended), twenty) for i in picked]
ends_in_stop = copy.deepcopy(tokenizer)
ends_in_stop.eos_token = STOP
policy = as_transformers(instruct, tokenizer)
optimizer = torch.optim.AdamW(policy.parameters(), lr=twenty.max_lr, betas=(0.9, 0.95), weight_decay=0.0)
schedule = LambdaLR(optimizer, lambda step: warmup_cosine_lr(step, 1.0, int(twenty.warmup * twenty.steps), twenty.steps))
with TemporaryDirectory() as folder:
    settings = TRLConfig(
        folder, beta=twenty.beta, per_device_train_batch_size=twenty.batch_size, max_steps=twenty.steps, max_grad_norm=twenty.max_norm,
        train_sampling_strategy="sequential", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = [dict(zip(Preference._fields, map(tokenizer.decode, pair), strict=True)) for pair in in_order]
    trainer = DPOTrainer(
        policy, frozen_reference(policy), settings, train_dataset=Dataset.from_list(rows), processing_class=ends_in_stop, optimizers=(optimizer, schedule)
    )
    batch = next(iter(trainer.get_train_dataloader()))
    library, compute_loss = [], trainer.compute_loss

    def recorded(*args, **kwargs):
        loss = compute_loss(*args, **kwargs)
        library.append(loss.item())
        return loss

    trainer.compute_loss = recorded
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it logs
        trainer.train()
print("TRL reads:", {name: tuple(value.shape) for name, value in batch.items()})
own = copy.deepcopy(instruct)
steps = list(train(own, instruct, ended, twenty, tokenizer.pad_token_id))
for step in (0, 1, 2, 9, 19):
    print(f"step {step:2}: ours {steps[step]['loss']:.6f}, TRL {library[step]:.6f}")
apart = max(abs(a["loss"] - b) for a, b in zip(steps, library, strict=True))
with torch.no_grad():
    on_batch = dpo_loss(*log_probs(policy, in_order[:4]), *log_probs(instruct, in_order[:4])).item()
    trl_on_batch = compute_loss(policy, batch).item()
print(f"the trained policy on the first batch: ours {on_batch:.7f}, TRL {trl_on_batch:.7f}")
assert apart < 1e-4 and abs(on_batch - trl_on_batch) < 1e-5
before, after, library_weights = (as_transformers(one, tokenizer).state_dict() for one in (instruct, own, instruct))
library_weights = policy.state_dict()
moved, differs = (sum((after[name] - other[name]).square().sum() for name in after).sqrt().item() for other in (before, library_weights))
print(f"largest difference of a loss over 20 steps: {apart:.1e}; the weights went {moved:.3f} far, and end {differs:.5f} apart")
assert differs < 0.01 * moved

# %% [markdown]
# Why are the weights not equal to more digits? Look at the biases of the keys: a softmax does not change when one number is added to all scores,
# so their true gradient is 0, and what comes out is rounding. Adam divides each gradient by its own size, and makes full steps of it.
#
# ## IPO: a margin with a goal
#
# $-\log \sigma$ is never content: it has no minimum at a finite $h$. If a pair always comes with the same label, the best margin is infinite, and
# then $\beta$ holds nothing. (A reward model on the same pairs would be as sure, but PPO's KL term would still be there.) Azar et al. give the margin a goal,
# and pull it back if it passes (eq. 17):
#
# $$\mathcal{L}_\text{IPO} = \left( h - \frac{1}{2 \tau} \right)^2$$

# %% tags=["exercise"]
from week6_rlhf.solutions.dpo import ipo_loss

# %%
h = torch.linspace(-15, 30, 181)
zero = torch.zeros(1)
fig, ax = figure("DPO always wants more; conservative DPO and IPO have a goal", "margin h, nats", "loss of a pair (IPO: scaled to 0.69 at h = 0)")
ax.plot(h, [dpo_loss(h[i : i + 1], zero, zero, zero, beta=0.3) for i in range(len(h))], color=COLOURS[0], label=r"DPO, $\beta$ = 0.3")
ax.plot(
    h, [dpo_loss(h[i : i + 1], zero, zero, zero, beta=0.3, label_smoothing=0.1) for i in range(len(h))],
    color=COLOURS[1], linestyle="--", label=r"cDPO, $\varepsilon$ = 0.1",
)  # fmt: skip
tau = 0.05
scale = math.log(2) / ipo_loss(zero, zero, zero, zero, tau).item()
ax.plot(h, [scale * ipo_loss(h[i : i + 1], zero, zero, zero, tau) for i in range(len(h))], color=COLOURS[3], linestyle=":", label=r"IPO, $\tau$ = 0.05: goal at 10")
ax.set_ylim(0, 3)
ax.legend(frameon=False)
plt.show()
print(f"cDPO's goal: sigma(beta h) = 0.9, so h = {math.log(9) / 0.3:.1f} nats; IPO's: 1 / (2 tau) = {1 / (2 * tau):.0f} nats")

# %% [markdown]
# One name, two losses: TRL's `ipo` divides each log-probability by the number of its tokens before it takes the margin, on the word of the paper's authors. The paper's
# $\log \pi$ is of the whole answer. So $\tau$ means something else: a goal for the difference in nats *a token*. Averaged log-probabilities in your function
# give TRL's number:

# %%
with torch.no_grad():
    found = [*log_probs(policy, in_order[:4]), *log_probs(instruct, in_order[:4])]
    lengths = [torch.tensor([len(getattr(pair, side)) for pair in in_order[:4]]) for side in ("chosen", "rejected")] * 2
    a_token = [one / length for one, length in zip(found, lengths, strict=True)]
    trainer.loss_types, trainer.loss_weights, trainer.beta = ["ipo"], [1.0], 0.5
    in_trl = compute_loss(policy, batch).item()
print(f"TRL {in_trl:.6f}; yours on averages {ipo_loss(*a_token, tau=0.5):.6f}; yours on sums, as in the paper {ipo_loss(*found, tau=0.5):.3f}")
assert math.isclose(in_trl, ipo_loss(*a_token, tau=0.5).item(), rel_tol=1e-4)

# %% [markdown]
# (TRL 1.12 has no conservative DPO either: its `label_smoothing` belongs to `robust`, which *subtracts* the other label's term and divides by
# $1 - 2 \varepsilon$. That is Chowdhury et al. 2024, unbiased where cDPO is cautious. With one pair in the batch its `aot` is cDPO, and there the
# two agree: `tests/test_dpo.py`.)
#
# ## What beta buys
#
# $\beta$ is the price of leaving the reference. Four values, two seeds each, the same number of steps; then each model tells one story for 256 held-out prompts at
# temperature 1. Two numbers are of interest together: the *true* score, and how far the policy went, $\mathrm{KL}(\pi \| \pi_\text{ref})$, estimated by
# the mean of $\log \pi - \log \pi_\text{ref}$ over its own stories.
#
# Beside it: **best-of-n**. Draw $n$ stories from the instruct model and keep the best. Nothing is trained, and its distance is at most
# $\log n - \frac{n - 1}{n}$ nats. It chooses by the true score here; a learned reward model would choose less well. (Averaged over all ways to take $n$ of 8 stories.)
#
# **Predict.** Which $\beta$ goes farthest? At the same KL, which has the higher score: DPO, which was trained once, or best-of-n, which pays for $n$
# stories each time?

# %%
(drawn,) = study["best_of_n"]
sorted_scores = torch.tensor(drawn["scores"]).sort(dim=1, descending=True).values  # (prompt, 8)


def best_of(n: int) -> Float[Tensor, "prompt"]:
    """The mean best score over all sets of n of the 8 stories: the i-th best is the best of C(7 - i, n - 1) of C(8, n) sets."""
    weights = torch.tensor([math.comb(7 - i, n - 1) / math.comb(8, n) for i in range(8)])
    return (sorted_scores * weights).sum(dim=1)


def point(ax, x: list[float] | float, scores, colour: str, marker: str, label: str | None = None) -> None:
    """A score with its interval against a KL, with its own interval where it is estimated."""
    values = torch.as_tensor(scores, dtype=torch.float64)
    low, high = bootstrap_interval(values, generator=torch.Generator().manual_seed(0))
    y = values.mean().item()
    xerr = None
    if not isinstance(x, float):
        ratios = torch.as_tensor(x, dtype=torch.float64)
        x_low, x_high = bootstrap_interval(ratios, generator=torch.Generator().manual_seed(0))
        x = ratios.mean().item()
        xerr = [[x - x_low], [x_high - x]]
    ax.errorbar(x, y, [[y - low], [high - y]], xerr, fmt=marker, color=colour, capsize=2, label=label)


for one in study["sweep"]:
    print(f"{one['setting']:24} true score {with_interval(one['score'])}, KL {with_interval(one['log_ratio'], 1)} nats")
for n in (1, 2, 4, 8):
    print(f"best of {n:<16} true score {with_interval(best_of(n))}, KL at most {math.log(n) - (n - 1) / n:.2f} nats")

# %%
ppo = dpo_study.ppo_points()  # lesson 02's runs, where `week6_rlhf/ppo_study.json` is there
fig, ax = figure("True score against the distance from the reference", "KL from the instruct model, nats a story (square-root scale)", "true score", width=8, height=4.2)
for i, beta in enumerate(dpo_study.BETAS):
    for one in (one for one in study["sweep"] if one["config"]["beta"] == beta):
        point(ax, one["log_ratio"], one["score"], COLOURS[(0, 2, 3, 4)[i]], "osvP"[i], f"DPO, beta {beta:g}" if one["config"]["seed"] == 0 else None)
for n in (1, 2, 4, 8):
    point(ax, math.log(n) - (n - 1) / n, best_of(n), COLOURS[6], "D", "best of 1, 2, 4, 8" if n == 1 else None)
for i, one in enumerate(ppo):
    point(ax, one["kl"], one["score"], COLOURS[1], "^", "PPO and GRPO" if i == 0 else None)
ax.set_xscale("function", functions=(lambda x: x.clip(0) ** 0.5, lambda x: x**2))
ax.legend(frameon=False, fontsize=8)
plt.show()
for one in ppo:
    print(f"{one['setting']:8} true score {with_interval(one['score'])} on {len(one['score'])} prompts, KL {one['kl']:.1f} nats in the last iterations")

# %% [markdown]
# Read the plot from the left. Best-of-n is very hard to beat at the same KL: it moves probability among texts that the instruct model writes anyway, and
# only by their score. The first nats of DPO buy less. A gradient on 1,500 noisy pairs moves the policy in many directions, most of which have
# nothing to do with the score, and all of which count as KL. What DPO buys is the *price of a story*: one, not $n$.
#
# And $\beta$? It does what its place in the objective says: the smaller it is, the farther the policy goes, and the more it earns. Here even the farthest is still better by the true score. Whether
# it turns further out, as PPO did, this sweep does not reach. (In the paper's figure 2 each $\beta$ is a line, not a point: it is drawn at many steps.)
#
# PPO's points lie below at the same distance. Be careful with what that says. PPO never saw the pairs. It saw a reward model that orders two of three rightly, and it trained some 7,000 numbers where DPO trained a million. What it
# does show is how much is lost on the way through a weak reward model.
#
# The variants, the same 140 steps with $\beta = 0.1$:

# %%
for one in study["variants"]:
    print(f"{one['setting']:26} true score {with_interval(one['score'])}, KL {with_interval(one['log_ratio'], 1)} nats, chosen {smooth(one['curves']['chosen'])[-1]:+.2f}")

# %% [markdown]
# Both stay nearer to the reference, and in both the chosen answers end *more* likely than they began. IPO holds its margins at a goal; the SFT term pays for the chosen answers themselves. Against plain DPO both give up
# score, and more KL than score: a quarter to a third of its KL, and more than half of what it gained on the instruct model. (One seed each, so do not rank the two.)
#
# ## The aligned model
#
# The aligned model of the repository (`shared/checkpoints/aligned`, made by `python -m week6_rlhf.dpo_training`; its `training.json` has the command and all losses)
# saw each pair one and a half times. It and the instruct model told one story each for the 300 held-out prompts. Who is preferred?

# %%
told_by = {one["setting"]: one for one in study["aligned"]}
for name, one in told_by.items():
    parts = ", ".join(f"{part} {value:.2f}" for part, value in one["parts"].items())
    print(f"{name:9} true score {with_interval(one['score'])}; {parts}; {one['words']:.0f} words, {one['ended']:.0%} end")
difference = torch.tensor(told_by["aligned"]["score"]) - torch.tensor(told_by["instruct"]["score"])
wins = (difference > 0).double() + (difference == 0).double() / 2
print(f"aligned is preferred on {with_interval(wins)} of {len(wins)} prompts (a tie counts half)")
print(f"at a KL of {with_interval(told_by['aligned']['log_ratio'], 1)} nats a story")
for name, one in told_by.items():
    print(
        f"{name:9} {one['nats_a_token']:.3f} nats a token by itself, {one['instruct_nats_a_token']:.3f} by the instruct model; "
        f"{one['repeated']:.2%} of its runs of four words stood in the story before"
    )

# %% [markdown]
# The last lines watch the language. A model that has found a trick repeats itself (the share of repeated runs rises), or writes what the instruct model finds
# strange (its nats a token rise). Read, too. Both models, the same prompts, the same random numbers:

# %%
aligned, _ = load_pretrained(course_folder("aligned"), mine("GPT"))
asked = [one.prompt for one in told("validation")[:16]]
for name, model in (("instruct", instruct), ("aligned", aligned)):
    replies = sample_replies(model.eval(), tokenizer, encode(tokenizer, asked), generator=torch.Generator().manual_seed(1))
    texts = [text_of(tokenizer, reply) for (reply,) in replies]
    scores = [true_score(prompt, text).total for prompt, text in zip(asked, texts, strict=True)]
    print(f"{name}: true score {with_interval(scores)} on {len(asked)} prompts\n  {asked[0].text}\n  {texts[0]}\n")

# %% [markdown]
# ## Is it a reward model?
#
# Then it can judge. Each held-out prompt has four stories of the instruct model. Order them by the implicit reward, with no text written at all:

# %%
(judged,) = study["reward"]
by_policy = torch.tensor(judged["log_ratio"])  # (prompt, 4)
by_truth = torch.tensor([[true_score(one.prompt, text).total for text in one.texts] for one in told("validation")])


def right_order(i: int, j: int) -> Tensor:
    """1 where the implicit reward orders stories i and j as the truth does, 0 where not; nan where the truth is a tie."""
    right = ((by_policy[:, i] > by_policy[:, j]) == (by_truth[:, i] > by_truth[:, j])).double()
    return right.masked_fill(by_truth[:, i] == by_truth[:, j], torch.nan)


all_pairs = torch.stack([right_order(i, j) for i in range(4) for j in range(i)], dim=1)
print("pairs in the right order, mean over prompts:", with_interval(all_pairs.nanmean(dim=1)[~all_pairs.isnan().all(dim=1)]))
rows = torch.arange(len(by_truth))
widest = (by_policy[rows, by_truth.argmax(dim=1)] > by_policy[rows, by_truth.argmin(dim=1)]).double()
print("best against worst of the four:             ", with_interval(widest[by_truth.max(dim=1).values > by_truth.min(dim=1).values]))
ratios = {name: by_policy[rows, which(dim=1)] for name, which in (("best", by_truth.argmax), ("worst", by_truth.argmin))}
print("log π - log π_ref of the best of the four:", with_interval(ratios["best"]), "of the worst:", with_interval(ratios["worst"]))
print("score of the story that it likes best:      ", with_interval(by_truth[rows, by_policy.argmax(dim=1)]), "of a random one", with_interval(by_truth.mean(dim=1)))

# %% [markdown]
# On these prompts the *best* stories have become less likely too: likelihood displacement, without the memory. And it orders better than a coin, from pairs alone. Compare the reward model of lesson 01, which was trained for nothing else. Best-of-4 with *this* judge is far
# from best-of-4 with the truth: the limit of both ways is what can be learnt from 1,500 noisy choices by a model of a million parameters.
#
# Now look at the accuracy that the *training* reported, on the pairs of each batch, before the step.
#
# **Predict.** There are 1,500 pairs, 16 a step, 140 steps. Which event do you expect in this curve, and at which step?

# %%
about = json.loads((course_folder("aligned") / "training.json").read_text(encoding="utf-8"))
one_round = about["pairs"] / about["config"]["batch_size"]
held_out_accuracy = widest[by_truth.max(dim=1).values > by_truth.min(dim=1).values].mean().item()
first, second = (torch.tensor(about["accuracy"][part]).mean().item() for part in (slice(60, int(one_round)), slice(-40, None)))
fig, ax = figure(f"Pairs seen before are {second:.0%} right, new ones {first:.0%}", "step", "pairs in the right order")
ax.plot(range(9, len(about["accuracy"])), smooth(about["accuracy"]), color=COLOURS[0], label="in training, mean of 10 batches")
ax.axvline(one_round, color="grey", linewidth=0.8, linestyle=":", label="every pair has been seen once")
ax.axhline(held_out_accuracy, color=COLOURS[3], linestyle="--", label="held-out prompts, best against worst")
ax.set_ylim(0.4, 1.02)
ax.legend(frameon=False, fontsize=8)
plt.show()
print(f"steps 60 to the end of the first round {first:.2f}; last 40 steps {second:.2f}; held out {held_out_accuracy:.2f}")

# %% [markdown]
# In the first round each batch is new, so the curve is an honest estimate for new pairs. From the second round on, it is a measure of memory: the model
# knows the pairs again, noise and all. In libraries the same number is called `rewards/accuracies`, and people are pleased by it. Look at the one of
# `eval`.
#
# ## The alignment tax
#
# What was the price? The tasks of week 3, the same items for both models. The difference is paired, item by item.
#
# **Predict.** The pairs were about stories. Which tasks could suffer?

# %%
items = {one["setting"]: one["items"] for one in study["tax"]}
fig, ax = figure("", "aligned minus instruct, mean over items", "", width=7)
lost = []
for i, task in enumerate(items["instruct"]):
    before, after = (torch.tensor(items[name][task], dtype=torch.float64) for name in ("instruct", "aligned"))
    low, high = bootstrap_interval(after, before, paired=True, generator=torch.Generator().manual_seed(0))
    gap = (after - before).mean().item()
    ax.errorbar(gap, i, xerr=[[gap - low], [high - gap]], fmt="o", color=COLOURS[0], capsize=3)
    print(f"{task:15} instruct {before.mean():.3f}, aligned {after.mean():.3f}, difference {gap:+.3f} [{low:+.3f}, {high:+.3f}], {len(before)} items")
    lost += [task] * (high < 0)
ax.set_yticks(range(len(items["instruct"])), list(items["instruct"]))
ax.axvline(0, color="grey", linewidth=0.8, linestyle=":")
ax.set_title(f"A tax that {len(items['instruct'])} tasks can show: on {len(lost)} of them", loc="left", fontsize=11)
plt.show()

# %% [markdown]
# With a hundred items an interval is wide, and small losses stay unseen; on several tasks the models are near guessing to begin with (week 3's leaderboard). The
# honest sentence is: *no loss larger than these intervals*. For InstructGPT the tax was plain (Ouyang et al. 2022, §4.2: SQuAD, DROP, HellaSwag),
# and mixing pretraining gradients into PPO took most of it back.
#
# ## Find the bug
#
# A colleague's loss was tested with one pair, and starts at $\ln 2$, as it should. It trains, too; only not as well as yours.


# %%
def colleagues_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1, label_smoothing=0.0):
    if not beta > 0 or not 0 <= label_smoothing < 0.5:
        raise ValueError("beta must be above 0, label_smoothing from 0 to below 0.5")
    if len({tuple(one.shape) for one in (policy_chosen, policy_rejected, reference_chosen, reference_rejected)}) > 1 or not len(policy_chosen):
        raise ValueError("one log-probability for each answer")
    chosen_reward = beta * (policy_chosen - reference_chosen.detach()).mean()
    rejected_reward = beta * (policy_rejected - reference_rejected.detach()).mean()
    margin = chosen_reward - rejected_reward
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


print(run_check("dpo_loss", colleagues_loss).card)

# %% [markdown]
# ## What to read
#
# - **Rafailov et al. 2023**: §4, equations 3 to 7, and the paragraph on the gradient; §5.1 for why nothing is lost by this form of the reward (theorem 1); figure 2, left, is our plot
#   of score against KL. Who is the judge there?
# - **Azar et al. 2023**: §4.2, why DPO overfits where preferences are deterministic; eq. 17.
# - **Mitchell 2023** (cDPO): a short note. At which $h$ is its loss least?
# - **Razin et al. 2024**: figure 1, and §3, one pair of single tokens that is enough.
# - **eric-mitchell/direct-preference-optimization**, `trainers.py`: `preference_loss` and `_get_batch_logps`: your functions, in the paper's own code; `concatenated_forward`: why one pass
#   over both answers?
# - **TRL**, `trl/trainer/dpo_trainer.py`: `_compute_loss`. Count the losses, and find the two that divide by length.
#
# ## Recap
#
# - A policy is the best one for some reward, and $\beta \log (\pi / \pi_\text{ref})$ is that reward, up to a number a prompt. Put into Bradley and Terry, it gives a loss.
# - $\log \pi$ of an answer is a sum; the reference is a copy; the loss starts at $\ln 2$. A loss that *stays* there is a reference that moves.
# - The loss sees a difference. Margins can grow while the chosen answers get less likely: plot both.
# - $\beta$ holds the policy once margins reach $1 / \beta$. Compare methods at the same KL, with intervals.
# - Best-of-n buys more score a nat, and pays for it with each answer.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("dpo")

# %%
progress("week6_rlhf")
