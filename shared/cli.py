"""The `sixweeks` command: lab, check, grade, status, leaderboard, doctor, update, restore, site."""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from shared import course


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sixweeks", description="LLMs in six weeks")
    commands = parser.add_subparsers(dest="command", required=True)
    lab_parser = commands.add_parser("lab", help="open JupyterLab at the start page")
    lab_parser.add_argument("options", nargs=argparse.REMAINDER, help="passed on to JupyterLab")
    check_parser = commands.add_parser("check", help="run notebooks by nbval and say which exercises are right")
    check_parser.add_argument("target", nargs="?", help="a week or a notebook (default: every lesson)")
    grade_parser = commands.add_parser("grade", help="grade a notebook, a week, or a folder of notebooks")
    grade_parser.add_argument("target", help="a week, a notebook or a folder")
    grade_parser.add_argument(
        "--out", type=Path, action="append", default=[], help="also write the grades to this .csv or .html file"
    )
    grade_parser.add_argument("--seed", type=int, help="of a class: grade again with this seed (default: a fresh one)")
    commands.add_parser("status", help="the six weeks: what is passed, tried and open, and what is next")
    commands.add_parser("leaderboard", help="the models of the course, and yours, over all tasks of week 3")
    commands.add_parser("doctor", help="what works on this machine, what does not, and what to do")
    update_parser = commands.add_parser("update", help="bring the newest version of the course, with your work in it")
    restore_parser = commands.add_parser("restore", help="put your answers, notes and cells back into the notebooks")
    restore_parser.add_argument("folder", nargs="?", type=Path, help="a copy of your notebooks (default: the newest)")
    for one in (update_parser, restore_parser):
        one.add_argument("--dry-run", action="store_true", help="say what would change, and write nothing")
    site_parser = commands.add_parser("site", help="execute the lessons and build the course's website")
    site_parser.add_argument("--out", type=Path, default=course.ROOT / "build" / "site", help="where (build/site)")
    site_parser.add_argument("--weeks", nargs="+", help="execute the lessons of these weeks only (default: all)")
    site_parser.add_argument("--quick", action="store_true", help="execute nothing; show the outputs that are kept")
    site_parser.add_argument("--jobs", type=int, help="lessons to execute at once (default: one a core)")
    options, rest = parser.parse_known_args(arguments)
    if options.command == "lab":
        options.options += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        known = (lab, check, grade, status, leaderboard, doctor, update, restore, site)
        return {command.__name__: command for command in known}[options.command](options)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def lab(options: argparse.Namespace) -> int:
    """JupyterLab on the course's folder, opened at the start page."""
    from shared.doctor import quick_look

    where = "start.ipynb"
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={course.ROOT}",
        f"--LabApp.default_url=/lab/tree/{where}",
        *options.options,
    ]
    if not (course.ROOT / where).exists():
        raise FileNotFoundError(
            f"{where} is not there. `git status` may say why; `python -m shared.build` makes it anew."
        )
    if importlib.util.find_spec("jupyterlab") is None:
        raise FileNotFoundError(f"JupyterLab is not installed in {sys.executable}. In the course: pip install -e .")
    for name, ok, text in quick_look():
        if not ok:
            print(f"look  {name:14} {text}")
    print(f"Opening {where}. Stop with Ctrl-C.")
    server = subprocess.Popen(command)
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:  # JupyterLab got it too, and asks whether to stop
            continue


def check(options: argparse.Namespace) -> int:
    """Run lessons by nbval; a summary by exercise instead of a wall of tracebacks."""
    return max((summarise(path) for path in _notebooks(options.target)), default=0)


def run_nbval(path: Path, strict: bool = False) -> dict[int, str]:
    """Run a notebook under nbval; code cell number -> "" where it passed, else what nbval reported."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--nbval" if strict else "--nbval-lax", "--nbval-current-env"]
        command += [
            "--nbval-cell-timeout=600",
            f"--junit-xml={report}",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            str(path),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if not report.exists():
            raise ValueError(f"nbval could not run {path}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        found: dict[int, str] = {}
        for case in ElementTree.parse(report).iter("testcase"):
            number = re.search(r"Cell (\d+)$", case.get("name"))
            problem = next((child for child in case if child.tag in ("failure", "error")), None)
            if number is None:
                raise ValueError(f"nbval could not run {path}: {done.stdout[-2000:]}")
            found[int(number[1])] = "" if problem is None else f"{problem.get('message', '')}\n{problem.text or ''}"
        return found


def summarise(path: Path) -> int:
    """Print one line an exercise and one for each other failing cell; 0 if all cells passed."""
    import nbformat

    from shared import cells

    notebook = nbformat.read(path, as_version=4)
    code = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    waiting = cells.depends_on_exercises(notebook)
    outcome = run_nbval(path)
    failed = 0
    print(path.as_posix())
    for number, (index, cell) in enumerate(code):
        problem = outcome.get(number, "")
        name = re.match(r"check\((\w+)", cell.source)
        failed += bool(problem)
        if name:
            print(f"  {'✗' if problem else '✓'} {name[1]}")
            for line in card_lines(problem, name[1]):
                print(f"      {line}")
        elif problem and index not in waiting:
            last = [line for line in _plain(problem) if line.strip()][-1:] or ["it failed"]
            print(f"  ✗ code cell {number}: {last[0]}")
    rest = sum(
        bool(outcome.get(n)) and i in waiting and not c.source.startswith("check(") for n, (i, c) in enumerate(code)
    )
    if rest:
        print(f"  {rest} more cells wait for these exercises.")
    return int(failed > 0)


def _plain(problem: str) -> list[str]:
    """The lines of a report without terminal colours, which XML writes as #x1B."""
    return [re.sub(r"(\x1b|#x1B)\[[0-9;]*m", "", line) for line in problem.splitlines()]


def card_lines(problem: str, name: str) -> list[str]:
    """The plain-text card inside nbval's report."""
    lines = _plain(problem)
    start = next((i for i, line in enumerate(lines) if line.startswith(f"{name}: ")), None)
    if start is None:
        return []
    end = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
    return lines[start:end]


def _notebooks(target: str | None) -> list[Path]:
    """Lesson notebooks of a week, of all weeks, or the one that is named."""
    if target is None or target.strip("/") in course.weeks():
        wanted = course.weeks() if target is None else [target.strip("/")]
        names = dict.fromkeys(course.lesson_notebook(e) for e in course.exercises().values() if e.week in wanted)
        return list(names)
    path = Path(target)
    if not path.is_file():
        raise FileNotFoundError(f"There is no notebook or week {target!r}. The weeks: {', '.join(course.weeks())}.")
    return [path]


def grade(options: argparse.Namespace) -> int:
    from shared.grading import grade as grade_one
    from shared.grading import write_gradebook

    target = Path(options.target)
    if target.is_dir() and options.target.strip("/") not in course.weeks():
        return _grade_class(target, options.out, options.seed)
    if any(path.suffix.lower() in (".html", ".htm") for path in options.out):
        raise ValueError("An HTML page is made of a folder of notebooks. For one notebook: --out grades.csv")
    graded = grade_one(options.target)
    print(graded)
    for path in options.out:
        write_gradebook({options.target: graded}, path)
        print(f"written: {path}")
    return 0


def _grade_class(folder: Path, out: list[Path], seed: int | None) -> int:
    from shared.classroom import Kept, grade_class, summary, write_csv
    from shared.gradebook import write_html

    kept = Kept(out[0].with_suffix(".judged.jsonl")) if out else None
    try:
        graded = grade_class(folder, seed=seed, kept=kept, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        if kept is not None:
            print(f"\nStopped. {len(kept)} judged answers are kept: the same command goes on from there.")
        raise
    if not graded.students:
        raise FileNotFoundError(f"There is no notebook (*.ipynb, also in .zip) in {folder}.")
    print(summary(graded))
    for path in out:
        (write_html if path.suffix.lower() in (".html", ".htm") else write_csv)(graded, path)
        print(f"written: {path}")
    return 0


def status(options: argparse.Namespace) -> int:
    """The same as the card of the start page."""
    from shared import homepage

    print(homepage.current())
    return 0


def leaderboard(options: argparse.Namespace) -> int:
    """The course's rows and the learner's own, best first; nothing is scored here."""
    from shared import leaderboard as boards

    print(boards.table(boards.current()))
    print(f"± is half of a 95 % interval. Your own rows: {boards.own_file()}")
    return 0


def update(options: argparse.Namespace) -> int:
    from shared import update as updating

    report = updating.update(dry_run=options.dry_run)
    print(report)
    return int(report.refused)


def restore(options: argparse.Namespace) -> int:
    from shared import update as updating

    report = updating.restore(options.folder, dry_run=options.dry_run)
    print(report)
    return int(report.refused)


def site(options: argparse.Namespace) -> int:
    from shared.site import build_site

    built = build_site(options.out, options.weeks, options.quick, options.jobs)
    print(built)
    return int(bool(built.failed))


def doctor(options: argparse.Namespace) -> int:
    """One line for each thing the course needs: ok, or what to do."""
    from shared.doctor import examine

    bad = 0
    for name, ok, text in examine():
        print(f"{'ok  ' if ok else 'look'}  {name:14} {text}")
        bad += not ok
    print("All is well." if not bad else f"{bad} to look at.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
