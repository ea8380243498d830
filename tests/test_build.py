"""Sources to notebooks: the same bytes every time, and faults refused with file and line."""

import re
import shutil

import nbformat
import pytest

from shared import build, cells, course
from shared.course import Exercise, SourceError

LESSON = course.ROOT / "week1_decoder" / "lessons" / "02_attention.py"


def test_all_notebooks_are_up_to_date():
    assert build.main(["--check"]) == 0


def test_a_build_is_the_same_byte_for_byte():
    assert build.text_of(build.build_notebook(LESSON)) == build.text_of(build.build_notebook(LESSON))


@pytest.mark.parametrize("path", [p for week in course.weeks() for p in course.lessons(week)], ids=lambda p: p.stem)
def test_every_notebook_is_valid_named_and_light(path):
    target = path.parent.parent / f"{path.stem}.ipynb"
    notebook = nbformat.read(target, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert f"lessons/{path.name}" in notebook.cells[0].source
    assert build.repository().split("github.com/")[1] in notebook.cells[0].source
    assert notebook.metadata.colab.gpuType == "T4" and "widgets" not in notebook.metadata
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert target.stat().st_size < 1_000_000


def test_a_cell_keeps_its_id_when_its_neighbours_change(tmp_path):
    before = {cell.source: cell.id for cell in build.build_notebook(LESSON).cells}
    root = copy_of_course(tmp_path)
    lesson = root / LESSON.relative_to(course.ROOT)
    lesson.write_text(lesson.read_text().replace("# ## Several heads", "# ## Many heads"))
    after = {cell.source: cell.id for cell in build.build_notebook(lesson, root=root).cells}
    same = before.keys() & after.keys()
    assert len(same) == len(before) - 1
    assert all(before[source] == after[source] for source in same)


def test_a_lesson_holds_skeletons_and_no_answer():
    text = build.text_of(build.build_notebook(LESSON))
    assert 'raise NotImplementedError(\\"attention: your code, about 5 lines\\")' in text
    for exercise in course.exercises().values():
        if exercise.lesson == "attention":
            assert exercise.solution not in text
    assert "SOLUTION" not in text


def test_a_solved_lesson_holds_the_solutions():
    sources = [cell.source for cell in build.build_notebook(LESSON, solved=True).cells]
    assert course.find("attention").solution in sources
    assert not any("SOLUTION" in source for source in sources)


def test_cells_that_wait_for_exercises_are_known_by_name():
    notebook = nbformat.v4.new_notebook()
    tagged = {"metadata": {"tags": ["exercise"]}}
    for source, extra in [
        ("def f(x):\n    raise NotImplementedError", tagged),
        ("import math", {}),
        ("def uses_f(x):\n    return f(x)", {}),
        ("y = uses_f(1)", {}),
        ("print(y)", {}),
        ("z = math.pi", {}),
    ]:
        notebook.cells.append(nbformat.v4.new_code_cell(source, **extra))
    assert cells.depends_on_exercises(notebook) == {3, 4}


def test_the_second_cell_is_the_bootstrap_folded_away_and_it_does_nothing_here():
    notebook = build.build_notebook(LESSON)
    (place,) = [i for i, c in enumerate(notebook.cells) if "bootstrap" in c.metadata.get("tags", [])]
    assert [cell.cell_type for cell in notebook.cells[:place]] == ["markdown", "markdown"]
    cell = notebook.cells[place]
    assert cell.metadata["cellView"] == "form" and cell.metadata["jupyter"] == {"source_hidden": True}
    exec(compile(cell.source, "<bootstrap>", "exec"), {})


# Faults in the sources


def copy_of_course(tmp_path):
    root = tmp_path / "course"
    for week in course.weeks():
        shutil.copytree(course.ROOT / week, root / week, ignore=shutil.ignore_patterns("*.ipynb", "__pycache__"))
    shutil.copy(course.ROOT / "pyproject.toml", root)
    return root


@pytest.fixture
def tree(tmp_path):
    course.forget_exercises()
    yield copy_of_course(tmp_path)
    course.forget_exercises()


def test_begin_without_end_is_refused(tree):
    path = tree / "week1_decoder" / "solutions" / "attention.py"
    path.write_text(path.read_text().replace("    # END SOLUTION\n", "", 1))
    with pytest.raises(SourceError, match=r"attention\.py:\d+: # BEGIN SOLUTION without # END SOLUTION"):
        course.exercises(tree)


def test_end_without_begin_is_refused(tree):
    path = tree / "week1_decoder" / "solutions" / "attention.py"
    path.write_text(path.read_text().replace("    # BEGIN SOLUTION\n", "", 1))
    with pytest.raises(SourceError, match=r"attention\.py:\d+: # END SOLUTION without # BEGIN SOLUTION"):
        course.exercises(tree)


def test_two_exercises_with_one_name_are_refused(tree):
    path = tree / "week1_decoder" / "solutions" / "twin.py"
    path.write_text("def softmax(x):\n    # BEGIN SOLUTION\n    return x\n    # END SOLUTION\n")
    with pytest.raises(SourceError, match=r"twin\.py:1: the exercise 'softmax' exists already in attention\.py:\d+"):
        course.exercises(tree)


def test_a_solutions_file_that_is_no_python_is_refused(tree):
    path = tree / "week1_decoder" / "solutions" / "attention.py"
    path.write_text("def (:\n")
    with pytest.raises(SourceError, match=r"attention\.py:1: this is not valid Python"):
        course.exercises(tree)


@pytest.mark.parametrize(
    ("tag", "line", "words"),
    [
        ("exercise", "from week1_decoder.solutions.attention import atention", "defines no 'atention'"),
        ("exercise", "from week1_decoder.solutions.attention import math", "defines no 'math'"),
        ("exercise", "import torch", "a cell tagged `exercise` holds one line"),
        ("given", "x = 1", "a cell tagged `given` holds one line"),
        ("exercise", "from week1_decoder.solutions.decoder import GPTConfig", "it is not an exercise"),
    ],
)
def test_a_wrong_exercise_cell_is_refused(tree, tag, line, words):
    path = tree / "week1_decoder" / "lessons" / "02_attention.py"
    path.write_text(f'# %% [markdown]\n# # Title\n\n# %% tags=["{tag}"]\n{line}\n')
    with pytest.raises(SourceError, match=rf"02_attention\.py:5: .*{re.escape(words)}"):
        build.build_notebook(path, root=tree)


def test_a_skeleton_whose_signature_uses_an_unknown_name_is_refused(tree):
    path = tree / "week1_decoder" / "lessons" / "02_attention.py"
    path.write_text(
        '# %% [markdown]\n# # Title\n\n# %% tags=["exercise"]\nfrom week1_decoder.solutions.attention import softmax\n'
    )
    with pytest.raises(SourceError, match="uses Float, Tensor, which no earlier cell imports"):
        build.build_notebook(path, root=tree)


@pytest.mark.parametrize(("old", "count"), [("not in the source", 0), ("scores", 4)])
def test_an_edit_that_matches_nothing_or_twice_is_refused(old, count):
    with pytest.raises(SourceError, match=rf"attention\.py:\d+: an edit .* matches {count} times, not once"):
        course.edited_source(course.find("attention"), (old, "x"))


def test_an_edit_of_a_check_is_refused_with_the_checks_line(monkeypatch):
    from shared.checking import find_check

    check = find_check("attention")
    sentence = next(iter(check.mistakes))
    monkeypatch.setitem(check.mistakes, sentence, ("drifted away", ""))
    with pytest.raises(SourceError, match=r"checks/attention\.py:\d+: an edit of a known mistake"):
        build.validate()


def test_stale_missing_and_unexecuted_notebooks_are_named(tmp_path, tree):
    lesson = tree / "week1_decoder" / "lessons" / "02_attention.py"
    assert build.stale(lesson, root=tree) == "is missing"
    target = tree / "week1_decoder" / "02_attention.ipynb"
    target.write_text(build.text_of(build.build_notebook(lesson, root=tree)))
    assert build.stale(lesson, root=tree) is None
    target.write_text(target.read_text().replace("soft look-up", "hard look-up"))
    assert build.stale(lesson, root=tree) == "is stale"
    graded = tree / "week1_decoder" / "lessons" / "graded_solution.py"
    target = tree / "week1_decoder" / "graded_solution.ipynb"
    target.write_text(build.text_of(build.build_notebook(graded, root=tree)))
    assert build.stale(graded, root=tree) == "is not executed"


def test_the_edits_are_made_in_the_exercise_first():
    exercise = course.find("attention")
    assert isinstance(exercise, Exercise)
    text = course.edited_source(exercise, (" / math.sqrt(q.shape[-1])", ""))
    assert text.count("math.sqrt(q.shape[-1])") == exercise.path.read_text().count("math.sqrt(q.shape[-1])") - 1
