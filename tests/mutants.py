"""Reference solutions with one small change each; `tests.mutation_report` says which of them the checks accept.

Every operator is a slip that people make: operands swapped, off by one, a term or a condition dropped, the wrong axis
or reduction, a detach or a dtype forgotten, an argument ignored.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import types
from collections.abc import Iterator
from dataclasses import dataclass

from shared import course

ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
RENAMED = {
    "mean": "sum",
    "sum": "mean",
    "max": "min",
    "min": "max",
    "amax": "amin",
    "amin": "amax",
    "argmax": "argmin",
    "argmin": "argmax",
    "log": "exp",
    "exp": "log",
    "log2": "log",
    "sqrt": "square",
    "square": "abs",
    "any": "all",
    "all": "any",
    "cumsum": "cumprod",
    "tril": "triu",
    "triu": "tril",
    "floor": "ceil",
    "ceil": "floor",
    "zeros": "ones",
    "ones": "zeros",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
    "softmax": "log_softmax",
    "log_softmax": "softmax",
    "logsigmoid": "sigmoid",
    "append": "extend",
    "startswith": "endswith",
    "lower": "upper",
}
DROPPED = {"detach", "float", "clone", "strip", "lower", "abs", "clamp", "long", "double", "squeeze"}
COMMUTES = {"transpose", "swapaxes", "equal", "allclose", "isclose", "maximum", "minimum", "max", "min", "gcd"}
DROPPED |= {"flatten", "softmax", "log", "exp", "sqrt", "transpose", "to", "item", "sort"}


@dataclass(frozen=True)
class Mutant:
    """An exercise with one change. `change` tells it: the line, what stood there, what stands there now."""

    exercise: str
    change: str
    definition: str  # of the exercise, changed

    def make(self) -> object:
        """The changed function or class, in a copy of its module."""
        exercise = course.find(self.exercise)
        course.reference(self.exercise)
        module = types.ModuleType(exercise.module)
        text = exercise.path.read_text(encoding="utf-8").replace(exercise.source, self.definition)
        filename = f"<mutant of {self.exercise}>"
        exec(compile(text, filename, "exec"), module.__dict__)
        return getattr(module, self.exercise)


def mutants(name: str) -> list[Mutant]:
    """Every mutant of an exercise, each once. Only what is between the markers of the solution is changed."""
    exercise = course.find(name)
    lines = exercise.source.splitlines()
    whole = [Mutant(name, change, definition) for change, definition in _of_the_whole(exercise)]
    inside, open_block = set(), False
    for number, line in enumerate(lines, 1):
        open_block = (open_block or line.strip() == course.BEGIN) and line.strip() != course.END
        inside |= {number} if open_block else set()
    tree = ast.parse(exercise.source)
    same = ast.dump(tree)
    found: dict[str, Mutant] = {}
    for node in ast.walk(tree):
        if getattr(node, "lineno", 0) not in inside:
            continue
        old = ast.get_source_segment(exercise.source, node)
        for new in _changes(node):
            text = ast.unparse(ast.fix_missing_locations(new)) if isinstance(new, ast.AST) else new
            if (
                isinstance(node, ast.expr)
                and isinstance(new, ast.expr)
                and not isinstance(new, (ast.Name, ast.Constant))
            ):
                text = f"({text})"
            if isinstance(node, ast.stmt):
                text = text.replace("\n", "\n" + " " * node.col_offset)
            definition = _replaced(exercise.source, node, text)
            with contextlib.suppress(SyntaxError):
                dumped = ast.dump(ast.parse(definition))
                if dumped != same:
                    line = lines[node.lineno - 1].strip()
                    found.setdefault(dumped, Mutant(name, f"{line} | {_short(old)} -> {_short(text)}", definition))
    return whole + _told_apart(list(found.values()))


WRAPPED = """

import functools
import torch

_{name}, _kept = {name}, []


@functools.wraps(_{name})
def {name}(*args, **kwargs):
    {body}
"""
KEPT = """_kept.extend([] if _kept else [_{name}(*args, **kwargs)])
    return _kept[0]"""
OVERWRITTEN = """result = _{name}(*args, **kwargs)
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            value.data.zero_()
        elif isinstance(value, (list, dict)):
            value.clear()
    return result"""


def _of_the_whole(exercise: course.Exercise) -> Iterator[tuple[str, str]]:
    """State that is kept between calls, arguments that are overwritten or ignored: (what, the definition)."""
    source = exercise.source
    (definition,) = ast.parse(source).body
    if isinstance(definition, ast.FunctionDef):
        parameters = definition.args.args + definition.args.kwonlyargs
        kinds = " ".join(ast.unparse(one.annotation) for one in parameters if one.annotation)
        bodies = {"every call gives the first result": KEPT}
        if any(kind in kinds for kind in ("Tensor", "list", "dict")):
            bodies["the arguments are overwritten after use"] = OVERWRITTEN
        for change, body in bodies.items():
            yield change, source + WRAPPED.format(name=exercise.name, body=body.format(name=exercise.name))
    lines = source.splitlines(keepends=True)
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef):
            spots = (i for i in range(node.lineno, node.end_lineno) if lines[i].strip() == course.BEGIN)
            spot = next(spots, None)
            for parameter, default in _defaults(node.args) if spot is not None else ():
                line = lines[spot].replace(course.BEGIN, f"{parameter} = {ast.unparse(default)}")
                yield f"{node.name} ignores {parameter}", "".join([*lines[: spot + 1], line, *lines[spot + 1 :]])


def _defaults(arguments: ast.arguments) -> list[tuple[str, ast.expr]]:
    """The parameters that have a default, and that."""
    usual = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    pairs = [
        *zip(usual, arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return [(one.arg, default) for one, default in pairs if default is not None]


def _short(text: str) -> str:
    """The first line of a piece of code."""
    return " ".join(text.splitlines()[0].split())


def _told_apart(made: list[Mutant]) -> list[Mutant]:
    """The same change on two equal lines gets a number."""
    counts: dict[str, int] = {}
    told = []
    for mutant in made:
        counts[mutant.change] = n = counts.get(mutant.change, 0) + 1
        told.append(mutant if n == 1 else Mutant(mutant.exercise, f"{mutant.change} ({n})", mutant.definition))
    return told


def _replaced(source: str, node: ast.AST, text: str) -> str:
    """The source with the text of a node replaced; columns count bytes."""
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    whole = source.encode()
    return (whole[:start] + text.encode() + whole[end:]).decode()


def _changes(node: ast.AST) -> Iterator[ast.AST | str]:
    """What a node could be changed to."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            if type(op) in ARITHMETIC:
                yield ast.BinOp(left, ARITHMETIC[type(op)](), right)
            if isinstance(op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
                yield from (left, right)  # a term or a factor is dropped
            if isinstance(op, (ast.Sub, ast.Div, ast.MatMult, ast.Pow)):
                yield ast.BinOp(right, op, left)
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for i in range(len(values)):
                rest = values[:i] + values[i + 1 :]
                yield ast.BoolOp(op, rest) if len(rest) > 1 else rest[0]
        case ast.Compare(left=left, ops=[op], comparators=right) if type(op) in COMPARED:
            yield ast.Compare(left, [COMPARED[type(op)]()], right)
            if isinstance(op, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)):
                yield ast.Compare(right[0], [op], [left])
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(value=float() as value):
            yield ast.Constant(2 * value if value else 1.0)
        case ast.Call(func=function, args=args, keywords=keywords):
            yield from _changed_calls(node, function, args, keywords)
        case ast.IfExp(body=body, orelse=other):
            yield from (body, other)
        case ast.If():
            for value in (True, False):
                changed = copy.deepcopy(node)
                changed.test = ast.Constant(value)
                yield changed
        case ast.Assign(targets=[target], value=ast.BinOp(left=left, op=op, right=right)) if isinstance(
            target, ast.Name
        ) and ast.dump(left) == ast.dump(ast.Name(target.id, ast.Load())):
            yield ast.AugAssign(target, op, right)  # in place
        case ast.AugAssign(target=target, op=op, value=value) if type(op) in ARITHMETIC:
            yield ast.AugAssign(target, ARITHMETIC[type(op)](), value)
            yield "pass"
        case ast.Expr(value=ast.Call()):
            yield "pass"
        case ast.Continue():
            yield "break"
        case ast.Break():
            yield "continue"
        case ast.With(items=items, body=body) if "grad" in ast.unparse(items[0]) or "inference" in ast.unparse(
            items[0]
        ):
            yield ast.If(ast.Constant(True), body, [])
        case ast.Slice(lower=lower, upper=upper, step=step):
            yield from (ast.Slice(None, upper, step), ast.Slice(lower, None, step))


def _changed_calls(node: ast.Call, function: ast.expr, args: list, keywords: list) -> Iterator[ast.AST]:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in RENAMED:
        renamed = copy.deepcopy(node)
        setattr(renamed.func, "attr" if isinstance(function, ast.Attribute) else "id", RENAMED[name])
        yield renamed
    to_device = name == "to" and "device" in ast.unparse(node)  # a CPU cannot tell
    if name in DROPPED and isinstance(function, ast.Attribute) and not to_device:
        is_module = isinstance(function.value, ast.Name) and function.value.id in ("torch", "math", "F", "np", "re")
        if not is_module:
            yield function.value
        elif args:
            yield args[0]
    for i in range(len(keywords)):
        if keywords[i].arg is not None:
            yield ast.Call(function, args, keywords[:i] + keywords[i + 1 :])
    if len(args) >= 2 and name not in COMMUTES and not any(isinstance(arg, ast.Starred) for arg in args):
        yield ast.Call(function, [args[1], args[0], *args[2:]], keywords)
