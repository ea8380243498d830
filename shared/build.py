"""Sources to notebooks: `python -m shared.build [--check] [week ...]`.

lessons/NN_x.py + solutions/x.py + checks/x.py -> NN_x.ipynb, byte for byte the same every time;
lessons/graded_solution.py -> graded_solution.ipynb, executed; shared/start.py -> start.ipynb, with an empty calendar.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import sys
import tempfile
import tomllib
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from shared import answers, bootstrap, cells, course, homepage
from shared.checking import Check, find_check
from shared.course import SourceError

GRADED, START = "graded_solution", "start"
TAGS = {"exercise", "given", "solution"}


def repository(root: Path = course.ROOT) -> str:
    """The repository's address; it stands in pyproject.toml and nowhere else."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def notebook_of(path: Path) -> Path:
    """Where the notebook of a source goes: beside the source's folder."""
    return path.parent.parent / f"{path.stem}.ipynb"


def build_notebook(path: Path, solved: bool = False, root: Path = course.ROOT) -> nbformat.NotebookNode:
    """The notebook of a lesson source; `solved` puts the course's answers where the learner's go."""
    import jupytext

    address = repository(root)
    colab = address.replace("https://github.com/", "https://colab.research.google.com/github/")
    source, target = (name.relative_to(root).as_posix() for name in (path, notebook_of(path)))
    lesson = path.stem not in (GRADED, START)
    role = "Fill in the exercises here. To change the lesson itself, edit" if lesson else "To change it, edit"
    badge = (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}/blob/main/{target})"
        f"\n\n*Generated from `{source}`. {role} that file and run `python -m shared.build`.*"
    )
    made_cells = [new_markdown_cell(badge)]
    bound: set[str] = set()
    for number, cell in enumerate(jupytext.read(path).cells):
        tags = cell.metadata.get("tags", [])
        special = TAGS.intersection(tags)
        if cell.cell_type == "markdown":
            made = [new_markdown_cell(cell.source)]
        elif special:
            made = _expand(path, cell, special.pop(), solved, bound, root)
        else:
            made = [new_code_cell(cell.source, metadata={"tags": tags} if tags else {})]
        for new in made:
            if new.cell_type == "code":
                bound.update(name for s in cells.statements([new.source]) for name in s.binds)
        made_cells += made
        if number == 0:
            made_cells.append(new_code_cell(bootstrap.cell(target, address), metadata=bootstrap.METADATA))
    if path.stem == START:
        homepage.store_preview(made_cells, root)
    notebook = new_notebook(cells=with_ids(made_cells))
    notebook.metadata = nbformat.from_dict(
        {
            "accelerator": "GPU",
            "colab": {"gpuType": "T4", "provenance": []},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "sixweeks": {"source": source},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def _expand(path: Path, cell, tag: str, solved: bool, bound: set[str], root: Path) -> list:
    """A cell that only imports names from `solutions/`, as what the learner sees in its place."""
    line = _line_of(path, cell.source)
    try:
        (node,) = ast.parse(cell.source).body
        module = root.joinpath(*node.module.split(".")).with_suffix(".py")
        names = [alias.name for alias in node.names]
        assert isinstance(node, ast.ImportFrom) and (tag == "given" or module.parent.name == "solutions")
    except (SyntaxError, ValueError, AttributeError, AssertionError):
        message = f"a cell tagged `{tag}` holds one line: from WEEK.solutions.LESSON import NAME"
        raise SourceError(path, line, message) from None
    found = course.definitions(module)
    week, lesson = module.relative_to(root).parts[0], module.stem
    made = []
    for name in names:
        if name not in found:
            raise SourceError(path, line, f"{module.relative_to(root).as_posix()} defines no {name!r}")
        source = found[name][1]
        exercise = course.Exercise(name, week, lesson, path, line, source)
        if tag == "given":
            made.append(new_code_cell(source))
            continue
        if course.BEGIN not in source:
            raise SourceError(path, line, f"{name!r} has no {course.BEGIN}: it is not an exercise")
        if tag == "solution":
            made.append(new_code_cell(exercise.solution, metadata={"tags": ["solution"]}))
            continue
        unbound = _signature_names(exercise.skeleton) - bound
        if unbound:
            missing = ", ".join(sorted(unbound))
            raise SourceError(path, line, f"the skeleton of {name} uses {missing}, which no earlier cell imports")
        made += [
            new_markdown_cell(_header(find_check(name))),
            new_code_cell(exercise.solution if solved else exercise.skeleton, metadata={"tags": ["exercise"]}),
            new_code_cell(f"check({name})", metadata={"tags": ["check"]}),
        ]
    return made


def _header(check: Check) -> str:
    """Name, difficulty, minutes and the folded hints of an exercise."""
    hints = "\n\n".join(
        f"<details><summary>Hint {i} of {len(check.hints)}</summary>\n\n{text}\n\n</details>"
        for i, text in enumerate(check.hints, 1)
    )
    return (
        f"### Exercise: `{check.name}`\n\nDifficulty {check.difficulty} of 5, about {check.minutes} minutes.\n\n{hints}"
    )


def _signature_names(skeleton: str) -> set[str]:
    """Names that must exist when the skeleton is defined: annotations, defaults, decorators, base classes."""
    empty = ast.parse(skeleton)
    for node in ast.walk(empty):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [ast.Pass()]
    (statement,) = cells.statements([ast.unparse(ast.fix_missing_locations(empty))])
    return set(statement.uses) - statement.binds


def _line_of(path: Path, source: str) -> int:
    first = source.strip().splitlines()[0] if source.strip() else ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() == first:
            return number
    return 1


def with_ids(cells: list) -> list:
    """Ids from the cells' content: the same text keeps its id, whatever happens around it."""
    count: dict[str, int] = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        count[digest] = count.get(digest, 0) + 1
        cell["id"] = digest if count[digest] == 1 else f"{digest}-{count[digest]}"
    return cells


def execute(notebook, folder: Path) -> None:
    """Run a notebook where it stands, as for a learner who has not begun, and keep nothing that changes by run."""
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as work:
        env = {**os.environ, "SIXWEEKS_WORK": work}
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=env)
    for cell in notebook.cells:  # what a library remarks on this machine's processor is not a result
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}


def text_of(notebook) -> str:
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"


def _bare(notebook) -> str:
    """A notebook as text, without outputs and counts: what must equal a fresh build."""
    copy = nbformat.from_dict(json.loads(json.dumps(notebook)))
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return text_of(copy)


def validate(root: Path = course.ROOT) -> None:
    """Refuse faults in solutions and checks, with file and line."""
    for exercise in course.exercises(root).values():
        path = root / exercise.week / "checks" / f"{exercise.lesson}.py"
        course.lesson_notebook(exercise, root)
        try:
            check = find_check(exercise.name)
        except (LookupError, ImportError) as error:
            raise SourceError(path, 1, str(error)) from None
        if len(check.hints) != 3 or not 1 <= check.difficulty <= 5:
            line = _line_of(path, f'"{exercise.name}",')
            raise SourceError(path, line, f"{exercise.name} wants three hints and a difficulty from 1 to 5")
        for sentence, made in check.mistakes.items():
            if not callable(made):
                try:
                    course.edited_source(exercise, made)
                except SourceError as error:
                    lines = path.read_text(encoding="utf-8").splitlines()
                    line = next((i for i, text in enumerate(lines, 1) if sentence[:30] in text), 1)
                    raise SourceError(path, line, str(error).split(": ", 1)[1]) from None


def stale(path: Path, root: Path = course.ROOT) -> str | None:
    """Why the notebook of this source is not up to date, or None."""
    target = notebook_of(path)
    if not target.exists():
        return "is missing"
    stored = nbformat.read(target, as_version=nbformat.NO_CONVERT)
    if path.stem != GRADED:
        fresh = text_of(build_notebook(path, root=root))
        return None if target.read_text(encoding="utf-8") == fresh else "is stale"
    if _bare(stored) != _bare(build_notebook(path, root=root)):
        return "is stale"
    for cell in stored.cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            return "is not executed"
        if any(out.output_type == "error" for out in cell.get("outputs", [])):
            return "holds an error"
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m shared.build", description=__doc__.splitlines()[0])
    parser.add_argument("weeks", nargs="*", help="folders to build (default: all)")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a notebook is not up to date")
    parser.add_argument("--execute", action="store_true", help="execute graded notebooks again, changed or not")
    options = parser.parse_args(arguments)
    try:
        validate()
        bad = 0
        paths = [path for week in options.weeks or course.weeks() for path in course.lessons(week.strip("/"))]
        for path in paths if options.weeks else [*paths, course.ROOT / "shared" / f"{START}.py"]:
            target = notebook_of(path)
            name = target.relative_to(course.ROOT).as_posix()
            why = "is to be executed again" if options.execute and path.stem == GRADED else stale(path)
            if options.check:
                bad += why is not None
                print(f"{name}: {why or 'up to date'}")
            elif why:
                notebook = build_notebook(path)
                if path.stem == GRADED:
                    print(f"{name}: executing ...", flush=True)
                    execute(notebook, target.parent)
                answers.write_atomically(target, text_of(notebook))
                print(f"{name}: written")
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1
    if bad:
        print(f"{bad} not up to date: run python -m shared.build", file=sys.stderr)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
