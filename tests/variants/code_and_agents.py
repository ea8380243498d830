"""Right answers to lesson 06 of week 6, written otherwise: they must pass."""

import ast
import itertools
import json
import math

import torch

from week5_inference.solutions.prompting import parse_tool_call
from week6_rlhf.solutions.code_and_agents import Step, scratchpad


def parse_assertion__isinstance(text, entry_point):
    """The tree, walked by hand."""
    try:
        statements = ast.parse(text.strip()).body
    except Exception:
        return None
    if len(statements) != 1 or not isinstance(statements[0], ast.Assert):
        return None
    test = statements[0].test
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
        return None
    called = test.left
    if not isinstance(called, ast.Call) or called.keywords or getattr(called.func, "id", None) != entry_point:
        return None
    try:
        values = [ast.literal_eval(node) for node in (*called.args, test.comparators[0])]
    except Exception:
        return None
    return values[:-1], values[-1]


def parse_assertion__in_one_expression(text, entry_point):
    """`assert` taken off, the rest parsed as an expression, values evaluated from their source text."""
    try:
        (statement,) = ast.parse(text.lstrip()).body
        source = statement.test if type(statement) is ast.Assert else None
        call, (operator,), (expected,) = source.left, source.ops, source.comparators
        assert type(operator) is ast.Eq and ast.unparse(call.func) == entry_point and call.keywords == []
        return (
            list(ast.literal_eval(f"({''.join(ast.unparse(a) + ',' for a in call.args)})") if call.args else ()),
            ast.literal_eval(ast.unparse(expected)),
        )
    except (AssertionError, AttributeError, SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def dual_execution_agreement__unique(passed, power=1.0):
    """Rows grouped by torch.unique."""
    rows, group = passed.unique(dim=0, return_inverse=True) if passed.shape[1] else (passed[:1], passed.sum(dim=1) * 0)
    sets = []
    for i, row in enumerate(rows):
        solutions = (group == i).nonzero()[:, 0].tolist()
        sets.append((math.pow(len(solutions), power) * int(row.sum()), solutions, torch.where(row)[0].tolist()))
    return sorted(sets, key=lambda s: (-s[0], s[1][0]))


def dual_execution_agreement__pairwise(passed, power=1.0):
    """Each solution compared with each; then the best of the rest again and again."""
    rows, done, sets = passed.tolist(), set(), []
    for i, row in enumerate(rows):
        if i not in done:
            alike = [j for j in range(len(rows)) if rows[j] == row]
            done |= set(alike)
            sets.append([len(alike) ** power * sum(row), alike, [t for t, ok in enumerate(row) if ok]])
    ranked = []
    while sets:
        ranked.append(sets.pop(max(range(len(sets)), key=lambda i: (sets[i][0], -i))))
    return ranked


def ranked_pass_at_k__all_choices(scores, right, k):
    """Every choice of k that respects the scores, counted."""
    if k < 1 or k > len(scores):
        raise ValueError("k")
    values, right = scores.tolist(), right.tolist()
    hits = total = 0
    for chosen in itertools.combinations(range(len(values)), k):
        rest = set(range(len(values))) - set(chosen)
        if not rest or min(values[i] for i in chosen) >= max(values[i] for i in rest):
            total += 1
            hits += any(right[i] for i in chosen)
    return hits / total


def ranked_pass_at_k__level_by_level(scores, right, k):
    """Places given out from the highest score down; comb for the last level."""
    if not 0 < k <= scores.numel():
        raise ValueError("k")
    left = k
    for level in sorted(set(scores.tolist()), reverse=True):
        here = right[scores == level]
        n, c = len(here), int(here.sum())
        if left <= n:
            return 1 - math.comb(n - c, left) / math.comb(n, left)
        if c:
            return 1.0
        left -= n


def with_retries__while(function, attempts=3, base=1.0, cap=8.0, retryable=(TimeoutError, ConnectionError), sleep=None):
    if attempts <= 0:
        raise ValueError("attempts")
    wait = base
    while True:
        try:
            return function()
        except Exception as error:
            attempts -= 1
            if not isinstance(error, retryable) or attempts == 0:
                raise error
        sleep(min(wait, cap))
        wait *= 2


def with_retries__recursive(
    function, attempts=3, base=1.0, cap=8.0, retryable=(TimeoutError, ConnectionError), sleep=None
):
    if attempts < 1:
        raise ValueError("attempts")
    if attempts == 1:
        return function()
    try:
        return function()
    except retryable:
        sleep(base if base < cap else cap)
    return with_retries__recursive(function, attempts - 1, 2 * base, cap, retryable, sleep)


def run_agent__for(policy, tools, question, max_steps=8, max_errors=3, max_repeats=1, max_characters=4000, longest=300):
    """A for loop, a Counter of successful calls by their JSON, one function that acts."""
    if min(max_steps, max_errors, max_repeats) < 1:
        raise ValueError("limits")

    def act(call):
        (function,) = [tool.function for tool in tools if tool.name == call["name"]]
        result = function(**call["arguments"])
        if type(result) not in (str, int, float, bool):
            return f"error: the result is of type {type(result)}", True
        return f"{result}", False

    done, steps, in_a_row = {}, (), 0
    for _ in range(max_steps):
        if len(scratchpad(question, steps)) > max_characters:
            return "out of room", None, steps
        reply = policy(scratchpad(question, steps))
        call = None
        try:
            call = parse_tool_call(reply, tools)
        except Exception as error:
            seen, failed = f"error: {error}", True
        else:
            if call is None:
                return "answered", reply.strip(), steps
            key = json.dumps(call, sort_keys=True)
            if done.get(key, 0) >= max_repeats:
                return "repeats itself", None, steps
            try:
                seen, failed = act(call)
            except Exception as error:
                seen, failed = f"error: {type(error).__name__} {error}", True
            done[key] = done.get(key, 0) + (not failed)
        steps += (Step(reply, call, seen[:longest], failed),)
        in_a_row = (in_a_row + 1) * failed
        if in_a_row >= max_errors:
            return "too many errors", None, steps
    return "out of steps", None, steps


def run_agent__recursive(
    policy, tools, question, max_steps=8, max_errors=3, max_repeats=1, max_characters=4000, longest=300
):
    """A turn calls the next one."""
    if max_steps < 1 or max_errors < 1 or max_repeats < 1:
        raise ValueError("limits")

    def turn(steps):
        text = scratchpad(question, steps)
        last = steps[-max_errors:]
        if len(last) == max_errors and all(step.failed for step in last):
            return "too many errors", None, steps
        if len(steps) == max_steps:
            return "out of steps", None, steps
        if len(text) > max_characters:
            return "out of room", None, steps
        reply = policy(text)
        if "<tool_call>" not in reply:
            return "answered", reply.strip(), steps
        call, failed = None, True
        try:
            call = parse_tool_call(reply, tools)
            if [step.call for step in steps if not step.failed].count(call) >= max_repeats:
                return "repeats itself", None, steps
            result = next(tool for tool in tools if tool.name == call["name"]).function(**call["arguments"])
            failed = not isinstance(result, (str, float, int))
            told = f"error: {result!r} is no text" if failed else str(result)
        except Exception as error:
            told = f"error: {error!r}"
        return turn([*steps, Step(reply, call, told[:longest], failed)])

    return turn([])
