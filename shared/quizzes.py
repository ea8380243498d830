"""Quizzes: three to five questions at the end of a lesson. `quiz("attention")` shows one, `answer(1, "b")` answers."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from shared import answers, cells, course
from shared.cards import HEADS, Card, NoteCard, box, inline, paragraph, widget_view
from shared.questions import QUIZ, Choice, Question, question_files, questions_of


@dataclass(frozen=True)
class Score:
    """How far the learner is with the quiz of a lesson."""

    week: str
    lesson: str
    questions: int
    first: int  # right at the first try
    right: int  # right at any try


def results(week: str | None = None, root: Path = course.ROOT) -> list[Score]:
    """The learner's score in each quiz of one week or of all, in course order."""
    diary, scores = _diary(), []
    for lesson, path in question_files(root).items():
        if week not in (None, path.parent.parent.name) or not path.exists():
            continue
        try:
            questions = questions_of(lesson, root)
        except course.SourceError:  # told where the quiz itself is shown; progress goes on without it
            continue
        tries = [[e.get("status") == "right" for e in diary.get(_key(lesson, q), ())] for q in questions]
        first, right = sum(t[0] for t in tries if t), sum(any(t) for t in tries)
        scores.append(Score(path.parent.parent.name, lesson, len(questions), first, right))
    return scores


def _key(lesson: str, question: Question) -> str:
    """The name of a question in the diary: by its text, since an update may give it another number."""
    return f"{QUIZ}{lesson}/{question.text}"


def _diary() -> dict[str, list[dict]]:
    try:
        return answers.attempts()
    except OSError:
        return {}


@dataclass(repr=False)
class QuizCard(Card):
    """The questions of a lesson with lettered options, and how to answer. Nothing in it tells what is right."""

    lesson: str
    questions: tuple[Question, ...]

    def head(self) -> str:
        return f"Quiz `{self.lesson}`: {len(self.questions)} questions"

    def how(self) -> str:
        ways = {}
        for number, question in enumerate(self.questions, 1):
            way = f'`answer({number}, "b")`' if isinstance(question, Choice) else f"`answer({number}, 12.5)`"
            ways.setdefault(type(question), f"{way} for a {'letter' if isinstance(question, Choice) else 'number'}")
        return f"Answer in the next cell: {', '.join(ways.values())}. You may try again."

    def lines(self) -> list[str]:
        lines = [self.head().replace("`", "")]
        for number, question in enumerate(self.questions, 1):
            lines += [f"  {number}. {question.text}", *(f"     {line}" for line in _below(question))]
        return [*lines, f"  {self.how().replace('`', '')}"]

    def html(self) -> str:
        parts = [paragraph(self.head(), "font-weight:bold")]
        for number, question in enumerate(self.questions, 1):
            items = "".join(f"<li>{inline(line)}</li>" for line in _below(question))
            parts.append(
                f'<div role="group" aria-label="Question {number}" style="margin:0.7em 0">'
                f"{paragraph(f'{number}. {question.text}')}"
                f'<ul role="list" style="list-style:none;margin:0;padding-left:1.5em">{items}</ul></div>'
            )
        return box("#CC79A7", "".join([*parts, paragraph(self.how())]), role="note")


def _below(question: Question) -> list[str]:
    """The lines under the text of a question: its options, or what kind of number is wanted."""
    if isinstance(question, Choice):
        return [f"{letter}. {option.text}" for letter, option in question.shown.items()]
    unit = f" ({question.unit})" if question.unit else ""
    return [f"Answer with a number{unit}{f'; ± {question.tolerance:g} counts' if question.tolerance else ''}."]


@dataclass(repr=False)
class AnswerCard(Card):
    """Whether an answer is right, and why."""

    lesson: str
    number: int
    right: bool
    sentences: list[str]

    def head(self) -> str:
        return f"Quiz `{self.lesson}`, question {self.number}: {'right' if self.right else 'not yet'}."

    def lines(self) -> list[str]:
        return [self.head().replace("`", ""), *(f"  {sentence}" for sentence in self.sentences)]

    def html(self) -> str:
        sign, _, colour = HEADS["passed" if self.right else "failed"]
        parts = [paragraph(f"{sign} {self.head()}", "font-weight:bold"), *map(paragraph, self.sentences)]
        return box(colour, "".join(parts), role="status" if self.right else "alert")


def _judge(lesson: str, number: object, given: object) -> AnswerCard:
    """Judge an answer and enter it in the learner's diary; ValueError where it answers no question."""
    questions = questions_of(lesson)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(questions):
        raise ValueError(f"The quiz {lesson!r} has the questions 1 to {len(questions)}, and no question {number!r}.")
    question = questions[number - 1]
    try:
        right, sentences = question.judge(given)
    except ValueError as error:
        raise ValueError(f"Question {number} of the quiz {lesson!r}: {error}") from None
    if not _record(_key(lesson, question), right):
        sentences.append(
            f"Not recorded: `{course.work_folder()}` cannot be written. Is it read-only, or the disk full? "
            "In a terminal `sixweeks doctor` says more."
        )
    diary = _diary()
    n_right = sum(any(e.get("status") == "right" for e in diary.get(_key(lesson, q), ())) for q in questions)
    return AnswerCard(lesson, number, right, [*sentences, f"{n_right} of {len(questions)} questions answered right."])


def _record(key: str, right: bool) -> bool:
    """Enter an answer in the diary, and say whether it can be read there."""
    before = len(_diary().get(key, ()))
    answers.log_attempt(key, "right" if right else "wrong", None)
    return len(_diary().get(key, ())) > before


def _form(lesson: str, questions: tuple[Question, ...]):
    """A field and a Check button for each question; None where ipywidgets is not installed."""
    try:
        import ipywidgets as widgets
    except ImportError:
        return None
    rows = []
    for number, question in enumerate(questions, 1):
        if isinstance(question, Choice):
            short = {
                x: textwrap.shorten(re.sub("[`*]", "", o.text), 70, placeholder=" …") for x, o in question.shown.items()
            }
            options = [(f"{letter}. {text}", letter) for letter, text in short.items()]
            field = widgets.RadioButtons(options=options, value=None, description=f"Question {number}")
        else:
            # Sent once, when the field is left: a click on Check would overtake what is sent key by key.
            field = widgets.Text(placeholder="a number", description=f"Question {number}", continuous_update=False)
        field.style.description_width = "initial"
        field.layout.width = "max-content"
        button, verdict = widgets.Button(description=f"Check {number}"), widgets.HTML()

        def check(_, number=number, field=field, verdict=verdict):
            try:
                card = _judge(lesson, number, field.value) if field.value else NoteCard("Give an answer first.")
            except ValueError as error:
                card = NoteCard(str(error))
            verdict.value = card.html()

        button.on_click(check)
        rows += [field, button, verdict]
    return widgets.VBox(rows)


_last: str | None = None  # the lesson whose quiz was shown last


def quiz(lesson: str) -> None:
    """Show the quiz of a lesson: its questions, how to answer, and, where widgets work, a form to answer in."""
    from shared.learner import show

    global _last
    questions = questions_of(lesson)
    show(QuizCard(lesson, questions))
    _last = lesson
    form = _form(lesson, questions) if cells.in_notebook() else None
    if form is not None:
        from IPython.display import display

        # Where no widget can be shown, the card above says it all: the empty text keeps the place free.
        display({**widget_view(form), "text/plain": ""}, raw=True)


def answer(*parts: object) -> None:
    """Answer a question: `answer(1, "b")` in the quiz last shown, `answer("attention", 1, "b")` in any.

    A wrong answer gets a card that says why, and may be tried again. ValueError for what answers no question.
    """
    from shared.learner import show

    if len(parts) == 2 and _last is not None:
        parts = (_last, *parts)
    if len(parts) != 3:
        shown = f"the quiz last shown is {_last!r}" if _last else "no quiz was shown in this notebook yet"
        raise ValueError(f'Answer by answer(1, "b"), or with the lesson: answer("LESSON", 1, "b"); {shown}.')
    show(_judge(*parts))
