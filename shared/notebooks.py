"""Notebooks as files: read one, tell whose a cell is, and find what it defines, half-typed or not.

Whose a cell is, its id tells: `shared.build` makes ids from the content, so a published cell's id fits its text.
"""

from __future__ import annotations

import ast
import copy
import re

import nbformat

from shared.build import GRADED, with_ids
from shared.cells import NotebookError, bound, without_magics

PUBLISHED_ID = re.compile(r"[0-9a-f]{12}(-\d+)?")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def read(text: str, name: str) -> nbformat.NotebookNode:
    """A notebook of format 4, every cell complete; NotebookError if the text is none."""
    try:
        notebook = nbformat.v4.reads(text)
        for cell in notebook.cells:
            cell.setdefault("metadata", nbformat.from_dict({}))
            if not isinstance(cell.cell_type, str) or not isinstance(cell.source, str):
                raise ValueError("a cell without text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotebookError(f"{name} cannot be read as a notebook: {error}") from None
    return notebook


def parsed(source: str) -> list[ast.stmt] | None:
    """The statements of a cell; None where it is no valid Python."""
    try:
        return ast.parse(without_magics(source)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def definitions(source: str) -> dict[str, ast.stmt | None]:
    """Functions and classes that a cell defines; also, without their tree, where the cell is half-typed."""
    names = re.findall(r"^(?:async +def|def|class) +(\w+)", source, flags=re.MULTILINE)
    body = parsed(source) if names else []
    if body is None:
        return dict.fromkeys(names)
    return {node.name: node for node in body if isinstance(node, DEFINITIONS)}


def assigned(source: str) -> set[str]:
    """Names that a cell gives a value of the learner's own: not imported, borrowed, or made from themselves."""
    names = set()
    for node in parsed(source) or []:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            uses = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
            names |= bound(node)[0] - uses if not uses & {"borrow", "mine"} else set()
    return names


def signature(node: ast.stmt | None) -> dict[str, str]:
    """How a definition is called, annotations aside: its parameters, a class's fields and its methods' parameters."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        arguments = copy.deepcopy(node.args)
        for part in ast.walk(arguments):
            if isinstance(part, ast.arg):
                part.annotation = None
        return {"()": ast.unparse(arguments)}
    if isinstance(node, ast.ClassDef):
        methods = {part.name: signature(part)["()"] for part in node.body if isinstance(part, DEFINITIONS[:2])}
        fields = {ast.unparse(part.target): "a field" for part in node.body if isinstance(part, ast.AnnAssign)}
        return {"class": "", **fields, **methods}
    return {}


def fits(name: str, answer: str, skeleton: str, before: list) -> bool:
    """Whether an answer can stand in for a skeleton: called alike, or the skeleton is called as it ever was."""
    wanted = signature(definitions(skeleton).get(name))
    old = next((signature(d[name]) for c in before if name in (d := definitions(c.source))), {})
    known = [s for s in (signature(definitions(answer).get(name)), old) if s]
    return not known or any(wanted.items() <= s.items() for s in known)


def split(source: str, names: list[str]) -> dict[str, str]:
    """A cell that answers several exercises, cut behind each of them, so that each gets its own part."""
    found = {node.name: node.end_lineno for node in parsed(source) or [] if isinstance(node, DEFINITIONS)}
    if len(names) == 1 or set(names) - found.keys() or without_magics(source) != source:
        return {name: source for name in names[:1]}
    ends = sorted((found[name], name) for name in names)
    lines, pieces, start = source.splitlines(), {}, 0
    for number, (end, name) in enumerate(ends, 1):
        end = len(lines) if number == len(ends) else end
        pieces[name], start = "\n".join(lines[start:end]).strip("\n"), end
    return pieces


def rename(source: str, renamed: dict[str, str]) -> str:
    """A cell with renamed exercises called by their new names; attributes and keywords stay."""
    lines = source.split("\n")
    places = []
    for node in ast.walk(ast.Module(parsed(source) or [], [])) if without_magics(source) == source else ():
        if isinstance(node, ast.Name) and node.id in renamed:
            places.append((node.lineno, node.col_offset, node.id))
        elif isinstance(node, DEFINITIONS) and node.name in renamed:
            column = lines[node.lineno - 1].encode().index(node.name.encode(), node.col_offset + len("def"))
            places.append((node.lineno, column, node.name))
    for line, column, name in sorted(places, reverse=True):
        text = lines[line - 1].encode()
        lines[line - 1] = (text[:column] + renamed[name].encode() + text[column + len(name.encode()) :]).decode()
    return "\n".join(lines)


def commented(source: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in source.splitlines())


def marked(cell: nbformat.NotebookNode) -> str:
    """The text of a published cell that the learner changed, told apart from the new version above it."""
    if cell.cell_type == "markdown":
        return f"*Kept from before: your version of the text above.*\n\n{cell.source}"
    mark = "# Kept from before: your version of the cell above."
    return f"{cell.source}\n{mark}" if cell.source.lstrip().startswith("%%") else f"{mark}\n{cell.source}"


def id_of(cell: nbformat.NotebookNode) -> str:
    return str(cell.get("id") or cell.metadata.get("id") or "")


def published(cells: list, known: list) -> list[bool]:
    """Which cells are the course's, as it wrote them; by what it published where a program gave all cells new ids."""
    twins = with_ids([nbformat.from_dict({"cell_type": c.cell_type, "source": c.source}) for c in cells])
    by_id = [twin.id.split("-")[0] == id_of(cell).split("-")[0] for twin, cell in zip(twins, cells, strict=True)]
    texts = {(cell.cell_type, cell.source) for cell in known}
    return by_id if any(by_id) else [(cell.cell_type, cell.source) in texts for cell in cells]


def graded(path: str) -> bool:
    return path.endswith(f"{GRADED}.ipynb")


def position(cells: list, cell: nbformat.NotebookNode) -> int:
    return next(index for index, other in enumerate(cells) if other is cell)
