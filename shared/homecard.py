"""How home looks: the six weeks as a calendar, what comes next, the learner's own figures; as HTML and as text."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from shared.cards import SIGNS, Card, box, inline, paragraph, sign
from shared.tables import ROW

WORDS = {"passed": "passed", "tried": "in work", "open": "open"}
LEGEND = "   ".join(f"{SIGNS[state]} {word}" for state, word in WORDS.items())
NUMBERS = "123456"  # the weeks that a whole course has


@dataclass(frozen=True)
class Lesson:
    """A notebook to fill in, and how far its exercises are: "passed", "tried" or "open" by name."""

    notebook: Path
    states: dict[str, str]

    @property
    def state(self) -> str:
        return _overall(self.states)

    @property
    def amount(self) -> str:
        """How much of it is passed, once it is begun; whether the notebook is there."""
        parts = [] if self.state == "open" else [f"{_count(self.states, 'passed')} of {len(self.states)}"]
        return ", ".join(parts + ([] if self.notebook.exists() else ["missing"]))


@dataclass(frozen=True)
class Week:
    """A row of the calendar. `more` holds the graded notebook and, where there is one, the summary."""

    folder: Path
    title: str
    goal: str
    hours: int | None
    lessons: tuple[Lesson, ...]
    more: tuple[Path, ...]

    @property
    def states(self) -> dict[str, str]:
        return {name: state for lesson in self.lessons for name, state in lesson.states.items()}

    @property
    def progress(self) -> str:
        return f"{_count(self.states, 'passed')} of {len(self.states)} passed"

    @property
    def time(self) -> str:
        return "" if self.hours is None else f"about {self.hours} h"


@dataclass(repr=False)
class HomeCard(Card):
    """The calendar, the next exercise, and a few lines on the environment and on what the learner has measured."""

    weeks: tuple[Week, ...]
    latest: str | None = None  # the exercise that was checked last
    facts: tuple[str, ...] = ()  # one line each, below the calendar
    folder: Path | None = None  # what links are relative to; the current folder if it is not given

    @cached_property
    def states(self) -> dict[str, str]:
        return {name: state for week in self.weeks for name, state in week.states.items()}

    def next(self) -> tuple[Lesson, str] | None:
        """The first exercise not yet passed, counted from the lesson that was worked on last; None if all are."""
        places = [(lesson, name) for week in self.weeks for lesson in week.lessons for name in lesson.states]
        begin = next((i for i, (lesson, _) in enumerate(places) if self.latest in lesson.states), 0)
        return next((place for place in places[begin:] + places[:begin] if self.states[place[1]] != "passed"), None)

    def head(self) -> str:
        counts = ", ".join(f"{_count(self.states, state)} {state}" for state in WORDS)
        hours = [week.hours for week in self.weeks]
        total = f" About {sum(hours)} hours in all." if hours and None not in hours else ""
        return f"LLMs in six weeks: {counts} of {len(self.states)} exercises.{total}"

    def _next_step(self) -> tuple[str, Lesson | None, str]:
        """What to do next: the words before the lesson's name, the lesson, the words after it."""
        if not self.states:
            return "There are no exercises here. Is this the whole folder of the course?", None, ""
        place = self.next()
        if place is None:
            return "You have passed every exercise. `sixweeks grade` judges each of them alone.", None, ""
        lesson, name = place
        number = f"exercise {list(lesson.states).index(name) + 1} of {len(lesson.states)}: `{name}`"
        if _overall(self.states) == "open":
            return "First step: open ", lesson, f" and run it cell by cell, as far as {number}."
        return "Continue: ", lesson, f", {number}"

    def _notes(self) -> list[str]:
        """What is not there, then the facts."""
        there = {week.folder.name.removeprefix("week").partition("_")[0] for week in self.weeks}
        gone = [f"week {number}" for number in NUMBERS if number not in there]
        notes = [f"Not in this folder: {', '.join(gone)}. `git status` may say why."] if gone else []
        if not all(lesson.notebook.exists() for week in self.weeks for lesson in week.lessons):
            notes.append("Missing notebooks: `git status` may say why; `python -m shared.build` makes them anew.")
        return [*notes, *self.facts]

    def _path(self, target: Path) -> str:
        try:
            return Path(os.path.relpath(target, self.folder)).as_posix()
        except (ValueError, OSError):  # another drive of Windows; a current folder that is gone
            return target.as_posix()

    def lines(self) -> list[str]:
        before, lesson, after = self._next_step()
        lines = [self.head(), (before + (lesson.notebook.stem if lesson else "") + after).replace("`", "")]
        lines += [f"  {self._path(lesson.notebook)}"] if lesson else []
        for week in self.weeks:
            state = _overall(week.states)
            facts = ", ".join(filter(None, [WORDS[state], week.progress, week.time]))
            lines += ["", f"{SIGNS[state]} {week.title} ({facts})"]
            lines += [f"  {week.goal}"] if week.goal else []
            for one in week.lessons:
                facts = ", ".join(filter(None, [WORDS[one.state], one.amount]))
                lines.append(f"  {SIGNS[one.state]} {self._path(one.notebook)}: {facts}")
                if one.state == "tried":
                    lines += [f"      {SIGNS[state]} {name}: {state}" for name, state in one.states.items()]
            lines += [f"    {self._path(path)}" for path in week.more]
        return [*lines, "", LEGEND, *(note.replace("`", "") for note in self._notes())]

    def html(self) -> str:
        before, lesson, after = self._next_step()
        link = self._link(lesson.notebook) if lesson else ""
        step = f'<div style="margin:0.4em 0;font-size:110%">{inline(before)}{link}{inline(after)}</div>'
        titles = ("week", "goal and lessons", "progress", "hours", "state")
        heads = "".join(f'<th scope="col" style="text-align:left">{title}</th>' for title in titles)
        rows = f"{ROW}{heads}</tr>" + "".join(map(self._row, self.weeks))
        table = f'<div style="overflow-x:auto"><table style="border:none">{rows}</table></div>'
        notes = "".join(map(paragraph, self._notes()))
        legend = paragraph(LEGEND, "opacity:0.8;font-size:90%")
        return box("#0072B2", paragraph(self.head(), "font-weight:bold") + step + table + legend + notes, role="group")

    def _row(self, week: Week) -> str:
        state, done, total = _overall(week.states), _count(week.states, "passed"), len(week.states)
        bar = (
            f'<div role="progressbar" aria-valuenow="{done}" aria-valuemin="0" aria-valuemax="{total}" '
            f'aria-valuetext="{week.progress}" aria-label="{html.escape(week.title)}" '
            'style="width:8em;height:0.7em;border:1px solid #808080">'
            f'<div style="width:{100 * done // max(total, 1)}%;height:100%;background:#0072B2"></div></div>'
        )
        links = [f"{sign(one.state, WORDS[one.state])} {self._link(one.notebook)} {one.amount}" for one in week.lessons]
        links += [self._link(path) for path in week.more]
        spans = " ".join(f'<span style="white-space:nowrap;margin-right:0.8em">{link}</span>' for link in links)
        exercises = "".join(map(_exercises, week.lessons))
        cells = (
            f'{inline(week.goal)}<div style="line-height:1.6">{spans}</div>{exercises}',
            f"{bar}{week.progress}",
            f'<span style="white-space:nowrap">{week.time}</span>',
            f'<span style="white-space:nowrap">{sign(state, WORDS[state])} {WORDS[state]}</span>',
        )
        style = "text-align:left;vertical-align:top;white-space:normal"
        data = "".join(f'<td style="{style}">{cell}</td>' for cell in cells)
        return f'{ROW}<th scope="row" style="{style}">{html.escape(week.title)}</th>{data}</tr>'

    def _link(self, target: Path) -> str:
        name = html.escape(target.stem)
        return f'<a href="{quote(self._path(target))}">{name}</a>' if target.exists() else name


def _exercises(lesson: Lesson) -> str:
    """The exercises of a lesson that is in work."""
    if lesson.state != "tried":
        return ""
    names = "; ".join(f"{SIGNS[state]}\u00a0`{name}`: {state}" for name, state in lesson.states.items())
    return paragraph(f"{lesson.notebook.stem}: {names}", "font-size:90%")


def _count(states: dict[str, str], state: str) -> int:
    return sum(one == state for one in states.values())


def _overall(states: dict[str, str]) -> str:
    """One state for many: passed where all are, tried where any is begun."""
    found = set(states.values())
    return "passed" if found == {"passed"} else "tried" if found - {"open"} else "open"
