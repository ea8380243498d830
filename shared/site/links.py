"""Links between files of the course, as they are between pages of the site."""

from __future__ import annotations

import os
import re
from pathlib import Path

from shared import build, course

LINK = re.compile(r"(?<!!)(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")
BADGE = re.compile(r"\[!\[([^\]]*)\]\(https?://[^)]*\)\]\(([^)\s]+)\)")
PICTURE = re.compile(
    r'<picture>\s*<source[^>]* srcset="([^"]+)">\s*<img alt="([^"]+)" src="([^"]+)"[^>]*>\s*</picture>'
)


def page_of(file: Path) -> str | None:
    """The page that a file of the course becomes, as a path in the site's source; None if it becomes none."""
    name = file.relative_to(course.ROOT).as_posix()
    if name == "README.md":
        return "index.md"
    if name == "docs/grading.md":
        return "grading.md"
    week, _, rest = name.partition("/")
    if week in course.weeks() and "/" not in rest:
        if rest == "README.md":
            return f"{week}/index.md"
        if rest.endswith((".ipynb", ".md")):
            return name
    return None


def repaired(text: str, folder: Path, page_folder: str | None = None) -> str:
    """Markdown of a file in `folder` with its links to other files led to their pages, or to the repository.

    `page_folder` is where the page stands in the site, if not where its file stands in the course.
    """
    start = page_folder if page_folder is not None else folder.relative_to(course.ROOT).as_posix()

    def led(match: re.Match) -> str:
        label, target = match.groups()
        path, mark, anchor = target.partition("#")
        file = Path(os.path.normpath(folder / path)) if path and ":" not in path else None
        if file is None or not file.exists() or not file.is_relative_to(course.ROOT):
            return match[0]
        page = page_of(file)
        if page:
            return f"{label}({os.path.relpath(page, start).replace(os.sep, '/')}{mark}{anchor})"
        kind = "tree" if file.is_dir() else "blob"
        return f"{label}({build.repository()}/{kind}/main/{file.relative_to(course.ROOT).as_posix()}{mark}{anchor})"

    text = BADGE.sub(r"[\1](\2)", text)  # its picture would come from elsewhere
    return PICTURE.sub(_in_both_themes, LINK.sub(led, text))


def _in_both_themes(match: re.Match) -> str:
    """GitHub's way to show one of two pictures, by the theme, in the way of the site's theme."""
    dark, words, light = match.groups()
    options = f":alt: {words}\n:width: 640px"
    files = {"light": light, "dark": dark}
    return "\n\n".join(f"```{{image}} {file}\n:class: only-{theme}\n{options}\n```" for theme, file in files.items())
