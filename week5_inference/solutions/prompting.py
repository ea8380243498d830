"""Prompting that can be tested: votes, label bias, worked steps, and tools that a model may call."""

import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

Message = dict[str, str]  # {"role": "user", "content": "..."}; roles: system, user, assistant, tool


def contextual_calibration(
    label_logprobs: Float[Tensor, "item label"], content_free_logprobs: Float[Tensor, "content_free label"]
) -> Float[Tensor, "item label"]:
    """Probabilities q ∝ p / p_cf of the labels, each row summing to 1: the label bias of a prompt divided out.

    p: the labels' probabilities given an item, made to sum to 1; p_cf: the same for inputs without content ("N/A", ""),
    averaged over them. Zhao et al. 2021, §5, W = diag(p_cf)⁻¹, b = 0. Log-probabilities may be as low as -300.
    Raises ValueError for other numbers of labels, no content-free input, or one whose log-probabilities are not finite.
    """
    if label_logprobs.shape[-1] != content_free_logprobs.shape[-1]:
        raise ValueError(f"the labels differ: {label_logprobs.shape[-1]} and {content_free_logprobs.shape[-1]} of them")
    if not len(content_free_logprobs) or not content_free_logprobs.isfinite().all():
        raise ValueError("calibration needs one content-free input or more, with finite log-probabilities")
    # BEGIN SOLUTION
    label_bias = content_free_logprobs.softmax(dim=-1).mean(dim=0)
    return (label_logprobs.log_softmax(dim=-1) - label_bias.log()).softmax(dim=-1)
    # END SOLUTION


def majority_vote(answers: Sequence[Hashable | None]) -> tuple[Hashable | None, float]:
    """The answer that most sampled reasoning paths end in, and its share of the votes: argmax_a Σ_i 1(a_i = a).

    None (nothing could be read from the text) is no vote. Of answers with equally many votes, the one that came first.
    Without any vote: (None, 0.0). Example: [7.0, None, 5.0, 5.0] -> (5.0, 2/3). Wang et al. 2022, §2.
    """
    # BEGIN SOLUTION
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return None, 0.0
    answer, count = votes.most_common(1)[0]  # in the order of first appearance where counts are equal
    return answer, count / votes.total()
    # END SOLUTION


def scratchpad_target(a: int, b: int) -> str:
    r"""The sum of two numbers as worked steps: a line for each digit from the right, then "#### " and the sum.

    A line is "digit of a+digit of b+carry=their sum"; the shorter number has zeros in front, and the last carry has no
    line of its own. Example: (87, 5) -> "7+5+0=12\n8+0+1=9\n#### 92". Nye et al. 2021, figure 2 (its steps, shorter).
    Raises ValueError for a negative number.
    """
    if a < 0 or b < 0:
        raise ValueError(f"the numbers must be 0 or more, got {a} and {b}")
    # BEGIN SOLUTION
    width = max(len(str(a)), len(str(b)))
    lines, carry = [], 0
    for x, y in zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}"), strict=True):
        total = int(x) + int(y) + carry
        lines.append(f"{x}+{y}+{carry}={total}")
        carry = total // 10
    return "\n".join([*lines, f"#### {a + b}"])
    # END SOLUTION


# --- tools ------------------------------------------------------------------------------------------------------

JSON_TYPES = {"string": str, "number": (int, float), "boolean": bool}


@dataclass(frozen=True)
class Tool:
    """A function for a model to call. `parameters`: name -> type, one of JSON_TYPES; a call must give all of them."""

    name: str
    description: str
    parameters: Mapping[str, str]
    function: Callable[..., object]


class ToolError(ValueError):
    """A call that cannot be carried out. The message is written for the model, which may try again."""


class EndlessToolLoop(RuntimeError):
    """The model went on calling tools; `messages` holds all that was said."""

    def __init__(self, messages: list[Message], max_steps: int):
        super().__init__(f"no answer after {max_steps} steps; the last reply: {messages[-2]['content'][:200]!r}")
        self.messages = messages


def parse_tool_call(text: str, tools: Sequence[Tool]) -> dict[str, object] | None:
    """{"name": ..., "arguments": {...}} of the first tool call of a model's text; None where there is none.

    A call is a JSON object between <tool_call> and </tool_call>; the text may end before the closing tag. Other text,
    and other keys of the object, are passed over. Raises ToolError, and nothing else, for what is no JSON object, a
    name that no tool has (the message gives it and the names that are right), arguments that are no object, missing or
    unknown ones, a value of another type than the tool says (true is no number); these messages name the argument.
    """
    # BEGIN SOLUTION
    found = re.search(r"<tool_call>(.*?)(?:</tool_call>|$)", text, flags=re.DOTALL)
    if found is None:
        return None
    try:
        call = json.loads(found[1])
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the call is not valid JSON ({error}); write one object with name and arguments") from None
    if not isinstance(call, dict):
        raise ToolError('the call is no JSON object; write {"name": ..., "arguments": {...}}')
    name, arguments = call.get("name"), call.get("arguments")
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        raise ToolError(f"there is no tool {name!r}; the tools are: {', '.join(tool.name for tool in tools)}")
    if not isinstance(arguments, dict):
        raise ToolError(f"the arguments of {name} must be a JSON object with {', '.join(tool.parameters)}")
    wanted, given = tool.parameters.keys(), arguments.keys()
    for wrong, names in (("needs", wanted - given), ("does not take", given - wanted)):
        if names:
            raise ToolError(f"{name} {wrong} the argument {min(names)!r}; it takes {', '.join(wanted)}")
    for key, value in arguments.items():
        kind = tool.parameters[key]
        if not isinstance(value, JSON_TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
            raise ToolError(f"the argument {key!r} of {name} must be a {kind}, not {json.dumps(value)}")
    return {"name": name, "arguments": arguments}
    # END SOLUTION


def run_tools(
    model_step: Callable[[list[Message]], str], tools: Sequence[Tool], messages: Sequence[Message], max_steps: int = 5
) -> list[Message]:
    """Let the model call tools until it replies without a call; returns `messages` (itself unchanged) and the new ones.

    Each turn, the reply of model_step(messages so far) is added, role "assistant". After a call follows, role "tool",
    str(what the tool returned), or "error: " and the message of a ToolError or of any Exception of the tool: it never
    comes out. A KeyboardInterrupt does, and what model_step raises. EndlessToolLoop after max_steps replies with calls.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps must be 1 or more, got {max_steps}")
    # BEGIN SOLUTION
    messages = list(messages)
    by_name = {tool.name: tool for tool in tools}
    for _ in range(max_steps):
        reply = model_step(messages)
        messages.append({"role": "assistant", "content": reply})
        try:
            call = parse_tool_call(reply, tools)
            if call is None:
                return messages
            result = str(by_name[call["name"]].function(**call["arguments"]))
        except Exception as error:  # whatever the tool does wrong, the model gets to read it
            result = f"error: {error}"
        messages.append({"role": "tool", "content": result})
    raise EndlessToolLoop(messages, max_steps)
    # END SOLUTION
