"""Grade a class: find whose each notebook is, judge all answers, keep what is judged, sum up."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import secrets
import tempfile
import zipfile
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shared import answers, course, similarity
from shared.cells import NotebookError, Statement, notebook_cells, statements
from shared.grading import Judge, Row, Scored, candidates, is_open, wanted

MOST_BYTES = 300_000_000  # a notebook with more is not read
# What platforms and browsers put into file names, beside the student's own.
_HIDDEN = re.compile(r"(^|/)(\.|__MACOSX)")
NOISE = re.compile(r"(?i)\b(late|copy of|copy|kopie von|kopie|final|submission|solution|solved|\d{3,}|\d)\b|\(\d+\)")


@dataclass
class Notebook:
    """A notebook that was handed in."""

    name: str
    found: list[Statement]
    problem: str = ""


@dataclass
class Student(Scored):
    """One student's notebooks and grades."""

    name: str
    notebooks: list[Notebook]
    rows: list[Row] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)  # exercise -> the answer's source, skeletons left out
    of: dict[str, str] = field(default_factory=dict)  # exercise -> the notebook that it stands in

    @property
    def problems(self) -> list[str]:
        return [notebook.problem for notebook in self.notebooks if notebook.problem]


@dataclass
class Class:
    """The grades of a class, with the seed that gives them again."""

    title: str
    seed: int
    students: list[Student]
    pairs: list[similarity.Pair]

    @property
    def exercises(self) -> list[str]:
        return [row.exercise for row in self.students[0].rows] if self.students else []

    @property
    def mistakes(self) -> list[tuple[str, str, list[str]]]:
        """(exercise, mistake, who made it), the most frequent first; those that one student made are no pattern."""
        made: dict[tuple[str, str], list[str]] = {}
        for student in self.students:
            for row in student.rows:
                if row.mistake and row.result == "failed":
                    made.setdefault((row.exercise, row.mistake), []).append(student.name)
        several = [(*what, who) for what, who in made.items() if len(who) > 1]
        order = self.exercises.index
        return sorted(several, key=lambda entry: (-len(entry[2]), order(entry[0]), entry[1]))


class Kept(MutableMapping):
    """Rows that were judged, in a file that grows by a line each: an interrupted run loses nothing."""

    def __init__(self, path: Path):
        self.path, self.rows, self.seed = path, {}, None
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                if "seed" in entry:
                    self.seed = int(entry["seed"])
                else:
                    self.rows[entry["key"]] = Row(**entry["row"])
            except (ValueError, TypeError, LookupError):  # cut short
                continue
        self._torn = bool(lines and lines[-1])

    def _write(self, entry: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._torn + json.dumps(entry) + "\n")
        self._torn = False

    def start(self, seed: int | None) -> int:
        """The seed of the class: the given one, or the one that is kept, or a fresh one. It is written down."""
        chosen = seed if seed is not None else self.seed if self.seed is not None else secrets.randbelow(2**31)
        if chosen != self.seed:
            self._write({"seed": chosen})
        self.seed = chosen
        return chosen

    def __setitem__(self, key: str, row: Row) -> None:
        self.rows[key] = row
        if row.result != "timeout":  # a busy machine may be to blame: the next run tries again
            self._write({"key": key, "row": asdict(row)})

    def __getitem__(self, key: str) -> Row:
        return self.rows[key]

    def __delitem__(self, key: str) -> None:
        del self.rows[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def grade_class(
    folder: Path, *, seed: int | None = None, kept: MutableMapping | None = None, say: Callable = lambda text: None
) -> Class:
    """Grade every notebook below a folder; a student's notebooks count together, the better answer of two."""
    students = find_students(folder)
    if isinstance(kept, Kept):
        seed = kept.start(seed)
    elif seed is None:
        seed = secrets.randbelow(2**31)
    asked: dict[str, None] = {}
    for student in students:
        for notebook in student.notebooks:
            asked |= dict.fromkeys(wanted(notebook.found))
    names = [name for name in course.exercises() if name in asked]
    seeds = {name: _seed(seed, name) for name in names}
    with Judge(kept) as judge:
        jobs = []
        for student in students:
            found = {name: _candidates(student, name) for name in names}
            jobs.append([(name, [answer for answer, _ in found[name]], seeds[name]) for name in names])
            student.of = {name: found[name][0][1] for name in names if found[name]}
            student.sources = {
                name: answer.source
                for name in names
                for answer, _ in found[name][:1]
                if not (answer.borrowed or is_open(answer))
            }
        rows = judge.rows([job for own in jobs for job in own])
        for number, student in enumerate(students, 1):
            student.rows = [next(rows) for _ in names]
            say(f"{number:4} of {len(students)}  {student.points:4} of {student.out_of}  {student.name}")
    own = {name: course.find(name).solution for name in names}
    return Class(folder.name, seed, students, similarity.pairs({s.name: s.sources for s in students}, own))


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4], "big") % 2**31


def _candidates(student: Student, name: str) -> list[tuple[answers.Answer, str]]:
    """What may be the student's answer, with the notebook that it stands in; the likeliest first."""
    found = [(a, notebook.name) for notebook in student.notebooks for a in candidates(notebook.found, name)]
    return sorted(found, key=lambda entry: (entry[0].borrowed, is_open(entry[0])))


def find_students(folder: Path) -> list[Student]:
    """Who handed in what, by folders and file names; in the order of the names."""
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder.")
    students: dict[str, Student] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, path in _files(folder, Path(temporary) / "notebook.ipynb"):
            who = student_of(name)
            students.setdefault(who.casefold(), Student(who, [])).notebooks.append(_read(name, path))
    return sorted(students.values(), key=lambda student: student.name.casefold())


def student_of(name: str) -> str:
    """Whose notebook this is: the folder's name, or what is left of the file's own.

    Example: late_12345_ada_lovelace.ipynb -> ada lovelace; ada/02_attention (1).ipynb -> ada
    """
    first, _, rest = name.partition("/")
    if rest:
        return first.removesuffix(".zip")
    stem = re.sub(r"\.(ipynb|zip)$", "", name, flags=re.I)
    lessons = sorted((course.lesson_notebook(e).stem for e in course.exercises().values()), key=len, reverse=True)
    text = re.sub("|".join(map(re.escape, dict.fromkeys(lessons))), " ", stem)
    text = NOISE.sub(" ", re.sub(r"[_\s.-]+", " ", text))
    return " ".join(text.split()) or stem


def _files(folder: Path, unpacked: Path) -> Iterator[tuple[str, Path]]:
    """(name below the folder, file) of every notebook; one from a zip archive lies in `unpacked` until the next."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if _HIDDEN.search(name) or path.suffix.lower() not in (".ipynb", ".zip") or not path.is_file():
            continue
        if path.suffix.lower() == ".ipynb":
            yield name, path
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                for member in sorted(archive.namelist()):
                    if member.lower().endswith(".ipynb") and not _HIDDEN.search(member):
                        with archive.open(member) as file:
                            unpacked.write_bytes(file.read(MOST_BYTES + 1))
                        yield f"{name}/{member}", unpacked
        except (OSError, RuntimeError, zipfile.BadZipFile, NotImplementedError):  # damaged, or with a password
            yield name, path  # it will be told that it cannot be read


def _read(name: str, path: Path) -> Notebook:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise NotebookError(f"{name} is larger than {MOST_BYTES // 10**6} MB: clear its outputs.")
        found = statements(notebook_cells(path))
    except (NotebookError, OSError, MemoryError) as error:
        return Notebook(name, [], str(error).replace(path.name, name, 1))
    return Notebook(name, found, "" if wanted(found) else f"{name} defines no exercise of the course.")


def write_csv(graded: Class, path: Path) -> None:
    """One line an exercise, and a total for each student."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["student", "notebook", "exercise", "result", "points", "out_of", "seconds", "mistake"])
        for student in graded.students:
            own = [
                [student.of.get(r.exercise, ""), r.exercise, r.result, r.points, r.out_of, r.seconds, r.mistake]
                for r in student.rows
            ]
            own += [[n.name, "", n.problem, 0, 0, "", ""] for n in student.notebooks if n.problem]
            seconds = round(sum(row.seconds for row in student.rows), 2)
            own.append(["", "total", "", student.points, student.out_of, seconds, ""])
            writer.writerows([_harmless(student.name), *map(_harmless, row)] for row in own)


def _harmless(cell: object) -> object:
    """A text that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def summary(graded: Class) -> str:
    """What the terminal shows at the end: totals, frequent mistakes, pairs."""
    lines = [f"{graded.title}: {len(graded.students)} students, seed {graded.seed}"]
    lines += [f"  {problem}" for student in graded.students for problem in student.problems]
    if graded.mistakes:
        lines.append("Frequent mistakes:")
    lines += [f"  {len(who):3} × {name}: {mistake}" for name, mistake, who in graded.mistakes[:10]]
    if graded.pairs:
        lines.append("Nearly the same syntax trees (a hint to look, no verdict):")
    for pair in graded.pairs[:10]:
        names = ", ".join(pair.exercises)
        lines.append(f"  {pair.first} and {pair.second}: {len(pair.exercises)} of {pair.compared}: {names}")
    return "\n".join(lines)
