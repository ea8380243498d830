"""Home: how far the learner is, what comes next, what they have measured. `home()` shows it, `current()` is the card.

Everything is read from what is there: the weeks' sources and READMEs, the saved answers, the diary. No torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from shared import answers, course
from shared.homecard import HomeCard, Lesson, Week
from shared.questions import QUIZ

SPEEDRUN_FILE = "speedrun_times.json"  # in the work folder; the lesson on the speedrun writes it


def about(week: Path) -> tuple[str, str, int | None]:
    """Title, goal and hours of a week as its README says them: the heading, the first line in italics, what follows."""
    try:
        text = (week / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    title = re.match(r"# (.+)", text)
    found = re.search(r"^\*([^*\n]+)\*(?:.*?\bAbout (\d+) hours)?", text, flags=re.MULTILINE)
    goal, hours = found.groups() if found else ("", None)
    return title[1] if title else week.name, goal, int(hours) if hours else None


def calendar(states: dict[str, str], root: Path = course.ROOT) -> tuple[Week, ...]:
    """The weeks that are there, with their lessons in order; an exercise that has no state is open."""
    known = course.exercises(root).values()
    weeks = []
    for name in course.weeks(root):
        stems = [path.stem for path in course.lessons(name, root)]
        named = {re.sub(r"^\d+_", "", stem): stem for stem in stems if stem[0].isdigit()}
        inside: dict[str, dict[str, str]] = {lesson: {} for lesson in named}
        for exercise in known:
            if exercise.week == name:
                inside.setdefault(exercise.lesson, {})[exercise.name] = states.get(exercise.name, "open")
        folder = root / name
        lessons = tuple(Lesson(folder / f"{named.get(key, key)}.ipynb", found) for key, found in inside.items())
        more = [folder / f"{stem}.ipynb" for stem in stems if not stem[0].isdigit()] + [folder / "SUMMARY.md"]
        weeks.append(Week(folder, *about(folder), lessons, tuple(path for path in more if path.exists())))
    return tuple(weeks)


def current(root: Path = course.ROOT) -> HomeCard:
    """The card as things stand now. What cannot be read is said on it, and is no reason to fail."""
    try:
        known = course.exercises(root)
    except (course.SourceError, OSError, ValueError) as error:
        return HomeCard((), facts=(f"A source of the course is damaged: {error}. `git status` says what was changed.",))
    notes: list[str] = []
    diary, states = {}, {}
    try:
        diary = answers.attempts()
    except OSError as error:
        notes.append(f"Your diary cannot be read: {error}. What you have tried looks open.")
    try:
        states = {name: answers.state_of(name, diary) for name in known}
    except OSError as error:
        notes.append(f"Your answers cannot be read: {error}. What you have passed looks open.")
    facts = (*notes, _environment(), *_quizzes(root), *_scores(), *_times())
    return HomeCard(calendar(states, root), _latest(diary), facts)


def store_preview(cells: list, root: Path = course.ROOT) -> None:
    """Put the card of someone who has not begun under the cell that calls `home()`, so it shows before that is run."""
    from nbformat.v4 import new_output

    card = HomeCard(calendar({}, root), folder=root)
    for cell in cells:
        if cell.source.endswith("home()"):
            cell.outputs = [new_output("display_data", data=card._repr_mimebundle_())]
        elif "bootstrap" in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = {"source_hidden": True}  # a start page begins with no code that is not needed


def _latest(diary: dict[str, list[dict]]) -> str | None:
    """The exercise that was checked last; None where the diary says nothing of use."""
    times = {name: entries[-1].get("time") for name, entries in diary.items() if not str(name).startswith(QUIZ)}
    return max((name for name, time in times.items() if isinstance(time, int)), key=times.get, default=None)


def _environment() -> str:
    """One line: what `sixweeks doctor` would say to look at, of that which is known at once."""
    from shared.doctor import quick_look

    found = list(quick_look())
    bad = "; ".join(f"{name}: {text}" for name, ok, text in found if not ok)
    if bad:
        return f"Environment: look at {bad}. `sixweeks doctor` says more."
    return f"Environment: {', '.join(name for name, _, _ in found)}: ok. `sixweeks doctor` looks at the rest."


def _quizzes(root: Path) -> Iterator[str]:
    """The learner's score in all quizzes, once one is begun."""
    from shared.quizzes import results

    scores = results(root=root)
    if any(score.right for score in scores):
        first, right, of = (sum(getattr(s, part) for s in scores) for part in ("first", "right", "questions"))
        yield f"Quizzes: {right} of {of} questions right, {first} of them at the first try"


def _scores() -> Iterator[str]:
    """The learner's own rows of the leaderboard, the best first."""
    from shared import leaderboard as boards

    path = boards.own_file()
    try:
        if path.exists():
            rows = [(row["average"], row["name"]) for row in boards.read(path)["rows"]]
            for average, name in sorted(rows, key=lambda row: -row[0]["score"]):
                low, score, high = (100 * average[key] for key in ("low", "score", "high"))
                yield f"Leaderboard: {name}, average {score:.1f} (95 % interval {low:.1f} to {high:.1f})"
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"Leaderboard: your rows cannot be read: {error}"


def _times() -> Iterator[str]:
    """The learner's best speedrun for each text, target and machine, beside the course's own there."""
    path = course.work_folder() / SPEEDRUN_FILE
    try:
        best: dict[tuple, dict] = {}
        for time in json.loads(path.read_text(encoding="utf-8")) if path.exists() else ():
            key = (time["data"], time["target"], time["machine"], time["who"] == "course")
            best[key] = min(best.get(key, time), time, key=lambda one: one["seconds"])
        for (*where, is_course), time in best.items():
            if not is_course:
                theirs = best.get((*where, True))
                beside = f"; the course's {theirs['run']} took {theirs['seconds']:.1f} s" if theirs else ""
                text = f"{time['seconds']:.1f} s to {time['target']:.3f} on {time['data'].rpartition(' ')[0]}"
                yield f"Speedrun: {text} ({time['run']}, {time['date']}{beside})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        yield f"Speedrun: {path} is damaged. The next race keeps it aside and begins a new one."


def home() -> None:
    """Show the six weeks, how far you are in each, and what comes next."""
    from shared.learner import show

    show(current())
