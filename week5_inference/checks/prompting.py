"""What right answers of lesson 01 show, and the known mistakes. Error classes are told by their names."""

import json
from collections import Counter

import torch

from shared.checking import observes, raised
from week5_inference.solutions.prompting import Tool


@observes(
    "contextual_calibration",
    difficulty=2,
    minutes=15,
    hints=(
        "Three steps: probabilities of the labels for each content-free input, their average, and a division. Which of the "
        "three can be done in logarithms, and which cannot?",
        "`content_free_logprobs.softmax(dim=-1)` makes each row sum to 1; the average is over the inputs, dim=0. "
        "Dividing probabilities is subtracting their logarithms.",
        "The difference of two log-probabilities is the logarithm of q up to a number that is the same for all labels of a row; "
        "a softmax over the labels takes that number out, and does not underflow.",
    ),
    mistakes={
        "Nothing is divided out: the labels' probabilities come back as the prompt gave them, with its bias.": (
            " - label_bias.log()",
            "",
        ),
        "The bias is multiplied in instead of divided out: what the prompt favours is favoured twice.": (
            "- label_bias.log()",
            "+ label_bias.log()",
        ),
        "The logarithms are averaged over the content-free inputs, not the probabilities: that is their geometric mean.": (
            "content_free_logprobs.softmax(dim=-1).mean(dim=0)",
            "content_free_logprobs.log_softmax(dim=-1).mean(dim=0).exp()",
        ),
        "The content-free probabilities are averaged before they sum to 1, so an input with more mass on the labels counts more.": (
            "content_free_logprobs.softmax(dim=-1).mean(dim=0)",
            "(content_free_logprobs - content_free_logprobs.max()).exp().mean(dim=0)",
        ),
        "Only the first content-free input is used: the bias is the average over all of them.": (
            "content_free_logprobs.softmax(dim=-1).mean(dim=0)",
            "content_free_logprobs.softmax(dim=-1)[0]",
        ),
        "The bias is measured on the items themselves, not on inputs without content: a set with more of one label then counts as biased.": (
            "content_free_logprobs.softmax(dim=-1).mean(dim=0)",
            "label_logprobs.softmax(dim=-1).mean(dim=0)",
        ),
        "The ratios p / p_cf go through a softmax. It keeps their order but flattens them: the ratios of a row are in proportion to q already.": (
            "(label_logprobs.log_softmax(dim=-1) - label_bias.log()).softmax(dim=-1)",
            "(label_logprobs.softmax(dim=-1) / label_bias).softmax(dim=-1)",
        ),
        "A low log-probability becomes a probability before the row sums to 1: at -300 every label has 0, and 0 / 0 is nan.": [
            ("(label_logprobs.log_softmax(dim=-1)", "(label_logprobs.exp().log()"),
        ],
        "The rows do not sum to 1: the ratios p / p_cf are returned as they are.": (
            "(label_logprobs.log_softmax(dim=-1) - label_bias.log()).softmax(dim=-1)",
            "(label_logprobs.log_softmax(dim=-1) - label_bias.log()).exp()",
        ),
    },
)
def check_contextual_calibration(contextual_calibration, rng):
    worked = torch.tensor([[0.6, 0.4], [0.8, 0.2]]).log(), torch.tensor([[0.75, 0.25]]).log()
    yield "one content-free input", contextual_calibration(*worked)
    biased = -1.0 - 3 * torch.rand(4, 3, generator=rng), -2.0 - 3 * torch.rand(2, 3, generator=rng)
    yield "two content-free inputs", contextual_calibration(*biased)
    yield "two content-free inputs: the sum of each row", contextual_calibration(*biased).sum(dim=-1)
    yield (
        "the content-free inputs as items, one at a time: the calibrated row",
        torch.cat([contextual_calibration(row[None], row[None]) for row in biased[1]]),
    )
    low = torch.tensor([[-300.0, -301.0, -303.0], [-250.0, -250.5, -251.0]])
    yield "items with low log-probabilities", contextual_calibration(low, biased[1])
    yield "content-free inputs with low log-probabilities", contextual_calibration(biased[0], low)
    yield (
        "an item in which one label is impossible",
        contextual_calibration(torch.tensor([[-1.0, -torch.inf, -2.0]]), biased[1]),
    )
    yield "a call without content-free inputs is refused", raised(contextual_calibration, biased[0], biased[1][:0])
    yield "different numbers of labels are refused", raised(contextual_calibration, biased[0], biased[1][:, :2])


def _votes(rng, n_paths=9):
    """Answers at random, some unread: no two equally frequent."""
    while True:
        answers = [None if i == 0 else float(i) for i in torch.randint(0, 4, (n_paths,), generator=rng).tolist()]
        counts = sorted(Counter(answer for answer in answers if answer is not None).values())
        if None in answers and len(counts) > 1 and counts[-1] > counts[-2] > 0 and answers[0] is not None:
            return answers


@observes(
    "majority_vote",
    difficulty=1,
    minutes=10,
    hints=(
        "Leave out what is no vote, then count.",
        "`collections.Counter` counts, and its `most_common` keeps the order of first appearance among equals.",
        "Beware of `if answer`: the number 0 is an answer too. Ask `answer is not None`. The share is of the votes.",
    ),
    mistakes={
        "A None is counted as an answer: a path that could not be read votes for nothing.": (
            "answer for answer in answers if answer is not None",
            "answers",
        ),
        "0 and empty texts are dropped together with None, though they are answers: None alone means that nothing could be read.": (
            "if answer is not None",
            "if answer",
        ),
        "The share is of all paths, also of those without an answer: it should be of the votes.": (
            "count / votes.total()",
            "count / len(answers)",
        ),
        "The number of votes is returned instead of their share.": ("count / votes.total()", "float(count)"),
        "Of answers with equally many votes the one that came last is returned.": (
            "votes.most_common(1)[0]",
            "max(reversed(votes.items()), key=lambda pair: pair[1])",
        ),
        "Of answers with equally many votes the smallest is returned, not the one that came first.": (
            "votes.most_common(1)[0]",
            "min(votes.items(), key=lambda pair: (-pair[1], pair[0]))",
        ),
        "The answer of the first path is returned, whatever the others say: that is no vote.": (
            "votes.most_common(1)[0]",
            "next(iter(votes.items()))",
        ),
        "The rarest answer is returned.": ("votes.most_common(1)[0]", "votes.most_common()[-1]"),
        "With no votes at all it fails: (None, 0.0) was asked for.": (
            "    if not votes:\n        return None, 0.0\n",
            "",
        ),
    },
)
def check_majority_vote(majority_vote, rng):
    yield "the docstring's example", majority_vote([7.0, None, 5.0, 5.0])
    yield "None is most frequent", majority_vote([None, None, None, 4.0, 3.0, 3.0])
    yield "0 is an answer", majority_vote([0.0, 2.0, 0.0, None])
    yield "two answers with two votes each", majority_vote([2.0, 9.0, 1.0, 1.0, 9.0])
    yield "the same two answers, the other one first", majority_vote([2.0, 1.0, 9.0, 9.0, 1.0])
    yield "three answers that all differ", majority_vote(["park", "lake", "barn"])
    yield "answers that are words", majority_vote(["lake", "park", "barn", "park"])
    yield "one path", majority_vote([12.5])
    yield "no path, and paths without an answer", [majority_vote(answers) for answers in ([], [None, None])]
    for _ in range(3):
        yield "answers at random", majority_vote(_votes(rng))


@observes(
    "scratchpad_target",
    difficulty=2,
    minutes=15,
    hints=(
        "Add two numbers on paper and write down what you think at each digit. In which order do you go?",
        'Bring both to the same width first: f"{a:0{width}}" puts zeros in front. reversed() goes from the right; the carry of '
        "the next line is total // 10.",
        "In the loop: total = digit + digit + carry; a line; the new carry. After it one more line, "
        '"#### " and a + b, all joined by newlines.',
    ),
    mistakes={
        "The digits go from left to right: a carry would come from a line that is not yet written.": (
            'zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}"), strict=True)',
            'zip(f"{a:0{width}}", f"{b:0{width}}", strict=True)',
        ),
        "The sum stands before the steps. A model writes from left to right: it would have to guess the sum first, and the steps "
        "could not help.": ('[*lines, f"#### {a + b}"]', '[f"#### {a + b}", *lines]'),
        "The carry is never taken along: it stays 0.": ("        carry = total // 10\n", ""),
        "The carry is written into the line but not added.": (
            "total = int(x) + int(y) + carry",
            "total = int(x) + int(y)",
        ),
        "The carries pile up: each line's carry is of the line before it alone.": (
            "carry = total // 10",
            "carry += total // 10",
        ),
        "A line ends with the digit alone. Without the ten before it the next line cannot see the carry.": (
            "={total}",
            "={total % 10}",
        ),
        "The lines stop with the shorter number; its missing digits are zeros.": [
            ('reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}"), strict=True', "reversed(str(a)), reversed(str(b))"),
        ],
        "The zeros are put behind the shorter number, not in front: 5 becomes 50.": [
            ('reversed(f"{a:0{width}}")', 'reversed(f"{a:0<{width}}")'),
            ('reversed(f"{b:0{width}}")', 'reversed(f"{b:0<{width}}")'),
        ],
        'The last line has no "####" before the sum, so `extract_number` cannot tell it from a step.': (
            'f"#### {a + b}"',
            "str(a + b)",
        ),
        "A last carry has a line of its own: it is in the sum already.": (
            "    return",
            '    if carry:\n        lines.append(f"0+0+{carry}={carry}")\n    return',
        ),
        "The digit of b comes before that of a.": ("{x}+{y}+", "{y}+{x}+"),
    },
)
def check_scratchpad_target(scratchpad_target, rng):
    yield "the docstring's example", scratchpad_target(87, 5)
    yield "no carry, digits that differ", scratchpad_target(12, 34)
    yield "a carry in every line", scratchpad_target(999, 9)
    yield "the first number is the shorter one", scratchpad_target(5, 2300)
    yield "a carry at the end only", scratchpad_target(70, 61)
    yield "0 + 0", scratchpad_target(0, 0)
    for _ in range(3):
        a, b = (int(torch.randint(10, 10**6, (), generator=rng)) for _ in range(2))
        yield f"numbers at random, {a} + {b}", scratchpad_target(a, b)
    yield "a negative number is refused", raised(scratchpad_target, -1, 5)


def _tools(ran=None, degrees=17):
    """Tools of the check; `ran` collects the arguments with which they were called."""
    ran = [] if ran is None else ran

    def note(result):
        def function(**arguments):
            ran.append(arguments)
            if isinstance(result, BaseException):
                raise result
            return result

        return function

    return [
        Tool("weather", "the weather of a town", {"town": "string", "hour": "number"}, note(degrees)),
        Tool("lamp", "switch the lamp", {"on": "boolean"}, note(None)),
        Tool("broken", "always fails", {}, note(KeyError("no such town"))),
        Tool("stopped", "is interrupted", {}, note(_Interrupted())),
    ]


class _Interrupted(BaseException):
    """As a KeyboardInterrupt: no Exception."""


def _call(name, arguments, before="", after="</tool_call>"):
    return f"{before}<tool_call>{json.dumps({'name': name, 'arguments': arguments})}{after}"


def _told(parse_tool_call, text, *words):
    """What is parsed; or the name of the error, and which of the words its message has."""
    try:
        return parse_tool_call(text, _tools())
    except NotImplementedError:
        raise
    except Exception as error:
        return {"raises": type(error).__name__} | {f"the message has {word!r}": word in str(error) for word in words}


NOON = {"town": "Oslo", "hour": 12}


@observes(
    "parse_tool_call",
    difficulty=3,
    minutes=25,
    hints=(
        "First find the text of the call, then read it, then validate from the outside in: object, name, arguments object, names "
        "of the arguments, types.",
        "`re.search` with re.DOTALL, a short match `(.*?)`, and as its end the closing tag or `$`. json.loads raises a "
        "ValueError for what is no JSON; turn it into a ToolError. A JSON text need not be an object.",
        "Compare `tool.parameters.keys()` with `arguments.keys()` in both directions. isinstance(True, int) is true in "
        "Python, so a bool needs a test of its own. Compare the name with ==: it may be a list, which no dict takes as a key.",
    ),
    mistakes={
        "A text without a call raises an error: it is the model's answer, and None was asked for.": (
            "    if found is None:\n        return None\n",
            '    if found is None:\n        raise ToolError("no call")\n',
        ),
        "The match runs to the last closing tag: two calls in one text become one that is no JSON.": (
            "(.*?)(?:</tool_call>|$)",
            "(.*(?=</tool_call>)|.*$)",
        ),
        "A call without a closing tag is not seen. Models often stop right before it.": (
            "(?:</tool_call>|$)",
            "</tool_call>",
        ),
        "A call over several lines is not found: in a pattern the dot stops at a new line unless it is told otherwise.": (
            ", flags=re.DOTALL",
            "",
        ),
        "The last call of the text is taken, not the first.": (
            'r"<tool_call>(.*?)(?:</tool_call>|$)"',
            'r".*<tool_call>(.*?)(?:</tool_call>|$)"',
        ),
        "The error of the JSON reader comes out as it is: a caller that waits for ToolError does not catch it.": (
            "except (ValueError, RecursionError) as error",
            "except RecursionError as error",
        ),
        "Brackets nested a hundred thousand deep make the JSON reader raise a RecursionError, and that comes out. A model's text may hold anything.": (
            "(ValueError, RecursionError)",
            "ValueError",
        ),
        "JSON that is a list or a number is taken for an object, and asking it for a name fails with another error.": (
            "    if not isinstance(call, dict):\n",
            "    if call is None:\n",
        ),
        "A name that no tool has is let through, so the model is never told that there is no such tool.": (
            "    if tool is None:\n",
            '    if tool is None:\n        return {"name": name, "arguments": arguments}\n',
        ),
        "The message about an unknown tool does not say which tools there are; so the model can only guess again.": (
            "; the tools are: {', '.join(tool.name for tool in tools)}",
            "",
        ),
        "The name is looked up in a dict: a name that is a list raises a TypeError there.": (
            "next((tool for tool in tools if tool.name == name), None)",
            "{tool.name: tool for tool in tools}.get(name)",
        ),
        "A list or a text is taken for an object of arguments, and asking it for their names fails with another error.": (
            "    if not isinstance(arguments, dict):\n",
            "    if arguments is None:\n",
        ),
        "A missing argument is not noticed here: the tool itself would fail, with a message that was not written for the model.": (
            '("needs", wanted - given)',
            '("needs", wanted - wanted)',
        ),
        "An argument that the tool does not have is let through.": (
            '("does not take", given - wanted)',
            '("does not take", given - given)',
        ),
        "The types are not checked: a text goes where a number is needed.": (
            'if not isinstance(value, JSON_TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")',
            "if False",
        ),
        "true passes as a number: in Python a bool is an int, in JSON it is no number.": (
            ' or (isinstance(value, bool) and kind != "boolean")',
            "",
        ),
    },
)
def check_parse_tool_call(parse_tool_call, rng):
    hour = int(torch.randint(0, 24, (), generator=rng))
    drawn = {"town": "Rome", "hour": hour}
    yield "a call", parse_tool_call(_call("weather", drawn), _tools())
    yield "no call", _told(parse_tool_call, 'It is 12 degrees. {"name": "lamp"}')
    yield (
        "text before it and after it",
        _told(parse_tool_call, _call("lamp", {"on": True}, "I will look.\n") + " So it is."),
    )
    yield "no closing tag", _told(parse_tool_call, _call("weather", NOON, after="\n"))
    yield (
        "over several lines",
        _told(parse_tool_call, '<tool_call>\n{"name": "lamp",\n "id": 7,\n "arguments": {"on": false}}\n</tool_call>'),
    )
    yield "two calls", _told(parse_tool_call, _call("weather", NOON) + "\n" + _call("lamp", {"on": True}))
    yield "no arguments needed", _told(parse_tool_call, _call("broken", {}))
    yield "a number with a decimal point", _told(parse_tool_call, _call("weather", {"town": "", "hour": 2.5}))
    for text in ("", "{'name': 'lamp'}", '{"name": "lamp", "arguments": {"on": tr', "lamp(on=True)"):
        yield f"no JSON: {text!r}", _told(parse_tool_call, f"<tool_call>{text}</tool_call>")
    yield (
        "a hundred thousand opening brackets",
        raised(parse_tool_call, f"<tool_call>{'[' * 100_000}</tool_call>", _tools()),
    )
    for text in ("[1, 2]", "7", '"lamp"', "null"):
        yield f"JSON, but no object: {text}", _told(parse_tool_call, f"<tool_call>{text}</tool_call>")
    yield "an unknown tool", _told(parse_tool_call, _call("wether", NOON), "wether", "weather", "lamp")
    yield "a name that is a list", _told(parse_tool_call, _call(["lamp"], {"on": True}), "weather", "lamp")
    yield "no name", _told(parse_tool_call, '<tool_call>{"arguments": {"on": true}}</tool_call>', "weather")
    for arguments in (["Oslo", 12], "Oslo", None):
        yield f"arguments that are no object: {arguments!r}", _told(parse_tool_call, _call("weather", arguments))
    yield "no arguments", _told(parse_tool_call, '<tool_call>{"name": "broken"}</tool_call>')
    yield "a missing argument", _told(parse_tool_call, _call("weather", {"town": "Oslo"}), "hour")
    yield "an unknown argument", _told(parse_tool_call, _call("lamp", {"on": True, "colour": "red"}), "colour")
    yield "a text for a number", _told(parse_tool_call, _call("weather", {"town": "Oslo", "hour": "12"}), "hour")
    yield "a number for a text", _told(parse_tool_call, _call("weather", {"town": 12, "hour": 12}), "town")
    yield "true for a number", _told(parse_tool_call, _call("weather", {"town": "Oslo", "hour": True}), "hour")
    yield "a number for true", _told(parse_tool_call, _call("lamp", {"on": 1}), "on")
    yield "null for a text", _told(parse_tool_call, _call("weather", {"town": None, "hour": 1}), "town")


class _Script:
    """A model that says what it was told to, the last reply again and again; `seen` is what it was shown."""

    def __init__(self, *replies):
        self.replies, self.seen = replies, []

    def __call__(self, messages):
        self.seen.append([dict(message) for message in messages])
        reply = self.replies[min(len(self.seen), len(self.replies)) - 1]
        if isinstance(reply, BaseException):
            raise reply
        return reply


def _question():
    """Anew each time: an answer may change it."""
    return [{"role": "system", "content": "Use the tools."}, {"role": "user", "content": "How warm is it in Oslo?"}]


def _outcome(run_tools, replies, max_steps=5, degrees=17):
    """All that can be seen of a run: its result, what the model saw, and what the tools were asked."""
    script, ran = _Script(*replies), []
    try:
        result = run_tools(script, _tools(ran, degrees), _question(), max_steps)
    except NotImplementedError:
        raise
    except (Exception, _Interrupted) as error:
        result = [type(error).__name__, getattr(error, "messages", None)]
    if not isinstance(result, (list, tuple)):
        raise TypeError(f"run_tools should return a list of messages, and returned {type(result).__name__}")
    return {"result": list(result), "what the model saw": script.seen, "what the tools were asked": ran}


WEATHER = _call("weather", NOON)


@observes(
    "run_tools",
    difficulty=3,
    minutes=25,
    hints=(
        "A for loop of max_steps turns. In each: ask the model, write its reply down, parse it. Without a call you are done.",
        "What may fail for the model's sake stands inside a try: parsing, and the tool. What may not is outside: "
        "the model itself. `except Exception` lets a KeyboardInterrupt through.",
        'A result goes in as a text, an error as "error: " and its message; both into a message of role "tool". The '
        "arguments of a call are a dict, which ** spreads out. A loop that runs out of turns ends in "
        "EndlessToolLoop(messages, max_steps).",
    ),
    mistakes={
        "The caller's own list grows with the new messages: it was to stay as it is.": (
            "    messages = list(messages)\n",
            "",
        ),
        "The model's reply is not written down, so in the next turn it does not know what it asked.": (
            '        messages.append({"role": "assistant", "content": reply})\n        try:',
            "        try:",
        ),
        "The model sees only the newest message in each turn: the question is forgotten.": (
            "model_step(messages)",
            "model_step(messages[-1:])",
        ),
        "An exception of the tool comes out and ends the run; the model should read it and try something else.": (
            "except Exception as error:",
            "except ToolError as error:",
        ),
        "Everything is caught, even an interrupt by the user: then nobody can stop a tool that hangs.": (
            "except Exception as error:",
            "except BaseException as error:",
        ),
        "The model's own failure is handed to it as if a tool had failed: the caller does not see it, and the model can mend nothing.": [
            ("        reply = model_step(messages)\n        messages", "        reply = ''\n        messages"),
            (
                "        try:\n            call",
                "        messages.pop()\n        try:\n            reply = model_step(messages)\n            messages.append({'role': 'assistant', 'content': reply})\n            call",
            ),
        ],
        "The model is told that something failed, but not what: it cannot do better next time.": (
            'f"error: {error}"',
            '"error"',
        ),
        'Results come as role "user": what a tool says must not look like what the user says.': (
            '{"role": "tool", "content": result}',
            '{"role": "user", "content": result}',
        ),
        "A tool's result goes into the message as the number or None that it is: the content of a message is text.": (
            'str(by_name[call["name"]].function(**call["arguments"]))',
            'by_name[call["name"]].function(**call["arguments"])',
        ),
        "The loop has one turn too many: max_steps is how often the model may be asked.": (
            "range(max_steps)",
            "range(max_steps + 1)",
        ),
        "The loop has one turn too few: an answer in the last turn is not waited for.": (
            "range(max_steps)",
            "range(max_steps - 1)",
        ),
        "After the last turn the messages are returned as if there were an answer: the caller cannot tell that the last reply is a call.": (
            "    raise EndlessToolLoop(messages, max_steps)",
            "    return messages",
        ),
        "The first error ends the loop: the model never gets to read it and try again.": (
            'result = f"error: {error}"',
            'return [*messages, {"role": "tool", "content": f"error: {error}"}]',
        ),
        "Only the answer is returned: all messages were asked for.": (
            "                return messages",
            "                return messages[-1:]",
        ),
    },
)
def check_run_tools(run_tools, rng):
    yield "an answer at once", run_tools(_Script("It is warm."), _tools(), _question())
    yield "one call, then the answer", _outcome(run_tools, [WEATHER, "It is 17 degrees."])
    yield (
        "an unknown tool, then a right call",
        _outcome(run_tools, [_call("wether", NOON), WEATHER, "17."])["what the tools were asked"],
    )
    yield (
        "no JSON: the roles, and the start of what the model is told",
        [(m["role"], m["content"][:7]) for m in _outcome(run_tools, ["<tool_call>lamp", "I give up."])["result"]],
    )
    errors = _outcome(run_tools, [_call("wether", NOON), "I give up."])["what the model saw"][-1]
    yield "what the model reads after an unknown tool holds its name", "wether" in errors[-1]["content"]
    yield "a tool that fails", _outcome(run_tools, [_call("broken", {}), "I do not know."])
    yield "a tool that gives None", _outcome(run_tools, [_call("lamp", {"on": True}), "It is on."])
    yield "an interrupt while a tool runs", _outcome(run_tools, [_call("stopped", {}), "Done."])["result"][:1]
    yield "the model itself fails", _outcome(run_tools, [RuntimeError("out of memory"), "Done."])
    for max_steps in (1, 3):
        yield f"calls without end, max_steps={max_steps}", _outcome(run_tools, [WEATHER], max_steps)
    yield "the answer comes in the last turn", _outcome(run_tools, [WEATHER, "17."], 2)
    n_calls = int(torch.randint(2, 5, (), generator=rng))
    hours, degrees = torch.randint(0, 24, (n_calls,), generator=rng), int(torch.randint(-30, 40, (), generator=rng))
    calls = [_call("weather", {"town": "Rome", "hour": hour}) for hour in hours.tolist()]
    yield f"{n_calls} calls", _outcome(run_tools, [*calls, f"{degrees}."], 5, degrees)
    before = _question()
    run_tools(_Script(WEATHER, "17."), _tools(), before)
    yield "the messages that were given, after the run", before
    yield "max_steps=0 is refused", raised(run_tools, _Script("Hi."), _tools(), _question(), 0)
