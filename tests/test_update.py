"""An update loses nothing: answers, notes and cells of the learner are there afterwards, or nothing has changed."""

import copy
import os
import random
import shutil
import subprocess
import types
from pathlib import Path

import nbformat
import pytest

from shared import answers, build, clone, course
from shared import update as updating
from shared.clone import UpdateError
from shared.merging import HEADING, Merger, Mine
from shared.notebooks import id_of
from shared.update import restore, update

WEEK = "week1_tiny"
FIRST, SECOND = f"{WEEK}/01_first.ipynb", f"{WEEK}/02_second.ipynb"

SOLUTIONS = """\
def double(x):
    \"\"\"Twice x.\"\"\"
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION


def triple(x):
    \"\"\"Three times x.\"\"\"
    # BEGIN SOLUTION
    return 3 * x
    # END SOLUTION
"""

LESSON = """\
# %% [markdown]
# # First

# %%
import math

# %% [markdown]
# ## Doubling

# %% tags=["exercise"]
from week1_tiny.solutions.first import double

# %%
print(double(21))

# %% [markdown]
# ## Tripling

# %% tags=["exercise"]
from week1_tiny.solutions.first import triple

# %%
print(math.pi)

# %% [markdown]
# The end.
"""

MY_DOUBLE = "def double(x):\n    return x + x"
MY_TRIPLE = "def triple(x):\n    return x + x + x"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Exercises without checks, git without the machine's settings, and the work folder inside the course."""
    card = types.SimpleNamespace(difficulty=1, minutes=5, hints=("one", "two", "three"))
    monkeypatch.setattr(build, "find_check", lambda name: types.SimpleNamespace(name=name, **vars(card)))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ada@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.delenv("SIXWEEKS_WORK")
    yield
    course.forget_exercises()


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout


def make(root: Path, lessons: dict[str, str] | None = None, solutions: dict[str, str] | None = None) -> Path:
    """Write a course of one week from its sources, its notebooks by the course's own build."""
    for path in (*root.glob(f"{WEEK}/*/*.py"), *root.glob(f"{WEEK}/*.ipynb")):
        path.unlink()
    files = {"pyproject.toml": '[project.urls]\nRepository = "https://github.com/ada/tiny"\n', ".gitignore": "/work/\n"}
    files |= {f"{WEEK}/lessons/{name}.py": text for name, text in (lessons or {"01_first": LESSON}).items()}
    files |= {f"{WEEK}/solutions/{name}.py": text for name, text in (solutions or {"first": SOLUTIONS}).items()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for lesson in course.lessons(WEEK, root):
        (root / WEEK / f"{lesson.stem}.ipynb").write_text(build.text_of(build.build_notebook(lesson, root=root)))
    return root


class Published:
    """An origin, the author's clone of it, and the learner's."""

    def __init__(self, folder: Path):
        git(folder, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
        git(folder, "clone", "--quiet", folder / "origin.git", "author")
        self.author = folder / "author"
        self.publish()
        git(folder, "clone", "--quiet", folder / "origin.git", "course")
        self.learner = folder / "course"

    def publish(self, lessons=None, solutions=None, **files) -> None:
        make(self.author, lessons, solutions)
        for name, text in files.items():
            (self.author / name).write_text(text)
        git(self.author, "add", "--all")
        git(self.author, "commit", "--quiet", "--allow-empty", "-m", "a version")
        git(self.author, "push", "--quiet", "origin", "HEAD:main")


@pytest.fixture
def clones(tmp_path):
    return Published(tmp_path)


class Notebook:
    """A lesson as the learner edits and saves it in JupyterLab: ids stay, outputs appear."""

    def __init__(self, root: Path, name: str = FIRST):
        self.path = root / name
        self.content = nbformat.read(self.path, as_version=4)

    def find(self, text: str) -> int:
        return next(i for i, cell in enumerate(self.content.cells) if text in cell.source)

    def type(self, text: str, new: str) -> "Notebook":
        """Replace the content of the cell that holds a text."""
        self.content.cells[self.find(text)].source = new
        return self

    def add(self, after: str, source: str, kind: str = "code") -> "Notebook":
        cell = nbformat.v4.new_code_cell(source) if kind == "code" else nbformat.v4.new_markdown_cell(source)
        self.content.cells.insert(self.find(after) + 1, cell)
        return self

    def remove(self, text: str) -> "Notebook":
        del self.content.cells[self.find(text)]
        return self

    def save(self) -> None:
        for cell in self.content.cells:
            if cell.cell_type == "code":
                cell.execution_count = 7
                cell.outputs = [nbformat.v4.new_output("stream", text="something\n")]
        self.content.metadata["language_info"]["version"] = "3.12.0"
        nbformat.write(self.content, self.path)


def sources(root: Path, name: str = FIRST) -> list[str]:
    notebook = nbformat.read(root / name, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    return [cell.source for cell in notebook.cells]


def after(text: str, root: Path, name: str = FIRST) -> str:
    """The cell behind the one that holds a text."""
    cells = sources(root, name)
    return cells[next(i for i, source in enumerate(cells) if text in source) + 1]


def everything(root: Path) -> dict[str, bytes]:
    """All files but git's own."""
    found = (path for path in root.rglob("*") if path.is_file() and ".git" not in path.relative_to(root).parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def is_settled(root: Path, **options) -> bool:
    """Whether restoring again changes nothing."""
    before = everything(root)
    report = restore(root=root, **options)
    return everything(root) == before and "Nothing to put back" in str(report)


NEW_LESSON = LESSON.replace("## Doubling", "## Twice as much").replace("The end.", "The end of it.")


# Answers, notes and cells


def test_answers_notes_and_cells_are_in_the_new_version(clones):
    book = Notebook(clones.learner).type("def double", MY_DOUBLE).type("def triple", MY_TRIPLE)
    book.add("print(double(21))", "double(4)").add("double(4)", "My note: it works.", "markdown").save()
    clones.publish({"01_first": NEW_LESSON})
    report = str(update(clones.learner))
    got = sources(clones.learner)
    assert MY_DOUBLE in got and MY_TRIPLE in got and "## Twice as much" in got and "The end of it." in got
    assert got[got.index("print(double(21))") :][:3] == ["print(double(21))", "double(4)", "My note: it works."]
    assert len(got) == len(sources(clones.author)) + 2
    assert f"{FIRST}: answers put back: double, triple; cells of yours kept: 2" in report
    assert git(clones.learner, "rev-parse", "HEAD") == git(clones.author, "rev-parse", "HEAD")
    assert is_settled(clones.learner)


def test_all_but_the_learners_cells_is_byte_for_byte_what_the_build_writes(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).add("print(math.pi)", "my_cell = 1").save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    text, published = (clones.learner / FIRST).read_text(), (clones.author / FIRST).read_text()
    assert "something" not in text and '"execution_count": 7' not in text
    notebook = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
    notebook.cells = [cell for cell in notebook.cells if cell.source != "my_cell = 1"]
    next(c for c in notebook.cells if c.source == MY_DOUBLE).source = next(
        source for source in sources(clones.author) if "def double" in source
    )
    assert build.text_of(notebook) == published


def test_a_notebook_that_was_only_run_is_the_published_one_again(clones):
    Notebook(clones.learner).save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    assert (clones.learner / FIRST).read_bytes() == (clones.author / FIRST).read_bytes()


def test_a_second_update_moves_everything_on(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).type("print(math.pi)", "print(math.e)").save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    first = sources(clones.learner)
    clones.publish({"01_first": NEW_LESSON.replace("Tripling", "Three times")})
    update(clones.learner)
    assert sources(clones.learner) == [source.replace("Tripling", "Three times") for source in first]


def test_a_changed_experiment_is_kept_beside_the_new_version(clones):
    Notebook(clones.learner).type("print(math.pi)", "print(math.e)").save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    assert after("print(math.pi)", clones.learner) == (
        "# Kept from before: your version of the cell above.\nprint(math.e)"
    )
    assert is_settled(clones.learner)


def test_an_experiment_that_both_changed_is_kept_behind_the_new_one(clones):
    Notebook(clones.learner).type("print(math.pi)", "print(math.e)").save()
    clones.publish({"01_first": LESSON.replace("print(math.pi)", "print(math.tau)")})
    update(clones.learner)
    assert after("print(math.tau)", clones.learner).endswith("print(math.e)")
    assert "print(math.pi)" not in sources(clones.learner)
    assert is_settled(clones.learner)


def test_a_note_in_the_lessons_text_is_kept_below_the_new_text(clones):
    Notebook(clones.learner).type("The end.", "The end. I expect 42.").save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    *_, new, mine = sources(clones.learner)
    assert new == "The end of it." and mine.endswith("\n\nThe end. I expect 42.") and "Kept from before" in mine


def test_a_cell_in_front_of_the_magic_line_keeps_its_magic(clones):
    Notebook(clones.learner).type("print(math.pi)", "%%time\nprint(math.e)").save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    assert after("print(math.pi)", clones.learner).startswith("%%time\n")


def test_extra_cells_find_their_place_by_the_nearest_neighbour_that_is_left(clones):
    book = Notebook(clones.learner).add("## Tripling", "near_the_end = 1").add("near_the_end", "and_one_more = 2")
    book.add("# First", "at_the_top = 0").save()
    clones.publish({"01_first": LESSON.replace("# ## Tripling\n", "# ## Another title\n")})
    update(clones.learner)
    got = sources(clones.learner)
    assert got[got.index("print(double(21))") :][1:3] == ["near_the_end = 1", "and_one_more = 2"]
    assert after("# First", clones.learner) == "at_the_top = 0"
    assert is_settled(clones.learner)


def test_equal_cells_in_two_places_stay_two(clones):
    book = Notebook(clones.learner).add("print(double(21))", "progress()").add("progress()", "progress()")
    book.add("print(math.pi)", "progress()").save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    assert sources(clones.learner).count("progress()") == 3
    assert after("print(math.pi)", clones.learner) == "progress()"
    assert is_settled(clones.learner)
    Notebook(clones.learner).remove("progress()").save()
    restore(root=clones.learner)
    assert sources(clones.learner).count("progress()") == 3


def test_an_extra_cell_without_a_neighbour_goes_under_a_heading_at_the_end(clones):
    book = Notebook(clones.learner)
    book.content.cells.insert(0, nbformat.v4.new_code_cell("above_everything = 1"))
    book.save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    *_, end, heading, mine = sources(clones.learner)
    assert end == "The end of it." and heading.startswith(HEADING) and mine == "above_everything = 1"
    assert is_settled(clones.learner)
    clones.publish({"01_first": LESSON})
    update(clones.learner)
    *_, end, heading, mine = sources(clones.learner)
    assert end == "The end." and heading.startswith(HEADING) and mine == "above_everything = 1"


def test_a_half_typed_answer_is_put_back_as_it_was(clones):
    Notebook(clones.learner).type("def double", "def double(x):\n    return 2 * (x").save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    assert "def double(x):\n    return 2 * (x" in sources(clones.learner)


def test_helpers_in_the_answers_cell_come_along_and_borrowed_answers_are_no_answers(clones):
    mine = "import operator\n\ndef helper(x):\n    return operator.add(x, x)\n\n" + MY_DOUBLE
    book = Notebook(clones.learner).type("def double", mine)
    book.add("def triple", 'triple = borrow("triple")').save()
    clones.publish({"01_first": NEW_LESSON})
    report = str(update(clones.learner))
    assert mine in sources(clones.learner) and "answers put back: double;" in report
    assert after("def triple", clones.learner) == 'triple = borrow("triple")'


def test_cells_are_told_apart_by_their_text_where_a_program_gave_all_new_ids(clones):
    book = Notebook(clones.learner).type("def double", MY_DOUBLE).add("print(math.pi)", "my_cell = 1")
    for number, cell in enumerate(book.content.cells):
        cell["id"] = f"colab{number}"
    book.save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    got = sources(clones.learner)
    assert MY_DOUBLE in got and "my_cell = 1" in got
    assert len(got) == len(sources(clones.author)) + 1


# Exercises that the course changed


def test_an_exercise_whose_signature_changed_gets_the_new_skeleton_and_the_old_answer_below(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).save()
    clones.publish(solutions={"first": SOLUTIONS.replace("def double(x)", "def double(x, times=2)")})
    report = str(update(clones.learner))
    got = sources(clones.learner)
    (skeleton,) = [i for i, source in enumerate(got) if source.startswith("def double")]
    assert "def double(x, times=2)" in got[skeleton] and "NotImplementedError" in got[skeleton]
    assert "# Your answer before the update: double" in got[skeleton + 1]
    assert got[skeleton + 1].endswith("# def double(x):\n#     return x + x")
    assert "conflicts kept beside: double (its signature changed)" in report
    assert is_settled(clones.learner)


def test_a_new_docstring_or_annotation_is_no_conflict(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).save()
    solutions = SOLUTIONS.replace("Twice x.", "Two x.").replace("def double(x)", "def double(x: float) -> float")
    clones.publish(solutions={"first": solutions})
    update(clones.learner)
    assert MY_DOUBLE in sources(clones.learner)


def test_an_answer_called_differently_by_the_learner_is_put_back_while_the_course_calls_it_as_before(clones):
    mine = "def double(number):\n    return 2 * number"
    Notebook(clones.learner).type("def double", mine).save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    assert mine in sources(clones.learner)


def test_methods_of_a_class_are_part_of_its_signature(clones):
    solutions = (
        "class Counter:\n    def __init__(self, start):\n        # BEGIN SOLUTION\n        self.n = start\n"
        "        # END SOLUTION\n\n    def add(self, k):\n        # BEGIN SOLUTION\n        self.n += k\n"
        "        # END SOLUTION\n"
    )
    lesson = LESSON.split("# %% [markdown]\n# ## Doubling")[0] + (
        '# %% tags=["exercise"]\nfrom week1_tiny.solutions.first import Counter\n'
    )
    clones.publish({"01_first": lesson}, {"first": solutions})
    git(clones.learner, "pull", "--quiet", "--ff-only")
    mine = solutions.replace("        # BEGIN SOLUTION\n", "").replace("        # END SOLUTION\n", "").strip()
    Notebook(clones.learner).type("class Counter", mine).save()
    clones.publish({"01_first": lesson + "\n# %%\n1 + 1\n"}, {"first": solutions})
    update(clones.learner)
    assert mine in sources(clones.learner)
    clones.publish({"01_first": lesson}, {"first": solutions.replace("add(self, k)", "add(self, k, twice=False)")})
    assert "Counter (its signature changed)" in str(update(clones.learner))


def test_reordered_exercises_get_their_answers_by_name(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).type("def triple", MY_TRIPLE).save()
    head, double, triple = (LESSON.split("# %% [markdown]\n# ## ")[i] for i in range(3))
    triple, end = triple.split("# %%\nprint(math.pi)")
    mark = "# %% [markdown]\n# ## "
    clones.publish({"01_first": f"{head}{mark}{triple}{mark}{double}# %%\nprint(math.pi){end}"})
    update(clones.learner)
    got = sources(clones.learner)
    assert got.index(MY_TRIPLE) < got.index(MY_DOUBLE)
    assert got[got.index(MY_DOUBLE) + 1] == "check(double)"
    assert is_settled(clones.learner)


def split_in_two(clones):
    first, second = LESSON.split("# %% [markdown]\n# ## Tripling")
    second = f"# %% [markdown]\n# # Second\n\n# %% [markdown]\n# ## Tripling{second.replace('.first', '.second')}"
    double, triple = SOLUTIONS.split("\n\n\n")
    clones.publish({"01_first": first, "02_second": second}, {"first": f"{double}\n", "second": triple})


def test_a_split_lesson_gets_answers_and_cells_in_both_parts(clones):
    book = Notebook(clones.learner).type("def double", MY_DOUBLE).type("def triple", MY_TRIPLE)
    book.add("def triple", "triple(1)").add("print(math.pi)", "math.sqrt(2)").add(
        "print(double(21))", "double(8)"
    ).save()
    split_in_two(clones)
    update(clones.learner)
    first, second = sources(clones.learner, FIRST), sources(clones.learner, SECOND)
    assert MY_DOUBLE in first and "double(8)" in first and MY_TRIPLE not in first
    assert after("def triple", clones.learner, SECOND) == "triple(1)" and MY_TRIPLE in second
    assert after("print(math.pi)", clones.learner, SECOND) == "math.sqrt(2)"
    assert is_settled(clones.learner)


def test_a_lesson_under_another_number_gets_all_of_it(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).add("print(math.pi)", "my_cell = 1").save()
    clones.publish({"02_first": LESSON, "01_before": "# %% [markdown]\n# # Before\n"}, {"first": SOLUTIONS})
    update(clones.learner)
    got = sources(clones.learner, f"{WEEK}/02_first.ipynb")
    assert MY_DOUBLE in got and after("print(math.pi)", clones.learner, f"{WEEK}/02_first.ipynb") == "my_cell = 1"
    assert sources(clones.learner, f"{WEEK}/01_before.ipynb") == sources(clones.author, f"{WEEK}/01_before.ipynb")
    assert is_settled(clones.learner)


def test_an_exercise_split_in_two_keeps_its_answer_and_opens_the_other(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).save()
    half = "def half(x):\n    # BEGIN SOLUTION\n    return x / 2\n    # END SOLUTION\n\n\n"
    lesson = LESSON.replace(
        "# %%\nprint(double",
        '# %% tags=["exercise"]\nfrom week1_tiny.solutions.first import half\n\n# %%\nprint(double',
    )
    clones.publish({"01_first": lesson}, {"first": half + SOLUTIONS})
    update(clones.learner)
    got = sources(clones.learner)
    assert MY_DOUBLE in got and any("half: your code" in source for source in got)


def test_an_answer_whose_exercise_is_gone_goes_under_the_heading(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).type("def triple", MY_TRIPLE).save()
    head, rest = LESSON.split("# %% [markdown]\n# ## Tripling")
    clones.publish({"01_first": head + "# %%" + rest.split("# %%")[2]}, {"first": SOLUTIONS.split("\n\n\n")[0] + "\n"})
    update(clones.learner)
    *_, heading, mine = sources(clones.learner)
    assert heading.startswith(HEADING) and mine == MY_TRIPLE
    assert MY_DOUBLE in sources(clones.learner)
    assert is_settled(clones.learner)


def test_a_renamed_exercise_keeps_its_answer_under_the_new_name(clones):
    mine = "def double(x):\n    # größer\n    return x and x + x or double(0) + math.double"
    book = Notebook(clones.learner).type("def double", mine)
    book.type("def triple", "def triple(x):\n    y = 'ä'; return double(x) + x").save()
    clones.publish(
        {"01_first": LESSON.replace("import double", "import twice").replace("double(21)", "twice(21)")},
        {"first": SOLUTIONS.replace("double", "twice")},
    )
    renamed = {"double": "twice"}
    update(clones.learner, renamed=renamed)
    got = sources(clones.learner)
    assert "def twice(x):\n    # größer\n    return x and x + x or twice(0) + math.double" in got
    assert "def triple(x):\n    y = 'ä'; return twice(x) + x" in got
    assert not any(source.startswith(HEADING) for source in got)
    assert is_settled(clones.learner, renamed=renamed)


def test_of_two_definitions_the_last_is_the_answer_and_the_other_is_kept_beside(clones):
    other = "def double(x):\n    return x * 2.0"
    Notebook(clones.learner).type("def double", other).add("def double", MY_DOUBLE).save()
    clones.publish({"01_first": NEW_LESSON})
    report = str(update(clones.learner))
    got = sources(clones.learner)
    assert got.count(MY_DOUBLE) == 1 and other not in got
    assert after(MY_DOUBLE, clones.learner).endswith("# def double(x):\n#     return x * 2.0")
    assert answers.extract(got, "double").source.strip() == MY_DOUBLE
    assert "conflicts kept beside: double" in report
    assert is_settled(clones.learner)


def test_an_exercise_cell_that_was_copied_unchanged_leaves_one_answer(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).add("def double", MY_DOUBLE).save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    assert sources(clones.learner).count(MY_DOUBLE) == 1 and len(sources(clones.learner)) == len(sources(clones.author))


def test_two_exercises_answered_in_one_cell_go_to_their_places(clones):
    book = Notebook(clones.learner).type("def double", f"{MY_DOUBLE}\n\n\nSIX = 6\n\n\n{MY_TRIPLE}\n\nprint(SIX)")
    book.remove("triple: your code").save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    got = sources(clones.learner)
    assert got[got.index("check(double)") - 1] == MY_DOUBLE
    assert got[got.index("check(triple)") - 1] == f"SIX = 6\n\n\n{MY_TRIPLE}\n\nprint(SIX)"
    assert is_settled(clones.learner)


def test_a_deleted_exercise_cell_comes_back_as_a_skeleton(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).remove("def triple").save()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    saved = clones.learner / "work" / WEEK / "triple.py"
    saved.parent.mkdir()
    saved.write_text(MY_TRIPLE)
    assert is_settled(clones.learner)
    got = sources(clones.learner)
    assert MY_DOUBLE in got and any("triple: your code" in source for source in got)


def test_a_deleted_notebook_comes_back_as_published(clones):
    (clones.learner / FIRST).unlink()
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    assert (clones.learner / FIRST).read_bytes() == (clones.author / FIRST).read_bytes()


# Whatever goes wrong, nothing is lost


def test_a_half_written_notebook_is_kept_untouched_and_the_new_version_stands(clones):
    half = (clones.learner / FIRST).read_bytes()[:700] + b"\xff"
    (clones.learner / FIRST).write_bytes(half)
    saved = clones.learner / "work" / WEEK / "double.py"
    saved.parent.mkdir(parents=True)
    saved.write_text(f'"""Your answer."""\n\n{MY_DOUBLE}\n')
    clones.publish({"01_first": NEW_LESSON})
    report = str(update(clones.learner))
    (kept,) = (clones.learner / "work" / "kept").iterdir()
    assert (kept / FIRST).read_bytes() == half
    assert (clones.learner / FIRST).read_bytes() == (clones.author / FIRST).read_bytes()
    assert str(kept / FIRST) in report and "the new version stands" in report
    restore(root=clones.learner)
    assert MY_DOUBLE in sources(clones.learner)


@pytest.mark.parametrize("text", ["", "[]", '{"cells": 3}', '{"cells": [{"cell_type": "code"}]}', "<<<<<<< HEAD\n{}"])
def test_whatever_is_no_notebook_is_kept_untouched(clones, text):
    (clones.learner / FIRST).write_text(text)
    clones.publish({"01_first": NEW_LESSON})
    update(clones.learner)
    (kept,) = (clones.learner / "work" / "kept").iterdir()
    assert (kept / FIRST).read_text() == text
    assert (clones.learner / FIRST).read_bytes() == (clones.author / FIRST).read_bytes()


def test_other_packages_in_the_new_version_are_told(clones):
    clones.publish()
    assert "pip install" not in str(update(clones.learner))
    clones.publish(**{"pyproject.toml": '[project.urls]\nRepository = "https://github.com/ada/other"\n'})
    assert "pip install -e ." in str(update(clones.learner))


def full(*arguments, **named):
    raise OSError(28, "No space left on device")


@pytest.fixture
def at_work(clones):
    """A learner with an answer, and a new version for them."""
    Notebook(clones.learner).type("def double", MY_DOUBLE).save()
    clones.publish({"01_first": NEW_LESSON})
    return clones


def unchanged_after(clones, words: str) -> None:
    """An update says these words, and all files and the version are as before."""
    before = everything(clones.learner)
    head = git(clones.learner, "rev-parse", "HEAD")
    with pytest.raises(UpdateError, match=words):
        update(clones.learner)
    assert everything(clones.learner) == before
    assert git(clones.learner, "rev-parse", "HEAD") == head


def test_a_full_disk_while_notebooks_are_set_aside_changes_nothing(at_work, monkeypatch):
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            unchanged_after(at_work, "cannot be set aside .* No space left")
    update(at_work.learner)
    assert MY_DOUBLE in sources(at_work.learner)


def test_a_copy_that_does_not_read_back_changes_nothing(at_work, monkeypatch):
    copy2 = shutil.copy2
    monkeypatch.setattr(clone.shutil, "copy2", lambda a, b: Path(copy2(a, b)).write_bytes(b"half"))
    unchanged_after(at_work, "does not read back")


def test_a_full_disk_while_answers_are_put_back_takes_the_update_back(at_work, monkeypatch):
    real = answers.write_atomically

    def write(path, text):
        return full() if path.suffix == ".ipynb" else real(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(answers, "write_atomically", write)
        unchanged_after(at_work, "cannot be written: .*No space left.*taken back")
    update(at_work.learner)
    assert MY_DOUBLE in sources(at_work.learner)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_a_full_or_read_only_disk_in_a_restore_leaves_each_notebook_old_or_new(clones, tmp_path, monkeypatch, error):
    split_in_two(clones)
    git(clones.learner, "pull", "--quiet")
    shutil.copytree(clones.learner / WEEK, tmp_path / "copy" / WEEK)
    Notebook(tmp_path / "copy", FIRST).type("def double", MY_DOUBLE).save()
    Notebook(tmp_path / "copy", SECOND).type("def triple", MY_TRIPLE).save()
    old = (clones.learner / SECOND).read_bytes()
    replace, left = os.replace, [1]

    def once(a, b):
        if not left:
            raise error
        left.pop()
        replace(a, b)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(UpdateError, match="02_second.* cannot be written: .*old or new.* restore again"):
        restore(tmp_path / "copy", root=clones.learner)
    monkeypatch.undo()
    assert MY_DOUBLE in sources(clones.learner, FIRST) and (clones.learner / SECOND).read_bytes() == old
    assert sorted(os.listdir(clones.learner / WEEK)) == ["01_first.ipynb", "02_second.ipynb", "lessons", "solutions"]
    assert "triple" in str(restore(tmp_path / "copy", root=clones.learner))


def test_a_failure_inside_git_puts_the_notebooks_back(at_work):
    (at_work.learner / "notes.txt").write_text("my own file")
    at_work.publish({"01_first": NEW_LESSON}, **{"notes.txt": "the course's"})
    unchanged_after(at_work, "git could not bring the new version: .*notes.txt")


def test_where_git_cannot_write_at_all_the_notebooks_stay_as_they_are(at_work):
    (at_work.learner / ".git" / "index.lock").write_text("")
    unchanged_after(at_work, "git could not bring the new version: .*index.lock.*as they were")


def test_an_interrupt_puts_the_notebooks_back(at_work, monkeypatch):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(updating, "_merge", interrupted)
    before = everything(at_work.learner)
    with pytest.raises(KeyboardInterrupt):
        update(at_work.learner)
    assert everything(at_work.learner) == before


def test_where_nothing_can_be_put_back_the_kept_copy_is_named(at_work, monkeypatch):
    real, left = clone.copy, [1]
    monkeypatch.setattr(clone, "copy", lambda a, b: real(a, b) if left and left.pop() else full())
    monkeypatch.setattr(updating, "_merge", full)
    with pytest.raises(UpdateError, match=r"All of them are safe in .*kept"):
        update(at_work.learner)
    (kept,) = (at_work.learner / "work" / "kept").iterdir()
    assert MY_DOUBLE in sources(kept)


def test_a_read_only_work_folder_changes_nothing(at_work):
    (at_work.learner / "work").write_text("a file where the folder should be")
    unchanged_after(at_work, "cannot be set aside")


def test_a_notebook_that_a_second_tab_saves_meanwhile_is_refused(at_work, monkeypatch):
    update(at_work.learner)
    git(at_work.learner, "checkout", "--quiet", "HEAD", "--", FIRST)
    merger = updating.Merger

    def slow(*arguments):
        Notebook(at_work.learner).add("The end", "typed in the other tab").save()
        return merger(*arguments)

    monkeypatch.setattr(updating, "Merger", slow)
    report = restore(root=at_work.learner)
    assert report.refused and f"{FIRST}: not written" in str(report) and "lose it in JupyterLab first" in str(report)
    assert "typed in the other tab" in sources(at_work.learner)
    monkeypatch.undo()
    assert not restore(root=at_work.learner).refused
    assert MY_DOUBLE in sources(at_work.learner) and "typed in the other tab" in sources(at_work.learner)


def test_a_notebook_that_a_second_tab_saves_before_an_update_changes_nothing(at_work, monkeypatch):
    set_aside = updating.set_aside

    def slow(*arguments):
        kept = set_aside(*arguments)
        Notebook(at_work.learner).add("The end", "typed in the other tab").save()
        return kept

    monkeypatch.setattr(updating, "set_aside", slow)
    with pytest.raises(UpdateError, match="close it in JupyterLab first"):
        update(at_work.learner)
    assert "typed in the other tab" in sources(at_work.learner) and MY_DOUBLE in sources(at_work.learner)
    assert not list((at_work.learner / "work" / "kept").iterdir())


# Where an update cannot be made


def test_a_dry_run_says_what_would_change_and_writes_nothing(at_work):
    Notebook(at_work.learner).add("print(math.pi)", "my_cell = 1").save()
    before, head = everything(at_work.learner), git(at_work.learner, "rev-parse", "HEAD")
    would = str(update(at_work.learner, dry_run=True))
    assert everything(at_work.learner) == before and git(at_work.learner, "rev-parse", "HEAD") == head
    line = f"{FIRST}: answers put back: double; cells of yours kept: 1\n    my_cell = 1"
    assert line in would and "nothing was changed" in would
    assert line in str(update(at_work.learner))
    git(at_work.learner, "checkout", "--quiet", "HEAD", "--", FIRST)
    before = everything(at_work.learner)
    assert line in str(restore(root=at_work.learner, dry_run=True))
    assert everything(at_work.learner) == before


def test_other_changed_files_of_the_course_are_named_and_nothing_is_changed(at_work):
    (at_work.learner / "pyproject.toml").write_text("# mine\n")
    unchanged_after(at_work, "other than notebooks: pyproject.toml.*git stash push -- pyproject.toml")


def test_a_diverged_branch_is_left_alone_and_the_advice_works(at_work):
    git(at_work.learner, "commit", "--quiet", "--all", "-m", "my answers")
    unchanged_after(at_work, r"(?s)diverged.*1 commits of its own.*git branch my-work.*sixweeks restore work/my-work")
    git(at_work.learner, "branch", "my-work")
    git(at_work.learner, "worktree", "add", "--quiet", "work/my-work", "my-work")
    git(at_work.learner, "reset", "--quiet", "--keep", "@{upstream}")
    restore(at_work.learner / "work" / "my-work", root=at_work.learner)
    assert MY_DOUBLE in sources(at_work.learner) and "## Twice as much" in sources(at_work.learner)


def test_without_a_network_nothing_is_changed(at_work):
    git(at_work.learner, "remote", "set-url", "origin", str(at_work.author.parent / "gone.git"))
    unchanged_after(at_work, "cannot be reached, and nothing was changed")


def test_without_git_it_says_how_to_go_on_by_hand(at_work, monkeypatch):
    monkeypatch.setattr(clone.shutil, "which", lambda name: None)
    before = everything(at_work.learner)
    with pytest.raises(UpdateError, match="needs git.*sixweeks restore"):
        update(at_work.learner)
    assert everything(at_work.learner) == before


def test_a_folder_that_is_no_clone_says_so(tmp_path, clones):
    make(tmp_path / "zip")
    with pytest.raises(UpdateError, match="not a clone.*sixweeks restore"):
        update(tmp_path / "zip")
    make(clones.learner / "inside")
    with pytest.raises(UpdateError, match="it lies in another one"):
        update(clones.learner / "inside")


def test_a_branch_that_follows_none_and_no_branch_at_all_are_told(at_work):
    git(at_work.learner, "branch", "--unset-upstream")
    unchanged_after(at_work, "--set-upstream-to=origin/main")
    git(at_work.learner, "checkout", "--quiet", "--detach")
    unchanged_after(at_work, "git switch main")


def test_a_pull_that_ended_in_a_conflict_is_taken_back_first(at_work):
    Notebook(at_work.learner).type("## Doubling", "## My title").save()
    git(at_work.learner, "commit", "--quiet", "--all", "-m", "my answers")
    subprocess.run(["git", "-C", at_work.learner, "pull", "--no-rebase", "--quiet"], capture_output=True)
    assert "<<<<<<<" in (at_work.learner / FIRST).read_text()
    unchanged_after(at_work, "git merge --abort")


def test_a_stash_that_ended_in_a_conflict_is_taken_back_and_put_in(at_work):
    Notebook(at_work.learner).type("## Doubling", "## My title").save()
    for command in ("stash", "pull --quiet --ff-only"):
        git(at_work.learner, *command.split())
    subprocess.run(["git", "-C", at_work.learner, "stash", "pop", "--quiet"], capture_output=True)
    unchanged_after(at_work, "git reset --merge.*git worktree add work/my-work stash@{0}")
    git(at_work.learner, "reset", "--quiet", "--merge")
    git(at_work.learner, "worktree", "add", "--quiet", "work/my-work", "stash@{0}")
    restore(at_work.learner / "work" / "my-work", root=at_work.learner)
    assert MY_DOUBLE in sources(at_work.learner) and "## Twice as much" in sources(at_work.learner)
    assert after("## Twice as much", at_work.learner).endswith("## My title")


def test_the_newest_version_is_left_as_it_is(clones):
    Notebook(clones.learner).type("def double", MY_DOUBLE).save()
    before = everything(clones.learner)
    assert "newest version" in str(update(clones.learner))
    assert everything(clones.learner) == before


# Restoring without an update


def test_after_a_plain_pull_saved_answers_are_put_back_without_what_the_notebook_gives(clones):
    saved = clones.learner / "work" / WEEK
    saved.mkdir(parents=True)
    source = (
        f"import math\n\nONE = 1\n\n{MY_DOUBLE}\n\ndef triple(x):\n    return double(x) + ONE * x + math.floor(0)\n"
    )
    (saved / "triple.py").write_text(f'"""Your answer to the exercise."""\n\n{source}')
    clones.publish({"01_first": NEW_LESSON})
    git(clones.learner, "pull", "--quiet", "--ff-only")
    assert "answers put back: triple" in str(restore(root=clones.learner))
    got = sources(clones.learner)
    assert got[got.index("check(triple)") - 1] == (
        "ONE = 1\n\ndef triple(x):\n    return double(x) + ONE * x + math.floor(0)"
    )
    assert any("double: your code" in cell for cell in got)
    assert is_settled(clones.learner)


def test_a_saved_answer_never_replaces_what_is_typed_in_the_notebook(clones):
    saved = clones.learner / "work" / WEEK
    saved.mkdir(parents=True)
    (saved / "double.py").write_text("def double(x):\n    return 0\n")
    Notebook(clones.learner).type("def double", MY_DOUBLE).save()
    assert is_settled(clones.learner)


def test_an_answer_typed_since_stays_and_the_kept_one_is_put_beside(at_work):
    update(at_work.learner)
    newer = "def double(x):\n    return x << 1"
    Notebook(at_work.learner).type(MY_DOUBLE, newer).save()
    assert "another answer stands above" in str(restore(root=at_work.learner))
    assert newer in sources(at_work.learner) and after(newer, at_work.learner).endswith("#     return x + x")
    assert is_settled(at_work.learner)


def test_a_folder_beside_the_course_is_restored_from_and_other_notebooks_in_it_are_left_alone(clones, tmp_path):
    old = tmp_path / "old" / "course"
    shutil.copytree(clones.learner, old)
    Notebook(old).type("def double", MY_DOUBLE).save()
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), old / "scratch.ipynb")
    shutil.copytree(old / WEEK, old / "work" / "kept" / "2020" / WEEK)
    make(clones.learner, {"01_first": NEW_LESSON})
    report = str(restore(old, root=clones.learner))
    assert "scratch.ipynb: left alone" in report and report.count("answers put back: double") == 1
    assert sources(clones.learner).count(MY_DOUBLE) == 1
    assert is_settled(clones.learner, folder=old)


def test_a_folder_that_is_not_there_and_nothing_to_restore_are_told(clones, tmp_path):
    with pytest.raises(NotADirectoryError, match="no folder"):
        restore(tmp_path / "nowhere", root=clones.learner)
    assert "Nothing to put back" in str(restore(root=clones.learner))


def test_an_older_answer_in_a_copied_notebook_does_not_become_the_answer(clones, tmp_path):
    old = tmp_path / "copy" / WEEK
    old.mkdir(parents=True)
    for name, source in (("01_first-Copy1.ipynb", "def double(x):\n    return 0"), ("01_first.ipynb", MY_DOUBLE)):
        shutil.copy(clones.learner / FIRST, old / name)
        Notebook(old, name).type("def double", source).save()
    restore(tmp_path / "copy", root=clones.learner)
    got = sources(clones.learner)
    assert answers.extract(got, "double").source.strip() == MY_DOUBLE
    assert after(MY_DOUBLE, clones.learner).endswith("# def double(x):\n#     return 0")


def test_every_lesson_of_the_course_takes_its_answers_back_byte_for_byte(tmp_path):
    root, full_copy = tmp_path / "course", tmp_path / "copy"
    n_answers = 0
    known = {exercise.skeleton: exercise for exercise in course.exercises().values()}
    for week in course.weeks():
        for shelf in ("solutions", "lessons"):
            shutil.copytree(course.ROOT / week / shelf, root / week / shelf)
        for path in (course.ROOT / week).glob("*.ipynb"):
            shutil.copy(path, root / week)
            notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
            for cell in notebook.cells:
                if "exercise" in cell.metadata.get("tags", []):
                    cell.source = known[cell.source].solution
                    n_answers += 1
            (full_copy / week).mkdir(parents=True, exist_ok=True)
            (full_copy / week / path.name).write_text(build.text_of(notebook))
    report = restore(full_copy, root=root)
    answered = [
        name for line in report.lines if "put back: " in line for name in line.split("put back: ")[1].split(", ")
    ]
    assert len(answered) == len(set(answered)) == n_answers > 100
    assert {p.relative_to(full_copy): p.read_bytes() for p in full_copy.rglob("*.ipynb")} == {
        p.relative_to(root): p.read_bytes() for p in root.rglob("*.ipynb")
    }
    assert is_settled(root, folder=full_copy)


def edited(cells: list, pick: random.Random, tag: str) -> list:
    """Cells after some edits of any kind: changed, added, copied, deleted, moved."""
    cells = [copy.deepcopy(cell) for cell in cells]
    for number in range(pick.randint(1, 12)):
        here, there = pick.randrange(len(cells)), pick.randrange(len(cells))
        kind = pick.choice(["change", "add", "note", "copy", "delete", "move"])
        if kind == "change":
            cells[here].source += f"\n# {tag} {number}"
        elif kind == "add":
            cells.insert(here, nbformat.v4.new_code_cell(f"{tag}_{number} = {number}"))
        elif kind == "note":
            cells.insert(here, nbformat.v4.new_markdown_cell(f"{tag}, note {number}"))
        elif kind == "copy":
            twin = nbformat.from_dict({**copy.deepcopy(cells[here]), "id": f"{pick.getrandbits(32):08x}"})
            cells.insert(there, twin)
        elif kind == "delete" and len(cells) > 5:
            del cells[here]
        elif kind == "move":
            cells.insert(there, cells.pop(here))
    return cells


@pytest.mark.parametrize("seed", range(25))
def test_whatever_both_sides_edit_no_line_is_lost_and_a_second_time_changes_nothing(seed):
    pick = random.Random(seed)
    path = "week1_decoder/02_attention.ipynb"
    before = nbformat.read(course.ROOT / path, as_version=nbformat.NO_CONVERT)
    page = copy.deepcopy(before)
    page.cells = build.with_ids(edited(before.cells, pick, "theirs"))
    mine = Mine(path, edited(before.cells, pick, "mine"), copy.deepcopy(before.cells) if seed % 2 else [])
    published = {cell.source: id_of(cell) for cell in before.cells}
    own = [cell for cell in mine.cells if published.get(cell.source) != id_of(cell)]
    original, theirs = copy.deepcopy(mine), copy.deepcopy(page.cells)
    merger = Merger({path: page}, course.exercises(), {})
    merger.merge([mine])
    text = "\n".join(cell.source for cell in page.cells)
    lines = {line.removeprefix("# ").strip() for line in text.splitlines()} | {l.strip() for l in text.splitlines()}
    for cell in own:
        assert {line.strip() for line in cell.source.splitlines()} - {""} <= lines, cell.source
    answered = merger.changes[path].answers
    ids = {id_of(cell) for cell in theirs}
    left = [cell for cell in page.cells if id_of(cell) in ids]
    assert [id_of(cell) for cell in left] == [id_of(cell) for cell in theirs]
    assert len(answered) == sum(a.source != b.source for a, b in zip(left, theirs, strict=True))
    nbformat.validate(page)
    once = copy.deepcopy(page)
    again = Merger({path: page}, course.exercises(), {})
    again.merge([original])
    assert build.text_of(page) == build.text_of(once) and not any(again.changes.values())


# The commands


def test_the_commands_print_the_report_and_return_what_it_means(at_work, monkeypatch, capsys):
    from shared.cli import main

    monkeypatch.setattr(updating.update, "__defaults__", (at_work.learner, False, {}))
    monkeypatch.setattr(updating.restore, "__defaults__", (None, at_work.learner, False, {}))
    assert main(["update", "--dry-run"]) == 0
    assert "This is what an update would do" in capsys.readouterr().out
    assert main(["update"]) == 0
    assert "Updated: 1 new commits." in capsys.readouterr().out
    assert main(["restore", "--dry-run"]) == 0
    assert "dry run" in capsys.readouterr().out
    (at_work.learner / FIRST).write_text("damaged")
    assert main(["restore"]) == 1
    assert "left as it is" in capsys.readouterr().out
    assert main(["restore", str(at_work.learner / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    (at_work.learner / "pyproject.toml").write_text("# mine\n")
    assert main(["update"]) == 2
    assert "other than notebooks" in capsys.readouterr().err
