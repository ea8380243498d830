"""What a learner is told: cards, names of mistakes, limits, and that nothing leaks out of a check."""

import dataclasses
import random

import pytest
import torch

from shared import checking, course
from shared.checking import LESSON_SEED, run_check
from shared.guard import learner_traceback
from shared.learner import CheckFailed, borrow, check, hint, mine
from shared.observations import compare


def unscaled(q, k, v, causal=True):
    scores = q @ k.transpose(-2, -1)
    if causal:
        hidden = torch.ones(q.shape[-2], k.shape[-2]).tril(k.shape[-2] - q.shape[-2]) == 0
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ v


def test_a_mistake_written_in_other_words_is_named():
    result = run_check("attention", unscaled)
    assert result.status == "failed"
    assert "not divided by √d_head" in result.mistake
    assert result.observation == "one query on two keys"


def test_of_two_mistakes_at_once_the_one_behind_the_first_difference_is_told():
    def attention(q, k, v, causal=True):
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        if causal:
            weights = weights * torch.ones(q.shape[-2], k.shape[-2]).tril(k.shape[-2] - q.shape[-2])
        return weights @ v

    result = run_check("attention", attention)
    assert result.mistake is None
    assert "not divided by √d_head" in result.resembles
    assert "That is what comes out here when the scores are not divided" in str(result.card)
    assert "That is what comes out here when the scores are not divided" in result.card.html()


@pytest.fixture
def fresh_caches():
    """What a changed check saw is seen by no other test, and the other way round."""
    kept = (checking._expected, checking._mistake)
    for cache in kept:
        cache.cache_clear()
    yield
    for cache in kept:
        cache.cache_clear()


def test_of_a_known_mistake_no_more_is_taken_than_it_needs_to_be_told_apart(monkeypatch, fresh_caches):
    calls = {"It adds one.": 0, "It forgets the last.": 0}

    def adds(x, dim):
        calls["It adds one."] += 1
        return torch.ones(1) + 1

    def forgets(x, dim):
        calls["It forgets the last."] += 1
        return torch.full((1,), float(x < 9))

    def ten(softmax, rng):
        for i in range(10):
            yield f"call {i}", softmax(torch.tensor([float(i)]), 0)

    mistakes = {"It adds one.": adds, "It forgets the last.": forgets}
    changed = dataclasses.replace(checking.find_check("softmax"), observe=ten, mistakes=mistakes)
    monkeypatch.setitem(checking._CHECKS, "softmax", changed)
    assert run_check("softmax", lambda x, dim: torch.full((1,), float(x < 9))).mistake == "It forgets the last."
    assert calls == {"It adds one.": 1, "It forgets the last.": 10}
    assert run_check("softmax", lambda x, dim: torch.full((1,), float(x < 5))).mistake is None
    assert calls == {"It adds one.": 1 + 6, "It forgets the last.": 10}  # six: whether it resembles the sixth call's
    assert run_check("softmax", lambda x, dim: torch.full((1,), 2.0)).mistake == "It adds one."
    assert calls["It adds one."] == 1 + 6 + 10
    assert run_check("softmax", lambda x, dim: torch.full((1,), 2.0)).mistake == "It adds one."  # a second time
    assert calls["It adds one."] == 1 + 6 + 10
    assert run_check("softmax", lambda x, dim: torch.full((1,), 2.0 - float(x == 9))).resembles == "It adds one."


def test_of_a_long_list_the_card_shows_the_item_that_differs_and_says_which_it_is(monkeypatch, fresh_caches):
    def one(softmax, rng):
        yield "forty words", softmax(["word"] * 40, 0)

    changed = dataclasses.replace(checking.find_check("softmax"), observe=one, mistakes={})
    monkeypatch.setitem(checking._CHECKS, "softmax", changed)
    monkeypatch.setattr(checking.course, "reference", lambda name: lambda x, dim: x)
    card = run_check("softmax", lambda x, dim: [*x[:27], "other", *x[28:]]).card
    assert "expected 'word'" in str(card) and "Item 27: expected 'word', got 'other'." in str(card)
    assert "Item 27: " in card.html()


def test_the_card_shows_the_smallest_input_expected_beside_got_and_the_next_step():
    card = str(run_check("attention", unscaled).card)
    assert card.splitlines()[0].startswith("attention: not yet. ")
    assert "q = [[1, 0]]" in card
    assert "expected" in card and "got" in card
    assert "You get just this when the scores are not divided" in card
    assert "hint(attention)` (1 of 3)" in card and 'attention = borrow("attention")' in card


def test_an_answer_that_calls_an_open_exercise_is_told_which_one():
    given = {}
    exec(course.find("softmax").skeleton, {"Tensor": torch.Tensor, "Float": dict, "torch": torch}, given)
    result = run_check("attention", lambda q, k, v, causal=True: given["softmax"](q @ k.transpose(-2, -1), dim=-1) @ v)
    assert (result.status, result.waits_for) == ("todo", "softmax")
    assert "attention: it calls softmax, which is still to do." in str(result.card)
    assert 'softmax = borrow("softmax")' in str(result.card)


def test_the_html_card_marks_differing_cells_not_by_colour_alone():
    page = run_check("attention", unscaled).card._repr_mimebundle_()["text/html"]
    assert "≠" in page and "<table" in page
    assert "<svg" not in page and "<script" not in page and "<style" not in page


def test_what_a_learner_prints_cannot_inject_html():
    def softmax(x, dim):
        print("<script>alert(1)</script>")
        raise ValueError("<b>bold</b>")

    page = run_check("softmax", softmax).card.html()
    assert "<script>" not in page and "<b>bold" not in page


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("got a list", lambda p: p.tolist()),
        ("is there a `return`?", lambda p: None),
        ("Expected shape (3,), got (1, 3)", lambda p: p[None]),
        ("Expected dtype torch.float32, got torch.float64", lambda p: p.double()),
        ("values are nan", lambda p: p * torch.nan),
    ],
)
def test_wrong_type_shape_dtype_and_none_are_told_in_words(words, change):
    result = run_check("softmax", lambda x, dim: change(torch.softmax(x, dim)))
    assert result.status in ("failed", "error")
    assert words in str(result.card)


def test_a_detached_answer_is_refused():
    result = run_check("softmax", lambda x, dim: torch.softmax(x.detach(), dim))
    assert not result.passed
    assert "does not require grad" in str(result.card)


def test_changing_an_argument_in_place_is_told():
    def softmax(x, dim):
        with torch.no_grad():
            x -= x.amax(dim, keepdim=True)
        return torch.softmax(x, dim)

    result = run_check("softmax", softmax)
    assert result.observation == "inputs left unchanged"
    assert "`x` in place" in str(result.card)


def test_wrong_arity_says_to_compare_the_signature():
    result = run_check("softmax", lambda x: x)
    assert result.status == "error"
    assert "signature" in str(result.card)


def test_something_that_is_no_function_is_told():
    result = run_check("softmax", 3.0)
    assert result.status == "error"
    assert "softmax should be a function, and this is a float" in str(result.card)


def test_exit_recursion_and_swallowed_interrupts_do_not_end_the_kernel():
    def leave(x, dim):
        raise SystemExit(0)

    def recurse(x, dim):
        return recurse(x, dim)

    def stubborn(x, dim):
        while True:
            try:
                while True:
                    pass
            except Exception:
                pass

    assert run_check("softmax", leave).status == "error"
    assert run_check("softmax", recurse).status == "error"
    assert run_check("softmax", stubborn, seconds=0.2).status == "timeout"


def test_prints_of_megabytes_are_cut():
    def softmax(x, dim):
        for _ in range(200):
            print("x" * 100_000)
        return x

    result = run_check("softmax", softmax)
    assert len(result.printed) < 5000


def test_global_state_is_as_it_was_after_a_check():
    def vandal(x, dim):
        torch.manual_seed(1)
        random.seed(1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return torch.softmax(x, dim)

    random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), torch.get_rng_state()
    run_check("softmax", vandal)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert run_check("softmax", course.reference("softmax")).passed


def test_an_unknown_exercise_names_the_nearest():
    with pytest.raises(LookupError, match="Did you mean attention"):
        run_check("atention", unscaled)


def test_check_raises_on_a_wrong_answer_and_says_nothing_of_our_code(capsys):
    with pytest.raises(CheckFailed) as caught:
        check(unscaled, "attention")
    assert "attention: not yet" in capsys.readouterr().out
    assert all("shared/" not in line for line in caught.value._render_traceback_())


def test_a_name_that_the_lesson_gives_and_no_cell_has_defined_is_explained(capsys):
    def answer(q, k, v, causal=True):
        return causal_mask(1, 1)  # noqa: F821  as in a notebook where its cell has not run

    def other(q, k, v, causal=True):
        return no_such_helper(q)  # noqa: F821

    for wrong, told in ((answer, True), (other, False)):
        with pytest.raises(CheckFailed):
            check(wrong, "attention")
        shown = capsys.readouterr().out
        assert "NameError" in shown
        assert ("`causal_mask` is defined in a cell above that has not run" in shown) is told


def test_check_wants_a_function():
    with pytest.raises(TypeError, match="takes the function or class"):
        check([1, 2])


def test_hints_come_one_after_the_other(capsys):
    for number in (1, 2, 3, 1):
        hint("attention")
        assert f"hint {number} of 3" in capsys.readouterr().out


def test_borrow_lends_the_reference_and_says_so(capsys):
    assert borrow("attention") is course.reference("attention")
    assert "does not count" in capsys.readouterr().out


def test_mine_gives_the_saved_answer_or_says_that_the_courses_stands_in(work, capsys):
    assert mine("softmax") is course.reference("softmax")
    assert "stands in" in capsys.readouterr().out
    saved = work / "week1_decoder" / "softmax.py"
    saved.parent.mkdir(parents=True)
    saved.write_text("import torch\n\ndef softmax(x, dim):\n    return torch.softmax(x, dim)\n")
    assert mine("softmax").__module__ == "sixweeks_answer_softmax"
    assert "your own" in capsys.readouterr().out
    saved.write_text("def softmax(x, dim)\n")
    assert mine("softmax") is course.reference("softmax")
    assert "does not load (ValueError: the file is damaged and was set aside as" in capsys.readouterr().out


def test_the_traceback_holds_no_line_of_the_course():
    try:
        course.find("nothing of this name")
    except LookupError as error:
        assert "course.py" not in learner_traceback(error)


@pytest.mark.parametrize(
    ("expected", "got", "kind"),
    [
        ([1, 2], (1, 2), None),
        (1.0, torch.tensor(1.0), None),
        (torch.tensor([1, 2]), torch.tensor([1, 2], dtype=torch.int32), None),
        (float("nan"), float("nan"), None),
        ({1: "a"}, {1: "a"}, None),
        (torch.ones(2), torch.ones(2).double(), "dtype"),
        (torch.tensor([True]), torch.tensor([1.0]), "dtype"),
        (torch.ones(2), torch.ones(1, 2), "shape"),
        (torch.ones(2), [1.0, 1.0], "type"),
        (torch.tensor(1.0), 1.0, "type"),
        (True, 1, "type"),
        ("a", b"a", "type"),
        ([1, 2], [1, 2, 3], "shape"),
        ({1: 2}, {2: 2}, "shape"),
        (1.0, 1.1, "value"),
        (torch.ones(2, requires_grad=True), torch.ones(2), "detached"),
        (3, None, "type"),
    ],
)
def test_comparison_is_lenient_on_form_and_strict_on_meaning(expected, got, kind):
    difference = compare(expected, got, 1e-4, 1e-5)
    assert (difference.kind if difference else None) == kind


def test_lessons_and_grades_see_other_numbers():
    seen = []

    def spy(x, dim):
        seen.append(x.detach().clone())
        return torch.softmax(x, dim)

    run_check("softmax", spy, seed=LESSON_SEED)
    first = seen[1]
    seen.clear()
    run_check("softmax", spy, seed=1)
    assert not torch.equal(first, seen[1])
