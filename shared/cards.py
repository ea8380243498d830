"""How results, hints and progress look: text/html for notebooks, text/plain for terminals and nbval.

Tables and inline style only: JupyterLab keeps those in untrusted notebooks, and the colours read on light and dark.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

from shared import course
from shared.observations import SMALL, UNCHANGED, Raised, brief, compare

_HEAD = {
    "passed": ("✓", "passed", "#009E73"),
    "failed": ("✗", "not yet", "#D55E00"),
    "error": ("✗", "stopped by an error", "#D55E00"),
    "timeout": ("✗", "stopped: it took too long", "#D55E00"),
    "todo": ("○", "still to do", "#56B4E9"),
}
_MONO = "font-family:monospace;white-space:pre"


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


def _box(colour: str, inner: str, role: str = "status") -> str:
    return (
        f'<div role="{role}" style="border-left:4px solid {colour};padding:0.4em 0.9em;margin:0.4em 0;'
        f'background:rgba(128,128,128,0.08);max-width:56em">{inner}</div>'
    )


def _p(text: str, style: str = "") -> str:
    return f'<div style="margin:0.25em 0;{style}">{_code(text)}</div>'


def _code(text: str) -> str:
    """Escape, and set `names` in monospace."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


@dataclass(repr=False)
class ResultCard(Card):
    """The card under an exercise."""

    result: object

    def lines(self) -> list[str]:
        result = self.result
        _, verdict, _ = _HEAD[result.status]
        if result.passed:
            return [
                f"{result.name}: passed. All {len(result.proved)} observations agree ({result.seconds:.2f} s).",
                f"  It holds for: {'; '.join(result.proved)}.",
                *(f"  {note}" for note in result.notes),
                f"  {_week_line(result.name)}",
            ]
        head = f"{result.name}: {verdict}."
        if result.status == "todo":
            return [head, f"  next: fill it in, or hint({result.name}) (3 of them)"]
        if result.status == "failed":
            head += f" {len(result.differing)} of {len(result.proved)} observations differ."
        lines = [head]
        if result.error:
            lines += [f"  {line}" for line in result.error.splitlines()]
        if result.status == "timeout":
            lines.append("  Is there a loop that never ends, or one that grows much faster than its input?")
        for title, seen, got, difference in _shown(result):
            lines.append(f"  {title}: {seen.label}")
            lines += [f"     {name} = {brief(value)}" for name, value in seen.inputs.items()]
            if difference.kind == "missing" or isinstance(got.value, Raised):
                continue
            if seen.label == UNCHANGED:
                lines.append(f"     {_changed(got.value)}")
                continue
            lines += [
                f"     expected {brief(seen.value)}",
                f"     got      {brief(got.value)}",
                f"     {difference.text}",
            ]
        if result.printed.strip():
            lines.append(f"  your code printed: {brief(result.printed.strip().splitlines()[0])}")
        if result.mistake:
            lines.append(f"  You get just this when: {result.mistake}")
        lines += [f"  {note}" for note in result.notes]
        lines.append(f"  next: {_next(result.name)}")
        return lines

    def html(self) -> str:
        result = self.result
        sign, verdict, colour = _HEAD[result.status]
        count = ""
        if result.passed:
            count = f" All {len(result.proved)} observations agree ({result.seconds:.2f} s)."
        elif result.status == "failed":
            count = f" {len(result.differing)} of {len(result.proved)} observations differ."
        parts = [_p(f"{sign} `{result.name}`: {verdict}.{count}", "font-weight:bold")]
        if result.passed:
            labels = "".join(f"<li>{_code(label)}</li>" for label in result.proved)
            parts.append(f"<details><summary>What was checked</summary><ul>{labels}</ul></details>")
            parts += [_p(note) for note in result.notes]
            parts.append(_p(_week_line(result.name)))
            return _box(colour, "".join(parts))
        if result.status == "todo":
            parts.append(_p(f"Next: fill it in, or `hint({result.name})` (3 of them)."))
            return _box(colour, "".join(parts))
        if result.mistake:
            parts.append(_p(f"You get just this when: {result.mistake}", "font-size:105%;padding:0.3em 0"))
        if result.error:
            parts.append(f'<div style="{_MONO};margin:0.3em 0;overflow-x:auto">{html.escape(result.error)}</div>')
        if result.status == "timeout":
            parts.append(_p("Is there a loop that never ends, or one that grows much faster than its input?"))
        for title, seen, got, difference in _shown(result):
            parts.append(_p(f"{title}: {seen.label}", "margin-top:0.6em"))
            for name, value in seen.inputs.items():
                text = html.escape(f"{name} = {brief(value)}")
                parts.append(f'<div style="{_MONO};opacity:0.85;overflow-x:auto">{text}</div>')
            if difference.kind == "missing" or isinstance(got.value, Raised):
                continue
            if seen.label == UNCHANGED:
                parts.append(_p(_changed(got.value)))
                continue
            parts.append(_side_by_side(seen.value, got.value))
            parts.append(_p(difference.text[:1].upper() + difference.text[1:] + "."))
        if result.printed.strip():
            parts.append(_p(f"Your code printed: {brief(result.printed.strip().splitlines()[0])}"))
        parts += [_p(note) for note in result.notes]
        parts.append(_p(f"Next: {_next(result.name, '`')}", "margin-top:0.6em"))
        return _box(colour, "".join(parts), role="alert")


def _shown(result) -> list[tuple]:
    """The first observation that differs, and the smallest where that is another one."""
    if not result.differing:
        return []
    first, smallest = result.differing[0], result.smallest
    if first is smallest:
        return [("first", *first)]
    return [("first", _without_inputs(first[0]), *first[1:]), ("smallest", *smallest)]


def _without_inputs(observation):
    from dataclasses import replace

    return replace(observation, inputs={})


def _changed(name: str) -> str:
    return f"Your code changes its argument `{name}` in place, so the caller's own copy changes too. Work on a new one."


def _next(name: str, quote: str = "") -> str:
    from shared.learner import hints_taken

    number = hints_taken(name) % 3 + 1
    return f'{quote}hint({name}){quote} ({number} of 3), or go on with {quote}{name} = borrow("{name}"){quote}'


def _week_line(name: str) -> str:
    from shared.answers import state_of

    week = course.find(name).week
    names = [e.name for e in course.exercises().values() if e.week == week]
    done = sum(state_of(other, {}) == "passed" for other in names)
    return f"{week}: {done} of {len(names)} exercises passed."


def _side_by_side(expected: object, got: object) -> str:
    """Expected beside got as two tables, the differing cells marked by bold, a border and a sign."""
    cells = []
    for title, value, other in (("expected", expected, got), ("got", got, expected)):
        cells.append(
            f'<td style="vertical-align:top;text-align:left;padding-right:2em"><b>{title}</b><br>'
            f"{_grid(value, other)}</td>"
        )
    return f'<table style="border:none;margin:0.3em 0"><tr>{"".join(cells)}</tr></table>'


def _grid(value: object, other: object) -> str:
    rows = _rows(value)
    if rows is None:
        return f'<span style="font-family:monospace">{html.escape(brief(value))}</span>'
    others = _rows(other)
    same_shape = others is not None and [len(r) for r in rows] == [len(r) for r in others]
    out = []
    for i, row in enumerate(rows):
        tds = []
        for j, item in enumerate(row):
            differs = not same_shape or compare(others[i][j], item, 1e-4, 1e-5) is not None
            mark = "font-weight:bold;border:1px solid #D55E00" if differs else "border:1px solid transparent"
            sign = "≠" if differs else ""
            text = html.escape(brief(item, 24))
            tds.append(f'<td style="font-family:monospace;text-align:right;padding:1px 6px;{mark}">{text}{sign}</td>')
        out.append(f"<tr>{''.join(tds)}</tr>")
    return f'<table style="border-collapse:collapse;margin:0.2em 0">{"".join(out)}</table>'


def _rows(value: object) -> list[list] | None:
    """A small tensor or flat list as rows of a table; None where one line says it better."""
    if type(value).__name__ in ("Tensor", "Parameter"):
        if value.numel() > SMALL or value.numel() == 0:
            return None
        flat = value.detach()
        flat = flat.reshape(1, -1) if flat.dim() < 2 else flat.reshape(-1, flat.shape[-1])
        return flat.tolist()
    if (
        isinstance(value, (list, tuple))
        and 0 < len(value) <= 12
        and not any(isinstance(item, (list, tuple, dict, set)) or hasattr(item, "shape") for item in value)
    ):
        return [list(value)]
    return None


@dataclass(repr=False)
class NoteCard(Card):
    """One sentence."""

    text: str

    def lines(self) -> list[str]:
        return [self.text]

    def html(self) -> str:
        return _box("#999999", _p(self.text), role="note")


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
        return _box("#E69F00", _p(f"`{self.name}`, hint {self.number} of {self.total}: {self.text}"), role="note")


@dataclass(repr=False)
class ProgressCard(Card):
    """Passed, tried and open exercises of one week or of all."""

    week: str | None = None

    def rows(self) -> list[tuple[str, str, str, int]]:
        """(week, lesson, name, attempts) joined with the state: one row an exercise, in course order."""
        from shared.answers import attempts, state_of

        diary = attempts()
        return [
            (e.week, e.lesson, e.name, state_of(e.name, diary), len(diary.get(e.name, ())))
            for e in course.exercises().values()
            if self.week in (None, e.week)
        ]

    def lines(self) -> list[str]:
        lines = []
        for (week, lesson), rows in self._by_lesson().items():
            done = sum(row[3] == "passed" for row in rows)
            lines.append(f"{week} / {lesson}: {done} of {len(rows)}")
            lines += [f"  {_SIGNS[row[3]]} {row[2]}: {row[3]}" for row in rows]
        return lines or ["There are no exercises here yet."]

    def html(self) -> str:
        blocks = []
        for (week, lesson), rows in self._by_lesson().items():
            done = sum(row[3] == "passed" for row in rows)
            names = " &nbsp; ".join(
                f'<span title="{row[3]}, {row[4]} attempts">{_SIGNS[row[3]]} <code>{row[2]}</code></span>'
                for row in rows
            )
            title = f"{lesson}" if self.week else f"{week} / {lesson}"
            blocks.append(
                f'<tr><td style="text-align:left;vertical-align:top"><b>{title}</b></td>'
                f'<td style="vertical-align:top"><progress value="{done}" max="{len(rows)}" '
                f'aria-label="{title}: {done} of {len(rows)} passed"></progress> {done} of {len(rows)}</td>'
                f'<td style="text-align:left;line-height:1.6">{names}</td></tr>'
            )
        legend = _p("✓ passed   ◐ tried   ○ open", "opacity:0.8;font-size:90%")
        return _box("#0072B2", f"<table>{''.join(blocks)}</table>{legend}")

    def _by_lesson(self) -> dict[tuple[str, str], list[tuple]]:
        grouped: dict[tuple[str, str], list[tuple]] = {}
        for row in self.rows():
            grouped.setdefault(row[:2], []).append(row)
        return grouped


_SIGNS = {"passed": "✓", "tried": "◐", "open": "○"}
