"""The learner's answers: take them out of cells and notebooks with all that they need, save them, load them."""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import symtable
import sys
import tempfile
import time
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shared import course

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


@dataclass(frozen=True)
class Answer:
    """An answer that stands alone: its source with all that it needs, and what could not be found."""

    name: str
    source: str
    provided: frozenset[str]
    missing: tuple[str, ...] = ()
    borrowed: bool = False


def notebook_cells(path: Path) -> list[str]:
    """Sources of the code cells of a notebook of any format version; NotebookError if there are none to read."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise NotebookError(f"{Path(path).name} cannot be read as a notebook: {error}") from None
    if not isinstance(data, dict):
        raise NotebookError(f"{Path(path).name} is JSON, but not a notebook: it has no cells.")
    sheets = data.get("worksheets") or [data]
    if not any(isinstance(sheet, dict) and "cells" in sheet for sheet in sheets):
        raise NotebookError(f"{Path(path).name} is JSON, but not a notebook: it has no cells.")
    sources = []
    for sheet in sheets:
        for cell in sheet.get("cells", []):
            if isinstance(cell, dict) and cell.get("cell_type") == "code":
                source = cell.get("source", cell.get("input", ""))
                sources.append("".join(source) if isinstance(source, list) else str(source))
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
    found = []
    for cell in cells:
        text = without_magics(cell)
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        lines = text.splitlines()
        for node in tree.body:
            binds, changes = _bound(node)
            if not binds and not changes:
                continue
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            source = "\n".join(lines[first - 1 : node.end_lineno])
            if lines[first - 1][: node.col_offset].strip() or ";" in lines[node.end_lineno - 1][node.end_col_offset :]:
                source = ast.get_source_segment(text, node) or source  # several statements on one line
            found.append(Statement(source, binds, changes, _used(source)))
    return found


def _bound(node: ast.stmt) -> tuple[frozenset[str], frozenset[str]]:
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
                binds.update(_bound(child)[0])
            elif isinstance(child, ast.ExceptHandler):
                binds.update(name for inner in child.body for name in _bound(inner)[0])
    return frozenset(binds), frozenset(changes)


def _used(source: str) -> frozenset[str]:
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


def extract(cells: Iterable[str], name: str, provided: Iterable[str] = ()) -> Answer | None:
    """The answer called `name` with the closure of names that it needs; None if no cell defines it.

    Names in `provided` are not taken from the cells: whoever loads the answer gives them.
    """
    provided = frozenset(provided) - {name}
    found = statements(cells)
    last: dict[str, int] = {}
    for index, statement in enumerate(found):
        last.update(dict.fromkeys(statement.binds, index))
    if name not in last:
        return None
    stars = {i for i, s in enumerate(found) if "*" in s.binds}
    chosen: set[int] = set(stars)
    missing: list[str] = []
    given: set[str] = set()
    queue, seen = [name], set()
    while queue:
        wanted = queue.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        if wanted in provided:
            given.add(wanted)
            continue
        if wanted not in last:
            if not stars:
                missing.append(wanted)
            continue
        extra = [i for i, s in enumerate(found) if wanted in s.changes and i > last[wanted]]
        for index in [last[wanted], *extra]:
            if index not in chosen:
                chosen.add(index)
                queue.extend(sorted(found[index].uses))
    source = "\n\n".join(found[index].source for index in sorted(chosen))
    own = found[last[name]].source
    borrowed = bool(re.match(rf"(from|import)\s|{re.escape(name)}\s*=.*\b(borrow|mine)\(", own))
    return Answer(name, source + "\n", frozenset(given), tuple(sorted(missing)), borrowed)


def load(answer: Answer, given: dict[str, object] | None = None, filename: str | None = None) -> object:
    """Run the source of an answer in a namespace of its own and return what it defines."""
    module = types.ModuleType(f"sixweeks_answer_{answer.name}")
    filename = filename or f"<your {answer.name}>"
    module.__dict__.update({"display": lambda *args, **kwargs: None, **(given or {})})
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up
    course.register_source(filename, answer.source)
    exec(compile(answer.source, filename, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__[answer.name]


def saved_path(name: str) -> Path:
    """Where the learner's passed answer to an exercise is kept."""
    return course.work_folder() / course.find(name).week / f"{name}.py"


def save(answer: Answer) -> Path:
    """Write a passed answer, all or nothing; the earlier one stays whole if anything goes wrong."""
    path = saved_path(answer.name)
    text = f'"""Your answer to the exercise `{answer.name}`. It passed its check, and later weeks use it."""\n\n'
    write_atomically(path, text + answer.source)
    return path


def write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_saved(name: str) -> object | None:
    """The learner's saved answer, or None if there is none; an error in the file is raised."""
    path = saved_path(name)
    if not path.exists():
        return None
    source = path.read_text(encoding="utf-8")
    return load(Answer(name, source, frozenset()), filename=str(path))


def log_attempt(name: str, status: str, mistake: str | None) -> None:
    """Append one line to the learner's diary; a full or read-only disk is no reason to fail a check."""
    path = course.work_folder() / "attempts.jsonl"
    entry = {"exercise": name, "status": status, "mistake": mistake, "time": round(time.time())}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    except OSError:
        pass


def attempts() -> dict[str, list[dict]]:
    """All attempts by exercise; lines that are damaged are passed over."""
    path = course.work_folder() / "attempts.jsonl"
    found: dict[str, list[dict]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                found.setdefault(entry["exercise"], []).append(entry)
            except (ValueError, KeyError, TypeError):
                continue
    return found


def state_of(name: str, diary: dict[str, list[dict]] | None = None) -> str:
    """ "passed" (an answer is saved), "tried" or "open"."""
    if saved_path(name).exists():
        return "passed"
    return "tried" if name in (attempts() if diary is None else diary) else "open"


_watch_kernel()
