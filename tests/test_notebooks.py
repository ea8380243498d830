"""Every lesson runs, solved, in its own kernel; untouched, it fails at its exercises; the graded notebook holds."""

import os
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from shared import build, cells, course
from shared.cli import card_lines, main, run_nbval

LESSONS = [path for week in course.weeks() for path in course.lessons(week) if path.stem != build.GRADED]
GRADED = [path for week in course.weeks() for path in course.lessons(week) if path.stem == build.GRADED]


@pytest.fixture
def threads(monkeypatch):
    """A lesson has its share of the machine: all of it, where no other test runs beside."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    monkeypatch.setenv("OMP_NUM_THREADS", str(max(1, os.cpu_count() // workers)))


def code_cells(notebook):
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def exercise_of(cell) -> str:
    """The exercise that a cell defines or checks, or "" where it does neither."""
    tags = cell.metadata.get("tags", [])
    if "check" in tags:
        return re.match(r"check\((\w+)\)", cell.source)[1]
    return next(iter(cells.statements([cell.source])[-1].binds)) if "exercise" in tags else ""


def first_open_then_solved(path):
    """The solved lesson in which each exercise is checked once before it is begun; and the numbers of those checks."""
    notebook, skeletons = build.build_notebook(path, solved=True), {}
    for _, cell in code_cells(build.build_notebook(path)):
        skeletons.setdefault(exercise_of(cell), []).append(cell)
    found, number, open_checks = [], 0, {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "exercise" in cell.metadata.get("tags", []):
            skeleton, check = skeletons[exercise_of(cell)]
            found += [nbformat.from_dict({**one, "id": f"open-{number}-{one.id}"}) for one in (skeleton, check)]
            open_checks[number + 1] = exercise_of(cell)
            number += 2
        number += cell.cell_type == "code"
        found.append(cell)
    notebook.cells = found
    return notebook, open_checks


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_tells_what_is_open_then_passes_solved_and_saves_and_describes(path, tmp_path, work, threads):
    notebook, open_checks = first_open_then_solved(path)
    notebook.cells[1:1] = [new_code_cell("from tests.figures import watch\nwatch()")]
    notebook.cells.append(new_code_cell("from tests.figures import verdict\nverdict()"))
    open_checks = {number + 1: name for number, name in open_checks.items()}
    target = tmp_path / f"{path.stem}.ipynb"
    target.write_text(build.text_of(notebook), encoding="utf-8")
    outcome = run_nbval(target)
    assert len(outcome) == len(code_cells(notebook))
    for number, name in open_checks.items():
        problem = outcome.pop(number)
        assert card_lines(problem, name)[0] == f"{name}: still to do.", problem
    problems = {number: text for number, text in outcome.items() if text}
    assert not problems, problems
    lesson = re.sub(r"^\d+_", "", path.stem)
    for exercise in course.exercises().values():
        if (exercise.week, exercise.lesson) == (path.parent.parent.name, lesson):
            assert (work / exercise.week / f"{exercise.name}.py").exists(), f"{exercise.name} was not saved"


@pytest.mark.parametrize("path", [week[0] for week in map(course.lessons, course.weeks())], ids=lambda p: p.stem)
def test_an_untouched_lesson_fails_just_where_it_waits_for_an_exercise(path, threads):
    notebook = build.build_notebook(path)
    waiting = cells.depends_on_exercises(notebook)
    outcome = run_nbval(path.parent.parent / f"{path.stem}.ipynb")
    for number, (index, cell) in enumerate(code_cells(notebook)):
        problem = outcome[number]
        if "check" in cell.metadata.get("tags", []):
            name = exercise_of(cell)
            assert card_lines(problem, name)[0] == f"{name}: still to do.", problem
        elif problem:
            assert index in waiting, f"cell {number} fails, but waits for no exercise:\n{cell.source}\n{problem}"


@pytest.mark.parametrize("path", GRADED, ids=lambda p: p.parent.parent.name)
def test_the_graded_notebook_gives_its_stored_outputs(path, threads):
    target = path.parent.parent / f"{path.stem}.ipynb"
    outcome = run_nbval(target, strict=True)
    assert outcome and not any(outcome.values()), {n: text for n, text in outcome.items() if text}


@pytest.mark.parametrize("path", GRADED, ids=lambda p: p.parent.parent.name)
def test_the_grader_has_passed_every_solution_of_the_graded_notebook(path):
    notebook = nbformat.read(path.parent.parent / f"{path.stem}.ipynb", as_version=nbformat.NO_CONVERT)
    ((_, cell),) = [(i, cell) for i, cell in code_cells(notebook) if cell.source == "grade()"]
    verdicts = dict(re.findall(r"^  \S (\w+) +(\w+)$", cell.outputs[0]["data"]["text/plain"], flags=re.MULTILINE))
    own = [name for name, exercise in course.exercises().items() if exercise.week == path.parent.parent.name]
    assert {name: verdicts.get(name) for name in own} == dict.fromkeys(own, "passed")


@pytest.mark.parametrize("path", GRADED[:1], ids=lambda p: p.parent.parent.name)
def test_the_graded_notebook_is_really_compared(path, tmp_path):
    """A stored output that is changed makes nbval fail, so the comparison does compare."""
    target = tmp_path / path.parent.parent.name / f"{path.stem}.ipynb"
    target.parent.mkdir()
    notebook = nbformat.read(path.parent.parent / f"{path.stem}.ipynb", as_version=nbformat.NO_CONVERT)
    numbers = [n for n, (_, cell) in enumerate(code_cells(notebook)) if any("text" in out for out in cell.outputs)]
    first = numbers[0]
    cell = code_cells(notebook)[first][1]
    cell.outputs[0]["text"] = "something else\n"
    end = code_cells(notebook)[first][0] + 1
    notebook.cells = notebook.cells[:end]
    target.write_text(build.text_of(notebook), encoding="utf-8")
    outcome = run_nbval(target, strict=True)
    assert [number for number, text in outcome.items() if text] == [first]


def test_sixweeks_check_tells_by_exercise(tmp_path, capsys, threads):
    path = next(p for p in LESSONS if p.stem == "02_attention")
    notebook = build.build_notebook(path, solved=True)
    last = next(i for i, cell in enumerate(notebook.cells) if cell.source == "check(attention)")
    notebook.cells = notebook.cells[: last + 1]
    for cell in notebook.cells:
        if cell.source.startswith("def attention("):
            cell.source = cell.source.replace(" / math.sqrt(q.shape[-1])", "")
    target = tmp_path / "02_attention.ipynb"
    target.write_text(build.text_of(notebook), encoding="utf-8")
    assert main(["check", str(target)]) == 1
    told = capsys.readouterr().out
    assert "✓ softmax" in told and "✗ attention" in told
    assert "not divided by √d_head" in told
    assert "Traceback" not in told and "\x1b" not in told


def test_sixweeks_check_of_nothing_is_refused(capsys):
    assert main(["check", "nowhere.ipynb"]) == 2
    assert "no notebook or week 'nowhere.ipynb'" in capsys.readouterr().err
