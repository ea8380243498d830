"""The grades of a class as one HTML file: a table, what many got wrong, pairs to look at, and a page a student."""

from __future__ import annotations

import html
from pathlib import Path

from shared import course
from shared.classroom import Class, Student
from shared.grading import SIGNS, Row

WORDS = {
    "passed": "right",
    "failed": "wrong",
    "error": "error",
    "timeout": "too slow",
    "memory": "too much memory",
    "todo": "open",
    "missing": "missing",
    "borrowed": "borrowed",
}

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --page: #fff; --line: #c4c4c4; --soft: #f1f1f1;
  --right: #0b5d33; --wrong: #a11212; --open: #595959; }
@media (prefers-color-scheme: dark) { :root { --text: #eaeaea; --page: #16181b; --line: #4a4d52; --soft: #24272b;
  --right: #7fd6a2; --wrong: #ff9c92; --open: #b0b3b8; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 2rem auto;
  padding: 0 1rem; max-width: 75rem; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 2.5rem; }
a { color: inherit; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; color: var(--open); padding-bottom: .4rem; }
th, td { border: 1px solid var(--line); padding: .25rem .5rem; text-align: left; vertical-align: top; }
thead th { background: var(--soft); }
.all td, .all tbody th { white-space: nowrap; }
.all thead th.name { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; vertical-align: bottom;
  font-weight: normal; padding: .5rem .2rem; white-space: nowrap; }
.all tbody th { position: sticky; left: 0; background: var(--page); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.passed { color: var(--right); } .failed, .error, .timeout, .memory { color: var(--wrong); }
.todo, .missing, .borrowed { color: var(--open); }
.all td.result { text-align: center; font-size: .8rem; line-height: 1.1; padding: .2rem .3rem; }
.all td.result b { display: block; font-size: 1.1rem; }
@media print {
  :root { --text: #000; --page: #fff; --line: #888; --soft: #eee; --right: #000; --wrong: #000; --open: #444; }
  body { font-size: 10pt; margin: 0; max-width: none; }
  .wide { overflow: visible; } .all { font-size: 7pt; } .all td.result { font-size: 6pt; padding: 1pt; }
  section.student { break-before: page; } tr { break-inside: avoid; } nav { display: none; }
}
"""


def write_html(graded: Class, path: Path) -> None:
    """One file that needs no other: to read, to print, to give back page by page."""
    path.write_text(page(graded), encoding="utf-8")


def page(graded: Class) -> str:
    """The whole document."""
    title = html.escape(f"Grades: {graded.title}")
    parts = [_overview(graded), _mistakes(graded), _pairs(graded)]
    parts += [_student(student, number) for number, student in enumerate(graded.students)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _cell(row: Row) -> str:
    sign, word = SIGNS.get(row.result, "✗"), WORDS.get(row.result, row.result)
    return f'<td class="result {html.escape(row.result)}"><b aria-hidden="true">{sign}</b>{html.escape(word)}</td>'


def _overview(graded: Class) -> str:
    names = graded.exercises
    known = course.exercises()
    lessons: dict[tuple[str, str], int] = {}
    for name in names:
        shelf = (known[name].week, known[name].lesson)
        lessons[shelf] = lessons.get(shelf, 0) + 1
    above = "".join(
        f'<th scope="colgroup" colspan="{count}">{html.escape(f"{week}: {lesson}".replace("_", " "))}</th>'
        for (week, lesson), count in lessons.items()
    )
    heads = "".join(f'<th scope="col" class="name">{html.escape(name)}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row"><a href="#s{i}">{html.escape(student.name)}</a></th>'
        f'<td class="number">{student.points} of {student.out_of}</td>{"".join(map(_cell, student.rows))}</tr>\n'
        for i, student in enumerate(graded.students)
    )
    right = [sum(student.rows[i].result == "passed" for student in graded.students) for i in range(len(names))]
    foot = "".join(f'<td class="number">{count}</td>' for count in right)
    students = "1 student" if len(graded.students) == 1 else f"{len(graded.students)} students"
    return (
        f"<p>{students}, {len(names)} exercises. Seed {graded.seed}: "
        "with it the same notebooks get the same grades.</p>\n"
        '<div class="wide" role="region" aria-label="All grades" tabindex="0"><table class="all">'
        "<caption>✓ right, ✗ wrong, ○ not done. A name leads to the student’s page.</caption>"
        f'<thead><tr><th rowspan="2" scope="col">student</th><th rowspan="2" scope="col">points</th>{above}</tr>'
        f"<tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody>"
        f'<tfoot><tr><th scope="row" colspan="2">right answers</th>{foot}</tr></tfoot></table></div>'
    )


def _mistakes(graded: Class) -> str:
    if not graded.mistakes:
        return ""
    rows = "".join(
        f'<tr><td class="number">{len(who)}</td><td><code>{html.escape(name)}</code></td>'
        f"<td>{html.escape(mistake)}</td><td>{html.escape(', '.join(who))}</td></tr>\n"
        for name, mistake, who in graded.mistakes
    )
    return _table("What several got wrong", ("students", "exercise", "mistake", "who"), rows)


def _pairs(graded: Class) -> str:
    if not graded.pairs:
        return ""
    rows = ""
    for pair in graded.pairs:
        which = ", ".join(f"{html.escape(name)} ({100 * share:.0f} %)" for name, share in pair.exercises.items())
        rows += (
            f"<tr><td>{html.escape(pair.first)}</td><td>{html.escape(pair.second)}</td>"
            f'<td class="number">{len(pair.exercises)} of {pair.compared}</td><td>{which}</td></tr>\n'
        )
    note = (
        "The syntax trees agree when names, comments and formatting are left out; the course’s own solutions, short "
        "answers and what many wrote are not counted. Two who learnt together can look like this. It is a hint to "
        "look, and no verdict."
    )
    return _table("Nearly the same answers", ("", "", "exercises", "which"), rows, note)


def _table(title: str, heads: tuple[str, ...], rows: str, note: str = "") -> str:
    head = "".join(f'<th scope="col">{name}</th>' if name else "<th></th>" for name in heads)
    note = f"<p>{note}</p>" if note else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>"
    return f'<h2>{title}</h2>{note}\n<div class="wide">{table}</div>'


def _student(student: Student, number: int) -> str:
    rows = "".join(
        f"<tr>{_cell(row)}<td><code>{html.escape(row.exercise)}</code></td>"
        f'<td class="number">{row.points} of {row.out_of}</td><td>{html.escape(row.mistake)}</td>'
        f'<td class="number">{f"{row.seconds:.2f} s" if row.seconds else ""}</td></tr>\n'
        for row in student.rows
    )
    problems = "".join(f"<p>{html.escape(problem)}</p>" for problem in student.problems)
    files = html.escape(", ".join(notebook.name for notebook in student.notebooks))
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("result", "exercise", "points", "what is wrong", "time")
    )
    return (
        f'<section class="student" id="s{number}" aria-labelledby="h{number}">'
        f'<h2 id="h{number}">{html.escape(student.name)}: {student.points} of {student.out_of} points</h2>'
        f"<p>Handed in: {files}</p>{problems}\n"
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table></div></section>'
    )
