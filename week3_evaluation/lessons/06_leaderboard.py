# %% [markdown]
# # Leaderboard
#
# You can score a model now. The last question of the week is what a score is worth: model A has 62 of 100 items right, model B
# has 58. Is A better, or was it luck with these 100 items? Leaderboards print such numbers to a tenth of a percent and sort by
# them.
#
# In this lesson you write three small tools: an interval around any score, a test for two models on the same items, and a
# comparison by a judge that is itself a model. The first two are checked against scipy. Then you measure how many items it
# takes to tell two models apart, what happens when you compare twenty, and how far a small judge can be trusted. At the end
# stands the course's leaderboard, with intervals and cost, to which you add a row.
#
# Reading and writing: about 110 minutes. Papers: Efron and Tibshirani 1993 (*An Introduction to the Bootstrap*), McNemar 1947,
# Koehn 2004 (*Statistical Significance Tests for Machine Translation Evaluation*), Zheng et al. 2023 (MT-Bench,
# [arXiv:2306.05685](https://arxiv.org/abs/2306.05685)), Miller 2024 (*Adding Error Bars to Evals*,
# [arXiv:2411.00640](https://arxiv.org/abs/2411.00640)).
# Repositories: [lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness), the
# [Open LLM Leaderboard](https://huggingface.co/docs/leaderboards/open_llm_leaderboard/about).

# %%
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor, nn
from tqdm.auto import tqdm

from shared import borrow, check, hint, mine, progress
from shared import leaderboard as boards
from shared.checking import run_check
from shared.data import stories
from shared.models import smollm2
from shared.plotting import COLOURS, MARKERS, figure
from shared.runtime import seed_everything
from shared.stories import Dice
from week3_evaluation.harness import score_task
from week3_evaluation.items import shuffled, tasks
from week3_evaluation.leaderboard import REFERENCE, Entry, add, course_model, labelled, task_average, unigram

seed_everything(0)

# %% [markdown]
# ## A score with an interval
#
# The items of a benchmark stand for all the items that could have been asked. With 100 others the score would have been another.
# How different? We cannot draw new items, but we can draw from those that we have, *with replacement*: some come twice, some
# not at all, and each such resample gives a score. The spread of these scores tells the spread over benchmarks. This is the
# *bootstrap*. The interval from the 2.5 % to the 97.5 % quantile of the resampled scores is the *percentile interval* at level 95 %.
#
# ```
#   items      1 0 1 1 0 1      4/6
#   resample   1 1 0 1 1 1      5/6
#   resample   0 0 1 0 1 0      2/6      sort many of these,
#   resample   1 0 1 1 1 0      4/6      cut 2.5 % on either side
# ```
#
# Two things make it more than a formula for means:
#
# - **Any statistic.** Bits per byte is a ratio of two sums, corpus BLEU a function of counts: the resample goes through the same
#   computation as the data did.
# - **Two sides.** For a difference between two models, resample both and subtract. If both answered the *same* items, draw the
#   items once and use them for both: *paired*. An item that is hard for one is mostly hard for the other, and that cancels.
#
# **Predict.** 62 of 100 items right. How wide is the 95 % interval? And with 400 items?

# %% tags=["given"]
from week3_evaluation.solutions.leaderboard import mean

# %% tags=["given"]
from week3_evaluation.solutions.leaderboard import check_resampling

# %% tags=["exercise"]
from week3_evaluation.solutions.leaderboard import bootstrap_interval

# %%
def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def right_of(n_right: int, n: int) -> Float[Tensor, "item"]:
    return (torch.arange(n) < n_right).double()


for n_right, n in ((62, 100), (248, 400), (992, 1600)):
    low, high = bootstrap_interval(right_of(n_right, n), generator=seeded(0))
    print(f"{n_right} of {n} right: {n_right / n:.1%}, interval {low:.1%} to {high:.1%}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# About 10 points to either side with 100 items; four times the items halve it. A difference of 4 points on 100 items lies well
# inside the intervals.
#
# </details>
#
# scipy has the same method. It draws other resamples, so the ends differ a little; the tests of this course give it just your draws,
# and then it agrees to twelve digits.

# %%
lengths = torch.rand(60, generator=seeded(1), dtype=torch.float64) * 90 + 10  # tokens of 60 texts
nats = lengths * (2 + 0.5 * torch.randn(60, generator=seeded(2), dtype=torch.float64))


def nats_per_token(rows: Float[Tensor, "resample item 2"]) -> Float[Tensor, "resample"]:
    sums = rows.sum(dim=1)
    return sums[:, 0] / sums[:, 1]


ours = bootstrap_interval(torch.stack([nats, lengths], dim=1), statistic=nats_per_token, n_resamples=20_000, generator=seeded(3))
library = stats.bootstrap(
    (nats.numpy(), lengths.numpy()), lambda x, y, axis: x.sum(axis=axis) / y.sum(axis=axis),
    paired=True, method="percentile", n_resamples=20_000, rng=0,
).confidence_interval  # fmt: skip
print(f"ours  {ours[0]:.3f} to {ours[1]:.3f}\nscipy {library.low:.3f} to {library.high:.3f}")
assert abs(ours[0] - library.low) < 0.01 and abs(ours[1] - library.high) < 0.01

# %% [markdown]
# (scipy's default is another method, BCa, which corrects for bias and skew. For means over a hundred items there is little to
# correct.)
#
# ### Find the bug
#
# A colleague's intervals look fine. She checks them as one should: she makes 400 benchmarks of 100 items from a coin whose truth
# she knows, and counts how many intervals hold it.

# %%
def colleagues_interval(values, other=None, paired=True, statistic=mean, level=0.95, n_resamples=2000, generator=None):
    check_resampling(values, other, paired, level, n_resamples)
    index = torch.randint(len(values), (n_resamples, len(values)), generator=generator)
    results = statistic(values.double()[index])
    if other is not None:
        if not paired:
            index = torch.randint(len(other), (n_resamples, len(other)), generator=generator)
        results = results - statistic(other.double()[index])
    ends = torch.quantile(results, torch.tensor([1 - level, level], dtype=torch.float64))
    return tuple(ends.tolist())


def coverage(interval: Callable, truth: float = 0.6, n_items: int = 100, n_times: int = 400) -> tuple[float, float, float]:
    """How often the interval holds the truth, with an interval of its own."""
    generator, held = seeded(4), []
    for _ in tqdm(range(n_times), desc="benchmarks"):
        low, high = interval((torch.rand(n_items, generator=generator) < truth).float(), n_resamples=400, generator=generator)
        held.append(low <= truth <= high)
    held = torch.tensor(held).double()
    return held.mean().item(), *bootstrap_interval(held, generator=seeded(5))


for name, interval in (("yours", bootstrap_interval), ("hers", colleagues_interval)):
    print("{}: {:.1%} hold the truth ({:.1%} to {:.1%})".format(name, *coverage(interval)))

# %% [markdown]
# **Predict.** She asks for 95 % and gets about 90. Where do the missing five points go? Then ask the check:

# %%
print(run_check("bootstrap_interval", colleagues_interval).card)

# %% [markdown]
# ## Two models, the same items
#
# With right and wrong there is a sharper tool. Write the items of two models as a table:
#
# ```
#                      second right   second wrong
#     first right           a              b
#     first wrong           c              d
# ```
#
# The items in $a$ and $d$ say nothing about which is better. If the models were equally good, each of the $b + c$ others would fall to
# either side like a coin. So the question is: how surprising are $b$ heads in $n = b + c$ throws?
#
# $$p = \min\Bigl(1,\; 2 \sum_{k=0}^{\min(b, c)} \binom{n}{k} \Big/ 2^n\Bigr) \qquad
# \text{or, for large } n, \quad \chi^2 = \frac{\max(|b - c| - 1, 0)^2}{b + c}$$
#
# This is *McNemar's test* (1947). The $-1$ is Edwards's correction (1948): counts move in steps, $\chi^2$ does not.
# $p$ is the chance of a difference this large or larger if there were none. It is not the chance that the models are equal, and a
# large $p$ does not show that they are.

# %% tags=["given"]
from week3_evaluation.solutions.leaderboard import check_same_items

# %% tags=["exercise"]
from week3_evaluation.solutions.leaderboard import mcnemar

# %%
def answers(both: int, only_first: int, only_second: int, neither: int) -> tuple[Bool[Tensor, "item"], Bool[Tensor, "item"]]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return torch.tensor(first), torch.tensor(second)


print("62 against 58 of 100 right:")
for counts in ((57, 5, 1, 37), (40, 22, 18, 20)):
    first, second = answers(*counts)
    b, c, p = mcnemar(first, second)
    _, _, rough = mcnemar(first, second, exact=False)
    library = stats.binomtest(b, b + c).pvalue, stats.chi2.sf((abs(b - c) - 1) ** 2 / (b + c), 1)
    low, high = bootstrap_interval(first.double(), second.double(), generator=seeded(6))
    print(f"  only the first {b:2}, only the second {c:2}: exact p {p:.4f}, chi-squared {rough:.4f}; interval {low:+.0%} to {high:+.0%}")
    assert abs(p - library[0]) < 1e-12 and abs(rough - library[1]) < 1e-12

# %% [markdown]
# The same two scores, and two different answers: what counts is where the models *differ*. (scipy has the two halves of the test;
# statsmodels has it whole, as `statsmodels.stats.contingency_tables.mcnemar`. We compared 1,000 random tables with $b \ne c$: equal to
# fourteen digits. With $b = c$ statsmodels squares the $-1$; then nothing has been seen, and ours gives 1.)
#
# ## How many items does it take?
#
# **Predict.** Two models are truly 5 points apart, 60 % and 65 %. On how many shared items does the test notice, in 8 of 10 tries?
# And how many if each model had been given items of its own?
#
# We can make such models. Item $i$ has a difficulty $d_i$, a model has an ability $a$, and it is right with probability
# $\sigma(a - d_i)$. Difficulties spread a lot, so the two mostly agree.

# %%
def accuracy(ability: float, n: int = 200_000) -> float:
    return torch.sigmoid(ability - 2 * torch.randn(n, generator=seeded(7))).mean().item()


def ability_for(target: float) -> float:
    """The ability that has this share of all items right, by halving an interval."""
    low, high = -5.0, 5.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if accuracy(middle) < target else (low, middle)
    return low


def benchmark(abilities: list[float], n: int, generator: torch.Generator) -> Bool[Tensor, "model item"]:
    """Right and wrong of several models on the same n items."""
    chance = torch.sigmoid(torch.tensor(abilities)[:, None] - 2 * torch.randn(n, generator=generator))
    return torch.rand(chance.shape, generator=generator) < chance


def unpaired_p(first: Bool[Tensor, "item"], second: Bool[Tensor, "item"]) -> float:
    """The usual test of two proportions, as if there had been two sets of items."""
    p, q = first.double().mean().item(), second.double().mean().item()
    pooled = (p + q) / 2
    error = math.sqrt(2 * pooled * (1 - pooled) / len(first))
    return math.erfc(abs(p - q) / error / math.sqrt(2)) if error else 1.0


weaker, stronger = ability_for(0.60), ability_for(0.65)
sizes, n_times, noticed = [100, 200, 400, 800, 1600, 3200], 300, {"paired": [], "unpaired": []}
generator = seeded(8)
for n in tqdm(sizes, desc="benchmarks"):
    found = {name: [] for name in noticed}
    for _ in range(n_times):
        second, first = benchmark([weaker, stronger], n, generator)
        found["paired"].append(mcnemar(first, second)[2] < 0.05)
        other, first = benchmark([weaker, weaker], n, generator)[0], benchmark([stronger], n, generator)[0]
        found["unpaired"].append(unpaired_p(first, other) < 0.05)
    for name, values in found.items():
        values = torch.tensor(values).double()
        noticed[name].append((values.mean().item(), *bootstrap_interval(values, generator=generator)))

second, first = benchmark([weaker, stronger], 200_000, seeded(9))
b, c = (first & ~second).double().mean().item(), (second & ~first).double().mean().item()
needed = (1.96 + 0.84) ** 2 * (b + c) / (b - c) ** 2
apart = (1.96 + 0.84) ** 2 * (0.6 * 0.4 + 0.65 * 0.35) / 0.05**2
print(f"the two models differ on {b + c:.0%} of all items; expected for 8 of 10 tries: {needed:,.0f} shared items, "
      f"or {apart:,.0f} for each if each has its own")

# %%
fig, ax = figure("5 points apart: a hundred items hardly ever tell", "items (log scale)", "difference noticed (p < 0.05)")
for colour, marker, (name, points) in zip(COLOURS, MARKERS, noticed.items(), strict=False):
    middle, low, high = map(list, zip(*points, strict=True))
    spread = [[m - l for m, l in zip(middle, low, strict=True)], [h - m for m, h in zip(middle, high, strict=True)]]
    ax.errorbar(sizes, middle, spread, fmt=f"{marker}-", color=colour, capsize=4, label=name)
ax.axhline(0.8, color="grey", linewidth=1, linestyle="--")
ax.set_xscale("log")
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.set_ylim(0, 1.02)
ax.legend(frameon=False)
plt.show()
print("noticed, paired:  ", [f"{n}: {point[0]:.0%}" for n, point in zip(sizes, noticed["paired"], strict=True)])
print("noticed, unpaired:", [f"{n}: {point[0]:.0%}" for n, point in zip(sizes, noticed["unpaired"], strict=True)])

# %% [markdown]
# (300 tries at each size; bars are bootstrap intervals.) Shared items need far fewer. Only at 100 items does pairing not pay: so few
# items differ that the exact test, which moves in steps, is too cautious. The rule of thumb behind the two numbers: for 8 of 10 tries at
# level 0.05, $n \approx 7.85\, v / \Delta^2$, where $\Delta$ is the difference and $v$ the variance that one item adds. Paired, $v$ is
# about the share of items on which the models differ; unpaired it is $p(1-p)$ of both models together. Half the difference takes
# four times the items. HumanEval has 164 items. Miller 2024 has the formulas, with several samples an item and with items that come in groups.
#
# ## Twenty models
#
# $p < 0.05$ happens once in twenty times with no difference at all. Now a team has a model and trains twenty variants, all, as it
# happens, just as good.
#
# **Predict.** How often does at least one of twenty variants "beat" the old model, on 200 items? How far ahead does the best seem to be?

# %%
def best_of(n_variants: int, n_items: int, n_times: int) -> tuple[Bool[Tensor, "time"], Bool[Tensor, "time"], Float[Tensor, "time"]]:
    """Equal models: is some variant better with p < 0.05; and with p < 0.05 / n_variants; the lead of the best."""
    generator, plain, corrected, lead = seeded(10), [], [], []
    for _ in tqdm(range(n_times), desc="teams"):
        old, *variants = benchmark([weaker] * (n_variants + 1), n_items, generator)
        found = [mcnemar(variant, old) for variant in variants]
        p = min((p for b, c, p in found if b > c), default=1.0)
        plain.append(p < 0.05)
        corrected.append(p < 0.05 / n_variants)
        lead.append(max(b - c for b, c, _ in found) / n_items)
    return torch.tensor(plain), torch.tensor(corrected), torch.tensor(lead, dtype=torch.float64)


plain, corrected, lead = best_of(n_variants=20, n_items=200, n_times=300)
for name, values in (("p < 0.05", plain), ("p < 0.05 / 20", corrected)):
    low, high = bootstrap_interval(values.double(), generator=seeded(11))
    print(f"some variant is better with {name}: in {values.double().mean():.0%} of teams ({low:.0%} to {high:.0%})")
print(f"the best of 20 equal variants is ahead by {lead.mean():.1%} on average")

# %% [markdown]
# One test alone would find its variant better in at most 2.5 % of teams (the other 2.5 % are for "worse"). Twenty tests find one far
# more often, though less often than twenty independent ones would: all share one old model, and the exact test is cautious on few items.
# Dividing the level by the number of comparisons (Bonferroni) brings false alarms back to 5 % or fewer. It does not repair the lead: the
# best of many is always flattered, so score it again on items that had no part in the choice. A public leaderboard is such a
# contest of thousands of variants, on items that all have seen.
#
# ## A judge
#
# There are no golds for "write a friendly letter". MT-Bench asks a strong model which of two answers is better. It found that GPT-4 agrees
# with people in over 80 % of cases, as often as people with each other (Zheng et al. 2023, abstract), and that judges have habits.
# They like long answers, their own answers, and one of the two *places*. The remedy for places: ask twice, in both orders, and count a win
# only if the same answer wins both times (§3.4). Look at their table 2 for the shares of four judges.
#
# Your function takes any judge, so it can be tried on one whose habits are known.

# %% tags=["given"]
from week3_evaluation.solutions.leaderboard import check_answer_pairs

# %% tags=["exercise"]
from week3_evaluation.solutions.leaderboard import pairwise_judge

# %%
def likes_long(question: str, first: str, second: str) -> str:
    """Prefers the longer answer; where it is close, whatever stands first."""
    if abs(len(first) - len(second)) < 4:
        return "first"
    return "first" if len(first) > len(second) else "second"


def told(result: dict) -> str:
    verdicts = result["verdicts"]
    counts = ", ".join(f"{name} {verdicts.count(name)}" for name in ("a", "b", "tie", "error"))
    return f"{counts}; consistent {result['consistent']:.0%}, always first {result['first']:.0%}, always second {result['second']:.0%}"


true_answers = ["in the park", "a mole", "four", "on the hill, under a stone"]
false_answers = ["in the hut and then in the park", "a mule", "fourteen or more", "by the sea"]
print(told(pairwise_judge(likes_long, ["?"] * 4, true_answers, false_answers)))

# %% [markdown]
# Two wins for the false answers, because they are long: asking twice removes a habit of place, and no other habit.
#
# Now SmolLM2. It gets pairs whose better one is known: the summary of a story, and the same words shuffled. We compare the two letters
# that it could reply with, and keep the difference of their logits: ln p(A) - ln p(B).
#
# **Predict.** For how many of 12 pairs will it name the text in good order, both times?

# %%
GOOD = [story.facts.summary for story in stories(12, seed=6, split="validation")]
dice = Dice(0)
SHUFFLED = [" ".join(shuffled(text.rstrip(".").split(), dice)) + "." for text in GOOD]
QUESTION = "One of these two texts is good English, the other has its words in the wrong order."
print(f"{GOOD[0]}\n{SHUFFLED[0]}")

judge_model, judge_tokenizer = smollm2()
log_odds: dict[tuple[str, str], float] = {}  # of (first, second)


@torch.no_grad()
def smollm2_judge(question: str, first: str, second: str) -> str:
    content = f"{question}\n\nText A: {first}\n\nText B: {second}\n\nWhich text is better? Reply with one letter, A or B."
    chat = [{"role": "user", "content": content}]
    prompt = judge_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + "Text"
    token_ids = judge_tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    logits = judge_model(token_ids, logits_to_keep=1).logits[0, -1]
    letters = [judge_tokenizer.encode(f" {letter}", add_special_tokens=False)[0] for letter in "AB"]
    log_odds[first, second] = (logits[letters[0]] - logits[letters[1]]).item()
    bar.update()
    return "first" if log_odds[first, second] > 0 else "second"


with tqdm(total=2 * len(GOOD), desc="judging") as bar:
    judged = pairwise_judge(smollm2_judge, [QUESTION] * len(GOOD), GOOD, SHUFFLED)
print(told(judged))

# %% [markdown]
# Each pair gives two numbers. Call $x$ the log-odds for the first place when the good text stands first, $y$ when it stands second. Then
# $(x + y) / 2$ is the pull of the place, and $(x - y) / 2$ the pull of the text. The verdict is right if the text pulls harder.

# %%
x = torch.tensor([log_odds[good, bad] for good, bad in zip(GOOD, SHUFFLED, strict=True)])
y = torch.tensor([log_odds[bad, good] for good, bad in zip(GOOD, SHUFFLED, strict=True)])
of_place, of_text = (x + y) / 2, (x - y) / 2
low, high = bootstrap_interval((of_text > 0).float(), generator=seeded(12))
for name, pull in (("place", of_place), ("text", of_text)):
    ends = bootstrap_interval(pull, generator=seeded(13))
    print(f"pull of the {name}: {pull.mean():+.2f} nats on average ({ends[0]:+.2f} to {ends[1]:+.2f})")
print(f"without the place, the good text is preferred in {(of_text > 0).float().mean():.0%} of pairs ({low:.0%} to {high:.0%})")

fig, ax = figure("The place pulls harder than the text", "pull of the text (nats)", "pull of the first place (nats)", height=3.4)
limit = 1.15 * max(of_place.abs().max(), of_text.abs().max()).item()
ax.fill([0, limit, limit], [0, limit, -limit], color=COLOURS[2], alpha=0.15, label="right in both orders")
ax.fill([0, -limit, -limit], [0, limit, -limit], color=COLOURS[3], alpha=0.15, label="wrong in both orders")
ax.scatter(of_text, of_place, color=COLOURS[0], s=18, label="a pair")
ax.axhline(0, color="grey", linewidth=0.8)
ax.axvline(0, color="grey", linewidth=0.8)
ax.legend(frameon=False, fontsize=8, loc="lower right")
plt.show()

# %% [markdown]
# As a judge of words SmolLM2 is useless: its replies tell the place and nothing else, and only asking twice shows it. (Another wording can turn
# the habit around; try `"Which text is worse?"`, or names other than A and B.) But the logits know more than the letter. With the place
# taken out, the pull of the text is small and nearly always in the right direction. A habit that is constant can be subtracted.
# That needs logits, which a judge behind an API may not give.
#
# ## The leaderboard
#
# All of the week on one board: six tasks (lesson 05), 100 items each, asked without examples, and bits per byte of held-out stories
# (lesson 01). A model with more parameters, trained on more text, against the course's own small model, and two baselines that every board should
# have: one that knows only how often each token occurs, and one that guesses.
#
# The average is over tasks, each stretched so that guessing is 0 and all right is 1, as the
# [Open LLM Leaderboard](https://huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization) does since its second version: otherwise a task
# with two choices would give 50 points to everyone. `week3_evaluation/leaderboard.py` scores an entry; the rows below are stored beside it
# (`python -m week3_evaluation.leaderboard` makes them anew).
#
# **Predict.** Who leads: the course model, or SmolLM2 with over a hundred times its parameters? On which tasks?

# %%
board = boards.read(REFERENCE)
for title, *values in zip(*boards.cells(board), strict=True):
    print(f"{title:15}", *(f"{value:>22}" for value in values))
print("± is half of a 95 % interval; machine:", board["rows"][0]["machine"])

# %%
fig, ax = figure("What the scores are worth: 100 items a task, 95 % intervals", ylabel="score", width=8.5, height=3.8)
for i, row in enumerate(board["rows"]):
    scores = [row["scores"][name] for name in board["tasks"]]
    at = [j + 0.17 * (i - (len(board["rows"]) - 1) / 2) for j in range(len(scores))]
    spread = [[s["score"] - s["low"] for s in scores], [s["high"] - s["score"] for s in scores]]
    ax.errorbar(at, [s["score"] for s in scores], spread, fmt=MARKERS[i], color=COLOURS[i], capsize=3, markersize=4, label=row["name"])
for j, task in enumerate(board["tasks"].values()):
    ax.hlines(task["chance"], j - 0.4, j + 0.4, color="grey", linestyle="--", linewidth=1, label="guessing, expected" if j == 0 else None)
ax.set_xticks(range(len(board["tasks"])), board["tasks"])
ax.set_ylim(-0.02, 1.02)
ax.legend(frameon=False, fontsize=8, ncols=2)
plt.show()

# %% [markdown]
# <details><summary>What to see</summary>
#
# - SmolLM2 leads by its knowledge of the real world (arc). On the endings of the course's stories (hellaswag) the small model, which has read
#   nothing else, is not behind; and it needs far fewer bits for a byte of them. Which model is better depends on the items.
# - mmlu and gsm8k separate nobody: all scores are near those of guessing.
# - In bits per byte the unigram is far better than a guess, in the tasks it is not. To know which tokens are common answers no question.
#
# </details>
#
# Equal scores are worth a look. Which letters are right where a model is right in mmlu?

# %%
mmlu = tasks()["mmlu"]
for row in board["rows"]:
    letters = Counter("ABCD"[mmlu.gold(item)] for item, right in zip(mmlu.items, row["items"]["mmlu"], strict=False) if right)
    print(f"{row['name']:22} right in mmlu: {dict(sorted(letters.items()))}")

# %% [markdown]
# The three models are right just where the answer is A: they say "A" to every question of mmlu. A habit of place again, which a score
# alone does not show.
#
# A baseline also tests the *items*. Our questions for truthfulqa_mc2 have each answer twice, as a sentence ("Milo is a mule.") and in short
# ("A mule."). Suppose that we had been lazy and shortened only the true ones: all answers remain as true or false as they were.
#
# **Predict.** What would the unigram baseline score, which does not read the question?

# %%
truthful = tasks()["truthfulqa_mc2"]
fair = [row for row, origin in zip(truthful.items, truthful.origins, strict=True) if origin == "course"]
lazy = [{"question": row["question"], "mc2_targets": {key: values[:5] for key, values in row["mc2_targets"].items()}} for row in fair]
print("an item of the lazy set:", lazy[2]["mc2_targets"])
for name, load in (("unigram baseline", unigram), ("course model (base)", course_model)):
    for title, items in (("each answer in both lengths", fair), ("only the true ones in short", lazy)):
        scores = torch.tensor([found.score for found in score_task(*load(), replace(truthful, items=tuple(items)))])
        low, high = bootstrap_interval(scores, generator=seeded(16))
        print(f"{name:20} {title}: {scores.mean():.0%} ({low:.0%} to {high:.0%})")

# %% [markdown]
# The model that cannot read looks truthful, for MC2 compares whole probabilities, not probabilities per token: what is short is likely. (The
# first version of the course's own items was the lazy one. The unigram baseline led that column of the board, and so we found out.) A
# baseline row costs seconds. Where it scores above a guess, look at the items before you look at the models.
#
# Now the models two by two, on each task. That is many comparisons, so the level is divided.

# %%
rows = {row["name"]: row for row in board["rows"]}
names = [name for name, task in board["tasks"].items() if task["right_or_wrong"]]
pairs = list(zip(rows, list(rows)[1:], strict=False))
level = 0.05 / (len(pairs) * len(names))
print(f"{len(pairs) * len(names)} comparisons, so the level is {level:.4f}")
for upper, lower in pairs:
    print(f"{upper} against {lower}")
    for name in names:
        first, second = (torch.tensor(rows[row]["items"][name]) == 1 for row in (upper, lower))
        b, c, p = mcnemar(first, second)
        low, high = bootstrap_interval(first.double(), second.double(), generator=seeded(14))
        sign = "*" if p < level else " "
        print(f"  {name:15} {b:3} against {c:3}   p = {p:.4f} {sign}  difference {low:+.0%} to {high:+.0%}")
    sides = [labelled(rows[row]["items"]) for row in (upper, lower)]
    low, high = bootstrap_interval(*sides, statistic=task_average(board["tasks"]), generator=seeded(15))
    print(f"  average of all tasks: difference {100 * low:+.1f} to {100 * high:+.1f} points, paired")

# %% [markdown]
# Look at gsm8k in the first block: 4 items against 0. The bootstrap interval leaves out 0, and the exact test says that this happens by luck
# once in eight times. No resample can hold a kind of item that the data do not have, so where few items differ the bootstrap is too
# sure. Trust the exact test there.
#
# The last line of each block is your `bootstrap_interval` with two sides and a statistic that averages over tasks. It and the board's last column
# answer different questions. McNemar's test there counts items of all tasks that are right or wrong; the average weighs tasks,
# truthfulqa_mc2 among them. A board that prints one of them has made a choice for its readers.
#
# ## Your row
#
# An entry is a name and a function that gives (model, tokenizer); anything that maps token ids to logits will do. Here is a *bigram*
# model: the next token by how often it follows the last one. `add` scores it and keeps the row in your work folder, and
# `sixweeks leaderboard` in a terminal prints the board with your rows. Weeks 4 and 6 add tuned and aligned versions of the course model in the
# same way: a row of the same name is replaced, and rows that were scored on other items are refused.
#
# **Predict.** Will the bigram beat the unigram in bits per byte? And in the tasks?

# %%
class Bigram(nn.Module):
    """p(next | last), counted, with one unigram draw of weight mixed in where a token is rare."""

    def __init__(self, texts: list[list[int]], vocab_size: int):
        super().__init__()
        counts = torch.zeros(vocab_size, vocab_size)
        for token_ids in texts:
            pairs = torch.tensor(token_ids)
            counts.index_put_((pairs[:-1], pairs[1:]), torch.ones(len(pairs) - 1), accumulate=True)
        unigram = (counts.sum(dim=0) + 1) / (counts.sum() + vocab_size)
        self.log_probs = nn.Parameter(((counts + unigram) / (counts.sum(dim=1, keepdim=True) + 1)).log(), requires_grad=False)

    def forward(self, token_ids, key_mask=None):
        return self.log_probs[token_ids]


def bigram() -> tuple[nn.Module, object]:
    _, tokenizer = course_model()
    texts = [tokenizer(tokenizer.eos_token + story.text).input_ids for story in stories(2000)]
    return Bigram(texts, len(tokenizer)).eval(), tokenizer


add([Entry("bigram", bigram)])
print(boards.table(boards.current()))

# %% [markdown]
# Half the bits of the unigram, and fewer than SmolLM2 needs, for these stories are the bigram's own world. In the tasks it is no better than
# the unigram: to fit a text is one thing, to answer about it another.
#
# ## What to read
#
# - Miller 2024, sections 2 and 3: standard errors when items come in groups, several samples an item, and what to print in a table.
# - Zheng et al. 2023, §3.3 and §3.4: the habits of judges, and remedies.
# - lm-evaluation-harness, `lm_eval/api/metrics.py`: each metric has a standard error beside it, by formula or by bootstrap.
# - The Open LLM Leaderboard's page on [normalization](https://huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization): which
#   lower bound each task has.
#
# ## Recap
#
# - A score without an interval is half a result. With 100 items the interval is about 10 points to either side.
# - Two models on the same items are compared item by item: paired intervals, McNemar's test.
# - Compare many, and some will look better. Divide the level, and score the winner again on new items.
# - A judge is an instrument with habits. Ask it in both orders, and report how often it agrees with itself.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("leaderboard")

# %%
progress("week3_evaluation")
