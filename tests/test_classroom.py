"""A class: whose a notebook is, what is read in it, what is kept, who wrote the same, and the page that comes out."""

import csv
import inspect
import json
import random
import re
import shutil
import textwrap
import zipfile
from html.parser import HTMLParser

import pytest

from shared import classroom, course, judging, similarity
from shared.classroom import Kept, grade_class, student_of, summary, write_csv
from shared.cli import main
from shared.gradebook import page
from shared.grading import Row
from tests.mistakes_report import variants
from tests.mutants import mutants

IMPORTS = """import math
import torch
from einops import rearrange
from torch import nn, Tensor
from jaxtyping import Bool, Float"""
SHELF = [e for e in course.exercises().values() if e.lesson == "attention"]
SOLUTIONS = {e.name: e.solution for e in SHELF}
UNSCALED = SOLUTIONS["attention"].replace(" / math.sqrt(q.shape[-1])", "")


@pytest.fixture
def no_sandbox(monkeypatch):
    """Judge in no time: what holds `right` passes. For tests of what is around the judging."""
    judged = []

    def prepared(answer, seed):
        judged.append(answer.name)
        return lambda: {"saw": answer.source, "seconds": 0.5}

    def verdict(name, seed, told):
        return ("passed", "") if "right" in told["saw"] else ("failed", f"{name} is wrong.")

    monkeypatch.setattr(judging, "prepared", prepared)
    monkeypatch.setattr(judging, "verdict", verdict)
    return judged


def cell(source, kind="code"):
    return {"cell_type": kind, "source": source, "metadata": {}, "outputs": [], "execution_count": None}


def write(path, cells, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}} | more
    path.write_text(json.dumps(content | {"cells": [cell(c) if isinstance(c, str) else c for c in cells]}))
    return path


def right(name="softmax"):
    return f"def {name}(*args):\n    return 'right'"


def wrong(name="softmax"):
    return f"def {name}(*args):\n    return 'not it'"


def told(graded, student):
    (found,) = [s for s in graded.students if s.name == student]
    return {row.exercise: row.result for row in found.rows}


@pytest.mark.parametrize(
    ("file", "student"),
    [
        ("late_12345_ada_lovelace.ipynb", "ada lovelace"),
        ("lovelaceada_LATE_12345_67890_02_attention-1.ipynb", "lovelaceada"),
        ("02_attention (1).ipynb", "02_attention (1)"),
        ("Kopie von 02_attention Zoë Müller.ipynb", "Zoë Müller"),
        ("Copy of 03_decoder.ipynb", "Copy of 03_decoder"),
        ("group b/02_attention (1).ipynb", "group b"),
        ("Zoë Müller/week 1/02_attention.ipynb", "Zoë Müller"),
        ("ada.zip/02_attention.ipynb", "ada"),
        ("ada.ipynb", "ada"),
    ],
)
def test_whose_a_notebook_is_stands_in_its_folder_or_its_name(file, student):
    assert student_of(file) == student


def test_notebooks_of_every_kind_are_read(tmp_path, no_sandbox):
    write(tmp_path / "v44.ipynb", [right()], nbformat_minor=4)
    write(tmp_path / "v40.ipynb", [right()], nbformat_minor=0)
    old = {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": [right()]}]}]}
    (tmp_path / "v3.ipynb").write_text(json.dumps(old))
    bare = {"cells": [{"cell_type": "code", "source": right().splitlines(keepends=True)}]}
    (tmp_path / "bare.ipynb").write_text(json.dumps(bare))
    (tmp_path / "bom.ipynb").write_text("\ufeff" + json.dumps(bare), encoding="utf-8")
    write(tmp_path / "widgets.ipynb", [right()], metadata={"widgets": {"application/x": {"state": {"a": {}}}}})
    write(tmp_path / "twice.ipynb", [right(), "x = 1", right()])
    write(tmp_path / "prose.ipynb", ["# Attention\nAll of this was *markdown*.", "It is (not Python", right()])
    write(tmp_path / "magics.ipynb", ["!pip install x\n%matplotlib inline", f"%%time\n{right()}\n!ls\nfiles = !ls"])
    write(
        tmp_path / "broken cells.ipynb", ["def softmax(x:", "def causal_mask(a, a): pass", "x = " + "(" * 300, right()]
    )
    write(tmp_path / "large.ipynb", [right(), cell("1") | {"outputs": [{"text": "x" * 50_000_000}]}])
    write(
        tmp_path / "answers spread.ipynb", ["def helper():\n    return 'right'", "def softmax(x):\n    return helper()"]
    )
    graded = grade_class(tmp_path)
    assert {s.name: told(graded, s.name)["softmax"] for s in graded.students} == dict.fromkeys(
        [s.name for s in graded.students], "passed"
    )
    assert len(graded.students) == 12 and no_sandbox


def test_what_is_no_notebook_is_named_and_stops_nothing(tmp_path, no_sandbox):
    write(tmp_path / "ada.ipynb", [right()])
    odd = {"empty": "", "cut": '{"cells": [', "list": "[]", "nothing": "{}", "null": '{"cells": null}'}
    odd |= {"number": '{"worksheets": 5}', "deep": "[" * 100_000}
    odd |= {"cells": '{"cells": [1, null, {"cell_type": "code"}, {"cell_type": "code", "source": 5}]}'}
    for name, text in odd.items():
        (tmp_path / f"{name}.ipynb").write_text(text)
    (tmp_path / "binary.ipynb").write_bytes(bytes(range(256)))
    (tmp_path / "notes.docx").write_text("not looked at")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    shutil.copy(tmp_path / "ada.ipynb", tmp_path / ".ipynb_checkpoints" / "ada-checkpoint.ipynb")
    graded = grade_class(tmp_path)
    assert len(graded.students) == 10
    for student in graded.students:
        assert bool(student.problems) == (student.name != "ada")
    assert told(graded, "ada")["softmax"] == "passed" and told(graded, "empty")["softmax"] == "missing"
    assert "cut.ipynb cannot be read" in summary(graded)


def test_zip_archives_are_opened(tmp_path, no_sandbox):
    plain = write(tmp_path / "x" / "02_attention.ipynb", [right()])
    with zipfile.ZipFile(tmp_path / "ada.zip", "w") as archive:
        archive.write(plain, "week 1/02_attention.ipynb")
        archive.writestr("__MACOSX/._02_attention.ipynb", b"\0")
    (tmp_path / "damaged.zip").write_bytes(b"PK")
    shutil.rmtree(tmp_path / "x")
    graded = grade_class(tmp_path)
    assert told(graded, "ada")["softmax"] == "passed"
    assert [bool(s.problems) for s in graded.students] == [False, True]


def test_a_later_helper_variable_or_borrow_does_not_hide_an_answer(tmp_path, no_sandbox):
    write(tmp_path / "helper.ipynb", [right(), wrong()])
    write(tmp_path / "variable.ipynb", [right(), "softmax = 3"])
    write(tmp_path / "borrow.ipynb", [right(), 'softmax = borrow("softmax")'])
    write(tmp_path / "skeleton.ipynb", [right(), SHELF[0].skeleton])
    write(tmp_path / "own.ipynb", [wrong(), 'softmax = borrow("softmax")'])
    write(tmp_path / "lent.ipynb", [right("attention"), SHELF[0].skeleton, 'softmax = borrow("softmax")'])
    graded = grade_class(tmp_path)
    results = {s.name: told(graded, s.name)["softmax"] for s in graded.students}
    assert results.pop("own") == "failed" and results.pop("lent") != "passed"
    assert set(results.values()) == {"passed"}


def test_a_students_notebooks_count_together_and_the_better_of_two(tmp_path, no_sandbox):
    write(tmp_path / "ada" / "02_attention.ipynb", [right(), wrong("attention")])
    write(tmp_path / "ada" / "02_attention (1).ipynb", [wrong(), right("attention")])
    write(tmp_path / "ada" / "04.ipynb", [right("perplexity")])
    graded = grade_class(tmp_path)
    passed = {name for name, result in told(graded, "ada").items() if result == "passed"}
    assert passed == {"softmax", "attention", "perplexity"}


def test_a_helper_called_like_another_lessons_exercise_does_not_bring_that_lesson_in(tmp_path, no_sandbox):
    mine = [e.name for e in course.exercises().values() if e.lesson == "language_modeling"]
    write(tmp_path / "ada.ipynb", [*map(right, mine), right("few_shot_prompt")])
    assert grade_class(tmp_path).exercises == mine


def test_what_is_judged_is_kept_and_only_what_changed_is_judged_again(tmp_path, no_sandbox):
    folder, file = tmp_path / "in", tmp_path / "grades.judged.jsonl"
    write(folder / "ada.ipynb", [right(), wrong("attention")])
    write(folder / "ben.ipynb", [right()])
    first = grade_class(folder, kept=Kept(file))
    assert sorted(no_sandbox) == ["attention", "softmax"]  # two of the three are the same text
    no_sandbox.clear()
    with file.open("a") as torn:
        torn.write('{"key": "abc", "ro')
    again = grade_class(folder, kept=Kept(file))
    assert no_sandbox == [] and again == first
    write(folder / "ben.ipynb", [right() + "  # changed"])
    assert grade_class(folder, kept=Kept(file)).seed == first.seed and no_sandbox == ["softmax"]
    no_sandbox.clear()
    assert grade_class(folder, kept=Kept(file)).seed == first.seed and no_sandbox == []
    assert grade_class(folder, seed=first.seed + 1, kept=Kept(file)).seed == first.seed + 1
    assert len(no_sandbox) == 3


def test_changed_checks_are_judged_anew(tmp_path, no_sandbox, monkeypatch):
    write(tmp_path / "in" / "ada.ipynb", [right()])
    grade_class(tmp_path / "in", kept=Kept(tmp_path / "kept"))
    monkeypatch.setattr(judging, "version", lambda name: "another")
    grade_class(tmp_path / "in", kept=Kept(tmp_path / "kept"))
    assert no_sandbox == ["softmax", "softmax"]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, no_sandbox, monkeypatch, capsys):
    folder, out = tmp_path / "in", tmp_path / "grades.csv"
    for who in ("ada", "ben", "cleo"):
        write(folder / f"{who}.ipynb", [f"{right()}  # {who}"])
    verdict, n = judging.verdict, iter(range(9))

    def interrupted(*args):
        if next(n) == 1:
            raise KeyboardInterrupt
        return verdict(*args)

    monkeypatch.setattr(judging, "verdict", interrupted)
    assert main(["grade", str(folder), "--out", str(out)]) == 130
    assert "1 judged answers are kept" in capsys.readouterr().out and not out.exists()
    no_sandbox.clear()
    assert main(["grade", str(folder), "--out", str(out)]) == 0
    assert len(no_sandbox) == 2 and out.exists()


def test_a_timeout_is_not_kept(tmp_path):
    kept = Kept(tmp_path / "kept")
    kept["a"], kept["b"] = Row("softmax", "timeout"), Row("softmax", "failed", "no")
    assert list(Kept(tmp_path / "kept")) == ["b"]


def test_a_real_class_is_graded_the_same_twice_and_told_as_csv_and_html(tmp_path, capsys):
    """In the sandbox, with its real checks."""
    folder, csv_file, html_file = tmp_path / "in", tmp_path / "grades.csv", tmp_path / "grades.html"
    write(folder / "ada.ipynb", [IMPORTS, *SOLUTIONS.values()])
    for who in ("ben", "cleo"):
        write(folder / f"{who}.ipynb", [IMPORTS, *(SOLUTIONS | {"attention": f"{UNSCALED}\n    # {who}"}).values()])
    write(
        folder / "=dan<b>.ipynb", [IMPORTS, "def softmax(x, dim):\n    raise ValueError('<script>alert(1)</script>')"]
    )
    command = ["grade", str(folder), "--out", str(csv_file), "--out", str(html_file)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert re.search(r"2 × attention: The scores are not divided by √d_head", shown)
    first = csv_file.read_text(encoding="utf-8"), html_file.read_text(encoding="utf-8")
    assert main(command) == 0
    assert first == (csv_file.read_text(encoding="utf-8"), html_file.read_text(encoding="utf-8"))
    rows = list(csv.DictReader(csv_file.open(encoding="utf-8")))
    totals = {row["student"]: row["points"] for row in rows if row["exercise"] == "total"}
    assert totals == {"ada": "9", "ben": "7", "cleo": "7", "'=dan<b>": "0"}
    assert all(float(row["seconds"]) >= 0 for row in rows if row["result"] == "passed")
    assert "<script>" not in first[1] and "<b>.ipynb" not in first[1] and "&lt;script&gt;" in first[1]
    assert "What several got wrong" in first[1] and first[1].count("<section") == 4


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_alone_and_readable_without_colours(tmp_path, no_sandbox):
    write(tmp_path / "ada.ipynb", [right(), wrong("attention"), SHELF[1].skeleton])
    write(tmp_path / "ben.ipynb", [wrong("attention")])
    text = page(grade_class(tmp_path, seed=5))
    tags = _Tags()
    tags.feed(text)
    assert not tags.open
    assert not [a for _, a in tags.seen if {"src", "onclick"} & a.keys() or a.get("href", "#")[0] != "#"]
    ids = [a["id"] for _, a in tags.seen if "id" in a]
    assert len(ids) == len(set(ids)) and {a["href"][1:] for _, a in tags.seen if "href" in a} <= set(ids)
    heads = [a for tag, a in tags.seen if tag == "th" and a]
    assert heads and all("scope" in a for a in heads)
    for word in ("right", "wrong", "missing", "prefers-color-scheme: dark", "@media print", 'lang="en"', "<caption>"):
        assert word in text
    assert "Seed 5" in text


# Who wrote the same

ANSWER = '''
def f(x, n_heads):
    """Split into heads."""
    batch, seq, width = x.shape
    parts = x.reshape(batch, seq, n_heads, width // n_heads)
    total = 0
    for i in range(n_heads):
        part = parts[:, :, i]
        scores = part @ part.transpose(-2, -1) / math.sqrt(width // n_heads)
        total = total + torch.softmax(scores, dim=-1) @ part
    return total.reshape(batch, seq, -1)
'''
DISGUISED = """
import torch
def f(inp, h: int) -> "Tensor":
    # mine!
    b, s, d = inp.shape
    pieces = inp.reshape(b, s, h, d // h)
    acc = 0
    for j in range(h):
        one = pieces[:, :, j]
        logits = (one
                  @ one.transpose(-2, -1)
                  / math.sqrt(d // h))
        acc = acc + torch.softmax(logits, dim=-1) @ one
    return acc.reshape(b, s, -1)
"""
OTHER = """
def f(x, n_heads):
    heads = []
    for part in x.chunk(n_heads, dim=-1):
        weights = torch.softmax(torch.einsum("bqd,bkd->bqk", part, part) * part.size(-1) ** -0.5, -1)
        heads.append(torch.einsum("bqk,bkd->bqd", weights, part))
    return sum(heads).flatten(1).view(x.shape[0], x.shape[1], -1)
"""


def test_names_comments_annotations_docstrings_and_formatting_do_not_hide_a_copy():
    assert similarity.alike(similarity.shape(ANSWER), similarity.shape(DISGUISED)) == 1
    assert similarity.alike(similarity.shape(ANSWER), similarity.shape(OTHER)) < 0.3
    assert similarity.shape("def f(:").nodes == ()


def test_answers_written_apart_are_far_below_the_border_and_copies_with_one_change_above_it():
    apart, copies = [], []
    for i, exercise in enumerate(course.exercises().values()):
        own = similarity.shape(exercise.source)
        if len(own.nodes) < similarity.LEAST_NODES:
            continue
        others = [f for name, _, f in variants() if name == exercise.name]
        apart += [similarity.alike(own, similarity.shape(textwrap.dedent(inspect.getsource(f)))) for f in others]
        if i % 4 == 0:
            changed = random.Random(i).choice(mutants(exercise.name))
            copies.append(similarity.alike(own, similarity.shape(changed.definition)))
    assert len(apart) > 250 and max(apart) < similarity.ALIKE / 2
    assert len(copies) > 25 and sum(share >= similarity.ALIKE for share in copies) > 0.9 * len(copies)


def test_pairs_leave_out_the_courses_own_short_answers_and_what_many_wrote():
    names = [f"e{i}" for i in range(4)]
    class_of = {
        "ada": dict.fromkeys(names, ANSWER),
        "ben": dict.fromkeys(names, DISGUISED),
        "cleo": dict.fromkeys(names, OTHER),
    }
    (pair,) = similarity.pairs(class_of, {})
    assert (pair.first, pair.second, list(pair.exercises), pair.compared) == ("ada", "ben", names, 4)
    assert similarity.pairs(class_of, dict.fromkeys(names, ANSWER)) == []
    short = {who: dict.fromkeys(names, "def f(x):\n    return x + 1") for who in class_of}
    assert similarity.pairs(short, {}) == []
    many = {f"s{i}": dict.fromkeys(names, ANSWER) for i in range(8)}
    assert similarity.pairs(many, {}) == []


def test_no_class_is_refused_with_what_to_do(tmp_path, capsys):
    assert main(["grade", str(tmp_path)]) == 2
    assert "no notebook (*.ipynb, also in .zip)" in capsys.readouterr().err
    write_csv(classroom.Class("none", 0, [], []), tmp_path / "x.csv")
