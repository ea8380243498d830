"""What the learner types: `check`, `hint`, `borrow`, `mine`, `progress`."""

from __future__ import annotations

import contextlib
import os
import re
import sys

from shared import answers, cells, course
from shared.checking import find_check, run_check
from shared.guard import TimedOut, learner_traceback, time_limit
from shared.result import Result
from shared.values import kind


class CheckFailed(Exception):
    """The exercise above is not right yet. Its traceback is the card, not our code."""

    def __init__(self, result: Result):
        self.result = result
        super().__init__(str(result.card))

    def _render_traceback_(self) -> list[str]:
        if "PYTEST_VERSION" in os.environ:  # nbval shows nothing but the traceback
            return str(self).splitlines()
        return [f"{self.result.name}: see the card above."]


def check(answer: object, name: str | None = None) -> None:
    """Judge an answer and show the card. A right answer is saved; a wrong one raises CheckFailed.

    `name` is only needed where the answer is called otherwise than the exercise: `check(my_try, "attention")`.
    """
    name = name or _text_of(answer, "__name__")
    if type(name) is not str or not name.isidentifier():
        raise TypeError(
            "check() takes the function or class that you wrote: check(attention), or its name with it: "
            'check(my_try, "attention").'
        )
    course.find(name)
    result = run_check(name, answer)
    written = answers.extract(cells.kernel_cells(), name)
    if result.passed:
        result.notes = _keep(name, answer, written)
    elif written and result.status in ("failed", "error"):
        notes, result.hint_for = _blame(name)
        result.notes += notes
    result.notes += _not_run(name, result.error)
    answers.log_attempt(name, result.status, result.mistake)
    show(result.card)
    if not result.passed:
        raise CheckFailed(result)


def _text_of(answer: object, attribute: str) -> str | None:
    """`__name__` or `__module__` of what a learner hands over; None where that is no text, or cannot be read."""
    with contextlib.suppress(Exception, TimedOut), time_limit(1):
        text = getattr(answer, attribute, None)
        return text if type(text) is str else None
    return None


def _keep(name: str, answer: object, written: answers.Answer | None) -> tuple[str, ...]:
    """Save a passed answer if it also passes alone; otherwise say what keeps it from standing alone."""
    if written is None or written.borrowed or _text_of(answer, "__module__") == course.find(name).module:
        return ("This is the course's own answer, so it is not saved as yours.",) if written else ()
    if written.missing:
        names = ", ".join(f"`{n}`" for n in written.missing)
        return (f"Not saved: it uses {names}, which no cell defines by def, class, import or =. Define it in a cell.",)
    try:
        alone = run_check(name, answers.load(written))
    except (Exception, SystemExit) as error:
        return (f"Not saved: on its own, outside this notebook, it raises {learner_traceback(error).splitlines()[-1]}",)
    if not alone.passed:
        return ("Not saved: it is right here, but not on its own. Does it use a variable that a later cell changes?",)
    try:
        path = answers.save(written)
    except OSError as error:
        return (
            f"Right, but not saved: {error}. Where the folder is read-only, set SIXWEEKS_WORK to a folder of yours "
            "before you start JupyterLab; where the disk is full, make room. Then run this check again.",
        )
    with contextlib.suppress(ValueError):
        path = path.relative_to(course.ROOT)
    return (f"Saved in {path.as_posix()}: later lessons use it.",)


def _blame(name: str) -> tuple[tuple[str, ...], str | None]:
    """Where the fault lies in an earlier exercise that this answer calls, say so."""
    before = [other for other in course.exercises() if other != name]
    written = answers.extract(cells.kernel_cells(), name, provided=before)
    if not written or not written.provided:
        return (), None
    others = sorted(written.provided)
    try:
        answer = answers.load(written, {other: course.reference(other) for other in others})
    except Exception:
        return (), None
    if not run_check(name, answer).passed:
        return (), None
    names = ", ".join(f"`{other}`" for other in others)
    return (
        f"Your `{name}` itself is right: with the course's own {names} it passes. Look for the fault there.",
    ), others[0]


def _not_run(name: str, error: str | None) -> tuple[str, ...]:
    """Where an answer misses a name that the lesson gives it, say that a cell above has not run."""
    missing = re.search(r"NameError: name '(\w+)' is not defined", error or "")
    if missing is None or missing[1] not in vars(sys.modules[course.reference(name).__module__]):
        return ()
    return (
        f"`{missing[1]}` is defined in a cell above that has not run. Run the cells above one by one: "
        "*Run All Above* stops at the first exercise that is still open.",
    )


_given: dict[str, int] = {}


def hint(answer: object) -> None:
    """Show the next of the three hints of an exercise (from the first again after the last)."""
    from shared.cards import HintCard

    name = answer if type(answer) is str else _text_of(answer, "__name__") or kind(answer)
    hints = find_check(name).hints
    number = _given.get(name, 0) % len(hints)
    _given[name] = number + 1
    show(HintCard(name, number + 1, len(hints), hints[number]))


def hints_taken(name: str) -> int:
    """How many hints this kernel has shown for an exercise."""
    return _given.get(name, 0)


def borrow(name: str) -> object:
    """The course's own answer, for going on where you are stuck. It does not count as yours."""
    from shared.cards import NoteCard

    show(NoteCard(f"{name}: borrowed from the course. It does not count as passed; come back to it."))
    return course.reference(name)


def mine(name: str) -> object:
    """Your own saved answer to an earlier exercise, or, labelled so, the course's."""
    from shared.cards import NoteCard

    try:
        answer = answers.load_saved(name)
    except Exception as error:
        show(
            NoteCard(
                f"{name}: your saved answer does not load ({learner_traceback(error).splitlines()[-1]}). "
                f"The course's own stands in. Run its check in {_notebook(name)} again, and it is saved anew."
            )
        )
        return course.reference(name)
    if answer is None:
        show(NoteCard(f"{name}: the course's own answer stands in until you have passed this exercise."))
        return course.reference(name)
    show(NoteCard(f"{name}: your own answer."))
    return answer


def _notebook(name: str) -> str:
    path = course.lesson_notebook(course.find(name))
    return f"{path.parent.name}/{path.name}"


def progress(week: str | None = None) -> None:
    """Show what is passed, tried and open, in one week or in all."""
    from shared.cards import ProgressCard

    show(ProgressCard(week))


def show(card: object) -> None:
    if answers.loading:
        return
    if cells.in_notebook():
        from IPython.display import display

        display(card)
    else:
        print(card)
