"""Answers that are nearly the same, seen through names, comments and formatting: a hint to a human, no verdict."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

WINDOW = 6  # syntax-tree nodes that are compared as one piece
# Share of pieces in common from which two answers count as near-identical. Measured on the course's own answers of at
# least LEAST_NODES: two that were written apart have at most 0.30 (428 pairs), one and its copy with one changed
# expression at least 0.7 in 96 % of 1,685 pairs.
ALIKE = 0.7
LEAST_NODES = 60  # a shorter answer has too few ways to be written
LEAST_IN_ALL = 250  # nodes in common, over all exercises, from which a pair is worth a look
COMMON = 0.15  # what so many of a class wrote (and four at least) is how one writes it


@dataclass(frozen=True)
class Shape:
    """The syntax tree of an answer, without what can be changed without changing the program."""

    nodes: tuple[str, ...]

    @cached_property
    def pieces(self) -> frozenset[tuple[str, ...]]:
        return frozenset(self.nodes[i : i + WINDOW] for i in range(max(1, len(self.nodes) - WINDOW + 1)))


@dataclass
class Pair:
    """Two students and the exercises in which their answers agree."""

    first: str
    second: str
    exercises: dict[str, float] = field(default_factory=dict)  # name -> share in common
    nodes: int = 0
    compared: int = 0  # exercises that both have answered


def shape(source: str) -> Shape:
    """Its own names by the order in which they come, no docstrings, comments, annotations, imports or formatting."""
    names: dict[str, str] = {}
    nodes: list[str] = []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Shape(())
    own = set(map(_bound, ast.walk(tree)))

    def renamed(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}") if name in own else name

    def visit(node: ast.AST) -> None:
        if _is_import(node) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return
        text = type(node).__name__
        if isinstance(node, ast.Name):
            text = renamed(node.id)
        elif isinstance(node, ast.arg):
            text = f"arg {renamed(node.arg)}"
        elif isinstance(node, ast.Attribute):
            text = f".{node.attr}"
        elif isinstance(node, ast.Constant):
            text = repr(node.value)
        elif isinstance(node, ast.keyword):
            text = f"{node.arg}="
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            text += f" {renamed(node.name)}"
        if not isinstance(node, (ast.Load, ast.Store, ast.Module)):
            nodes.append(text)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_comment"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child)

    try:
        visit(tree)
    except RecursionError:
        return Shape(())
    return Shape(tuple(nodes))


def _bound(node: ast.AST) -> str | None:
    """The name that a node gives a value to."""
    if isinstance(node, ast.Name):
        return node.id if isinstance(node.ctx, ast.Store) else None
    defines = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    return node.name if defines else node.arg if isinstance(node, ast.arg) else None


def _is_import(node: ast.AST) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def alike(a: Shape, b: Shape) -> float:
    """The share of pieces that two answers have in common."""
    return len(a.pieces & b.pieces) / max(1, len(a.pieces | b.pieces))


def _near(a: Shape, b: Shape) -> float:
    """The share in common where that says something, else 0."""
    least, most = sorted((len(a.nodes), len(b.nodes)))
    share = alike(a, b) if least >= LEAST_NODES and most <= 2 * least else 0.0
    return share if share >= ALIKE else 0.0


def pairs(answers: dict[str, dict[str, str]], solutions: dict[str, str]) -> list[Pair]:
    """Students with near-identical answers, the most alike first.

    `answers`: student -> exercise -> source; `solutions`: the course's own and what is given, which is left out.
    """
    found: dict[tuple[str, str], Pair] = {}
    own = {name: shape(source) for name, source in solutions.items()}
    for name in dict.fromkeys(name for sources in answers.values() for name in sources):
        wrote = {student: shape(sources[name]) for student, sources in answers.items() if name in sources}
        for one, two in combinations(wrote, 2):
            found.setdefault((one, two), Pair(one, two)).compared += 1
        near = {(one, two): share for one, two in combinations(wrote, 2) if (share := _near(wrote[one], wrote[two]))}
        often = Counter(student for pair in near for student in pair)  # how many others wrote the same
        for one, two in near:
            a, b = wrote[one], wrote[two]
            if max(often[one], often[two]) + 1 >= max(4, COMMON * len(wrote)):
                continue
            if name in own and max(alike(a, own[name]), alike(b, own[name])) >= ALIKE:
                continue
            pair = found[one, two]
            pair.exercises[name] = near[one, two]
            pair.nodes += min(len(a.nodes), len(b.nodes))
    told = [pair for pair in found.values() if pair.nodes >= LEAST_IN_ALL]
    return sorted(told, key=lambda pair: (-pair.nodes, pair.first, pair.second))
