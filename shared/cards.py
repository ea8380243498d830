"""How results, hints and progress look: text/html for notebooks, text/plain for terminals and nbval.

Tables and inline style only: JupyterLab keeps those in untrusted notebooks, and the colours read on light and dark.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from shared import course
from shared.tables import MONO, ROW, side_by_side
from shared.values import SMALL, Raised, brief, is_tensor, printable, size

HEADS = {
    "passed": ("✓", "passed", "#009E73"),
    "failed": ("✗", "not yet", "#D55E00"),
    "error": ("✗", "stopped by an error", "#D55E00"),
    "timeout": ("✗", "stopped: it took too long", "#D55E00"),
    "todo": ("○", "still to do", "#56B4E9"),
}


class Card:
    """Something to show: subclasses give `lines()` for terminals and `html()` for notebooks."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def html(self) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self.html()}


def widget_view(widget) -> dict[str, object]:
    """The part of a mimebundle that shows a widget; ipywidgets 7, which Colab has, has no method for it."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


def box(colour: str, inner: str, role: str = "status") -> str:
    return (
        f'<div role="{role}" style="border-left:4px solid {colour};padding:0.4em 0.9em;margin:0.4em 0;'
        f'background:rgba(128,128,128,0.08);max-width:56em">{inner}</div>'
    )


def paragraph(text: str, style: str = "") -> str:
    return f'<div style="margin:0.25em 0;{style}">{inline(text)}</div>'


def inline(text: str) -> str:
    """Escape; `names` in monospace, *stressed* words in italics."""
    parts = html.escape(text).split("`")
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f'<code style="background:rgba(128,128,128,0.15);padding:0 0.2em">{part}</code>'
        else:
            parts[i] = re.sub(r"\*(\w[^*]*)\*", r"<em>\1</em>", part)
    return "".join(parts)


@dataclass(repr=False)
class ResultCard(Card):
    """The card under an exercise. What it says is a list of blocks; terminals and notebooks draw them."""

    result: object

    def blocks(self) -> list[tuple]:
        """(kind, content …): "text" a sentence, "code" lines as they are, "input" one of them, "compare" two values."""
        result = self.result
        if result.passed:
            return [
                ("list", "It holds for", result.proved),
                *(("text", n) for n in result.notes),
                ("text", _week(result)),
            ]
        if result.waits_for:
            other = result.waits_for
            return [("text", f'Next: do that exercise first, or go on with `{other} = borrow("{other}")`.')]
        if result.status == "todo":
            return [("text", f"Next: fill it in, or `hint({result.name})` (3 of them).")]
        blocks: list[tuple] = []
        if result.mistake:
            blocks.append(("mistake", f"You get just this when {_inside_a_sentence(result.mistake)}"))
        if result.error:
            blocks.append(("code", result.error))
        if result.status == "timeout":
            blocks.append(("text", "Is there a loop that never ends, or one that grows much faster than its input?"))
        shown = [("First that differs", result.differing[0])] if result.differing else []
        shown += [("On a smaller input", result.smallest)] if result.smallest else []
        for title, (wanted, got, difference) in shown:
            blocks += _about(title, wanted, got, difference)
            if result.resembles and difference is result.differing[0][2]:
                blocks.append(("text", f"That is what comes out here when {_inside_a_sentence(result.resembles)}"))
        if result.printed.strip():
            blocks += [
                ("text", "Your code printed:"),
                ("code", printable(result.printed.replace("\r", "\n").strip(), 300)),
            ]
        blocks += [("text", note) for note in result.notes]
        return [*blocks, ("text", _next(result))]

    def head(self) -> str:
        result = self.result
        text = f"`{result.name}`: {HEADS[result.status][1]}."
        if result.waits_for:
            text = f"`{result.name}`: it calls `{result.waits_for}`, which is still to do."
        if result.passed:
            text += f" All {len(result.proved)} observations agree ({result.seconds:.2f} s)."
        elif result.status == "failed":
            text += f" {len(result.differing)} of {len(result.proved)} observations differ."
        return text

    def lines(self) -> list[str]:
        lines = [self.head().replace("`", "")]
        for kind, *content in self.blocks():
            if kind == "compare":
                expected, got = content
                lines += [f"     expected {brief(expected)}", f"     got      {brief(got)}"]
            elif kind == "list":
                lines.append(f"  {content[0]}: {'; '.join(content[1])}.")
            else:
                indent = "     " if kind in ("input", "difference") else "  "
                lines += [indent + line for line in content[0].splitlines()]
        return lines

    def html(self) -> str:
        from shared.checking import find_check

        sign, _, colour = HEADS[self.result.status]
        parts = [paragraph(f"{sign} {self.head()}", "font-weight:bold")]
        for kind, *content in self.blocks():
            if kind == "compare":
                check = find_check(self.result.name)
                parts.append(side_by_side(*content, check.rtol, check.atol))
            elif kind == "list":
                labels = "".join(f"<li>{inline(label)}</li>" for label in content[1])
                parts.append(f"<details><summary>{content[0]} …</summary><ul>{labels}</ul></details>")
            elif kind in ("code", "input"):
                parts.append(f'<div style="{MONO};margin:0.15em 0">{html.escape(content[0])}</div>')
            else:
                parts.append(paragraph(content[0], "font-size:105%;padding:0.3em 0" if kind == "mistake" else ""))
        return box(colour, "".join(parts), role="status" if self.result.passed else "alert")


def _about(title: str, wanted, got, difference) -> list[tuple]:
    """The blocks on one observation that differs."""
    if difference.kind == "changed":
        name = got.value
        return [("text", f"Your code changes its argument `{name}` in place, so the caller's own copy changes too.")]
    blocks = [("text", f"{title}: {wanted.label}")]
    blocks += [("input", f"{name} = {brief(value)}") for name, value in wanted.inputs.items()]
    if got is None or isinstance(got.value, Raised):
        return blocks
    expected, seen = wanted.value, got.value
    if size(expected) > 2 * SMALL and difference.expected is not None:
        expected, seen = difference.expected, difference.got  # only the part that differs
    blocks.append(("compare", expected, seen))
    inside = expected is not wanted.value  # then the text says where
    if inside or difference.kind != "value" or is_tensor(expected) or isinstance(expected, (list, tuple, dict)):
        text = printable(difference.text, 400)
        blocks.append(("difference", text[:1].upper() + text[1:] + ("" if text.endswith("?") else ".")))
    return blocks


NAMES = {"Viterbi", "Unicode", "Python", "English", "Chinese", "Adam", "Hugging", "None", "True", "False"}


def _inside_a_sentence(text: str) -> str:
    """With a small first letter, unless the first word is a name or an abbreviation."""
    word = re.match(r"\w*", text)[0]
    plain = word[1:].islower() and word not in NAMES
    return text[0].lower() + text[1:] if plain or word == "A" else text


def _next(result) -> str:
    from shared.learner import hints_taken

    name = result.hint_for or result.name
    number = hints_taken(name) % 3 + 1
    return f'Next: `hint({name})` ({number} of 3), or go on with `{result.name} = borrow("{result.name}")`.'


def _week(result) -> str:
    from shared.answers import state_of

    week = course.find(result.name).week
    names = [e.name for e in course.exercises().values() if e.week == week]
    done = sum(state_of(other, {}) == "passed" for other in names)
    return f"{week}: {done} of {len(names)} exercises passed."


@dataclass(repr=False)
class NoteCard(Card):
    """One sentence."""

    text: str

    def lines(self) -> list[str]:
        return [self.text]

    def html(self) -> str:
        return box("#999999", paragraph(self.text), role="note")


@dataclass(repr=False)
class HintCard(Card):
    """One of the hints of an exercise."""

    name: str
    number: int
    total: int
    text: str

    def lines(self) -> list[str]:
        return [f"{self.name}, hint {self.number} of {self.total}: {self.text}"]

    def html(self) -> str:
        return box("#E69F00", paragraph(f"`{self.name}`, hint {self.number} of {self.total}: {self.text}"), role="note")


SIGNS = {"passed": "✓", "tried": "◐", "open": "○"}


def sign(state: str, words: str) -> str:
    """The sign of a state; `words` are what a screen reader says for it."""
    return f'<span role="img" aria-label="{words}">{SIGNS[state]}</span>'


@dataclass(repr=False)
class ProgressCard(Card):
    """Passed, tried and open exercises of one week or of all."""

    week: str | None = None

    def rows(self) -> list[tuple[str, str, str, str, int]]:
        """(week, lesson, exercise, state, attempts) in course order."""
        from shared.answers import attempts, state_of

        diary = attempts()
        return [
            (e.week, e.lesson, e.name, state_of(e.name, diary), len(diary.get(e.name, ())))
            for e in course.exercises().values()
            if self.week in (None, e.week)
        ]

    def _by_lesson(self) -> dict[tuple[str, str], list[tuple]]:
        grouped: dict[tuple[str, str], list[tuple]] = {}
        for row in self.rows():
            grouped.setdefault(row[:2], []).append(row)
        return grouped

    def _quizzes(self) -> dict[tuple[str, str], str]:
        """The line on the quiz of each lesson that has one."""
        from shared.quizzes import results

        return {(s.week, s.lesson): f"quiz: {s.right} of {s.questions}" for s in results(self.week)}

    def lines(self) -> list[str]:
        lines, quizzes = [], self._quizzes()
        for (week, lesson), rows in self._by_lesson().items():
            done = sum(row[3] == "passed" for row in rows)
            lines.append(f"{week} / {lesson}: {done} of {len(rows)}")
            lines += [f"  {SIGNS[row[3]]} {row[2]}: {row[3]}" for row in rows]
            if (week, lesson) in quizzes:
                lines.append(f"  {quizzes[week, lesson]}")
        return lines or ["There are no exercises here yet."]

    def html(self) -> str:
        blocks, quizzes = [], self._quizzes()
        for (week, lesson), rows in self._by_lesson().items():
            done = sum(row[3] == "passed" for row in rows)
            names = " &nbsp; ".join(
                f'<span style="white-space:nowrap" title="{state}, {tries} attempts">{sign(state, state)} '
                f"<code>{name}</code></span>"
                for _, _, name, state, tries in rows
            )
            if (week, lesson) in quizzes:
                names += f"<br>{quizzes[week, lesson]}"
            title = lesson if self.week else f"{week} / {lesson}"
            blocks.append(
                f'{ROW}<td style="text-align:left;vertical-align:top"><b>{title}</b></td>'
                f'<td style="vertical-align:top;white-space:nowrap"><progress style="width:5em" value="{done}" '
                f'max="{len(rows)}" aria-label="{title}: {done} of {len(rows)} passed"></progress> '
                f"{done} of {len(rows)}</td>"
                f'<td style="text-align:left;line-height:1.6">{names}</td></tr>'
            )
        legend = paragraph("✓ passed   ◐ tried   ○ open", "opacity:0.8;font-size:90%")
        return box("#0072B2", f'<table style="border:none">{"".join(blocks)}</table>{legend}')
