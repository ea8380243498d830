"""The quality bar that every exercise of the course meets, whatever week it is from."""

import inspect
import threading
import time

import pytest
import torch
from torch import nn

from shared import checking, course
from shared.checking import find_check, run_check
from shared.observations import compare
from tests.mistakes_report import SEEDS, variants, with_mistake

EXERCISES = list(course.exercises())


def _returns(name):
    """What the exercise's signature says that it returns; a class itself, for a class."""
    reference = course.reference(name)
    return reference if inspect.isclass(reference) else inspect.signature(reference).return_annotation


PROCEDURES = [name for name in EXERCISES if _returns(name) is None]  # they work in place
FUNCTIONS = [name for name in EXERCISES if name not in PROCEDURES]
VARIANTS = variants()
MISTAKES = [(name, sentence) for name in EXERCISES for sentence in find_check(name).mistakes]


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_with_any_seed(name):
    for seed in SEEDS:
        result = run_check(name, course.reference(name), seed=seed)
        assert result.passed, str(result.card)


@pytest.mark.parametrize("name", [name for name in EXERCISES if name != "nf4_codebook"])  # which takes no argument
def test_another_seed_asks_for_other_answers(name):
    """Else a table of what one seed shows would be an answer in the grade."""
    one, other = (checking._expected(name, seed).observations for seed in SEEDS[1:])
    alike = [compare(a.value, b.value, 0, 0) is None for a, b in zip(one, other, strict=False)]
    assert len(one) != len(other) or not all(alike)


@pytest.mark.parametrize(("name", "sentence"), MISTAKES, ids=[f"{n}-{s[:50]}" for n, s in MISTAKES])
def test_a_known_mistake_is_refused_and_named(name, sentence):
    for seed in (*SEEDS, SEEDS[0]):  # what was seen of the mistakes is kept: the last time all comes from there
        result = run_check(name, with_mistake(name, sentence), seed=seed)
        assert not result.passed
        assert result.mistake == sentence


@pytest.mark.parametrize(("name", "answer"), [v[::2] for v in VARIANTS], ids=[v[1] for v in VARIANTS])
def test_a_right_answer_written_otherwise_is_accepted(name, answer):
    for seed in SEEDS:
        result = run_check(name, answer, seed=seed)
        assert result.passed, str(result.card)


@pytest.mark.parametrize("name", EXERCISES)
def test_there_are_enough_mistakes_variants_and_hints(name):
    check = find_check(name)
    assert len(check.mistakes) >= (3 if check.difficulty == 1 else 5)
    assert sum(variant[0] == name for variant in VARIANTS) >= 2
    assert len(check.hints) == 3 and len(set(check.hints)) == 3
    assert 1 <= check.minutes <= 60


def answers_that_return(name, change):
    """The reference with `change` made to all that it returns."""
    reference = course.reference(name)
    if not inspect.isclass(reference):

        def answer(*args, **kwargs):
            return change(reference(*args, **kwargs))

        answer.__signature__ = inspect.signature(reference)
        return answer
    methods = ["forward"] if issubclass(reference, nn.Module) else [m for m in vars(reference) if not m.startswith("_")]

    def changed(method):
        return lambda self, *args, **kwargs: change(method(self, *args, **kwargs))

    found = {method: getattr(reference, method) for method in methods}
    return type(name, (reference,), {m: changed(function) for m, function in found.items() if callable(function)})


def zero(value):
    if isinstance(value, torch.Tensor):
        return value * 0 if value.is_floating_point() else torch.zeros_like(value)
    if isinstance(value, (bool, int, float)):
        return type(value)(0)
    if isinstance(value, (str, bytes)):
        return type(value)()
    if isinstance(value, (list, tuple)):
        return type(value)(zero(item) for item in value)
    if isinstance(value, dict):
        return {key: zero(item) for key, item in value.items()}
    if isinstance(value, nn.Module):
        return filled_with_zeros(value)
    return value


def filled_with_zeros(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module


def longer(value):
    """The same value in another shape: one more axis, item or key."""
    if isinstance(value, torch.Tensor):
        return value[None].expand(2, *value.shape)
    if isinstance(value, (list, tuple, str, bytes)):
        return value + value[:1] if value else value
    if isinstance(value, dict):
        return {**value, "one too many": 1}
    return (value, value)


def other_type(value):
    return object()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_zero_answer_is_refused(name):
    result = run_check(name, answers_that_return(name, zero))
    assert result.status in ("failed", "error")


@pytest.mark.parametrize("name", PROCEDURES)
def test_doing_nothing_and_filling_with_zeros_are_refused(name):
    for answer in (lambda *args, **kwargs: None, lambda module, *args, **kwargs: filled_with_zeros(module) and None):
        assert run_check(name, answer).status in ("failed", "error")


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if _returns(name) is nn.Module])
def test_giving_the_model_back_as_it_came_is_refused(name):
    assert run_check(name, lambda model, *args, **kwargs: model).status in ("failed", "error")


@pytest.mark.parametrize("change", [longer, other_type, lambda value: None], ids=["shape", "type", "none"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_another_shape_or_type_gets_a_clear_card(name, change):
    result = run_check(name, answers_that_return(name, change))
    assert result.status in ("failed", "error")
    card = str(result.card)
    assert name in card
    assert "expected" in card or "Error" in card
    assert "shared/" not in card and "checks/" not in card


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exception_is_shown_with_the_learners_line_only(name):
    def boom(value):
        raise RuntimeError("boom")

    result = run_check(name, answers_that_return(name, boom))
    assert result.status == "error"
    card = str(result.card)
    assert "RuntimeError: boom" in card
    assert "shared/" not in card and "checking.py" not in card


@pytest.mark.parametrize("name", EXERCISES)
def test_an_endless_loop_is_stopped(name):
    def forever(value):
        while True:
            pass

    run_check(name, course.reference(name))  # its own time is not the loop's, nor are the threads of its libraries
    start, before = time.monotonic(), threading.active_count()
    result = run_check(name, answers_that_return(name, forever), seconds=0.2)
    assert result.status == "timeout"
    assert time.monotonic() - start < 20
    assert "too long" in str(result.card)
    assert threading.active_count() == before  # one that goes on would slow down all that comes after


@pytest.mark.parametrize("name", EXERCISES)
def test_the_skeleton_counts_as_still_to_do(name):
    exercise = course.find(name)
    text = exercise.path.read_text(encoding="utf-8").replace(exercise.source, exercise.skeleton)
    namespace = {"__name__": exercise.module}
    exec(compile(text, f"<skeleton of {name}>", "exec"), namespace)
    assert run_check(name, namespace[name]).status == "todo"


def processor_seconds(name, answer):
    start = time.process_time()  # which stands still while other processes have the machine
    run_check(name, answer)
    return time.process_time() - start


@pytest.mark.parametrize("name", EXERCISES)
def test_a_check_answers_within_its_budget(name):
    run_check(name, course.reference(name))  # imports and the reference's own run are not the learner's time
    assert processor_seconds(name, course.reference(name)) < 1


@pytest.mark.parametrize("name", EXERCISES)
def test_the_last_of_the_known_mistakes_is_named_within_its_budget(name):
    """All others are looked at before it, which in a new kernel nobody did yet."""
    wrong = with_mistake(name, list(find_check(name).mistakes)[-1])
    run_check(name, course.reference(name))
    checking._mistake.cache_clear()
    assert processor_seconds(name, wrong) < 3
