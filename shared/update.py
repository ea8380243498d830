"""`sixweeks update` and `sixweeks restore`: a new version of the course, with all that the learner wrote in it."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shared import answers, course
from shared.build import text_of
from shared.cells import NotebookError, statements
from shared.clone import UNCHANGED, VERSION, UpdateError, changed_notebooks, git, git_says, put_back, set_aside, stamp
from shared.merging import Changes, Merger, Mine
from shared.notebooks import read, rename

RENAMED: dict[str, str] = {}  # exercises that got another name: old -> new


@dataclass
class Report:
    """What was done, line by line; `refused` where a notebook could not be written."""

    lines: list[str] = field(default_factory=list)
    refused: bool = False

    def __str__(self) -> str:
        return "\n".join(self.lines)


def update(root: Path = course.ROOT, dry_run: bool = False, renamed: dict[str, str] = RENAMED) -> Report:
    """Bring the published version, and put all that the learner wrote into it; all or nothing."""
    changed = changed_notebooks(root)
    try:
        git(root, "fetch", "--quiet")
    except subprocess.SubprocessError as error:
        raise UpdateError(
            "The published course cannot be reached, and nothing was changed. Is there a network? "
            f"git says: {git_says(error)}"
        ) from None
    head = git(root, "rev-parse", "HEAD").strip()
    ahead, behind = map(int, git(root, "rev-list", "--left-right", "--count", "HEAD...@{upstream}").split())
    if not behind:
        return Report(["You have the newest version; nothing was changed."])
    if ahead:
        raise UpdateError(
            f"Your branch has diverged: it holds {ahead} commits of its own, and {behind} new ones are published. "
            "Nothing was changed. Keep yours by another name, take the published version, and put your work into it:\n"
            "  git branch my-work\n  git worktree add work/my-work my-work\n  git reset --keep @{upstream}\n"
            "  sixweeks restore work/my-work"
        )
    there = [path for path, status in changed.items() if status != "D"]
    if dry_run:
        with tempfile.TemporaryDirectory() as folder:
            archive = subprocess.run(["git", "-C", root, "archive", "@{upstream}"], capture_output=True, check=True)
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
                files.extractall(folder, filter="data")
            mine, report = _collect(root, [root / path for path in there], head, Path(folder), root)
            _merge(Path(folder), mine, report, renamed, dry_run=True)
        report.lines.insert(0, f"{behind} new commits. This is what an update would do; nothing was changed.")
        return report
    stamps = {path: stamp(root / path) for path in there}
    kept = set_aside(root, there, head)
    if moved := [path for path in there if stamp(root / path) != stamps[path]]:
        shutil.rmtree(kept, ignore_errors=True)
        raise UpdateError(f"Something still writes to {', '.join(moved)}: close it in JupyterLab first. {UNCHANGED}")
    try:
        if changed:
            git(root, "checkout", "--quiet", "HEAD", "--", *changed)
        git(root, "merge", "--quiet", "--ff-only", "@{upstream}")
        mine, report = _collect(kept, _notebooks(kept), head, root, root)
        _merge(root, mine, report, renamed)
    except BaseException as error:
        put_back(root, kept, head, changed)
        if isinstance(error, subprocess.SubprocessError):
            raise UpdateError(f"git could not bring the new version: {git_says(error)}. {UNCHANGED}") from None
        if isinstance(error, (OSError, UpdateError, course.SourceError)):
            raise UpdateError(f"{str(error).rstrip('.')}. The update was taken back. {UNCHANGED}") from None
        raise
    report.lines.insert(0, f"Updated: {behind} new commits.")
    if there:
        report.lines.append(f"Your notebooks as they were: {kept}")
    else:
        shutil.rmtree(kept, ignore_errors=True)
    if git(root, "diff", "--name-only", head, "HEAD", "--", "pyproject.toml"):
        report.lines.append("The course may need other packages now: pip install -e .")
    report.lines.append("Open in JupyterLab? File > Reload Notebook from Disk shows the new version.")
    return report


def restore(
    folder: Path | None = None,
    root: Path = course.ROOT,
    dry_run: bool = False,
    renamed: dict[str, str] = RENAMED,
) -> Report:
    """Put the learner's work back: from a folder, or from the newest kept copy and, for other lessons, `work/`."""
    if folder is not None and not folder.is_dir():
        raise NotADirectoryError(f"There is no folder {folder}. Without one, `sixweeks restore` takes the newest copy.")
    saved = folder is None
    copies = sorted(path for path in (course.work_folder(root) / "kept").glob("[0-9]*") if path.is_dir())
    folder = folder or (copies[-1] if copies else None)
    mine, report = [], Report()
    if folder is not None:
        report.lines.append(f"From {folder}:")
        version = folder / VERSION
        version = version.read_text(encoding="utf-8").strip() if version.exists() else None
        mine, found = _collect(folder, _notebooks(folder), version, root, root)
        report.lines += found.lines
    try:
        _merge(root, mine, report, renamed, course.work_folder(root) if saved else None, dry_run)
    except UpdateError as error:
        raise UpdateError(
            f"{error} Each notebook is whole, old or new. Make room, or make the folder writable, and restore again."
        ) from None
    if dry_run:
        report.lines.append("Nothing was written: this was a dry run.")
    return report


def _notebooks(folder: Path) -> list[Path]:
    """The notebooks of a folder; of a whole course not its work folder, environments and hidden ones."""
    found = sorted(folder.rglob("*.ipynb"))
    parts = {path: path.relative_to(folder).parts[:-1] for path in found}
    return [p for p in found if not any(part.startswith(".") or part in ("work", "venv") for part in parts[p])]


def _collect(
    folder: Path, paths: list[Path], version: str | None, root: Path, clone: Path
) -> tuple[list[Mine], Report]:
    """The learner's notebooks of these paths, each with what was published when they began; and those left aside."""
    mine, report = [], Report()
    for path in paths:
        where = path.relative_to(folder).as_posix()
        try:
            notebook = read(path.read_bytes().decode("utf-8-sig"), where)
        except (NotebookError, OSError, UnicodeDecodeError) as error:
            report.lines.append(
                f"{where}: yours is left untouched in {path}, and the new version stands. {error}. "
                "`sixweeks restore` puts your saved answers in."
            )
            continue
        told = re.search(r"'source': '([^']+)/lessons/([^']+)\.py'", str(notebook.metadata.get("sixweeks")))
        lesson = f"{told[1]}/{told[2]}.ipynb" if told else where
        if not told and not (root / where).exists():
            report.lines.append(f"{where}: left alone, it is no notebook of the course.")
            continue
        before = []
        if version:
            with contextlib.suppress(subprocess.SubprocessError, NotebookError):
                before = read(git(clone, "show", f"{version}:{where}"), where).cells
        mine.append(Mine(lesson, notebook.cells, before))
    return mine, report


def _merge(
    root: Path,
    mine: list[Mine],
    report: Report,
    renamed: dict[str, str],
    saved: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Merge in memory, then write one notebook after the other, each all or nothing; the report says what changes."""
    course.forget_exercises()
    exercises = course.exercises(root)
    pages, stamps = {}, {}
    lessons = [
        root / week / f"{source.stem}.ipynb" for week in course.weeks(root) for source in course.lessons(week, root)
    ]
    for path in [*sorted(root.glob("*.ipynb")), *(path for path in lessons if path.exists())]:
        name = path.relative_to(root).as_posix()
        stamps[name] = stamp(path)
        try:
            pages[name] = read(path.read_text(encoding="utf-8"), name)
        except (NotebookError, UnicodeDecodeError) as error:
            report.refused = True
            report.lines.append(
                f"{name}: left as it is. {error}. `git checkout HEAD -- {name}` takes the published one."
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # about the learner's strings: not now
        merger = Merger(pages, exercises, renamed)
        merger.merge([notebook for notebook in mine if notebook.path not in stamps.keys() - pages.keys()])
        handled = {notebook.path for notebook in mine}
        for name, (path, _) in merger.targets.items() if saved else ():
            if path not in handled and (answer := _saved_answer(saved, name, pages[path], exercises, renamed)):
                merger.answer(name, answer)
    for name, changes in merger.changes.items():
        if not changes:
            continue
        if not dry_run and stamp(root / name) != stamps[name]:
            report.refused = True
            report.lines.append(
                f"{name}: not written, another program has just changed it. Close it in JupyterLab first, then run "
                "`sixweeks restore`."
            )
            continue
        if not dry_run:
            try:
                answers.write_atomically(root / name, text_of(pages[name]))
            except OSError as error:
                raise UpdateError(f"{name} cannot be written: {error}.") from None
        report.lines.append(_told(name, changes))
    if not report.refused and not any(merger.changes.values()):
        report.lines.append("Nothing to put back: all that is yours stands in the notebooks.")


def _told(name: str, changes: Changes) -> str:
    """What one notebook gets, in a line and one more for each conflict."""
    parts = []
    if changes.answers:
        parts.append(f"answers put back: {', '.join(changes.answers)}")
    if changes.kept:
        parts.append(f"cells of yours kept: {len(changes.kept)}")
    if changes.conflicts:
        parts.append(f"conflicts kept beside: {', '.join(changes.conflicts)}")
    return "\n".join([f"{name}: {'; '.join(parts)}", *(f"    {text}" for text in changes.kept)])


def _saved_answer(saved: Path, name: str, page, exercises: Iterable[str], renamed: dict[str, str]) -> str | None:
    """A passed answer from `work/`, without what the notebook gives it; None if there is none or it does not parse."""
    old = [name, *(before for before, now in renamed.items() if now == name)]
    path = next((path for called in old for path in sorted(saved.glob(f"*/{called}.py"))), None)
    if path is None:
        return None
    try:
        source = rename(path.read_text(encoding="utf-8"), renamed)
    except (OSError, UnicodeDecodeError):
        return None
    there = {s.source for s in statements(c.source for c in page.cells if c.cell_type == "code")}
    given = {bound for s in statements([source]) if s.source in there for bound in s.binds}
    answer = answers.extract([source], name, given | set(exercises))
    return None if answer is None or answer.borrowed else answer.source.strip("\n")
