"""Right answers to lesson 01 of week 5, written otherwise: they must pass."""

import json
from statistics import multimode

import torch

from week5_inference.solutions.prompting import EndlessToolLoop, ToolError, parse_tool_call


def contextual_calibration__by_the_paper(label_logprobs, content_free_logprobs):
    """W = diag(p_cf)⁻¹ as a matrix, in float64, and rows divided by their sums."""
    if not content_free_logprobs.numel() or content_free_logprobs.isinf().any():
        raise ValueError("content-free")
    if label_logprobs.shape[1] != content_free_logprobs.shape[1]:
        raise ValueError("labels")

    def normalized(logprobs):
        p = (logprobs.double() - logprobs.double().amax(dim=1, keepdim=True)).exp()
        return p / p.sum(dim=1, keepdim=True)

    w = torch.linalg.inv(torch.diag(normalized(content_free_logprobs).mean(0)))
    q = normalized(label_logprobs) @ w
    return (q / q.sum(dim=1, keepdim=True)).to(label_logprobs.dtype)


def contextual_calibration__logsumexp(label_logprobs, content_free_logprobs):
    if label_logprobs.shape[-1] != content_free_logprobs.shape[-1] or len(content_free_logprobs) == 0:
        raise ValueError("shape")
    bias = content_free_logprobs.log_softmax(-1).logsumexp(0)  # without the - log of their number: it cancels
    scores = label_logprobs - bias
    return (scores - scores.logsumexp(-1, keepdim=True)).exp()


def contextual_calibration__row_by_row(label_logprobs, content_free_logprobs):
    if label_logprobs.shape[-1] != content_free_logprobs.shape[-1]:
        raise ValueError("labels")
    if content_free_logprobs.shape[0] < 1:
        raise ValueError("none")
    prior = sum(torch.softmax(row, 0) for row in content_free_logprobs) / content_free_logprobs.shape[0]
    ratios = [torch.softmax(row, 0) / prior for row in label_logprobs]
    return torch.stack([ratio / ratio.sum() for ratio in ratios])


def majority_vote__multimode(answers):
    votes = [answer for answer in answers if answer is not None]
    if len(votes) == 0:
        return (None, 0.0)
    best = multimode(votes)[0]
    return best, votes.count(best) / len(votes)


def majority_vote__by_hand(answers):
    best, most, total = None, 0, 0
    for answer in answers:
        if answer is None:
            continue
        total += 1
        count = sum(other == answer for other in answers if other is not None)
        if count > most:
            best, most = answer, count
    return [best, most / max(total, 1)]


def scratchpad_target__divmod(a, b):
    if min(a, b) < 0:
        raise ValueError("negative")
    text, carry, x, y = "", 0, a, b
    while True:
        (x, p), (y, q) = divmod(x, 10), divmod(y, 10)
        text += f"{p}+{q}+{carry}={p + q + carry}\n"
        carry = (p + q + carry) // 10
        if x == y == 0:
            return text + "#### " + str(a + b)


def scratchpad_target__by_powers(a, b):
    if a < 0 or b < 0:
        raise ValueError("negative")
    steps = []
    for i in range(len(str(max(a, b)))):
        low = 10**i
        carry = int(a % low + b % low >= low)
        p, q = a // low % 10, b // low % 10
        steps.append(f"{p}+{q}+{carry}={p + q + carry}")
    return "\n".join(steps) + f"\n#### {sum((a, b))}"


def parse_tool_call__partition(text, tools):
    _, tag, rest = text.partition("<tool_call>")
    if not tag:
        return None
    body = rest.split("</tool_call>")[0]
    try:
        call = json.loads(body)
    except Exception as error:
        raise ToolError("not JSON: " + str(error)) from error
    if type(call) is not dict:
        raise ToolError("no object")
    known = [tool.name for tool in tools]
    if call.get("name") not in known:
        raise ToolError(f"unknown: {call.get('name')}; known: {known}")
    tool = tools[known.index(call["name"])]
    arguments = call.get("arguments", [])
    if type(arguments) is not dict:
        raise ToolError("arguments")
    for key in tool.parameters:
        if key not in arguments:
            raise ToolError(f"missing: {key}")
    for key, value in arguments.items():
        if key not in tool.parameters:
            raise ToolError(f"too much: {key}")
        name_of = {str: "string", int: "number", float: "number", bool: "boolean"}
        if name_of.get(type(value)) != tool.parameters[key]:
            raise ToolError(f"type of {key}")
    return {"arguments": arguments, "name": tool.name}


def parse_tool_call__index(text, tools):
    start = text.find("<tool_call>")
    if start < 0:
        return None
    start += len("<tool_call>")
    end = text.find("</tool_call>", start)
    try:
        call = json.loads(text[start:] if end < 0 else text[start:end])
        name, arguments = call["name"], call["arguments"]
        (tool,) = [tool for tool in tools if tool.name == name]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ToolError(f"write a call of {[tool.name for tool in tools]} in JSON, not {text[:50]!r}") from None
    checks = {
        "string": lambda value: isinstance(value, str),
        "number": lambda value: isinstance(value, (int, float)) and value is not True and value is not False,
        "boolean": lambda value: value is True or value is False,
    }
    if not isinstance(arguments, dict) or set(arguments) != set(tool.parameters):
        raise ToolError(f"{name} takes {dict(tool.parameters)}, not {arguments}")
    wrong = [key for key, kind in tool.parameters.items() if not checks[kind](arguments[key])]
    if wrong:
        raise ToolError(f"wrong types: {wrong}")
    return {"name": name, "arguments": arguments}


def run_tools__while(model_step, tools, messages, max_steps=5):
    if max_steps < 1:
        raise ValueError("max_steps")
    history, turns = [*messages], 0
    while turns < max_steps:
        turns += 1
        history = [*history, {"role": "assistant", "content": model_step(history)}]
        try:
            call = parse_tool_call(history[-1]["content"], tools)
        except ToolError as error:
            history.append({"role": "tool", "content": "error: " + str(error)})
            continue
        if not call:
            return history
        (function,) = (tool.function for tool in tools if tool.name == call["name"])
        try:
            content = f"{function(**call['arguments'])}"
        except Exception as error:
            content = f"error: {error!s}"
        history.append({"role": "tool", "content": content})
    raise EndlessToolLoop(history, turns)


def run_tools__recursive(model_step, tools, messages, max_steps=5):
    if max_steps < 1:
        raise ValueError("max_steps")

    def turn(said, left):
        if not left:
            raise EndlessToolLoop(said, max_steps)
        reply = model_step(list(said))
        said = said + [{"role": "assistant", "content": reply}]
        if "<tool_call>" not in reply:
            return said
        return turn(said + [{"role": "tool", "content": carry_out(reply)}], left - 1)

    def carry_out(reply):
        try:
            call = parse_tool_call(reply, tools)
            for tool in tools:
                if tool.name == call["name"]:
                    return str(tool.function(**call["arguments"]))
        except Exception as error:
            return f"error: {error}"

    return turn(list(messages), max_steps)
