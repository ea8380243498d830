"""Where everything is: weeks, lessons and exercises, read from the sources without importing them."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import linecache
import os
import re
import sys
import types
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"


class SourceError(Exception):
    """A fault in a source file of the course, told as `file:line: what is wrong`."""

    def __init__(self, path: Path, line: int, message: str):
        with contextlib.suppress(ValueError):
            path = path.relative_to(ROOT)
        super().__init__(f"{path.as_posix()}:{line}: {message}")


@dataclass(frozen=True)
class Exercise:
    """One exercise: a top-level function or class of `solutions/` with a SOLUTION block."""

    name: str
    week: str
    lesson: str
    path: Path
    line: int
    source: str

    @property
    def module(self) -> str:
        return f"{self.week}.solutions.{self.lesson}"

    @property
    def solution(self) -> str:
        """The whole definition, without the two marker lines."""
        return "\n".join(line for line in self.source.splitlines() if line.strip() not in (BEGIN, END))

    @property
    def skeleton(self) -> str:
        """The definition with each answer replaced by `raise NotImplementedError`."""
        kept: list[str] = []
        answer: list[str] | None = None
        for line in self.source.splitlines():
            if line.strip() == BEGIN:
                answer = []
            elif line.strip() == END:
                n_lines = sum(1 for text in answer if text.strip() and not text.strip().startswith("#"))
                indent = line[: len(line) - len(line.lstrip())]
                amount = "1 line" if n_lines == 1 else f"about {n_lines} lines"
                kept.append(f'{indent}raise NotImplementedError("{self.name}: your code, {amount}")')
                answer = None
            elif answer is None:
                kept.append(line)
            else:
                answer.append(line)
        return "\n".join(kept)


def weeks(root: Path = ROOT) -> list[str]:
    """Folder names of the weeks that are there, in order."""
    return sorted(p.name for p in root.glob("week[0-9]*_*") if (p / "solutions").is_dir())


def lessons(week: str, root: Path = ROOT) -> list[Path]:
    """Lesson sources of a week in order, the graded notebook's source last."""
    return sorted((root / week / "lessons").glob("*.py"))


def lesson_notebook(exercise: Exercise, root: Path = ROOT) -> Path:
    """The notebook in which the learner answers this exercise."""
    for path in lessons(exercise.week, root):
        if re.fullmatch(rf"\d+_{exercise.lesson}", path.stem):
            return root / exercise.week / f"{path.stem}.ipynb"
    raise SourceError(exercise.path, 1, f"there is no lesson lessons/NN_{exercise.lesson}.py for these solutions")


def definitions(path: Path) -> dict[str, tuple[int, str]]:
    """Top-level functions and classes of a file: name -> (first line, source with decorators)."""
    text = path.read_text(encoding="utf-8")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise SourceError(path, error.lineno or 1, f"this is not valid Python: {error.msg}") from None
    lines = text.splitlines()
    found: dict[str, tuple[int, str]] = {}
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        last = node.end_lineno
        # The parser drops comments after the last statement: take a closing marker back in.
        while last < len(lines) and (not lines[last].strip() or lines[last].startswith((" ", "\t"))):
            last += 1
        block = lines[first:last]
        _check_markers(path, first, block)
        found[node.name] = (first + 1, "\n".join(block).rstrip())
    return found


def _check_markers(path: Path, first: int, block: list[str]) -> None:
    open_at = None
    for number, line in enumerate(block, first + 1):
        if line.strip() == BEGIN:
            if open_at:
                raise SourceError(path, open_at, f"{BEGIN} without {END}")
            open_at = number
        elif line.strip() == END:
            if not open_at:
                raise SourceError(path, number, f"{END} without {BEGIN}")
            open_at = None
    if open_at:
        raise SourceError(path, open_at, f"{BEGIN} without {END}")


def exercises(root: Path = ROOT) -> dict[str, Exercise]:
    """All exercises of the course by name, in the order of weeks, lessons and lines; read once."""
    return _exercises(root)


def forget_exercises() -> None:
    """Have `exercises` read the sources again, which have changed."""
    _exercises.cache_clear()


@lru_cache(maxsize=8)
def _exercises(root: Path) -> dict[str, Exercise]:
    found: dict[str, Exercise] = {}
    for week in weeks(root):
        order = {re.sub(r"^\d+_", "", p.stem): i for i, p in enumerate(lessons(week, root))}
        files = sorted((root / week / "solutions").glob("*.py"), key=lambda p: (order.get(p.stem, 99), p.stem))
        for path in files:
            for name, (line, source) in definitions(path).items():
                if BEGIN not in source:
                    continue
                if name in found:
                    other = found[name]
                    raise SourceError(
                        path, line, f"the exercise {name!r} exists already in {other.path.name}:{other.line}"
                    )
                found[name] = Exercise(name, week, path.stem, path, line, source)
    return found


def find(name: str, root: Path = ROOT) -> Exercise:
    """The exercise of this name; LookupError with the nearest names if there is none."""
    known = exercises(root)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    raise LookupError(f"The course has no exercise called {name!r}.{hint}")


def reference(name: str) -> object:
    """The course's own answer."""
    exercise = find(name)
    return getattr(importlib.import_module(exercise.module), name)


Edits = tuple[str, str] | list[tuple[str, str]]


def edited_source(exercise: Exercise, edits: Edits) -> str:
    """The solutions module with the edits of a known mistake made in it.

    Each edit must match exactly once in the exercise, or, when it is absent there, exactly once in the module.
    """
    text, own = exercise.path.read_text(encoding="utf-8"), exercise.source
    for old, new in [edits] if isinstance(edits, tuple) else edits:
        scope = own if old in own else text
        if scope.count(old) != 1:
            raise SourceError(
                exercise.path,
                exercise.line,
                f"an edit of a known mistake of {exercise.name} matches {scope.count(old)} times, not once: {old!r}",
            )
        changed = scope.replace(old, new)
        text = text.replace(scope, changed)
        own = changed if scope is own else own
    return text


def edited(exercise: Exercise, edits: Edits) -> object:
    """The exercise as it would be with this mistake in it."""
    module = types.ModuleType(exercise.module)
    filename = f"<mistake in {exercise.name}>"
    source = edited_source(exercise, edits)
    exec(compile(source, filename, "exec"), module.__dict__)
    return getattr(module, exercise.name)


def register_source(filename: str, text: str) -> None:
    """Let tracebacks and `inspect` show the lines of code that has no file."""
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


def work_folder(root: Path = ROOT) -> Path:
    """Where the learner's answers are kept; SIXWEEKS_WORK moves it (Drive on Colab, a test's own folder)."""
    return Path(os.environ.get("SIXWEEKS_WORK") or root / "work")


def import_week_module(week: str, shelf: str, lesson: str) -> types.ModuleType:
    """Import `week.shelf.lesson`, also from a notebook whose kernel does not know the course's folder."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module(f"{week}.{shelf}.{lesson}")
