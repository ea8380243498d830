"""Quizzes: their files, their cards, what is judged and recorded, and the form in a browser."""

import ast
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from shared import answer, answers, course, quiz
from shared.cards import ProgressCard
from shared.cli import main
from shared.course import SourceError
from shared.questions import Choice, Number, Option, question_files, questions_of
from shared.quizzes import QuizCard, results
from tests import lab

# The module itself: as an attribute of `shared` its name may stand for the function.
module = sys.modules["shared.quizzes"]

QUESTIONS = (
    Choice(
        "Which of *these* is `√16`?",
        Option("It is <2>.", "That is the fourth root."),
        Option("It is four.", "4 · 4 = 16.", right=True),
        Option("It is eight.", "That is one half."),
        Option("It is `σ`.", "That is no number."),
    ),
    Number(
        "What is ln 64?",
        math.log(64),
        "64 is the sixth power of 2.",
        near={6: "That is the logarithm to the base 2.", 1.806: "That is the one to the base 10."},
        unit="nats",
        tolerance=0.01,
    ),
    Number("What is 128 / 4?", 32, "Four times 32.", near={512: "That is the product."}),
)
CHOICE = QUESTIONS[0]


def letter(question, right=True):
    return next(letter for letter, option in question.shown.items() if option.right == right)


@pytest.fixture
def made(monkeypatch):
    """`attention` has the three questions above, and no quiz was shown before."""
    monkeypatch.setattr(module, "questions_of", lambda lesson, root=None: QUESTIONS)
    monkeypatch.setattr(module, "_last", None)


# --- the files that are there -------------------------------------------------------------------------------------

FILES = sorted(course.ROOT.glob("week*/questions/*.py"))


def test_there_are_question_files():
    assert "week1_decoder/questions/attention.py" in {path.relative_to(course.ROOT).as_posix() for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_every_question_file_is_sound_and_belongs_to_a_lesson(path):
    assert question_files(course.ROOT).get(path.stem) == path, "no lesson of this week has this name"
    questions = questions_of(path.stem)
    assert 3 <= len(questions) <= 5
    for number, question in enumerate(questions, 1):
        if isinstance(question, Choice):
            judged = {x: question.judge(x) for x in question.shown}
            assert [right for right, _ in judged.values()].count(True) == 1
        else:
            assert question.judge(question.value)[0]
            for near, reason in question.near.items():
                assert question.judge(near)[1][1] == reason, f"question {number}: another near value is as close"


def test_lessons_have_names_of_their_own_across_the_weeks():
    sources = [path for week in course.weeks() for path in course.lessons(week) if path.stem[0].isdigit()]
    assert len(question_files(course.ROOT)) == len(sources)


def test_right_options_stand_at_every_letter_wherever_the_author_put_them():
    count = dict.fromkeys("abc", 0)
    for i in range(300):
        count[letter(Choice(f"{i}?", Option("x", "w", right=True), Option("y", "w"), Option("z", "w")))] += 1
    assert min(count.values()) > 70, count
    there = CHOICE.shown
    assert there == Choice(CHOICE.text, *reversed(CHOICE.options)).shown
    assert list(there) == list("abcd")


def test_the_order_is_the_same_in_every_process():
    program = "from shared.questions import questions_of as of\n"
    program += "print([list(q.shown.items()) for q in of('attention')[1:3]])"
    again = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=course.ROOT, check=True)
    assert again.stdout.strip() == str([list(q.shown.items()) for q in questions_of("attention")[1:3]])


# --- faulty files -------------------------------------------------------------------------------------------------

GOOD = [
    'Choice("One?", Option("a", "why"), Option("b", "why", right=True), Option("c", "why"))',
    'Number("Two?", 2, "why", near={3: "three"})',
    'Number("Three?", 3.5, "why", tolerance=0.5)',
]
FAULTY = {
    'Choice("F?", Option("a", "why", right=True), Option("b", "why"))': "has 2 options, not three or four",
    'Choice("F?", *[Option(x, "why", right=x == "a") for x in "abcde"])': "has 5 options, not three or four",
    'Choice("F?", *[Option(x, "why") for x in "abc"])': "has 0 right options, not one",
    'Choice("F?", *[Option(x, "why", right=True) for x in "abc"])': "has 3 right options, not one",
    'Choice("F?", *[Option(x, "why", right="yes") for x in "abc"])': "has 0 right options, not one",
    'Choice("F?", Option("a", " ", right=True), Option("b", "why"), Option("c", "why"))': "explanation.*'a'",
    'Choice("F?", Option("a", "why", right=True), Option("", "why"), Option("c", "why"))': "option without text",
    'Choice("F?", Option("a", "`why", right=True), Option("b", "why"), Option("c", "why"))': "odd number of backticks",
    'Choice("F?", Option("a", "why", right=True), Option("b", "why"), Option("b ", "why"))': "the same text",
    'Choice("F?", Option("a", "why", right=True), "b", "c")': r"takes nothing but Option\(...\)",
    'Choice(" ", *[Option(x, "why", right=x == "a") for x in "abc"])': "has no text",
    'Choice(Option("a", "why", right=True), Option("b", "why"), Option("c", "why"))': "has no text",
    'Number("F?", float("nan"), "why")': "not a finite number",
    'Number("F?", "2", "why")': "not a finite number",
    'Number("F?", 2, "why", tolerance=float("inf"))': "not a finite number",
    'Number("F?", 2, "why", near={float("inf"): "far"})': "not a finite number",
    'Number("F?", 2, "why", tolerance=-1)': "negative tolerance -1",
    'Number("F?", 2, "")': "empty explanation",
    'Number("F?", 2, "why", near={3: ""})': "empty explanation",
    'Number("F?", 2, "why", near=[3])': "`near` that is no dict",
    'Number("F?", 2, "why", near={2.5: "near"}, tolerance=0.5)': "near value 2.5, which its tolerance counts as right",
    'Number("F?", 2, "why", near={2: "just it"})': "near value 2",
    'Number("One?", 2, "why")': "has the text of an earlier one",
    '"F?"': "is of type str",
}


def small_course(root: Path, text: str) -> Path:
    """A course of one lesson with this file of questions."""
    for shelf in ("lessons", "solutions", "questions"):
        (root / "week1_x" / shelf).mkdir(parents=True)
    (root / "week1_x/lessons/01_a.py").write_text("")
    (root / "week1_x/lessons/02_b.py").write_text("")
    path = root / "week1_x/questions/a.py"
    path.write_text(text, encoding="utf-8")
    return path


def file_of(*questions: str) -> str:
    return (
        "from shared.questions import Choice, Number, Option\n\nQUESTIONS = (\n"
        + "".join(f"{q},\n" for q in questions)
        + ")\n"
    )


def test_a_sound_file_is_read_and_a_changed_one_is_read_anew(tmp_path):
    path = small_course(tmp_path, file_of(*GOOD))
    assert [type(q).__name__ for q in questions_of("a", tmp_path)] == ["Choice", "Number", "Number"]
    path.write_text(file_of(*GOOD, 'Number("Four?", 4, "why")'))
    assert len(questions_of("a", tmp_path)) == 4


@pytest.mark.parametrize("question", FAULTY)
def test_a_faulty_question_is_refused_with_its_file_and_number(tmp_path, question):
    small_course(tmp_path, file_of(GOOD[0], GOOD[1], question))
    with pytest.raises(SourceError, match=FAULTY[question]) as caught:
        questions_of("a", tmp_path)
    assert "week1_x/questions/a.py:" in str(caught.value)
    assert ": question 3 " in str(caught.value)


def test_the_line_of_a_faulty_question_is_told(tmp_path):
    small_course(tmp_path, file_of(*GOOD, 'Number("F?", 2, "")'))
    with pytest.raises(SourceError, match=r"a\.py:7: question 4"):
        questions_of("a", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "": r"a\.py:1: QUESTIONS must be a tuple of three to five",
        "QUESTIONS = 3": "tuple of three to five",
        file_of(*GOOD[:2]): "tuple of three to five",
        file_of(*(f'Number("{i}?", {i}, "why")' for i in range(6))): "tuple of three to five",
        "QUESTIONS = (\n1,": r"a\.py:1: this is not valid Python",
        "from shared.questions import Option\n\nOption('a')": r"a\.py:3: TypeError: .*'why'",
        "import no_such_thing": r"a\.py:1: ModuleNotFoundError",
    }.items(),
)
def test_a_file_that_is_no_quiz_is_refused(tmp_path, text, message):
    small_course(tmp_path, text)
    with pytest.raises(SourceError, match=message):
        questions_of("a", tmp_path)


def test_a_lesson_without_a_quiz_and_an_unknown_lesson_are_refused_in_words(tmp_path):
    small_course(tmp_path, file_of(*GOOD))
    with pytest.raises(ValueError, match="The lesson 'b' has no quiz"):
        questions_of("b", tmp_path)
    with pytest.raises(ValueError, match="no lesson called 'attenton'. Did you mean attention"):
        quiz("attenton")
    with pytest.raises(ValueError, match="in quotes"):
        quiz(len)


def test_progress_goes_on_where_a_question_file_is_faulty(tmp_path):
    path = small_course(tmp_path, file_of(*GOOD))
    assert [(s.lesson, s.questions) for s in results(root=tmp_path)] == [("a", 3)]
    path.write_text("QUESTIONS = (")
    assert results(root=tmp_path) == []


# --- the card -----------------------------------------------------------------------------------------------------


def test_the_card_shows_all_questions_and_how_to_answer(made, capsys):
    quiz("attention")
    shown = capsys.readouterr().out
    assert shown.startswith("Quiz attention: 3 questions\n  1. Which of *these*")
    options = [f"     {x}. {option.text}" for x, option in CHOICE.shown.items()]
    assert "\n".join(options) in shown
    assert "Answer with a number (nats); ± 0.01 counts." in shown
    assert 'answer(1, "b") for a letter, answer(2, 12.5) for a number' in shown


def test_the_card_tells_no_explanation_and_not_what_is_right():
    bundle = QuizCard("attention", QUESTIONS)._repr_mimebundle_()
    form = module._form("attention", QUESTIONS)
    states = json.dumps([widget.get_state() for widget in form.children], default=str, ensure_ascii=False)
    for text in (*bundle.values(), states):
        for question in QUESTIONS:
            whys = [o.why for o in question.options] if isinstance(question, Choice) else [question.why]
            whys += getattr(question, "near", {}).values()
            assert not [why for why in whys if why in text]
        assert "4.158" not in text  # the value of question 2
    # Every option is drawn in the same way: without their letters and texts the lines are equal.
    items = bundle["text/html"].split("<ul")[1].split("</ul>")[0].split("<li>")[1:]
    assert len(items) == 4 and "right" not in "".join(items).lower()
    bare = Choice(CHOICE.text, *(Option(f"{i}", "w", right=i == 2) for i in range(4)))
    drawn = {x[3:] for x in QuizCard("a", (bare,)).html().split("<ul")[1].split("</ul>")[0].split("<li>")[1:]}
    assert {x[1:] for x in drawn} == {"</li>"}


def test_the_card_is_escaped_and_its_parts_have_roles_and_names():
    text = QuizCard("attention", QUESTIONS).html()
    assert "It is &lt;2&gt;." in text and "<em>these</em>" in text and ">√16</code>" in text
    assert text.startswith('<div role="note"')
    assert [f'role="group" aria-label="Question {n}"' in text for n in (1, 2, 3, 4)] == [True] * 3 + [False]
    assert "<svg" not in text and "<script" not in text


def test_the_card_is_the_same_before_and_after_answers(made):
    before = QuizCard("attention", QUESTIONS)._repr_mimebundle_()
    quiz("attention")
    answer(1, letter(CHOICE))
    assert QuizCard("attention", QUESTIONS)._repr_mimebundle_() == before


# --- answers ------------------------------------------------------------------------------------------------------


def test_a_wrong_answer_is_explained_and_may_be_tried_again(made, capsys):
    quiz("attention")
    capsys.readouterr()
    wrong = letter(CHOICE, right=False)
    answer(1, wrong)
    told = capsys.readouterr().out
    assert told.startswith("Quiz attention, question 1: not yet.")
    assert f"You chose {wrong}: {CHOICE.shown[wrong].text}" in told and CHOICE.shown[wrong].why in told
    assert "4 · 4 = 16." not in told and "0 of 3 questions answered right" in told
    answer(1, f" {letter(CHOICE).upper()} ")
    told = capsys.readouterr().out
    assert told.startswith("Quiz attention, question 1: right.") and "4 · 4 = 16." in told
    assert CHOICE.shown[wrong].why not in told and "1 of 3 questions answered right" in told


@pytest.mark.parametrize(
    ("given", "right", "told"),
    [
        (4.1589, True, "64 is the sixth power of 2."),
        (4.15, True, "64 is the sixth power of 2."),
        ("4.16", True, "64 is the sixth power of 2."),
        (torch.tensor(64.0).log(), True, "64 is the sixth power of 2."),
        (4.17, False, "too large, by less than 10 %"),
        (6, False, "That is the logarithm to the base 2."),
        (6.005, False, "That is the logarithm to the base 2."),
        (1.81, False, "That is the one to the base 10."),
        (7, False, "too large, by less than a factor of 2"),
        (1, False, "too small, by a factor between 2 and 10"),
        (64, False, "too large, by a factor of 10 or more"),
        (0, False, "That is too small."),
        (-4.16, False, "That is too small."),
    ],
)
def test_a_number_is_right_within_its_tolerance_or_told_how_far_off(made, capsys, given, right, told):
    answer("attention", 2, given)
    shown = capsys.readouterr().out
    assert ("question 2: right." in shown) == right and told in shown
    assert ("sixth power" in shown) == right
    assert "nats." in shown


def test_rounding_of_floats_does_not_count():
    assert Number("?", 0.3, "why").judge(0.1 + 0.2)[0]
    assert not Number("?", 0.3, "why").judge(0.3001)[0]
    assert Number("?", -8, "why").judge(-9)[1][1] == "That is too small, by less than a factor of 2."
    assert Number("?", 0, "why").judge(5)[1][1] == "That is too large."


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((4, "a"), "questions 1 to 3, and no question 4"),
        ((0, "a"), "no question 0"),
        (("1", "a"), "no question '1'"),
        ((True, "a"), "no question True"),
        ((1, "e"), "Question 1 .* letters a, b, c, d in quotes, and not 'e'"),
        ((1, 2), "letters a, b, c, d in quotes, and not 2"),
        ((1, None), "letters a, b, c, d"),
        ((2, "b"), "Question 2 .* takes a number such as 12.5, and not 'b'"),
        ((2, None), "takes a number"),
        ((2, True), "takes a number"),
        ((2, math.nan), "takes a number"),
        ((2, "inf"), "takes a number"),
        ((2, torch.zeros(3)), "takes a number"),
        ((2, 10**400), "takes a number"),
        ((1,), r'answer\(1, "b"\).* the quiz last shown is \'attention\''),
        (("attention", 1, "a", 2), r'answer\("LESSON", 1, "b"\)'),
    ],
)
def test_what_answers_no_question_is_refused_in_words_and_not_recorded(made, work, parts, message):
    quiz("attention")
    with pytest.raises(ValueError, match=message):
        answer(*parts)
    assert not work.exists()


def test_an_answer_before_any_quiz_says_what_to_do(made):
    with pytest.raises(ValueError, match="no quiz was shown in this notebook yet"):
        answer(1, "b")


def test_answers_go_to_the_quiz_last_shown(capsys, monkeypatch):
    monkeypatch.setattr(module, "questions_of", lambda lesson, root=None: QUESTIONS)
    quiz("attention")
    quiz("decoder")
    capsys.readouterr()
    answer(3, 32)
    assert capsys.readouterr().out.startswith("Quiz decoder, question 3: right.")
    answer("attention", 3, 32)
    assert capsys.readouterr().out.startswith("Quiz attention, question 3: right.")


def test_the_card_of_an_answer_says_in_words_and_role_what_its_colour_says():
    right, wrong = (module._judge("attention", 1, given).html() for given in (8, 64))
    assert right.startswith('<div role="status"') and "✓ Quiz" in right and "question 1: right." in right
    assert wrong.startswith('<div role="alert"') and "✗ Quiz" in wrong and "question 1: not yet." in wrong


# --- what is recorded ---------------------------------------------------------------------------------------------


def score():
    (found,) = [s for s in results("week1_decoder") if s.lesson == "attention"]
    return found.questions, found.first, found.right


def test_first_tries_and_later_ones_are_counted_apart(made):
    assert score() == (3, 0, 0)
    answer("attention", 1, letter(CHOICE, right=False))
    assert score() == (3, 0, 0)
    answer("attention", 1, letter(CHOICE))
    assert score() == (3, 0, 1)
    answer("attention", 3, 32)
    answer("attention", 3, 512)  # what was right stays right
    assert score() == (3, 1, 2)


def test_a_record_goes_by_the_questions_text(made, monkeypatch):
    answer("attention", 3, 32)
    monkeypatch.setattr(module, "questions_of", lambda lesson, root=None: QUESTIONS[::-1])
    assert score() == (3, 1, 1)
    monkeypatch.setattr(module, "questions_of", lambda lesson, root=None: QUESTIONS[:2] + (Number("New?", 32, "why"),))
    assert score() == (3, 0, 0)


def test_a_damaged_record_is_read_as_far_as_it_goes(made, work, capsys):
    answer("attention", 3, 32)
    diary = work / "attempts.jsonl"
    key = module._key("attention", QUESTIONS[1])
    broken = ["{", "[]", '"x"', "\x00\udcff", '{"exercise": ["list"]}', json.dumps({"exercise": key})]
    text = "\n".join([*broken, diary.read_text(encoding="utf-8")])
    diary.write_bytes(text.encode("utf-8", "surrogateescape") + b'{"exercise": "quiz/at')
    assert score() == (3, 1, 1)
    answer("attention", 1, letter(CHOICE))  # although the last line was cut short
    assert score() == (3, 2, 2)
    assert "Not recorded" not in capsys.readouterr().out


def test_where_nothing_can_be_written_the_answer_is_still_judged(made, work, capsys):
    work.write_text("a file where the folder should be")
    answer("attention", 3, 32)
    told = capsys.readouterr().out
    assert "question 3: right." in told and f"Not recorded: `{work}` cannot be written" in told


def test_a_full_disk_is_a_note(made, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    answer("attention", 3, 32)
    monkeypatch.setattr(Path, "open", full)
    answer("attention", 3, 512)
    assert "That is the product." in capsys.readouterr().out
    monkeypatch.setattr(answers, "attempts", full)
    answer("attention", 3, 32)
    told = capsys.readouterr().out
    assert "question 3: right." in told and "Not recorded" in told


def test_progress_has_a_line_for_the_quiz_of_a_lesson(made, capsys):
    answer("attention", 3, 32)
    card = ProgressCard("week1_decoder")
    lines = card.lines()
    start = next(i for i, line in enumerate(lines) if line.startswith("week1_decoder / attention"))
    assert lines[start + 6] == "  quiz: 1 of 3"
    assert "<br>quiz: 1 of 3</td>" in card.html()
    capsys.readouterr()
    assert main(["status"]) == 0
    assert re.search(r"Quizzes: 1 of \d+ questions right, 1 of them at the first try\n", capsys.readouterr().out)


def test_a_lesson_without_questions_has_no_such_line(monkeypatch):
    monkeypatch.setattr(module, "question_files", lambda root: {})
    assert "quiz" not in str(ProgressCard()) and "quiz" not in ProgressCard().html()


# --- in a notebook ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["import shared.quizzes", "import shared", "pass"])
def test_quiz_can_be_called_however_it_is_imported(first):
    program = f"{first}\nimport shared\nfrom shared import answer, quiz\nquiz('attention')\nanswer(1, 8)\n"
    program += "shared.quiz('attention')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=course.ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Quiz attention: ") == 2 and "question 1: right." in done.stdout


def test_a_form_checks_answers_with_a_labelled_field_and_button_for_each_question(made):
    form = module._form("attention", QUESTIONS)
    kinds = ["RadioButtons", "Button", "HTML"] + 2 * ["Text", "Button", "HTML"]
    assert [type(child).__name__ for child in form.children] == kinds
    radio, check, verdict, text, check_text, verdict_text, *_ = form.children
    assert (radio.description, check.description, text.description) == ("Question 1", "Check 1", "Question 2")
    assert radio.value is None and [label[:2] for label, _ in radio.options] == ["a.", "b.", "c.", "d."]
    check.click()
    assert "Give an answer first." in verdict.value
    radio.value = letter(CHOICE, right=False)
    check.click()
    assert "question 1: not yet." in verdict.value
    radio.value = letter(CHOICE)
    check.click()
    assert "question 1: right." in verdict.value
    text.value = "many"
    check_text.click()
    assert "takes a number" in verdict_text.value
    text.value = "4.16"
    check_text.click()
    assert "question 2: right." in verdict_text.value
    assert score() == (3, 1, 2)


def test_a_long_option_is_shortened_in_the_form():
    long = Choice("?", *(Option(f"{x} " + 30 * "`word` ", "w", right=x == "a") for x in "abc"))
    assert all(len(label) <= 73 and "`" not in label for label, _ in module._form("a", (long,)).children[0].options)


def test_without_widgets_there_is_no_form(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert module._form("attention", QUESTIONS) is None


def test_in_a_kernel_the_card_comes_first_and_a_wrong_answer_stops_nothing(work):
    cells = ['from shared import answer, quiz\nquiz("attention")', "answer(1, 64)", "answer(1, 8)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": course.ROOT}}
    ).execute()
    (card, form), (wrong,), (right,) = (cell.outputs for cell in notebook.cells)
    assert dict(card.data) == QuizCard("attention", questions_of("attention"))._repr_mimebundle_()
    assert form.data["text/plain"] == "" and "application/vnd.jupyter.widget-view+json" in form.data
    assert "text/html" not in form.data
    assert "That is the variance." in wrong.data["text/html"] and "right." in right.data["text/plain"]


def test_question_files_hold_nothing_but_questions():
    for path in FILES:
        kinds = {type(node) for node in ast.parse(path.read_text(encoding="utf-8")).body}
        assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign, ast.Import}, path


def test_a_learner_answers_in_the_browser_by_keyboard(course_in_browser):
    from playwright.sync_api import expect

    address, page, folder = course_in_browser
    cell = nbformat.v4.new_code_cell('from shared import answer, quiz\nquiz("attention")')
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
    nbformat.write(notebook, folder / "week1_decoder/02_attention.ipynb")
    notebook = lab.Notebook(page, address, "week1_decoder/02_attention.ipynb")
    output = notebook.run("from shared import")
    card = output.get_by_role("note")
    expect(card).to_contain_text("Quiz attention: 4 questions")
    expect(card.get_by_role("group", name="Question 4")).to_be_visible()
    for theme in ("Light", "Dark"):
        notebook.theme(f"JupyterLab {theme}")
        assert lab.faint_text(card) == []

    field = output.get_by_role("textbox", name="Question 1")
    field.focus()
    page.keyboard.type("64")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(output.get_by_role("alert")).to_contain_text("That is the variance.")

    question = questions_of("attention")[1]
    right = letter(question)
    output.get_by_role("radio", name=f"{right}. {question.shown[right].text}").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    verdict = output.get_by_role("status")
    expect(verdict).to_contain_text("question 2: right.")
    assert lab.faint_text(verdict) == []
    assert [len(found) for found in answers.attempts().values()] == [1, 1]
