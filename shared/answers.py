"""The learner's answers: take them out of cells and notebooks with all that they need, save them, load them."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shared import course
from shared.cells import statements


@dataclass(frozen=True)
class Answer:
    """An answer that stands alone: its source with all that it needs, and what could not be found."""

    name: str
    source: str
    provided: frozenset[str]
    missing: tuple[str, ...] = ()
    borrowed: bool = False


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


loading = False  # while an answer is loaded, its `mine` and `borrow` show no cards


def load(answer: Answer, given: dict[str, object] | None = None, filename: str | None = None) -> object:
    """Run the source of an answer in a namespace of its own and return what it defines."""
    module = types.ModuleType(f"sixweeks_answer_{answer.name}")
    filename = filename or f"<your {answer.name}>"
    module.__dict__.update({"display": lambda *args, **kwargs: None, **(given or {})})
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up
    course.register_source(filename, answer.source)
    global loading
    before, loading = loading, True
    try:
        exec(compile(answer.source, filename, "exec", dont_inherit=True), module.__dict__)
    finally:
        loading = before
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
    """Write a file all or nothing: a new one beside it first, then one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
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
