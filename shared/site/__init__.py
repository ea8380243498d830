"""The website: `sixweeks site` builds it with Sphinx, without a network, from the course's own files."""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shared import build, course
from shared.site import executing, pages, source

NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx-mathjax-offline")
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2/*", "input/tex/extensions/*", "a11y/*", "sre/mathmaps/en.json")
MATHJAX += ("sre/mathmaps/base.json", "sre/mathmaps/nemeth.json")  # what pages, and screen readers of formulas, load


@dataclass(frozen=True)
class Site:
    """A built site: where it is, how many pages, and the lessons that lack outputs or failed, with what is wrong."""

    folder: Path
    pages: int
    size: int
    notes: dict[Path, str]
    failed: dict[Path, str]

    def __str__(self) -> str:
        lines = [f"{path.stem} failed: {text}" for path, text in self.failed.items()]
        for note, what in ((pages.NO_OUTPUTS, "Without outputs"), (pages.OLD_OUTPUTS, "With outputs of earlier code")):
            names = [path.stem for path, text in self.notes.items() if text == note]
            lines += [f"{what}, {len(names)} lessons: {', '.join(names)}"] if names else []
        return "\n".join([*lines, f"{self.pages} pages, {self.size / 1e6:.1f} MB: {self.folder / 'index.html'}"])


def build_site(
    out: Path,
    weeks: list[str] | None = None,
    quick: bool = False,
    jobs: int | None = None,
    kept: Path = executing.KEPT,
) -> Site:
    """Execute the lessons of these weeks (all if None) where their outputs are not current, and build all pages.

    `quick` executes nothing: pages have the outputs that are kept, or none, and say so.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"The site needs {', '.join(missing)}: pip install -e '.[site]'")
    unknown = set(weeks or ()) - set(course.weeks())
    if unknown:
        raise ValueError(f"There is no week {', '.join(sorted(unknown))}. The weeks: {', '.join(course.weeks())}.")
    if out.exists() and any(out.iterdir()) and not (out / ".buildinfo").exists():
        raise ValueError(f"{out} holds something else than a built site. Choose an empty or a new folder.")
    wanted = [] if quick else weeks or course.weeks()
    lessons = [path for week in wanted for path in course.lessons(week) if path.stem != build.GRADED]
    failed = executing.execute(lessons, kept, jobs)
    with tempfile.TemporaryDirectory() as folder:
        notes = source.write(Path(folder) / "source", kept)
        _sphinx(Path(folder) / "source", Path(folder) / "doctrees", Path(folder) / "html")
        _add_mathjax(Path(folder) / "html" / "_static" / "mathjax")
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(Path(folder) / "html", out)
    files = [path for path in out.rglob("*") if path.is_file()]
    n_pages = sum(path.suffix == ".html" and "_static" not in path.parts for path in files)
    return Site(out, n_pages, sum(path.stat().st_size for path in files), notes, failed)


def _sphinx(sources: Path, doctrees: Path, out: Path) -> None:
    """Run Sphinx; any warning of it is an error."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "auto", "-b", "html"]
    command += ["-c", str(Path(__file__).parent), "-d", str(doctrees), str(sources), str(out)]
    path = os.pathsep.join(filter(None, [str(course.ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"Sphinx could not build the site:\n{(done.stdout + done.stderr)[-5000:]}")


def _add_mathjax(folder: Path) -> None:
    """Put the part of MathJax that pages load into the site."""
    with importlib.resources.as_file(importlib.resources.files("sphinx-mathjax-offline")) as package:
        whole = package / "static" / "mathjax"
        for pattern in MATHJAX:
            for file in whole.glob(pattern):
                target = folder / file.relative_to(whole)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
