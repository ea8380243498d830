"""Templates, the sentences of the plots: plain text with {slots} and [one|of|these], filled in and polished."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from operator import itemgetter


class Slot(str):
    """The name of a slot, to be told from plain text."""


TOKEN = re.compile(r"\{\w+\}|[\[\]|]|[^\[\]|{}]+")
AN = re.compile(r" a(?= [aeiou])(?! one\b)")
FIRST_LETTER = re.compile(r'[.!?\n] ?"?[a-z]|\." [a-z]')  # not after !" or ?", where "said Pip" may follow


@cache
def parse(template: str) -> list[list]:
    """Options, each a list of text, slots and further options. Example: "a [b|{c}]" -> [["a ", [["b"], [c]]]]."""
    if template.count("[") != template.count("]"):
        raise ValueError(f"the brackets of this template do not match: {template!r}")
    tokens = iter(TOKEN.findall(template))

    def options() -> list[list]:
        found = [[]]
        for token in tokens:
            if token == "|":
                found.append([])
            elif token == "]":
                break
            else:
                found[-1].append(options() if token == "[" else Slot(token[1:-1]) if token[0] == "{" else token)
        return found

    return options()


def expand(options: list[list], filling: dict[str, str], pick: Callable[[list], list]) -> str:
    text = ""
    for part in pick(options):
        kind = part.__class__
        text += part if kind is str else filling[part] if kind is Slot else expand(part, filling, pick)
    return text


def polish(text: str) -> str:
    """Set "an" (from a small a), single spaces and the first letter of each sentence; a new line starts one."""
    text = AN.sub(" an", "\n" + text.replace("  ", " "))
    return FIRST_LETTER.sub(lambda match: match.group().upper(), text)[1:]


def render(template: str, filling: dict[str, str]) -> str:
    """A canonical sentence: the template with the first of all options."""
    return polish(expand(parse(template), filling, itemgetter(0)))
