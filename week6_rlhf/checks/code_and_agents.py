"""What right answers of lesson 06 show, and the known mistakes."""

import json

import torch

from shared.checking import observes, raised
from week5_inference.solutions.prompting import Tool
from week6_rlhf.solutions.code_and_agents import scratchpad


def _read(parse_assertion, text, entry_point="add"):
    """What is read; or the name of the error."""
    try:
        return parse_assertion(text, entry_point)
    except NotImplementedError:
        raise
    except Exception as error:
        return f"raises {type(error).__name__}"


@observes(
    "parse_assertion",
    difficulty=3,
    minutes=20,
    hints=(
        "Let Python parse the text and look at the tree: `ast.parse` runs nothing. `print(ast.dump(ast.parse(text), indent=1))` "
        "shows what an assertion looks like.",
        "The tree's body must be one `ast.Assert`, its test an `ast.Compare` with one `ast.Eq`, on the left an `ast.Call` of an "
        "`ast.Name`. `ast.literal_eval` takes a node, and refuses what is no literal.",
        "`match` takes such a tree apart by its shape: one Assert in the body, in it one Compare of a Call with one "
        "Eq, an empty list where arguments by name would stand. And no text may raise: beside SyntaxError and "
        "ValueError there are TypeError (a list in a set), MemoryError and RecursionError.",
    ),
    mistakes={
        "The values are run with eval: a test is a stranger's code too, and may do anything.": (
            "[ast.literal_eval(argument) for argument in arguments], ast.literal_eval(expected)",
            "[eval(ast.unparse(argument)) for argument in arguments], eval(ast.unparse(expected))",
        ),
        "An assertion about another function is taken too: it says nothing of the one in question.": (
            "name == entry_point",
            "name",
        ),
        "A name that only begins like the function's is taken for it.": (
            "name == entry_point",
            "name.startswith(entry_point)",
        ),
        "Any comparison is taken for ==: `assert f(1) > 2` says something else.": ("[ast.Eq()]", "[_]"),
        "Of several statements only the first is looked at: the others would be lost.": (
            "match ast.parse(text.strip()).body:",
            "match ast.parse(text.strip()).body[:1]:",
        ),
        "A text that is no Python raises a SyntaxError: models write such texts, and None was asked for.": (
            "except (SyntaxError, ValueError,",
            "except (ValueError,",
        ),
        "A value that is no literal raises a ValueError: None was asked for.": (
            "except (SyntaxError, ValueError,",
            "except (SyntaxError,",
        ),
        "Arguments by name are dropped without a word: then the function is called with too few.": (
            "arguments, []), [ast.Eq()]",
            "arguments), [ast.Eq()]",
        ),
        "White space around the text is not taken off, so an indented assertion is no Python.": (
            "text.strip()",
            "text",
        ),
        "An assertion with a message is refused: what comes after the comma does not matter.": (
            "[expected]))] if",
            "[expected]), None)] if",
        ),
        "A value that cannot stand in a set or be a key raises a TypeError: None was asked for.": (
            "ValueError, TypeError, MemoryError",
            "ValueError, MemoryError",
        ),
    },
)
def check_parse_assertion(parse_assertion, rng):
    a, b = (int(i) for i in torch.randint(2, 99, (2,), generator=rng))
    yield "the docstring's example", parse_assertion("assert add(2, [-3]) == 5.0", "add")
    yield "numbers at random", _read(parse_assertion, f"assert add({a}, {b}) == {a + b}")
    yield "indented", _read(parse_assertion, "    assert add(1, 2) == 3\n")
    yield "no arguments, with a message", _read(parse_assertion, "assert add() == 'a', 'it should'")
    yield (
        "texts, tuples, dicts, None",
        _read(parse_assertion, "assert add('a\\n', (1,), {'k': None}) == [True, -2, 1e3]"),
    )
    for text in ("assert add(1, 2) > 2", "assert add(1, 2) == 3 == 3", "assert add(1, 2)", "add(1, 2) == 3", ""):
        yield f"another statement: {text!r}", _read(parse_assertion, text)
    for text in ("assert sub(1, 2) == 3", "assert add.add(1, 2) == 3", "assert address(1) == 3"):
        yield f"another function: {text}", _read(parse_assertion, text)
    yield "two statements in one text", _read(parse_assertion, "assert add(1, 2) == 3; assert add(1, 1) == 2")
    yield "an argument by name", _read(parse_assertion, "assert add(1, y=2) == 3")
    for text in ("assert add(1, == 3", "assert add(1, 2) == ", "Here are some tests:", "assert add('\0') == 1"):
        yield f"no Python: {text!r}", _read(parse_assertion, text)
    for text in ("assert add(add(1, 1), 1) == 3", "assert add(x, 1) == 3", "assert add(*[1, 2]) == 3"):
        yield f"no literals: {text}", _read(parse_assertion, text)
    yield "a computed value", _read(parse_assertion, "assert add('a', 'b') == 'ab' * 2")
    yield "a list in a set", _read(parse_assertion, "assert add({[1]}, 1) == 3")
    yield "code instead of a value", _read(parse_assertion, "assert add(1, 2) == abs(-3)")


def _rows(*texts):
    return torch.tensor([[int(letter) for letter in text] for text in texts], dtype=torch.bool)


@observes(
    "dual_execution_agreement",
    difficulty=3,
    minutes=20,
    hints=(
        "Two solutions belong together if their rows are equal. Then each set's score needs two counts.",
        "A dict from the tests passed, as a tuple of indices, to a list of solutions. A dict keeps the order in which its keys came.",
        "`tuple(row.nonzero().flatten().tolist())` is a key. Sort by the score, falling: Python's `sorted` leaves equal ones in "
        "their order, if you sort by `-score` and do not use reverse on the whole tuple.",
    ),
    mistakes={
        "The score is the number of tests alone: it does not see how many solutions agree.": (
            "len(solutions) ** power * len(tests)",
            "len(tests)",
        ),
        "The score is the number of solutions alone: that is a vote, and the tests do not count.": (
            "len(solutions) ** power * len(tests)",
            "len(solutions) ** power",
        ),
        "The two counts are added: the paper multiplies them.": (
            "len(solutions) ** power * len(tests)",
            "len(solutions) ** power + len(tests)",
        ),
        "The power is put on the tests: it belongs to the solutions.": (
            "len(solutions) ** power * len(tests)",
            "len(solutions) * len(tests) ** power",
        ),
        "The power is left out: the number of solutions counts in full, whatever power says.": (
            "len(solutions) ** power",
            "len(solutions)",
        ),
        "Solutions are put together that pass equally many tests. They must pass the same ones.": [
            (
                "members.setdefault(tuple(row.nonzero().flatten().tolist()), [])",
                "members.setdefault(int(row.sum()), [])",
            ),
            (
                "len(solutions) ** power * len(tests), solutions, list(tests))",
                "len(solutions) ** power * tests, solutions, passed[solutions[0]].nonzero().flatten().tolist())",
            ),
        ],
        "Every solution that passes all tests of the set is counted into it, also those that pass more: the sets overlap.": (
            "(len(solutions) ** power * len(tests), solutions, list(tests))",
            "(passed[:, list(tests)].all(dim=1).sum().item() ** power * len(tests), passed[:, list(tests)].all(dim=1).nonzero().flatten().tolist(), list(tests))",
        ),
        "Solutions that pass no test are left out: every solution belongs to a set, theirs has the score 0.": (
            "for tests, solutions in members.items()]",
            "for tests, solutions in members.items() if tests]",
        ),
        "The sets come in the order in which they were found, not the best first.": (
            "sorted(sets, key=lambda consensus: -consensus[0])",
            "sets",
        ),
        "The worst set comes first.": ("-consensus[0]", "consensus[0]"),
        "Equal scores are ordered by the last solution first: sorting whole tuples in reverse does that.": (
            "sorted(sets, key=lambda consensus: -consensus[0])",
            "sorted(sets, reverse=True)",
        ),
    },
)
def check_dual_execution_agreement(dual_execution_agreement, rng):
    yield "the docstring's example", dual_execution_agreement(_rows("11", "11", "01"))
    yield "as many tests, not the same ones", dual_execution_agreement(_rows("1100", "0110", "1100", "0111", "0011"))
    yield "some pass nothing", dual_execution_agreement(_rows("000", "011", "000", "000", "110", "011"))
    yield "all pass nothing", dual_execution_agreement(_rows("00", "00", "00"))
    yield "equal scores: 4 · 1, 2 · 2, 1 · 4", dual_execution_agreement(_rows(*["00001"] * 4, *["01100"] * 2, "11110"))
    yield "equal scores, the small set first", dual_execution_agreement(_rows("11110", *["01100"] * 2, "00000"))
    many = _rows("11110", "11110", "01111", "01111", "01111", "01001", "11111")
    yield "seven solutions, power 0.5", dual_execution_agreement(many, 0.5), {"passed": many, "power": 0.5}
    drawn = torch.rand(9, 3, generator=rng) < 0.5
    yield "nine solutions at random", dual_execution_agreement(drawn)
    yield "nine solutions at random, power 0.5", dual_execution_agreement(drawn, 0.5)
    yield "one test", dual_execution_agreement(_rows("0", "1", "0"))
    yield "no test", dual_execution_agreement(torch.zeros(3, 0, dtype=torch.bool))


@observes(
    "ranked_pass_at_k",
    difficulty=3,
    minutes=20,
    hints=(
        "Three kinds of solutions: above the border (surely among the k), at the border (drawn for the places left), below it.",
        "The border is the k-th highest score, not the highest. If a right solution is above it, you are done.",
        "Count three things: how many are tied at the border, how many of these are right, and how many places "
        "those above it have left of k. `pass_at_k` of week 3 makes a chance of them.",
    ),
    mistakes={
        "Equal scores are broken by the order in which the solutions are stored: whoever stores the right ones first gets full marks.": (
            "    border = scores.sort(descending=True).values[k - 1]\n",
            "    order = scores.argsort(descending=True, stable=True)[:k]\n    return float(right[order].any())\n    border = scores.sort(descending=True).values[k - 1]\n",
        ),
        "Equal scores are broken in favour of a right one: that is the luckiest draw, not the mean.": (
            "    return pass_at_k(int(tied.sum()), int(right[tied].sum()), k - int(above.sum()))",
            "    return float(right[tied].any())",
        ),
        "The scores are not looked at: this is plain pass@k of all solutions.": (
            "    border = scores.sort(descending=True).values[k - 1]\n",
            "    return pass_at_k(len(scores), int(right.sum()), k)\n    border = scores.sort(descending=True).values[k - 1]\n",
        ),
        "The lowest scores are taken.": (
            "    border = scores.sort(descending=True).values[k - 1]\n",
            "    scores = -scores\n    border = scores.sort(descending=True).values[k - 1]\n",
        ),
        "The draw is for k places, but those above the border have taken some of them.": (
            "k - int(above.sum())",
            "min(k, int(tied.sum()))",
        ),
        "Only the solutions with the highest score are drawn from: with k larger than their number the next ones count too.": (
            "    border = scores.sort(descending=True).values[k - 1]\n    above, tied = scores > border, scores == border\n",
            "    border = scores.max()\n    above, tied = scores > border, scores == border\n    k = min(k, int(tied.sum()))\n",
        ),
        "The share of right ones among the tied is returned, which is the chance of one draw: with several places left it is higher.": (
            "pass_at_k(int(tied.sum()), int(right[tied].sum()), k - int(above.sum()))",
            "right[tied].double().mean().item()",
        ),
        "A right solution above the border is not seen: it is surely among the k.": (
            "    if right[above].any():\n        return 1.0\n",
            "",
        ),
    },
)
def check_ranked_pass_at_k(ranked_pass_at_k, rng):
    scores = torch.tensor([3.0, 5.0, 3.0, 3.0])
    right = torch.tensor([False, False, True, False])
    for k in (1, 2, 3, 4):
        yield f"the docstring's example, k={k}", ranked_pass_at_k(scores, right, k)
    yield "the right one is on top", ranked_pass_at_k(scores, torch.tensor([False, True, False, False]), 2)
    yield (
        "right ones are stored first",
        ranked_pass_at_k(torch.zeros(5), torch.tensor([True, True, False, False, False]), 1),
    )
    yield "all equal, k=3", ranked_pass_at_k(torch.ones(6), torch.tensor([False, True, False, True, False, False]), 3)
    mixed = torch.tensor([0.5, 2.0, 2.0, 1.0, 1.0, 1.0, -1.0]), torch.tensor([1, 0, 0, 0, 1, 0, 1]).bool()
    for k in (1, 2, 3, 4, 6, 7):
        yield f"three levels, k={k}", ranked_pass_at_k(*mixed, k)
    yield "no solution is right", ranked_pass_at_k(mixed[0], torch.zeros(7, dtype=torch.bool), 4)
    for _ in range(3):
        drawn = torch.randint(0, 3, (9,), generator=rng).float(), torch.rand(9, generator=rng) < 0.3
        yield "nine at random", [ranked_pass_at_k(*drawn, k) for k in range(1, 10)]
    yield "k=0 is refused", raised(ranked_pass_at_k, *mixed, 0)
    yield "k=8 of seven is refused", raised(ranked_pass_at_k, *mixed, 8)


class _Interrupted(BaseException):
    """As a KeyboardInterrupt: no Exception."""


def _attempts(with_retries, outcomes, **options):
    """What comes out, how often the function was called, and what was waited for."""
    left, waits = list(outcomes), []

    def function():
        outcome = left.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    try:
        result = with_retries(function, sleep=waits.append, **options)
    except NotImplementedError:
        raise
    except (Exception, _Interrupted) as error:
        result = f"raises {type(error).__name__}: {error}"
    return {"result": result, "calls": len(outcomes) - len(left), "waits": waits}


SLOW = [TimeoutError(f"no answer, {i}") for i in "abcdefgh"]


@observes(
    "with_retries",
    difficulty=2,
    minutes=15,
    hints=(
        "A for loop over the attempts; inside, a try that returns.",
        "`except retryable:` takes a tuple of classes. In the last attempt, a bare `raise` lets the error out as it is.",
        "The wait stands behind the except, so that a success never waits. The docstring counts failures from 1, "
        "`range` counts from 0. Return what comes, even None or 0.",
    ),
    mistakes={
        "There is one call too many: `attempts` counts the first one too.": [
            ("range(attempts)", "range(attempts + 1)"),
            ("attempt == attempts - 1", "attempt == attempts"),
        ],
        "After the last attempt it waits once more, for nothing.": (
            "            if attempt == attempts - 1:\n                raise\n",
            "            if attempt == attempts - 1:\n                sleep(min(cap, base * 2**attempt))\n                raise\n",
        ),
        "The last error is swallowed, and None looks like a result.": (
            "            if attempt == attempts - 1:\n                raise\n",
            "            if attempt == attempts - 1:\n                return None\n",
        ),
        "Every error is tried again. A wrong argument is as wrong the second time: only `retryable` ones are worth it.": (
            "except retryable:",
            "except Exception:",
        ),
        "Even an interrupt by the user is tried again, so that nobody can stop it.": (
            "except retryable:",
            "except (_ := (*retryable, BaseException)):",
        ),
        "The waits grow by adding, not by doubling.": ("base * 2**attempt", "base * (attempt + 1)"),
        "All waits are equal: a service that is overloaded gets no rest.": ("base * 2**attempt", "base"),
        "The first wait is twice the base: the doubling begins one failure too early.": (
            "2**attempt",
            "2 ** (attempt + 1)",
        ),
        "The waits are not bounded by the cap.": ("min(cap, base * 2**attempt)", "base * 2**attempt"),
        "It sleeps before the first call.": (
            "        try:\n            return function()",
            "        try:\n            if not attempt:\n                sleep(base)\n            return function()",
        ),
        "A result that is None or 0 is taken for a failure.": (
            "            return function()\n",
            "            result = function()\n            if result:\n                return result\n            if attempt == attempts - 1:\n                return result\n",
        ),
    },
)
def check_with_retries(with_retries, rng):
    yield "success at once", with_retries(lambda: "Nell", base=0.0)
    yield "success at once: calls and waits", _attempts(with_retries, ["Nell"])
    yield "success the second time", _attempts(with_retries, [SLOW[0], "Nell"])
    yield "three failures, three attempts", _attempts(with_retries, SLOW)
    yield "one attempt", _attempts(with_retries, SLOW, attempts=1)
    yield "seven attempts, base 0.5, cap 6", _attempts(with_retries, SLOW, attempts=7, base=0.5, cap=6.0)
    yield "the cap is below the base", _attempts(with_retries, SLOW, base=3.0, cap=2.0)
    yield "an error that is not retryable", _attempts(with_retries, [ValueError("no such story"), "Nell"])
    yield "a retryable error, then one that is not", _attempts(with_retries, [SLOW[0], KeyError("x"), "Nell"])
    yield "a subclass of a retryable one", _attempts(with_retries, [ConnectionResetError("reset"), "Nell"])
    yield (
        "other classes are retryable",
        _attempts(with_retries, [KeyError("x"), SLOW[0], "Nell"], retryable=(KeyError,)),
    )
    yield "an interrupt", _attempts(with_retries, [_Interrupted("stop"), "Nell"])
    for result in (None, 0, ""):
        yield f"{result!r} is a result too", _attempts(with_retries, [SLOW[0], result, "Nell"])
    n, base = int(torch.randint(2, 6, (), generator=rng)), float(torch.rand((), generator=rng))
    yield f"{n} failures, then a result", _attempts(with_retries, [*SLOW[:n], 7], attempts=8, base=base, cap=4 * base)
    yield "attempts=0 is refused", raised(with_retries, lambda: 1, 0)


class _Policy:
    """Says what it was told to, the last reply again and again; keeps what it was shown."""

    def __init__(self, *replies):
        self.replies, self.seen = replies, []

    def __call__(self, text):
        self.seen.append(text)
        reply = self.replies[min(len(self.seen), len(self.replies)) - 1]
        if isinstance(reply, BaseException):
            raise reply
        return reply


def _call(name, before="", **arguments):
    return f"{before}<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def _tools(ran, hero="Nell"):
    """Tools of the check; `ran` collects what they were asked."""

    def note(*results):
        left = list(results)

        def function(**arguments):
            ran.append(arguments)
            result = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(result, BaseException):
                raise result
            return result

        return function

    return [
        Tool("hero", "the hero of a story", {"story": "number"}, note(hero)),
        Tool("count", "a number", {}, note(17)),
        Tool("late", "is late once", {}, note(TimeoutError("no answer after 5 s"), "Tim")),
        Tool("broken", "always fails", {}, note(KeyError("no such town"))),
        Tool("silent", "fails without a word", {}, note(RuntimeError())),
        Tool("odd", "gives bytes", {}, note(b"\x00\x01")),
        Tool("nothing", "gives None", {}, note(None)),
        Tool("long", "gives much text", {}, note("Once upon a time. " * 60)),
        Tool("stopped", "is interrupted", {}, note(_Interrupted())),
    ]


HERO, OTHER = _call("hero", "I look it up.\n", story=2), _call("hero", story=3)


def _outcome(run_agent, *replies, hero="Nell", **limits):
    """All that can be seen of a run, but the wording of errors."""
    policy, ran = _Policy(*replies), []
    try:
        stop, answer, steps = run_agent(policy, _tools(ran, hero), "Who is it?", **limits)
    except NotImplementedError:
        raise
    except (Exception, _Interrupted) as error:
        return {"raises": type(error).__name__, "calls": ran, "turns": len(policy.seen)}
    told = [(s.reply, s.call, s.observation[:7] if s.failed else s.observation, s.failed) for s in steps]
    return {"stop": stop, "answer": answer, "steps": told, "calls": ran, "turns": len(policy.seen)}


def _shown(run_agent, *replies):
    """What the policy read last."""
    policy = _Policy(*replies)
    run_agent(policy, _tools([]), "Who is it?")
    return policy.seen[-1]


@observes(
    "run_agent",
    difficulty=4,
    minutes=40,
    hints=(
        "A while loop. In each turn: check the limits, ask the policy, parse; an answer ends it. Else run the tool and add a Step.",
        "Only what may fail for the model's sake stands inside the try: parsing, the tool, the test of its result. The policy's own "
        "error comes out. `sum(step.call == call and not step.failed for step in steps)` counts what succeeded before.",
        'A failed step raises the count of errors, and one success starts it anew. An error is observed as "error: '
        '" and its message, and every observation is cut to `longest`. Every way out gives the steps; all but '
        '"answered" give None for the answer.',
    ),
    mistakes={
        "A tool's exception comes out and ends the run: the model should read it and act on it.": (
            "except Exception as error:",
            "except ToolError as error:",
        ),
        "Everything is caught, even an interrupt by the user: then nobody can stop a tool that hangs.": (
            "except Exception as error:",
            "except BaseException as error:",
        ),
        "The policy's own failure is told as if a tool had failed: the caller does not see it, and the model can mend nothing.": (
            "        reply, call, failed = policy(text), None, False\n        try:\n",
            "        reply, call, failed = '', None, False\n        try:\n            reply = policy(text)\n",
        ),
        "The model is not shown what came before: it gets the question alone, and starts anew in each turn.": (
            "policy(text)",
            "policy(scratchpad(question, []))",
        ),
        "A result that is no text or number goes on as if all were well: None becomes the word None.": (
            "if not isinstance(result, RESULT_TYPES):",
            "if False:",
        ),
        "Errors are counted over the whole run. Three in a row were meant: a success starts the count anew.": (
            "errors = errors + 1 if failed else 0",
            "errors += failed",
        ),
        "Errors are not counted: a tool that never works is called until the steps run out.": (
            '        if errors == max_errors:\n            return "too many errors", None, steps\n',
            "",
        ),
        "One error more than max_errors is allowed.": ("errors == max_errors", "errors > max_errors"),
        "A call that failed counts as a repeat, so trying again after a timeout is taken for a loop.": (
            "step.call == call and not step.failed",
            "step.call == call",
        ),
        "Calls of the same tool count as repeats, whatever their arguments.": (
            "step.call == call and not step.failed",
            'step.call and step.call["name"] == call["name"] and not step.failed',
        ),
        "Only the step just before is looked at: two calls in turn repeat for ever.": (
            "for step in steps) >= max_repeats",
            "for step in steps[-max_repeats:]) >= max_repeats",
        ),
        "Repeats are never noticed.": (">= max_repeats", "> len(steps)"),
        "One repeat more than max_repeats is allowed.": (">= max_repeats", "> max_repeats"),
        "The repeated call is run once more before the agent stops.": (
            '                return "repeats itself", None, steps\n',
            '                functions[call["name"]](**call["arguments"])\n                return "repeats itself", None, steps\n',
        ),
        "There is one step too many.": ("while len(steps) < max_steps:", "while len(steps) <= max_steps:"),
        "Observations are not cut: one long page fills the model's context.": (
            "observation[:longest]",
            "observation",
        ),
        "The room is not looked at: the scratchpad grows without end.": ("len(text) > max_characters", "False"),
        "The answer is not stripped.": ('"answered", reply.strip()', '"answered", reply'),
        "The answer is lost.": ('"answered", reply.strip()', '"answered", None'),
        "An error without a message is observed as nothing: the name of its class would at least say what kind it was.": (
            "{str(error) or type(error).__name__}",
            "{error}",
        ),
    },
)
def check_run_agent(run_agent, rng):
    yield "an answer at once", run_agent(_Policy(" It is Nell.\n"), _tools([]), "Who is it?")
    yield "one call, then the answer", _outcome(run_agent, HERO, "Nell.")
    yield "what the policy reads after a call", _shown(run_agent, HERO, "Nell.")
    yield "a number as a result", _outcome(run_agent, _call("count"), "17.")
    yield "a tool that is late once, tried again", _outcome(run_agent, _call("late"), _call("late"), "Tim.")
    yield "the policy reads the tool's error", "no answer after 5 s" in _shown(run_agent, _call("late"), "Tim.")
    yield "the policy reads the wrong tool's name", "heron" in _shown(run_agent, _call("heron"), "Tim.")
    yield "an error without a message", "RuntimeError" in _shown(run_agent, _call("silent"), "Tim.")
    yield (
        "an unknown tool, no JSON, wrong arguments",
        _outcome(run_agent, _call("heron"), "<tool_call>{", _call("hero", story="2"), "Nell.", max_errors=4),
    )
    yield "a tool that always fails", _outcome(run_agent, _call("broken"))
    yield "the same with max_errors=1", _outcome(run_agent, _call("broken"), max_errors=1)
    yield "a success, then a tool that always fails", _outcome(run_agent, HERO, _call("broken"))
    yield (
        "errors, but never three in a row",
        _outcome(
            run_agent,
            _call("broken"),
            _call("odd"),
            HERO,
            _call("nothing"),
            _call("broken"),
            OTHER,
            _call("odd"),
            "Nell.",
        ),
    )
    yield "bytes and None as results", _outcome(run_agent, _call("odd"), _call("nothing"), "I do not know.")
    yield "the same call again", _outcome(run_agent, HERO)
    yield "the same call again, max_repeats=2", _outcome(run_agent, HERO, max_repeats=2)
    yield "two calls in turn", _outcome(run_agent, HERO, OTHER, HERO, OTHER, HERO)
    yield "the same call in other words", _outcome(run_agent, HERO, _call("hero", "Again: ", story=2), "Nell.")
    n_steps = int(torch.randint(2, 6, (), generator=rng))
    first, *stories = torch.randperm(99, generator=rng)[:10].tolist()
    calls, hero = [_call("hero", story=story) for story in stories], f"Nell {first}"
    yield f"max_steps={n_steps}", _outcome(run_agent, *calls, hero=hero, max_steps=n_steps)
    yield "the answer after the last step comes too late", _outcome(run_agent, HERO, "Nell.", max_steps=1)
    yield "a long result is cut", _outcome(run_agent, _call("long"), "A story.", longest=40)
    yield (
        "no room for another turn",
        _outcome(run_agent, *[_call("hero", story=i) for i in range(9)], max_characters=400, max_steps=9),
    )
    room = len(scratchpad("Who is it?", []))
    yield "just enough room for the question", _outcome(run_agent, "Nell.", max_characters=room)
    yield "no room for the question", _outcome(run_agent, "Nell.", max_characters=5)
    yield "an interrupt while a tool runs", _outcome(run_agent, _call("stopped"), "Nell.")
    yield "the policy itself fails", _outcome(run_agent, RuntimeError("out of memory"), "Nell.")
    yield "max_steps=0 is refused", raised(run_agent, _Policy("Nell."), [], "Who?", 0)
