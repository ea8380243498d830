# %% [markdown]
# # What people prefer: a reward model
#
# The instruct model does what it was shown. Nobody showed it which of two good-looking replies is the better one. To *write* the better one is hard
# work; to *say* which of two is better takes a person seconds. That is what preference data is. A **reward model** turns such comparisons into a
# number for any text, and in the next lesson a policy is trained to make that number large. So whatever the reward model gets wrong, the policy
# will find.
#
# In real life you never know how good a reward model is, for you know the labels only. Here you do. The preference of this course's world is known
# by formula: `week6_rlhf/preferences.py` says how faithful, kind and short a story is. The reward model sees only the labels. You see both.
#
# You write five things: the pairs, the loss, the model, a measure of calibration, and a repair for a reward model that likes long texts.
#
# Reading and writing: about 110 minutes. Papers: Bradley and Terry 1952, *Rank Analysis of Incomplete Block Designs*
# ([doi:10.2307/2334029](https://doi.org/10.2307/2334029)); Stiennon et al. 2020, *Learning to summarize from human feedback*
# ([arXiv:2009.01325](https://arxiv.org/abs/2009.01325)); Ouyang et al. 2022, *InstructGPT* ([arXiv:2203.02155](https://arxiv.org/abs/2203.02155));
# Singhal et al. 2023, *A Long Way to Go* ([arXiv:2310.03716](https://arxiv.org/abs/2310.03716)); Guo et al. 2017, *On Calibration of Modern Neural
# Networks* ([arXiv:1706.04599](https://arxiv.org/abs/1706.04599)). Repositories: [TRL](https://github.com/huggingface/trl),
# [trlx](https://github.com/CarperAI/trlx), [OpenChatKit](https://github.com/togethercomputer/OpenChatKit).

# %%
import contextlib
import copy
import io
import itertools
import math
import statistics
import warnings
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from jaxtyping import Bool, Float, Int
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import GPT2ForSequenceClassification
from transformers.utils import logging as transformers_logging
from trl import RewardConfig as TRLConfig
from trl import RewardTrainer

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.models import course_folder
from shared.plotting import COLOURS, MARKERS, figure
from shared.runtime import seed_everything
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.sft import as_transformers
from week6_rlhf.preferences import true_score
from week6_rlhf.reward_study import lengths_of, load, scores_of
from week6_rlhf.reward_training import (
    RewardConfig,
    as_classifier,
    freeze_first_blocks,
    fuse_right_padded,
    load_reward_model,
    padded,
    rewards_of,
    token_rows,
    train_reward,
)
from week6_rlhf.samples import told

seed_everything(0)
warnings.filterwarnings("ignore")
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
bootstrap_interval = mine("bootstrap_interval")
train, validation = told("train"), told("validation")
print(
    f"{len(train)} prompts to train on, {len(validation)} held out; {len(train[0].texts)} stories of the instruct model for each"
)

# %% [markdown]
# Look at one prompt, at what the model told, and at the true score of each story. *faithful* counts double:

# %%
row = validation[3]
print(row.prompt.text)
for text in row.texts:
    score = true_score(row.prompt, text)
    print(
        f"\n{score.total:5.2f} = 2 · {score.faithful:.2f} faithful + {score.kind:.2f} kind + {score.short:.2f} short, {len(text.split())} words\n{text}"
    )

# %% [markdown]
# ## Pairs
#
# Labellers are given several replies to one prompt and rank them. With $K$ replies, each ranking gives $K(K-1)/2$ pairs
# (Ouyang et al., §3.5). People err and disagree: two of InstructGPT's labellers agreed on about 73 % of pairs (§3.4). So our labels have noise, that we can set.

# %% tags=["given"]
from week6_rlhf.solutions.reward_model import Pair

# %% tags=["given"]
from week6_rlhf.solutions.reward_model import check_scores

# %% tags=["exercise"]
from week6_rlhf.solutions.reward_model import make_preference_pairs

# %%
texts, true_scores = [row.texts for row in train], scores_of(train)
for noise in (0.0, 0.1, 0.3):
    pairs = make_preference_pairs(texts, true_scores.tolist(), noise, torch.Generator().manual_seed(0))
    wrong = [true_scores[p, chosen] < true_scores[p, rejected] for p, chosen, rejected in pairs]
    print(
        f"noise {noise}: {len(pairs)} pairs of {len(train)} prompts, {sum(wrong) / len(wrong):.1%} with the wrong label"
    )

# %% [markdown]
# ## The loss
#
# Bradley and Terry gave each of several competitors a strength, and the difference of two strengths decides how likely each is to win:
#
# $$p(i \succ j) = \sigma(r_i - r_j), \qquad \mathcal L = -\,\mathbb E\left[\log \sigma(r_{\text{chosen}} - r_{\text{rejected}})\right]$$
#
# That is logistic regression on differences (Ouyang et al., eq. 1). Only differences count: add 5 to all rewards of a prompt and nothing changes. So a
# reward of 1.3 means nothing alone, and rewards of different prompts cannot be compared by what the loss says. Llama 2 (Touvron et al. 2023, eq. 2,
# [arXiv:2307.09288](https://arxiv.org/abs/2307.09288)) subtracts a *margin* from the difference, larger where labellers were surer.
#
# **Predict.** What is the loss of a model that knows nothing? And which pair has the larger gradient: one that the model gets right by 3, or one that
# it gets wrong by 3?

# %% tags=["given"]
from week6_rlhf.solutions.reward_model import check_rewards

# %% tags=["exercise"]
from week6_rlhf.solutions.reward_model import bradley_terry_loss

# %%
difference = torch.tensor([3.0, 0.0, -3.0, -1e4], requires_grad=True)
losses = torch.stack([bradley_terry_loss(d[None], torch.zeros(1)) for d in difference])
(gradient,) = torch.autograd.grad(losses.sum(), difference)
print("reward difference:", difference.tolist())
print("loss:             ", [round(loss, 4) for loss in losses.tolist()], f"(ln 2 = {math.log(2):.4f})")
print("gradient:         ", [round(g, 4) for g in gradient.tolist()], "= -(1 - p)")
print(
    "PyTorch's binary cross-entropy:",
    [round(v, 4) for v in F.binary_cross_entropy_with_logits(difference, torch.ones(4), reduction="none").tolist()],
)

# %% [markdown]
# ## The model
#
# The trunk is the instruct model without its output layer. The head is one row of weights. It reads the hidden state of the *last* token, the only one that has
# seen the whole text:
#
# ```
# prompt  story ............. <|im_end|>  pad pad
#   |       |                     |
# [ ------- the GPT, all blocks ------- ]
#                                 h  ->  w · h  =  r
# ```
#
# Nearly all errors here are about *where the text ends*. Padding must not change a reward, whichever side it is on and whatever token pads.

# %% tags=["given"]
from week6_rlhf.solutions.reward_model import check_mask

# %% tags=["exercise"]
from week6_rlhf.solutions.reward_model import RewardModel

# %% [markdown]
# transformers has the same model as `GPT2ForSequenceClassification` with one label. With the same weights it must give the same rewards:

# %%
trunk, tokenizer = load_pretrained(course_folder("instruct"), GPT)
model = RewardModel(trunk).eval()

theirs = as_classifier(model, tokenizer)  # the same weights in their class
held_out = token_rows(tokenizer, validation[:60])
token_ids, attention_mask = padded(held_out[0], tokenizer.pad_token_id)
with torch.no_grad():
    ours, library = (
        model(token_ids, attention_mask),
        theirs(input_ids=token_ids, attention_mask=attention_mask).logits[:, 0],
    )
print("ours        ", [round(r, 5) for r in ours.tolist()])
print("transformers", [round(r, 5) for r in library.tolist()])
torch.testing.assert_close(ours, library, atol=1e-5, rtol=1e-5)

# %% [markdown]
# There is one difference. Your model finds the end of a text by the *mask*. Theirs finds it by the *token*: the last one that is not `pad_token_id`.
# Many tokenizers have no padding token, and then people set `pad_token = eos_token`.
#
# **Predict.** What does their model read then, of a text that ends in EOS? What does that change?

# %%
stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
ended = next(ids for ids in held_out[0] if ids[-1] == stop)
shown = {"padding token": tokenizer.pad_token_id, "the stop token pads": stop}
for name, pad_id in shown.items():
    theirs.config.pad_token_id = pad_id
    with torch.no_grad():
        reward = theirs(input_ids=torch.tensor([ended])).logits.item()
        one_less = model(torch.tensor([ended[:-1]]), torch.ones(1, len(ended) - 1, dtype=torch.bool)).item()
    print(
        f"{name:20} theirs {reward:.5f}; ours on the whole text {model(torch.tensor([ended]), torch.ones(1, len(ended), dtype=torch.bool)).item():.5f}, without its last token {one_less:.5f}"
    )
theirs.config.pad_token_id = tokenizer.pad_token_id

# %% [markdown]
# It judges the text without its end. Whether a story *ended* is then invisible to it, and nothing says so.
#
# ## Against TRL
#
# [TRL](https://huggingface.co/docs/trl/reward_trainer)'s `RewardTrainer` trains such classifiers. It lays the chosen texts over the rejected ones, reads all at
# once, and takes the mean of `-logsigmoid` of the differences. Four steps of it, and four of yours, on the same model and the same pairs in the same order:

# %%
n_steps, batch_size, learning_rate = 4, 4, 1e-4
few = train[: n_steps * batch_size]
few_rows, few_pairs = token_rows(tokenizer, few), []
for prompt in range(len(few)):
    few_pairs += [
        pair
        for pair in make_preference_pairs(texts[: len(few)], true_scores[: len(few)].tolist())
        if pair.prompt == prompt
    ][:1]
chosen_ids = [few_rows[pair.prompt][pair.chosen] for pair in few_pairs]
rejected_ids = [few_rows[pair.prompt][pair.rejected] for pair in few_pairs]


class InOrder(RewardTrainer):
    """The pairs as they come, not shuffled."""

    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    settings = TRLConfig(
        folder, max_steps=n_steps, per_device_train_batch_size=batch_size, learning_rate=learning_rate, lr_scheduler_type="constant",
        logging_steps=1, report_to="none", save_strategy="no", bf16=False, use_cpu=True, gradient_checkpointing=False, disable_tqdm=True, max_length=None,
    )  # fmt: skip
    data = Dataset.from_dict({"chosen_ids": chosen_ids, "rejected_ids": rejected_ids})
    trainer = InOrder(copy.deepcopy(theirs), settings, train_dataset=data, processing_class=tokenizer)
    trainer.train()
library = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

tuned, ours = copy.deepcopy(model).train(), []
optimizer = torch.optim.AdamW(tuned.parameters(), lr=learning_rate, weight_decay=0.0)
for start in range(0, len(few_pairs), batch_size):
    batch = chosen_ids[start : start + batch_size] + rejected_ids[start : start + batch_size]
    chosen, rejected = tuned(*padded(batch, tokenizer.pad_token_id)).chunk(2)
    loss = bradley_terry_loss(chosen, rejected)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
    optimizer.step()
    ours.append(loss.item())
for step, (a, b) in enumerate(zip(ours, library, strict=True), 1):
    print(f"step {step}: ours {a:.4f}, TRL {b:.4f}")
assert all(abs(a - b) < 2e-3 for a, b in zip(ours, library, strict=True))

# %% [markdown]
# TRL has an option that yours has not: `center_rewards_coefficient` adds a small penalty on $(r_c + r_r)^2$. The loss leaves the zero of the reward open, and
# this closes it. (InstructGPT shifts rewards by a constant instead, after training, §3.5.)
#
# ## A short training
#
# `train_reward` in `week6_rlhf/reward_training.py` is one flat loop: read it now. A batch holds whole prompts, so each story is read *once* for all its
# pairs. Ouyang et al. do so too (§3.5). It saves work, and where they shuffled the pairs of all prompts instead, one pass was enough to overfit.
# Only the last two of four blocks, the final norm and the head are trained.
#
# Here is a short run, measured on 60 held-out prompts with their true labels. The interval is a bootstrap over *prompts*: the six pairs of a prompt
# share stories, so they are not independent.


# %%
def pairs_of(rows) -> list:
    """All pairs with the true labels."""
    return make_preference_pairs([row.texts for row in rows], scores_of(rows).tolist())


def ratio(values: Tensor) -> Tensor:
    return values[..., 0].sum(dim=1) / values[..., 1].sum(dim=1)


def with_interval(values: Tensor, statistic=ratio) -> tuple[float, float, float]:
    """(value, low, high) of a statistic, with a 95 % bootstrap interval over prompts."""
    low, high = bootstrap_interval(
        values, statistic=statistic, n_resamples=1000, generator=torch.Generator().manual_seed(0)
    )
    return statistic(values[None]).item(), low, high


def right_of(rewards: Tensor, pairs: Sequence) -> Float[Tensor, "prompt 2"]:
    """For each prompt: its pairs that are ordered as labelled, and all its pairs."""
    found = torch.zeros(len(rewards), 2, dtype=torch.float64)
    for prompt, chosen, rejected in pairs:
        found[prompt] += torch.tensor([float(rewards[prompt, chosen] > rewards[prompt, rejected]), 1.0])
    return found


def told_as(found: tuple[float, float, float], form: str = ".1%") -> str:
    value, low, high = (format(number, form) for number in found)
    return f"{value} [{low}, {high}]"


# %%
n_prompts = 80
fuse_right_padded(trunk)  # faster; it wants padding on the right, as here
freeze_first_blocks(model)
short_pairs, short_rows = pairs_of(train[:n_prompts]), token_rows(tokenizer, train[:n_prompts])
before = rewards_of(model, held_out, tokenizer.pad_token_id)
losses = list(train_reward(model, short_rows, short_pairs, RewardConfig(), tokenizer.pad_token_id))
after = rewards_of(model, held_out, tokenizer.pad_token_id)
for name, rewards in (("before", before), ("after", after)):
    print(
        f"{name:6} {told_as(with_interval(right_of(rewards, pairs_of(validation[:60]))))} of the held-out pairs are ordered right"
    )
print(
    f"loss of the first five steps {sum(losses[:5]) / 5:.3f}, of the last five {sum(losses[-5:]) / 5:.3f}; {len(short_pairs)} pairs, each seen twice"
)

# %% [markdown]
# ## How much data, how much noise
#
# Larger runs are stored: `python -m week6_rlhf.reward_study` trained three models of each setting (other prompts, other labels, another head) and kept
# their rewards of all 1,200 held-out stories. What is measured on those rewards, you measure here.
#
# **Predict.** Labels that are wrong with probability 0.3: what is the best agreement *with such labels* that any model can reach? And by how much will the
# model trained on them be worse *on true labels*?

# %%
study = {part: found["results"] for part, found in load()["parts"].items()}
held_scores, held_lengths, held_pairs = scores_of(validation), lengths_of(validation), pairs_of(validation)


def models(part: str, **wanted) -> list[Tensor]:
    """The rewards (prompt, reply) of the models of a setting, one for each seed."""
    return [
        torch.tensor(result["rewards"])
        for result in study[part]
        if all(result[key] == value for key, value in wanted.items())
    ]


def right_of_seeds(rewards: list[Tensor], pairs: Sequence) -> Float[Tensor, "prompt 2"]:
    return torch.stack([right_of(one, pairs) for one in rewards]).sum(dim=0)


sizes = sorted({result["prompts"] for result in study["pairs"]})
curve = {}  # pairs in training -> (accuracy, low, high), and that of each model
for n in sizes:
    rewards = models("pairs", prompts=n)
    n_pairs = round(statistics.mean(result["pairs"] for result in study["pairs"] if result["prompts"] == n))
    each = [ratio(right_of(one, held_pairs)[None]).item() for one in rewards]
    curve[n_pairs] = with_interval(right_of_seeds(rewards, held_pairs)), each
    print(
        f"{n:5} prompts, {n_pairs:5} pairs: {told_as(curve[n_pairs][0])}, each model {[f'{value:.1%}' for value in each]}"
    )

gain = (curve[max(curve)][0][0] - curve[min(curve)][0][0]) / math.log2(max(curve) / min(curve))
fig, ax = figure(
    f"Twice the pairs: {100 * gain:+.1f} points, on average", "pairs in training", "held-out pairs ordered right"
)
for n_pairs, ((value, low, high), each) in curve.items():
    ax.errorbar(n_pairs, value, [[value - low], [high - value]], fmt="o", color=COLOURS[0], capsize=3)
    ax.plot([n_pairs] * len(each), each, "_", color=COLOURS[1], markersize=10)
ax.set_xscale("log")
ax.set_xticks(list(curve), list(curve))
ax.minorticks_off()
plt.show()

# %% [markdown]
# (Circle: three models, with the interval over held-out prompts. Dash: one model. All saw their pairs twice, so fewer pairs are fewer steps too.) Stiennon et al. found about 1.1 points for twice the data, from 8,000 to 64,000 comparisons
# (§4.3, figure 6), and InstructGPT's reward models agree with their labellers on 72 % of held-out pairs (§4.1). These are not large numbers. Reward models
# are *weak* judges, and lesson 02 shows what a policy does with that.

# %%
noisy = {
    noise: make_preference_pairs(
        [row.texts for row in validation], held_scores.tolist(), noise, torch.Generator().manual_seed(1)
    )
    for noise in (0.0, 0.1, 0.3)
}
by_noise = {0.0: models("pairs", prompts=500), 0.1: models("noise", noise=0.1), 0.3: models("noise", noise=0.3)}
print(f"{'noise':>6} {'right on true labels':>24} {'right on labels as noisy':>26} {'at most':>8}")
for noise, rewards in by_noise.items():
    true, seen = (told_as(with_interval(right_of_seeds(rewards, pairs))) for pairs in (held_pairs, noisy[noise]))
    print(f"{noise:6} {true:>24} {seen:>26} {1 - noise:8.0%}")

# %% [markdown]
# A perfect judge agrees with labels of noise $\varepsilon$ on a share $1 - \varepsilon$ of pairs, and a judge that is right with probability $a$ on
# $a(1 - \varepsilon) + (1 - a)\varepsilon$. So a reward model may be better than its measured accuracy says: part of what it "gets wrong" are wrong
# labels. The loss averages the noise out, pair by pair; what noise costs is data.
#
# ## What has it learnt?
#
# Here you can look behind the labels. Within each prompt, how does the reward go with each part of the true score?


# %%
def centred(values: Tensor) -> Tensor:
    return values.double() - values.double().mean(dim=-1, keepdim=True)


def correlation(values: Float[Tensor, "resample prompt seed reply 2"]) -> Float[Tensor, "resample"]:
    """Within prompts, averaged over seeds."""
    x, y = values[..., 0], values[..., 1]
    return ((x * y).sum(dim=(1, 3)) / (x.square().sum(dim=(1, 3)) * y.square().sum(dim=(1, 3))).sqrt()).mean(dim=1)


largest = models("pairs", prompts=sizes[-1])
parts = {
    part: torch.tensor([[getattr(true_score(row.prompt, text), part) for text in row.texts] for row in validation])
    for part in ("faithful", "kind", "short")
}
print(f"correlation with the rewards of the models of {sizes[-1]} prompts")
for part, values in parts.items():
    both = torch.stack([torch.stack([centred(one), centred(values)], dim=-1) for one in largest], dim=1)
    weighed = (2 if part == "faithful" else 1) * centred(values)
    share = (weighed * centred(held_scores)).sum() / centred(held_scores).square().sum()  # the three add up to 1
    print(f"{part:9} {told_as(with_interval(both, correlation), '.2f')}; its share of the true score's variance: {share:.0%}")

# %% [markdown]
# In the score, *faithful* counts double, and most of the variance is its. The model sees little of it. To know a stranger, it would have to compare the names of the story with
# those of the prompt. That a story is short, or that it ended, any token's position tells. So a reward model learns what is *easy to see and goes along with the labels*.
# That is the seed of all reward hacking: the policy of lesson 02 will be told to be short, whatever you meant.
#
# ## Calibration
#
# The model gives more than an order: $p = \sigma(r_i - r_j)$ is a forecast. It is *calibrated* if, of all pairs for which it says 70 %, 70 % come out so. The
# *expected calibration error* sorts the forecasts into bins and averages the gaps (Guo et al., eq. 3):
#
# $$\text{ECE} = \sum_b \frac{n_b}{n} \left|\,\text{share of outcomes in } b - \text{mean } p \text{ in } b\,\right|$$

# %% tags=["given"]
from week6_rlhf.solutions.reward_model import check_probabilities

# %% tags=["exercise"]
from week6_rlhf.solutions.reward_model import expected_calibration_error


# %% [markdown]
# scikit-learn's `calibration_curve` gives the points of the reliability diagram; weighted by the number of pairs, their gaps are your error. (A forecast on the edge of two bins, as
# 0.5 is, counts in the lower one there and in the upper one in yours. So it gets each forecast as the next larger number.)
#
# A pair has no "positive" side. So the forecast is for the story that stands first of the two, whichever was chosen. The labels here are as noisy as those that the model was
# trained on: that is what it was trained to forecast.


# %%
def forecasts(rewards: Tensor, pairs: Sequence, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(p that the first of the two is preferred, whether it was), the first being the one with the lower number."""
    p, outcomes = [], []
    for prompt, chosen, rejected in pairs:
        first, second = sorted((chosen, rejected))
        p.append(((rewards[prompt, first] - rewards[prompt, second]) / temperature).sigmoid())
        outcomes.append(first == chosen)
    return torch.stack(p), torch.tensor(outcomes)


fig, ax = figure("Reliability: how often it came out so, of what was forecast", "forecast p", "share that came out so")
for i, (noise, rewards) in enumerate(by_noise.items()):
    p, outcomes = (torch.cat(values) for values in zip(*(forecasts(one, noisy[noise]) for one in rewards), strict=True))
    share, mean = calibration_curve(outcomes.numpy(), np.nextafter(p.numpy(), np.float32(1)), n_bins=10)
    counts = np.histogram(p.numpy(), bins=np.linspace(0, 1, 11))[0]
    error = expected_calibration_error(p, outcomes)
    assert abs((counts[counts > 0] * np.abs(share - mean)).sum() / len(p) - error) < 1e-6
    spread = 1.96 * np.sqrt(
        share * (1 - share) / (counts[counts > 0] / len(rewards))
    )  # three models see the same pairs
    ax.errorbar(mean, share, spread, fmt=f"{MARKERS[i]}-", color=COLOURS[i], capsize=2, label=f"noise {noise}, ECE {error:.3f}")
ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# A curve that is flatter than the diagonal is *overconfident*. The usual cure is one number: divide all rewards by a **temperature**, chosen on held-out pairs by
# the same loss (Guo et al., §4.2). It changes no order, so no accuracy. It is chosen on half of the prompts, and measured on the other half.
#
# **Predict.** The model trained on labels with noise 0.3 is asked about *true* labels. Is it too sure, or not sure enough?


# %%
def fitted_temperature(rewards: Tensor, pairs: Sequence) -> float:
    grid = torch.logspace(-1, 1, 81)
    difference = torch.stack([rewards[p, chosen] - rewards[p, rejected] for p, chosen, rejected in pairs])
    return min(grid.tolist(), key=lambda t: bradley_terry_loss(difference / t, torch.zeros_like(difference)).item())


def floor(rewards: Tensor, pairs: Sequence, draws: int = 100) -> float:
    """The mean ECE of the same forecasts where they are right by construction: each outcome is drawn with its p."""
    p, _ = forecasts(rewards, pairs)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(draws, len(p), generator=generator) < p
    return statistics.mean(expected_calibration_error(p, outcomes) for outcomes in drawn)


def errors(rewards: list[Tensor], pairs: Sequence) -> tuple[list[float], list[float], list[float], list[float]]:
    """Of each model, on the second half of the prompts: ECE, with the first half's temperature, and the floor."""
    first, second = ([pair for pair in pairs if (pair.prompt < 150) == side] for side in (True, False))
    temperatures = [fitted_temperature(one, first) for one in rewards]
    raw = [expected_calibration_error(*forecasts(one, second)) for one in rewards]
    cured = [expected_calibration_error(*forecasts(one, second, t)) for one, t in zip(rewards, temperatures, strict=True)]
    return raw, temperatures, cured, [floor(one, second) for one in rewards]


print("of three models each: ECE as it is -> temperature -> ECE with it (ECE of forecasts that are right)")
for noise, rewards in by_noise.items():
    for name, pairs in {"true labels": held_pairs, "labels as noisy": noisy[noise]}.items():
        if noise or pairs is held_pairs:
            rows = zip(*errors(rewards, pairs), strict=True)
            cells = " | ".join(f"{a:.3f} -> {t:5.2f} -> {b:.3f} ({least:.3f})" for a, t, b, least in rows)
            print(f"noise {noise}, asked about {name:15}", cells)

# %% [markdown]
# Look at the brackets first. Forecasts that are right *by construction*, as many as these, have an error of about 0.03: each bin has some ninety pairs, and the share of ninety outcomes
# has an error of its own. So an ECE of 0.03 is no evidence against a model, and a temperature cannot mend what is not broken. Whoever reports an ECE should report this floor with it.
#
# Then the temperatures: above 1, the model was too sure; below 1, not sure enough. The models of clean labels are a little too sure: 500 prompts are few. Where three labels in ten are wrong,
# forecasts of *labels* should stay near one half, and these are not near enough (a temperature of 10 says: nothing here is worth forecasting). About the *truth* two of the three are too modest. A good ECE
# alone says little about what a model knows: one that always says 50 % is calibrated too.
#
# And mind what calibration is *for*. PPO uses the size of rewards, so an overconfident reward model pulls harder against the KL penalty. Temperature there
# is just another $\beta$.
#
# ## Length
#
# Labellers like long answers, and so do the reward models that are made from them: Singhal et al. show it for three data sets, and that length explains most
# of what RLHF gained there. Our labellers get that bias now: to them, each word more is worth 0.05. The truth is the opposite.
#
# **Predict.** Of the pairs in which the longer story is truly the *worse* one, how many will the model that was trained on such labels order right?


# %%
def length_decides(pairs: Sequence, longer_is_better: bool) -> list:
    return [
        pair for pair in pairs
        if (held_lengths[pair.prompt, pair.chosen] > held_lengths[pair.prompt, pair.rejected]) == longer_is_better
        and held_lengths[pair.prompt, pair.chosen] != held_lengths[pair.prompt, pair.rejected]
    ]  # fmt: skip


def at_fixed_score(values: Float[Tensor, "resample prompt seed reply 3"]) -> Float[Tensor, "resample"]:
    """The partial correlation of reward and length, within prompts and given the true score; averaged over seeds."""
    r, words, score = values.unbind(dim=-1)

    def together(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(dim=(1, 3)) / (x.square().sum(dim=(1, 3)) * y.square().sum(dim=(1, 3))).sqrt()

    rw, rs, ws = together(r, words), together(r, score), together(words, score)
    return ((rw - rs * ws) / ((1 - rs**2) * (1 - ws**2)).sqrt()).mean(dim=1)


def length_row(name: str, rewards: list[Tensor]) -> None:
    values = torch.stack(
        [torch.stack([centred(one), centred(held_lengths), centred(held_scores)], dim=-1) for one in rewards], dim=1
    )
    cells = [told_as(with_interval(values, at_fixed_score), ".2f")]
    for pairs in (held_pairs, length_decides(held_pairs, False), length_decides(held_pairs, True)):
        cells.append(told_as(with_interval(right_of_seeds(rewards, pairs)), ".0%"))
    best = torch.stack([one.argmax(dim=1) for one in rewards])
    cells += [
        f"{torch.stack([held_scores[range(300), b] for b in best]).mean():.2f}",
        f"{torch.stack([held_lengths[range(300), b] for b in best]).mean():.0f}",
    ]
    print(f"{name:36}" + "".join(f"{cell:>20}" for cell in cells[:4]) + "".join(f"{cell:>9}" for cell in cells[4:]))


liked = models("length", setting="labels like length")
headers = ("reward ~ words", "all pairs", "longer is worse", "longer is better")
print(f"{'':36}" + "".join(f"{name:>20}" for name in headers) + f"{'best of 4':>9}{'words':>9}")
length_row("true labels", by_noise[0.0])
length_row("labels like length", liked)
print(f"\nall stories: true score {held_scores.mean():.2f}, {held_lengths.mean():.0f} words")

# %% [markdown]
# The first column is the correlation of reward and length among stories of one prompt *with the same true score*. The last two: let each reward model choose one
# of the four stories, as a policy would. How good is its choice, and how long?
#
# ## Taking it out
#
# Two ways. **Balance the data**: train only on pairs whose stories differ by at most three words. Then length cannot explain a label. **Correct the reward**:
# fit a straight line of reward on length and subtract it. Compare replies of the *same prompt* only: some prompts ask for more and also earn more, and that is no bias.
#
# $$r' = r - \hat b\,(l - \bar l), \qquad \hat b = \frac{\sum (l - \bar l)(r - \bar r)}{\sum (l - \bar l)^2} \quad\text{with the means of each prompt}$$

# %% tags=["given"]
from week6_rlhf.solutions.reward_model import check_lengths

# %% tags=["exercise"]
from week6_rlhf.solutions.reward_model import length_controlled_reward

# %%
controlled = [length_controlled_reward(one, held_lengths) for one in liked]
slope = (
    LinearRegression(fit_intercept=False)
    .fit(centred(held_lengths).reshape(-1, 1).numpy(), centred(liked[0]).reshape(-1).numpy())
    .coef_[0]
)
words = held_lengths - held_lengths.mean(dim=1, keepdim=True)
torch.testing.assert_close(controlled[0], liked[0] - slope * words, atol=1e-4, rtol=1e-4)
print(f"scikit-learn's slope, first model: {slope:+.4f} a word\n")
print(f"{'':36}" + "".join(f"{name:>20}" for name in headers) + f"{'best of 4':>9}{'words':>9}")
length_row("true labels", by_noise[0.0])
length_row("labels like length", liked)
length_row("  balanced pairs", models("length", setting="labels like length, balanced pairs"))
length_row("  line subtracted", controlled)
n_balanced = [result["pairs"] for result in study["length"] if "balanced" in result["setting"]]
print(f"\npairs in training: {study['length'][0]['pairs']}; balanced, of three times the prompts: {n_balanced}")

# %% [markdown]
# Look at the first column, then at "longer is worse", then at the best of four. Both ways take the bias out; neither gives you the model of the true labels. The
# true preference *does* care about length (a story above 80 words loses), and that went out together with the bias. From these labels alone, nobody can tell "they like
# long stories" from "long stories are better": both say the same in every pair. It takes something from outside: instructions to the
# labellers, a few careful labels, or your own decision that length should not count.
#
# (Balanced pairs are also few. And a straight line takes out what is straight only: length can hide in a curve.)
#
# ## The course's reward model
#
# `python -m week6_rlhf.reward_training` trained on all 1,500 prompts, with noise 0.1. It is stored in 0.8 MB, the two trained blocks only, and lessons 02 and 03
# take it from there:

# %%
course_model, _ = load_reward_model()
fuse_right_padded(course_model.trunk)
rewards = rewards_of(course_model, held_out, tokenizer.pad_token_id)
print(
    f"held-out pairs of 60 prompts ordered right: {told_as(with_interval(right_of(rewards, pairs_of(validation[:60]))))}"
)
for k in rewards[3].argsort(descending=True).tolist():
    print(f"reward {rewards[3, k]:+.2f}, true score {held_scores[3, k]:.2f}: {validation[3].texts[k][:90]}…")

# %% [markdown]
# ## Find the bug
#
# A colleague's reward model trains just as yours, with the same losses to the last digit. Then she gives it to PPO, where a batch of prompts is padded on the left, and its rewards are
# noise.


# %%
class ColleaguesRewardModel(nn.Module):
    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.config.d_model, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, token_ids, attention_mask):
        check_mask(token_ids, attention_mask)
        rewards = self.head(self.trunk.hidden_states(token_ids, attention_mask)).squeeze(2)
        lengths = attention_mask.sum(dim=1, keepdim=True)
        return rewards.gather(1, lengths - 1)[:, 0]


print(run_check("RewardModel", ColleaguesRewardModel).card)

# %% [markdown]
# ## What to read
#
# - **Ouyang et al. 2022**: §3.5, *Reward modeling*, half a page. Find the constant that is subtracted after training, and why it may be. §3.4 and §4.1: how often
#   do two labellers agree, and how often does the model agree with them?
# - **Stiennon et al. 2020**: §4.3 and figure 5. Where does the true preference turn while the reward still rises?
# - **Singhal et al. 2023**: figure 1, and the reward that is nothing but length. How much of RLHF's gain does it reproduce?
# - **Guo et al. 2017**: §2 for the error, §4.2 for the temperature. Why does one number suffice so often?
# - **TRL**, [`trainer/reward_trainer.py`](https://github.com/huggingface/trl/blob/main/trl/trainer/reward_trainer.py): `compute_loss` is ten lines. Find the margin, and the
#   metric that is called accuracy.
# - **trlx**, [`examples/summarize_rlhf/reward_model/reward_model.py`](https://github.com/CarperAI/trlx/blob/main/examples/summarize_rlhf/reward_model/reward_model.py): three
#   things that your check would name. What is `PAD_ID`, how is the logarithm taken, and how many positions of a text does the loss count?
# - **OpenChatKit**, [`training/finetune_Pythia-Chat-Base-7B-feedback.sh`](https://github.com/togethercomputer/OpenChatKit/blob/main/training/finetune_Pythia-Chat-Base-7B-feedback.sh):
#   here, people's feedback is one more file in the mixture of fine-tuning data, and no reward model is trained. Which weight has it? What can that not learn from a reply that was *disliked*?
#
# ## Recap
#
# - A pair says which of two is better. Bradley-Terry makes that a logistic regression on differences of rewards; only differences have a meaning.
# - The reward is read at the last real token. Say by a mask where that is.
# - Noise in labels sets a ceiling on measured agreement, makes forecasts modest, and costs data.
# - A reward model learns what is easy to see and goes along with the labels: here length first, and of faithfulness little.
# - A bias of the labels is learnt as well as the truth. It can be taken out only by someone who says what is bias.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("reward_model")

# %%
progress("week6_rlhf")
