"""What the agent of lesson 06 works with: three tools, faults put into them, a policy that follows a plan, SmolLM2's.

question ─> policy ─> reply with a call ─> parse_tool_call ─> [retries [faults [tool]]] ─> observation ─┐
              ^                                                                                         │
              └────────────────────────────── scratchpad <──────────────────────────────────────────────┘
"""

from __future__ import annotations

import html
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from shared.limits import Limits
from shared.sandbox import run_code
from week5_inference.smol_tools import call_text, constrained_call, go_on, library, prompt_of
from week5_inference.solutions.prompting import Message, Tool
from week5_inference.tools import course_tools
from week6_rlhf.solutions.code_and_agents import Step

PYTHON_LIMITS = Limits(seconds=1.0, memory_mb=256, output_bytes=4_000)


@cache
def run_python(code: str) -> str:
    """What a program prints, from the sandbox; RuntimeError, saying what came of it, unless it ended well.

    The same program is run once: it has no clock, no files and no network to make a difference.
    """
    outcome = run_code(code, limits=PYTHON_LIMITS)
    if not outcome.passed:
        raise RuntimeError(f"the program {outcome.status}: {outcome.error[:150]}")
    if not outcome.stdout.strip():
        raise RuntimeError("the program printed nothing; print the result")
    return outcome.stdout.strip()


def agent_tools() -> list[Tool]:
    """The calculator and the stories of week 5, and Python in the sandbox."""
    python = Tool("python", "run a program and read what it prints", {"code": "string"}, run_python)
    return [*course_tools(library()), python]


# --- faults -----------------------------------------------------------------------------------------------------

FAULTS = ("timeout", "connection", "malformed")


def faulty(tool: Tool, rate: float, dice: random.Random, kinds: Sequence[str] = FAULTS) -> Tool:
    """The tool, of whose calls a share `rate` fails in one of these ways.

    timeout, connection: an exception of that class; malformed: None instead of a result; silent: a wrong result that
    looks like a right one.
    """

    def function(**arguments: object) -> object:
        if dice.random() >= rate:
            return tool.function(**arguments)
        match dice.choice(kinds):
            case "timeout":
                raise TimeoutError(f"{tool.name} did not answer within 5 s")
            case "connection":
                raise ConnectionError(f"the connection to {tool.name} was lost")
            case "malformed":
                return None
            case "silent":
                result = tool.function(**arguments)
                return f"{result}e" if isinstance(result, str) and not result.isdigit() else int(result) + 1
            case kind:
                raise ValueError(f"no fault is called {kind!r}")

    return replace(tool, function=function)


def patient(tool: Tool, with_retries: Callable, **options: object) -> Tool:
    """The tool, each call of it made by `with_retries`."""
    return replace(tool, function=lambda **arguments: with_retries(lambda: tool.function(**arguments), **options))


# --- a task of four calls, and a policy that follows a plan -----------------------------------------------------


@dataclass(frozen=True)
class Task:
    question: str
    answer: str


def tasks(count: int, seed: int = 0) -> list[Task]:
    """Questions that take two look-ups, a program and a product."""
    dice, found = random.Random(seed), []
    for _ in range(count):
        story, factor = dice.randint(1, len(library())), dice.randint(12, 99)
        facts = library()[story - 1]
        question = f"How many letters do the names of hero and friend of story {story} have together, times {factor}?"
        found.append(Task(question, str((len(facts.hero) + len(facts.friend)) * factor)))
    return found


def results_in(text: str) -> list[str]:
    """The observations of a scratchpad that are no errors."""
    return [line for line in re.findall(r"^Observation: (.*)$", text, flags=re.MULTILINE) if line[:6] != "error:"]


def follow_plan(text: str) -> str:
    """The next step of the plan for a question of `tasks`, by what the scratchpad holds; the same after an error."""
    story, factor = map(int, re.findall(r"\d+", text.split("\n", 1)[0]))
    results = results_in(text)
    match results:
        case []:
            thought, call = "First I look up the hero.", call_text("story_fact", {"story": story, "fact": "hero"})
        case [_]:
            thought, call = "Then the friend.", call_text("story_fact", {"story": story, "fact": "friend"})
        case [hero, friend]:
            thought, call = "Now I count letters.", call_text("python", {"code": f"print(len({hero!r} + {friend!r}))"})
        case [_, _, letters]:
            thought, call = "And the product.", call_text("calculate", {"expression": f"{letters} * {factor}"})
        case _:
            return results[-1]
    return f"Thought: {thought}\n{call}"


# --- SmolLM2 as a policy ----------------------------------------------------------------------------------------


def as_messages(text: str) -> list[Message]:
    """A scratchpad as the conversation that week 5 shows to SmolLM2."""
    first, *rest = text.rstrip("\n").split("\n")
    messages = [{"role": "user", "content": first.removeprefix("Question: ")}]
    for line in rest:
        role, content = ("tool", line[13:]) if line.startswith("Observation: ") else ("assistant", line)
        if role == messages[-1]["role"] == "assistant":
            messages[-1]["content"] += f"\n{content}"
        else:
            messages.append({"role": role, "content": content})
    return messages


def smol_policy(model, tokenizer, tools: Sequence[Tool], content_free=None) -> Callable[[str], str]:
    """SmolLM2, writing freely; with `content_free`, the form of its first call is enforced, its choice calibrated."""

    def policy(text: str) -> str:
        messages = as_messages(text)
        if content_free is not None and not results_in(text):
            return constrained_call(model, tokenizer, tools, messages[0]["content"], content_free)
        reply = go_on(model, tokenizer, prompt_of(tokenizer, tools, messages), stop="</tool_call>", longest=40)
        return reply + "</tool_call>" if "<tool_call>" in reply else reply.split("\n")[0]

    return policy


# --- the trace --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TraceTable:
    """A run of the agent as a table: each step's reply, what came of it, and why it stopped."""

    question: str
    stop: str
    answer: str | None
    steps: Sequence[Step]

    def __str__(self) -> str:
        lines = [f"{i} {'!' if s.failed else ' '} {s.reply} -> {s.observation}" for i, s in enumerate(self.steps, 1)]
        return "\n".join([f"Question: {self.question}", *lines, f"stop: {self.stop}; answer: {self.answer}"])

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        cell = '<td style="text-align:left;vertical-align:top;padding:2px 8px;overflow-wrap:anywhere">'
        rows = ""
        for number, step in enumerate(self.steps, 1):
            sign = "✗" if step.failed else "✓"
            parts = [
                f"{number}",
                html.escape(step.reply).replace("\n", "<br>"),
                f"{sign} {html.escape(step.observation)}",
            ]
            rows += f'<tr style="background:transparent">{"".join(f"{cell}{part}</td>" for part in parts)}</tr>'
        head = "".join(
            f'<th style="text-align:left;padding:2px 8px">{name}</th>' for name in ("step", "reply", "observation")
        )
        end = f"stopped: <b>{html.escape(self.stop)}</b>; answer: <b>{html.escape(str(self.answer))}</b>"
        table = f'<table style="margin:0.3em 0"><tr style="background:transparent">{head}</tr>{rows}</table>'
        return {"text/html": f"<p>{html.escape(self.question)}</p>{table}<p>{end}</p>", "text/plain": str(self)}
