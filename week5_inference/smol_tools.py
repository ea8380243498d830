"""SmolLM2 at the tools: its prompt with two worked examples, a call written freely, and one whose form is enforced."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from shared.data import stories
from shared.stories import Facts
from week3_evaluation.solutions.benchmarks import encode_pair, multiple_choice_loglikelihood
from week5_inference.solutions.prompting import Message, Tool, ToolError, contextual_calibration, parse_tool_call
from week5_inference.tools import FACTS

N_LIBRARY, N_ASKED = 20, 40
CALL_START = '<tool_call>{"name": "'
CHOICES = {"fact": FACTS}  # arguments that have few right values
CONTENT_FREE = ("N/A", "...", "What is it?")


@dataclass(frozen=True)
class Asked:
    """A question, and the tool and the result that answer it."""

    question: str
    tool: str
    result: str


@cache
def library() -> tuple[Facts, ...]:
    """The facts of the stories that can be looked up."""
    return tuple(story.facts for story in stories(N_LIBRARY, seed=60))


@cache
def asked(count: int = N_ASKED) -> tuple[Asked, ...]:
    """Half sums and products, half facts of stories, in an order drawn at random."""
    dice, found = random.Random(0), []
    for _ in range(count // 2):
        a, b = dice.randint(12, 99), dice.randint(12, 99)
        sign, word = dice.choice((("+", "plus"), ("-", "minus"), ("*", "times")))
        value = {"+": a + b, "-": a - b, "*": a * b}[sign]
        found.append(Asked(f"What is {a} {word} {b}?", "calculate", str(value)))
    wordings = {
        "hero": "Who is the hero of story {}?",
        "friend": "Who is the friend in story {}?",
        "place": "In which place is story {}?",
        "thing": "Which thing is story {} about?",
    }
    for _ in range(count - count // 2):
        story, fact = dice.randint(1, N_LIBRARY), dice.choice(list(wordings))
        value = getattr(library()[story - 1], fact)
        found.append(Asked(wordings[fact].format(story), "story_fact", value))
    dice.shuffle(found)
    return tuple(found)


def call_text(name: str, arguments: dict[str, object]) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def system_prompt(tools: Sequence[Tool]) -> str:
    """What tools there are, and how one is called."""
    lines = [
        f"{tool.name}({', '.join(f'{k}: {t}' for k, t in tool.parameters.items())}): {tool.description}"
        for tool in tools
    ]
    form = '<tool_call>{"name": ..., "arguments": {...}}</tool_call>'
    return "Answer with the help of these tools.\n" + "\n".join(lines) + f"\nA call is written as {form}"


EXAMPLES: list[Message] = [
    {"role": "user", "content": "What is 31 plus 7?"},
    {"role": "assistant", "content": call_text("calculate", {"expression": "31 + 7"})},
    {"role": "tool", "content": "38"},
    {"role": "assistant", "content": "The answer is 38."},
    {"role": "user", "content": "Who is the friend in story 30?"},
    {"role": "assistant", "content": call_text("story_fact", {"story": 30, "fact": "friend"})},
    {"role": "tool", "content": "Greta"},
    {"role": "assistant", "content": "The answer is Greta."},
]


def prompt_of(tokenizer, tools: Sequence[Tool], messages: Sequence[Message]) -> str:
    """The conversation in the model's template, with the tools and two examples before it."""
    whole = [{"role": "system", "content": system_prompt(tools)}, *EXAMPLES, *messages]
    return tokenizer.apply_chat_template(whole, tokenize=False, add_generation_prompt=True)


@torch.no_grad()
def go_on(model, tokenizer, text: str, stop: str, longest: int = 48) -> str:
    """What the model writes after a text, greedily, up to the stop text or its end-of-turn token."""
    batch = tokenizer(text, return_tensors="pt", add_special_tokens=False).to(model.device)
    ids = model.generate(
        **batch,
        max_new_tokens=longest,
        do_sample=False,
        stop_strings=[stop],
        tokenizer=tokenizer,
        pad_token_id=tokenizer.eos_token_id,
    )
    return tokenizer.decode(ids[0, batch.input_ids.shape[1] :], skip_special_tokens=True).partition(stop)[0]


def loglikelihoods(model, tokenizer, text: str, options: Sequence[str]) -> Tensor:
    """ln p of each option after a text, in nats."""
    return multiple_choice_loglikelihood(model, [[encode_pair(tokenizer, text, option) for option in options]])[0]


def likeliest(model, tokenizer, text: str, options: Sequence[str]) -> str:
    """The option with the greatest log-likelihood after a text."""
    return options[int(loglikelihoods(model, tokenizer, text, options).argmax())]


def name_logprobs(model, tokenizer, tools: Sequence[Tool], question: str) -> Tensor:
    """ln p of each tool's name where a call would have it, after a question."""
    text = prompt_of(tokenizer, tools, [{"role": "user", "content": question}]) + CALL_START
    return loglikelihoods(model, tokenizer, text, [f'{tool.name}"' for tool in tools])


def free_call(model, tokenizer, tools: Sequence[Tool], question: str) -> str:
    """What the model replies to a question, whatever it is."""
    prompt = prompt_of(tokenizer, tools, [{"role": "user", "content": question}])
    return go_on(model, tokenizer, prompt, stop="</tool_call>")


def constrained_call(
    model, tokenizer, tools: Sequence[Tool], question: str, content_free: Tensor | None = None, choices=CHOICES
) -> str:
    """A call that is always valid: the model chooses among the tools' names and fills in values; code writes the rest.

    With `content_free`, `name_logprobs` of questions without content, the choice of the name is calibrated by them. An
    argument in `choices` is chosen among those; a text ends at its quote, a number is what comes first.
    """
    scores = name_logprobs(model, tokenizer, tools, question)[None]
    if content_free is not None:
        scores = contextual_calibration(scores, content_free)
    tool = tools[int(scores.argmax())]
    text = prompt_of(tokenizer, tools, [{"role": "user", "content": question}])
    text += f'{CALL_START}{tool.name}", "arguments": {{'
    arguments: dict[str, object] = {}
    for key, kind in tool.parameters.items():
        text += f"{', ' if arguments else ''}{json.dumps(key)}:"
        if kind == "boolean":
            arguments[key] = likeliest(model, tokenizer, text, [" true", " false"]) == " true"
        elif kind == "number":
            found = re.match(r'\s*"?(-?\d+(\.\d+)?)', go_on(model, tokenizer, text, stop=",", longest=8))
            arguments[key] = json.loads(found[1].lstrip("0") or "0") if found else 0
        elif key in choices:
            arguments[key] = likeliest(model, tokenizer, text, [f' "{choice}"' for choice in choices[key]])[2:-1]
        else:
            arguments[key] = go_on(model, tokenizer, f'{text} "', stop='"', longest=24)
        text += f" {json.dumps(arguments[key])}"
    return call_text(tool.name, arguments)


def outcome(text: str, tools: Sequence[Tool], item: Asked) -> dict[str, int | str]:
    """Whether a reply is a valid call, of the right tool, and gives the right result; and what was wrong with it."""
    found = {"called": int("<tool_call>" in text), "valid": 0, "right tool": 0, "right result": 0, "error": ""}
    try:
        call = parse_tool_call(text, tools)
        if call is None:
            return found
        found["valid"], found["right tool"] = 1, int(call["name"] == item.tool)
        (function,) = (tool.function for tool in tools if tool.name == call["name"])
        found["right result"] = int(str(function(**call["arguments"])) == item.result)
    except (ToolError, ValueError) as error:
        found["error"] = str(error)[:120]
    return found


def smol_step(model, tokenizer, tools: Sequence[Tool], content_free: Tensor | None = None):
    """SmolLM2 as a `model_step` of run_tools; with `content_free`, its first reply is a constrained call."""

    def step(messages: Sequence[Message]) -> str:
        if content_free is not None and messages[-1]["role"] == "user":
            return constrained_call(model, tokenizer, tools, messages[-1]["content"], content_free)
        reply = go_on(model, tokenizer, prompt_of(tokenizer, tools, messages), stop="</tool_call>")
        return reply + "</tool_call>" if "<tool_call>" in reply else reply

    return step
