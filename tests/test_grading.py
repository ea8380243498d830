"""Grades: by name, each answer alone in its own process, the same for the same work."""

import csv
import json
import threading

import pytest

from shared import course, grading
from shared.checking import find_check
from shared.cli import main
from shared.grading import grade, grade_cells, write_gradebook

IMPORTS = """import math
import torch
from einops import rearrange
from torch import nn, Tensor
from jaxtyping import Bool, Float"""
SHELF = [e for e in course.exercises().values() if e.lesson == "attention"]


def solved():
    return [IMPORTS, *(e.solution for e in SHELF)]


def results(graded):
    return {row.exercise: row.result for row in graded.rows}


def write(path, cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    content["cells"] = [{"cell_type": "code", "source": c, "outputs": [], "metadata": {}} for c in cells]
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_right_answers_get_all_points():
    graded = grade_cells(solved(), "solved")
    assert set(results(graded).values()) == {"passed"}
    assert graded.points == graded.out_of > 0


def test_each_answer_is_judged_alone_beside_the_courses_own():
    cells = solved()
    cells[1] = "def softmax(x, dim):\n    return x * 0"
    told = results(grade_cells(cells, "one wrong"))
    assert told.pop("softmax") == "failed"
    assert set(told.values()) == {"passed"}


def test_what_the_weeks_notebooks_leave_open_is_graded_as_it_was_saved(work):
    saved = work / "week1_decoder"
    saved.mkdir(parents=True)
    by_name = {e.name: e for e in SHELF}
    (saved / "softmax.py").write_text(f"{IMPORTS}\n{by_name['softmax'].solution}")
    (saved / "causal_mask.py").write_text(f"{IMPORTS}\ndef causal_mask(n_query, n_key):\n    return None\n")
    told = results(grade("week1_decoder"))
    assert told["softmax"] == "passed" and told["causal_mask"] == "failed"
    assert {told[e.name] for e in SHELF} == {"passed", "failed", "todo"}


def test_the_mistake_is_named_for_the_learner():
    cells = [c.replace(" / math.sqrt(q.shape[-1])", "") if "def attention(" in c else c for c in solved()]
    (row,) = [row for row in grade_cells(cells, "x").rows if row.exercise == "attention"]
    assert row.result == "failed" and row.points == 0
    assert "not divided by √d_head" in row.mistake


def test_skeletons_syntax_errors_missing_and_borrowed_answers_lose_only_themselves():
    cells = [IMPORTS, *(e.skeleton for e in SHELF[:1]), "def causal_mask(:", 'attention = borrow("attention")']
    cells += ["def multi_head_attention(*a):\n    return forgotten", SHELF[4].solution]
    told = results(grade_cells(cells, "mixed"))
    assert told == {
        "softmax": "todo",
        "causal_mask": "missing",
        "attention": "borrowed",
        "multi_head_attention": "error",
        "MultiHeadAttention": "passed",
    }


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("while True: pass", "timeout"),
        ("import os; os._exit(0)", "error"),
        ("import sys; sys.exit(0)", "error"),
        ("return torch.zeros(10**12)", "error"),
        ("print('softmax: passed'); return x", "failed"),
    ],
)
def test_answers_that_run_away_or_leave_are_no_passes(body, result, monkeypatch):
    from shared import checking

    check = checking.find_check("softmax")
    monkeypatch.setitem(checking._CHECKS, "softmax", checking.replace(check, seconds=1.0))
    told = results(grade_cells([IMPORTS, f"def softmax(x, dim):\n    {body}"], "x"))
    assert told["softmax"] == result


def test_the_same_notebook_gets_the_same_grade():
    cells = solved()
    cells[2] = "def causal_mask(a, b):\n    return torch.ones(a, b).tril().bool()"
    assert str(grade_cells(cells, "x")) == str(grade_cells(cells, "x"))


def test_an_untouched_week_is_all_to_do():
    graded = grade("week1_decoder")
    assert {row.result for row in graded.rows} == {"todo"}
    assert len(graded.rows) == len([e for e in course.exercises().values() if e.week == "week1_decoder"])


def test_checks_are_imported_in_the_calling_thread(monkeypatch):
    """Imports parse Python, which Python 3.11 cannot do in two threads at once (SystemError: AST constructor ...)."""
    threads = []

    def find(name):
        threads.append(threading.current_thread())
        return find_check(name)

    monkeypatch.setattr(grading, "find_check", find)
    assert grade_cells(solved(), "solved").points
    assert threads and set(threads) == {threading.main_thread()}


def test_a_notebook_without_exercises_says_so():
    assert "no exercise" in str(grade_cells(["x = 1"], "empty"))


def test_a_folder_gives_a_gradebook_and_no_bad_file_stops_it(tmp_path, capsys):
    write(tmp_path / "submissions" / "ada.ipynb", solved())
    write(tmp_path / "submissions" / "group b" / "02_attention (1).ipynb", [IMPORTS, SHELF[0].solution])
    (tmp_path / "submissions" / "broken.ipynb").write_text("{")
    out = tmp_path / "grades.csv"
    assert main(["grade", str(tmp_path / "submissions"), "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert sum(row["notebook"] == "ada.ipynb" and row["result"] == "passed" for row in rows) == len(SHELF)
    second = [row for row in rows if row["notebook"].startswith("group b")]
    assert [row["result"] for row in second].count("passed") == 1
    assert any(row["notebook"] == "broken.ipynb" and "cannot be read" in row["result"] for row in rows)
    out = capsys.readouterr().out
    assert "9 of 9  ada" in out and "broken.ipynb cannot be read" in out


def test_a_gradebook_of_nothing_is_refused(tmp_path, capsys):
    assert main(["grade", str(tmp_path)]) == 2
    assert "no notebook" in capsys.readouterr().err
    assert main(["grade", str(tmp_path / "nowhere.ipynb")]) == 2
    write_gradebook({}, tmp_path / "empty.csv")
    assert (tmp_path / "empty.csv").read_text().startswith("notebook,")
