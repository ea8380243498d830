"""The questions of quizzes: what they are, where they stand, and what is wrong with a file of them."""

from __future__ import annotations

import ast
import difflib
import hashlib
import math
import re
import reprlib
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from shared import course

LETTERS = "abcd"
QUIZ = "quiz/"  # how the names of questions begin in the diary of attempts


@dataclass(frozen=True)
class Option:
    """One option of a choice, and what a learner who picks it reads."""

    text: str
    why: str
    right: bool = False


@dataclass(init=False)
class Choice:
    """A question with three or four options, of which one is right."""

    text: str
    options: tuple[Option, ...]

    def __init__(self, text: str, *options: Option):
        self.text, self.options = text, options

    @property
    def shown(self) -> dict[str, Option]:
        """Letter -> option. The order comes from a hash of the texts, so the author's order tells nothing."""
        order = sorted(self.options, key=lambda option: hashlib.sha256(f"{self.text}\n{option.text}".encode()).digest())
        return dict(zip(LETTERS, order, strict=False))

    def judge(self, given: object) -> tuple[bool, list[str]]:
        """Whether a letter is the right one, and what to tell; ValueError for anything but a letter that is shown."""
        letter = given.strip().lower() if isinstance(given, str) else given
        if not isinstance(letter, str) or letter not in self.shown:
            raise ValueError(
                f"it takes one of the letters {', '.join(self.shown)} in quotes, and not {reprlib.repr(given)}."
            )
        option = self.shown[letter]
        return option.right, [f"You chose {letter}: {option.text}", option.why]


@dataclass(frozen=True)
class Number:
    """ "Predict the number": `near` maps wrong values that have a reason to that reason."""

    text: str
    value: float
    why: str
    near: dict[float, str] = field(default_factory=dict)
    unit: str = ""
    tolerance: float = 0.0  # absolute

    def meets(self, given: float, value: float) -> bool:
        return abs(given - value) <= self.tolerance or math.isclose(given, value, rel_tol=1e-9)

    def judge(self, given: object) -> tuple[bool, list[str]]:
        """Whether a number is right, and what to tell; ValueError for what is no finite number."""
        try:
            number = math.nan if isinstance(given, bool) else float(given)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # the last from a tensor of several numbers
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"it takes a number such as 12.5, and not {reprlib.repr(given)}.")
        said = f"You said {self.amount(number)}."
        if self.meets(number, self.value):
            return True, [said, self.why]
        reasons = [(abs(number - near), reason) for near, reason in self.near.items() if self.meets(number, near)]
        return False, [said, min(reasons)[1] if reasons else _how_far(number, self.value)]

    def amount(self, number: float) -> str:
        return f"{number:,.10g} {self.unit}".rstrip()


def _how_far(given: float, value: float) -> str:
    """Too large or too small, and how much in rough words: the value itself stays to be found."""
    side = "too large" if given > value else "too small"
    if given == 0 or value == 0 or (given > 0) != (value > 0):
        return f"That is {side}."
    factor = max(given / value, value / given)
    bounds = ((1.1, "less than 10 %"), (2, "less than a factor of 2"), (10, "a factor between 2 and 10"))
    by = next((words for bound, words in bounds if factor < bound), "a factor of 10 or more")
    return f"That is {side}, by {by}."


Question = Choice | Number


def question_files(root: Path) -> dict[str, Path]:
    """Lesson -> the file of its questions, there or not, in course order."""
    return {
        re.sub(r"^\d+_", "", source.stem): root / week / "questions" / re.sub(r"^\d+_", "", source.name)
        for week in course.weeks(root)
        for source in course.lessons(week, root)
        if source.stem[0].isdigit()
    }


def questions_of(lesson: str, root: Path = course.ROOT) -> tuple[Question, ...]:
    """The questions of a lesson; ValueError where it has none, SourceError with file and line for a faulty file."""
    if not isinstance(lesson, str):
        raise ValueError('Give the name of the lesson in quotes, such as quiz("attention").')
    files = question_files(root)
    if lesson not in files:
        near = difflib.get_close_matches(lesson, files, n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else f" The lessons: {', '.join(files)}."
        raise ValueError(f"The course has no lesson called {lesson!r}.{hint}")
    path = files[lesson]
    if not path.exists():
        raise ValueError(f"The lesson {lesson!r} has no quiz.")
    namespace: dict[str, object] = {}
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        exec(compile(tree, str(path), "exec"), namespace)
    except SyntaxError as error:
        raise course.SourceError(path, error.lineno or 1, f"this is not valid Python: {error.msg}") from None
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise course.SourceError(path, [1, *lines][-1], f"{type(error).__name__}: {error}") from None
    questions = namespace.get("QUESTIONS")
    if not isinstance(questions, tuple) or not 3 <= len(questions) <= 5:
        raise course.SourceError(path, 1, "QUESTIONS must be a tuple of three to five questions")
    texts = [getattr(question, "text", None) for question in questions]
    for number, question in enumerate(questions, 1):
        fault = _fault(question)
        if texts.index(texts[number - 1]) < number - 1:
            fault = "has the text of an earlier one"
        if fault:
            lines = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value == texts[number - 1]]
            raise course.SourceError(path, [1, *lines][-1], f"question {number} {fault}")
    return questions


def _fault(question: object) -> str | None:
    """What is wrong with a question, as the end of a sentence."""
    if not isinstance(question, Question):
        return f"is of type {type(question).__name__}, not a Choice or a Number"
    if not _is_text(question.text):
        return "has no text, or one with an odd number of backticks"
    if isinstance(question, Choice):
        return _fault_of_choice(question)
    if not isinstance(question.near, dict):
        return "has a `near` that is no dict of values and sentences"
    figures = (question.value, question.tolerance, *question.near)
    if not all(isinstance(figure, (int, float)) and math.isfinite(figure) for figure in figures):
        return "has a value, a tolerance or a near value that is not a finite number"
    if question.tolerance < 0:
        return f"has the negative tolerance {question.tolerance}"
    if not all(_is_text(text) for text in (question.why, *question.near.values())):
        return "has an empty explanation, or one with an odd number of backticks"
    for near in question.near:
        if question.meets(near, question.value):
            return f"has the near value {near}, which its tolerance counts as right"
    return None


def _fault_of_choice(question: Choice) -> str | None:
    options = question.options
    if not all(isinstance(option, Option) for option in options):
        return "takes nothing but Option(...) after its text"
    if not 3 <= len(options) <= len(LETTERS):
        return f"has {len(options)} options, not three or four"
    n_right = sum(option.right is True for option in options)
    if n_right != 1:
        return f"has {n_right} right options, not one"
    for option in options:
        if not _is_text(option.text) or not _is_text(option.why):
            return f"has an option without text or explanation, or with an odd number of backticks: {option.text!r}"
    if len({option.text.strip() for option in options}) < len(options):
        return "has two options with the same text"
    return None


def _is_text(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip()) and text.count("`") % 2 == 0
