"""Notebooks of the course as pages: outputs without what belongs to a live kernel, solutions and answers folded."""

from __future__ import annotations

import html
import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell

from shared import build, course
from shared.cells import statements
from shared.questions import Choice, Question, questions_of
from shared.site.links import repaired

QUIZ = re.compile(r'^quiz\("(\w+)"\)$', flags=re.MULTILINE)
BAR = re.compile(r"\s*([^\n:]*: *)?(\d+%\||\d+\w* \[)")  # the text of a progress bar
NO_OUTPUTS = "The outputs are missing here: this page was built before the lesson was executed."
OLD_OUTPUTS = "The outputs are from a run with an earlier version of the course's code."


def page(path: Path, executed: nbformat.NotebookNode | None, note: str = "") -> nbformat.NotebookNode:
    """The page of a lesson source, with the outputs of `executed`, its notebook as it ran, solved."""
    notebook = build.build_notebook(path)
    ran = {cell.id: cell for cell in executed.cells} if executed else {}  # ids come from the text of the cells
    place = build.notebook_of(path).parent
    cells: list = []
    for cell in notebook.cells[1:]:  # the first holds the badge
        tags = cell.metadata.get("tags", [])
        quiz = QUIZ.search(cell.source)
        if cell.cell_type == "markdown":
            cell.source = repaired(cell.source, place)
            if not cells:
                cell.source = with_links(cell.source, path, note)
        elif "bootstrap" in tags or cell.source.startswith("progress("):
            continue  # one is for Colab, the other tells how far a learner is
        elif quiz:
            cells[-1].source = "## Quiz\n\nDecide first, then open the answer."
            cell = new_markdown_cell("\n\n".join(quiz_text(questions_of(quiz[1]))))
        elif cell.id in ran:
            cell.outputs, cell.execution_count = kept(ran[cell.id].outputs), ran[cell.id].execution_count
        cells.append(cell)
        if "exercise" in tags:
            cells.append(new_markdown_cell(folded(cell.source)))
    notebook.cells = build.with_ids(cells)
    notebook.metadata["language_info"]["pygments_lexer"] = "ipython3"
    return notebook


def with_links(text: str, path: Path, note: str) -> str:
    """The first cell of a lesson with what one can do with it below the title, and a note on its outputs."""
    title, _, rest = text.partition("\n")
    address = build.repository()
    notebook, source = (p.relative_to(course.ROOT).as_posix() for p in (build.notebook_of(path), path))
    colab = address.replace("https://github.com/", "https://colab.research.google.com/github/")
    links = {
        "Open in Colab": f"{colab}/blob/main/{notebook}",
        "Notebook": f"{address}/blob/main/{notebook}",
        "Source": f"{address}/blob/main/{source}",
    }
    line = "\n".join(f'<a href="{html.escape(link)}">{name}</a>' for name, link in links.items())
    parts = [title, f'<p class="lesson-links">\n{line}\n</p>', *([f":::{{note}}\n{note}\n:::"] if note else [])]
    return "\n\n".join(parts) + f"\n\n{rest.lstrip()}"


def folded(skeleton: str) -> str:
    """The solution of an exercise behind a button, which is the browser's own and works by keyboard."""
    (name,) = statements([skeleton])[-1].binds
    summary = f"<summary>Show the solution of <code>{name}</code></summary>"
    return f'<details class="solution">{summary}\n\n```python\n{course.find(name).solution}\n```\n\n</details>'


def quiz_text(questions: tuple[Question, ...]) -> list[str]:
    """The questions of a quiz as paragraphs of Markdown, each with its answer folded."""
    parts = []
    for number, question in enumerate(questions, 1):
        parts.append(f"**{number}.** {question.text}")
        if isinstance(question, Choice):
            shown = question.shown.items()
            parts.append("\n".join(f"- {letter}. {option.text}" for letter, option in shown))
            right = next(letter for letter, option in shown if option.right)
            reasons = [f"- {letter}: {option.why}" for letter, option in shown]
            answer = [f"**{right} is right.**", "\n".join(reasons)]
        else:
            reasons = [f"- {question.amount(near)}: {why}" for near, why in question.near.items()]
            answer = [f"**{question.amount(question.value)}.** {question.why}"]
            answer += ["Not right, but with a reason:", "\n".join(reasons)] if reasons else []
        parts += [f"<details><summary>Answer to question {number}</summary>", *answer, "</details>"]
    return parts


def kept(outputs: list) -> list:
    """Outputs without progress bars, remarks of libraries, and views of widgets, which need a kernel and random ids."""
    found = []
    for output in outputs:
        data = output.get("data", {})
        for kind in [kind for kind in data if "widget-view" in kind]:
            del data[kind]
        bar = set(data) == {"text/plain"} and BAR.match(data["text/plain"])
        if output.get("name") != "stderr" and not bar and (data or "data" not in output):
            found.append(output)
    return found
