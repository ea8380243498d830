"""Mutants of the solutions: how they are made, and that the kept results are those of today's checks."""

import ast
import dataclasses
import os
import re
import subprocess
import sys

import pytest
import torch

from shared import checking, course
from tests import mistakes_report, mutation_report
from tests.mutants import Mutant, mutants

SOFTMAX = "def softmax(x, dim):\n"


def changes(name: str) -> list[str]:
    return [mutant.change for mutant in mutants(name)]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("softmax", "x - x.amax(dim=dim, keepdim=True) -> x"),  # a term dropped
        ("softmax", "x.amax(dim=dim, keepdim=True) -> (x.amin(dim=dim, keepdim=True))"),  # another reduction
        ("causal_mask", "key <= query + offset -> (key < query + offset)"),  # off by one
        ("causal_mask", "n_key - n_query -> (n_query - n_key)"),  # operands swapped
        ("cross_entropy", "cross_entropy ignores ignore_index"),
        ("init_weights", "parameter.dim() >= 2 -> (parameter.dim() > 2)"),
        ("attention", "every call gives the first result"),
        ("attention", "the arguments are overwritten after use"),
    ],
)
def test_slips_that_people_make_are_among_them(name, change):
    assert any(one.endswith(change) for one in changes(name)), changes(name)


@pytest.mark.parametrize("name", ["train_bpe", "GPT", "collate_sft"])
def test_a_mutant_differs_in_the_solution_and_nowhere_else(name):
    made = mutants(name)
    assert len({mutant.change for mutant in made}) == len({mutant.definition for mutant in made}) == len(made)
    exercise = course.find(name)
    around = re.split(f"{course.BEGIN}.*?{course.END}", exercise.source, flags=re.DOTALL)
    for mutant in made:
        assert ast.dump(ast.parse(mutant.definition)) != ast.dump(ast.parse(exercise.source))
        outside = re.split(f"{course.BEGIN}.*?{course.END}", mutant.definition, flags=re.DOTALL)
        assert len(outside) == len(around)
        assert [new.startswith(old) for new, old in zip(outside, around, strict=True)] == [True] * len(around)


def test_one_that_hangs_or_ends_its_process_is_rejected_and_the_next_one_is_judged(monkeypatch):
    monkeypatch.setattr(mutation_report, "SECONDS", 0.4)
    right = course.find("softmax").source
    made = [
        Mutant("softmax", "loops", SOFTMAX + "    while True:\n        pass"),
        Mutant("softmax", "ends", SOFTMAX + "    import os\n    os._exit(0)"),
        Mutant("softmax", "right", right),
        Mutant("softmax", "no Python", "def softmax("),
        Mutant("softmax", "sums", SOFTMAX + "    return x.sum(dim)"),
    ]
    assert [mutant.change for mutant in mutation_report.survivors(made)] == ["right"]


def test_a_check_that_sees_too_little_lets_mutants_live(monkeypatch):
    def shapes(softmax, rng):
        yield "the shape", softmax(torch.ones(2, 3), 1).shape

    check = checking.find_check("softmax")
    monkeypatch.setitem(checking._CHECKS, "softmax", dataclasses.replace(check, observe=shapes))
    checking._expected.cache_clear()
    alive = [mutant.change for mutant in mutation_report.survivors(mutants("softmax"))]
    checking._expected.cache_clear()
    assert "every call gives the first result" in alive and len(alive) >= 3


def test_the_kept_results_are_of_these_solutions():
    kept = mutation_report.results()
    assert list(kept) == list(course.exercises())
    for name, result in kept.items():
        made = changes(name)
        assert result["mutants"] == len(made), name
        assert set(result["accepted"]) <= set(made), name


def test_each_equivalent_mutant_is_one_and_has_a_reason():
    kept = mutation_report.results()
    for name, reasons in mutation_report.equivalents().items():
        assert not reasons.keys() - set(kept[name]["accepted"]), name
        assert all(len(reason.split()) >= 3 for reason in reasons.values()), name


@pytest.mark.parametrize("week", course.weeks())
def test_a_sample_comes_out_as_it_is_kept(week):
    command = [sys.executable, "-m", "tests.mutation_report", "--sample", week]
    run = subprocess.run(command, cwd=course.ROOT, capture_output=True, text=True, env=os.environ)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_floor_under_what_the_checks_find():
    """As reported in docs/grading.md; tests/test_exercises.py judges every mistake and variant."""
    counts = [mutation_report.counted(name) for name in course.exercises()]
    different, rejected = (sum(column) for column in zip(*counts, strict=True))
    assert different >= 6000
    assert rejected / different >= 0.995
    assert sum(len(checking.find_check(name).mistakes) for name in course.exercises()) >= 1930
    assert len(mistakes_report.variants()) >= 380
