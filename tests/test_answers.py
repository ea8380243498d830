"""Answers are found in any notebook, stand alone, and are never lost."""

import json
import os

import pytest

from shared import answers
from shared.answers import Answer, extract, load, save
from shared.cells import NotebookError, notebook_cells, statements, without_magics


def notebook(path, cells, **extra):
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, **extra}
    content["cells"] = [{"cell_type": "code", "source": cell, "outputs": [], "metadata": {}} for cell in cells]
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


CELLS = [
    "import math, torch\nfrom torch import Tensor\nUNUSED = 3",
    "EPS = 1e-6\nscale: float = 2.0",
    "def helper(x):\n    return x * scale + EPS\n\ndef unrelated():\n    return helper(UNUSED)",
    "class Base:\n    factor = 10\n",
    "def answer(x: Tensor) -> float:\n    inner = helper(x)\n    return Base.factor * math.sqrt(inner)",
]


def test_an_answer_comes_with_all_that_it_needs_and_no_more():
    found = extract(CELLS, "answer")
    assert found.missing == ()
    assert "unrelated" not in found.source and "UNUSED" not in found.source.replace("UNUSED = 3", "")
    for part in ("import math", "EPS = 1e-6", "scale: float", "def helper", "class Base"):
        assert part in found.source
    assert load(found)(2.0) == pytest.approx(20.0, rel=1e-6)


def test_the_last_definition_wins():
    found = extract(["def answer():\n    return 1", "def answer():\n    return 2"], "answer")
    assert load(found)() == 2


def test_cells_with_syntax_errors_are_passed_over():
    found = extract(["def broken(:\n", "def answer():\n    return 3"], "answer")
    assert load(found)() == 3


@pytest.mark.parametrize(
    "cell",
    [
        "%matplotlib inline\n!pip install x\ndef answer():\n    return 4",
        "%%time\ndef answer():\n    return 4",
        "files = !ls\nlength = %timeit -o 1\nanswer?\ndef answer():\n    return 4",
        "if True:\n    !ls\ndef answer():\n    return 4",
        "\n\n%%capture out\ndef answer():\n    return 4\n",
    ],
)
def test_magics_do_not_hide_an_answer(cell):
    assert load(extract([cell], "answer"))() == 4


def test_cells_in_other_languages_hold_no_answers():
    assert without_magics("%%bash\ndef answer") == ""
    assert extract(["%%writefile x.py\ndef answer():\n    return 1"], "answer") is None


def test_missing_names_are_told():
    found = extract(["def answer():\n    return forgotten + also_forgotten"], "answer")
    assert found.missing == ("also_forgotten", "forgotten")


def test_local_names_comprehensions_and_builtins_are_not_missing():
    cell = "def answer(xs):\n    n = len(xs)\n    return [sum(y for y in xs if y < n) for _ in range(n)]"
    assert extract([cell], "answer").missing == ()


def test_a_local_name_does_not_drag_in_a_global_of_the_same_name():
    found = extract(["x = open('a file that is not there')", "def answer():\n    x = 1\n    return x"], "answer")
    assert "open" not in found.source


def test_a_method_added_in_a_later_cell_comes_along():
    cells = ["class Model:\n    pass", "def forward(self):\n    return 5\n\nModel.forward = forward"]
    assert load(extract(cells, "Model"))().forward() == 5


def test_guarded_imports_come_along():
    found = extract(
        ["try:\n    import math\nexcept ImportError:\n    math = None", "def answer():\n    return math.pi"], "answer"
    )
    assert load(found)() > 3


def test_a_borrowed_answer_is_known_as_such():
    assert extract(['attention = borrow("attention")'], "attention").borrowed
    assert extract(["from week1_decoder.solutions.attention import attention"], "attention").borrowed
    assert not extract(["def attention():\n    return 1"], "attention").borrowed


def test_provided_names_are_left_to_the_loader():
    found = extract(["def softmax(x):\n    return 0", "def answer(x):\n    return softmax(x)"], "answer", ["softmax"])
    assert found.provided == {"softmax"} and "def softmax" not in found.source
    assert load(found, {"softmax": lambda x: 7})(1) == 7


def test_several_statements_on_one_line():
    names = [sorted(s.binds) for s in statements(["import math; EPS = 1; f = lambda x: x + EPS"])]
    assert names == [["math"], ["EPS"], ["f"]]


def test_no_such_answer():
    assert extract(CELLS, "nothing") is None


@pytest.mark.parametrize("minor", [0, 1, 2, 3, 4, 5])
def test_every_minor_format_is_read(tmp_path, minor):
    path = notebook(tmp_path / "n.ipynb", ["def answer():\n    return 1"], nbformat_minor=minor)
    assert extract(notebook_cells(path), "answer")


def test_a_format_3_notebook_is_read(tmp_path):
    path = tmp_path / "old.ipynb"
    cell = {"cell_type": "code", "input": ["def answer():\n", "    return 1"], "outputs": []}
    path.write_text(json.dumps({"nbformat": 3, "nbformat_minor": 0, "worksheets": [{"cells": [cell]}]}))
    assert extract(notebook_cells(path), "answer")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"nbformat": 4}', "\x00\xff"])
def test_a_file_that_is_no_notebook_is_refused_in_words(tmp_path, text):
    path = tmp_path / "n.ipynb"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(NotebookError, match="n.ipynb"):
        notebook_cells(path)


def test_saving_is_all_or_nothing(work, monkeypatch):
    first = Answer("softmax", "def softmax():\n    return 1\n", frozenset())
    path = save(first)
    before = path.read_text()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save(Answer("softmax", "def softmax():\n    return 2\n", frozenset()))
    assert path.read_text() == before
    assert [p.name for p in path.parent.iterdir()] == ["softmax.py"]


def test_a_damaged_diary_is_read_as_far_as_it_goes(work):
    answers.log_attempt("softmax", "failed", None)
    with (work / "attempts.jsonl").open("a") as file:
        file.write('{"exercise": "soft\n[]\n')
    answers.log_attempt("softmax", "passed", None)
    assert [entry["status"] for entry in answers.attempts()["softmax"]] == ["failed", "passed"]


def test_an_unwritable_diary_fails_no_check(work, monkeypatch):
    work.write_text("a file where the folder should be")
    answers.log_attempt("softmax", "failed", None)
