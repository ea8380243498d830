"""The learner's answers: take them out of cells and notebooks with all that they need, save them, load them."""

from __future__ import annotations

import ast
import functools
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
from shared.cells import Statement, bound, statements


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
    return extract_from(statements(cells), name, provided)


def extract_from(found: list[Statement], name: str, provided: Iterable[str] = ()) -> Answer | None:
    """`extract` from statements that are read already."""
    provided = frozenset(provided) - {name}
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
    if path.exists() and not _whole(path):
        _aside(path)
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
    """The learner's saved answer, or None if there is none; an error in the file is raised.

    A file that is no answer at all (empty, cut short, a folder) is set aside first, and the error says where.
    """
    path = saved_path(name)
    if not path.exists():
        return None
    if not _whole(path):
        raise ValueError(f"the file is damaged and was {_aside(path)}")
    return load(Answer(name, path.read_text(encoding="utf-8"), frozenset()), filename=str(path))


def log_attempt(name: str, status: str, mistake: str | None) -> None:
    """Append one line to the learner's diary; a full or read-only disk is no reason to fail a check."""
    path = diary_file()
    entry = {"exercise": name, "status": status, "mistake": mistake, "time": round(time.time())}
    line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:  # one write a line, so that two kernels do not mix theirs
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
                line = b"\n" + line  # a full disk cut the last one short
            file.write(line)
    except OSError:
        pass


def diary_file() -> Path:
    """Where the learner's attempts are written down, one line each."""
    return course.work_folder() / "attempts.jsonl"


def attempts() -> dict[str, list[dict]]:
    """All attempts by exercise.

    A damaged diary is set aside, and a new one made of its good lines and the saved answers; stderr says so.
    """
    path = diary_file()
    if not path.exists():
        return {}
    entries, damaged = ([], True) if path.is_dir() else _entries(path.read_bytes())
    if damaged:
        entries += _rebuilt({entry["exercise"] for entry in entries})
        _replace_diary(path, entries)
    found: dict[str, list[dict]] = {}
    for entry in entries:
        found.setdefault(entry["exercise"], []).append(entry)
    return found


def _entries(data: bytes) -> tuple[list[dict], bool]:
    """The entries of a diary, and whether there is damage; what follows the last end of a line may still grow."""
    entries, damaged = [], False
    *lines, rest = data.split(b"\n")
    for line in [*lines, rest]:
        try:
            entry = json.loads(line.decode()) if line.strip() else None
            if entry is not None:
                entry["exercise"].encode()  # a string, and one that can be written down again
                entries.append(entry)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            damaged |= line is not rest
    return entries, damaged


def _rebuilt(known: set[str]) -> list[dict]:
    """An entry for each saved answer of which the diary has nothing."""
    entries = []
    for name in course.exercises():
        path = saved_path(name)
        if name not in known and path.exists() and _whole(path):
            entries.append({"exercise": name, "status": "passed", "mistake": None, "time": round(path.stat().st_mtime)})
    return entries


def _replace_diary(path: Path, entries: list[dict]) -> None:
    try:
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        where = _aside(path)
        write_atomically(path, text)
        told = f"it was {where}; a new one holds its readable lines and your saved answers."
    except OSError as error:
        told = f"it cannot be replaced ({error}). What can be read of it counts, and so do your saved answers."
    _tell(f"Your diary {path.name} is damaged: {told}")


@functools.cache
def _tell(message: str) -> None:
    """Say something on stderr, once."""
    print(message, file=sys.stderr)


def _aside(path: Path) -> str:
    """Give a damaged file another name, and say which."""
    kept = path.with_name(f"{path.stem}-damaged-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}{path.suffix}")
    path.rename(kept)
    return f"set aside as {kept.name}"


def _whole(path: Path) -> bool:
    """Whether this is the file of an answer: Python that defines what the file is named after."""
    try:
        state = path.stat()
        return _defines(path, state.st_mtime_ns, state.st_size)
    except OSError:
        return False


@functools.lru_cache(maxsize=1024)
def _defines(path: Path, changed: int, size: int) -> bool:
    """`_whole`, read again only when the file has changed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(path.stem in bound(node)[0] for node in tree.body)


def state_of(name: str, diary: dict[str, list[dict]] | None = None) -> str:
    """ "passed" (an answer is saved), "tried" or "open"."""
    path = saved_path(name)
    if path.exists():
        return "passed" if _whole(path) else "tried"
    return "tried" if name in (attempts() if diary is None else diary) else "open"
