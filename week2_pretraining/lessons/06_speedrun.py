# %% [markdown]
# # The speedrun
#
# How fast can a given model reach a given loss? In 2024 people began to race: the same data, the same target, any trick
# that holds up. In less than eight months the time to train a small GPT-2 on eight GPUs fell from 45 minutes to under
# three (records of modded-nanogpt), and some of the tricks went into the models that you read about in the news. A race is honest in a way that papers
# rarely are: one number, one clock, and whoever doubts it runs it again.
#
# In this lesson you race on your own CPU. The baseline is a recipe that thousands of people have run: the one that nanoGPT
# publishes for a laptop. You write the parts that beat it, one by one, and see what each of them saves. Your times
# stay in a table.
#
# Reading and writing: about 75 minutes. Sources: Jordan et al. 2024, *Muon: An optimizer for hidden layers in neural
# networks* ([post](https://kellerjordan.github.io/posts/muon/)); So et al. 2021, *Primer*
# ([arXiv:2109.08668](https://arxiv.org/abs/2109.08668)); Hägele et al. 2024, *Scaling Laws and Compute-Optimal
# Training Beyond Fixed Training Durations* ([arXiv:2405.18392](https://arxiv.org/abs/2405.18392)).

# %%
import math
import time
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from shared import borrow, check, explore, hint, mine, progress
from shared.checking import run_check
from shared.data import corpus
from shared.plotting import COLOURS, figure
from shared.runtime import machine, seed_everything

seed_everything(0)
print(", ".join(machine().values()), f"- {torch.get_num_threads()} threads")

# %% [markdown]
# ## The rules
#
# - **The text**, by characters: 90 % to train on, the rest to validate. nanoGPT takes tiny Shakespeare, 1.1 MB of his
#   plays. Here it is as much of the course's stories. If you have a text of your own, put it in.
# - **The judge**: nanoGPT's estimate of the validation loss, the mean over 20 batches of 12 windows of 64 characters. We take
#   the same windows each time. The clock stands still while the judge works, for everyone.
# - **The model** keeps its body: 4 layers, 4 heads, 128 wide, a context of 64. What it knows, it learns in the race, by
#   gradients, from random numbers or zeros.
#
# The last rule is needed: a table of counts of five characters, as in week 1's bigram, is made in a second, and beats a
# young network. A record says little without its rules.
#
# A recipe is one frozen dataclass. Its defaults *are* the baseline:

# %% tags=["given"]
from week2_pretraining.solutions.speedrun import Run

# %%
from week2_pretraining.speedrun_times import CharacterText, Result

data = CharacterText.of(corpus(1_115_394), "the course corpus")  # as long as tiny Shakespeare
# data = CharacterText.of(open("input.txt").read(), "tiny Shakespeare")
baseline = Run()
print(f"{len(data.train_ids):,} characters to train on, {len(data.validation_ids):,} to validate, {len(data.characters)} kinds")
print(f"the baseline sees {baseline.iterations * baseline.batch_size * baseline.context_length:,} characters")

# %% [markdown]
# ## The schedule
#
# The baseline's rate falls along a cosine that is planned for 2,000 steps. Stop it earlier, and you stop with large steps: the
# weights still jump around the valley, and the loss is that of the jumping. The *trapezoid*, also called
# warm-up-stable-decay, goes up, stays, and comes down in a straight line just before the end, wherever you put the end:
#
# ```
#   max_lr     ________________
#             /                \
#            /                  \
#           /                    \___  min_lr
#          warmup     flat      decay
# ```
#
# If the way down takes all steps, it is the straight line to zero, which is hard to beat for short runs.
#
# **Predict.** The loss falls fastest in which of the three parts?

# %% tags=["exercise"]
from week2_pretraining.solutions.speedrun import trapezoid_lr

# %%
warmup_cosine_lr = mine("warmup_cosine_lr")
fig, ax = figure("Three ways through 200 steps", "step", "learning rate (share of the highest)", height=2.8)
ax.plot([warmup_cosine_lr(step, 1.0, 20, 200, 0.1) for step in range(201)], label="cosine")
ax.plot([trapezoid_lr(step, 1.0, 20, 200, 80) for step in range(201)], "--", label="trapezoid, 80 steps down")
ax.plot([trapezoid_lr(step, 1.0, 0, 200, 200) for step in range(201)], ":", label="straight line to zero")
ax.legend(frameon=False)
plt.show()

optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
theirs = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=50)
for step in range(60):
    assert abs(trapezoid_lr(step, 0.3, 0, 50, 50, 0.03) - optimizer.param_groups[0]["lr"]) < 1e-9
    optimizer.step()
    theirs.step()
print("equal to torch.optim.lr_scheduler.LinearLR over 60 steps")

# %% [markdown]
# <details><summary>Answer</summary>
#
# At the very beginning, as always; but after that, in the decay. In the flat part the loss seems to stand still while the weights
# travel along the valley, and the gain becomes visible when the steps shrink. So a loss in the middle of a run says little
# about where the run will end, and two runs can be compared only at their ends.
#
# </details>
#
# ## Muon
#
# AdamW treats a matrix as a bag of numbers. But a matrix is a map: it takes directions to directions, with strengths, its
# singular values. The gradients of a transformer's matrices are dominated by a few directions, so a step along
# the gradient changes little else. Muon (*momentum, orthogonalized by Newton–Schulz*) keeps the directions of the averaged
# gradient and makes all their strengths equal:
#
# $$G = U S V^\top \quad\longrightarrow\quad U V^\top$$
#
# The singular value decomposition is too slow for every step. An odd polynomial of a matrix, $aX + b\,(XX^\top)X +
# c\,(XX^\top)^2X$, acts on the singular values alone, each as $s \to as + bs^3 + cs^5$, and needs only matrix products. Jordan
# chose the three numbers so that small values grow as fast as possible ($a = 3.4445$ times in a round), at the price that
# they do not settle at exactly 1:

# %%
start = torch.logspace(-3, 0, 400)
fig, ax = figure("Five rounds take all from 0.01 up to between 0.7 and 1.2", "singular value before", "after", height=3.2)
s = start.clone()
for rounds in range(1, 6):
    s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    if rounds in (1, 3, 5):
        ax.plot(start, s, ["", "-.", "", "--", "", "-"][rounds], label=f"{rounds} round{'s' * (rounds > 1)}")
ax.axhspan(0.68, 1.21, color="grey", alpha=0.15)
ax.set_xscale("log")
ax.legend(frameon=False)
plt.show()
band = s[start >= 0.01]
print(f"from 0.01 up: {band.min():.2f} to {band.max():.2f}")

# %% [markdown]
# The start must be at most about 1, or the fifth power takes over. Dividing by the Frobenius norm
# $\|X\|_F = \sqrt{\sum_i s_i^2}$ makes sure of it: no single value can be larger.

# %% tags=["exercise"]
from week2_pretraining.solutions.speedrun import orthogonalize

# %% [markdown]
# Against the exact answer: the directions must be those of `torch.linalg.svd`, the values in the band. (PyTorch has Muon since
# 2.9, with the same rounds in bfloat16.)

# %%
matrix = torch.randn(512, 128, generator=torch.Generator().manual_seed(0))
u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
in_its_directions = u.T @ orthogonalize(matrix) @ vt.T
values = in_its_directions.diagonal()
rest = (in_its_directions - values.diag()).abs().max().item()
print(f"singular values: {s.min():.1f} to {s.max():.1f} before, {values.min():.2f} to {values.max():.2f} after")
print(f"outside of the diagonal: below 1e-4: {rest < 1e-4}")
assert rest < 1e-4 and values.min() > 0.65 and values.max() < 1.25

# %% [markdown]
# Now the step. The gradients are averaged (momentum), the new gradient is weighed in once more (Nesterov's look ahead), and the
# result is orthogonalized. A tall matrix gets a longer step:
#
# $$B \leftarrow \mu B + (1-\mu)\,G \qquad D = \mu B + (1-\mu)\,G$$
# $$W \leftarrow (1 - \eta\lambda)\,W - \eta \sqrt{\max(1, \tfrac{\text{rows}}{\text{columns}})}\; \mathrm{orthogonalize}(D)$$
#
# **Predict.** If all gradients were ten times as large, what would Muon's steps be? And AdamW's?

# %% tags=["exercise"]
from week2_pretraining.solutions.speedrun import muon_step

# %%
generator = torch.Generator().manual_seed(1)
weights, lr = torch.randn(48, 16, generator=generator), 0.02
buffer, parameter = torch.zeros_like(weights), nn.Parameter(weights.clone())
muon = torch.optim.Muon([parameter], lr=lr, momentum=0.95, weight_decay=0.1)
start_weights = weights
for _ in range(20):
    gradient = torch.randn(48, 16, generator=generator)
    weights, buffer = muon_step(weights, gradient, buffer, lr, 0.95, 0.1)
    parameter.grad = gradient.clone()
    muon.step()
moved = (weights - start_weights).norm()
print(f"after 20 steps torch.optim.Muon differs by {(weights - parameter.detach()).norm() / moved:.1%} of the way")
assert (weights - parameter.detach()).norm() / moved < 0.05

# %% [markdown]
# The difference is bfloat16: eight bits of mantissa are enough for a direction. (In the tests of the course torch's Muon is given our
# `orthogonalize`, and then 20 steps agree to 1e-5.)
#
# <details><summary>Answer</summary>
#
# The same: the size of the gradient cancels, in Muon by the norm, in AdamW by the second moment. Gradient clipping
# therefore does little for either, and our faster recipes leave it out.
#
# </details>
#
# Muon is for the matrices inside the blocks. Embeddings stay with AdamW: a row of an embedding is looked up, not multiplied
# as a map, and a character that did not occur in the batch should not move.
#
# ## The model: four changes
#
# **QK-norm.** Scores are products $q \cdot k$, and nothing stops them from growing; then attention becomes a hard choice
# and learns no more. Normalizing $q$ and $k$ bounds the scores by $\sqrt{d_\text{head}}$, so larger learning rates are safe
# (Henry et al. 2020; Dehghani et al. 2023).
#
# $$\mathrm{rms\_norm}(x) = \frac{x}{\sqrt{\frac{1}{d} \sum_i x_i^2 + \epsilon}}$$

# %% tags=["exercise"]
from week2_pretraining.solutions.speedrun import rms_norm

# %%
x = torch.randn(2, 4, 64, 32, generator=torch.Generator().manual_seed(2))
difference = (rms_norm(x) - F.rms_norm(x, (32,), eps=1e-6)).abs().max().item()
print(f"equal to F.rms_norm: largest difference {difference:.0e}; length {rms_norm(x)[0, 0, 0].norm():.3f} = √32")
assert difference < 1e-5

# %% [markdown]
# The others are given:
#
# - **RoPE** (Su et al. 2021): instead of adding a position to each embedding, turn $q$ and $k$ by an angle that grows with the
#   position. Their product then depends on the *distance*, which a learned table has to find out 64 times over. Week 5
#   teaches it in full.
# - **Squared ReLU**, $\max(0, h)^2$, in place of GELU: found by a search over architectures (Primer). And the two matrices of
#   a block that **write into the residual stream start at zero**: the model begins as an embedding and a head, and each block comes in
#   when it has something to say.
# - **Hashed n-grams**: more embedding tables, looked up by the last two, three and four characters. Attention can find out
#   what stands before the current character, but it takes a while to learn to look; a table is told. A hash function picks the
#   row: 16,384 rows serve more than ten million possible runs of four, and those that meet in one row share it.
#
# Below, all matrices of a kind lie in one tensor. That is for Muon: one batched product for twelve matrices of 128 × 128 is
# faster than twelve small ones.

# %% tags=["given"]
from week2_pretraining.solutions.speedrun import hashed_ngrams

# %% tags=["given"]
from week2_pretraining.solutions.speedrun import SpeedrunGPT

# %% [markdown]
# ## The race
#
# One function; it stops at the first validation loss that is not above the target.

# %%
get_batch, parameter_groups, evaluate_loss = mine("get_batch"), mine("parameter_groups"), mine("evaluate_loss")

# %% tags=["given"]
from week2_pretraining.speedrun_times import learning_rate

# %% tags=["given"]
from week2_pretraining.speedrun_times import race

# %% [markdown]
# The whole race takes minutes (the last section has it). Here the target is a loss that the baseline passes after about a
# tenth of its way. Each run is started with two seeds, and judged six times or more on its way, so its time is right to
# about a sixth.
#
# The steps of the ladder are cumulative: each keeps what came before. The number of iterations belongs to a recipe, since the
# schedule ends there; each is about what that recipe needs.
#
# **Predict.** Put in order what you expect to save most: schedule, Muon, RoPE with QK-norm, squared ReLU with zero starts,
# hashed n-grams.

# %%
target = 2.4
schedule = replace(baseline, name="+ schedule", lr=4e-3, min_lr=0.0, warmup=20, decay=88, iterations=108)
muon = replace(schedule, name="+ Muon", muon_lr=0.02, momentum=0.95, lr=0.01, warmup=0, clip=0.0, weight_decay=0.0,
               decay=54, iterations=54)
rope = replace(muon, name="+ RoPE, QK-norm", rope=True, qk_norm=True, decay=27, iterations=27)
relu = replace(rope, name="+ ReLU², zero starts", squared_relu=True, zero_init=True, decay=27, iterations=27)
ngrams = replace(relu, name="+ hashed n-grams", ngrams=(2, 3, 4), n_hashes=16384, decay=8, iterations=8)
seeds = (0, 1)
results = {}  # name -> one Result for each seed

# %% tags=["nbval-ignore-output"]
results["baseline"] = [race(baseline, data, target, evaluate_every=20, seed=seed) for seed in tqdm(seeds, desc="baseline")]
for result in results["baseline"]:
    print(f"{result.run.name}: {result.losses[-1]:.3f} after {result.iterations[-1]} iterations, {result.seconds[-1]:.1f} s")

# %% tags=["nbval-ignore-output"]
for run in tqdm([schedule, muon], desc="the optimizer"):
    results[run.name] = [race(run, data, target, evaluate_every=run.iterations // 6, seed=seed) for seed in seeds]

# %% tags=["nbval-ignore-output"]
for run in tqdm([rope, relu, ngrams], desc="the model"):
    results[run.name] = [race(run, data, target, evaluate_every=run.iterations // 6, seed=seed) for seed in seeds]


# %% tags=["nbval-ignore-output"]
def mean(values: list[float | None]) -> float:
    """nan where a run did not reach the target."""
    return sum(math.nan if v is None else v for v in values) / len(values)


times = {name: [r.seconds_to_target for r in runs] for name, runs in results.items()}
before = None
print(f"{'to ' + format(target, '.2f'):24s}{'seconds':>8} {'(both runs)':>14}{'iterations':>12}{'saved':>8}{'in all':>9}")
for name, runs in results.items():
    seconds = mean(times[name])
    both = " ".join("  -  " if t is None else f"{t:5.1f}" for t in times[name])
    saved = "" if before is None else f"{1 - seconds / before:.0%}"
    iterations = sum(r.iterations[-1] for r in runs) / len(runs)
    print(f"{name:24s}{seconds:8.1f} {both:>14}{iterations:12.0f}{saved:>8}{mean(times['baseline']) / seconds:8.1f}×")
    before = seconds

# %% tags=["nbval-ignore-output"]
faster = mean(times["baseline"]) / mean(times["+ hashed n-grams"])
fig, ax = figure(f"The same loss {faster:.0f} times as fast", "training time (s)", "validation loss (nats per character)", width=7.5)
markers = "osD^vP"
for (name, runs), marker, colour in zip(results.items(), markers, [*COLOURS[:5], COLOURS[6]], strict=True):
    for seed, result in zip(seeds, runs, strict=True):
        ax.plot(result.seconds, result.losses, f"{marker}-", color=colour, markersize=4, alpha=1 if seed == 0 else 0.5,
                label=name if seed == 0 else None)
ax.axhline(target, color="grey", linestyle=":")
ax.set_xscale("log")
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# Both seeds are drawn, and the table gives both times: two runs are few, but where the two times of one step lie closer
# together than to the next step's, the step is real. What is measured is seconds, so a change must earn what it costs: Muon's
# iteration takes longer than AdamW's, and pays for it in fewer of them.
#
# <details><summary>What to look for</summary>
#
# Squared ReLU with zero starts saves little here, if it does not cost time: the blocks begin by doing nothing, and the race
# is over soon after they come in. The n-grams go the other way: a table
# gives in a few steps what attention needs dozens to build, and a longer race leaves attention time to catch up. Most tricks
# have such a place: ask at which length a result was measured before you believe it at yours. And the order matters: had the
# n-grams come first, there would be less left for the others to save.
#
# They also cost something that no clock shows: the tables have more parameters than the rest of the model together. The rules
# count seconds, so a record uses them; if they counted parameters, it would not.
#
# </details>
#
# ## Find the bug
#
# A colleague puts all matrices of a kind into one tensor, as we do, and has written his own `orthogonalize`. He has tested it on a
# single matrix: it is right. His race is slower than yours.

# %%
def colleagues_orthogonalize(matrix, steps=5):
    if matrix.dim() < 2:
        raise ValueError("matrices have two axes")
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


batch = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(3)) * torch.tensor([1.0, 0.1, 0.01, 0.001]).view(4, 1, 1)
for name, function in (("yours", orthogonalize), ("his", colleagues_orthogonalize)):
    sizes = torch.linalg.svdvals(function(batch)).median(dim=-1).values
    print(f"{name:6s} median singular value of each of four layers:", [round(v, 2) for v in sizes.tolist()])

# %% [markdown]
# **Predict.** Which line is it? Why did a test with one matrix not show it? Then ask the check:

# %%
print(run_check("orthogonalize", colleagues_orthogonalize).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# `matrix.norm()` is one number for the whole batch. The layer with the largest gradient gets a proper step; the others begin with
# tiny singular values, which five rounds do not bring up to 1. So each layer's step depends on the other layers'
# gradients, which is the very thing that Muon is there to prevent. With one matrix both norms are the same: test batched
# code with a batch whose members differ in size.
#
# </details>
#
# ## Your times
#
# They are kept on your disk, in `work/speedrun_times.json`. Only what was run on the same text, to the same target and on the same
# machine (with as many threads) is compared. First the course's recipe from above goes in, then yours:

# %%
from week2_pretraining.speedrun_times import leaderboard, record_time

# %% tags=["nbval-ignore-output"]
for runs in (results["baseline"], results["+ hashed n-grams"]):
    for result in runs:
        if result.seconds_to_target is not None:
            record_time(result, data, who="course")
print(leaderboard(data, target))

# %% [markdown]
# Now change something. Ideas: a larger `muon_lr`; a `batch_size` of 8 or 16; a part of the run flat (`decay` smaller than
# `iterations`); fewer or more `n_hashes`; fewer iterations, as long as the target is reached. A single lucky run is no
# record: use a seed that you did not tune on.

# %% tags=["nbval-ignore-output"]
yours = replace(ngrams, name="my first try", batch_size=16)  # change this
result = race(yours, data, target, evaluate_every=2, seed=2)
if result.seconds_to_target is None:
    print(f"{result.losses[-1]:.3f} after {result.iterations[-1]} iterations: not there yet. Give it more of them.")
else:
    record_time(result, data)
print(leaderboard(data, target))

# %% [markdown]
# ## The whole race
#
# ```
# python -m benchmarks.speedrun --text input.txt
# ```
#
# races from the repository's root to nanoGPT's own number, 1.88 on tiny Shakespeare (its `data/shakespeare_char` fetches the
# file), and runs baseline and best recipe in turns on the same machine. Without `--text` it takes the course's stories and, as
# the target, the loss of the baseline after all its 2,000 iterations, for 1.88 is reached much sooner there and means
# something else: a loss is comparable on the same text only. It takes some minutes.
#
# ## What to read
#
# - **nanoGPT**, [README](https://github.com/karpathy/nanoGPT), the part "I only have a macbook": find each number of the
#   baseline in the command there. In [`train.py`](https://github.com/karpathy/nanoGPT/blob/master/train.py), `estimate_loss` draws new
#   batches each time: how large is the noise of that, compared with what you gained by a step of the ladder?
# - **modded-nanogpt**, [README](https://github.com/KellerJordan/modded-nanogpt): the table of records. Which lines are about the
#   optimizer, which about the architecture, which about the hardware? Read its rules, and how it decides that a record
#   is no luck (many runs and a p-value).
# - **The Muon post**: the section on why it orthogonalizes, and the one on how the three coefficients were found. It proposes how
#   optimizers should be compared: "competitive tasks". Why does it distrust tuned baselines in papers?
# - **Kaplan et al. 2020**, section 5.1 and figure 10: the critical batch size. At a high loss small batches are efficient, at a
#   low loss large ones. Which batch size does that suggest for a short race?
#
# ## Recap
#
# - A run can be judged only with its rules: text, target, judge, clock. And only at its end, with the schedule planned for it.
# - Muon takes the direction of a matrix of gradients and makes all its strengths equal, by matrix products alone.
# - A polynomial of a matrix acts on its singular values; start below 1, each matrix by its own norm.
# - What saves iterations must still save seconds. Two seeds at least, and the baseline run again beside it.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("speedrun")

# %%
progress("week2_pretraining")
