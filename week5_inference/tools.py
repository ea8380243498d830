"""Two tools for a model: a calculator that cannot run code, and the facts of numbered stories."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Sequence

from shared.stories import Facts
from week5_inference.solutions.prompting import Tool

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
SIGNS = {ast.UAdd: operator.pos, ast.USub: operator.neg}
LONGEST = 200  # characters: no power is allowed, so this bounds the size of every result
FACTS = ("hero", "friend", "thing", "place", "reason", "feeling")


def calculate(expression: str) -> float | int:
    """The value of an expression of numbers, + - * / and brackets; ValueError, saying what, for anything else.

    The text is parsed, and only the nodes named above are walked: no name, call or attribute is ever looked up.
    Example: "(3 + 4) * 2" -> 14.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"the expression has {len(expression)} characters, at most {LONGEST} are allowed")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{expression!r} is no expression of numbers, + - * / and brackets") from None

    def value(node: ast.expr) -> float | int:
        match node:
            case ast.Constant(value=number) if type(number) in (int, float):
                return number
            case ast.UnaryOp(op=sign, operand=operand) if type(sign) in SIGNS:
                return SIGNS[type(sign)](value(operand))
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in OPERATORS:
                return OPERATORS[type(sign)](value(left), value(right))
        raise ValueError(f"{ast.unparse(node)!r} is not allowed: only numbers, + - * / and brackets are")

    try:
        result = value(tree.body)
    except ZeroDivisionError:
        raise ValueError(f"{expression!r} divides by zero") from None
    except OverflowError:
        raise ValueError(f"the result of {expression!r} is too large") from None
    if not math.isfinite(result):
        raise ValueError(f"the result of {expression!r} is too large")
    return int(result) if result == int(result) else result


def story_fact(library: Sequence[Facts]) -> Callable[[float, str], str]:
    """A look-up of one fact of a story by its number; stories count from 1."""

    def look_up(story: float, fact: str) -> str:
        if story != int(story) or not 1 <= story <= len(library):
            raise ValueError(f"there is no story {story}; the stories are 1 to {len(library)}")
        if fact not in FACTS:
            raise ValueError(f"a story has no fact {fact!r}; ask for one of {', '.join(FACTS)}")
        return str(getattr(library[int(story) - 1], fact))

    return look_up


def course_tools(library: Sequence[Facts]) -> list[Tool]:
    """The calculator and the look-up, as a model may call them."""
    return [
        Tool("calculate", "the value of numbers with + - * / and brackets", {"expression": "string"}, calculate),
        Tool(
            "story_fact",
            f"one fact ({', '.join(FACTS)}) of a story by its number",
            {"story": "number", "fact": "string"},
            story_fact(library),
        ),
    ]
