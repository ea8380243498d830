"""Grade notebooks: find the answers by name, judge each alone in a process of its own, with fresh seeds."""

from __future__ import annotations

import csv
import hashlib
import html
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from shared import answers, course, judging
from shared.cards import Card
from shared.cells import NotebookError, Statement, kernel_cells, notebook_cells, statements
from shared.checking import find_check

MOST_CANDIDATES = 3  # definitions of one name that are judged
SIGNS = {"passed": "✓", "failed": "✗", "error": "✗", "timeout": "✗", "todo": "○", "missing": "○", "borrowed": "○"}


@dataclass(frozen=True)
class Row:
    """The grade of one exercise."""

    exercise: str
    result: str  # passed, failed, error, timeout, memory, todo, missing, borrowed
    mistake: str = ""
    points: int = 0
    out_of: int = 0
    seconds: float = 0.0


class Scored:
    """What has rows has points."""

    rows: list[Row]

    @property
    def points(self) -> int:
        return sum(row.points for row in self.rows)

    @property
    def out_of(self) -> int:
        return sum(row.out_of for row in self.rows)


@dataclass(repr=False)
class Grade(Scored, Card):
    """The grades of one notebook or week."""

    title: str
    rows: list[Row]
    note: str = ""

    def lines(self) -> list[str]:
        width = max((len(row.exercise) for row in self.rows), default=0)
        passed = sum(row.result == "passed" for row in self.rows)
        lines = [f"{self.title}: {passed} of {len(self.rows)} exercises, {self.points} of {self.out_of} points"]
        for row in self.rows:
            text = f"  {SIGNS.get(row.result, '✗')} {row.exercise:{width}}  {row.result}"
            lines.append(f"{text}: {row.mistake}" if row.mistake else text)
        return lines + ([self.note] if self.note else [])

    def html(self) -> str:
        head = html.escape(self.lines()[0])
        body = "".join(
            f'<tr><td style="text-align:left">{SIGNS.get(row.result, "✗")} '
            f"<code>{html.escape(row.exercise)}</code></td>"
            f'<td style="text-align:left">{row.result}</td>'
            f'<td style="text-align:right">{row.points} of {row.out_of}</td>'
            f'<td style="text-align:left;white-space:normal">{html.escape(row.mistake)}</td></tr>'
            for row in self.rows
        )
        columns = "".join(f'<th style="text-align:left">{name}</th>' for name in ("exercise", "result", "points", ""))
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        return f"<p><b>{head}</b></p><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>{note}"


def grade(target: str | Path | None = None) -> Grade:
    """Grade a notebook, a week, or, without an argument, the notebook that calls.

    A week's answers stand in its lesson notebooks, as saved; what a notebook leaves open, in the work folder.

    Each answer is judged alone, beside the course's own answers to the exercises that it calls.
    """
    if target is None:
        return grade_cells(kernel_cells(), "this notebook")
    if str(target).strip("/") in course.weeks():
        return _grade_week(str(target).strip("/"))
    return grade_cells(notebook_cells(_find_file(Path(target))), Path(target).name)


def write_gradebook(grades: dict[str, Grade], path: Path) -> None:
    """One line an exercise: notebook, exercise, result, points, mistake. CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["notebook", "exercise", "result", "points", "out_of", "mistake"])
        for name, graded in grades.items():
            if not graded.rows:
                writer.writerow([name, "", graded.note, 0, 0, ""])
            for row in graded.rows:
                writer.writerow([name, row.exercise, row.result, row.points, row.out_of, row.mistake])


def grade_cells(cells: list[str], title: str) -> Grade:
    """Grade the exercises that these cells define, and their lessons' others as missing."""
    found = statements(cells)
    rows = _judge_all(dict.fromkeys(wanted(found), found))
    return Grade(title, rows, "" if rows else "It defines no exercise of the course.")


def wanted(found: list[Statement]) -> list[str]:
    """The exercises for which a notebook is graded, in course order: all of a lesson of which it defines the half.

    A lesson's helper may be called like another lesson's exercise. Where no lesson is defined by half, the one that
    comes nearest counts; and where nothing is defined, what is borrowed or given to a variable.
    """
    known = course.exercises()
    names = {name for statement in found for name in statement.binds & known.keys()}
    every = Counter((e.week, e.lesson) for e in known.values())
    own = Counter((known[n].week, known[n].lesson) for n in names if any(defines(s, n) for s in found))
    part = {shelf: count / every[shelf] for shelf, count in own.items()}
    least = min(0.5, max(part.values(), default=0))
    return [
        e.name for e in known.values() if part.get((e.week, e.lesson), -1) >= least or (e.name in names and not part)
    ]


def defines(statement: Statement, name: str) -> bool:
    """Whether this is the function or class of that name."""
    return name in statement.binds and bool(
        re.search(rf"^(async def|def|class) {name}\b", statement.source, re.MULTILINE)
    )


def _grade_week(week: str) -> Grade:
    found: dict[Path, list[Statement]] = {}
    unreadable = []
    for exercise in course.exercises().values():
        path = course.lesson_notebook(exercise)
        if exercise.week == week and path not in found:
            try:
                found[path] = statements(notebook_cells(path))
            except NotebookError as error:
                found[path] = []
                unreadable.append(str(error))
    mine = {
        e.name: _or_saved(e, found[course.lesson_notebook(e)]) for e in course.exercises().values() if e.week == week
    }
    return Grade(f"your {week}", _judge_all(mine), " ".join(unreadable))


def _or_saved(exercise: course.Exercise, found: list[Statement]) -> list[Statement]:
    """Where a notebook does not answer an exercise, the answer that was saved when it passed.

    On Colab the learner's notebook is not on the disk; and a notebook can be lost.
    """
    answered, saved = candidates(found, exercise.name), answers.saved_path(exercise.name)
    open_still = not answered or answered[0].borrowed or is_open(answered[0])
    return statements([saved.read_text(encoding="utf-8")]) if open_still and saved.exists() else found


def _find_file(path: Path) -> Path:
    for candidate in (path, course.ROOT / path):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"There is no notebook {path} here or in the course's folder.")


def _judge_all(found_in: dict[str, list[Statement]]) -> list[Row]:
    """Rows in course order."""
    with Judge() as judge:
        jobs = [(name, candidates(found, name), secrets.randbelow(2**31)) for name, found in found_in.items()]
        return list(judge.rows(jobs))


def candidates(found: list[Statement], name: str) -> list[answers.Answer]:
    """What may be the answer, the likeliest first: of several definitions each stands for itself, the last one first.

    A later helper, variable or `borrow` of the same name does not hide an answer; what is still to do comes after it.
    """
    binders = [i for i, statement in enumerate(found) if name in statement.binds]
    taken: dict[str, tuple] = {}
    for last in reversed(binders):
        kept = [s for i, s in enumerate(found) if i == last or name not in s.binds] if len(binders) > 1 else found
        answer = answers.extract_from(kept, name, provided=course.exercises())
        order = (answer.borrowed, is_open(answer), not defines(found[last], name))
        taken.setdefault(answer.source, (order, answer))
    return [answer for _, answer in sorted(taken.values(), key=lambda entry: entry[0])][:MOST_CANDIDATES]


def is_open(answer: answers.Answer) -> bool:
    """Whether this is the skeleton, untouched at one place at least."""
    return f'NotImplementedError("{answer.name}: your code' in answer.source


Job = tuple[str, list[answers.Answer], int]  # exercise, what may be its answer, seed


class Judge:
    """Judges answers several at a time, and the same answer with the same seed only once.

    The sandbox's processes are watched by threads. What parses Python or computes stays in the caller's: the taking
    of answers, the import of checks, the comparison. `ast.parse` in two threads at once fails in Python 3.11.
    """

    def __init__(self, kept: MutableMapping[str, Row] | None = None):
        self.kept = {} if kept is None else kept
        self.running: dict[str, Future] = {}
        self.pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 2)

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *error) -> None:
        self.pool.shutdown(wait=not any(error), cancel_futures=True)

    def rows(self, jobs: list[Job]) -> Iterator[Row]:
        """A row for each job, in order: of the first answer that passes, or else of the first."""
        for name, answered, seed in jobs:
            find_check(name)
            for answer in answered[:1]:
                self._start(answer, seed)
        for name, answered, seed in jobs:
            row = self._row(name, answered[0] if answered else None, seed)
            for other in answered[1:]:
                if row.result == "passed" or other.borrowed or is_open(other):
                    break
                second = self._row(name, other, seed)
                row = second if second.result == "passed" else row
            yield row

    def _start(self, answer: answers.Answer, seed: int) -> str:
        key = _key(answer, seed)
        if not (key in self.kept or key in self.running or answer.borrowed or answer.missing):
            self.running[key] = self.pool.submit(judging.prepared(answer, seed))
        return key

    def _row(self, name: str, answer: answers.Answer | None, seed: int) -> Row:
        worth = find_check(name).difficulty
        if answer is None or answer.borrowed:
            return Row(name, "missing" if answer is None else "borrowed", "", 0, worth)
        if answer.missing:
            names = ", ".join(answer.missing)
            return Row(name, "error", f"It does not stand alone: no cell defines {names}.", 0, worth)
        key = self._start(answer, seed)
        if key not in self.kept:
            told = self.running.pop(key).result()
            result, mistake = judging.verdict(name, seed, told)
            points = worth if result == "passed" else 0
            self.kept[key] = Row(name, result, mistake, points, worth, round(told["seconds"], 2))
        return self.kept[key]


def _key(answer: answers.Answer, seed: int) -> str:
    """Two answers with the same key get the same grade."""
    told = [answer.name, answer.source, sorted(answer.provided), seed, judging.version(answer.name)]
    return hashlib.sha256(json.dumps(told).encode("utf-8", "surrogatepass")).hexdigest()
