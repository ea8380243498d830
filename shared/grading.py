"""Grade notebooks: find the answers by name, judge each alone in its own process, with fresh seeds."""

from __future__ import annotations

import csv
import html
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from shared import answers, course
from shared.cards import Card
from shared.cells import NotebookError, kernel_cells, notebook_cells, statements
from shared.checking import Check, find_check, run_check
from shared.guard import learner_traceback
from shared.limits import Limits
from shared.sandbox import call

SIGNS = {"passed": "✓", "failed": "✗", "error": "✗", "timeout": "✗", "todo": "○", "missing": "○", "borrowed": "○"}


@dataclass(frozen=True)
class Row:
    """The grade of one exercise."""

    exercise: str
    result: str  # passed, failed, error, timeout, memory, todo, missing, borrowed
    mistake: str = ""
    points: int = 0
    out_of: int = 0


@dataclass(repr=False)
class Grade(Card):
    """The grades of one notebook or week."""

    title: str
    rows: list[Row]
    note: str = ""
    seeds: dict[str, int] = field(default_factory=dict)

    @property
    def points(self) -> int:
        return sum(row.points for row in self.rows)

    @property
    def out_of(self) -> int:
        return sum(row.out_of for row in self.rows)

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


def grade_folder(folder: Path) -> dict[str, Grade]:
    """The grade of every notebook below a folder; one that cannot be read gets an empty grade and the reason."""
    grades = {}
    for path in sorted(folder.rglob("*.ipynb")):
        name = path.relative_to(folder).as_posix()
        if ".ipynb_checkpoints" in path.parts:
            continue
        try:
            grades[name] = grade_cells(notebook_cells(path), name)
        except NotebookError as error:
            grades[name] = Grade(name, [], str(error))
    return grades


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
    defined = {name for statement in statements(cells) for name in statement.binds}
    known = course.exercises()
    shelves = {(known[name].week, known[name].lesson) for name in defined & known.keys()}
    wanted = [e for e in known.values() if (e.week, e.lesson) in shelves]
    # An earlier lesson's answers are used in a later one: a lesson counts where one of its skeletons stood.
    wanted = [e for e in wanted if e.name in defined or _has_own(cells, e, known)]
    rows = _judge_all({e.name: cells for e in wanted})
    return Grade(title, rows, "" if rows else "It defines no exercise of the course.")


def _has_own(cells: list[str], exercise: course.Exercise, known: dict[str, course.Exercise]) -> bool:
    others = [e.name for e in known.values() if (e.week, e.lesson) == (exercise.week, exercise.lesson)]
    found = (answers.extract(cells, name) for name in others)
    return any(answer is not None and not answer.borrowed for answer in found)


def _grade_week(week: str) -> Grade:
    cells: dict[Path, list[str]] = {}
    unreadable = []
    for exercise in course.exercises().values():
        path = course.lesson_notebook(exercise)
        if exercise.week == week and path not in cells:
            try:
                cells[path] = notebook_cells(path)
            except NotebookError as error:
                cells[path] = []
                unreadable.append(str(error))
    mine = {
        e.name: _or_saved(e, cells[course.lesson_notebook(e)]) for e in course.exercises().values() if e.week == week
    }
    return Grade(f"your {week}", _judge_all(mine), " ".join(unreadable))


def _or_saved(exercise: course.Exercise, cells: list[str]) -> list[str]:
    """Where a notebook does not answer an exercise, the answer that was saved when it passed.

    On Colab the learner's notebook is not on the disk; and a notebook can be lost.
    """
    answer, saved = answers.extract(cells, exercise.name), answers.saved_path(exercise.name)
    open_still = (
        answer is None or answer.borrowed or f'NotImplementedError("{exercise.name}: your code' in answer.source
    )
    return [saved.read_text(encoding="utf-8")] if open_still and saved.exists() else cells


def _find_file(path: Path) -> Path:
    for candidate in (path, course.ROOT / path):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"There is no notebook {path} here or in the course's folder.")


def _judge_all(cells_of: dict[str, list[str]]) -> list[Row]:
    """Rows in course order, judged several at a time.

    What parses Python stays in this thread, taking out the answers and importing the checks (PyTorch parses what it
    scripts): `ast.parse` in two threads at once fails in Python 3.11.
    """
    known = list(course.exercises())
    taken = [(name, answers.extract(cells, name, provided=known)) for name, cells in cells_of.items()]
    jobs = [(name, answer, find_check(name)) for name, answer in taken]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        return list(pool.map(lambda job: _judge_one(*job), jobs))


def _judge_one(name: str, answer: answers.Answer | None, check: Check) -> Row:
    worth = check.difficulty
    if answer is None or answer.borrowed:
        return Row(name, "missing" if answer is None else "borrowed", "", 0, worth)
    if answer.missing:
        names = ", ".join(answer.missing)
        return Row(name, "error", f"It does not stand alone: no cell defines {names}.", 0, worth)
    outcome = call(
        judge,
        name,
        answer.source,
        sorted(answer.provided),
        secrets.randbelow(2**31),
        limits=Limits(seconds=2 * check.seconds + 10),
        preload=("torch", "einops", "jaxtyping", *_check_modules()),
    )
    if not outcome.passed:
        why = "timeout" if outcome.status == "timeout" else "error"
        return Row(name, why, outcome.error or outcome.status, 0, worth)
    status, mistake = outcome.value
    return Row(name, status, mistake, worth if status == "passed" else 0, worth)


def _check_modules() -> tuple[str, ...]:
    shelves = dict.fromkeys((e.week, e.lesson) for e in course.exercises().values())
    return tuple(f"{week}.checks.{lesson}" for week, lesson in shelves)


def judge(name: str, source: str, provided: list[str], seed: int) -> tuple[str, str]:
    """Run one check on the source of one answer: (status, mistake or first difference). Called in the sandbox."""
    try:
        given = {other: course.reference(other) for other in provided}
        answer = answers.load(answers.Answer(name, source, frozenset(provided)), given)
    except Exception as error:
        return "error", learner_traceback(error).splitlines()[-1]
    result = run_check(name, answer, seed=seed)
    if result.passed or result.status == "todo":
        return result.status, ""
    if result.mistake:
        return result.status, result.mistake
    if result.error:
        return result.status, result.error.splitlines()[-1]
    if result.status == "timeout":
        return result.status, ""
    _, _, difference = result.differing[0]
    return result.status, f"{result.observation}: {difference.text}"
