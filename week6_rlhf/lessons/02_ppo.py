# %% [markdown]
# # PPO: the policy follows the reward, on a leash
#
# Lesson 01 made a reward model: it reads a prompt and a story, and says how well the story pleases. Now the model that *tells* stories shall please
# it. There is no right answer to imitate, only a number at the end of what it wrote itself. That is reinforcement learning, and this is the
# third step of InstructGPT.
#
# Its danger is in its aim. The policy maximises the reward model's *opinion*. Where that opinion is wrong, the policy will find it. So a leash holds the
# policy near where it began, and whoever runs such a training watches more than the reward. In the course's world the true preference is known. So here you can
# see what people with a real reward model can only guess.
#
# You write six functions: three estimates of the KL divergence, the rewards of tokens, advantages, PPO's two clipped losses, and GRPO's advantages. They are
# compared with a whole step of TRL's PPO, number by number, and then they train the course model.
#
# Reading and writing: about 130 minutes. Papers: Schulman et al. 2017, *Proximal Policy Optimization* ([arXiv:1707.06347](https://arxiv.org/abs/1707.06347));
# Schulman et al. 2016, *Generalized Advantage Estimation* ([arXiv:1506.02438](https://arxiv.org/abs/1506.02438)); Ouyang et al. 2022, *InstructGPT*
# ([arXiv:2203.02155](https://arxiv.org/abs/2203.02155)); Schulman 2020, [*Approximating KL Divergence*](http://joschu.net/blog/kl-approx.html); Gao et al. 2022, *Scaling
# Laws for Reward Model Overoptimization* ([arXiv:2210.10760](https://arxiv.org/abs/2210.10760)); Shao et al. 2024, *DeepSeekMath* ([arXiv:2402.03300](https://arxiv.org/abs/2402.03300)).
# Repositories: [TRL](https://github.com/huggingface/trl), [trlx](https://github.com/CarperAI/trlx), [Axolotl](https://github.com/axolotl-ai-cloud/axolotl).

# %%
import os
import warnings
from tempfile import TemporaryDirectory

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # TRL's PPO is in its experimental part, and says so on import

import matplotlib.pyplot as plt
import torch
import yaml
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.models import course_folder
from shared.plotting import COLOURS, LINES, MARKERS, figure
from shared.runtime import seed_everything
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.solutions.instruction_data import collate_sft
from week6_rlhf.policy import encode, sample_replies, text_of
from week6_rlhf.preferences import prompts, true_score
from week6_rlhf.solutions.ppo import check_episodes, check_groups, check_losses, check_replies, check_same_shape

seed_everything(0)
warnings.filterwarnings("ignore", category=FutureWarning)  # TRL sets options under their old names
logging.set_verbosity_error()
logging.disable_progress_bar()
GPT = mine("GPT")
instruct, tokenizer = load_pretrained(course_folder("instruct"), GPT)
base, _ = load_pretrained(course_folder("base"), GPT)
asked = prompts(16, seed=5)
replies = [row[0] for row in sample_replies(instruct.eval(), tokenizer, encode(tokenizer, asked), max_new_tokens=48)]
print(asked[0].text, "->", text_of(tokenizer, replies[0]))

# %% [markdown]
# ## The aim
#
# A prompt $x$ comes in, the policy $\pi$ writes a reply $y$, the reward model gives $r(x, y)$. What is maximised (Ouyang et al., eq. 2, without its pretraining term):
#
# $$\mathbb{E}_{y \sim \pi}\Big[\, r(x, y) \;-\; \beta \log \frac{\pi(y \mid x)}{\pi_{\text{ref}}(y \mid x)} \Big]$$
#
# $\pi_{\text{ref}}$, the *reference*, is a frozen copy of the policy as it was before. The second term on average is $\beta\, \mathrm{KL}(\pi \,\|\, \pi_{\text{ref}})$: the leash.
#
# ```
# prompts ─> policy writes ─> reward model: score of the whole reply ─┐
#              ^        └──> reference: log-probability of each token ┤
#              │                                                     v
#              └── clipped steps <── advantages <── values <── rewards of tokens
# ```
#
# ## How far is it from the reference?
#
# The KL of one token is a sum over the vocabulary. Often only the log-probability of the token that was drawn is kept, and the sum must be estimated from that.
# With $x \sim p$ (the policy), $q$ the reference and $r = q(x) / p(x)$:
#
# $$k_1 = -\log r \qquad k_2 = \tfrac12 (\log r)^2 \qquad k_3 = (r - 1) - \log r$$
#
# (In Schulman's post the letters are the other way round: there $q$ is what was drawn from.) $k_1$ is the definition. $k_3$ adds something whose mean is 0: $\mathbb{E}_p[r] = \sum_x q(x) = 1$.

# %% tags=["exercise"]
from week6_rlhf.solutions.ppo import kl_penalty

# %% [markdown]
# **Predict.** Which of the three are right on average? Which one can be negative? Which varies most from token to token, near the reference and far from it?
#
# Five words, where all sums can be taken, so that bias and standard deviation are exact:

# %%
log_q = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]).double().log()
direction = torch.tensor([1.0, -0.5, 0.3, -1.5, 0.7]).double()
print(f"{'':10} {'true KL':>8}   " + "   ".join(f"{kind}: bias      std" for kind in ("k1", "k2", "k3")))
for distance in (0.1, 0.5, 1.5):
    log_p = (log_q + distance * direction).log_softmax(dim=0)
    p, true_kl = log_p.exp(), (log_p.exp() * (log_p - log_q)).sum()
    cells = []
    for kind in ("k1", "k2", "k3"):
        values = kl_penalty(log_p, log_q, kind)
        mean = (p * values).sum()
        cells.append(f"{mean - true_kl:+8.5f} {(p * (values - mean).square()).sum().sqrt():8.5f}")
    print(f"apart {distance:<4} {true_kl:8.5f}   " + "   ".join(cells))

# %% [markdown]
# $k_1$ and $k_3$ are unbiased, and near the reference $k_2$ is as good. There $k_1$ is some twenty times as noisy as the others: its sign changes from token to token. Far away it is
# the other way round, and $k_3$ is the noisiest: its $r$ is large wherever the policy has made a word rare that the reference likes.
#
# The same on a real policy: the instruct model wrote the 16 openings above, and the *base* model that it came from is the reference. With all 2,048 logits at hand the KL of
# each token can be computed, and its average over the same places is what the estimates should come near.

# %%
pairs = list(zip(encode(tokenizer, asked), replies, strict=True))
batch = collate_sft(pairs, tokenizer.pad_token_id, max_length=256)
mask = batch["labels"][:, 1:] != -100
with torch.no_grad():
    full_p, full_q = (model(batch["token_ids"])[:, :-1][mask].log_softmax(dim=-1) for model in (instruct, base))
drawn = batch["token_ids"][:, 1:][mask][:, None]
exact = (full_p.exp() * (full_p - full_q)).sum(dim=-1)
print(f"{len(exact)} tokens, full vocabulary: {exact.mean():.3f} nats a token")
for kind in ("k1", "k2", "k3"):
    values = kl_penalty(full_p.gather(1, drawn)[:, 0], full_q.gather(1, drawn)[:, 0], kind)
    error = (values - exact).std() / len(values) ** 0.5
    print(
        f"{kind}: mean {values.mean():.3f} ± {2 * error:.3f} (two standard errors), std {values.std():.3f}, smallest {values.min():.3f}"
    )

# %% [markdown]
# These two models are far apart on some tokens. There $k_2$ is wrong by a lot, and $k_3$ is right on average only: look at the intervals. For a report on a distant policy take $k_1$, or the full sum where the logits are at hand.
#
# There is a second use, and it has a trap. In PPO the KL is part of the *reward*, a number. In GRPO it stands in the *loss*, and is differentiated. Then the
# question is not what its mean is, but what the mean of its *gradient* is. **Predict**: what is the mean gradient of $k_1$?

# %%
scores = direction.clone().requires_grad_()


def gradient_of(make) -> Tensor:
    return torch.autograd.grad(make(scores.log_softmax(dim=0)), scores)[0]


def as_loss(kind: str, corrected: bool = False):
    """The mean over draws from p, where the draws themselves know nothing of the scores: what samples in a loss see."""

    def make(log_p: Tensor) -> Tensor:
        ratio = (log_p - log_p.detach()).exp() if corrected else 1.0
        return (log_p.exp().detach() * ratio * kl_penalty(log_p, log_q, kind)).sum()

    return make


true_gradient = gradient_of(lambda log_p: (log_p.exp() * (log_p - log_q)).sum())
print("KL(p ‖ q) itself ", [f"{g:+.3f}" for g in true_gradient.tolist()])
losses = {kind: as_loss(kind) for kind in ("k1", "k2", "k3")}
losses["p_new/p_old · k3"] = as_loss("k3", corrected=True)
for name, make in losses.items():
    print(f"{name:17}", [f"{g:+.3f}" for g in gradient_of(make).tolist()])

# %% [markdown]
# As a loss, $k_1$ does *nothing* on average: $\mathbb{E}_p[\nabla \log p] = 0$. The biased $k_2$ has the right gradient. $k_3$ has that of the other divergence, $\mathrm{KL}(q \,\|\, p)$. With the
# ratio in front, $k_3$ is right again: TRL's `GRPOConfig` calls that `use_bias_correction_kl`, and it is on by default. (Tang and Munos 2025, [arXiv:2506.09477](https://arxiv.org/abs/2506.09477).)
#
# ## What each token earned
#
# The reward model speaks once, at the end. The KL is charged where it arises:
#
# $$r_t = -\beta\, k_1(t) \;+\; [\,t \text{ is the last token}\,] \; r(x, y)$$
#
# And a reply that was cut off at the limit? It is judged as it stands, less a penalty. Otherwise it pays to go on for ever: TRL has `missing_eos_penalty` for this.

# %% tags=["exercise"]
from week6_rlhf.solutions.ppo import token_rewards

# %%
kl = torch.tensor([[0.0, 0.5, 1.0, 0.0], [0.0, 0.2, 0.2, 0.2]])
real = torch.tensor([[False, True, True, False], [False, True, True, True]])
print(token_rewards(torch.tensor([2.0, 2.0]), kl, real, ended=torch.tensor([True, False]), beta=0.1))

# %% [markdown]
# ## Which token was it?
#
# A story scored well. Thanks to which of its tokens? A *value* $V(s_t)$ says what can still be expected before token $t$ is written. Where things turn out better than expected,
# the token in between is given the credit: $\delta_t = r_t + \gamma V(s_{t+1}) - V(s_t)$. If $V$ were perfect, that would be all. It is a guess, so GAE also looks further (eq. 16):
#
# $$\hat A_t = \sum_{l \ge 0} (\gamma\lambda)^l\, \delta_{t+l} \qquad\Longleftrightarrow\qquad \hat A_t = \delta_t + \gamma\lambda\, \hat A_{t+1}$$
#
# $\lambda = 0$ trusts $V$ after one step. $\lambda = 1$ does not trust it at all: return minus value. Two borders need care:
#
# ```
# t:       0    1    2 │  3    4    5    6 ┊ (7)
# dones:   0    0    1 │  0    0    0    0 ┊        │ the episode ended: nothing flows back over it
#                                          ┊        ┊ only our row ended: V(s_7) = next_value stands for the rest
# ```

# %% tags=["exercise"]
from week6_rlhf.solutions.ppo import gae

# %% [markdown]
# What is λ good for? A game where everything is known: 20 steps, each pays a random amount of mean 0.1 and standard deviation 1. The true value before step $t$ is $0.1\,(20 - t)$.
# Our value function is wrong: it is off by a random amount at each step. **Predict**: for which λ is the estimate of $\hat A_0$ nearest to the truth when $V$ is nearly right?
# And when it is far off?

# %%
generator = torch.Generator().manual_seed(0)
steps, games = 20, 4000
paid = 0.1 + torch.randn(games, steps, generator=generator)
truth = 0.1 * torch.arange(steps, 0, -1.0).expand(games, steps)
over = torch.zeros(games, steps, dtype=torch.bool)
over[:, -1] = True
lams = torch.linspace(0, 1, 11)
fig, ax = figure(
    "GAE: how far to look depends on how good the value function is", "λ", "mean squared error of the advantage"
)
best = {}
for wrong, colour, marker in zip((0.3, 1.5, 3.0), COLOURS, MARKERS, strict=False):
    guess = truth + wrong * torch.randn(games, steps, generator=generator)
    # at γ = 1 the true advantage of step t is what it paid less the mean pay
    errors = []
    for lam in lams.tolist():
        advantages, _ = gae(paid, guess, over, 1.0, lam, torch.zeros(games))
        errors.append((advantages[:, 0] - (paid[:, 0] - 0.1)).square())
    errors = torch.stack(errors)
    mean, two = errors.mean(dim=1), 2 * errors.std(dim=1) / games**0.5
    ax.errorbar(lams, mean, two, color=colour, marker=marker, markersize=4, capsize=2, label=f"V off by {wrong}")
    best[wrong] = round(lams[mean.argmin()].item(), 1)
ax.set_yscale("log")
ax.legend(frameon=False)
plt.show()
print("best λ:", best)

# %% [markdown]
# A row that was cut is no row that ended. Give GAE the *true* values, and pay exactly what was expected: then no step deserves credit or blame. Cut the row after 5 of 20 steps:

# %%
paid_as_expected, five = torch.full((1, 5), 0.1), truth[:1, :5]
running = torch.zeros(1, 5, dtype=torch.bool)
for name, after in (("next_value = V(s_5)", truth[:1, 5]), ("next_value = 0      ", torch.zeros(1))):
    print(name, [f"{a:+.2f}" for a in gae(paid_as_expected, five, running, 1.0, 0.95, after)[0][0].tolist()])

# %% [markdown]
# Without the bootstrap every step is blamed for a game that simply goes on. In the training below this case does not arise: a cut opening has been *judged*, so for the reward it is done. Where a
# reply can go on for ever, do not bootstrap either: a value that is never compared with a real end can rise without limit. Hence the penalty.
#
# ## The leash, part two: a clipped step
#
# A batch of replies is dear, so it is used for several steps. After the first one the policy is no longer the one that wrote them. The ratio $\rho_t = \pi_{\text{new}} / \pi_{\text{old}}$ corrects for that,
# and PPO's clip (eq. 7) takes away the reason to move it far:
#
# $$L = \mathbb{E}_t\big[ \min(\rho_t \hat A_t,\; \mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon)\, \hat A_t) \big]$$
#
# The paper maximises $L$; an optimizer minimises, so your function returns $-L$. Do not mix up the two leashes. The clip is about *one iteration*: new against old. The KL is about *all of training*: policy
# against reference. A policy can walk any distance in clipped steps.

# %% tags=["exercise"]
from week6_rlhf.solutions.ppo import ppo_policy_loss

# %%
ratios = torch.linspace(0.4, 1.8, 141)
one = torch.ones(1, 1, dtype=torch.bool)
fig, ax = figure(
    "The objective stops paying where the policy has gone far enough the right way",
    "ratio ρ of new to old probability",
    "what is maximised",
)
for advantage, style, colour in ((1.0, "-", COLOURS[0]), (-1.0, "--", COLOURS[3])):
    losses = [
        ppo_policy_loss(ratio.log().view(1, 1), torch.zeros(1, 1), torch.full((1, 1), advantage), one)
        for ratio in ratios
    ]
    ax.plot(ratios, [-loss.item() for loss in losses], style, color=colour, label=f"A = {advantage:+.0f}")
ax.axvline(1, color="grey", linewidth=0.8, linestyle=":")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# That is figure 1 of the paper. Flat means: no gradient. Look at the sides that are *not* flat. A good token that became rarer, a bad one that became more frequent: there the pull back stays, at any distance.
#
# The value head learns from the returns. OpenAI's first code clipped it too, and TRL still does; the paper does not (eq. 9), and later studies found little use in it:

# %% tags=["exercise"]
from week6_rlhf.solutions.ppo import ppo_value_loss

# %% [markdown]
# ## Beside TRL: a whole step
#
# TRL has PPO in `trl.experimental.ppo` (up to version 1.12). Rewards, advantages and losses are computed in the middle of one long `train` function, with nothing to call. So `week6_rlhf/trl_steps.py` lets it run one iteration on the
# course model and keeps its local variables. Below, every number of ours is computed by your functions from TRL's inputs.

# %%
from trl.experimental.ppo.ppo_trainer import masked_mean, masked_whiten

from week6_rlhf.trl_steps import grpo_trainer, ppo_step

hf_instruct = AutoModelForCausalLM.from_pretrained(course_folder("instruct"))
with tqdm(total=1, desc="one iteration of TRL's PPO") as bar:
    rollout, updates = ppo_step(
        hf_instruct, tokenizer, encode(tokenizer, asked[:8]), max_new_tokens=24, lam=0.9, gamma=0.98, kl_coef=0.3
    )
    bar.update()
tokens, states = ~rollout["padding_mask"], ~rollout["padding_mask_p1"]
found = {"kl, k1": (kl_penalty(rollout["logprobs"], rollout["ref_logprobs"], "k1"), rollout["kl"])}
paid = token_rewards(rollout["scores"], rollout["kl"], states, torch.ones(8, dtype=torch.bool), beta=0.3)
found["rewards of tokens"] = (paid, rollout["rewards"])
advantages, returns = gae(paid, rollout["values"], torch.zeros_like(states), 0.98, 0.9, torch.zeros(8))
found["returns"] = (returns, rollout["returns"])
white = masked_whiten(advantages, tokens).masked_fill(~tokens, 0)
for i, update in enumerate(updates):
    rows = (update["mb_return"][:, None] == returns[None]).all(dim=-1).int().argmax(dim=1)  # TRL shuffles the rows
    found[f"step {i}: advantages"] = (white[rows], update["mb_advantage"])
    loss = ppo_policy_loss(update["new_logprobs"], update["mb_logprobs"], update["mb_advantage"], tokens[rows])
    found[f"step {i}: policy loss"] = (loss, update["pg_loss"])
    loss = ppo_value_loss(update["vpred"], update["mb_values"], update["mb_return"], states[rows])
    found[f"step {i}: value loss"] = (loss, update["vf_loss"])
for name, (ours, theirs) in found.items():
    value = f"{theirs.item():.4f}" if theirs.dim() == 0 else f"{tuple(theirs.shape)}"
    print(f"{name:22} TRL {value:>10}   largest difference {(ours - theirs).abs().max():.0e}")
outside = ((updates[-1]["ratio"][tokens[rows]] - 1).abs() > 0.2).float().mean()
print(f"ratios outside the clip in the last step: {outside:.0%}")

# %% [markdown]
# One curiosity that you only see when you compare: TRL gives the score to the place *after* the last token, a state in which nothing is written any more, and its value head learns there too. (`padding_mask_p1` is that longer mask; above we passed it as `mask`.)
#
# ## Find the bug
#
# A colleague simplifies the loss: "the minimum is only there for the paper's proof, clipping is what counts". It trains, more or less. What is lost?


# %%
def colleagues_loss(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    clip: float = 0.2,
) -> Float[Tensor, ""]:
    check_losses(clip, mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    ratio = (log_probs[mask] - old_log_probs[mask]).exp()
    return -(ratio.clamp(1 - clip, 1 + clip) * advantages[mask]).mean()


print(run_check("ppo_policy_loss", colleagues_loss).card)

# %% [markdown]
# ## The neighbour: GRPO
#
# PPO needs a value for every token, and a second network (or head) to learn it. Shao et al. leave it out. Write several replies to the *same* prompt, and let the group be the expectation:
#
# $$\hat A_i = \frac{r_i - \mathrm{mean}(r_1 \dots r_G)}{\mathrm{std}(r_1 \dots r_G)}$$
#
# Each token of a reply gets its reply's advantage. Nobody tries to say which token it was. Then the same clipped loss, with the KL in the loss. Dividing by the std has a side effect: a group in which all replies are nearly
# equal is blown up to the same size as one with real differences. Liu et al. 2025 ([arXiv:2503.20783](https://arxiv.org/abs/2503.20783), *Dr. GRPO*) leave the division out: `scale=False`.

# %% tags=["exercise"]
from week6_rlhf.solutions.ppo import group_advantages

# %%
much, nearly = torch.tensor([0.0, 0.0, 0.0, 4.0]), torch.tensor([1.0, 1.0, 1.0, 1.01])
for name, found in {
    "one much better": group_advantages(much, 4),
    "nearly equal": group_advantages(nearly, 4),
    "nearly equal, not divided": group_advantages(nearly, 4, scale=False),
}.items():
    print(f"four replies, {name:26}", [f"{a:+.4f}" for a in found.tolist()])

# %% [markdown]
# ## The whole loop
#
# Open `week6_rlhf/ppo_training.py`. `train` is one flat loop of three parts: write, judge, learn. It fits a screen, and from here on it runs *your* functions. Some decisions in it are worth a look:
#
# - *What learns.* Only biases and norms (BitFit, week 4): about 7,000 of a million numbers. Each step has 16 stories and one score each, so its gradient is mostly noise. Noise moves
#   every number that may move, and all of that is KL that buys no reward.
# - *The value head* is one linear map on the policy's own last state; it begins at 0.
# - *Advantages are whitened* (mean 0, std 1 over the batch), so the learning rate need not know the scale of the reward. TRL does it too.
# - *GRPO is the same loop* with `group_size`: other advantages, KL in the loss, no value.
#
# The reward is lesson 01's reward model, in standard deviations of the instruct model's own stories (its absolute value means nothing). How good is that proxy? Here on stories of prompts that it never saw:

# %%
from week6_rlhf import ppo_training
from week6_rlhf.ppo_study import PARTS, fresh_policy, load, proxy_reward
from week6_rlhf.ppo_training import PPOConfig, train
from week6_rlhf.reward_training import token_rows
from week6_rlhf.samples import told

ppo_training.use_mine()
reward = proxy_reward()
seen = told("validation")[16:40]
rows = [row for group in token_rows(tokenizer, seen) for row in group]
proxy = reward([[]] * len(rows), rows)
parts = {
    part: torch.tensor([getattr(true_score(row.prompt, text), part) for row in seen for text in row.texts])
    for part in ("total", "faithful", "kind", "short")
}


def correlation(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """Pearson's r with a 95 % interval by Fisher's transformation."""
    r = torch.corrcoef(torch.stack([a, b]))[0, 1]
    low, high = (torch.tanh(torch.atanh(r) + z / (len(a) - 3) ** 0.5).item() for z in (-1.96, 1.96))
    return r.item(), low, high


for part, values in parts.items():
    r, low, high = correlation(proxy, values)
    print(f"proxy with {part:9} r = {r:+.2f} [{low:+.2f}, {high:+.2f}] over {len(proxy)} stories")

# %% [markdown]
# It knows best what is easy to see in a text of a hundred words, and hardly whether the story is *about* what was asked for.
#
# **Predict**, before you run on. The policy is trained on this proxy without KL ($\beta = 0$). What happens, iteration by iteration, to the proxy, to the true score and its three parts, to the length, to the KL? Which of them would you see in real life?

# %%
config = PPOConfig(beta=0.0)
model, reference, _ = fresh_policy()
curve = list(train(model, reference, reward, tokenizer, config, "PPO without KL"))
columns = ("proxy", "true", "faithful", "kind", "short", "tokens", "kl", "distinct", "clipped")
print("iteration " + "".join(f"{name:>9}" for name in columns))
for i in range(0, config.iterations, 3):
    print(f"{i:9} " + "".join(f"{curve[i][name]:9.2f}" for name in columns))
few = prompts(2, seed=98, split="validation")
for prompt, (reply,) in zip(
    few,
    sample_replies(model.policy, tokenizer, encode(tokenizer, few), generator=torch.Generator().manual_seed(0)),
    strict=True,
):
    print(f"\n{prompt.text}\n  {text_of(tokenizer, reply)}")

# %% [markdown]
# An iteration here is 16 stories, so single numbers jump (the true score of one story has a standard deviation of about 0.9). For a judgement take the stored study: `python -m week6_rlhf.ppo_study` ran the same function longer (24 iterations), three seeds each,
# without a leash, with one, and as GRPO. Thin lines are seeds, thick ones their mean over five iterations:

# %%
study = load()
NAMES = {
    "free": "PPO, no KL",
    "leash": f"PPO, β = {PARTS['leash']['beta']}",
    "grpo": f"GRPO, β = {PARTS['grpo']['beta']}",
}
print({NAMES[part]: f"{len(runs)} seeds" for part, runs in study["runs"].items()})


def smoothed(values: Tensor, width: int = 5) -> Tensor:
    return values.unfold(0, width, 1).mean(dim=1)


def two_curves(names: tuple[str, str], labels: tuple[str, str], title: str) -> None:
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    for ax, name, label in zip(axes, names, labels, strict=True):
        for part, colour, style in zip(NAMES, COLOURS, LINES, strict=False):
            curves = torch.tensor([run["curve"][name] for run in study["runs"][part]])
            for one_seed in curves:
                ax.plot(smoothed(one_seed), color=colour, linewidth=0.7, alpha=0.5)
            ax.plot(smoothed(curves.mean(dim=0)), linestyle=style, color=colour, linewidth=2.2, label=NAMES[part])
        ax.set(xlabel="iteration", ylabel=label)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    plt.show()


two_curves(("proxy", "true"), ("proxy reward (std)", "true score (at most 4)"), "What is optimised, and what is wanted")
two_curves(
    ("kl", "tokens"),
    ("KL to the reference (nats a story)", "tokens a story"),
    "What it cost: the distance from the reference, and the length",
)

# %% [markdown]
# These are the curves that one must watch: *proxy*, *true score*, *KL*, and the *length*. In real life the second is missing: it is bought from time to time, from people. The others are free.
#
# The policies at the end, on held-out prompts that are the same for all. The interval is over stories (two standard errors); the seeds' own means stand behind it:

# %%
before = study["before"]


def row_of(name: str, runs: list[dict]) -> str:
    cells = []
    for part in ("proxy", "total", "faithful", "kind", "short", "tokens"):
        values = torch.tensor([run[part] for run in runs], dtype=torch.float32)
        per_prompt = values.mean(dim=0)  # seeds of one prompt are not independent stories
        cells.append(f"{values.mean():7.2f} ± {2 * per_prompt.std() / len(per_prompt) ** 0.5:5.2f}")
    return f"{name:16}" + "".join(f"{cell:>17}" for cell in cells)


print(" " * 16 + "".join(f"{part:>17}" for part in ("proxy", "true, total", "faithful", "kind", "short", "tokens")))
print(row_of("instruct", [before]))
for part, name in NAMES.items():
    runs = study["runs"][part]
    print(row_of(name, [run["held_out"] for run in runs]))
    gains = [torch.tensor(run["held_out"]["total"]).sub(torch.tensor(before["total"])) for run in runs]
    gain = torch.stack(gains).mean(dim=0)
    error = 2 * gain.std() / len(gain) ** 0.5
    print(
        f"    true score against instruct, same prompts: {gain.mean():+.2f} ± {error:.2f}; by seed {[f'{g.mean():+.2f}' for g in gains]}"
    )

# %% [markdown]
# Hold the first row of PPO against *instruct*. Without KL the proxy rose by 1.4 standard deviations, and the true score *fell*: the stories got short, which the reward model sees, and lost what was asked
# for, which it hardly sees. With a leash the proxy rose half as far, at a KL of about nine nats. Whether the true score rose there these runs do not show: the intervals of both gains include 0. So the leash saved what was
# there, and bought little that can be shown.
#
# And what they wrote. Read this before you believe any number above:

# %%
for part, name in NAMES.items():
    print(f"--- {name}")
    for prompt, text in study["runs"][part][0]["held_out"]["texts"][:2]:
        print(f"{prompt}\n  {text[:400]}")

# %% [markdown]
# ## Overoptimization, Gao et al.'s way
#
# Gao et al. made a "gold" reward model the truth, trained small proxies on its labels, and plotted both against $\sqrt{\mathrm{KL}}$: the proxy goes on rising, the gold score turns. One of their findings is often forgotten: a KL *penalty* gave them more proxy reward at the
# same KL, but no more gold reward at the same KL. It worked like stopping earlier. **Predict**: in the plot below, does the leash lift the true score at a given KL?

# %%
fig, ax = figure(
    "Proxy (dashed) and true score (solid) against the distance walked",
    "√KL to the reference (√nats)",
    "change since the start, in std of each score",
)
true_before, proxy_before = torch.tensor(before["total"]), torch.tensor(before["proxy"])
for part, colour, marker in zip(NAMES, COLOURS, MARKERS, strict=False):
    mean = {
        name: smoothed(torch.tensor([run["curve"][name] for run in study["runs"][part]]).mean(dim=0))
        for name in ("kl", "proxy", "true")
    }
    distance = mean["kl"].clamp(min=0).sqrt()
    ax.plot(distance, mean["proxy"] - proxy_before.mean(), f"{marker}--", markevery=0.15, markersize=5, color=colour)
    ax.plot(distance, (mean["true"] - true_before.mean()) / true_before.std(), f"{marker}-", markevery=0.15, markersize=5, color=colour, label=NAMES[part])
ax.axhline(0, color="grey", linewidth=0.8, linestyle=":")
ax.legend(frameon=False)
plt.show()
print("iterations of all seeds, sorted by their KL; mean ± two standard errors over iterations")
for low, high in ((4, 8), (8, 14), (14, 30), (30, 90)):
    for part, name in NAMES.items():
        kl, proxy, true = (torch.tensor([run["curve"][k] for run in study["runs"][part]]) for k in ("kl", "proxy", "true"))
        there = (kl > low) & (kl <= high)
        if there.sum() >= 4:
            both = [f"{v[there].mean():5.2f} ± {2 * v[there].std() / there.sum() ** 0.5:.2f}" for v in (proxy, true)]
            print(f"KL {low:2} to {high:2}   {name:15} proxy {both[0]}   true score {both[1]}   ({there.sum()} iterations)")

# %% [markdown]
# Compare rows of one KL. Between 8 and 14 nats the leash has, if anything, more proxy than the run without it, and of the true score what the intervals allow. That is Gao et al.'s finding, as far as nine small runs can show it. What the leash does for certain is to *end* there. The run
# without it goes on to where the proxy still rises and the true score falls.
#
# ## GRPO, by TRL
#
# First the same loss on the same batch: TRL's trainer writes and scores replies, then its policy is moved a little, so that ratios differ from 1. (Its `loss_type="bnpo"` is one mean over all tokens, as in your function; its default, `dapo`, takes that mean over all the batches of one step.) Then its whole
# training, ten steps on five batches of stories, beside our loop with the same settings.

# %%
from week4_finetuning.solutions.other_peft import bitfit_parameters

bitfit_parameters(hf_instruct, norms_too=True)
SAME = {"per_device_train_batch_size": 16, "num_iterations": 2, "beta": 0.1, "learning_rate": 3e-3}
asked_ids = encode(tokenizer, prompts(20, seed=10))
with TemporaryDirectory() as folder:
    trainer = grpo_trainer(
        hf_instruct, tokenizer, asked_ids[:4], reward, 4, folder, max_completion_length=32, max_steps=2, **SAME
    )
    written = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        theirs = trainer._compute_loss(trainer.model, written)
        both = [
            torch.cat([written[f"prompt_{kind}"], written[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask")
        ]
        log_probs = trainer._get_per_token_logps_and_entropies(
            trainer.model, *both, written["completion_ids"].shape[1]
        )[0]
real = written["completion_mask"].bool()
old, ref = written["old_per_token_logps"], written["ref_per_token_logps"]
ours = ppo_policy_loss(log_probs, old, written["advantages"][:, None].expand(real.shape), real)
ours = ours + 0.1 * ((log_probs - old).exp() * kl_penalty(log_probs, ref, "k3"))[real].mean()
print(f"loss: ours {ours:.7f}, TRL {theirs:.7f}, difference {abs(ours - theirs):.0e}")

# %%
with TemporaryDirectory() as folder, tqdm(total=1, desc="ten steps of TRL's GRPO") as bar:
    trainer = grpo_trainer(
        hf_instruct, tokenizer, asked_ids, reward, 4, folder, max_completion_length=144, max_steps=10, **SAME
    )
    trainer.train()
    bar.update()
logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
model, reference, _ = fresh_policy()
like_trl = PPOConfig(iterations=5, group_size=4, minibatch=16, beta=0.1)
ours = [row["proxy"] for row in train(model, reference, reward, tokenizer, like_trl, "our GRPO")]
print("proxy reward of each batch of 16 stories; its standard error is about", round(1 / 16**0.5, 2))
print("TRL ", [f"{value:+.2f}" for value in logged])
print("ours", [f"{value:+.2f}" for value in ours])

# %% [markdown]
# Random draws differ, so the curves agree only within their noise. The losses above are what agrees exactly.
#
# ## The same job in trlx and Axolotl
#
# Both are driven by a configuration. They need a GPU and their own versions of everything, so they are not run here; the keys below were checked against their sources and documentation.
# [trlx](https://github.com/CarperAI/trlx) was the first library for this at scale (its last release is from 2023). Each line has its counterpart in our config:

# %%
TRLX = """
train:
  seq_length: 256             # our context_length
  total_steps: 64             # optimizer steps: 16 iterations x 2 epochs x 2 minibatches
  batch_size: 8               # our minibatch
  epochs: 16                  # our iterations: each begins with new rollouts
  checkpoint_interval: 64
  eval_interval: 16
  pipeline: PromptPipeline    # prompts come as strings, to trlx.train(prompts=...)
  trainer: AcceleratePPOTrainer
model:
  model_path: shared/checkpoints/instruct
  num_layers_unfrozen: -1     # all layers learn; 2 would share the frozen rest with the reference (the "hydra" model)
tokenizer: {tokenizer_path: shared/checkpoints/instruct, truncation_side: right}
optimizer: {name: adamw, kwargs: {lr: 3.0e-3, betas: [0.9, 0.95], weight_decay: 0.0}}
scheduler: {name: cosine_annealing, kwargs: {T_max: 1.0e+12, eta_min: 3.0e-3}}  # so long that it is constant
method:
  name: PPOConfig
  num_rollouts: 16            # our replies an iteration
  chunk_size: 16              # of them written at once
  ppo_epochs: 2
  init_kl_coef: 0.1           # our beta ...
  target: null                # ... and it stays: with a number, beta is steered until the KL is that (Ziegler et al. 2019)
  horizon: 10000              # how slowly it is steered
  gamma: 1.0
  lam: 0.95
  cliprange: 0.2
  cliprange_value: 0.2
  vf_coef: 0.5                # our value_weight
  scale_reward: ignored       # or "running", "ref": divide by a std; we did that in proxy_reward
  ref_mean: null
  ref_std: null
  cliprange_reward: 10        # a score beyond ±10 is cut
  gen_kwargs: {max_new_tokens: 144, top_k: 0, top_p: 1.0, do_sample: true}
"""
trlx, ours = yaml.safe_load(TRLX), PPOConfig()
method = trlx["method"]
assert (method["num_rollouts"], method["ppo_epochs"], method["init_kl_coef"]) == (ours.replies, ours.epochs, ours.beta)
assert (method["gamma"], method["lam"], method["cliprange"], method["vf_coef"]) == (
    ours.gamma,
    ours.lam,
    ours.clip,
    ours.value_weight,
)
assert trlx["train"]["total_steps"] == ours.iterations * ours.epochs * ours.replies // ours.minibatch
print("the trlx file says the same as PPOConfig()")

# %% [markdown]
# The reward is a Python function, `trlx.train(reward_fn=..., prompts=...)`. One more thing is worth reading there, in `accelerate_ppo_trainer.py`, `make_experience` (in the version that was read for this lesson): the KL that it *reports* is `log_ratio.exp() - 1 - log_ratio` with
# `log_ratio = logprobs - ref_logprobs`. Compare that with your $k_3$: which way round is $r$? (What it *charges* is $k_1$, and right.) Let the check say it:


# %%
def reported_kl(
    log_probs: Float[Tensor, "..."], reference_log_probs: Float[Tensor, "..."], kind: str = "k1"
) -> Float[Tensor, "..."]:
    if kind != "k3":
        return kl_penalty(log_probs, reference_log_probs, kind)
    check_same_shape(log_probs=log_probs, reference_log_probs=reference_log_probs)
    log_ratio = log_probs - reference_log_probs
    return log_ratio.exp() - 1 - log_ratio


print(run_check("kl_penalty", reported_kl).card)

# %% [markdown]
# [Axolotl](https://github.com/axolotl-ai-cloud/axolotl) wraps TRL's trainers in one YAML file; of this lesson it has GRPO. `axolotl vllm-serve config.yaml` writes the replies on one GPU, `axolotl train config.yaml` learns on another:

# %%
AXOLOTL = """
base_model: ./shared/checkpoints/instruct
rl: grpo                      # or dpo, ipo, kto, orpo, simpo
trl:
  beta: 0.1                   # the KL in the loss; 0: no reference model is loaded
  num_generations: 4          # our group_size
  max_completion_length: 144
  num_iterations: 2           # our epochs; mu in the paper
  epsilon: 0.2                # our clip
  loss_type: bnpo             # one mean over all tokens
  scale_rewards: true         # divide by the group's std; false: Dr. GRPO
  use_bias_correction_kl: true
  mask_truncated_completions: false   # true: a reply without an end teaches nothing. Ours pays a penalty
  temperature: 1.0
  reward_funcs: [rewards.proxy]       # rewards.py, def proxy(completions, **columns) -> list[float]
  use_vllm: true
datasets:
  - path: json                # rows with a prompt ...
    data_files: prompts.jsonl
    type: rewards.to_prompt   # ... made by this function of rewards.py
sequence_len: 256
micro_batch_size: 16          # stories, so 4 groups; our minibatch is 8
gradient_accumulation_steps: 1
max_steps: 48
learning_rate: 3.0e-3
optimizer: adamw_torch_fused
lr_scheduler: constant
output_dir: ./grpo
"""
axolotl, ours = yaml.safe_load(AXOLOTL), PPOConfig(**PARTS["grpo"])
assert (axolotl["trl"]["beta"], axolotl["trl"]["num_generations"], axolotl["trl"]["epsilon"]) == (
    ours.beta,
    ours.group_size,
    ours.clip,
)
assert (
    axolotl["trl"]["max_completion_length"] == ours.max_new_tokens and axolotl["trl"]["num_iterations"] == ours.epochs
)
print("the Axolotl file says the same as the study's GRPO, but for the minibatch and for what learns")

# %% [markdown]
# ## What to read
#
# - **Schulman et al. 2017**: §3 and figure 1; then eq. 9 for the value term, and §5 for how a batch is used several times.
# - **Schulman et al. 2016**: §3 up to eq. 18. What do γ and λ each trade?
# - **Ouyang et al. 2022**: eq. 2 with its third term, γ E[log π] on pretraining text. What is it for? (§5.2 speaks of an "alignment tax".)
# - **Gao et al. 2022**: figure 1, and the section on the KL penalty.
# - **Shao et al. 2024**: §4.1, and figure 4, PPO and GRPO side by side. Where does the KL go?
# - **TRL**: [`trl/trainer/grpo_trainer.py`](https://github.com/huggingface/trl/blob/main/trl/trainer/grpo_trainer.py), `_compute_loss`: find your clipped loss among its dozen variants.
# - **trlx**: `trlx/models/modeling_ppo.py`: `get_advantages_and_returns` and `loss` are your `gae` and two losses. What do they do with an episode that was cut?
# - Lambert's [RLHF book](https://rlhfbook.com) tells the history of all of these.
#
# ## Recap
#
# - The reward model speaks once, at the end; KL is charged for each token; GAE shares out the rest. A row that was cut is not one that ended.
# - Two leashes: the clip holds one iteration, the KL all of training.
# - $k_1$, $k_3$ are right as numbers, $k_2$ (or the corrected $k_3$) as a loss.
# - What is optimised is the proxy. Watch proxy, KL and length at every step, pay for the true score from time to time, and read what the policy writes.
# - GRPO is PPO with the group instead of the value.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("ppo")

# %%
progress("week6_rlhf")
