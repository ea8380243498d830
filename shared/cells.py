"""Cells, what they define and what they wait for: of the running kernel, and of notebooks of any format."""

from __future__ import annotations

import ast
import builtins
import functools
import json
import re
import symtable
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROVIDED_BY_NOTEBOOKS = {"display", "get_ipython", "__name__", "__file__"}
_ASSIGNED_MAGIC = re.compile(r"^(\s*)([\w, ]+?)\s*=\s*[!%].*$")


class NotebookError(ValueError):
    """A file that cannot be read as a notebook, and why."""


@dataclass(frozen=True)
class Statement:
    """A top-level statement of a cell that binds names (or changes an attribute of one)."""

    source: str
    binds: frozenset[str]
    changes: frozenset[str]
    uses: frozenset[str]


def notebook_cells(path: Path) -> list[str]:
    """Sources of the code cells of a notebook of any format version; NotebookError if there are none to read."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise NotebookError(f"{Path(path).name} cannot be read as a notebook: {error}") from None
    sheets = data.get("worksheets") or [data] if isinstance(data, dict) else []
    sheets = sheets if isinstance(sheets, list) else []
    found = [sheet["cells"] for sheet in sheets if isinstance(sheet, dict) and "cells" in sheet]
    if not found or not all(isinstance(cells, list) for cells in found):
        raise NotebookError(f"{Path(path).name} is JSON, but not a notebook: it has no cells.")
    sources = []
    for cell in (cell for cells in found for cell in cells):
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            source = cell.get("source", cell.get("input", ""))  # nbformat 3 calls it input
            sources.append("".join(map(str, source)) if isinstance(source, list) else str(source))
    return sources


_seen_cells: list[str] = []


def _watch_kernel() -> None:
    """From now on remember the text of each cell that runs. IPython's own `In` stays empty under nbval."""
    shell = _shell()
    if shell is None or _seen_cells:
        return
    _seen_cells.extend(shell.user_ns.get("In", []))

    def remember(info):
        _seen_cells.append(info.raw_cell)

    def remember_first(result):
        _seen_cells.append(result.info.raw_cell)
        shell.events.unregister("post_run_cell", remember_first)

    shell.events.register("pre_run_cell", remember)
    shell.events.register("post_run_cell", remember_first)


def _shell():
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()


def in_notebook() -> bool:
    return _shell() is not None


def kernel_cells() -> list[str]:
    """The cells run so far in this kernel, in the order in which they ran; [] outside a notebook."""
    return list(_seen_cells) if _shell() else []


def without_magics(cell: str) -> str:
    """Plain Python from a cell: magics and shell lines become `pass`; cells in other languages become empty."""
    lines = cell.splitlines()
    while lines and not lines[0].strip():
        lines.pop(0)
    if lines and lines[0].startswith("%%"):
        if lines[0].split()[0] not in ("%%time", "%%timeit", "%%capture", "%%prun"):
            return ""
        lines.pop(0)
    text = "\n".join(lines)
    try:
        ast.parse(text)
        return text
    except (SyntaxError, ValueError):
        pass
    plain = []
    for line in lines:
        body = line.strip()
        assigned = _ASSIGNED_MAGIC.match(line)
        if assigned:
            line = f"{assigned[1]}{assigned[2].split(',')[0].strip()} = None"
        elif body.startswith(("%", "!", "?")) or re.fullmatch(r"[\w.]+\?{1,2}", body):
            line = line[: len(line) - len(line.lstrip())] + "pass"
        plain.append(line)
    return "\n".join(plain)


def statements(cells: Iterable[str]) -> list[Statement]:
    """The binding statements of all cells that are valid Python, in order."""
    return [statement for cell in cells for statement in _statements(cell)]


@functools.lru_cache(maxsize=4096)  # the notebooks of a class have most cells in common
def _statements(cell: str) -> list[Statement]:
    found = []
    text = without_magics(cell)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    lines = text.splitlines()
    for node in tree.body:
        binds, changes = bound(node)
        if not binds and not changes:
            continue
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        source = "\n".join(lines[first - 1 : node.end_lineno])
        if lines[first - 1][: node.col_offset].strip() or ";" in lines[node.end_lineno - 1][node.end_col_offset :]:
            source = ast.get_source_segment(text, node) or source  # several statements on one line
        try:
            found.append(Statement(source, binds, changes, used(source)))
        except (SyntaxError, RecursionError):  # some errors are only found when Python compiles
            continue
    return found


def bound(node: ast.stmt) -> tuple[frozenset[str], frozenset[str]]:
    binds, changes = set(), set()
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        binds.add(node.name)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        binds.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for part in ast.walk(target):
                if isinstance(part, ast.Name):
                    (binds if isinstance(part.ctx, ast.Store) else changes).add(part.id)
    elif isinstance(node, (ast.If, ast.Try)):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                binds.update(bound(child)[0])
            elif isinstance(child, ast.ExceptHandler):
                binds.update(name for inner in child.body for name in bound(inner)[0])
    return frozenset(binds), frozenset(changes)


def used(source: str) -> frozenset[str]:
    """Global names that a statement needs, other than builtins."""
    used: set[str] = set()

    def visit(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (top or symbol.is_global()):
                used.add(symbol.get_name())
        for child in table.get_children():
            visit(child, False)

    visit(symtable.symtable(source, "<cell>", "exec"), True)
    return frozenset(used - set(dir(builtins)) - _PROVIDED_BY_NOTEBOOKS)


def depends_on_exercises(notebook) -> set[int]:
    """Indices of the cells that can fail while the exercises are open, found by name.

    A cell that calls an open exercise fails, and so does one that uses what a failed cell should have made.
    """
    open_names: set[str] = set()
    failing: set[int] = set()
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        tags = cell.metadata.get("tags", [])
        text = without_magics(cell.source)
        if "exercise" in tags:
            open_names.update(name for s in statements([text]) for name in s.binds)
            continue
        made: set[str] = set()
        for node in ast.parse(text).body:
            binds, _ = bound(node)
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                made.update(binds)
            if used(ast.unparse(node)) & open_names:
                open_names.update(binds)
                if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    failing.add(index)
        if index in failing:  # whatever it makes may be missing or unfinished
            open_names.update(made)
    return failing


_watch_kernel()
