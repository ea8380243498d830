"""The source of the site: a folder of Markdown and notebooks for Sphinx, made from the files of the course."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import nbformat

from shared import build, course, homepage
from shared.checking import find_check
from shared.course import SourceError
from shared.homecard import Week
from shared.site import executing, pages
from shared.site.links import repaired

GRADING = course.ROOT / "docs" / "grading.md"
IMAGES = (".png", ".svg")


def write(folder: Path, kept: Path = executing.KEPT) -> dict[Path, str]:
    """Write all pages; gives the lessons whose outputs are missing or of an earlier version, with what is wrong."""
    weeks = homepage.calendar({})
    notes: dict[Path, str] = {}
    for week in weeks:
        for path in course.lessons(week.folder.name):
            notebook, note = _lesson(path, kept)
            if note:
                notes[path] = note
            _put(folder / week.folder.name / f"{path.stem}.ipynb", build.text_of(notebook))
        for name in ("README.md", "SUMMARY.md"):
            if (week.folder / name).exists():
                text = repaired((week.folder / name).read_text(encoding="utf-8"), week.folder)
                text += _contents(week) if name == "README.md" else ""
                _put(folder / week.folder.name / name.replace("README", "index"), text)
        _put(folder / "reference" / f"{week.folder.name}.md", _exercises(week))
    _put(folder / "index.md", _front(weeks))
    _put(folder / "grading.md", _grading())
    _put(folder / "reference" / "index.md", _reference(weeks))
    for module in modules():
        _put(folder / "reference" / f"{module}.md", _module(module))
    for image in (course.ROOT / "docs").rglob("*"):
        if image.suffix in IMAGES:
            _put(folder / image.relative_to(course.ROOT), image.read_bytes())
    return notes


def _put(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def _lesson(path: Path, kept: Path) -> tuple[nbformat.NotebookNode, str]:
    """The page of a lesson or of a graded notebook, and the note on it."""
    if path.stem == build.GRADED:  # it is stored executed
        stored = nbformat.read(build.notebook_of(path), as_version=nbformat.NO_CONVERT)
        return pages.page(path, stored), ""
    outputs = executing.find(path, kept)
    note = pages.NO_OUTPUTS if outputs is None else "" if outputs.current else pages.OLD_OUTPUTS
    return pages.page(path, outputs.notebook if outputs else None, note), note


def section(title: str) -> str:
    """The part of the README under this heading of the second level; "" gives what stands before all of them."""
    file = course.ROOT / "README.md"
    parts = re.split(r"^## (.+)\n", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = dict(zip(["", *parts[1::2]], parts[::2], strict=True))
    if title not in found:
        raise SourceError(file, 1, f"the site shows the section {title!r}, which is not there")
    return repaired(found[title].strip(), course.ROOT)


def _toctree(entries: list[str], caption: str = "", hidden: bool = True) -> str:
    options = [":hidden:"] * hidden + ([f":caption: {caption}"] if caption else [])
    return "\n".join(["```{toctree}", *options, "", *entries, "```"])


def _front(weeks: tuple[Week, ...]) -> str:
    """What the course is, the calendar of the six weeks, how to start."""
    entries = [f"{week.folder.name}/index" for week in weeks]
    boxes = "\n\n".join(map(_week, weeks))
    return "\n\n".join(
        [
            section(""),
            "## The six weeks",
            f"::::{{container}} calendar\n{boxes}\n::::",
            "## Start",
            section("Start"),
            "[How it is graded](grading.md) says how answers are judged and what the checks find; the "
            "[reference](reference/index.md) has the signatures of all exercises and of the package `shared`.",
            _toctree(entries, "The six weeks"),
            _toctree(["grading", "reference/index"], "More"),
        ]
    )


def _week(week: Week) -> str:
    """A week of the calendar."""
    folder = week.folder.name
    facts = ", ".join(filter(None, [f"{len(week.states)} exercises", week.time]))
    links = [f"- [{_title(one.notebook)}]({folder}/{one.notebook.name})" for one in week.lessons]
    head = f"[{week.title}]({folder}/index.md)"
    return "\n\n".join(
        [":::{container} week", f"**{head}**", f"{week.goal} {facts[:1].upper()}{facts[1:]}.", "\n".join(links), ":::"]
    )


def _title(notebook: Path) -> str:
    """The title of a lesson, from its first heading."""
    source = notebook.parent / "lessons" / f"{notebook.stem}.py"
    return re.search(r"^# # (.+)", source.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]


def _contents(week: Week) -> str:
    """The order of the pages of a week."""
    more = [path.stem for path in week.more]
    return "\n" + _toctree([*(one.notebook.stem for one in week.lessons), *more]) + "\n"


def _grading() -> str:
    """How answers are judged, from the README, and the measured tables."""
    if not GRADING.exists():
        raise FileNotFoundError(f"{GRADING} is not there: run python -m tests.mistakes_report")
    measured = re.sub(r"^#", "##", GRADING.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return "\n\n".join(
        ["# How it is graded", section("How answers are judged"), repaired(measured, GRADING.parent, ".")]
    )


def modules() -> list[str]:
    """The modules of `shared` that have functions to call."""
    return [
        path.stem for path in sorted((course.ROOT / "shared").glob("*.py")) if path.stem not in ("__init__", "start")
    ]


def _summary(module: str) -> str:
    """The first line of a module's docstring."""
    text = (course.ROOT / "shared" / f"{module}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)).partition("\n")[0]


def _rst(*directives: str) -> str:
    return "\n".join(["```{eval-rst}", *directives, "```"])


def _reference(weeks: tuple[Week, ...]) -> str:
    from shared import __all__ as typed

    table = ["| module | what it is for |", "|---|---|"]
    table += [f"| [`{name}`]({name}.md) | {_summary(name)} |" for name in modules()]
    own = [f"- [{week.title}]({week.folder.name}.md)" for week in weeks]
    return "\n\n".join(
        [
            "# Reference",
            "## What you type in a notebook",
            "`from shared import check, hint, borrow, mine` and so on.",
            _rst(*(f".. autofunction:: shared.{name}" for name in typed)),
            "## The exercises",
            "\n".join(own),
            "## The modules of `shared`",
            "\n".join(table),
            _toctree([week.folder.name for week in weeks] + modules()),
        ]
    )


def _module(name: str) -> str:
    return f"# `shared.{name}`\n\n" + _rst(
        f".. automodule:: shared.{name}", "   :members:", "   :member-order: bysource"
    )


def _exercises(week: Week) -> str:
    """The exercises of a week: signature, formula, difficulty, and the lesson in which each is asked."""
    parts = [f"# {week.title}: the exercises"]
    for lesson in week.lessons:
        place = f"../{week.folder.name}/{lesson.notebook.name}"
        parts.append(f"## {_title(lesson.notebook)}")
        for name in lesson.states:
            exercise, check = course.find(name), find_check(name)
            kind = "autoclass" if inspect.isclass(course.reference(name)) else "autofunction"
            parts.append(_rst(f".. {kind}:: {exercise.module}.{name}"))
            parts.append(
                f"Asked in [{lesson.notebook.stem}]({place}#exercise-{name.lower().replace('_', '-')}): difficulty "
                f"{check.difficulty} of 5, about {check.minutes} minutes, {len(check.mistakes)} known mistakes."
            )
    return "\n\n".join(parts)
