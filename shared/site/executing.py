"""Solved lessons, executed once and kept: the outputs that the site shows."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat

from shared import answers, build, course

KEPT = course.ROOT / "build" / "executed"
MEMORY = 4e9  # bytes that a lesson with SmolLM2 wants
SAVED = re.compile(r"Saved in \S*/(?=\w+/\w+\.py)")  # what a card says of an answer
PROSE = {".md", ".ipynb", ".pyc"}  # files beside a lesson that change nothing in what it computes


@dataclass(frozen=True)
class Outputs:
    """An executed notebook; `current` where neither its text nor the code that it can import has changed since."""

    notebook: nbformat.NotebookNode
    current: bool


def find(path: Path, kept: Path = KEPT) -> Outputs | None:
    """The kept outputs of a lesson source; None where there are none for its text as it is now."""
    file = _file(path, kept)
    if not file.exists():
        return None
    try:
        notebook = nbformat.read(file, as_version=nbformat.NO_CONVERT)
        made_from = notebook.metadata["sixweeks"]
        if made_from["text"] != _digest(path.read_bytes()):
            return None
        return Outputs(notebook, made_from["code"] == _code(path.parent.parent.name))
    except (ValueError, KeyError, AttributeError, nbformat.reader.NotJSONError):  # half a file is as good as none
        return None


def execute(paths: Iterable[Path], kept: Path = KEPT, jobs: int | None = None) -> dict[Path, str]:
    """Execute the solved lessons whose outputs are not current, and keep each as it ends. Those that fail: why."""
    from tqdm.auto import tqdm

    waiting = [path for path in paths if not ((outputs := find(path, kept)) and outputs.current)]
    failed: dict[Path, str] = {}
    if not waiting:
        return failed
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several lessons at once: each has one core
    context = multiprocessing.get_context("spawn")  # Ctrl-C reaches each process, which then ends its kernel
    with ProcessPoolExecutor(max_workers=jobs or _jobs(), mp_context=context) as pool:
        running = {pool.submit(_execute, path, kept): path for path in waiting}
        bar = tqdm(as_completed(running), total=len(running), desc="lessons", unit="lesson")
        for done in bar:
            path = running[done]
            bar.set_postfix_str(path.stem)
            problem = done.result()
            if problem:
                failed[path] = problem
    return failed


def _execute(path: Path, kept: Path) -> str:
    """Execute one solved lesson and keep it; what went wrong, or ""."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = build.build_notebook(path, solved=True)
    try:
        build.execute(notebook, path.parent.parent)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return f"{type(error).__name__}: {error}"
    keep(notebook, path, kept)
    return ""


def keep(notebook: nbformat.NotebookNode, path: Path, kept: Path = KEPT) -> None:
    """Keep an executed notebook, with what it was made from, and without the name of the folder for its answers."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind in output.get("data", {}).keys() & {"text/plain", "text/html"}:
                output["data"][kind] = SAVED.sub("Saved in work/", output["data"][kind])
    made_from = {"text": _digest(path.read_bytes()), "code": _code(path.parent.parent.name)}
    notebook.metadata["sixweeks"] = {**notebook.metadata["sixweeks"], **made_from}
    answers.write_atomically(_file(path, kept), build.text_of(notebook))


def _jobs() -> int:
    """As many lessons at once as there are cores, and memory for each."""
    import psutil

    return max(1, min(os.cpu_count() or 1, int(psutil.virtual_memory().available / MEMORY)))


def _file(path: Path, kept: Path) -> Path:
    return kept / path.parent.parent.name / f"{path.stem}.ipynb"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def _code(week: str) -> str:
    """A digest of all that a lesson of this week can import or read: this week, the weeks before it, `shared`."""
    folders = [course.ROOT / name for name in course.weeks() if name <= week]
    files = [p for folder in folders for p in folder.rglob("*") if p.parent.name not in ("lessons", "questions")]
    files += [p for p in (course.ROOT / "shared").rglob("*") if Path(__file__).parent not in p.parents]
    found = {p.relative_to(course.ROOT).as_posix(): p for p in files if p.is_file() and p.suffix not in PROSE}
    return _digest("\n".join(f"{name} {_digest(found[name].read_bytes())}" for name in sorted(found)).encode())
