"""Which packages a lesson needs: its imports and those of the course's modules behind it, read without running them."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shared import course

# Where a distribution is not called like the module that it brings.
MODULES = {"faiss-cpu": "faiss", "scikit-learn": "sklearn"}


def dependencies(root: Path = course.ROOT) -> list[Requirement]:
    """What the course wants, as its pyproject.toml says."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in project["dependencies"]]


def installed() -> dict[str, str]:
    """The version of every distribution that this Python sees; of two with one name, the one that is imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(canonicalize_name(name), distribution.version)
    return found


def module_of(name: str) -> str:
    """The module that a distribution brings. Example: faiss-cpu -> faiss, rouge-score -> rouge_score"""
    return MODULES.get(name, name.replace("-", "_"))


def source_of(notebook: str | None, root: Path = course.ROOT) -> Path | None:
    """The lesson source of a notebook of the course, `week/name.ipynb`; None where it is not one of them."""
    week, _, name = (notebook or "").rpartition("/")
    folder = root / week / "lessons" if week else root / "shared"
    path = folder / f"{Path(name).stem}.py"
    return path if name and path.is_file() else None


def needed(notebook: str | None, root: Path = course.ROOT) -> list[Requirement]:
    """The dependencies that a lesson's notebook needs; all of them where the notebook is not one of the course's.

    One that no source of the course imports works behind another one, so every lesson gets it.
    """
    wanted, source = dependencies(root), source_of(notebook, root)
    if source is None:
        return wanted
    reached: set[str] = set()
    _follow(source, root, reached, set())
    anywhere = frozenset().union(*(_imported_in(root / folder) for folder in ("shared", *course.weeks(root))))
    return [r for r in wanted if module_of(r.name) in reached or module_of(r.name) not in anywhere]


def weeks_with(name: str, root: Path = course.ROOT) -> list[str]:
    """The weeks in which a distribution is imported somewhere."""
    return [week for week in course.weeks(root) if module_of(name) in _imported_in(root / week)]


def _follow(path: Path, root: Path, found: set[str], seen: set[Path]) -> None:
    """Collect what a file imports, following the course's own modules and the exercises that it takes."""
    if path in seen or not path.is_file():
        return
    seen.add(path)
    modules, exercises = _imports(path)
    known = course.exercises(root)
    for module in sorted(modules | {known[name].module for name in exercises if name in known}):
        first = module.partition(".")[0]
        if (root / first).is_dir():
            file = root.joinpath(*module.split("."))
            _follow(file.with_suffix(".py"), root, found, seen)
            _follow(file / "__init__.py", root, found, seen)
        else:
            found.add(first)
    if path.parent.name == "solutions":
        _follow(path.parent.parent / "checks" / path.name, root, found, seen)


@lru_cache(maxsize=1024)
def _imports(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Modules that a file imports anywhere in it, and the exercises that it takes by `mine` or `borrow`."""
    modules, exercises = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("mine", "borrow"):
            exercises.update(a.value for a in node.args if isinstance(a, ast.Constant))
    return frozenset(modules), frozenset(exercises)


@lru_cache(maxsize=32)
def _imported_in(folder: Path) -> frozenset[str]:
    """The modules that the sources below a folder import, by their first names."""
    lines = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    return frozenset(re.findall(r"^[ \t]*(?:import|from) (\w+)", lines, flags=re.MULTILINE))
