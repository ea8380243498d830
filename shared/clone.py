"""The course as a git clone: is it ready for an update, which notebooks changed; set them aside and put them back."""

from __future__ import annotations

import filecmp
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

from shared import answers, course

VERSION = "version.txt"  # in a kept copy: the commit that its notebooks began from
UNCHANGED = "Your notebooks are as they were."


class UpdateError(ValueError):
    """Why it was not done, what stands now, and what to do."""


def git(root: Path, *arguments: str) -> str:
    """What git prints; it never asks for a password, and answers in English."""
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=300,
        env=env,
    )
    return done.stdout.decode("utf-8", "surrogateescape")


def git_says(error: subprocess.SubprocessError) -> str:
    """The first lines of why git failed."""
    lines = (getattr(error, "stderr", None) or b"").decode("utf-8", "replace").strip().splitlines()
    return " ".join(line.strip() for line in lines[:4] if line.strip()).rstrip(".") or "no answer in time"


def succeeds(root: Path, *arguments: str) -> bool:
    try:
        git(root, *arguments)
    except subprocess.CalledProcessError:
        return False
    return True


def changed_notebooks(root: Path) -> dict[str, str]:
    """Notebooks that differ from the committed ones (M, or D for deleted); UpdateError where git is not ready."""
    by_hand = f"Or unpack the new version beside this one, and run there: sixweeks restore {root}"
    if shutil.which("git") is None:
        raise UpdateError(f"An update needs git, which is not installed here: https://git-scm.com. {by_hand}")
    try:
        top = git(root, "rev-parse", "--show-toplevel").rstrip("\n")
    except subprocess.CalledProcessError as error:
        raise UpdateError(f"{root} is not a clone that git can update ({git_says(error)}). {by_hand}") from None
    if Path(top).resolve() != root.resolve():
        raise UpdateError(f"{root} is not a clone of the course: it lies in another one, {top}. {by_hand}")
    if git(root, "ls-files", "--unmerged"):
        raise UpdateError(
            "git holds a conflict that is not settled; nothing was changed. Take it back, then update again: after a "
            "pull by `git merge --abort` or `git rebase --abort`; after a stash pop by `git reset --merge`. That keeps "
            "the stash: `git worktree add work/my-work stash@{0}` and `sixweeks restore work/my-work` put it in."
        )
    if not succeeds(root, "symbolic-ref", "--quiet", "HEAD"):
        raise UpdateError("No branch is checked out. `git switch main` takes you to the course's, then update again.")
    if not succeeds(root, "rev-parse", "@{upstream}"):
        raise UpdateError(
            "Your branch follows no published one. `git branch --set-upstream-to=origin/main` names it: do that, and "
            "update again."
        )
    told = git(root, "diff", "--name-status", "--no-renames", "-z", "HEAD").split("\0")[:-1]
    changed = dict(zip(told[1::2], told[::2], strict=True))
    if others := [path for path, status in changed.items() if not path.endswith(".ipynb") or status not in ("M", "D")]:
        names = " ".join(others)
        raise UpdateError(
            f"You changed files of the course other than notebooks: {names}. They and all else are as they were. "
            f"`git stash push -- {names}` sets them aside and, after the update, `git stash pop` brings them back. "
            "A new file that is only staged: `git restore --staged` it."
        )
    return changed


def stamp(path: Path) -> tuple[int, int]:
    """What changes when another program writes a file."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def set_aside(root: Path, paths: list[str], head: str) -> Path:
    """A copy of these notebooks in work/kept/, read back and compared; the whole folder appears at once."""
    folder = course.work_folder(root) / "kept"
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    temporary = folder / f".{name}.{secrets.token_hex(4)}"
    try:
        for path in paths:
            copy(root / path, temporary / path)
        answers.write_atomically(temporary / VERSION, f"{head}\n")
        names = [name, *(f"{name}_{number}" for number in range(2, 100))]
        return temporary.rename(next(folder / n for n in names if not (folder / n).exists()))
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UpdateError(f"Your notebooks cannot be set aside in {folder}: {error}. {UNCHANGED}") from None


def copy(source: Path, target: Path) -> None:
    """Copy a file all or nothing, and make sure that it can be read back."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        shutil.copy2(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if not filecmp.cmp(source, temporary, shallow=False):
            raise OSError(f"{target} does not read back as it was written")
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_back(root: Path, kept: Path, head: str, changed: dict[str, str]) -> None:
    """The version before, with the learner's notebooks as they were; the kept copy goes only when all is back."""
    try:
        differ = git(root, "diff", "--name-only", "--no-renames", "-z", "HEAD").split("\0")[:-1]
        if git(root, "rev-parse", "HEAD").strip() != head or set(differ) - changed.keys():
            git(root, "reset", "--quiet", "--hard", head)
        for path, status in changed.items():
            if status == "D":
                (root / path).unlink(missing_ok=True)
            elif not ((root / path).exists() and filecmp.cmp(kept / path, root / path, shallow=False)):
                copy(kept / path, root / path)
    except (OSError, subprocess.SubprocessError) as error:
        raise UpdateError(
            f"The update failed, and your notebooks could not be put back ({error}). All of them are safe in {kept}: "
            f"make room on the disk, then `git reset --hard {head[:12]}` and `sixweeks restore {kept}`."
        ) from None
    shutil.rmtree(kept, ignore_errors=True)
